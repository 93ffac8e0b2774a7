"""The id that connects the alerts of an incident at a receiver: the same for all of them, and never used again."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.harness import Receiver
from tests.support.outbox import Scene


@pytest.fixture
async def pager(world: Scene, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr("offbeat_server.notify.channels.pagerduty._HOSTS", {"us": receiver.url})
    yield await world.channel("pager", "pagerduty", routing_key="r" * 32)


def keys(receiver: Receiver) -> list[Any]:
    return [request.json["dedup_key"] for request in receiver.requests]


async def restored(world: Scene) -> None:
    """As a backup would leave it that was made before any of these alerts: the same secret, all numbers again."""
    await world.pool.execute("truncate alerts, digests restart identity")


async def test_an_incident_with_the_same_number_after_a_restore_is_another_one(
    world: Scene, receiver: Receiver, pager: int
) -> None:
    async with world.dispatcher():
        await world.alert(pager)
        await receiver.wait_count(1)
        await world.settled()
        await restored(world)
        await world.alert(pager)
        await receiver.wait_count(2)
        await world.alert(pager, kind="resolved")
        await receiver.wait_count(3)
    before, opened, resolved = keys(receiver)
    assert before != opened == resolved


async def test_a_digest_with_the_same_number_after_a_restore_is_another_one(
    world: Scene, receiver: Receiver, pager: int
) -> None:
    async with world.dispatcher(start=False) as dispatcher:
        dispatcher.periodic.over_every_s = 0.1
        await world.alerts(pager, 10)
        await dispatcher.start()
        await receiver.wait_count(1)
        await world.settled()
        await dispatcher.stop()
        await restored(world)
    async with world.dispatcher(start=False) as dispatcher:
        dispatcher.periodic.over_every_s = 0.1
        await world.incidents(*range(1, 11))
        await world.alerts(pager, 10)
        await dispatcher.start()
        await receiver.wait_count(2)
        await world.settled()
        await world.pool.execute("update incidents set resolved_at = now()")
        await receiver.wait_count(3)
    before, opened, over = keys(receiver)
    assert before != opened == over


async def test_all_alerts_of_an_incident_have_one_thread(world: Scene, receiver: Receiver) -> None:
    options = {"body": '{"monitor": "{{monitor}}", "thread": "{{thread}}"}', "digest": False}
    first = await world.channel("first", "webhook", url=f"{receiver.url}/first", **options)
    later = await world.channel("later", "webhook", url=f"{receiver.url}/later", **options)
    async with world.dispatcher(start=False) as dispatcher:
        await world.alert(later, kind="opened")  # whichever was written first
        await world.alert(first, kind="opened")
        await world.alert(first, kind="worse")
        await world.alert(first, monitor=2)
        await dispatcher.start()
        await receiver.wait_count(4)
        await world.settled()
        # Long ago; a month later the end waits for its receiver, and what is old is deleted.
        await world.pool.execute("update alerts set settled_at = now() - interval '40 days'")
        for channel in (first, later):
            await world.alert(channel, kind="resolved", next_attempt_at=datetime.now(UTC) + timedelta(hours=1))
        await dispatcher.outbox.sweep(30, 100)  # unless the dispatcher has done so in the meantime
        assert await world.pool.fetchval("select count(*) from alerts where monitor_id = 2") == 0
        await world.pool.execute("update alerts set next_attempt_at = now()")
        await receiver.wait_count(6)
    threads = [(request.json["monitor"], request.json["thread"]) for request in receiver.requests]
    of_one = {thread for monitor, thread in threads if monitor == "job-1"}
    assert len(of_one) == 1 and ("job-2", *of_one) not in threads
