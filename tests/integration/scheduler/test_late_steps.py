"""Pings of stages and tasks that come after the end of their run, with a real writer, scheduler and Postgres."""

from typing import Any

import pytest

from offbeat_server.db.read_models import pages
from offbeat_server.db.repositories.client_runs import ClientRun, read_new_pings
from offbeat_server.engine.model import runs
from tests.support.harness import eventually
from tests.support.servers.scheduler_node import Node, count_of, running


async def is_run(node: Node, number: int, **expected: Any) -> Any:
    """Wait until the row of the run has these values."""

    async def fits() -> Any:
        row = await node.pool.fetchrow("select * from runs where number = $1", number)
        return row if row is not None and {name: row[name] for name in expected} == expected else None

    return await eventually(fits)


async def test_a_late_failure_and_its_retry_are_in_the_row_on_the_page_and_in_alerts(database_url: str) -> None:
    async with running(database_url) as node:
        job = await node.monitor(tasks={"expected": 2})
        await node.ping(job, "start", run="r")
        for task in ("1", "2"):
            await node.ping(job, "success", run="r", task=task)
        ended = await is_run(node, 1, verdict="succeeded")
        await node.ping(job, "fail", run="r", task="9", message="disk full")
        failed = await is_run(node, 1, verdict="failed")
        assert failed["finished_at"] == ended["finished_at"] < failed["last_ping_at"]
        assert failed["detail"]["tasks"]["failed_names"] == ["9"] and failed["detail"]["tasks"]["done"] == 2
        await node.is_status(job, "down")
        alert = await node.pool.fetchval("select facts from alerts where kind = 'opened'")
        assert (alert["cause"], alert["run"], alert["last_message"]) == ("tasks", "r", "disk full")
        (row,) = await pages.run_pulse(node.pool, [(job, 1)])
        followed = ClientRun(row)
        await read_new_pings(node.pool, [followed])
        assert followed.run.tasks[""].by_name == {"1": True, "2": True, "9": False}
        await node.ping(job, "success", run="r", task="9")
        await is_run(node, 1, verdict="succeeded", reason=None)
        assert await node.alerts() == ["opened", "resolved"]
        assert await count_of(node.pool, "runs") == 1


async def test_a_late_task_of_a_run_that_is_no_longer_remembered(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is read, once for a batch, also by the scheduler that follows; and no other run is opened."""
    monkeypatch.setattr(runs, "RUNS_REMEMBERED_MAX", 1)
    async with running(database_url) as node:
        job = await node.monitor(tasks={"expected": 1})
        for run in ("a", "b", "c"):
            await node.ping(job, "start", run=run)
            await node.ping(job, "success", run=run, task="1")
        await is_run(node, 3, verdict="succeeded")
        await node.ping(job, "fail", run="a", task="2")
        await is_run(node, 1, verdict="failed")
        await node.is_status(job, "down")
        await node.ping(job, "success", run="a", task="1")  # sent before
    async with running(database_url, "next") as node:
        await node.ping(job, "success", run="a", task="2")
        failed_once = await is_run(node, 1, verdict="succeeded")
        assert failed_once["detail"]["tasks"]["done"] == 2
        await node.ping(job, "fail", run="b", task="7")
        await is_run(node, 2, verdict="failed")
        assert await count_of(node.pool, "runs") == 3
        assert node.scheduler.mismatches == 0


async def test_a_late_failure_of_a_run_that_is_no_longer_remembered_concerns_its_own_date(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No success of another date resolves it, and a success of its own date does."""
    monkeypatch.setattr(runs, "RUNS_REMEMBERED_MAX", 1)
    async with running(database_url) as node:
        job = await node.monitor(tasks={"expected": 1})
        for day in ("2026-11-28", "2026-11-29"):
            await node.ping(job, "start", run=day)
            await node.ping(job, "success", run=day, task="1")
        await is_run(node, 2, verdict="succeeded")
        await node.ping(job, "fail", run="2026-11-28", task="2")
        await is_run(node, 1, verdict="failed", business_date="2026-11-28")
        await node.is_status(job, "down")
        await node.ping(job, "start", run="2026-11-30")
        await node.ping(job, "success", run="2026-11-30", task="1")
        await is_run(node, 3, verdict="succeeded", business_date="2026-11-30")
        assert await node.status(job) == "down"
    async with running(database_url, "next") as node:
        await node.ping(job, "success", run="2026-11-28", task="2")
        await is_run(node, 1, verdict="succeeded", business_date="2026-11-28")
        await node.is_status(job, "unwatched")
        assert await node.alerts() == ["opened", "resolved"]
