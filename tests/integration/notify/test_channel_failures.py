"""A channel at which alerts do not arrive: the mark, the report to other channels, and how it works again.

The steps run one by one, and what time would do is written into the rows.
"""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from offbeat_server.common.instants import to_micros
from offbeat_server.db.repositories.outbox import SettledAlert, WantedAlerts
from offbeat_server.engine.model.enums import AlertState
from offbeat_server.notify.dispatcher import Dispatcher
from offbeat_server.notify.messages.message_builder import MessageBuilder
from tests.integration.notify.test_dispatcher_crashes import dies, process
from tests.support.harness import Behaviour, Receiver
from tests.support.outbox import Scene

MESSAGE_BUILDER = MessageBuilder("abcd1234", "https://beat.example.org")


@pytest.fixture
async def bad(world: Scene) -> int:
    """A channel that was not changed for an hour; the server's log is the other channel of the project."""
    id = await world.channel("bad", "webhook", url="http://127.0.0.1:9", digest=False)
    await world.pool.execute("update channels set updated_at = now() - interval '1 hour'")
    return id


@contextlib.asynccontextmanager
async def catching_up(world: Scene) -> AsyncIterator[Dispatcher]:
    async with world.dispatcher(start=False) as dispatcher:
        yield dispatcher


async def settle(dispatcher: Dispatcher, lane: int, state: str, error: str | None = None, incident: int = 1) -> int:
    """One alert, claimed and settled as the dispatcher does it."""
    id = await Scene(dispatcher.outbox._pool).alert(lane, 1, incident)
    [row] = await dispatcher.outbox.claim([WantedAlerts(lane, 0, 1, 0, True)], 10)
    assert row.id == id
    await dispatcher.outbox.settle([SettledAlert(id, AlertState(state), 600.0, error)])
    return id


async def is_failing(world: Scene) -> bool:
    return bool(await world.pool.fetchval("select failing_since is not null from channels where slug = 'bad'"))


async def reports(world: Scene) -> int:
    count: int = await world.pool.fetchval("select count(*) from alerts where kind = 'operator'")
    return count


async def later(world: Scene, minutes: int) -> None:
    """Everything that has happened was that long ago."""
    ago = f"interval '{minutes} minutes'"
    await world.pool.execute(
        f"update alerts set created_at = created_at - {ago}, settled_at = settled_at - {ago} where kind <> 'operator'"
    )
    await world.pool.execute(
        f"update channels set failing_since = failing_since - {ago}, failing_told_at = failing_told_at - {ago}"
    )


@pytest.mark.parametrize("digests", [False, True])
async def test_an_alert_that_was_given_up_is_reported_by_whichever_dispatcher_comes_next(
    world: Scene, database_url: str, digests: bool
) -> None:
    async with Receiver(Behaviour(status=410)) as receiver:
        channel = await world.channel("bad", "webhook", url=receiver.url)
        await world.pool.execute("update channels set updated_at = now() - interval '1 hour'")
        await (world.alerts(channel, 20) if digests else world.alert(channel))
        async with process(database_url, "digest settled" if digests else "settled") as first:
            await dies(first)
        assert (await world.states())["dead"] == (20 if digests else 1)
        await later(world, 10)
        async with catching_up(world) as dispatcher:
            await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
    assert await is_failing(world) and await reports(world) == 1


async def test_what_expired_is_reported_by_whichever_dispatcher_comes_next(world: Scene, bad: int) -> None:
    async with catching_up(world) as dispatcher:
        await settle(dispatcher, bad, "pending", "no answer")
        await world.pool.execute("update alerts set expires_at = now() - interval '1 second'")
        assert await dispatcher.outbox.expire() == ["webhook"]
        await later(world, 10)
        await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
        assert await is_failing(world) and await reports(world) == 1


