"""Alerts arrive: once, in order, whatever the receiver does."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from aiohttp import web

from server.clock import to_micros
from server.deliver.attempts import SENDING_MAX
from server.engine.durations import write_duration
from server.engine.ping import SECOND
from server.store.outbox import page_alerts, resend
from tests.harness import Behaviour, Receiver, eventually
from tests.outbox_scene import Scene, scene


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[Scene]:
    async with scene(database_url) as made:
        yield made


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as made:
        yield made


@pytest.fixture
def short_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two digests of a lane a quarter of a second, not five and more."""
    monkeypatch.setattr("server.deliver.lane.DIGEST_GAPS_S", (0.25,))


def ids(receiver: Receiver) -> list[str]:
    return [request.headers["webhook-id"] for request in receiver.requests]


def types(receiver: Receiver) -> list[str]:
    return [request.json["type"] for request in receiver.requests]


async def test_an_alert_is_delivered_and_settled(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=f"{receiver.url}/hook")
    async with world.courier():
        id = await world.alert(channel)
        request = await receiver.wait_for(lambda r: True)
        await world.settled()
    row = await world.row(id)
    assert request.json["type"] == "incident.opened"
    assert request.json["data"]["monitor"] == "job-1"
    assert request.headers["webhook-id"].startswith("alert_") and request.headers["webhook-id"].endswith(f"_{id}")
    assert (row["state"], row["attempts"], row["claimed_by"]) == ("delivered", 1, None)
    assert len(receiver.requests) == 1
    assert world.counted == {("webhook", "delivered"): 1}


