"""The rows of a deleted monitor are deleted within the hour, in slices; those of others stay."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from offbeat_server.config import Settings
from offbeat_server.db.scheduler_store import expired_rows
from offbeat_server.engine.engine import Engine
from offbeat_server.scheduler.retention import Retention
from tests.support.servers.api_server import Api, serving


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with serving(database_url) as api:
        yield api


async def remains(api: Api) -> dict[str, list[int]]:
    """The monitors of which there is a row."""
    return {
        table: [row[0] for row in await api.pool.fetch(f"select monitor_id from {table} order by monitor_id")]
        for table in ("pings", "runs", "incidents")
    }


async def swept(api: Api, hours: float = 1) -> list[int]:
    """The slices of one round whose bound lies `hours` ahead."""
    now = await api.pool.fetchval("select now()")
    async with api.pool.acquire() as connection:
        deleted = expired_rows.delete_remains(connection, now + timedelta(hours=hours), now - timedelta(days=30))
        return [count async for count in deleted]


async def test_pings_runs_and_incidents_go_with_their_monitor(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expired_rows, "ROWS_MAX", 2)
    for slug in ("gone", "stays"):
        await api("PUT", f"/monitors/{slug}", {"every": "1h"})
        for _ in range(5):
            await api.ping(slug, message="bob@example.com")
        await api.pool.execute(
            "insert into runs (monitor_id, project_id, number, started_at, finished_at, verdict, last_ping_at)"
            " select id, project_id, 1, now(), now(), 'failed', now() from monitors where slug = $1",
            slug,
        )
        await api.pool.execute(
            "insert into incidents"
            " (monitor_id, project_id, number, opened_at, resolved_at, decided_at, cause, reason, causes)"
            " select id, project_id, 1, now(), now(), now(), 'failed', 'bob', '[]' from monitors where slug = $1",
            slug,
        )
    assert await swept(api) == []
    gone, stays = [row["id"] for row in await api.pool.fetch("select id from monitors order by slug")]
    assert (await api("DELETE", "/monitors/gone")).status == 204
    assert await swept(api, hours=-1) == [], "not before the scheduler has applied them, and an hour has passed"
    assert (await remains(api))["pings"] == [gone] * 5 + [stays] * 5

    assert await swept(api) == [2, 2, 1, 1, 1]
    assert await remains(api) == {"pings": [stays] * 5, "runs": [stays], "incidents": [stays]}
    assert await swept(api) == []

    # A ping that was under way, and the same slug made again: two monitors.
    await api.pool.execute(
        "insert into pings (at, seq, writer, monitor_id, project_id, signal) values (now(), 99, 1, $1, 1, 'success')",
        gone,
    )
    created = await api("PUT", "/monitors/gone", {"every": "1h"})
    assert created.body["last_ping_at"] is None
    assert (await api("GET", "/monitors/gone/pings")).body["items"] == []
    await api.ping("gone")
    assert await swept(api) == [1]
    assert gone not in (await remains(api))["pings"]
    assert len((await api("GET", "/monitors/gone/pings")).body["items"]) == 1


async def test_a_round_costs_what_was_deleted_lately(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expired_rows, "MONITORS_MAX", 3)
    scheduler = Retention("", Settings(), lambda: 0, Engine)

    async def deleted(count: int, days: int) -> None:
        """Monitors that were deleted some time ago, each with a run."""
        await api.pool.execute(
            "with gone as (insert into changes (at, project_id, monitor_id, actor, kind, subject)"
            " select now() - $2::int * interval '1 day', 1, 1000 + 100 * $2::int + n, 'test', 'monitor', 'gone'"
            " from generate_series(1, $1::int) n returning monitor_id)"
            " insert into runs (monitor_id, project_id, number, started_at, finished_at, verdict, last_ping_at)"
            " select monitor_id, 1, 1, t.at, t.at, 'failed', t.at"
            " from gone, (select now() - 30 * interval '1 day' as at) t",
            count,
            days,
        )

    async def probes() -> int:
        """How often one round looks for the incidents of a monitor."""
        count = "select idx_scan from pg_stat_xact_user_tables where relname = 'incidents'"
        async with api.pool.acquire() as connection, connection.transaction():
            now = await connection.fetchval("select now()")
            before = await connection.fetchval(count) or 0  # of earlier transactions, not reported yet
            await scheduler._delete_remains(connection, now - timedelta(hours=1), now - timedelta(days=30))
            return (await connection.fetchval(count) or 0) - before

    await deleted(8, days=20)
    await probes()
    assert (await remains(api))["runs"] == [], "all of them, however many one statement finds"
    assert await probes() == 0
    await deleted(2, days=10)
    assert 0 < await probes() < 8
    assert (await remains(api))["runs"] == []

    # Deleted two hours ago: checked until none of its pings can still be under way.
    await api.pool.execute(
        "insert into changes (at, project_id, monitor_id, actor, kind, subject)"
        " values (now() - interval '90 minutes', 1, 7, 'test', 'monitor', 'gone')"
    )
    for _ in range(2):
        await api.pool.execute(
            "insert into runs (monitor_id, project_id, number, finished_at, verdict, last_ping_at)"
            " values (7, 1, 1, now() - interval '89 minutes', 'failed', now())"
        )
        await probes()
        assert (await remains(api))["runs"] == []


async def test_a_round_that_is_not_finished_is_taken_up_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expired_rows, "ROWS_MAX", 2)
    monkeypatch.setattr("offbeat_server.scheduler.retention.REMAINS_SLICES_MAX", 1)
    scheduler = Retention("", Settings(), lambda: 0, Engine)
    await api.pool.execute(
        "insert into changes (at, project_id, monitor_id, actor, kind, subject)"
        " values (now() - interval '1 day', 1, 7, 'test', 'monitor', 'gone')"
    )
    await api.pool.execute(
        "insert into runs (monitor_id, project_id, number, finished_at, verdict, last_ping_at)"
        " select 7, 1, n, now() - interval '2 days', 'failed', now() from generate_series(1, 4) n"
    )
    left = []
    for _ in range(3):
        async with api.pool.acquire() as connection:
            now = await connection.fetchval("select now()")
            await scheduler._delete_remains(connection, now - timedelta(hours=1), now - timedelta(days=30))
        left.append(len((await remains(api))["runs"]))
    assert left == [2, 0, 0]
