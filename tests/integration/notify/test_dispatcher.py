"""Alerts arrive: once, in order, with any behaviour of the receiver."""

import asyncio
import math
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.db.repositories.outbox import WantedAlerts, page_alerts, resend
from offbeat_server.notify.attempts import SENDING_MAX
from offbeat_server.notify.dispatcher import Dispatcher
from offbeat_server.web.ui.pages import incidents
from tests.support.harness import HANG_S, Behaviour, Postgres, Receiver, eventually
from tests.support.outbox import Scene, at_work, ids, scene, types
from tests.support.postgres.link import Link


@pytest.mark.quick
async def test_an_alert_is_delivered_and_settled(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=f"{receiver.url}/hook")
    async with world.dispatcher():
        id = await world.alert(channel)
        request = await receiver.wait_for(lambda r: True)
        await world.settled()
    row = await world.row(id)
    assert request.json["type"] == "incident.opened"
    assert request.json["data"]["monitor"] == "job-1"
    assert request.headers["webhook-id"] == f"alert_{row['uid'].hex}"
    assert (row["state"], row["attempts"], row["claimed_by"]) == ("delivered", 1, None)
    assert len(receiver.requests) == 1
    assert world.counted == {("webhook", "delivered"): 1}


async def test_a_copy_of_a_database_uses_no_id_of_the_original_again(postgres: Postgres, receiver: Receiver) -> None:
    """As after a restore or a failover: the numbers of rows continue from those of the copy."""
    rows = []
    async with postgres.fresh() as url, AsyncExitStack() as stack:
        async with scene(url) as world:
            channel = await world.channel("hook", "webhook", url=receiver.url)
        copy = await stack.enter_async_context(postgres.fresh(template=url))
        for each in (url, copy):
            async with scene(each) as world, world.dispatcher():
                rows.append(await world.alert(channel))
                await world.settled()
    assert rows[0] == rows[1] and len(set(ids(receiver))) == 2


