"""Many alerts of one channel become one message: at once, in order, and closed where a service keeps it open."""

import asyncio
import random
import re
from collections import Counter
from typing import Any

import pytest
from aiohttp import web

from offbeat_server.common.clock import monotonic
from offbeat_server.db.sql_loader import load
from offbeat_server.notify.dispatcher import Dispatcher
from tests.support.harness import Behaviour, Receiver, eventually
from tests.support.outbox import Scene, at_work, ids, types

STORMS_MAX = 300


@pytest.fixture
def short_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two digests of a lane a quarter of a second, not five and more."""
    monkeypatch.setattr("offbeat_server.notify.channel_queue.DIGEST_GAPS_S", (0.25,))
    monkeypatch.setattr("offbeat_server.notify.channel_queue.URGENT_GAPS_S", (0.25,))


def no_digest_until_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each digest of a lane the next one waits for an hour."""
    monkeypatch.setattr("offbeat_server.notify.channel_queue.DIGEST_GAPS_S", (3_600.0,))
    monkeypatch.setattr("offbeat_server.notify.channel_queue.URGENT_GAPS_S", (3_600.0,))


def an_hour_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the lanes, at once."""
    for module in ("channel_queues", "delivery_round"):
        monkeypatch.setattr(f"offbeat_server.notify.{module}.monotonic", lambda: monotonic() + 3_600.0)


async def test_many_at_once_become_one_message(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    await world.alerts(channel, 100)
    async with world.dispatcher():
        assert await world.settled() == {"delivered": 100}
    [request] = receiver.requests
    content = request.json
    assert content["type"] == "offbeat.digest" and content["data"]["opened"] == 100
    assert [each["name"] for each in content["data"]["first"]] == [f"Job {n}" for n in range(1, 21)]
    assert content["data"]["title"] == "100 down within 1 s"
    assert "and 80 more" in content["data"]["text"]
    [digest] = await world.pool.fetch("select * from digests")
    assert digest["body"] == request.body and digest["state"] == "delivered" and digest["alerts"] == 100
    assert ids(receiver) == [f"digest_{digest['uid'].hex}"]


async def test_a_digest_is_tried_again_with_the_same_bytes(world: Scene, receiver: Receiver, short_gaps: None) -> None:
    receiver.script.extend([Behaviour(status=500), Behaviour(reset=True)])
    channel = await world.channel("hook", "webhook", url=receiver.url)
    await world.alerts(channel, 30)
    async with world.dispatcher():
        await receiver.wait_count(1)
        await world.alerts(channel, 30, first=101)  # not drawn into the digest that is under way
        assert await world.settled() == {"delivered": 60}
    assert len({r.body for r in receiver.requests[:3]}) == len(set(ids(receiver)[:3])) == 1
    assert receiver.requests[3].json["data"]["opened"] == 30
    assert len(receiver.requests) == 4


async def test_members_of_a_digest_stand_before_what_follows_them(
    world: Scene, receiver: Receiver, short_gaps: None
) -> None:
    receiver.script.extend([Behaviour(status=500), Behaviour(status=500)])
    channel = await world.channel("hook", "webhook", url=receiver.url)
    await world.alerts(channel, 10)
    async with world.dispatcher():
        await receiver.wait_count(1)
        await world.alert(channel, monitor=3, kind="resolved")
        await receiver.wait_count(4)
        await world.settled()
    assert types(receiver) == ["offbeat.digest"] * 3 + ["incident.resolved"]


async def test_a_digest_that_is_never_taken_does_not_silence_its_channel(
    world: Scene, receiver: Receiver, short_gaps: None
) -> None:
    async with Refusing() as picky, world.dispatcher():
        channel = await world.channel("hook", "webhook", url=picky.url)
        await world.alerts(channel, 10)
        await picky.wait_count(1)
        await world.alert(channel, monitor=50)
        await picky.wait_for(lambda r: r.json["type"] == "incident.opened")

        async def goes_on() -> bool:
            return await world.states() == {"pending": 10, "delivered": 1}

        await eventually(goes_on)
        picky.refuses = False
        await world.pool.execute("update digests set next_attempt_at = now()")
        assert await world.settled() == {"delivered": 11}, "nor is it forgotten"


async def test_old_alerts_of_a_failing_channel_expire(world: Scene) -> None:
    async with Receiver(Behaviour(status=503)) as broken, world.dispatcher(start=False) as dispatcher:
        dispatcher.periodic.expire_every_s = 0.1
        await dispatcher.start()
        channel = await world.channel("hook", "webhook", url=broken.url, digest=False)
        await world.alerts(channel, 50)
        await broken.wait_count(1)
        await world.pool.execute("update alerts set expires_at = now() - interval '1 second'")
        assert await world.settled() == {"expired": 50}
    assert world.counted[("webhook", "expired")] == 50


@pytest.mark.slow
@pytest.mark.parametrize("monitors", [60_000, pytest.param(100_000, marks=pytest.mark.long)])
async def test_a_storm_is_a_few_messages(world: Scene, receiver: Receiver, monitors: int) -> None:
    """More monitors fall silent than one digest takes; the scheduler writes them in slices of 500."""
    channel = await world.channel("hook", "webhook", url=receiver.url)
    other = await world.channel("other", "webhook", url=f"{receiver.url}/other")
    async with world.dispatcher() as dispatcher:
        await at_work(dispatcher)
        for n in range(monitors // 500):
            await world.alerts(channel, 500, first=1 + 500 * n)
            dispatcher.wake()
            if n == monitors // 1000:
                await world.alert(other)
                before = len(receiver.requests)
        assert await world.settled() == {"delivered": monitors + 1}
    messages = [r for r in receiver.requests if r.path == "/"]
    counts = [r.json["data"].get("opened", 1) for r in messages]
    print(f"{len(messages)} messages of {counts}")
    assert sum(counts) == monitors and len(messages) <= 6
    assert "/other" in [r.path for r in receiver.requests[before:][:2]], "after the one under way, if any"


@pytest.mark.slow
@pytest.mark.parametrize("channels", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
async def test_thousands_of_channels_each_once(world: Scene, receiver: Receiver, channels: int) -> None:
    await world.pool.execute(
        "insert into channels (project_id, slug, kind, definition) "
        "select 1, 'c' || n, 'webhook', jsonb_build_object('url', $1::text || '/' || n) "
        "from generate_series(1, $2::integer) n",
        receiver.url,
        channels,
    )
    async with world.dispatcher() as dispatcher:
        await at_work(dispatcher)
        await world.pool.execute(
            "insert into alerts (project_id, channel_id, monitor_id, incident, kind, facts) "
            "select 1, id, id, 1, 'opened', jsonb_build_object('monitor', slug, 'name', slug, 'reason', 'no ping') "
            "from channels where kind = 'webhook'"
        )
        dispatcher.wake()
        assert await world.settled() == {"delivered": channels}
    assert max(Counter(r.path for r in receiver.requests).values()) == 1
    assert len(receiver.requests) == channels


# --------------------------------------------------------------------------------------- services that keep incidents


async def test_a_digest_at_a_service_that_keeps_incidents_is_closed_when_all_are_resolved(
    world: Scene, receiver: Receiver, short_gaps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offbeat_server.notify.channels.pagerduty._HOSTS", {"us": receiver.url})
    channel = await world.channel("pager", "pagerduty", routing_key="r" * 32)
    await world.incidents(*range(1, 12))
    async with world.dispatcher(start=False) as dispatcher:
        dispatcher.periodic.over_every_s = 0.1
        await dispatcher.start()
        await world.alert(channel, monitor=11)  # alone
        await receiver.wait_count(1)
        await world.alerts(channel, 10)
        await receiver.wait_count(2)
        await world.settled()
        # Nine of ten resolve: no message for the digest; the one that was sent alone gets its end alone.
        await world.pool.execute("update incidents set resolved_at = now() where monitor_id in (1,2,3,4,5,6,7,8,9,11)")
        await world.alerts(channel, 9, kind="resolved")
        await world.alert(channel, monitor=11, kind="resolved")
        await receiver.wait_count(3)
        assert await world.settled() == {"delivered": 12, "collapsed": 9}
        assert len(receiver.requests) == 3
        await world.pool.execute("update incidents set resolved_at = now() where monitor_id = 10")
        await world.alert(channel, monitor=10, kind="resolved")
        await receiver.wait_count(4)
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


# ------------------------------------------------------------------------------------------------- no incident vanishes


async def flap(world: Scene, dispatcher: Dispatcher, channel: int, monitors: int, incident: int) -> None:
    """Each of these monitors fails and succeeds at once."""
    for kind in ("opened", "resolved"):
        await world.alerts(channel, monitors, first=101, kind=kind, incident=incident)
    dispatcher.wake()


def named(receiver: Receiver, name: str) -> list[Any]:
    """The messages that name a monitor."""
    return [r.json for r in receiver.requests if name in r.json["data"]["text"] + r.json["data"]["title"]]


async def test_a_short_failure_among_flapping_monitors_is_alerted_at_once_and_by_name(
    world: Scene, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight monitors flap all the time; a job fails for half a minute, another one is silent for twenty seconds."""
    no_digest_until_later(monkeypatch)
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.dispatcher() as dispatcher:
        await at_work(dispatcher)
        for incident in range(1, 5):
            await flap(world, dispatcher, channel, 8, incident)
        await receiver.wait_count(1)  # the first digest; the others wait
        failed = {"cause": "failed", "reason": "failed with exit code 1", "last_message": "disk full"}
        await world.alert(channel, 1, facts={"name": "nightly-backup", **failed}, urgent=True)
        await world.alert(channel, 2, facts={"name": "victim"}, urgent=True)
        for incident in range(5, 9):
            await flap(world, dispatcher, channel, 8, incident)
        for name in ("nightly-backup", "victim"):
            first = await receiver.wait_for(lambda r, name=name: name in r.json["data"]["title"])  # type: ignore[misc]
            assert first.json["type"] == "incident.opened"
        for monitor, name in ((1, "nightly-backup"), (2, "victim")):
            await world.alert(channel, monitor, kind="resolved", facts={"name": name})
        an_hour_passes(monkeypatch)
        dispatcher.wake()
        assert await world.settled() == {"delivered": 2 * 8 * 8 + 4}
    for name in ("nightly-backup", "victim"):
        assert len(named(receiver, name)) == 2, "and its end"
    assert "disk full" in named(receiver, "nightly-backup")[0]["data"]["text"]
    digests = [r.json["data"] for r in receiver.requests if r.json["type"] == "offbeat.digest"]
    assert sum(each["opened"] for each in digests) == sum(each["recovered"] for each in digests) == 64
    for n in range(101, 109):
        assert any("times" in each["text"] and f"Job {n}" in each["text"] for each in digests)
    assert world.counted[("webhook", "merged")] == sum(each["alerts"] for each in digests)


