"""Deletes what is older than `--keep-days`, a slice at a time."""

from datetime import datetime

from server.store.pool import Connection, database_trouble
from server.store.queries import load

_SQL = load("upkeep")
ROWS_MAX = 5_000  # in one statement


async def delete_old(connection: Connection, subject: str, before: datetime) -> int:
    """One slice of `runs`, `incidents`, `deaf`, `refusals` or `writers`; how many rows went. Raises DatabaseAway."""
    with database_trouble():
        done = await connection.execute(_SQL[f"old_{subject}"], before, ROWS_MAX)
    return int(done.split()[-1])
