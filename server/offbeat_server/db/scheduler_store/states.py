"""Reads stored states: of all monitors at the start of a scheduler, fast enough for a million, or of one monitor."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import asyncpg
import orjson

from offbeat_server.common.instants import to_micros
from offbeat_server.db.pool import Connection, database_trouble, open_cursor
from offbeat_server.db.scheduler_store.scheduler_rows import read_defined
from offbeat_server.db.sql_loader import load
from offbeat_server.engine.model.definition import load_definition
from offbeat_server.engine.model.fleet import Fleet, MemberRow
from offbeat_server.engine.model.monitor import Monitor, one_of_equal
from offbeat_server.engine.model.ping import Position

_SQL = load("scheduler")
_SQL_OF_ONE = load("replay")
LOAD_ROWS = 500  # of the cursor; made into objects in one go, some 3 ms
MEMBER_ROWS = 5_000
_new_position = tuple.__new__  # half the time of Position(...), which is a Python function


async def load_monitors(
    connection: Connection, applied_rev: int, on_unreadable: Callable[[int, Exception], None]
) -> AsyncIterator[list[tuple[Monitor, bool]]]:
    """All monitors with their states, in slices; whether each has a state. Raises DatabaseDownError.

    `on_unreadable` is called for a row that cannot be read; the rows after it are read.
    """
    with database_trouble():
        async with connection.transaction(readonly=True):
            members = await _members(connection)
            cursor = await open_cursor(connection, _SQL["load_monitors"], applied_rev)
            rows = await cursor.fetch(LOAD_ROWS)
            while rows:
                # Postgres works on the next slice while this one is made into objects.
                rows, loaded = await asyncio.gather(
                    cursor.fetch(LOAD_ROWS), _monitors(rows, applied_rev, members, on_unreadable)
                )
                yield loaded


async def _monitors(
    rows: Sequence[asyncpg.Record],
    applied_rev: int,
    members: Mapping[int, Sequence[MemberRow]],
    on_unreadable: Callable[[int, Exception], None],
) -> list[tuple[Monitor, bool]]:
    await asyncio.sleep(0)  # what was asked for is on its way then
    loaded = []
    for row in rows:
        try:
            each = _monitor(row, applied_rev, members)
        except Exception as error:
            on_unreadable(row["id"], error)
            continue
        if each is not None:
            loaded.append(each)
    return loaded


async def _members(connection: Connection) -> dict[int, list[MemberRow]]:
    members: dict[int, list[MemberRow]] = {}
    cursor = await open_cursor(connection, _SQL["load_members"])
    while rows := await cursor.fetch(MEMBER_ROWS):
        for row, member in zip(rows, read_members(rows), strict=True):
            members.setdefault(row["monitor_id"], []).append(member)
    return members


async def load_stored(connection: Connection, m: Monitor) -> bool:
    """Read the stored state into `m`, a new monitor without one. False: none is stored. Raises DatabaseDownError."""
    with database_trouble():
        row = await connection.fetchrow(_SQL_OF_ONE["stored_state"], m.id)
    if row is None:
        return False
    position = Position(row["at"], row["writer"], row["seq"])
    state = orjson.loads(row["state"])
    m.load(row["status"], row["since"], position, state)
    if m.fleet is not None:
        with database_trouble():
            members = await connection.fetch(_SQL_OF_ONE["stored_members"], m.id)
        enrol_members(m.fleet, state["fleet"], read_members(members))
    return True


def read_members(rows: Sequence[asyncpg.Record]) -> list[MemberRow]:
    """Rows of `members` as the engine takes them."""
    return [MemberRow(row["name"], row["at"], row["silent_since"]) for row in rows]


def enrol_members(fleet: Fleet, state: Mapping[str, Any], rows: Sequence[MemberRow]) -> None:
    """Fill a fleet from the rows of its members.

    A program of schema version 1 keeps them within the state, and may have been the last to write it.
    """
    if "m" not in state:
        for row in rows:
            fleet.add_member(row)
        return
    silent = dict(state.get("s", ()))
    for name, at in state["m"]:
        fleet.add_member(MemberRow(name, at, silent.get(name)))
    fleet.silent = silent  # in its order
    fleet.changed = dict.fromkeys([*fleet.members, *(row.name for row in rows)])  # all rows are to be written


def _monitor(
    row: asyncpg.Record, applied_rev: int, members: Mapping[int, Sequence[MemberRow]]
) -> tuple[Monitor, bool] | None:
    # Unpacked as it is, and nothing asked twice: a second of the start for each microsecond of this.
    id, project_id, slug, name, tags, paused, snoozed_until, definition, _, *stored, before, changed = row
    until = to_micros(snoozed_until) if snoozed_until is not None else None
    if changed:
        if before is None:
            return None  # made by a change that is not applied yet
        slug, name, tags, paused, until, definition, _, former_project, _ = read_defined(before)
        project_id = former_project or project_id
    m = Monitor(id, one_of_equal(project_id), slug, name, load_definition(definition), 0)
    m.tags = one_of_equal(tuple(tags)) if tags else ()
    at, writer, seq, status, since, text = stored
    if at is not None:
        state = orjson.loads(text)
        if state.get("rev", 0) <= applied_rev:
            state.pop("rev", None)  # no change that will be met is older; so it is nothing unusual
        m.load(status, since, _new_position(Position, (at, one_of_equal(writer), seq)), state)
        if m.rare.fleet is not None:
            enrol_members(m.rare.fleet, state["fleet"], members.get(id, ()))
    if paused or until is not None:
        m.paused, m.snoozed_until = paused, until
    return m, at is not None
