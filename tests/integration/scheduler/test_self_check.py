"""The comparison of memory, heap and database with the log: it finds every difference, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from offbeat_server.db.pool import connect
from offbeat_server.scheduler.self_check import SelfCheck
from tests.support.harness import Server, eventually
from tests.support.servers.scheduler_node import Node, running, true


@asynccontextmanager
async def checking(url: str) -> AsyncIterator[tuple[Node, SelfCheck]]:
    async with running(url) as node:
        yield node, SelfCheck(node.pool, node.scheduler)


async def compared(node: Node, check: SelfCheck, monitor_id: int) -> None:
    """Once, at rest."""
    before = check.checked

    async def done() -> bool:
        if await check._at_rest():
            await check.check(node.scheduler.engine, node.scheduler.engine.monitors[monitor_id])
        return check.checked > before

    await eventually(done)


async def test_all_kinds_of_monitors_are_as_the_log_says(database_url: str) -> None:
    async with checking(database_url) as (node, check):
        ids = [
            await node.monitor("beat", every="1h", grace="5m"),
            await node.monitor("cron", cron="*/5 * * * *", timezone="Europe/Berlin"),
            await node.monitor("job", max_runtime="1h"),
            await node.monitor("tasks", tasks={"expected": 3}),
            await node.monitor("down", every="1s", grace="0s"),
        ]
        for each in ids:
            await node.ping(each)
        for task in ("b", "a"):
            await node.ping(ids[3], "start", run="one", task=task)
        await node.ping(ids[3], "success", run="one", task="b")
        await node.ping(ids[2], "start", run="x")
        await node.is_status(ids[4], "down")
        await node.ping(ids[0])  # in no stored state
        for each in ids:
            await compared(node, check, each)
        assert check.checked == len(ids) and not check.mismatches


async def test_a_state_that_was_changed_in_memory_or_in_the_database_is_found(database_url: str) -> None:
    async with checking(database_url) as (node, check):
        job = await node.monitor(every="1h")
        await node.ping(job)
        await node.is_status(job, "up")
        await compared(node, check, job)
        mismatches = check.mismatches
        assert not mismatches
        m = node.scheduler.engine.monitors[job]
        assert m.last_ping_at is not None
        m.last_ping_at -= 1
        await compared(node, check, job)
        assert check.mismatches == 1
        m.last_ping_at += 1
        await node.pool.execute("""update states set state = state || '{"incidents": 7}'""")
        await compared(node, check, job)
        assert check.mismatches == 2
        await node.pool.execute("""update states set state = state - 'incidents'""")
        assert m.due is not None
        m.due += 1
        await compared(node, check, job)
        assert check.mismatches == 3


async def test_a_deadline_that_is_lost_from_the_heap_is_found(database_url: str) -> None:
    async with checking(database_url) as (node, check):
        lost, late = await node.monitor("lost", every="1s", grace="1s"), await node.monitor("late", every="1h")
        await asyncio.gather(node.ping(lost), node.ping(late))
        await node.is_status(late, "up")
        engine = node.scheduler.engine
        while engine.state.deadlines.pop_entry(1 << 62):
            pass
        queued_at = engine.monitors[late].queued_at
        assert queued_at is not None
        engine.monitors[late].queued_at = queued_at + 1
        await compared(node, check, late)
        assert check.mismatches == 1
        looked_at = engine.monitors[lost].queued_at
        assert looked_at is not None
        await eventually(lambda: true(engine.now > looked_at))
        await compared(node, check, lost)
        assert check.mismatches == 2


async def test_a_real_server_counts_what_it_checks_and_what_differs(database_url: str) -> None:
    connection = await connect(database_url)

    async def value(name: str) -> float:
        text = await (await server.session.get("/metrics")).text()
        samples = [line for line in text.splitlines() if line.startswith(f"offbeat_{name}_total ")]
        return float(samples[0].split()[1]) if samples else 0.0

    async with Server(database_url) as server:
        key = (await server.api("PUT", "/api/v1/monitors/job", {"every": "1h"})).body["key"]
        await server.session.get(f"/api/v1/heartbeat/{key}")

        async def checked() -> bool:
            return await value("self_checks") >= 2

        await eventually(checked)
        assert await value("self_check_mismatches") == 0
        await connection.execute("""update states set state = state || '{"incidents": 7}'""")

        async def found() -> bool:
            return await value("self_check_mismatches") >= 1

        await eventually(found)
        assert any("self_check.mismatch" in line for line in server.output)
    await connection.close()
