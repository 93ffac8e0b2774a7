"""The queries of a scheduler when it starts, and when it is in doubt."""

import asyncio
import contextlib
from typing import Any

import asyncpg
import pytest

from offbeat_server.common.errors import DatabaseDownError, LeaseLostError
from offbeat_server.common.instants import SECOND, Micros, to_datetime
from offbeat_server.db.pool import connect, open_pool
from offbeat_server.db.repositories import changes, definitions, lease_row, windows
from offbeat_server.db.repositories.definitions import WantedMonitor
from offbeat_server.db.repositories.lease_row import Held
from offbeat_server.db.repositories.outbox import Outbox
from offbeat_server.db.scheduler_store import decision_rows, scheduler_rows, states
from offbeat_server.db.scheduler_store.decision_rows import WindowsApplied
from offbeat_server.engine.decisions import Decision
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.engine.model.ping import Position
from offbeat_server.scheduler.outages import OutageDetector
from tests.support.harness import HANG_S, eventually

AT: Micros = 1_800_000_000 * SECOND


class Database:
    """A database with the scheduler's queries, without the scheduler."""

    def __init__(self, pool: asyncpg.Pool, connection: asyncpg.Connection, held: Held) -> None:
        self.pool, self.connection, self.held = pool, connection, held

    async def define(self, slug: str, **definition: Any) -> tuple[int, int]:
        """Make or change a monitor: its id, and the change."""
        async with changes.changing(self.pool) as connection:
            await definitions.put_monitors(connection, [WantedMonitor(1, slug, read_definition(definition))], "test")
        row = await self.pool.fetchrow("select id, rev from monitors where slug = $1", slug)
        assert row is not None
        return row["id"], row["rev"]

    async def delete(self, slug: str) -> None:
        async with changes.changing(self.pool) as connection:
            await definitions.delete_monitors(connection, [(1, slug)], "test")

    async def write(self, monitor_id: int, at: Micros, rev: int, gone: bool = False, taken: Any = ()) -> None:
        """A decision about a monitor whose state knows the changes up to `rev`."""
        m = Monitor(monitor_id, 1, "m", "m", read_definition({"every": 60}), AT)
        m.at, m.rev = at, rev
        state = None if gone else m.dump()
        decision = Decision(monitor_id, 1, Position(at, 1, 1), m.status, m.since, state, [])
        await decision_rows.write(self.connection, self.held, [decision], lambda project, slugs: [], {}, taken)

    async def load(self, applied_rev: int) -> dict[int, Monitor]:
        """The monitors as a scheduler begins with them."""

        def unreadable(monitor_id: int, error: Exception) -> None:
            raise error

        slices = [each async for each in states.load_monitors(self.connection, applied_rev, unreadable)]
        return {m.id: m for loaded in slices for m, _ in loaded}


@pytest.fixture
async def hands(database_url: str) -> Any:
    pool, connection = await open_pool(database_url), await connect(database_url)
    held = await lease_row.take(connection, "keeper", "test", "here", 60.0)
    assert held is not None
    yield Database(pool, connection, held)
    await connection.close()
    await pool.close()


def grace_s(m: Monitor) -> float:
    return m.definition.grace / SECOND


async def test_a_state_comes_with_the_definition_that_it_knows(hands: Database) -> None:
    id, first = await hands.define("job", every=60, grace=1)
    _, second = await hands.define("job", every=60, grace=2)
    _, third = await hands.define("job", every=60, grace=3)
    assert await hands.load(first - 1) == {}, "made by a change that is still to come"
    for known, seconds in ((first, 1), (second, 2), (third, 3)):
        await hands.write(id, AT, known)
        assert grace_s((await hands.load(first - 1))[id]) == seconds
        assert grace_s((await hands.load(third))[id]) == 3, "the checkpoint knows more than the state"


async def test_what_people_do_to_incidents_changes_no_definition(hands: Database) -> None:
    id, rev = await hands.define("job", every=60, grace=1)
    await hands.write(id, AT, rev)
    async with changes.changing(hands.pool) as connection:
        for kind in ("acknowledge", "resolve", "comment"):
            await changes.record_one(connection, "test", changes.Change(kind, 1, id, "job", None, {"incident": 1}))
    await hands.define("job", every=60, grace=2)
    assert grace_s((await hands.load(rev))[id]) == 1


async def test_a_deletion_that_is_not_ended_finds_its_monitor_and_an_ended_one_does_not(hands: Database) -> None:
    id, rev = await hands.define("job", every=60, grace=1)
    await hands.write(id, AT, rev)
    await hands.delete("job")
    assert grace_s((await hands.load(rev))[id]) == 1
    assert await scheduler_rows.deleted_since(hands.connection, rev) == {}
    await hands.write(id, AT + 5, rev, gone=True)
    assert await hands.load(rev) == {}
    assert await scheduler_rows.deleted_since(hands.connection, rev) == {id: AT + 5}
    assert await scheduler_rows.deleted_since(hands.connection, rev + 1) == {}


async def test_one_that_was_made_and_deleted_unseen_has_never_begun(hands: Database) -> None:
    id, rev = await hands.define("job", every=60)
    await hands.delete("job")
    assert await hands.load(0) == {}
    assert await scheduler_rows.deleted_since(hands.connection, rev) == {id: None}


