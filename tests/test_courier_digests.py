"""Many alerts of one channel become one message: at once, in order, and closed where a service keeps it open."""

import time
from collections import Counter

import pytest
from aiohttp import web

from tests.harness import Behaviour, Receiver, eventually
from tests.outbox_scene import Scene, at_work, ids, types


@pytest.fixture
def short_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two digests of a lane a quarter of a second, not five and more."""
    monkeypatch.setattr("server.deliver.lane.DIGEST_GAPS_S", (0.25,))


async def test_many_at_once_become_one_message(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    await world.alerts(channel, 100)
    async with world.courier():
        assert await world.settled() == {"delivered": 100}
    [request] = receiver.requests
    content = request.json
    assert content["type"] == "offbeat.digest" and content["data"]["opened"] == 100
    assert [each["name"] for each in content["data"]["first"]] == [f"Job {n}" for n in range(1, 21)]
    assert content["data"]["title"] == "100 down within 1 s"
    assert "and 80 more" in content["data"]["text"]
    [digest] = await world.pool.fetch("select * from digests")
    assert digest["body"] == request.body and digest["state"] == "delivered" and digest["alerts"] == 100
    assert ids(receiver)[0].endswith(f"_{digest['id']}") and ids(receiver)[0].startswith("digest_")


async def test_a_digest_is_tried_again_with_the_same_bytes(world: Scene, receiver: Receiver, short_gaps: None) -> None:
    receiver.script.extend([Behaviour(status=500), Behaviour(reset=True)])
    channel = await world.channel("hook", "webhook", url=receiver.url)
    await world.alerts(channel, 30)
    async with world.courier():
        await receiver.wait_count(1)
        await world.alerts(channel, 30, first=101)  # not drawn into the digest that is under way
        assert await world.settled(20) == {"delivered": 60}
    assert len({r.body for r in receiver.requests[:3]}) == len(set(ids(receiver)[:3])) == 1
    assert receiver.requests[3].json["data"]["opened"] == 30
    assert len(receiver.requests) == 4


async def test_members_of_a_digest_stand_before_what_follows_them(
    world: Scene, receiver: Receiver, short_gaps: None
) -> None:
    receiver.script.extend([Behaviour(status=500), Behaviour(status=500)])
    channel = await world.channel("hook", "webhook", url=receiver.url)
    await world.alerts(channel, 10)
    async with world.courier():
        await receiver.wait_count(1)
        await world.alert(channel, monitor=3, kind="resolved")
        await receiver.wait_count(4, timeout_s=20)
        await world.settled()
    assert types(receiver) == ["offbeat.digest"] * 3 + ["incident.resolved"]


async def test_a_digest_that_is_never_taken_does_not_silence_its_channel(
    world: Scene, receiver: Receiver, short_gaps: None
) -> None:
    async with Refusing() as picky, world.courier():
        channel = await world.channel("hook", "webhook", url=picky.url)
        await world.alerts(channel, 10)
        await picky.wait_count(1)
        await world.alert(channel, monitor=50)
        await picky.wait_for(lambda r: r.json["type"] == "incident.opened", timeout_s=20)

        async def goes_on() -> bool:
            return await world.states() == {"pending": 10, "delivered": 1}

        await eventually(goes_on)
        picky.refuses = False
        await world.pool.execute("update digests set next_attempt_at = now()")
        assert await world.settled() == {"delivered": 11}, "nor is it forgotten"


async def test_what_grew_old_in_a_failing_lane_expires_there(world: Scene) -> None:
    async with Receiver(Behaviour(status=503)) as broken, world.courier(start=False) as courier:
        courier.repeats.expire_every_s = 0.1
        await courier.start()
        channel = await world.channel("hook", "webhook", url=broken.url, digest=False)
        await world.alerts(channel, 50)
        await broken.wait_count(1)
        await world.pool.execute("update alerts set expires_at = now() - interval '1 second'")
        assert await world.settled() == {"expired": 50}
    assert world.counted[("webhook", "expired")] == 50


@pytest.mark.slow
async def test_a_storm_is_a_few_messages(world: Scene, receiver: Receiver) -> None:
    """100 000 monitors fall silent; the keeper writes them in slices of 500 while the courier is at work."""
    channel = await world.channel("hook", "webhook", url=receiver.url)
    other = await world.channel("other", "webhook", url=f"{receiver.url}/other")
    async with world.courier() as courier:
        await at_work(courier)
        began = time.monotonic()
        for n in range(200):
            await world.alerts(channel, 500, first=1 + 500 * n)
            courier.wake()
            if n == 100:
                await world.alert(other)
                at_other = time.time()
        assert await world.settled(40) == {"delivered": 100_001}
        took = time.monotonic() - began
    messages = [r for r in receiver.requests if r.path == "/"]
    counts = [r.json["data"].get("opened", 1) for r in messages]
    print(f"{len(messages)} messages of {counts} in {took:.1f} s")
    assert sum(counts) == 100_000 and len(messages) <= 6
    [beside] = [r for r in receiver.requests if r.path == "/other"]
    assert beside.at - at_other < 5


@pytest.mark.slow
async def test_ten_thousand_channels_each_once(world: Scene, receiver: Receiver) -> None:
    await world.pool.execute(
        "insert into channels (project_id, slug, kind, definition) "
        "select 1, 'c' || n, 'webhook', jsonb_build_object('url', $1::text || '/' || n) "
        "from generate_series(1, 10000) n",
        receiver.url,
    )
    async with world.courier() as courier:
        await at_work(courier)
        began = time.monotonic()
        await world.pool.execute(
            "insert into alerts (project_id, channel_id, monitor_id, incident, kind, facts) "
            "select 1, id, id, 1, 'opened', jsonb_build_object('monitor', slug, 'name', slug, 'reason', 'no ping') "
            "from channels where kind = 'webhook'"
        )
        courier.wake()
        assert await world.settled(60) == {"delivered": 10_000}
        print(f"10 000 channels in {time.monotonic() - began:.1f} s")
    assert max(Counter(r.path for r in receiver.requests).values()) == 1
    assert len(receiver.requests) == 10_000


# --------------------------------------------------------------------------------------- services that keep incidents


async def test_a_digest_at_a_service_that_keeps_incidents_is_closed_when_all_are_resolved(
    world: Scene, receiver: Receiver, short_gaps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.deliver.kinds.pagerduty._HOSTS", {"us": receiver.url})
    channel = await world.channel("pager", "pagerduty", routing_key="r" * 32)
    await world.incidents(*range(1, 12))
    async with world.courier(start=False) as courier:
        courier.repeats.over_every_s = 0.1
        await courier.start()
        await world.alert(channel, monitor=11)  # alone
        await receiver.wait_count(1)
        await world.alerts(channel, 10)
        await receiver.wait_count(2)
        await world.settled()
        # Nine of ten resolve: nothing to tell of the digest; the one that went alone is told alone.
        await world.pool.execute("update incidents set resolved_at = now() where monitor_id in (1,2,3,4,5,6,7,8,9,11)")
        await world.alerts(channel, 9, kind="resolved")
        await world.alert(channel, monitor=11, kind="resolved")
        await receiver.wait_count(3, timeout_s=20)
        assert await world.settled() == {"delivered": 12, "collapsed": 9}
        assert len(receiver.requests) == 3
        await world.pool.execute("update incidents set resolved_at = now() where monitor_id = 10")
        await world.alert(channel, monitor=10, kind="resolved")
        await receiver.wait_count(4, timeout_s=20)
    alone, digest, end, over = [r.json for r in receiver.requests]
    assert [e["event_action"] for e in (alone, digest, end, over)] == ["trigger", "trigger", "resolve", "resolve"]
    assert end["dedup_key"] == alone["dedup_key"] and over["dedup_key"] == digest["dedup_key"] != alone["dedup_key"]
    assert digest["payload"]["summary"].startswith("10 down within")


class Refusing(Receiver):
    """Takes everything but digests."""

    refuses = True

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        refused = self.refuses and b"offbeat.digest" in await request.read()
        self.behaviour = Behaviour(status=500 if refused else 200)
        return await super()._handle(request)
