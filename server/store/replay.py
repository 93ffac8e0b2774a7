"""Reads one monitor at a time: its stored state, and the log from there on."""

import orjson

from server.clock import to_datetime
from server.engine.ping import Entry, Micros, Position
from server.engine.state import Monitor
from server.store.keeping import instant, read_entries
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
    position = Position(instant(row["at"]), row["writer"], row["seq"])
    state = orjson.loads(row["state"])
    m.load(row["status"], instant(row["since"]), position, state)
    if m.fleet is not None:
        with database_trouble():
            members = await connection.fetch(_SQL["stored_members"], m.id)
        enrol_members(m.fleet, state["fleet"], read_members(members))
    return True


async def heard_after(
    connection: Connection, monitor_id: int, position: Position, through: Micros, entries_max: int
) -> list[Entry]:
    """Its next entries in order, after `position` and up to `through`. Raises DatabaseAway."""
    at, writer, seq = position
    with database_trouble():
        rows = await connection.fetch(
            _SQL["heard_after"], monitor_id, to_datetime(at), writer, seq, to_datetime(through), entries_max
        )
    return read_entries(rows)
