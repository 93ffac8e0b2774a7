"""Pings of stages and tasks that come after the end of their run, with a real writer, scheduler and Postgres."""

from typing import Any

from offbeat_server.db.read_models import pages
from offbeat_server.db.repositories.client_runs import ClientRun, read_new_pings
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
