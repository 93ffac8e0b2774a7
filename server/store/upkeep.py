"""Deletes what is older than `--keep-days`, a slice at a time."""

from datetime import datetime

from server.store.pool import Connection, database_trouble
from server.store.queries import load

_SQL = load("upkeep")
ROWS_MAX = 5_000  # in one statement
_STATEMENTS = {
    "runs": _SQL["old_runs"],
    "incidents": _SQL["old_incidents"],
    "deaf": _SQL["old_deaf"],
    "refusals": _SQL["old_refusals"],
    "writers": _SQL["old_writers"],
}
SUBJECTS = tuple(_STATEMENTS)


async def delete_old(connection: Connection, subject: str, before: datetime) -> int:
    """One slice of one of SUBJECTS; how many rows went. Raises DatabaseAway."""
    with database_trouble():
        done = await connection.execute(_STATEMENTS[subject], before, ROWS_MAX)
    return int(done.split()[-1])


async def has_leapt(connection: Connection) -> bool:
    """Whether the database's clock has lately jumped by more than a day. Raises DatabaseAway."""
    with database_trouble():
        leapt: bool = await connection.fetchval(_SQL["has_leapt"])
    return leapt