async def test_a_window_is_recorded_with_what_was_decided_by_it(hands: Database) -> None:
    id, rev = await hands.define("job", every=60)
    definition = {"start": to_datetime(AT).isoformat(), "end": to_datetime(AT + SECOND).isoformat()}
    async with changes.changing(hands.pool) as connection:
        await windows.put_window(connection, 1, "night", definition, "test")
    assert await scheduler_rows.windows_applied(hands.connection, rev) == []
    (change,) = await scheduler_rows.changes_since(hands.connection, rev)
    await hands.write(id, AT, rev, taken=[WindowsApplied(change.rev, AT + 7)])
    assert await scheduler_rows.windows_applied(hands.connection, rev) == [(AT + 7, change)]
    assert await scheduler_rows.windows_applied(hands.connection, change.rev) == []


async def _waits_for_lock(database: asyncpg.Connection) -> bool:
    """Whether another session waits for a lock."""
    sql = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return bool(await database.fetchval(sql))


async def test_what_a_lost_connection_may_still_commit_is_outlasted(hands: Database, database_url: str) -> None:
    other, renewing = await connect(database_url), await connect(database_url)
    async with lease_row.held_by(hands.connection, hands.held):
        waiting = asyncio.ensure_future(lease_row.outlast(other, hands.held))
        await eventually(lambda: _waits_for_lock(renewing))
        assert await lease_row.renew(renewing, hands.held, 60.0), "renewals pass"
    await asyncio.wait_for(waiting, HANG_S)
    await other.close()
    await renewing.close()


@pytest.mark.parametrize("name", ["keeper", "courier"])
async def test_a_lease_that_ends_later_than_any_can_is_not_waited_for(hands: Database, name: str) -> None:
    # Its holder died while the database's clock stood an hour ahead, and before anybody had noticed.
    outbox = Outbox(hands.pool, "other", "there")

    async def take() -> bool:
        if name == "courier":
            return await outbox.take_over(6.0)
        return await lease_row.take(hands.connection, name, "other", "there", 6.0) is not None

    for ahead_s, taken in ((5, False), (3_600, True)):
        await hands.connection.execute(
            "update lease set holder = 'one', expires_at = log_time() + make_interval(secs => $2) where name = $1",
            name,
            ahead_s,
        )
        assert await take() is taken


@pytest.mark.parametrize("where", ["between statements", "within one"])
async def test_a_frozen_holder_does_not_keep_the_lease(hands: Database, database_url: str, where: str) -> None:
    frozen = await connect(database_url, application_name="offbeat scheduler")
    transaction = lease_row.held_by(frozen, hands.held)
    await transaction.__aenter__()
    if where == "within one":
        await frozen.prepare("select 1")  # parsed, with nothing sent that would end the statement
    await hands.connection.execute("update lease set expires_at = '-infinity'")

    async def taken() -> bool:
        with contextlib.suppress(DatabaseDownError):  # each attempt is bounded, and so is one that waits for a lock
            other = await connect(database_url, command_timeout_s=1)
            try:
                return await lease_row.take(other, "keeper", "other", "there", 60.0) is not None
            finally:
                other.terminate()
        return False

    await eventually(taken)
    with pytest.raises(DatabaseDownError):
        await transaction.__aexit__(None, None, None)


async def test_the_time_between_the_end_of_one_writer_and_the_first_of_the_next_is_an_outage(hands: Database) -> None:
    """Also if the older one is still there when the newer one comes, and its last signal was before that."""

    async def writer(started: Micros) -> int:
        statement = "insert into writers (node, started_at, accepted_through) values ('test', $1, $1) returning id"
        return int(await hands.connection.fetchval(statement, to_datetime(started)))

    outage_detector = OutageDetector(3.0)
    assert await outage_detector.begin(hands.connection, AT) == []

    async def decided() -> list[tuple[Micros, Micros]]:
        seen = await scheduler_rows.writers(hands.connection, [], 0)
        outages = await outage_detector.decide(hands.connection, hands.held, seen, 0, AT)
        return [(outage.started_at, outage.ended_at) for outage in outages]

    old = await writer(AT + 1)
    assert await decided() == []
    await writer(AT + 9)
    assert await decided() == []
    await hands.connection.execute(
        "update writers set accepted_through = $2, fenced = true, clean = true where id = $1", old, to_datetime(AT + 5)
    )
    assert await decided() == [(AT + 5, AT + 9)]
    assert await decided() == []


async def test_an_outage_and_its_alert_are_committed_together_and_the_next_scheduler_adds_none(hands: Database) -> None:
    """A scheduler may lose its lease, or its connection, right after it has decided."""

    async def outage(start_s: int, length_s: int) -> int:
        report = """
            insert into refusals (writer, started_at, ended_at, pings, reason)
            values (1, $1, $2, 0, 'clock') returning id"""
        return int(
            await hands.connection.fetchval(
                report, to_datetime(AT + start_s * SECOND), to_datetime(AT + (start_s + length_s) * SECOND)
            )
        )

    async def alerts() -> int:
        return int(await hands.pool.fetchval("select count(*) from alerts where kind = 'operator'"))

    first = OutageDetector(3.0)
    await first.begin(hands.connection, AT)
    refusal = await outage(0, 1)
    lost = hands.held._replace(term=hands.held.term - 1)
    with pytest.raises(LeaseLostError):
        await first.decide(hands.connection, lost, [], refusal, AT)
    assert await alerts() == 0 == await hands.pool.fetchval("select count(*) from deaf")
    assert len(await first.decide(hands.connection, hands.held, [], refusal, AT)) == 1
    assert await alerts() == 1

    second = OutageDetector(3.0)  # another writer notices the same leap of the clock
    assert len(await second.begin(hands.connection, AT)) == 1
    assert len(await second.decide(hands.connection, hands.held, [], await outage(5, 1), AT)) == 1
    assert await alerts() == 1
    assert len(await second.decide(hands.connection, hands.held, [], await outage(300, 1), AT)) == 1
    assert await alerts() == 2