async def test_a_mark_that_a_waiting_alert_makes_is_reported_once(world: Scene, bad: int) -> None:
    async with catching_up(world) as dispatcher:
        await settle(dispatcher, bad, "pending", "no answer")
        await later(world, 4)
        for _ in range(2):
            await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
            assert await is_failing(world) and await reports(world) == 1
            await later(world, 61)


async def test_a_test_message_that_expired_says_nothing_of_its_channel(world: Scene, bad: int) -> None:
    async with catching_up(world) as dispatcher:
        await world.alert(bad, None, None, kind="test")
        await world.pool.execute("update alerts set expires_at = now() - interval '1 second'")
        assert await dispatcher.outbox.expire() == ["webhook"]
        await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
        assert not await is_failing(world)


async def test_a_channel_that_was_marked_and_not_reported_is_reported(world: Scene, bad: int) -> None:
    """The process died between the two, or the hour of the last report was not over."""
    await world.pool.execute("update channels set failing_since = now() - interval '5 minutes' where id = $1", bad)
    async with catching_up(world) as dispatcher:
        for _ in range(3):
            await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
            assert await reports(world) == 1
        # Marked again within the hour: reported when the hour is over, if it still fails.
        await world.pool.execute(
            "update channels set failing_since = now(), failing_told_at = now() - interval '50 minutes' where id = $1",
            bad,
        )
        await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
        assert await reports(world) == 1
        await later(world, 11)
        await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
        assert await reports(world) == 2


async def test_a_mark_and_its_report_are_one(world: Scene, bad: int) -> None:
    """A process that dies while it writes the report leaves the report to the next one."""
    await world.pool.execute("update channels set failing_since = now() where id = $1", bad)
    async with catching_up(world) as dispatcher:
        with pytest.raises(ZeroDivisionError):
            async with dispatcher.outbox.transaction() as connection:
                rows = await dispatcher.outbox.unreported(connection)
                await dispatcher.outbox.report_failing(connection, [row.id for row in rows], 1, {"reason": "x"})
                raise ZeroDivisionError
        assert await reports(world) == 0
        await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
        assert await reports(world) == 1


async def test_a_channel_that_takes_some_alerts_and_refuses_others_keeps_one_mark(world: Scene, bad: int) -> None:
    async with catching_up(world) as dispatcher:
        await settle(dispatcher, bad, "delivered", incident=1)
        await settle(dispatcher, bad, "dead", "400", incident=2)
        await settle(dispatcher, bad, "delivered", incident=3)
        since = await world.pool.fetchval("select failing_since from channels where id = $1", bad)
        assert since is not None, "marked together with the end of the alert"
        for _ in range(5):
            await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
            assert await world.pool.fetchval("select failing_since from channels where id = $1", bad) == since
        await later(world, 2)  # since then nothing was given up, and the third has arrived after the mark
        for _ in range(5):
            await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
            assert not await is_failing(world)
        assert await reports(world) == 1


async def test_only_what_arrives_after_the_mark_removes_it(world: Scene, bad: int) -> None:
    async with catching_up(world) as dispatcher:
        await settle(dispatcher, bad, "pending", "no answer", incident=1)
        await world.pool.execute("update alerts set created_at = now() - interval '10 minutes'")
        await settle(dispatcher, bad, "delivered", incident=2)
        await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
        assert not await is_failing(world), "something has arrived within three minutes"
        await later(world, 4)
        for _ in range(5):
            await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
            assert await is_failing(world)
        await settle(dispatcher, bad, "delivered", incident=3)
        for _ in range(5):
            await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
            assert not await is_failing(world)
        waits = "select next_attempt_at > now() from alerts where state = 'pending' and kind <> 'operator'"
        assert await world.pool.fetchval(waits) is False, "what waits for a retry is tried at once"


