"""Reads one monitor at a time: its stored state, from which the log goes on."""

import orjson

from offbeat_server.db.pool import Connection, database_trouble
from offbeat_server.db.scheduler_store.states import enrol_members, read_members
from offbeat_server.db.sql_loader import load
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.engine.model.ping import Position

_SQL = load("replay")


async def load_stored(connection: Connection, m: Monitor) -> bool:
    """Take the stored state into `m`, a new monitor without any; False: there is none. Raises DatabaseDownError."""
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
