"""The database's clock is moved under two nodes: no job is alerted, no process hangs, the operator gets an alert.

A Postgres of its own runs with libfaketime, which reads by how much its clock is off from a file, at every look.
"""

import asyncio
import contextlib
import os
import re
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from offbeat_server.common.clock import monotonic
from offbeat_server.db.embedded import cluster
from offbeat_server.db.pool import connect
from tests.support.harness import Postgres, Server, eventually, refuse
from tests.support.servers.scheduler_node import Node, count_of, short_lease, true  # noqa: F401


class Moved:
    """A database whose clock can be set."""

    def __init__(self, url: str, offset: Path) -> None:
        self.url, self._offset = url, offset

    def set(self, seconds: int) -> None:
        """So far from the true time."""
        new = self._offset.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._offset)


@pytest.fixture
async def moved(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Moved]:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        refuse("faketime is not installed (`make test` installs it where it may)")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # Postgres may be another user
        database = Moved("", Path(directory) / "offset")
        database.set(0)
        faked = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": f"{directory}/offset",
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        monkeypatch.setattr(cluster, "_ENVIRONMENT", cluster._ENVIRONMENT | faked)
        postgres = Postgres(fsync="off")
        await postgres.start()
        try:
            async with postgres.fresh() as url:
                database.url = url
                yield database
        finally:
            await postgres.stop()


@contextlib.asynccontextmanager
async def two_nodes(url: str) -> AsyncIterator[tuple[Node, Node]]:
    """The first one is the scheduler."""
    a, b = Node(url, "a"), Node(url, "b", writer_silent_max=3.0)
    await a.start()
    await eventually(lambda: true(a.scheduler.evaluating))
    await b.start()
    try:
        yield a, b
    finally:
        for node in (a, b):
            pool: Any = node.pool
            if not pool._closed:
                await node.stop()


async def ping(node: Node, monitor_id: int) -> None:
    """Until it is stored, as a client does that is asked to come again."""
    await eventually(lambda: node.offer(monitor_id))


async def noticed(nodes: tuple[Node, Node], former: list[int], by: int) -> None:
    """Until this number of them have a new writer, and all take pings."""

    async def seen() -> bool:
        return sum(node.writer.id not in former for node in nodes) >= by and all(
            node.writer.backlog.accepting for node in nodes
        )

    await eventually(seen)


async def operators(node: Node) -> list[dict[str, Any]]:
    rows = await node.pool.fetch("select facts from alerts where kind = 'operator' order by id")
    return [row["facts"] for row in rows]


@pytest.mark.usefixtures("short_lease")
async def test_set_back_by_an_hour_log_time_continues(moved: Moved) -> None:
    async with two_nodes(moved.url) as (a, b):
        quick, steady = await a.monitor("quick", every="2s", grace="1s"), await a.monitor("steady", every="1h")
        await asyncio.gather(a.ping(quick), b.ping(steady))
        await a.is_status(steady, "up")
        before, writers = b.clock.now(), [a.writer.id, b.writer.id]
        moved.set(-3600)
        await noticed((a, b), writers, 1)  # what the first has mended the other one need not see
        assert -100_000 < b.clock.now() - before < 20_000_000  # nodes agree within some milliseconds
        for node in (a, b):
            await ping(node, steady)
        await a.is_status(quick, "down")  # its deadline is evaluated as usual
        assert await a.pool.fetchval("select max(at) - min(at) < interval '1 minute' from pings")
        assert await count_of(a.pool, "deaf where reason = 'clock' and ended_at - started_at < interval '10 s'") in (
            1,
            2,
        )
        assert await count_of(a.pool, "deaf where reason <> 'clock'") == 0
        (alert,) = await operators(a)
        assert "clock" in alert["reason"]
        assert 3590 < await a.pool.fetchval("select extract(epoch from log_time() - clock_timestamp())::float8") <= 3610
        # Leases end and silent writers are found, too.
        await a.crash()
        await eventually(lambda: true(b.scheduler.evaluating))
        slow = await b.monitor("slow", every="1s", grace="1s")
        await ping(b, slow)
        await b.is_status(slow, "down")
        assert await count_of(b.pool, "writers where not fenced") == 1


async def test_set_forward_by_ten_minutes_what_was_skipped_is_an_outage_of_all_writers(moved: Moved) -> None:
    async with two_nodes(moved.url) as (a, b):
        minute, quick = (
            await a.monitor("minute", every="1m", grace="10s"),
            await a.monitor("quick", every="3s", grace="1s"),
        )
        began_s = monotonic()
        await asyncio.gather(a.ping(minute), b.ping(quick))
        await a.is_status(minute, "up")
        writers = [a.writer.id, b.writer.id]
        moved.set(600)
        await noticed((a, b), writers, 2)
        assert await a.pool.fetchval("select abs(extract(epoch from log_time() - clock_timestamp())) < 1")
        await a.is_status(quick, "down")
        (incident,) = await a.incidents()
        quiet_s = await a.pool.fetchval(
            "select extract(epoch from i.opened_at - p.at)::float8 from incidents i join pings p using (monitor_id)"
        )
        assert incident["monitor_id"] == quick and 603 < quiet_s < 604 + (monotonic() - began_s)
        assert await a.status(minute) == "up"
        assert await count_of(a.pool, "deaf where reason = 'clock' and ended_at - started_at > interval '595 s'") == 2
        assert await count_of(a.pool, "deaf where reason <> 'clock'") == 0
        (alert,) = await operators(a)
        assert "clock" in alert["reason"]


async def test_a_step_back_that_is_undone_leaves_nothing_behind(moved: Moved) -> None:
    async with two_nodes(moved.url) as (a, b):
        minute = await a.monitor("minute", every="1m", grace="10s")
        await a.ping(minute)
        for seconds in (-3600, 0):
            writers = [a.writer.id, b.writer.id]
            moved.set(seconds)
            await noticed((a, b), writers, 1)
            await ping(b, minute)
        assert abs(await a.pool.fetchval("select extract(epoch from log_time() - clock_timestamp())::float8")) < 10
        await a.is_status(minute, "up")
        assert not await a.incidents()


@pytest.mark.slow
async def test_a_main_process_without_a_writer_follows_too(moved: Moved) -> None:
    connection = await connect(moved.url)
    async with Server(moved.url, "--workers", "2") as server:
        moved.set(600)

        async def registered_anew() -> bool:
            return bool(await connection.fetchval("select count(*) = 2 from deaf where reason = 'clock'"))

        await eventually(registered_anew)
        key = (await server.api("PUT", "/api/v1/monitors/job", {"every": "4s", "grace": "1s"})).body["key"]

        async def stored() -> bool:
            async with server.session.get(f"/api/v1/heartbeat/{key}") as response:
                return response.status == 200

        async def is_alerted() -> bool:
            return bool(await connection.fetchval("select count(*) from alerts where kind = 'opened'"))

        await eventually(stored)
        await eventually(is_alerted)
        targets = await (await server.session.get("/sd/prometheus")).json()
        (scheduler,) = [each for each in targets if each["labels"]["__meta_offbeat_writer"] == "0"]
        port = scheduler["targets"][0].rpartition(":")[2]
        async with server.session.get(f"http://127.0.0.1:{port}/metrics") as response:
            (lag,) = re.findall(r"^offbeat_decision_lag_seconds_sum (\S+)", await response.text(), re.MULTILINE)
        assert 0 <= float(lag) < 600  # by a clock that did not jump it would be ten minutes less than nothing
    await connection.close()
