"""The history: pings, runs and incidents, a page at a time, the newest first.

A page begins after the last row of the one before (its sort key, not a count), so every page costs the same, and no row
is shown twice while new ones arrive.
"""

from datetime import UTC, datetime
from typing import NamedTuple

import asyncpg

from offbeat_server.common.instants import Micros
from offbeat_server.db import sql_loader
from offbeat_server.db.pool import Connection
from offbeat_server.engine.model.alert_payload import AlertPayload
from offbeat_server.engine.model.enums import FORMER_UNVERIFIED, Verdict

_SQL = sql_loader.load("history")
NUMBER_MAX = 2**31 - 1
ID_MAX = 2**63 - 1
AT_MAX = datetime(9999, 1, 1, tzinfo=UTC)  # later than every row


class PingPlace(NamedTuple):
    """The ping before which a page of pings begins. By default the page begins at the newest ping."""

    at: datetime = AT_MAX
    writer: int = NUMBER_MAX
    seq: int = ID_MAX


async def pings(
    pool: asyncpg.Pool,
    monitor_id: int,
    before: PingPlace = PingPlace(),
    *,
    since: datetime | None = None,
    signal: str | None = None,
    run: str | None = None,
    limit: int = 100,
) -> list[asyncpg.Record]:
    """Pings of one monitor."""
    return await pool.fetch(_SQL["pings"], monitor_id, *before, since, signal, run, limit)


async def runs(
    pool: asyncpg.Pool,
    monitor_id: int,
    before: int = NUMBER_MAX,
    *,
    is_open: bool | None = None,
    verdict: str | None = None,
    run: str | None = None,
    business_date: str | None = None,
    limit: int = 100,
) -> list[asyncpg.Record]:
    """Runs of one monitor. Those that are `unverified` may have the former word in their rows."""
    former = (Verdict.UNVERIFIED, FORMER_UNVERIFIED)
    verdicts = None if verdict is None else former if verdict in former else (verdict,)
    return await pool.fetch(_SQL["runs"], monitor_id, before, is_open, verdicts, run, limit, business_date)


async def find_run(connection: asyncpg.Pool | Connection, monitor_id: int, number: int) -> asyncpg.Record | None:
    """One run of a monitor that exists."""
    return await connection.fetchrow(_SQL["run"], monitor_id, number)


class RunStanding(NamedTuple):
    """Whether a change that closes a run waits for the scheduler; and when the run ended.

    `remembered_end`: None if it is open, or if the scheduler no longer remembers it.
    """

    is_closing: bool
    remembered_end: Micros | None


async def run_standing(connection: asyncpg.Pool | Connection, monitor_id: int, number: int) -> RunStanding:
    """The facts on which closing a run depends, as the scheduler last wrote them."""
    row = await connection.fetchrow(_SQL["run_standing"], monitor_id, number)
    assert row is not None
    return RunStanding(row["is_closing"], row["ended"])


async def incidents_of_monitor(
    pool: asyncpg.Pool, monitor_id: int, before: int = NUMBER_MAX, *, is_open: bool | None = None, limit: int = 100
) -> list[asyncpg.Record]:
    """Incidents of one monitor."""
    return await pool.fetch(_SQL["incidents_of_monitor"], monitor_id, before, is_open, limit)


async def incidents(
    pool: asyncpg.Pool,
    before: tuple[datetime, int, int],
    *,
    project_id: int | None = None,
    is_open: bool | None = None,
    limit: int = 100,
) -> list[asyncpg.Record]:
    """Incidents of all monitors; `before` is opening, monitor and number of the last row of the page before."""
    return await pool.fetch(_SQL["incidents"], *before, project_id, is_open, limit)


async def find_incident(pool: asyncpg.Pool, monitor_id: int, number: int) -> asyncpg.Record | None:
    """One incident of a monitor that exists."""
    return await pool.fetchrow(_SQL["incident"], monitor_id, number)


async def members(
    pool: asyncpg.Pool, monitor_id: int, after: str, *, silent: bool | None = None, limit: int = 100
) -> list[asyncpg.Record]:
    """Members of a fleet by name, later than `after`."""
    return await pool.fetch(_SQL["members"], monitor_id, after, silent, limit)


async def lengths(pool: asyncpg.Pool, monitor_id: int, limit: int) -> list[asyncpg.Record]:
    """Duration in seconds and stages of the latest successful runs, the newest first."""
    return await pool.fetch(_SQL["lengths"], monitor_id, limit)


async def acknowledge(connection: Connection, monitor_id: int, number: int, by: str) -> None:
    """Record that a person acknowledges an incident; the first one counts."""
    await connection.execute(_SQL["acknowledge"], monitor_id, number, by)


async def find_alert(pool: asyncpg.Pool, alert_id: int) -> asyncpg.Record | None:
    """One alert as it is now."""
    return await pool.fetchrow(_SQL["alert"], alert_id)


async def add_test_alert(pool: asyncpg.Pool, project_id: int, channel_id: int, by: str) -> int:
    """Put a test message for a channel into the outbox, and return its id."""
    facts: AlertPayload[str] = {"by": by}
    added: int = await pool.fetchval(_SQL["add_test_alert"], project_id, channel_id, facts)
    return added