async def test_a_wake_up_sends_at_once(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.courier() as courier:
        await eventually(lambda: _true(courier.at_work))
        delays = []
        for monitor in range(4):
            began = time.monotonic()
            await world.alert(channel, monitor)
            courier.wake()
            await receiver.wait_count(monitor + 1)
            delays.append(time.monotonic() - began)
    assert statistics.median(delays) < 0.25, delays


async def test_a_passing_failure_is_tried_again_with_the_same_id_and_body(world: Scene, receiver: Receiver) -> None:
    receiver.script.extend([Behaviour(status=500), Behaviour(reset=True)])
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.courier():
        id = await world.alert(channel)
        await receiver.wait_count(3)
        await world.settled()
    row = await world.row(id)
    assert (row["state"], row["attempts"], row["error"]) == ("delivered", 3, None)
    assert len(set(ids(receiver))) == 1 and len({r.body for r in receiver.requests}) == 1
    assert world.counted == {("webhook", "retried"): 2, ("webhook", "delivered"): 1}


async def test_retry_after_is_honoured(world: Scene, receiver: Receiver) -> None:
    receiver.script.append(Behaviour(status=429, headers={"Retry-After": "2"}))
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.courier():
        await world.alert(channel)
        first, second = await receiver.wait_count(2)
    assert 1.9 < second.at - first.at < 4


async def test_a_final_answer_is_not_tried_again_but_can_be_sent_again(world: Scene, receiver: Receiver) -> None:
    receiver.script.append(Behaviour(status=410))
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.courier() as courier:
        id = await world.alert(channel)
        assert await world.settled() == {"dead": 1}
        row = await world.row(id)
        assert row["error"] == "the receiver answered 410" and row["attempts"] == 1
        [shown] = await page_alerts(world.pool, states=["dead"])
        assert (shown["id"], shown["channel"], shown["channel_kind"]) == (id, "hook", "webhook")
        assert not await resend(world.pool, id + 1)
        assert await resend(world.pool, id)
        courier.wake()
        await receiver.wait_count(2)
        await world.settled()
    assert (await world.row(id))["state"] == "delivered"
    assert len(set(ids(receiver))) == 1
    assert world.counted[("webhook", "dead")] == 1


async def test_what_is_too_old_expires_unsent(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    id = await world.alert(channel)
    await world.pool.execute("update alerts set expires_at = now() - interval '1 second'")
    async with world.courier():
        assert await world.settled() == {"expired": 1}
        assert await resend(world.pool, id)
        await receiver.wait_count(1)
    assert world.counted[("webhook", "expired")] == 1


async def test_a_resolve_never_overtakes_its_open(world: Scene, receiver: Receiver) -> None:
    receiver.script.extend([Behaviour(status=503), Behaviour(status=503)])
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.courier():
        await world.alert(channel)
        await receiver.wait_count(1)
        await world.alert(channel, kind="worse")
        await world.alert(channel, kind="resolved")
        await receiver.wait_count(5)
        await world.settled()
    assert types(receiver) == ["incident.opened"] * 3 + ["incident.worse", "incident.resolved"]


async def test_channels_do_not_wait_for_each_other(world: Scene, receiver: Receiver) -> None:
    """The order holds per channel: the one that works is told of the end while the other has not heard of the start."""
    async with Receiver(Behaviour(status=503)) as broken, world.courier():
        good = await world.channel("good", "webhook", url=receiver.url)
        bad = await world.channel("bad", "webhook", url=broken.url)
        for kind in ("opened", "resolved"):
            await world.alert(good, kind=kind)
            await world.alert(bad, kind=kind)
            await receiver.wait_count(1 if kind == "opened" else 2)
        await broken.wait_count(2)
    assert set(types(broken)) == {"incident.opened"}


async def test_an_open_never_tried_and_its_resolve_cancel_out(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    await world.alert(channel)
    await world.alert(channel, kind="worse")
    await world.alert(channel, kind="resolved")
    other = await world.alert(channel, monitor=2)
    async with world.courier():
        assert await world.settled() == {"collapsed": 3, "delivered": 1}
    assert len(receiver.requests) == 1 and ids(receiver)[0].endswith(f"_{other}")
    assert world.counted[("webhook", "collapsed")] == 3


async def test_an_open_that_was_tried_and_its_resolve_do_not_cancel_out(world: Scene, receiver: Receiver) -> None:
    receiver.script.append(Behaviour(reset=True))
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.courier():
        await world.alert(channel)
        await receiver.wait_count(1)
        await world.alert(channel, kind="resolved")
        await receiver.wait_count(3)
        assert await world.settled() == {"delivered": 2}


async def test_a_poisoned_alert_is_set_aside(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    poison = await world.alert(channel, monitor=1, facts={"tags": 7})
    good = [await world.alert(channel, monitor=n) for n in (2, 3)]
    async with world.courier():
        assert await world.settled() == {"dead": 1, "delivered": 2}
    assert (await world.row(poison))["error"].startswith("cannot be put into words")
    assert sorted(ids(receiver)) == sorted(i for i in ids(receiver) if i.endswith(tuple(f"_{id}" for id in good)))


async def test_a_poisoned_alert_does_not_keep_a_digest_from_being_told(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "alertmanager", urls=[receiver.url])
    await world.alerts(channel, 20)
    poison = await world.alert(channel, monitor=99, facts={"tags": 7})
    async with world.courier():
        assert await world.settled() == {"dead": 1, "delivered": 20}
    assert (await world.row(poison))["state"] == "dead"


async def test_an_alert_that_killed_its_senders_is_left_alone_longer_and_longer(
    world: Scene, receiver: Receiver
) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    id = await world.alert(channel)
    async with world.courier(start=False) as courier:
        waits = []
        for _ in range(6):
            await world.pool.execute("update alerts set next_attempt_at = now()")
            [due] = await courier.outbox.due(-1, [], 6, 10)
            [row] = await courier.outbox.claim([due], 10)
            waits.append(
                await world.pool.fetchval(
                    "select extract(epoch from next_attempt_at - clock_timestamp())::float8 from alerts"
                )
            )
        assert row.id == id and row.lapses == 5
        assert [round(wait, -1) for wait in waits] == [10, 10, 10, 20, 40, 80]


async def test_the_log_channel_and_the_servers_own_log(world: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    channel = await world.pool.fetchval("select id from channels where slug = 'log'")
    async with world.courier():
        await world.alert(channel, facts={"name": "Nightly ETL"})
        await world.alert(None, None, None, kind="operator", facts={"monitor": None, "name": None, "reason": "deaf"})
        assert await world.settled() == {"delivered": 2}
    said = capfd.readouterr().out
    assert "DOWN: Nightly ETL" in said and "Offbeat: deaf" in said
    assert world.counted[("log", "delivered")] == 2


async def test_alerts_of_deleted_and_unreadable_channels_are_dead_with_the_reason(
    world: Scene, receiver: Receiver
) -> None:
    gone = await world.alert(4711)
    unreadable = await world.alert(await world.channel("odd", "webhook", adress="x"))
    unknown = await world.alert(await world.channel("new", "pigeon"))
    good = await world.alert(await world.channel("hook", "webhook", url=receiver.url))
    async with world.courier():
        assert await world.settled() == {"dead": 3, "delivered": 1}
    assert (await world.row(gone))["error"] == "the channel was deleted"
    assert "url: Field required" in (await world.row(unreadable))["error"]
    assert "pigeon" in (await world.row(unknown))["error"]
    assert (await world.row(good))["state"] == "delivered"


async def test_a_changed_channel_holds_for_the_next_attempt(world: Scene, receiver: Receiver) -> None:
    async with Receiver(Behaviour(status=500)) as old, world.courier():
        channel = await world.channel("hook", "webhook", url=old.url)
        await world.alert(channel)
        await old.wait_count(1)
        await world.pool.execute("update channels set definition = $1::jsonb", {"url": receiver.url})
        await receiver.wait_count(1)


async def test_a_rate_limit_holds(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url, per_minute=60, digest=False)
    await world.alerts(channel, 30)
    async with world.courier():
        arrived = [request.at for request in await receiver.wait_count(8)]
    assert arrived[5] - arrived[0] < 1 < arrived[7] - arrived[5] < 4  # six at once, then one a second


async def test_without_digests_everything_goes_one_by_one(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url, per_minute=6000, digest=False)
    await world.alerts(channel, 50)
    async with world.courier():
        assert await world.settled() == {"delivered": 50}
    assert len(set(ids(receiver))) == len(receiver.requests) == 50


async def test_a_test_goes_at_once_past_a_lane_that_rests(world: Scene, receiver: Receiver) -> None:
    receiver.script.extend([Behaviour(status=503, headers={"Retry-After": "60"}), Behaviour(status=500), Behaviour()])
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.courier() as courier:
        await world.alert(channel)
        await receiver.wait_count(1)
        outcomes = []
        for _ in range(2):
            id = await world.alert(channel, None, None, kind="test", facts={"monitor": None, "name": None})
            courier.wake()

            async def settled(id: int = id) -> bool:
                return bool((await world.row(id))["state"] != "pending")

            await eventually(settled, 3)
            row = await world.row(id)
            outcomes.append((row["state"], row["attempts"], row["error"]))
    assert outcomes == [("dead", 1, "the receiver answered 500"), ("delivered", 1, None)]
    assert types(receiver)[1:3] == ["offbeat.test"] * 2


# ------------------------------------------------------------------------------------------------------- a hanging one


async def test_however_many_receivers_hang_they_delay_no_other(world: Scene, receiver: Receiver) -> None:
    """The p95 of a healthy channel beside more hanging ones than attempts may begin at once is what it is alone."""

    async def p95() -> float:
        delays = []
        for _ in range(20):
            began = time.monotonic()
            count = len(receiver.requests)
            await world.alert(healthy, monitor=next(numbers))
            courier.wake()
            await receiver.wait_count(count + 1)
            delays.append(time.monotonic() - began)
        return statistics.quantiles(delays, n=20)[-1]

    numbers = iter(range(1, 1000))
    healthy = await world.channel("healthy", "webhook", url=receiver.url, per_minute=60000, digest=False)
    async with Receiver(Behaviour(hang=True)) as hanging, world.courier() as courier:
        await eventually(lambda: _true(courier.at_work))
        alone = await p95()
        for n in range(SENDING_MAX + 50):
            stuck = await world.channel(f"stuck-{n}", "webhook", url=f"{hanging.url}/{n}", digest=False)
            await world.alerts(stuck, 2)
        courier.wake()
        await hanging.wait_count(SENDING_MAX)
        beside = await p95()
        print(f"p95 alone {alone * 1000:.0f} ms, beside {SENDING_MAX + 50} hanging ones {beside * 1000:.0f} ms")
    assert beside < max(1.5 * alone, 0.3)


# ------------------------------------------------------------------------------------------------------------- couriers


async def test_two_couriers_send_nothing_twice(world: Scene, receiver: Receiver) -> None:
    channels = [await world.channel(f"hook-{n}", "webhook", url=f"{receiver.url}/{n}") for n in range(50)]
    async with world.courier("one") as one, world.courier("two") as two:
        await eventually(lambda: _true(one.at_work or two.at_work))
        for channel in channels:
            await world.alerts(channel, 4)
        assert await world.settled() == {"delivered": 200}
        assert not (one.at_work and two.at_work)
    assert len(set(ids(receiver))) == len(receiver.requests) == 200


async def test_the_next_courier_takes_over_when_one_stops(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.courier("two", start=False) as two:
        two.pulse_s = 0.1
        async with world.courier("one") as one:
            await eventually(lambda: _true(one.at_work))
            await two.start()
            await world.alert(channel, 1)
            await receiver.wait_count(1)
            assert not two.at_work
        stopped = time.monotonic()
        await world.alert(channel, 2)
        await receiver.wait_count(2)
        assert time.monotonic() - stopped < 2


async def test_the_courier_beside_the_keeper_goes_first(world: Scene) -> None:
    async with world.courier("one", start=False) as one, world.courier("two", start=False) as two:
        assert await one.outbox.take_over(60)
        assert not await two.outbox.take_over(60)
        await world.pool.execute(
            "update lease set node = 'two', expires_at = now() + interval '1 minute' where name = 'keeper'"
        )
        assert await two.outbox.take_over(60)
        assert not await one.outbox.take_over(60)
        assert await two.outbox.take_over(60)


async def test_a_stop_gives_back_what_was_not_finished(world: Scene, receiver: Receiver) -> None:
    async with Receiver(Behaviour(hang=True)) as hanging:
        channel = await world.channel("hook", "webhook", url=hanging.url)
        async with world.courier():
            id = await world.alert(channel)
            await hanging.wait_count(1)
            assert (await world.row(id))["claimed_by"] is not None
        row = await world.row(id)
        assert row["claimed_by"] is None and row["state"] == "pending"
        assert await world.pool.fetchval("select next_attempt_at <= now() from alerts")
        await world.pool.execute("update channels set definition = $1::jsonb", {"url": receiver.url})
        async with world.courier():
            await receiver.wait_count(1)


async def test_a_claim_is_renewed_while_it_is_being_sent(world: Scene) -> None:
    async with Receiver(Behaviour(delay_s=2.5)) as slow, world.courier(start=False) as courier:
        courier.lease_s, courier.pulse_s = 1.0, 0.3
        await courier.start()
        id = await world.alert(await world.channel("hook", "webhook", url=slow.url))
        await slow.wait_count(1)
        await world.settled()
        row = await world.row(id)
        assert (row["attempts"], row["lapses"], len(slow.requests)) == (1, 0, 1)


async def test_outcomes_survive_a_loss_of_the_database(world: Scene, receiver: Receiver) -> None:
    """All connections are cut while alerts are being sent: none is lost, none is sent twice."""
    receiver.behaviour = Behaviour(delay_s=0.5)
    channels = [await world.channel(f"hook-{n}", "webhook", url=f"{receiver.url}/{n}") for n in range(20)]
    async with world.courier():
        for channel in channels:
            await world.alert(channel)
        await receiver.wait_count(10)
        await world.pool.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )

        async def all_settled() -> bool:
            try:
                return not (await world.states())["pending"]
            except OSError:
                return False

        await eventually(all_settled, timeout_s=20)
    assert len(set(ids(receiver))) == len(receiver.requests) == 20


# ------------------------------------------------------------------------------------------------------------- digests


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
    digest = await world.pool.fetchrow("select * from digests")
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
    assert (await world.states()) == {"pending": 10, "delivered": 1}


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
        await eventually(lambda: _true(courier.at_work))
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
        await eventually(lambda: _true(courier.at_work))
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
    await world.pool.execute(
        "insert into incidents (monitor_id, number, project_id, opened_at, decided_at, cause, reason, causes) "
        "select n, 1, 1, now(), now(), 'missed', 'no ping', '[]' from generate_series(1, 11) n"
    )
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


# ------------------------------------------------------------------------------------------------ flapping, reminders


async def test_flapping_is_said_and_held_back(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url, digest=False)
    async with world.courier() as courier:
        courier.flapping.hold_s = 1.5
        for incident in range(1, 6):
            await world.alert(channel, incident=incident)
            await receiver.wait_count(2 * incident - 1)
            await world.alert(channel, incident=incident, kind="resolved")
            await receiver.wait_count(2 * incident)
        fifth = receiver.requests[8].json["data"]
        assert fifth["flapping"] == {"incidents": 5, "hold_s": 1.5, "held": False}
        assert "5 incidents within an hour; the next ones are held back" in fifth["text"]
        # The sixth resolves while it waits: nobody is told.
        await world.alert(channel, incident=6)
        await eventually(lambda: _held(world))
        await world.alert(channel, incident=6, kind="resolved")
        await world.settled()
        assert len(receiver.requests) == 10
        assert (await world.states())["collapsed"] == 2
        # The seventh stays open: told late, and why.
        began = time.monotonic()
        await world.alert(channel, incident=7)
        await receiver.wait_count(11)
        assert time.monotonic() - began > 1.4
        assert "held back for 1.5 s and is still open" in receiver.requests[10].json["data"]["text"]


async def test_reminders_until_it_is_acknowledged(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url, digest=False)
    await world.pool.execute(
        "insert into monitors (id, project_id, rev, slug, name, definition) overriding system value "
        "values (1, 1, 1, 'job-1', 'Job 1', '{\"remind_every\": \"1s\"}')"
    )
    await world.pool.execute(
        "insert into incidents (monitor_id, number, project_id, opened_at, decided_at, cause, reason, causes) "
        "values (1, 1, 1, now(), now(), 'missed', 'no ping', '[]')"
    )
    async with world.courier(start=False) as courier:
        courier.repeats.remind_every_s = 0.1
        await courier.start()
        await world.alert(channel)
        await receiver.wait_count(3)
        _, second, third = receiver.requests[:3]
        assert types(receiver)[:3] == ["incident.opened", "incident.reminder", "incident.reminder"]
        assert second.json["data"]["title"] == "STILL DOWN: Job 1"
        assert 0.9 < third.at - second.at < 3
        # The keeper's own next word stands behind the reminders.
        await world.alert(channel, kind="worse")
        await receiver.wait_for(lambda r: r.json["type"] == "incident.worse")
        await world.pool.execute("update incidents set acknowledged_at = now()")
        await world.settled()
        count = len(receiver.requests)
        await asyncio.sleep(1.5)
        assert len(receiver.requests) <= count + 1
    assert len(set(ids(receiver))) == len(receiver.requests)


@pytest.mark.parametrize(
    "quiet",
    [
        "update monitors set paused = true",
        "update monitors set snoozed_until = now() + interval '1 hour'",
        "update monitors set definition = definition || '{\"channels\": []}'",
        "update incidents set suppressed_by = 7",
        "update incidents set resolved_at = now()",
        "update alerts set state = 'dead'",
        "insert into windows (project_id, rev, slug, definition) values "
        '(1, 1, \'move\', \'{"monitors": ["job-*"], "start": "2020-01-01T00:00:00Z", "end": "2099-01-01T00:00:00Z"}\')',
    ],
)
async def test_no_reminder_where_there_should_be_none(world: Scene, receiver: Receiver, quiet: str) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    await world.pool.execute(
        "insert into monitors (id, project_id, rev, slug, name, definition) overriding system value "
        "values (1, 1, 1, 'job-1', 'Job 1', '{\"remind_every\": \"1s\"}')"
    )
    await world.pool.execute(
        "insert into incidents (monitor_id, number, project_id, opened_at, decided_at, cause, reason, causes) "
        "values (1, 1, 1, now(), now(), 'missed', 'no ping', '[]')"
    )
    await world.alert(channel, state="delivered")
    await world.pool.execute("update alerts set settled_at = now() - interval '1 hour'")
    await world.pool.execute(quiet)
    async with world.courier(start=False) as courier:
        assert await courier.outbox.remind(10, to_micros(datetime.now(UTC))) == 0


async def test_every_way_in_which_a_length_is_stored_is_one_to_postgres(world: Scene) -> None:
    """One that is not would keep all reminders of the server from being found."""
    for length in (1, 1_500, 90 * SECOND, 93_784_005_000, 36 * 86_400 * SECOND, 5_400 * SECOND):
        text = write_duration(length)
        read = await world.pool.fetchval("select extract(epoch from $1::text::interval) * 1000000", text)
        assert read == length, text


async def test_old_alerts_are_swept_but_never_those_of_an_open_incident(world: Scene) -> None:
    channel = await world.channel("hook", "webhook", url="http://127.0.0.1:9")
    for incident in (1, 2):
        await world.alert(channel, incident=incident, state="delivered")
    await world.pool.execute("update alerts set settled_at = now() - interval '40 days'")
    await world.pool.execute(
        "insert into incidents (monitor_id, number, project_id, opened_at, decided_at, cause, reason, causes) "
        "values (1, 2, 1, now(), now(), 'missed', 'no ping', '[]')"
    )
    async with world.courier(start=False) as courier:
        assert await courier.outbox.sweep(30, 100) == 1
        assert await world.pool.fetchval("select incident from alerts") == 2


class Refusing(Receiver):
    """Takes everything but digests."""

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.behaviour = Behaviour(status=500 if b"offbeat.digest" in await request.read() else 200)
        return await super()._handle(request)


async def _true(value: bool) -> bool:
    return value


async def _held(world: Scene) -> bool:
    return bool(
        await world.pool.fetchval(
            "select count(*) from alerts where incident = 6 and attempts = 0 and next_attempt_at > now()"
        )
    )
