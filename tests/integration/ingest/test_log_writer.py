"""The writer against real Postgres: a ping that was answered ok is stored exactly once, after any fault at any time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from itertools import pairwise
from statistics import median

import asyncpg
import pytest

from offbeat_server.committed_batches import CommittedBatches
from offbeat_server.common.clock import LogClock, monotonic_ns
from offbeat_server.common.errors import BacklogFullError, DatabaseDownError, UnavailableError
from offbeat_server.common.instants import SECOND, Micros, to_micros
from offbeat_server.config import Settings
from offbeat_server.db.repositories.ping_log import LogConnection, LostPings
from offbeat_server.engine.model.ping import PLAIN, Entry, Ping
from offbeat_server.ingest.key_index import KeyTarget
from offbeat_server.ingest.log_writer.writer import PULSE_GAP_S, STALL_S, LogWriter
from offbeat_server.ingest.protocols.base import OK, Outcome, Rejection
from offbeat_server.observability.metrics import Metrics
from tests.support.harness import HANG_S, eventually
from tests.support.postgres.link import Link

BOUND = KeyTarget(7, 1)


class Waiter:
    """One ping's answer."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome | Rejection] = []
        self._settled = asyncio.Event()

    def settle(self, outcome: Outcome | Rejection) -> None:
        self.outcomes.append(outcome)
        self._settled.set()

    async def outcome(self) -> Outcome | Rejection:
        async with asyncio.timeout(HANG_S):
            await self._settled.wait()
        return self.outcomes[0]


class Wall:
    """The local monotonic clock, which a test can move against the database's."""

    def __init__(self) -> None:
        self.shift_s = 0.0

    def ns(self) -> int:
        return monotonic_ns() + int(self.shift_s * 1e9)


