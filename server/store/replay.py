"""Reads one monitor at a time: its stored state, from which the log goes on."""

import orjson

from server.engine.ping import Position
from server.engine.state import Monitor
from server.store.pool import Connection, database_trouble
from server.store.queries import load
from server.store.states import enrol_members, read_members

_SQL = load("replay")


async def load_stored(connection: Connection, m: Monitor) -> bool:
    """Take the stored state into `m`, a new monitor without any; False: there is none. Raises DatabaseAway."""
    with database_trouble():
        row = await connection.fetchrow(_SQL["stored_state"], m.id)
    if row is None:
        return False
    position = Position(row["at"], row["writer"], row["seq"])
    state = orjson.loads(row["state"])
    m.load(row["status"], row["since"], position, state)
    if m.fleet is not None:
        with database_trouble():
            members = await connection.fetch(_SQL["stored_members"], m.id)
        enrol_members(m.fleet, state["fleet"], read_members(members))
    return True
