"""Alerts that are repeated and alerts that are not: flapping, reminders; and the deletion of old ones."""

from datetime import UTC, datetime

import pytest

from offbeat_server.common.instants import SECOND, to_micros
from offbeat_server.db.repositories.outbox import Outbox
from offbeat_server.engine.schedule.durations import write_duration
from tests.support.harness import Receiver, eventually
from tests.support.outbox import Scene, ids, types
from tests.support.servers.scheduler_node import true


async def test_flapping_is_announced_held_back_and_reported_together(
    world: Scene, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offbeat_server.notify.channel_queue.BURST_REFILL_S", 0.05)
    ten_minutes_pass = (
        "update alerts set next_attempt_at = next_attempt_at - interval '10 minutes' where state = 'pending'"
    )
    channel = await world.channel("hook", "webhook", url=receiver.url)
    async with world.dispatcher():
        for incident in range(1, 6):
            await world.alert(channel, incident=incident)
            await receiver.wait_count(2 * incident - 1)
            await world.alert(channel, incident=incident, kind="resolved")
            await receiver.wait_count(2 * incident)
        fifth = receiver.requests[8].json["data"]
        assert fifth["flapping"] == {"incidents": 5, "hold_s": 600.0, "held": False}
        assert "5 incidents within an hour; the next ones are held back" in fifth["text"]
        # The sixth and the seventh resolve while they wait: they are reported together.
        for incident in (6, 7):
            await world.alert(channel, incident=incident)
            await eventually(lambda n=incident: _held(world, n))  # type: ignore[misc]
            await world.alert(channel, incident=incident, kind="resolved")
        await world.pool.execute(ten_minutes_pass)
        assert await world.settled() == {"delivered": 14}
        assert len(receiver.requests) == 11
        together = receiver.requests[10].json
        assert together["type"] == "offbeat.digest" and together["data"]["recovered"] == 2
        assert "DOWN, RECOVERED Job 1 (2 times)" in together["data"]["text"]
        # The eighth stays open: its alert comes late, with the reason.
        await world.alert(channel, incident=8)
        await eventually(lambda: _held(world, 8))
        await world.pool.execute(ten_minutes_pass)
        await receiver.wait_count(12)
        assert "held back for 10 min and is still open" in receiver.requests[11].json["data"]["text"]


def _reminders_of(receiver: Receiver, name: str) -> int:
    sent = (r.json for r in receiver.requests)
    return sum(each["type"] == "incident.reminder" and name in each["data"]["title"] for each in sent)


async def test_reminders_until_it_is_acknowledged(world: Scene, receiver: Receiver) -> None:
    channel = await world.channel("hook", "webhook", url=receiver.url, digest=False)
    await world.pool.execute(
        "insert into monitors (id, project_id, rev, slug, name, definition) overriding system value "
        "values (1, 1, 1, 'job-1', 'Job 1', '{\"remind_every\": \"1s\"}'), "
        "(2, 1, 2, 'job-2', 'Job 2', '{\"remind_every\": \"1s\"}')"
    )
    await world.incidents(1)
    async with world.dispatcher(start=False) as dispatcher:
        dispatcher.periodic.remind_every_s = 0.1
        await dispatcher.start()
        await world.alert(channel)
        await receiver.wait_count(3)
        _, second, third = receiver.requests[:3]
        assert types(receiver)[:3] == ["incident.opened", "incident.reminder", "incident.reminder"]
        assert second.json["data"]["title"] == "STILL DOWN: Job 1"
        assert third.at - second.at > 0.9
        # The scheduler's next alert follows the reminders.
        await world.alert(channel, kind="worse")
        await receiver.wait_for(lambda r: r.json["type"] == "incident.worse")
        await world.pool.execute("update incidents set acknowledged_at = now()")
        await world.settled()
        count = len(receiver.requests)
        # While another monitor gets two reminders, this one gets at most the one that was under way.
        await world.incidents(2)
        await world.alert(channel, 2)
        await eventually(lambda: true(_reminders_of(receiver, "Job 2") >= 2))
        assert sum("Job 1" in r.json["data"]["title"] for r in receiver.requests[count:]) <= 1
    assert len(set(ids(receiver))) == len(receiver.requests)


async def test_what_is_repeated_of_a_fleet_is_how_it_stands_now(world: Scene) -> None:
    channel = await world.channel("am", "alertmanager", urls=["http://127.0.0.1:9"])
    await world.pool.execute(
        "insert into monitors (id, project_id, rev, slug, name, definition) overriding system value "
        "values (1, 1, 1, 'fleet', 'Fleet', '{\"remind_every\": \"1s\"}')"
    )
    await world.incidents(1)
    await world.pool.execute("update incidents set cause = 'members', reason = '7 of 10 members alive'")
    id = await world.alert(
        channel,
        facts={
            "cause": "members",
            "reason": "9 of 10 members alive",
            "causes": [
                {"cause": "members", "reason": "9 of 10 members alive"},
                {"cause": "failed", "reason": "disk full", "run": "w1"},
            ],
        },
    )
    await world.pool.execute(
        "update alerts set state = 'delivered', settled_at = now() - interval '2 seconds' where id = $1", id
    )
    outbox = Outbox(world.pool, "here", "node")
    (member,) = await outbox.firing(channel, 0, 10)
    assert await outbox.remind(10, to_micros(datetime.now(UTC))) == 1
    reminded = await world.pool.fetchval("select facts from alerts where kind = 'reminder'")
    for facts in (member.facts, reminded):
        assert facts["reason"] == "7 of 10 members alive"
        assert [each["reason"] for each in facts["causes"]] == ["7 of 10 members alive", "disk full"]


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
async def test_no_reminder_where_there_should_be_none(world: Scene, quiet: str) -> None:
    await _to_be_reminded(world)
    await world.pool.execute(quiet)
    assert await Outbox(world.pool, "here", "node").remind(10, to_micros(datetime.now(UTC))) == 0


async def test_no_reminder_of_what_is_being_resolved_just_now(world: Scene) -> None:
    """Otherwise it might follow a resolve that was sent before it, and open an incident that never ends."""
    await _to_be_reminded(world)
    outbox = Outbox(world.pool, "here", "node")
    async with world.pool.acquire() as scheduler:
        deciding = scheduler.transaction()
        await deciding.start()
        await scheduler.execute("update incidents set resolved_at = now()")
        assert await outbox.remind(10, to_micros(datetime.now(UTC))) == 0
        await deciding.rollback()
    assert await outbox.remind(10, to_micros(datetime.now(UTC))) == 1


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
    await world.incidents(1, number=2)
    async with world.dispatcher(start=False) as dispatcher:
        assert await dispatcher.outbox.sweep(30, 100) == 1
        assert await world.pool.fetchval("select incident from alerts") == 2


async def _to_be_reminded(world: Scene) -> None:
    """An open incident whose last alert was delivered long ago."""
    channel = await world.channel("hook", "webhook", url="http://127.0.0.1:9")
    await world.pool.execute(
        "insert into monitors (id, project_id, rev, slug, name, definition) overriding system value "
        "values (1, 1, 1, 'job-1', 'Job 1', '{\"remind_every\": \"1s\"}')"
    )
    await world.incidents(1)
    await world.alert(channel, state="delivered")
    await world.pool.execute("update alerts set settled_at = now() - interval '1 hour'")


async def _held(world: Scene, incident: int) -> bool:
    held = "select count(*) from alerts where incident = $1 and attempts = 0 and next_attempt_at > now()"
    return bool(await world.pool.fetchval(held, incident))