class Recorded(CommittedBatches):
    """The hand-over, with a record of all that was added. Its follower needs what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.follower = self
        self.entries: list[Entry] = []
        self.throughs: list[Micros] = []
        self.deadline: Micros | None = None
        self.several = False
        self.after_add: Callable[[list[Entry]], None] = lambda entries: None

    @property
    def next_deadline(self) -> Micros | None:
        return self.deadline

    @property
    def others_wait(self) -> bool:
        return self.several

    def wake(self) -> None:
        pass

    def add(self, writer: int, entries: list[Entry], through: Micros) -> None:
        super().add(writer, entries, through)
        self.entries += entries
        self.throughs.append(through)
        self.after_add(entries)


class Running:
    """A writer with all its inputs and outputs."""

    def __init__(self, url: str, settings: Settings, **more: object) -> None:
        self.wall = Wall()
        self.clock = LogClock(self.wall.ns)
        self.committed = Recorded()
        self.writer = LogWriter(
            url,
            settings,
            self.clock,
            Metrics("test"),
            node="node",
            metrics_address=None,
            committed=self.committed,
        )

    def ping(self, ping: Ping = PLAIN["success"]) -> Waiter:
        waiter = Waiter()
        self.writer.backlog.append(BOUND, ping, b"\x7f\0\0\1", waiter)
        return waiter


@asynccontextmanager
async def running(url: str, **settings: object) -> AsyncIterator[Running]:
    run = Running(url, Settings(**settings))  # type: ignore[arg-type]
    await run.writer.start()
    try:
        yield run
    finally:
        await run.writer.stop()


async def stored(database: asyncpg.Connection) -> list[tuple[int, int]]:
    rows = await database.fetch("select writer, seq from pings order by at, writer, seq")
    return [(row["writer"], row["seq"]) for row in rows]


async def row_of(database: asyncpg.Connection, sql: str, *arguments: object) -> asyncpg.Record:
    row = await database.fetchrow(sql, *arguments)
    assert row is not None
    return row


async def until_stored(database: asyncpg.Connection, count: int) -> None:
    async def enough() -> bool:
        return int(await database.fetchval("select count(*) from pings")) >= count

    await eventually(enough)


async def until(true: Callable[[], object]) -> None:
    async def ask() -> object:
        return true()

    await eventually(ask, every_s=0.005)


@pytest.mark.quick
async def test_pings_are_committed_before_they_are_answered_and_in_groups(
    database: asyncpg.Connection, database_url: str
) -> None:
    async with running(database_url) as run:
        waiters = [run.ping() for _ in range(500)]
        for waiter in waiters:
            assert await waiter.outcome() == OK
        assert await stored(database) == [(run.writer.id, seq) for seq in range(1, 501)]
        assert [entry.seq for entry in run.committed.entries] == list(range(1, 501))
        batches = run.writer._metrics.registry.get_sample_value("offbeat_batch_rows_count")
        assert batches is not None and batches <= 3
        ats = [entry.at for entry in run.committed.entries]
        assert ats == sorted(set(ats))
        row = await row_of(database, "select * from writers")
        assert row["seq"] == 500
        assert to_micros(row["accepted_through"]) >= ats[-1]
    assert all(waiter.outcomes == [OK] for waiter in waiters)


class Asker(Waiter):
    """A client that pings again as soon as the answer is there."""

    def __init__(self, run: Running, pings: int) -> None:
        super().__init__()
        self._run, self._pings = run, pings
        self.ended = asyncio.Event()

    def ask(self) -> None:
        self._run.writer.backlog.append(BOUND, PLAIN["success"], None, self)

    def settle(self, outcome: Outcome | Rejection) -> None:
        super().settle(outcome)
        if len(self.outcomes) < self._pings:
            self.ask()
        else:
            self.ended.set()


async def test_few_who_ask_again_at_once_become_one_batch(database_url: str) -> None:
    """Two halves that take turns would need twice as many COPYs."""
    async with running(database_url) as run:
        ones, others = ([Asker(run, 8) for _ in range(10)] for _ in range(2))

        def join(entries: list[Entry]) -> None:
            if entries and len(run.committed.entries) == len(
                ones
            ):  # the first batch is committed, and not yet answered
                for asker in others:
                    asker.ask()

        run.committed.after_add = join
        for asker in ones:
            asker.ask()
        async with asyncio.timeout(HANG_S):
            for asker in (*ones, *others):
                await asker.ended.wait()
        batches = run.writer._metrics.registry.get_sample_value("offbeat_batch_rows_count")
        assert batches == 1 + 7 + 1  # the ones, seven times all, the others


@pytest.mark.quick
async def test_batches_are_cut_by_rows_and_by_bytes(database: asyncpg.Connection, database_url: str) -> None:
    async with running(database_url, batch_pings_max=100, batch_bytes_max=20_000) as run:
        for waiter in [run.ping() for _ in range(350)]:
            await waiter.outcome()
        sizes = [100, 100, 100, 50]
        assert run.writer._metrics.registry.get_sample_value("offbeat_batch_rows_count") == len(sizes)
        for waiter in [run.ping(Ping(message="x" * 9_000)) for _ in range(30)]:
            await waiter.outcome()
        assert run.writer._metrics.registry.get_sample_value("offbeat_batch_rows_count") == len(sizes) + 10


async def test_a_clean_stop_commits_what_is_pending_and_signs_off(
    database: asyncpg.Connection, database_url: str
) -> None:
    async with running(database_url) as run:
        waiters = [run.ping() for _ in range(50)]
    assert [waiter.outcomes for waiter in waiters] == [[OK]] * 50
    assert len(await stored(database)) == 50
    row = await row_of(database, "select * from writers")
    assert row["clean"] and row["fenced"] and row["seq"] == 50
    # Equal where a sample of the database's clock has set the instant of the stop back before the last stamp.
    assert to_micros(row["accepted_through"]) >= run.committed.entries[-1].at
    with pytest.raises(UnavailableError):
        run.ping()


async def test_the_end_of_a_writer_that_stops_slowly_is_when_the_stop_began(
    database: asyncpg.Connection, database_url: str
) -> None:
    async with Link(database_url) as link, running(link.url) as run:
        waiter = run.ping()
        await waiter.outcome()
        run.ping()
        link.delay_s = 0.4
        stopping = asyncio.ensure_future(run.writer.stop())
        await asyncio.sleep(0)
        begun = run.clock.now()
        await stopping
    row = await row_of(database, "select * from writers")
    # Pings in the time in which the last one was committed were not received.
    assert row["clean"] and to_micros(row["seen_at"]) > begun + 0.3 * SECOND
    assert run.committed.entries[-1].at <= to_micros(row["accepted_through"]) < begun + 0.2 * SECOND


async def test_an_idle_writer_pulses_every_second(database_url: str) -> None:
    async with running(database_url) as run:
        run.committed.throughs.clear()
        await until(lambda: len(run.committed.throughs) >= 4)
        assert min(gaps(run.committed.throughs[1:])) > SECOND / 2


async def test_an_idle_writer_pulses_faster_among_several(
    database: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offbeat_server.ingest.log_writer.writer.PULSE_S", 3600.0)  # no other reason for a pulse
    async with running(database_url) as run:
        await asyncio.sleep(0)
        seen = len(run.committed.throughs)
        run.committed.several = True
        run.writer.wake()
        await until(lambda: len(run.committed.throughs) >= seen + 6)
        assert median(gaps(run.committed.throughs[-6:])) > SECOND / 20
        through = to_micros(await database.fetchval("select accepted_through from writers"))
        await until(lambda: through in run.committed.throughs)  # Postgres knows a moment before


async def test_a_pulse_comes_in_time_for_the_next_deadline_also_for_one_that_appears(
    database: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offbeat_server.ingest.log_writer.writer.PULSE_S", 3600.0)  # no other reason for a pulse
    async with running(database_url) as run:
        for _ in range(3):
            run.committed.deadline = deadline = run.clock.now() + SECOND // 5
            run.writer.wake()
            await until(partial(lambda due: run.writer.through > due, deadline))
        # However many deadlines are near, the pulses stay bounded.
        seen, began = len(run.committed.throughs), run.clock.now()
        while (took := run.clock.now() - began) < SECOND // 4:
            run.committed.deadline = run.clock.now()
            run.writer.wake()
            await asyncio.sleep(0.001)
        assert len(run.committed.throughs) - seen <= took / (PULSE_GAP_S * SECOND) + 2


def gaps(instants: list[Micros]) -> list[Micros]:
    return [b - a for a, b in pairwise(instants)]


async def test_instants_never_go_back_and_a_pulse_covers_no_ping_that_is_pending(database_url: str) -> None:
    async with running(database_url) as run:
        run.committed.several = True
        for _ in range(40):
            waiter = run.ping()
            await asyncio.sleep(0.004)
            await waiter.outcome()
        assert run.committed.throughs == sorted(run.committed.throughs)
        through = 0
        position = 0
        for upto in run.committed.throughs:
            while position < len(run.committed.entries) and run.committed.entries[position].at <= upto:
                assert run.committed.entries[position].at > through
                position += 1
            through = upto


async def test_a_backend_ended_in_the_middle_loses_and_doubles_nothing(
    database: asyncpg.Connection, database_url: str
) -> None:
    async with running(database_url) as run:
        waiters = []
        for _ in range(30):
            waiters += [run.ping(Ping(message="m" * 5_000)) for _ in range(100)]
            await database.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'offbeat log%'"
            )
            await asyncio.sleep(0.005)
        for waiter in waiters:
            assert await waiter.outcome() == OK
        assert await stored(database) == [(run.writer.id, seq) for seq in range(1, 3001)]
        assert [entry.seq for entry in run.committed.entries] == list(range(1, 3001))


async def test_a_loss_at_a_host_that_was_left_before_it_was_recorded_is_none(
    database: asyncpg.Connection, database_url: str
) -> None:
    async with running(database_url) as run:
        assert await run.ping().outcome() == OK
        run.writer._lost = LostPings(
            run.clock.now(), 5
        )  # by a former primary, which ended before the writer registered
        await database.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'offbeat log%'"
        )
        assert await run.ping().outcome() == OK
        await database.execute("update writers set fenced = true")
        first = run.writer.id
        await until(lambda: run.writer.id != first and run.writer.backlog.accepting)
        assert await run.ping().outcome() == OK
        assert await database.fetchval("select count(*) from refusals where reason = 'lost'") == 0


async def test_the_reply_to_a_commit_is_lost(database: asyncpg.Connection, database_url: str) -> None:
    async with Link(database_url) as link, running(link.url) as run:
        await run.ping().outcome()
        link.hold_replies()
        first = [run.ping() for _ in range(10)]
        await until_stored(database, 11)
        second = [run.ping() for _ in range(10)]  # must not join the doubtful batch
        link.cut()
        for waiter in first + second:
            assert await waiter.outcome() == OK
        assert run.writer.batches_doubted == 1
        assert await stored(database) == [(run.writer.id, seq) for seq in range(1, 22)]
        assert [entry.seq for entry in run.committed.entries] == list(range(1, 22))


async def test_the_link_breaks_before_the_commit_arrives(database: asyncpg.Connection, database_url: str) -> None:
    async with Link(database_url) as link, running(link.url) as run:
        await run.ping().outcome()
        link.hold_requests()
        waiters = [run.ping() for _ in range(10)]
        await until(lambda: run.writer.backlog.front() is not None)
        link.cut()
        for waiter in waiters:
            assert await waiter.outcome() == OK
        assert await stored(database) == [(run.writer.id, seq) for seq in range(1, 12)]


async def test_a_doubtful_batch_whose_old_session_still_holds_on(
    database: asyncpg.Connection, database_url: str
) -> None:
    """The old session hangs inside its COPY, behind a lock: the new one ends it first."""
    async with Link(database_url) as link, running(link.url) as run:
        await run.ping().outcome()
        async with database.transaction():
            await database.execute("select from writers where id = $1 for update", run.writer.id)
            waiters = [run.ping() for _ in range(10)]
            other = await asyncpg.connect(database_url)
            await eventually(
                lambda: other.fetchval(
                    "select count(*) from pg_stat_activity"
                    " where application_name like 'offbeat log%' and wait_event_type = 'Lock'"
                )
            )
            link.cut()
            await until(lambda: run.writer.batches_doubted)
            await eventually(
                lambda: other.fetchval(
                    "select count(*) = 1 from pg_stat_activity"
                    " where application_name like 'offbeat log%' and wait_event_type = 'Lock'"
                )
            )
            await other.close()
        for waiter in waiters:
            assert await waiter.outcome() == OK
        assert await stored(database) == [(run.writer.id, seq) for seq in range(1, 12)]


async def test_a_fenced_writer_drops_its_pending_pings_and_registers_again(
    database: asyncpg.Connection, database_url: str
) -> None:
    async with running(database_url) as run:
        await run.ping().outcome()
        old = run.writer.id
        await database.execute("update writers set fenced = true")
        fenced_at = to_micros(await database.fetchval("select clock_timestamp()"))
        outcome = await run.ping().outcome()
        assert isinstance(outcome, Outcome) and outcome.kind == "unavailable" and 1 <= outcome.retry_after_s <= 5
        await until(lambda: run.writer.backlog.accepting)
        assert run.writer.id != old
        assert await run.ping().outcome() == OK
        assert await stored(database) == [(old, 1), (run.writer.id, 1)]
        assert run.committed.entries[-1].at > fenced_at
        started = await database.fetchval("select started_at from writers where id = $1", run.writer.id)
        assert run.committed.entries[-1].at > to_micros(started)
        row = await row_of(database, "select * from refusals")
        assert (row["pings"], row["reason"], row["writer"]) == (1, "database", run.writer.id)


async def test_fenced_while_in_doubt_but_it_had_committed(database: asyncpg.Connection, database_url: str) -> None:
    async with Link(database_url) as link, running(link.url) as run:
        old = run.writer.id
        link.hold_replies()
        committed = run.ping()
        await until_stored(database, 1)
        pending = run.ping()
        await database.execute("update writers set fenced = true")
        link.cut()
        assert await committed.outcome() == OK
        outcome = await pending.outcome()
        assert isinstance(outcome, Outcome) and outcome.kind == "unavailable"
        assert await stored(database) == [(old, 1)]
        assert [entry.seq for entry in run.committed.entries] == [1]


async def test_a_bad_row_takes_none_of_its_neighbours_along(database: asyncpg.Connection, database_url: str) -> None:
    async with running(database_url) as run:
        waiters = [run.ping() for _ in range(200)]
        bad = run.ping(Ping(done=2**63))
        bad_for_postgres = run.ping(Ping(exit_code=7, message="fine here"))
        waiters += [run.ping() for _ in range(200)]
        await database.execute("alter table pings add constraint no_seven check (exit_code <> 7)")
        for waiter in waiters:
            assert await waiter.outcome() == OK
        for waiter in (bad, bad_for_postgres):
            outcome = await waiter.outcome()
            assert isinstance(outcome, Rejection) and outcome.status == 400
        assert run.writer.rows_rejected == 2
        assert await stored(database) == [(run.writer.id, seq) for seq in range(1, 403) if seq not in (201, 202)]
        assert len(run.committed.entries) == 400


async def test_a_missing_partition_loses_no_ping_and_is_created(
    database: asyncpg.Connection, database_url: str
) -> None:
    async with running(database_url) as run:
        partitions = [
            row["name"]
            for row in await database.fetch(
                "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'pings'::regclass"
            )
        ]
        definition = await database.fetchval(
            "select pg_get_expr(relpartbound, oid) from pg_class where oid = $1::regclass", partitions[0]
        )
        await database.execute(f"alter table pings detach partition {partitions[0]}")
        waiters = [run.ping() for _ in range(5)]
        await until(lambda: run.writer.batches_doubted)
        await database.execute(f"alter table pings attach partition {partitions[0]} {definition}")
        for waiter in waiters:
            assert await waiter.outcome() == OK
        assert run.writer.rows_rejected == 0
        assert len(await stored(database)) == 5


async def test_refusals_are_recorded_before_what_was_accepted_later(
    database: asyncpg.Connection, database_url: str
) -> None:
    async with Link(database_url) as link, running(link.url, pings_pending_max=10) as run:
        link.hold_requests()
        waiters = [run.ping() for _ in range(10)]
        began = run.clock.local()
        for _ in range(4):
            with pytest.raises(BacklogFullError):
                run.ping(PLAIN["start"])
        ended = run.clock.local()
        # The trigger compares what a commit passes with what is recorded then.
        await database.execute(
            """
            create table seen (through timestamptz, refusals bigint);
            create function seen() returns trigger language plpgsql as $$
            begin
              insert into seen select new.accepted_through, coalesce(sum(pings), 0) from refusals;
              return null;
            end $$;
            create trigger seen after update on writers for each row execute function seen()
            """
        )
        link.mend()
        for waiter in waiters:
            assert await waiter.outcome() == OK
        assert await run.ping().outcome() == OK
        row = await row_of(database, "select * from refusals")
        assert (row["pings"], row["reason"], row["writer"]) == (4, "full", run.writer.id)
        # In local time: what the process takes for the database's time is corrected with each answer.
        assert 0 <= to_micros(row["ended_at"]) - to_micros(row["started_at"]) <= ended - began
        for seen in await database.fetch("select * from seen"):
            assert seen["refusals"] == 4 or to_micros(seen["through"]) < to_micros(row["started_at"])
        run.writer.refused_pings.publish()
        sample = run.writer._metrics.registry.get_sample_value
        assert sample("offbeat_ping_refusals_total", {"reason": "full"}) == 4
        assert sample("offbeat_pings_total", {"signal": "start", "result": "refused"}) == 4


async def test_what_a_stopping_writer_refuses_is_recorded_too(database: asyncpg.Connection, database_url: str) -> None:
    async with Link(database_url) as link, running(link.url) as run:
        link.hold_requests()
        pending = run.ping()
        stop = asyncio.ensure_future(run.writer.stop())  # as long as the link is held, it waits for its last commit
        await until(lambda: not run.writer.backlog.accepting)
        for _ in range(3):
            with pytest.raises(UnavailableError):
                run.ping()
        link.mend()
        await stop
        assert await pending.outcome() == OK
        row = await row_of(
            database,
            "select r.pings, r.reason, r.started_at, w.clean, w.accepted_through"
            " from refusals r join writers w on w.id = r.writer",
        )
        assert (row["pings"], row["reason"], row["clean"]) == (3, "stopping", True)
        # Its last statement is of the beginning of the stop: later pings were not received.
        assert run.committed.entries[-1].at <= to_micros(row["accepted_through"]) <= to_micros(row["started_at"])


async def test_a_slow_commit_is_answered_503_in_time_and_kept(database: asyncpg.Connection, database_url: str) -> None:
    async with Link(database_url) as link, running(link.url, commit_timeout=0.5) as run:
        link.hold_requests()
        waiters = [run.ping() for _ in range(3)]
        for waiter in waiters:
            outcome = await waiter.outcome()
            assert isinstance(outcome, Outcome) and outcome.kind == "unavailable"
        assert run.writer.backlog.pings == 3
        await until(lambda: not run.writer.backlog.accepting)  # a ping that comes now would only wait
        with pytest.raises(DatabaseDownError):
            run.ping()
        link.mend()
        await until_stored(database, 3)
        await until(lambda: run.writer.backlog.accepting)
        assert await run.ping().outcome() == OK
        assert [len(waiter.outcomes) for waiter in waiters] == [1, 1, 1]
        assert await stored(database) == [(run.writer.id, seq) for seq in range(1, 5)]


async def test_a_postgres_that_is_slow_for_long_is_an_outage_only_at_first(
    database: asyncpg.Connection,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After 30 s, here 2, although every later commit is as slow."""
    monkeypatch.setattr("offbeat_server.ingest.log_writer.writer.SLOW_RUN_S_MAX", 2.0)
    monkeypatch.setattr("offbeat_server.ingest.log_writer.writer.SLOW_GAP_S", HANG_S)  # it stays one slow time
    async with Link(database_url) as link, running(link.url) as run:
        assert await run.ping().outcome() == OK
        began = run.clock.now()
        link.delay_s = 0.6  # of every reply: more than a client should wait
        output = ""
        while "writer.commits_slow" not in output:
            assert await run.ping().outcome() == OK
            output += capsys.readouterr().out
        logged_at = run.clock.now()
        for _ in range(3):
            assert await run.ping().outcome() == OK
        link.delay_s = 0.0
    outages = await database.fetch("select * from refusals where reason = 'database' order by started_at")
    assert outages and logged_at - began > 2 * SECOND
    assert to_micros(outages[0]["started_at"]) >= began and to_micros(outages[-1]["ended_at"]) <= logged_at
    assert (output + capsys.readouterr().out).count("writer.commits_slow") == 1


