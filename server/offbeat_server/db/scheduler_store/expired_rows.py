"""Deletes what is older than `--keep-days`, and what deleted monitors have left behind, a slice at a time."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise

from offbeat_server.db.pool import Connection, database_trouble
from offbeat_server.db.sql_loader import load

_SQL = load("retention")
ROWS_MAX = 5_000  # in one statement
MONITORS_MAX = 1_000  # deleted ones in one round
_STATEMENTS = {
    "runs": _SQL["old_runs"],
    "incidents": _SQL["old_incidents"],
    "outages": _SQL["old_outages"],
    "refusals": _SQL["old_refusals"],
    "writers": _SQL["old_writers"],
}
SUBJECTS = tuple(_STATEMENTS)


async def delete_old(connection: Connection, subject: str, before: datetime) -> int:
    """One slice of one of SUBJECTS; how many rows went. Raises DatabaseDownError."""
    with database_trouble():
        done = await connection.execute(_STATEMENTS[subject], before, ROWS_MAX)
    return int(done.split()[-1])


async def seen_through(connection: Connection, after_rev: int, before: datetime) -> int:
    """The change up to which all changes are older than `before`; those up to `after_rev` are.

    Raises DatabaseDownError.
    """
    with database_trouble():
        rev: int = await connection.fetchval(_SQL["seen_through"], after_rev, before)
    return rev


async def delete_remains(
    connection: Connection, before: datetime, since: datetime, after_rev: int = 0
) -> AsyncIterator[int]:
    """Delete the pings, finished runs and resolved incidents of monitors that were deleted since `since`.

    Only rows older than `before` are deleted: the scheduler must have applied them. Changes up to `after_rev` are
    skipped. Yields the number of rows of each slice; the caller limits the slices and pauses between them. Raises
    DatabaseDownError.
    """
    more = True
    while more:
        with database_trouble():
            found = await connection.fetch(_SQL["deleted_monitors"], before, since, MONITORS_MAX, after_rev)
        more = False
        if monitors := [row["monitor_id"] for row in found]:
            async for count in _remains_of(connection, monitors, before, since):
                more = len(found) == MONITORS_MAX  # and these are done: the next statement finds others
                yield count


async def _remains_of(
    connection: Connection, monitors: list[int], before: datetime, since: datetime
) -> AsyncIterator[int]:
    first = datetime.combine(since.date(), time(), UTC)
    bounds = [first + timedelta(days=day) for day in range((before - since).days + 2)]
    for start, end in pairwise([*bounds, max(before, bounds[-1])]):
        async for count in _slices(connection, "pings_of", monitors, min(end, before), start):
            yield count
    for name in ("runs_of", "incidents_of"):
        async for count in _slices(connection, name, monitors, before):
            yield count


async def _slices(
    connection: Connection, name: str, monitors: list[int], before: datetime, *more: datetime
) -> AsyncIterator[int]:
    """Run a statement until it deletes less than a slice."""
    count = ROWS_MAX
    while count == ROWS_MAX:
        with database_trouble():
            count = int((await connection.execute(_SQL[name], monitors, before, ROWS_MAX, *more)).split()[-1])
        if count:
            yield count


async def has_leapt(connection: Connection) -> bool:
    """Whether the database's clock has lately jumped by more than a day. Raises DatabaseDownError."""
    with database_trouble():
        leapt: bool = await connection.fetchval(_SQL["has_leapt"])
    return leapt
