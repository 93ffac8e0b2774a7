"""Outages in which commits hang or fail and the server comes back by itself: no healthy job is alerted.

The clients hang in our request and cannot send their next ping: the time from the last confirmed commit is an outage.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from offbeat_server.db.pool import connect
from tests.chaos.world.databases import OnSmallDisk
from tests.support.clients.honest_jobs import HonestJobs, incidents_of, outages_of
from tests.support.harness import Server, eventually
from tests.support.postgres.standby import Pair

JOBS = 20
Outage = Callable[[Pair], Awaitable[None]]


async def _primary_freezes(pair: Pair, seconds: float) -> None:
    pair.freeze("a")
    await asyncio.sleep(seconds)
    pair.thaw("a")


async def _standby_freezes(pair: Pair, seconds: float) -> None:
    pair.freeze("b")
    await asyncio.sleep(seconds)
    pair.thaw("b")


async def _standby_dies(pair: Pair, seconds: float) -> None:
    await pair.kill("b")
    await asyncio.sleep(seconds)
    await pair.start("b")


async def _commits_are_slow(pair: Pair, seconds: float) -> None:
    """Each commit waits for a standby that answers once a second."""
    for _ in range(round(seconds)):
        pair.freeze("b")
        await asyncio.sleep(0.95)  # sleep: the time that a commit waits
        pair.thaw("b")
        await asyncio.sleep(0.05)


OUTAGES = (
    (_primary_freezes, 5),
    (_primary_freezes, 12),
    (_primary_freezes, 20),
    (_standby_freezes, 12),
    (_standby_dies, 20),
    (_commits_are_slow, 15),
)
IN_EVERY_RUN = ((_primary_freezes, 12, 1), (_standby_freezes, 12, 2), (_commits_are_slow, 15, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outage", "seconds", "nodes"),
    [
        pytest.param(*outage, nodes, marks=() if (*outage, nodes) in IN_EVERY_RUN else pytest.mark.long)
        for outage in OUTAGES
        for nodes in (1, 2)
    ],
)
async def test_no_healthy_job_is_alerted(
    outage: Callable[[Pair, float], Awaitable[None]], seconds: float, nodes: int
) -> None:
    synchronous = outage is not _primary_freezes
    async with Pair(synchronous=synchronous) as pair, _servers(pair.url("a"), nodes) as servers:
        await _alerts_only_silence(servers, pair.url("a"), lambda: outage(pair, seconds), seconds)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")
@pytest.mark.parametrize(
    ("seconds", "nodes"), [(15, 1), *(pytest.param(*each, marks=pytest.mark.long) for each in ((6, 1), (15, 2)))]
)
async def test_no_healthy_job_is_alerted_because_the_disk_is_full(seconds: float, nodes: int) -> None:
    async with OnSmallDisk() as base, _servers(base.url, nodes) as servers:

        async def fills() -> None:
            async with base.full():
                await asyncio.sleep(seconds)

        await _alerts_only_silence(servers, base.url, fills, seconds)
        assert not any(server.has_ended for server in servers)
        if seconds > 12:  # an alert is for 10 s and more
            connection = await connect(base.url)
            query = (
                "select 1 from alerts where kind = 'operator' and facts ->> 'reason' like '%not receive pings for %'"
            )
            assert await eventually(lambda: connection.fetchval(query))
            await connection.close()


async def _alerts_only_silence(
    servers: list[Server], url: str, outage: Callable[[], Awaitable[None]], seconds: float
) -> None:
    """No incident while the jobs live, one of each when they stop, and no answered ping is lost."""
    async with HonestJobs(servers, JOBS, every_s=2.0, grace_s=3.0) as jobs:
        await eventually(lambda: _at_least(jobs, JOBS * 3))
        refused = jobs.refused
        await outage()
        before = len(jobs.stored)
        await eventually(lambda: _at_least(jobs, before + JOBS * 4))
        connection = await connect(url)
        outages = await outages_of(connection)
        print(f"{jobs.refused - refused} pings were refused", *outages, sep="\n")
        assert outages, "it was one"
        assert not await incidents_of(connection)
        # Each answer says that the ping is kept, once.
        stored = list(jobs.stored)  # the jobs ping on while Postgres answers
        rows = await connection.fetch("select message, count(*) as n from pings group by message")
        kept = {row["message"] for row in rows}
        assert kept.issuperset(stored)

    # A job that becomes silent afterwards is alerted.
    async def all_silent() -> bool:
        return len(await incidents_of(connection)) == JOBS

    await eventually(all_silent)
    await connection.close()


@contextlib.asynccontextmanager
async def _servers(url: str, count: int) -> AsyncIterator[list[Server]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Server(url)) for _ in range(count)]


async def _at_least(jobs: HonestJobs, count: int) -> bool:
    return len(jobs.stored) >= count
