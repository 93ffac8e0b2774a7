"""A writer and a scheduler as one process has them, on a real Postgres and without the HTTP servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from offbeat_server.committed_batches import CommittedBatches
from offbeat_server.common.clock import LogClock
from offbeat_server.common.errors import OffbeatError
from offbeat_server.config import Settings
from offbeat_server.db.pool import open_pool
from offbeat_server.db.repositories import changes, definitions
from offbeat_server.db.repositories.definitions import WantedMonitor
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.model.ping import PLAIN, Ping
from offbeat_server.ingest.key_index import KeyTarget
from offbeat_server.ingest.log_writer.writer import LogWriter
from offbeat_server.observability.metrics import Metrics
from offbeat_server.scheduler import lease as lease_module
from offbeat_server.scheduler.scheduler import Scheduler
from tests.support.harness import HANG_S, eventually


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take-overs in two seconds rather than seven."""
    for name, value in {"LIFE_S": 2.0, "RENEW_EVERY_S": 0.5, "TRUST_S": 1.5, "TAKE_EVERY_S": 0.2}.items():
        monkeypatch.setattr(lease_module, name, value)


class _Waiter:
    def __init__(self) -> None:
        self.settled: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def settle(self, outcome: Any) -> None:
        self.settled.set_result(outcome)


class Node:
    """A writer and a scheduler as one process has them."""

    def __init__(self, url: str, name: str = "node", **settings: Any) -> None:
        self.url = url
        # It declares no writer dead because the machine stood still; a node that follows a crashed one asks for less.
        self.settings = Settings(**{"writer_silent_max": HANG_S, **settings})
        self.clock = LogClock()
        metrics = Metrics("test")
        committed = CommittedBatches()
        self.scheduler = Scheduler(url, self.settings, self.clock, metrics, committed, holder=name, node=name)
        self.writer = LogWriter(
            url,
            self.settings,
            self.clock,
            metrics,
            node=name,
            metrics_address=None,
            committed=committed,
        )
        self.pool: asyncpg.Pool

    async def start(self) -> None:
        self.pool = await open_pool(self.url)
        await self.writer.start()
        await self.scheduler.start()

    async def stop(self) -> None:
        await self.writer.stop()
        await self.scheduler.stop()
        await self.pool.close()

    async def crash(self) -> None:
        """Gone without a word."""
        await self.writer.cancel_tasks()
        await self.scheduler.cancel_tasks()
        self.scheduler.connection.drop()
        self.scheduler.lease._connection.drop()
        if self.writer._log is not None:
            self.writer._log.terminate()
        self.pool.terminate()

    async def monitor(self, slug: str = "job", **definition: Any) -> int:
        async with changes.changing(self.pool) as connection:
            await definitions.put_monitors(connection, [WantedMonitor(1, slug, read_definition(definition))], "test")
        self.scheduler.wake()
        monitor_id: int = await self.pool.fetchval("select id from monitors where slug = $1", slug)
        return monitor_id

    async def ping(self, monitor_id: int, signal: Any = "success", **fields: Any) -> None:
        waiter = _Waiter()
        ping = Ping(signal, **fields) if fields else PLAIN[signal]
        self.writer.backlog.append(KeyTarget(monitor_id, 1), ping, None, waiter)
        outcome = await waiter.settled
        assert outcome.kind == "ok"

    async def offer(self, monitor_id: int) -> bool:
        """A ping that may be refused; whether it was stored."""
        with contextlib.suppress(OffbeatError, AssertionError):
            await self.ping(monitor_id)
            return True
        return False

    async def status(self, monitor_id: int) -> str | None:
        status: str | None = await self.pool.fetchval("select status from states where monitor_id = $1", monitor_id)
        return status

    async def is_status(self, monitor_id: int, status: str, timeout_s: float = HANG_S) -> None:
        async def same() -> bool:
            return await self.status(monitor_id) == status

        await eventually(same, timeout_s)

    async def incidents(self) -> list[asyncpg.Record]:
        return await self.pool.fetch("select * from incidents order by monitor_id, number")

    async def alerts(self) -> list[str]:
        rows = await self.pool.fetch("select kind from alerts where kind <> 'operator' order by id")
        return [row["kind"] for row in rows]


@asynccontextmanager
async def running(url: str, name: str = "node", **settings: Any) -> AsyncIterator[Node]:
    node = Node(url, name, **settings)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


async def true(value: object) -> bool:
    return bool(value)


async def count_of(pool: asyncpg.Pool, what: str) -> int:
    count: int = await pool.fetchval(f"select count(*) from {what}")
    return count