async def test_the_limits_of_pings_and_bytes(database_url: str) -> None:
    async with Link(database_url) as link, running(link.url, pings_pending_max=5, bytes_pending_max=1_000_000) as run:
        link.hold_requests()
        waiters = [run.ping() for _ in range(5)]
        with pytest.raises(BacklogFullError):
            run.ping()
        waiting = asyncio.ensure_future(run.writer.backlog.wait_for_capacity())
        await asyncio.sleep(0)
        assert not waiting.done()
        link.mend()
        for waiter in waiters:
            assert await waiter.outcome() == OK
        await waiting
        assert (run.writer.backlog.pings, run.writer.backlog.bytes) == (0, 0)
        link.hold_requests()
        waiters = [run.ping(Ping(message="ü" * 100_000)) for _ in range(3)]
        with pytest.raises(BacklogFullError):
            run.ping()
        link.mend()
        for waiter in waiters:
            assert await waiter.outcome() == OK
        assert (run.writer.backlog.pings, run.writer.backlog.bytes) == (0, 0)


async def test_postgres_away_at_the_start(
    database: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offbeat_server.ingest.log_writer.writer.START_WAIT_S", 0.2)
    async with Link(database_url) as link:
        link.cut(stay=True)
        async with running(link.url) as run:
            assert not run.writer.backlog.accepting
            with pytest.raises(DatabaseDownError):
                run.ping()
            link.mend()
            await until(lambda: run.writer.backlog.accepting)
            assert await run.ping().outcome() == OK
            row = await row_of(database, "select r.*, w.started_at as began from refusals r join writers w on true")
            assert (row["pings"], row["reason"]) == (1, "database")
            assert row["ended_at"] <= row["began"]


async def test_the_databases_clock_jumps(database: asyncpg.Connection, database_url: str) -> None:
    async with running(database_url) as run:
        assert await run.ping().outcome() == OK
        old, before = run.writer.id, run.committed.entries[-1].at
        run.wall.shift_s = 3600  # to our eyes Postgres went back an hour
        await until(lambda: run.writer.id != old and run.writer.backlog.accepting)
        assert await run.ping().outcome() == OK
        # The log never goes back: up to the old one's last sign the scheduler has evaluated already.
        last = await database.fetchval("select accepted_through from writers where id = $1", old)
        assert before <= to_micros(last) < run.committed.entries[-1].at
        rows = await database.fetch("select id, fenced, clean from writers order by id")
        assert [(row["fenced"], row["clean"]) for row in rows] == [(True, False), (False, False)]


async def test_stop_does_not_wait_for_a_postgres_that_is_away(database_url: str) -> None:
    async with Link(database_url) as link:
        run = Running(link.url, Settings(stop_timeout=0.6))
        await run.writer.start()
        link.cut(stay=True)
        waiter = run.ping()
        async with asyncio.timeout(HANG_S):
            await run.writer.stop()
        outcome = await waiter.outcome()
        assert isinstance(outcome, Outcome) and outcome.kind == "unavailable"


async def test_a_process_that_stood_still_says_so_before_anything_later(
    database: asyncpg.Connection, database_url: str
) -> None:
    async with running(database_url) as run:
        assert await run.ping().outcome() == OK
        began = run.clock.now()
        time.sleep(STALL_S + 0.5)  # noqa: ASYNC251 - as if it was stopped, and everything in its loop with it
        ended = run.clock.now()
        assert await run.ping().outcome() == OK
        row = await row_of(database, "select * from refusals")
        assert (row["pings"], row["reason"]) == (0, "stalled")
        assert to_micros(row["started_at"]) <= began and to_micros(row["ended_at"]) >= ended - 10_000
        assert ended < await database.fetchval("select (extract(epoch from max(at)) * 1e6)::bigint from pings")


async def test_log_time_that_another_writer_carries_away_is_an_outage(
    database: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It registers by a clock that jumped, after our registration and before our first word: we leap after it.
    latest = LogConnection.latest

    async def after_another(connection: LogConnection) -> Micros:
        await database.execute(
            "insert into writers (started_at, accepted_through, node) "
            "select at, at, 'other' from (select log_time() + interval '1 hour' as at) as leap"
        )
        return await latest(connection)

    monkeypatch.setattr(LogConnection, "latest", after_another)
    async with running(database_url) as run:
        assert await run.ping().outcome() == OK
        own = await row_of(database, "select * from writers where id = $1", run.writer.id)
        (outage,) = await database.fetch("select * from refusals")
        assert (outage["pings"], outage["reason"]) == (0, "clock")
        assert outage["started_at"] <= own["started_at"] and outage["ended_at"] < own["accepted_through"]
        assert outage["ended_at"] - outage["started_at"] > timedelta(minutes=59)
