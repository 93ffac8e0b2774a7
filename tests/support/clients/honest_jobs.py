"""Jobs that ping in time, one request after the other, as long as the server lets them: none of them may be alerted."""

import asyncio
import contextlib
from types import TracebackType
from typing import Any, Self

import aiohttp
import asyncpg

from tests.support.harness import Server

PATIENCE_S = 30.0  # of a client for its answer: longer than the server's, so it hangs in our request
PAUSE_S = 0.3  # after a refusal


class HonestJobs:
    """`count` jobs that ping `servers` in turn: `async with HonestJobs(servers, 20, every_s=2, grace_s=1) as jobs`."""

    def __init__(self, servers: list[Server], count: int, *, every_s: float, grace_s: float) -> None:
        self._servers, self._count = servers, count
        self._every_s, self._grace_s = every_s, grace_s
        self._tasks: list[asyncio.Task[None]] = []
        self.stored: list[str] = []  # the message of each ping that was answered 200
        self.refused = 0  # answers that were no 200

    async def __aenter__(self) -> Self:
        definition = {"every": f"{self._every_s}s", "grace": f"{self._grace_s}s"}
        monitors = [{"slug": f"honest{n}", **definition} for n in range(self._count)]
        answer = await self._servers[0].api("POST", "/api/v1/apply", {"monitors": monitors})
        assert answer.status == 200, answer
        for n in range(self._count):
            monitor = await self._servers[0].api("GET", f"/api/v1/monitors/honest{n}")
            self._tasks.append(asyncio.create_task(self._work(n, monitor.body["key"])))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self, number: int, key: str) -> None:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for count in range(1_000_000):
                url = f"{self._servers[(number + count) % len(self._servers)].url}/api/v1/heartbeat/{key}"
                message, began_s = f"{number}-{count}", loop.time()
                while not await self._ping(session, url, message):
                    await asyncio.sleep(PAUSE_S)
                self.stored.append(message)
                # The job itself has a period; what the answer took comes on top only if it took longer than that.
                await asyncio.sleep(max(self._every_s * 0.9 - (loop.time() - began_s), self._every_s * 0.5))

    async def _ping(self, session: aiohttp.ClientSession, url: str, message: str) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.post(url, data=message) as answer:
                self.refused += answer.status != 200
                return answer.status == 200
        return False


async def incidents_of(connection: asyncpg.Connection, pattern: str = "honest%") -> list[Any]:
    """Slug, times and reason of every incident."""
    return await connection.fetch(
        "select m.slug, i.opened_at, i.resolved_at, i.reason from incidents i join monitors m on m.id = i.monitor_id "
        "where m.slug like $1 order by i.opened_at",
        pattern,
    )


async def outages_of(connection: asyncpg.Connection) -> list[Any]:
    """Every recorded outage."""
    return await connection.fetch(
        "select reason, writer, pings, started_at, ended_at - started_at as length from deaf order by id"
    )


async def is_judged(server: Server) -> bool:
    """Whether this server is the scheduler."""
    async with server.session.get("/metrics") as answer:
        return "offbeat_scheduler_leader 1.0" in await answer.text()