async def test_a_wake_up_sends_at_once(world: Scene, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offbeat_server.notify.dispatcher.POLL_S", 3600.0)  # so only a wake-up sends
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.dispatcher() as dispatcher:
        await at_work(dispatcher)
        for monitor in range(4):
            await world.alert(channel, monitor)
            dispatcher.wake()
            await receiver.wait_count(monitor + 1)


async def test_a_passing_failure_is_tried_again_with_the_same_id_and_body(world: Scene, receiver: Receiver) -> None:
    receiver.script.extend([Behaviour(status=500), Behaviour(reset=True)])
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.dispatcher():
        id = await world.alert(channel)
        await receiver.wait_count(3)
        await world.settled()
    row = await world.row(id)
    assert (row["state"], row["attempts"], row["error"]) == ("delivered", 3, None)
    assert len(set(ids(receiver))) == 1 and len({r.body for r in receiver.requests}) == 1
    assert world.counted == {("webhook", "retried"): 2, ("webhook", "delivered"): 1}


async def test_retry_after_is_honoured(world: Scene, receiver: Receiver) -> None:
    receiver.script.extend([Behaviour(status=429, headers={"Retry-After": str(seconds)}) for seconds in (2, 600)])
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.dispatcher():
        id = await world.alert(channel)

        async def settled_twice() -> datetime | None:
            row = await world.row(id)
            return row["next_attempt_at"] if row["attempts"] == 2 and row["claimed_by"] is None else None

        first, second = await receiver.wait_count(2)
        next_attempt = await eventually(settled_twice)
        assert next_attempt is not None
    assert second.at - first.at > 1.9
    assert 600 <= next_attempt.timestamp() - second.at <= 600 + time.time() - second.at


@pytest.mark.quick
async def test_a_final_answer_is_not_tried_again_but_can_be_sent_again(world: Scene, receiver: Receiver) -> None:
    receiver.script.append(Behaviour(status=410))
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.dispatcher() as dispatcher:
        id = await world.alert(channel)
        assert await world.settled() == {"dead": 1}
        row = await world.row(id)
        assert row["error"] == "the receiver answered 410" and row["attempts"] == 1
        [shown] = await page_alerts(world.pool, states=["dead"])
        assert (shown["id"], shown["channel"], shown["channel_kind"]) == (id, "hook", "webhook")
        assert not await resend(world.pool, id + 1)
        assert await resend(world.pool, id)
        dispatcher.wake()
        await receiver.wait_count(2)
        await world.settled()
    assert (await world.row(id))["state"] == "delivered"
    assert len(set(ids(receiver))) == 1
    assert world.counted[("webhook", "dead")] == 1


async def test_alerts_that_are_requeued_are_sent_alone_and_in_order(world: Scene, receiver: Receiver) -> None:
    """Neither is there a digest, nor is a flapping monitor held back."""
    channel = await world.channel("hook", "webhook", url=receiver.url)
    opened = [await world.alert(channel, incident=number, state="dead") for number in range(1, 9)]
    resolved = await world.alert(channel, incident=8, kind="resolved", state="dead")
    for id in (resolved, *opened):
        assert await resend(world.pool, id)
    incident: Any = dict.fromkeys(("cause", "reason", "causes"), "") | {"monitor_id": 1, "number": 8}
    incident |= {"opened_at": datetime.now(UTC), "resolved_at": None, "held": []}
    shown = (await incidents.context(world.pool, incident, 0, True))["events"]
    assert [event.title for event in shown if event.look == "pending"] == ["Alert to channel hook pending"] * 2
    async with world.dispatcher():
        assert await world.settled() == {"delivered": 9}
    assert len(receiver.requests) == 9
    last = [request.json["type"] for request in receiver.requests if request.json["data"]["incident"] == 8]
    assert last == ["incident.opened", "incident.resolved"]


async def test_what_is_too_old_expires_unsent(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    id = await world.alert(channel)
    await world.pool.execute("update alerts set expires_at = now() - interval '1 second'")
    async with world.dispatcher():
        assert await world.settled() == {"expired": 1}
        assert await resend(world.pool, id)
        await receiver.wait_count(1)
    assert world.counted[("webhook", "expired")] == 1


async def test_what_was_not_sent_proves_nothing_of_its_channel(world: Scene) -> None:
    async with Receiver(Behaviour(status=500)) as bad, world.dispatcher() as dispatcher:
        channel = await world.channel("hook", "webhook", url=bad.url)
        await world.alert(channel, 1)
        await bad.wait_count(1)
        old = await world.alert(channel, 2, attempts=1, expires_at=datetime.now(UTC))
        poison = await world.alert(channel, 3, attempts=1, facts={"tags": 7})

        async def both_are_settled() -> bool:
            return [(await world.row(id))["state"] for id in (old, poison)] == ["expired", "dead"]

        await eventually(both_are_settled)
        lane = dispatcher.queues.find(channel)
        assert lane is not None and lane.circuit_open and not lane.known_good
        assert not dispatcher.queues.is_known_good(channel)


@pytest.mark.quick
async def test_a_resolve_never_overtakes_its_open(world: Scene, receiver: Receiver) -> None:
    receiver.script.extend([Behaviour(status=503), Behaviour(status=503)])
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.dispatcher():
        await world.alert(channel)
        await receiver.wait_count(1)
        await world.alert(channel, kind="worse")
        await world.alert(channel, kind="resolved")
        await receiver.wait_count(5)
        await world.settled()
    assert types(receiver) == ["incident.opened"] * 3 + ["incident.worse", "incident.resolved"]


async def test_channels_do_not_wait_for_each_other(world: Scene, receiver: Receiver) -> None:
    """The order holds per channel: the one that works gets the end while the other has not got the beginning."""
    async with Receiver(Behaviour(status=503)) as broken, world.dispatcher():
        good = await world.channel("good", "webhook", url=receiver.url)
        bad = await world.channel("bad", "webhook", url=broken.url)
        for kind in ("opened", "resolved"):
            await world.alert(good, kind=kind)
            await world.alert(bad, kind=kind)
            await receiver.wait_count(1 if kind == "opened" else 2)
        await broken.wait_count(2)
    assert set(types(broken)) == {"incident.opened"}


async def test_an_incident_that_ended_before_its_alert_was_sent_is_one_message(
    world: Scene, receiver: Receiver
) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    await world.alert(channel)
    await world.alert(channel, kind="worse")
    await world.alert(channel, kind="resolved")
    other = await world.alert(channel, monitor=2)
    async with world.dispatcher():
        assert await world.settled() == {"delivered": 4}
        *_, shown = await page_alerts(world.pool, monitor_id=1)
    one = next(r.json["data"] for r in receiver.requests if r.json["type"] == "offbeat.digest")
    assert (one["alerts"], one["recovered"], one["title"]) == (3, 1, "1 worse, 1 down and recovered within 50 min")
    assert "DOWN, RECOVERED Job 1 03:10:00–04:00:00: no ping by 03:10:00" in one["text"]
    assert sorted(types(receiver)) == ["incident.opened", "offbeat.digest"]
    assert f"alert_{(await world.row(other))['uid'].hex}" in ids(receiver)
    assert world.counted[("webhook", "merged")] == 3 and not world.counted[("webhook", "collapsed")]
    assert (shown["digest_alerts"], shown["recovered_unsent"]) == (3, True)


async def test_without_digests_both_are_sent_though_it_is_over(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url, digest=False)
    for monitor in range(1, 9):
        await world.alert(channel, monitor)
        await world.alert(channel, monitor, kind="resolved")
    async with world.dispatcher():
        assert await world.settled() == {"delivered": 16}
    seen: dict[str, list[str]] = {}
    for request in receiver.requests:
        seen.setdefault(request.json["data"]["monitor"], []).append(request.json["type"])
    assert len(seen) == 8 and all(each == ["incident.opened", "incident.resolved"] for each in seen.values())


async def test_an_opening_that_was_tried_and_its_recovery_are_sent_one_by_one(world: Scene, receiver: Receiver) -> None:
    receiver.script.append(Behaviour(reset=True))
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.dispatcher():
        await world.alert(channel)
        await receiver.wait_count(1)
        await world.alert(channel, kind="resolved")
        await receiver.wait_count(3)
        assert await world.settled() == {"delivered": 2}


async def test_an_end_is_not_sent_to_a_channel_that_the_beginning_did_not_reach(
    world: Scene, receiver: Receiver
) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    ends = []
    for monitor in range(1, 9):
        await world.alert(channel, monitor, state=("dead", "expired")[monitor % 2])
        ends.append(await world.alert(channel, monitor, kind="resolved"))
    await world.alert(channel, 20, state="delivered")
    await world.alert(channel, 20, kind="resolved")
    async with world.dispatcher():
        assert await world.settled() == {"dead": 4, "expired": 4, "collapsed": 8, "delivered": 2}
    [request] = receiver.requests
    assert request.json["data"]["monitor"] == "job-20"
    assert (await world.row(ends[0]))["error"] == "the opening did not reach this channel"


async def test_a_chat_that_has_moved_is_stored(world: Scene, receiver: Receiver) -> None:
    moved = b'{"ok":false,"description":"upgraded","parameters":{"migrate_to_chat_id":-1001557912345}}'
    receiver.script.append(Behaviour(status=400, body=moved))
    token = "12345:" + "x" * 30
    channel = await world.channel("tg", "telegram", token=token, chat=-7, api=receiver.url)
    async with world.dispatcher():
        for monitor in (1, 2):
            await world.alert(channel, monitor)
            await receiver.wait_count(1 + monitor)
        assert await world.settled() == {"delivered": 2}
    assert [r.json["chat_id"] for r in receiver.requests] == [-7, -1001557912345, -1001557912345]
    stored = await world.pool.fetchval("select definition from channels where id = $1", channel)
    assert stored == {"token": token, "chat": -1001557912345, "api": receiver.url}


async def test_a_channel_that_fails_for_minutes_is_reported_once_and_says_when_it_works(
    world: Scene, receiver: Receiver
) -> None:
    async with Receiver(Behaviour(status=503)) as broken, world.dispatcher(start=False) as dispatcher:
        dispatcher.periodic.catch_up_every_s = 0.1
        await dispatcher.start()
        bad = await world.channel("bad", "webhook", url=broken.url)
        await world.channel("good", "webhook", url=receiver.url)
        await world.pool.execute(
            "update channels set updated_at = now() - interval '1 hour', is_default = slug <> 'bad'"
        )
        await world.alert(bad, created_at=datetime.now(UTC) - timedelta(minutes=4))
        alert = await receiver.wait_for(lambda r: r.json["type"] == "offbeat.operator")
        assert "Alerts do not arrive at bad" in alert.json["data"]["reason"] and "503" in alert.json["data"]["reason"]

        async def failing() -> bool:
            return bool(await world.pool.fetchval("select failing_since is not null from channels where id = $1", bad))

        async def working() -> bool:
            return not await failing()

        assert await failing()
        broken.behaviour = Behaviour()
        assert await eventually(working)
    assert len(receiver.requests) == 1


async def test_a_poisoned_alert_is_set_aside(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    poison = await world.alert(channel, monitor=1, facts={"tags": 7})
    good = [await world.alert(channel, monitor=n) for n in (2, 3)]
    async with world.dispatcher(start=False) as dispatcher:
        dispatcher.periodic.catch_up_every_s = 0.1
        await dispatcher.start()
        assert await world.settled() == {"dead": 1, "delivered": 2}

        async def reports() -> list[tuple[str, str]]:
            rows = await world.pool.fetch("select state, facts ->> 'reason' from alerts where kind = 'operator'")
            return [tuple(row) for row in rows]

        async def is_reported() -> bool:
            return [state for state, _ in await reports()] == ["delivered"]

        assert await eventually(is_reported)  # to another channel, the log, and once
        [(_, reason)] = await reports()
        assert "Alerts do not arrive at hook" in reason and "cannot be rendered as a message" in reason
    assert (await world.row(poison))["error"].startswith("cannot be rendered as a message")
    assert set(ids(receiver)) == {f"alert_{(await world.row(id))['uid'].hex}" for id in good}


async def test_an_alert_that_cannot_be_rendered_does_not_stop_a_digest(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "alertmanager", urls=[receiver.url])
    await world.alerts(channel, 20)
    poison = await world.alert(channel, monitor=99, facts={"tags": 7})
    async with world.dispatcher():
        assert await world.settled() == {"dead": 1, "delivered": 20}
    assert (await world.row(poison))["state"] == "dead"


@pytest.mark.parametrize("kind", ["opened", "test"])
async def test_an_alert_that_killed_its_senders_is_left_alone_longer_and_longer(
    world: Scene, receiver: Receiver, kind: str
) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    id = await world.alert(channel, kind=kind)
    async with world.dispatcher(start=False) as dispatcher:
        waits = []
        for _ in range(6):
            await world.pool.execute("update alerts set next_attempt_at = now()")
            if kind == "test":
                [row] = await dispatcher.outbox.claim_tests(10, 10)
            else:
                [row] = await dispatcher.outbox.claim([WantedAlerts(channel, 1, 1, 1, False)], 10)
            waits.append(
                await world.pool.fetchval(
                    "select extract(epoch from next_attempt_at - clock_timestamp())::float8 from alerts"
                )
            )
        assert row.id == id and row.lapses == 5
        assert [round(wait, -1) for wait in waits] == [10, 10, 10, 20, 40, 80]


async def test_the_log_channel_and_the_servers_own_log(world: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    channel = await world.pool.fetchval("select id from channels where slug = 'log'")
    async with world.dispatcher():
        await world.alert(channel, facts={"name": "Nightly ETL"})
        await world.alert(
            None, None, None, kind="operator", facts={"monitor": None, "name": None, "reason": "an outage"}
        )
        assert await world.settled() == {"delivered": 2}
    output = capfd.readouterr().out
    assert "DOWN: Nightly ETL" in output and "Offbeat: an outage" in output
    assert world.counted[("log", "delivered")] == 2


async def test_alerts_of_deleted_and_unreadable_channels_are_dead_with_the_reason(
    world: Scene, receiver: Receiver
) -> None:
    gone = await world.alert(4711)
    unreadable = await world.alert(await world.channel("odd", "webhook", adress="x"))
    unknown = await world.alert(await world.channel("new", "pigeon"))
    good = await world.alert(await world.channel("hook", "webhook", url=receiver.url))
    async with world.dispatcher():
        assert await world.settled() == {"dead": 3, "delivered": 1}
    assert (await world.row(gone))["error"] == "the channel was deleted"
    assert "url: is missing" in (await world.row(unreadable))["error"]
    assert "pigeon" in (await world.row(unknown))["error"]
    assert (await world.row(good))["state"] == "delivered"


async def test_a_changed_channel_holds_for_the_next_attempt(world: Scene, receiver: Receiver) -> None:
    async with Receiver(Behaviour(status=500)) as old, world.dispatcher():
        channel = await world.channel("hook", "webhook", url=old.url)
        await world.alert(channel)
        await old.wait_count(1)
        await world.pool.execute("update channels set definition = $1::jsonb", {"url": receiver.url})
        await receiver.wait_count(1)


async def test_a_rate_limit_holds(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url, per_minute=60, digest=False)
    await world.alerts(channel, 30)
    began = time.time()
    async with world.dispatcher():
        arrived = [request.at for request in await receiver.wait_count(8)]
    # Five at once, then one a second: never more, and on a slow machine later. A sixth is left to urgent alerts.
    assert [n for n, at in enumerate(arrived) if at - began < n - 4.05] == []


async def test_a_changed_rate_holds_for_what_waits(world: Scene, receiver: Receiver) -> None:
    """Also in a lane that is never idle, because it has more to send than it may."""
    channel = await world.channel("hook", "webhook", url=receiver.url, per_minute=20, digest=False)
    await world.alerts(channel, 60)
    async with world.dispatcher():
        await receiver.wait_count(1)
        definition = {"url": receiver.url, "per_minute": 6_000, "digest": False}
        await world.pool.execute("update channels set definition = $1::jsonb where id = $2", definition, channel)
        await receiver.wait_count(60)
        assert await world.settled() == {"delivered": 60}
    assert HANG_S < 55 * 60 / 20, "by the old rate they would not have come in time"


async def test_without_digests_everything_goes_one_by_one(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url, per_minute=6000, digest=False)
    await world.alerts(channel, 50)
    async with world.dispatcher():
        assert await world.settled() == {"delivered": 50}
    assert len(set(ids(receiver))) == len(receiver.requests) == 50


async def test_a_test_alert_is_sent_at_once_while_its_channel_waits(world: Scene, receiver: Receiver) -> None:
    receiver.script.extend([Behaviour(status=503, headers={"Retry-After": "600"}), Behaviour(status=500), Behaviour()])
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.dispatcher() as dispatcher:
        await world.alert(channel)
        await receiver.wait_count(1)
        outcomes = []
        for _ in range(2):
            id = await world.alert(channel, None, None, kind="test", facts={"monitor": None, "name": None})
            dispatcher.wake()

            async def settled(id: int = id) -> bool:
                return bool((await world.row(id))["state"] != "pending")

            await eventually(settled)
            row = await world.row(id)
            outcomes.append((row["state"], row["attempts"], row["error"]))
    assert outcomes == [("dead", 1, "the receiver answered 500"), ("delivered", 1, None)]
    assert types(receiver)[1:3] == ["offbeat.test"] * 2


# ------------------------------------------------------------------------------------------------------- a hanging one


async def test_however_many_receivers_hang_they_delay_no_other(
    world: Scene, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel that is known to work needs none of the places that hanging receivers hold, not even for a moment."""
    monkeypatch.setattr("offbeat_server.notify.attempts.SLOW_AFTER_S", math.inf)  # their places do not become free
    monkeypatch.setattr("offbeat_server.notify.transport.http_client.SEND_TIMEOUT_S", 50.0)  # nor on a slow machine
    numbers = iter(range(1, 1000))
    healthy = await world.channel("healthy", "webhook", url=receiver.url, per_minute=60000, digest=False)

    async def deliver(dispatcher: Dispatcher) -> None:
        count = len(receiver.requests)
        await world.alert(healthy, monitor=next(numbers))
        dispatcher.wake()
        await receiver.wait_count(count + 1)

    async with Receiver(Behaviour(hang=True)) as hanging, world.dispatcher() as dispatcher:
        await at_work(dispatcher)
        await deliver(dispatcher)
        for n in range(SENDING_MAX + 50):
            stuck = await world.channel(f"stuck-{n}", "webhook", url=f"{hanging.url}/{n}", digest=False)
            await world.alerts(stuck, 2)
        dispatcher.wake()
        await hanging.wait_count(SENDING_MAX)
        for _ in range(5):
            await deliver(dispatcher)
        assert len(hanging.requests) == SENDING_MAX


# --------------------------------------------------------------------------------------------------------- dispatchers


async def test_two_dispatchers_send_nothing_twice(world: Scene, receiver: Receiver) -> None:
    channels = [await world.channel(f"hook-{n}", "webhook", url=f"{receiver.url}/{n}") for n in range(50)]
    async with world.dispatcher("one") as one, world.dispatcher("two") as two:
        await at_work(one, two)
        for channel in channels:
            await world.alerts(channel, 4)
        assert await world.settled() == {"delivered": 200}
        assert not (one.at_work and two.at_work)
    assert len(set(ids(receiver))) == len(receiver.requests) == 200


async def test_the_next_dispatcher_takes_over_when_one_stops(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.dispatcher("two", start=False) as two:
        two.pulse_s = 0.1
        async with world.dispatcher("one", start=False) as one:
            one.life_s = two.life_s = 600.0  # only a lease that is given up ends during the test
            await one.start()
            await at_work(one)
            await two.start()
            await world.alert(channel, 1)
            await receiver.wait_count(1)
            assert not two.at_work
        await world.alert(channel, 2)
        await receiver.wait_count(2)


async def test_a_stop_releases_a_lease_whose_take_was_not_answered(database_url: str) -> None:
    async with (
        Link(database_url) as link,
        scene(database_url) as world,
        scene(link.url) as cut_off,
        world.dispatcher("two", start=False) as two,
    ):
        async with cut_off.dispatcher("one", start=False) as one:
            link.hold_replies(after=one.outbox.holder.encode())
            taking = asyncio.ensure_future(one.outbox.take_over(600))
            await link.withheld()
            link.cut()
            link.mend()
            with pytest.raises(DatabaseDownError):
                await taking
            assert not await two.outbox.take_over(600)
        assert await two.outbox.take_over(600)


async def test_a_stop_leaves_the_lease_of_another_dispatcher(world: Scene) -> None:
    async with world.dispatcher("two", start=False) as two:
        async with world.dispatcher("one", start=False) as one:
            assert await two.outbox.take_over(600)
            assert not await one.outbox.take_over(600)
            one.outbox._may_hold_lease = True  # as after an answer that was lost
        async with world.dispatcher("three", start=False) as three:
            assert not await three.outbox.take_over(600)


async def test_the_dispatcher_beside_the_scheduler_goes_first(world: Scene) -> None:
    async with world.dispatcher("one", start=False) as one, world.dispatcher("two", start=False) as two:
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
        async with world.dispatcher():
            id = await world.alert(channel)
            await hanging.wait_count(1)
            assert (await world.row(id))["claimed_by"] is not None
        row = await world.row(id)
        assert row["claimed_by"] is None and row["state"] == "pending"
        assert await world.pool.fetchval("select next_attempt_at <= now() from alerts")
        await world.pool.execute("update channels set definition = $1::jsonb", {"url": receiver.url})
        async with world.dispatcher():
            await receiver.wait_count(1)


async def test_a_claim_is_renewed_while_it_is_being_sent(world: Scene) -> None:
    answered = asyncio.Event()
    async with Receiver(Behaviour(until=answered)) as slow, world.dispatcher(start=False) as dispatcher:
        dispatcher.pulse_s = 0.1
        await dispatcher.start()
        id = await world.alert(await world.channel("hook", "webhook", url=slow.url))
        await slow.wait_count(1)
        claimed_until = (await world.row(id))["next_attempt_at"]
        for _ in range(3):

            async def later(before: datetime = claimed_until) -> datetime | None:
                at: datetime = (await world.row(id))["next_attempt_at"]
                return at if at > before else None

            claimed_until = await eventually(later)
        answered.set()
        await world.settled()
        row = await world.row(id)
        assert (row["attempts"], row["lapses"], len(slow.requests)) == (1, 0, 1)


async def test_outcomes_survive_a_loss_of_the_database(world: Scene, receiver: Receiver) -> None:
    """All connections are cut while alerts are being sent: none is lost, none is sent twice."""
    receiver.behaviour = Behaviour(delay_s=0.5)
    channels = [await world.channel(f"hook-{n}", "webhook", url=f"{receiver.url}/{n}") for n in range(20)]
    async with world.dispatcher():
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

        await eventually(all_settled)
    assert len(set(ids(receiver))) == len(receiver.requests) == 20
