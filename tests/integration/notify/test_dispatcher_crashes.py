"""The dispatcher killed at every step between the claim and the settling: nothing is lost, little comes twice.

A repeated message has the same id and the same body, so that a receiver can drop it.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest

from tests.support.harness import HANG_S, ROOT, Behaviour, Receiver
from tests.support.outbox import Scene, end_leases


@contextlib.asynccontextmanager
async def process(url: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A dispatcher in its own process, killed at the end."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.servers.notifier_process", url, *arguments),
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("OFFBEAT_")},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.wait()


async def dies(started: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(HANG_S):
        assert await started.wait() == -signal.SIGKILL


def copies(receiver: Receiver) -> dict[str, list[bytes]]:
    bodies_by_id: dict[str, list[bytes]] = defaultdict(list)
    for request in receiver.requests:
        bodies_by_id[request.headers["webhook-id"]].append(request.body)
    return bodies_by_id


@pytest.mark.parametrize("place", ["claimed", "sent", "settled"])
async def test_killed_with_single_alerts(world: Scene, database_url: str, place: str) -> None:
    async with Receiver() as receiver:
        channels = [await world.channel(f"hook-{n}", "webhook", url=f"{receiver.url}/{n}") for n in range(4)]
        for channel in channels:
            await world.alerts(channel, 3)
        async with process(database_url, place) as first:
            await dies(first)
        await end_leases(world.pool)
        async with process(database_url):
            assert await world.settled() == {"delivered": 12}
        bodies_by_id = copies(receiver)
    assert len(bodies_by_id) == 12
    assert all(len(bodies) <= 2 and len(set(bodies)) == 1 for bodies in bodies_by_id.values())
    if place == "claimed":
        assert len(receiver.requests) == 12, "nothing was under way at that moment"


@pytest.mark.parametrize("place", ["digest stored", "digest sent", "digest settled"])
async def test_killed_with_a_digest(world: Scene, database_url: str, place: str) -> None:
    async with Receiver() as receiver:
        channel = await world.channel("hook", "webhook", url=receiver.url)
        await world.alerts(channel, 40)
        async with process(database_url, place) as first:
            await dies(first)
        await end_leases(world.pool)
        await world.alerts(channel, 40, first=101)  # must not be drawn into what was already stored
        async with process(database_url):
            assert await world.settled() == {"delivered": 80}
        bodies_by_id = copies(receiver)
    assert len(bodies_by_id) == 2 and all(id.startswith("digest_") for id in bodies_by_id)
    assert all(len(bodies) <= 2 and len(set(bodies)) == 1 for bodies in bodies_by_id.values())
    if place == "digest settled":
        assert len(receiver.requests) == 2


async def test_killed_between_open_and_resolve(world: Scene, database_url: str) -> None:
    """The open may have been sent: so it is sent again, and the resolve after it; they do not cancel out."""
    async with Receiver() as receiver:
        channel = await world.channel("hook", "webhook", url=receiver.url)
        await world.alert(channel)
        async with process(database_url, "claimed") as first:
            await dies(first)
        await end_leases(world.pool)
        await world.alert(channel, kind="resolved")
        async with process(database_url):
            assert await world.settled() == {"delivered": 2}
        assert [r.json["type"] for r in receiver.requests] == ["incident.opened", "incident.resolved"]


@pytest.mark.slow
async def test_killed_at_random_moments_with_a_receiver_that_fails(world: Scene, database_url: str) -> None:
    """Six kills while alerts keep coming and a third of the answers are failures."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with Receiver() as receiver:
        receiver.script.extend(
            Behaviour(status=chance.choice((200, 200, 500)), delay_s=chance.random() * 0.2) for _ in range(2_000)
        )
        channels = [
            await world.channel(f"hook-{n}", "webhook", url=f"{receiver.url}/{n}", digest=n % 2 == 0) for n in range(10)
        ]
        queued = 0
        for kill in range(6):
            async with process(database_url):
                for channel in channels:
                    await world.alerts(channel, 8, first=1 + 100 * kill)
                    queued += 8
                await receiver.wait_count(len(receiver.requests) + 5)
                await asyncio.sleep(chance.random() * 0.3)
            await end_leases(world.pool)
        async with process(database_url):
            assert await world.settled() == {"delivered": queued}
        bodies_by_id = copies(receiver)
    assert all(len(set(bodies)) == 1 for bodies in bodies_by_id.values())
    sent = sum(id.startswith("alert_") for id in bodies_by_id) + await world.pool.fetchval(
        "select sum(alerts) from digests"
    )
    assert sent == queued