async def test_an_alert_about_offbeat_itself_waits_for_no_storm(world: Scene, receiver: Receiver) -> None:
    """No digest holds it, and new first alerts come all the time."""
    channel = await world.channel("hook", "webhook", url=receiver.url)
    operator = {"monitor": None, "name": None, "cause": "deaf", "reason": "Offbeat could not receive pings for 12 s"}
    async with world.dispatcher() as dispatcher:
        await at_work(dispatcher)
        storms = 0
        while "offbeat.operator" not in types(receiver):  # the storm does not end before
            assert storms < STORMS_MAX
            await world.alerts(channel, 10, first=1 + 10 * storms)
            await world.pool.execute("update alerts set urgent = true")
            if storms == 1:
                await world.alert(channel, None, None, kind="operator", facts=operator, urgent=True)
            dispatcher.wake()
            storms += 1
            await asyncio.sleep(0.25)  # sleep: the pace of the storm
        assert await world.settled() == {"delivered": 10 * storms + 1}
    [alert] = [r for r in receiver.requests if r.json["type"] == "offbeat.operator"]
    assert "12 s" in alert.json["data"]["text"]


async def test_every_explicit_failure_is_named_with_its_reason_however_many_there_are(
    world: Scene, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_digest_until_later(monkeypatch)  # one message does not wait for the next
    channel = await world.channel("hook", "webhook", url=receiver.url)
    for monitor in range(1, 51):
        facts: dict[str, Any] = {"name": f"backup-{monitor}x", "cause": "failed"}
        facts["reason"] = f"failed with exit code {monitor}"
        if monitor % 10 == 7:  # the job said `success`, and parts of its run were missing
            cause = {"cause": "incomplete", "reason": facts["reason"], "run": None, "stage": None}
            facts |= {"cause": "incomplete", "causes": [cause]}
        await world.alert(channel, monitor, facts=facts)
        if monitor % 2:
            await world.alert(channel, monitor, kind="resolved", facts=facts)
        if monitor % 5 == 0:  # what followed a silence counts as well
            await world.pool.execute(
                'update alerts set facts = facts || \'{"cause": "missed", "reason": "no ping"}\' '
                "where monitor_id = $1 and kind = 'opened'",
                monitor,
            )
            await world.alert(channel, monitor, kind="worse", facts=facts)
    await world.alerts(channel, 2_000, first=1_001)
    async with world.dispatcher() as dispatcher:
        dispatcher.wake()
        assert await world.settled() == {"delivered": 2_085}
    text = "\n".join(r.json["data"]["text"] for r in receiver.requests)
    for monitor in range(1, 51):
        times = r" \S+" if monitor % 2 else ""
        assert re.search(rf"FAILED(, RECOVERED)? backup-{monitor}x{times}: failed with exit code {monitor}\b", text)
    assert len(receiver.requests) <= 4


@pytest.mark.parametrize("trouble", ["hangs", "fails", "is slow"])
@pytest.mark.parametrize("digest", [True, False])
async def test_nothing_vanishes_while_its_receiver_is_in_trouble(
    world: Scene, receiver: Receiver, short_gaps: None, trouble: str, digest: bool
) -> None:
    receiver.behaviour = {
        "hangs": Behaviour(hang=True),
        "fails": Behaviour(status=503),
        "is slow": Behaviour(delay_s=0.3),
    }[trouble]
    channel = await world.channel("hook", "webhook", url=receiver.url, digest=digest, per_minute=6_000)
    async with world.dispatcher() as dispatcher:
        dispatcher.attempts._out.send_timeout_s = 1.0
        for incident in range(1, 4):
            await flap(world, dispatcher, channel, 4, incident)
            await receiver.wait_count(1)
            await asyncio.sleep(0.3)  # sleep: the pace of the storm
        receiver.behaviour = Behaviour()
        assert await world.settled() == {"delivered": 24}
    taken = [r.json for r in receiver.requests]
    if digest:
        names = {f"Job {n}" for n in range(101, 105)}
        assert all(any(name in each["data"]["text"] + each["data"]["title"] for each in taken) for name in names)
    else:
        ends = {(each["data"]["monitor"], each["data"]["incident"], each["type"]) for each in taken}
        assert len(ends) == 24


async def test_what_is_over_before_it_was_sent_is_an_incident_that_opens_and_closes_at_a_service_that_keeps_them(
    world: Scene, receiver: Receiver, short_gaps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offbeat_server.notify.channels.pagerduty._HOSTS", {"us": receiver.url})
    channel = await world.channel("pager", "pagerduty", routing_key="r" * 32)
    await world.incidents(1, 2)
    await world.pool.execute("update incidents set resolved_at = now()")
    for monitor in (1, 2):
        await world.alert(channel, monitor, facts={"name": f"job-{monitor}"})
        await world.alert(channel, monitor, kind="resolved")
    async with world.dispatcher(start=False) as dispatcher:
        dispatcher.periodic.over_every_s = 0.1
        await dispatcher.start()
        await receiver.wait_count(2)
        assert await world.settled() == {"delivered": 4}
    trigger, resolve = (r.json for r in receiver.requests)
    assert (trigger["event_action"], resolve["event_action"]) == ("trigger", "resolve")
    assert trigger["dedup_key"] == resolve["dedup_key"]
    assert all(f"job-{n}" in str(trigger["payload"]["custom_details"]) for n in (1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("digest", [True, pytest.param(False, marks=pytest.mark.long)])
async def test_half_an_hour_of_failures_in_a_minute_leaves_no_incident_without_alert(
    world: Scene, receiver: Receiver, short_gaps: None, digest: bool
) -> None:
    """213 monitors, 3 000 incidents of seconds, half of them explicit failures, on one channel whose receiver fails."""
    channel = await world.channel("hook", "webhook", url=receiver.url, per_minute=60_000, digest=digest)
    chance = random.Random(7)
    async with world.dispatcher() as dispatcher:
        dispatcher.flapping.hold_s = 1.0
        for incident in range(1, 15):
            receiver.behaviour = Behaviour(status=503 if incident % 4 == 0 else 200, delay_s=chance.random() / 50)
            for kind in ("opened", "resolved"):
                await world.alerts(channel, 213, kind=kind, incident=incident)
                dispatcher.wake()
                await asyncio.sleep(chance.random() / 2)
        receiver.behaviour = Behaviour()
        states = await world.settled()
    assert states == {"delivered": 2 * 14 * 213}
    rows = await world.pool.fetch(
        "select a.uid, d.uid as digest from alerts a left join digests d on d.id = a.digest_id where a.kind = 'opened'"
    )
    arrived = set(ids(receiver))
    without_alert = [
        r for r in rows if (f"digest_{r['digest'].hex}" if r["digest"] else f"alert_{r['uid'].hex}") not in arrived
    ]
    assert len(rows) == 14 * 213 and not without_alert
    if digest:
        assert len(set(arrived)) < 400


async def test_a_storm_before_the_first_statistics_costs_what_it_holds(world: Scene) -> None:
    """Without them the planner takes the outbox for empty, and must not compare all alerts with all."""
    await world.pool.execute("alter table alerts set (autovacuum_enabled = off)")
    channel = await world.channel("hook", "webhook", url="http://127.0.0.1:9")
    await world.alerts(channel, 2_000)
    statement = load("outbox")
    async with world.pool.acquire() as connection, connection.transaction():
        await connection.execute(statement["own_plans"])
        explain = "explain (analyze, timing off) " + statement["attach"]
        plan = await connection.fetch(explain, channel, 50_000, 6, True, True, "rest", 20)
    compared = [int(row[0].split()[-1]) for row in plan if "Rows Removed by Join Filter" in row[0]]
    assert sum(compared) <= 2_000, "\n".join(row[0] for row in plan)