@pytest.mark.parametrize("digest", [False, True])
async def test_a_message_that_fails_for_an_hour_marks_a_channel_that_takes_the_others(
    world: Scene, bad: int, digest: bool
) -> None:
    async with catching_up(world) as dispatcher:
        if digest:
            await world.pool.execute(
                "insert into digests (project_id, channel_id, alerts, facts, body, error)"
                " values (1, $1, 9, '{}', '', 'x')",
                bad,
            )
        else:
            await settle(dispatcher, bad, "pending", "500", incident=1)
        await world.pool.execute("update alerts set created_at = now() - interval '61 minutes'")
        await world.pool.execute("update digests set created_at = now() - interval '61 minutes'")
        await settle(dispatcher, bad, "delivered", incident=2)
        await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
        assert await is_failing(world) and await reports(world) == 1
        await settle(dispatcher, bad, "delivered", incident=3)
        for _ in range(3):
            await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
            assert await is_failing(world)
        for table in ("alerts", "digests"):
            await world.pool.execute(
                f"update {table} set state = 'delivered', settled_at = now() where error is not null"
            )
        await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
        assert not await is_failing(world)


async def test_a_repaired_channel_is_marked_and_notified_in_one_transaction(world: Scene, bad: int) -> None:
    async with catching_up(world) as dispatcher:
        dead = await settle(dispatcher, bad, "dead", "410", incident=1)
        await world.incidents(1)
        await later(world, 2)
        await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
        await settle(dispatcher, bad, "delivered", incident=2)
        assert await dispatcher.outbox.revive() == 1
        assert (await world.row(dead))["state"] == "pending" and not await is_failing(world)


async def test_a_test_that_fails_marks_nothing(world: Scene, bad: int) -> None:
    async with catching_up(world) as dispatcher:
        id = await world.alert(bad, None, None, "test")
        await dispatcher.outbox.claim_tests(1, 10)
        await dispatcher.outbox.settle([SettledAlert(id, AlertState.DEAD, 0.0, "410")])
        await dispatcher.periodic.catch_up(MESSAGE_BUILDER)
        assert not await is_failing(world) and await reports(world) == 0


async def test_a_new_alert_is_behind_few_of_those_that_a_repaired_channel_gets(world: Scene) -> None:
    async with Receiver() as receiver:
        channel = await world.channel("bad", "webhook", url=receiver.url, digest=False, per_minute=60)
        await world.alerts(channel, 100)
        await world.incidents(*range(1, 101))
        await world.pool.execute(
            "update alerts set state = 'dead', attempts = 3, settled_at = now() - interval '1 minute'"
        )
        async with world.dispatcher():
            await receiver.wait_count(1)
            await world.alert(channel, 999)
            new = await receiver.wait_for(lambda r: r.json["data"]["monitor"] == "job-999")
        # Five at once when the channel is fresh, then at most four retries before it, and what its rate still allows.
        assert receiver.requests.index(new) <= 15


@pytest.mark.parametrize("most", [1, 3, 1_000])
async def test_an_added_channel_gets_every_open_incident_in_small_statements(
    world: Scene, bad: int, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("offbeat_server.db.repositories.outbox.INTRODUCE_MAX", most)
    await world.pool.execute(
        "insert into monitors (id, project_id, rev, slug, name, definition) overriding system value "
        "select n, 1, 1, 'job-' || n, 'Job', '{}' from generate_series(1, 10) n"
    )
    await world.incidents(*range(1, 11))
    await world.alerts(bad, 10)
    await world.pool.execute("delete from channels where kind = 'log'")
    added = [await world.channel(slug, "webhook", url="http://127.0.0.1:9") for slug in ("one", "two")]
    async with catching_up(world) as dispatcher:
        assert await dispatcher.outbox.introduce(to_micros(datetime.now(UTC))) == 20
        assert await dispatcher.outbox.introduce(to_micros(datetime.now(UTC))) == 0
    rows = await world.pool.fetch("select lane, monitor_id from alerts where lane = any ($1::integer[])", added)
    assert sorted(map(tuple, rows)) == [(lane, monitor) for lane in added for monitor in range(1, 11)]
