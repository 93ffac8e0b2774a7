"""The steps of a start with Postgres: wait until it is there, bring the schema up to date, read its clock."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from offbeat_server.common.clock import ClockJump, LogClock
from offbeat_server.common.errors import DatabaseDownError, DatabaseRefusedError
from offbeat_server.common.instants import to_datetime
from offbeat_server.db.partitions import make_partitions
from offbeat_server.db.pool import Pool, connect, database_trouble
from offbeat_server.db.repositories.lease_row import end_stuck_sessions
from offbeat_server.db.scheduler_store.scheduler_rows import now
from offbeat_server.db.schema import apply_schema
from offbeat_server.runtime.systemd import Systemd
from offbeat_server.scheduler.retention import DAYS_AHEAD

RETRY_S = 2.0

T = TypeVar("T")

log = structlog.get_logger("database_start")


async def wait_for_postgres(step: Callable[[], Awaitable[T]], systemd: Systemd, retry_refused: bool) -> T:
    """Take a step of the start that needs Postgres, again and again until Postgres answers. Return its result.

    Raises what says that the settings cannot work. `retry_refused`: wait also if Postgres refuses the connection, as a
    worker does: the settings worked for its main process.
    """
    while True:
        try:
            return await step()
        except DatabaseDownError as error:
            if isinstance(error, DatabaseRefusedError) and not retry_refused:
                raise
            log.warning("database_start.waiting_for_postgres", error=str(error))
            systemd.extend(RETRY_S * 5, "waiting for Postgres")
            await asyncio.sleep(RETRY_S)


async def prepare_database(url: str, *, pgbouncer: bool) -> None:
    """Bring the schema up to date and make the partitions of the next days. Raises DatabaseDownError, SchemaError."""
    connection = await connect(url, pgbouncer=pgbouncer, application_name="offbeat start")
    try:
        await end_stuck_sessions(connection)  # another start, which would hold the schema's lock
        await apply_schema(connection)
        await make_partitions(connection, to_datetime(await now(connection)).date(), DAYS_AHEAD)
    finally:
        connection.terminate()


async def sample_clock(clock: LogClock, pool: Pool) -> None:
    """Compare `clock` with the clock of Postgres. Raises DatabaseDownError."""
    with database_trouble():
        async with pool.acquire() as connection:
            before = clock.local()
            database, after = await now(connection), clock.local()
    try:
        clock.sample(before, database, after)
    except ClockJump:
        clock.restart(before, database, after)
