"""Queries of the pages beside those of the API: summaries, short history, and values that show changes on open pages.

A query that runs again and again is one statement for all open pages, and every list has its limit.
"""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from offbeat_server.db import sql_loader

_SQL = sql_loader.load("pages")
Rows = list[asyncpg.Record]
TROUBLES_EACH_MAX = 200  # incidents of one monitor in a strip or a calendar
COUNT_MAX = 10_000  # of open incidents; beyond: "more than"
WRITERS_SHOWN = 12
OUTAGES_SHOWN = 20


async def pulse(pool: asyncpg.Pool, ids: Sequence[int]) -> Rows:
    """Return a value that changes with everything that pages show of these monitors."""
    return await pool.fetch(_SQL["pulse"], list(ids))


async def trouble(
    pool: asyncpg.Pool, project_id: int | None, limit: int, tags: Sequence[str] = (), text: str = ""
) -> Rows:
    """Open incidents of monitors with these tags and this text in slug or name, the most urgent first."""
    return await pool.fetch(_SQL["trouble"], project_id, limit, list(tags) or None, text or None)


async def trouble_count(pool: asyncpg.Pool, project_id: int | None) -> int:
    """How many incidents are open; counted to `COUNT_MAX + 1`."""
    count: int = await pool.fetchval(_SQL["trouble_count"], project_id, COUNT_MAX + 1)
    return count


async def trouble_matching(pool: asyncpg.Pool, project_id: int | None, tags: Sequence[str], text: str) -> int:
    """How many of them `trouble` finds without a limit."""
    count: int = await pool.fetchval(
        _SQL["trouble_matching"], project_id, COUNT_MAX + 1, list(tags) or None, text or None
    )
    return count


async def counts(pool: asyncpg.Pool, project_id: int | None) -> dict[str, int]:
    """Count the monitors by the status that the scheduler wrote."""
    return {row["status"]: row["monitors"] for row in await pool.fetch(_SQL["counts"], project_id)}


async def tags(pool: asyncpg.Pool, project_id: int | None, limit: int) -> list[str]:
    """The tags in use, the most used first."""
    return [row["tag"] for row in await pool.fetch(_SQL["tags"], project_id, limit)]


async def late_candidates(pool: asyncpg.Pool, project_id: int | None, now_micros: int) -> list[int]:
    """The monitors that may be past their due time; all that are late are among them."""
    return [row["id"] for row in await pool.fetch(_SQL["late_candidates"], project_id, now_micros)]


async def troubles_of(pool: asyncpg.Pool, ids: Sequence[int], since: datetime) -> Rows:
    """The incidents of these monitors that were open at or after `since`."""
    return await pool.fetch(_SQL["troubles_of"], list(ids), since, TROUBLES_EACH_MAX)


async def runs_by_day(pool: asyncpg.Pool, monitor_id: int, starts: Sequence[datetime]) -> Rows:
    """Finished runs by day (1: the first of `starts`) and verdict."""
    return await pool.fetch(_SQL["runs_by_day"], monitor_id, starts[0], list(starts))


async def days_with_pings(pool: asyncpg.Pool, monitor_id: int, bounds: Sequence[datetime]) -> list[bool]:
    """Whether there was a ping between each two neighbours of `bounds`."""
    rows = await pool.fetch(_SQL["days_with_pings"], monitor_id, list(bounds[:-1]), list(bounds[1:]))
    return [row["has_pings"] for row in rows]


async def durations(pool: asyncpg.Pool, monitor_id: int, limit: int) -> Rows:
    """The latest finished runs, the newest first."""
    return await pool.fetch(_SQL["durations"], monitor_id, limit)


async def heartbeats(pool: asyncpg.Pool, monitor_id: int, since: datetime, limit: int) -> Rows:
    """The latest heartbeats since then, the newest first."""
    return await pool.fetch(_SQL["heartbeats"], monitor_id, limit, since)


async def fleet(pool: asyncpg.Pool, monitor_id: int) -> asyncpg.Record | None:
    """Count the members, the silent ones, and the most that were ever alive, as the scheduler last wrote them."""
    return await pool.fetchrow(_SQL["fleet"], monitor_id)


async def run_pulse(pool: asyncpg.Pool, keys: Sequence[tuple[int, int]]) -> Rows:
    """These runs (monitor, number), with the definitions of their monitors."""
    return await pool.fetch(_SQL["run_pulse"], [key[0] for key in keys], [key[1] for key in keys])


async def incident_pulse(pool: asyncpg.Pool, keys: Sequence[tuple[int, int]]) -> Rows:
    """Return a value that changes with everything that pages show of these incidents (monitor, number)."""
    return await pool.fetch(_SQL["incident_pulse"], [key[0] for key in keys], [key[1] for key in keys])


async def leases(pool: asyncpg.Pool) -> Rows:
    """The leases of the scheduler and of the dispatcher."""
    return await pool.fetch(_SQL["leases"])


async def writers(pool: asyncpg.Pool) -> Rows:
    """The writers that live, and the last that did."""
    return await pool.fetch(_SQL["writers"], WRITERS_SHOWN)


async def checkpoint(pool: asyncpg.Pool) -> asyncpg.Record | None:
    """The last one, or None."""
    return await pool.fetchrow(_SQL["checkpoint"])


async def outages(pool: asyncpg.Pool) -> Rows:
    """The latest outages."""
    return await pool.fetch(_SQL["outages"], OUTAGES_SHOWN)


async def outbox(pool: asyncpg.Pool) -> Rows:
    """Alerts by state."""
    return await pool.fetch(_SQL["outbox"])


async def partitions(pool: asyncpg.Pool) -> Rows:
    """The days of the log."""
    return await pool.fetch(_SQL["partitions"])


async def database(pool: asyncpg.Pool) -> asyncpg.Record:
    """Version and size."""
    row = await pool.fetchrow(_SQL["database"])
    assert row is not None
    return row
