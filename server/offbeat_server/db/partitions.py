"""The log's daily partitions: made ahead, so that no ping ever waits for DDL, and retired whole, without a DELETE.

Days are UTC. There is no default partition: one stray row in it would block making that day's. Every step waits only
shortly for locks and is tried again, and every step may be broken off anywhere: the next call continues there.
"""

import asyncio
from datetime import date, timedelta

import asyncpg
import structlog

from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.db.pool import Connection, database_trouble, describe
from offbeat_server.db.sql_loader import load

LOCK_WAIT_S = 2.0
ATTEMPTS = 5
RETRY_PAUSE_S = 0.2
# A session uses the partition, or another process retires it at this moment.
_IN_THE_WAY = (
    TimeoutError,
    asyncpg.DeadlockDetectedError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.UndefinedTableError,
    asyncpg.WrongObjectTypeError,
)
_SQL = load("partitions")

log = structlog.get_logger("partitions")


async def make_partitions(connection: Connection, today: date, days_ahead: int) -> list[str]:
    """Makes the partitions of `today` and of `days_ahead` days after it, where they are missing; their names.

    Safe in several processes at once. Raises DatabaseDownError, also where a lock could not be had in about ten
    seconds.
    """
    days = [today + timedelta(days=ahead) for ahead in range(days_ahead + 1)]
    for attempt in range(ATTEMPTS):
        try:
            with database_trouble():
                return await _make_missing(connection, days)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(RETRY_PAUSE_S * (attempt + 1))
    raise DatabaseDownError("the log is locked, so its next partitions could not be made")


async def _make_missing(connection: Connection, days: list[date]) -> list[str]:
    if await _missing(connection, days) == []:
        return []
    async with connection.transaction():
        await connection.execute(_SQL["bound_lock_wait"], str(int(LOCK_WAIT_S * 1000)))
        await connection.execute(_SQL["lock_partitions"])
        missing = await _missing(connection, days)
        for day in missing:
            names = {"partition": name_of(day), "start": f"{day} 00:00Z", "end": f"{day + timedelta(days=1)} 00:00Z"}
            await connection.execute(_SQL["create_partition"].format(**names))
            await connection.execute(_SQL["attach_partition"].format(**names))
    return [name_of(day) for day in missing]


async def _missing(connection: Connection, days: list[date]) -> list[date]:
    rows = await connection.fetch(_SQL["list_partitions"])
    attached = {row["name"] for row in rows if row["attached"]}
    return [day for day in days if name_of(day) not in attached]


async def retire_partitions(connection: Connection, before: date) -> list[str]:
    """Detaches and drops the partitions of days before `before`; the names of those that are gone.

    One that is in use, or in the hands of another process, is left to the next call. Not inside a transaction. Raises
    DatabaseDownError.
    """
    gone: list[str] = []
    with database_trouble():
        rows = await connection.fetch(_SQL["list_partitions"])
        # A detach that was broken off comes first: while there is one, Postgres refuses every other.
        for row in sorted(rows, key=lambda row: not row["pending"]):
            if row["name"] >= name_of(before) and not row["pending"]:
                continue
            try:
                await _retire(connection, row)
            except _IN_THE_WAY as error:
                log.info("partitions.drop_postponed", partition=row["name"], reason=describe(error))
                break
            gone.append(row["name"])
    return gone


async def _retire(connection: Connection, row: asyncpg.Record) -> None:
    steps = ["drop_partition"]
    if row["attached"]:
        steps.insert(0, "finalize_detach" if row["pending"] else "detach_partition")
    for step in steps:
        # Bounded from here, by cancelling: DETACH CONCURRENTLY may not run in a transaction block, so `lock_timeout`
        # would have to be set for the session.
        await connection.execute(_SQL[step].format(partition=row["name"]), timeout=LOCK_WAIT_S)


def name_of(day: date) -> str:
    """The name of a day's partition; names sort as their days do."""
    return f"pings_{day:%Y%m%d}"
