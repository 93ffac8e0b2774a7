"""The keeper with a real writer on a real Postgres, without the doors: order, decisions, restart, deaf time, lease."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from server.clock import LogClock, to_micros
from server.engine import engine as engine_module
from server.engine import hearing
from server.engine.monitor import read_definition
from server.engine.ping import PLAIN, Ping
from server.ingest.writer import Writer
from server.keep import keeper as keeper_module
from server.keep import lease as lease_module
from server.keep.keeper import Keeper
from server.metrics import Metrics
from server.roster import Bound
from server.settings import Settings
from server.store import changes, definitions
from server.store.definitions import Wanted
from server.store.pool import connect, open_pool
from tests.harness import eventually


@pytest.fixture(autouse=True)
def _short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take-overs in two seconds rather than seven."""
    for name, value in {"LIFE_S": 2.0, "RENEW_EVERY_S": 0.5, "TRUST_S": 1.5, "TAKE_EVERY_S": 0.2}.items():
        monkeypatch.setattr(lease_module, name, value)


class _Waiter:
    def __init__(self) -> None:
        self.settled: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def settle(self, outcome: Any) -> None:
        self.settled.set_result(outcome)


class Node:
    """A writer and a keeper as one process has them."""

    def __init__(self, url: str, name: str = "node", **settings: Any) -> None:
        self.url = url
        self.settings = Settings(writer_silent_max=1.0, **settings)
        self.clock = LogClock()
        metrics = Metrics("test")
        self.keeper = Keeper(url, self.settings, self.clock, metrics, holder=name, node=name)
        self.writer = Writer(
            url,
            self.settings,
            self.clock,
            metrics,
            node=name,
            metrics_address=None,
            on_committed=lambda entries, through: self.keeper.feed(self.writer.id, entries, through),
            next_deadline=lambda: self.keeper.next_deadline,
            several_writers=lambda: self.keeper.order.others,
        )
        self.pool: asyncpg.Pool

    async def start(self) -> None:
        self.pool = await open_pool(self.url)
        await self.writer.start()
        await self.keeper.start()

    async def stop(self) -> None:
        await self.writer.stop()
        await self.keeper.stop()
        await self.pool.close()

    async def crash(self) -> None:
        """Gone without a word."""
        await self.writer.cancel_tasks()
        await self.keeper.cancel_tasks()
        for connection in (self.writer._log, self.keeper._connection, self.keeper.lease._connection):
            if connection is not None:
                connection.terminate()
        self.pool.terminate()

    async def monitor(self, slug: str = "job", **definition: Any) -> int:
        async with changes.changing(self.pool) as connection:
            await definitions.put_monitors(connection, [Wanted(1, slug, read_definition(definition))], "test")
        self.keeper.changed()
        monitor_id: int = await self.pool.fetchval("select id from monitors where slug = $1", slug)
        return monitor_id

    async def ping(self, monitor_id: int, signal: Any = "success", **said: Any) -> None:
        waiter = _Waiter()
        ping = Ping(signal, **said) if said else PLAIN[signal]
        self.writer.backlog.append(Bound(monitor_id, 1), ping, None, waiter)
        outcome = await waiter.settled
        assert outcome.kind == "ok"

    async def status(self, monitor_id: int) -> str | None:
        status: str | None = await self.pool.fetchval("select status from states where monitor_id = $1", monitor_id)
        return status

    async def is_status(self, monitor_id: int, status: str, timeout_s: float = 10.0) -> None:
        async def same() -> bool:
            return await self.status(monitor_id) == status

        await eventually(same, timeout_s)

    async def incidents(self) -> list[asyncpg.Record]:
        return await self.pool.fetch("select * from incidents order by monitor_id, number")

    async def alerts(self) -> list[str]:
        rows = await self.pool.fetch("select kind from alerts where kind <> 'operator' order by id")
        return [row["kind"] for row in rows]


@asynccontextmanager
async def running(url: str, name: str = "node", **settings: Any) -> AsyncIterator[Node]:
    node = Node(url, name, **settings)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


async def test_silence_becomes_an_incident_and_a_ping_resolves_it(database_url: str) -> None:
    async with running(database_url) as node:
        job = await node.monitor(every="1s", grace="500ms")
        await node.ping(job)
        await node.is_status(job, "up")
        await node.is_status(job, "down")
        (incident,) = await node.incidents()
        assert incident["cause"] == "missed"
        late = (incident["decided_at"] - incident["opened_at"]).total_seconds()
        assert 0 <= late < 2
        await node.ping(job)
        await node.is_status(job, "up")
        assert await node.alerts() == ["opened", "resolved"]
        stored = await node.pool.fetchrow("select at, state from states where monitor_id = $1", job)
        last = await node.pool.fetchval("select max(at) from pings")
        assert stored["at"] >= last and stored["state"]["heard_at"] == to_micros(last)


async def test_the_first_ping_right_after_the_creation_counts(database_url: str) -> None:
    async with running(database_url) as node:
        await eventually(lambda: _true(node.keeper.judging))
        job = await node.monitor(max_runtime="1s")
        await node.ping(job, "start", run="r1", message="hello")
        await node.is_status(job, "down")
        run = await node.pool.fetchrow("select * from runs")
        assert run["run"] == "r1" and run["verdict"] == "hung"
        alert = await node.pool.fetchval("select facts from alerts where kind = 'opened'")
        assert alert["run"] == "r1" and "r1" in alert["reason"] and alert["last_message"] == "hello"


async def test_an_alert_about_a_run_says_what_is_usual(database_url: str) -> None:
    async with running(database_url) as node:
        job = await node.monitor(max_runtime="2s")
        for number in range(4):
            await node.ping(job, "start", run=str(number))
            await node.ping(job, "success", run=str(number))
        await node.ping(job, "start", run="long")
        await node.is_status(job, "down")
        usual = await node.pool.fetchval("select facts ->> 'usual' from alerts where kind = 'opened'")
        assert usual.startswith("2 s; usually 0") and usual.endswith("(4 runs)")


async def test_a_crash_and_a_restart_continue_from_the_log(database_url: str) -> None:
    node = Node(database_url)
    await node.start()
    steady = await node.monitor("steady", every="30s", grace="30s")
    failing = await node.monitor("failing", every="1h")
    running_job = await node.monitor("running", max_runtime="8s")
    await node.ping(steady)
    await node.ping(failing, "fail", message="broken")
    await node.ping(running_job, "start", run="long")
    await node.is_status(failing, "down")
    await eventually(lambda: _count(node.pool, "runs"))
    await node.ping(steady)  # plain: in the log and in no state
    await node.crash()

    async with running(database_url, "again") as again:
        await again.is_status(running_job, "down", 20)
        assert await again.status(steady) == "up"
        kinds = [(row["monitor_id"], row["number"], row["cause"]) for row in await again.incidents()]
        assert kinds == [(failing, 1, "failed"), (running_job, 1, "hung")]
        started, opened = await again.pool.fetchrow(
            "select r.started_at, i.opened_at from runs r join incidents i using (monitor_id) where r.monitor_id = $1",
            running_job,
        )
        deaf = await again.pool.fetch("select * from deaf")
        assert [row["reason"] for row in deaf] == ["crash"]
        moved = (opened - started).total_seconds() - 8
        assert moved == pytest.approx((deaf[0]["ended_at"] - deaf[0]["started_at"]).total_seconds(), abs=0.01)
        assert again.keeper.mismatches == 0
        assert await again.alerts() == ["opened", "opened"]


async def test_a_clean_stop_leaves_a_checkpoint_and_deaf_time(database_url: str) -> None:
    async with running(database_url) as node:
        job = await node.monitor(every="1h")
        await node.ping(job)
        await node.is_status(job, "up")
        await node.ping(job)
        last = node.writer.through
    connection = await connect(database_url)
    stored = await connection.fetchrow("select s.at, s.state, c.at as checkpoint from states s, checkpoint c")
    last_ping = await connection.fetchval("select max(at) from pings")
    assert stored["state"]["heard_at"] == to_micros(last_ping) and stored["checkpoint"] >= stored["at"] >= last_ping
    assert await connection.fetchval("select expires_at = '-infinity' from lease where name = 'keeper'")
    async with running(database_url, "again") as again:
        await eventually(lambda: _true(again.keeper.judging))
        await eventually(lambda: _count(again.pool, "deaf"))
        deaf = await connection.fetchrow("select * from deaf")
        assert deaf["reason"] == "stopped" and (deaf["ended_at"] - deaf["started_at"]).total_seconds() < 10
        assert again.keeper.engine.monitors[job].heard_at <= last
    await connection.close()


async def test_two_writers_are_one_order(database_url: str) -> None:
    async with running(database_url, "a") as a, running(database_url, "b") as b:
        await eventually(lambda: _true(a.keeper.judging or b.keeper.judging))
        assert a.keeper.judging != b.keeper.judging
        job = await a.monitor(every="1h")
        for index in range(50):
            await (a, b)[index % 2].ping(job, "progress", run=str(index), done=index)
        await b.ping(job, "start", run="x")
        await a.ping(job, "success", run="x")
        await eventually(lambda: _count(a.pool, "runs where verdict = 'succeeded'"))

        async def all_applied() -> bool:  # by whichever is the keeper by now; their clocks differ by milliseconds
            return max(sum(node.keeper.order.cursors.values()) for node in (a, b)) == 52

        await eventually(all_applied)


async def test_a_stopped_keeper_is_followed_at_once_and_a_crashed_one_soon(database_url: str) -> None:
    a, b = Node(database_url, "a"), Node(database_url, "b")
    await a.start()
    await eventually(lambda: _true(a.keeper.judging))
    await b.start()
    job = await b.monitor(every="1s", grace="1s")
    await a.stop()
    await eventually(lambda: _true(b.keeper.judging), 5)
    c = Node(database_url, "c")
    await c.start()
    await b.ping(job)
    await b.is_status(job, "up")
    await b.crash()
    await eventually(lambda: _true(c.keeper.judging), 12)
    await c.is_status(job, "down", 15)
    terms = await c.pool.fetchval("select term from lease where name = 'keeper'")
    assert terms == 3
    await c.stop()


async def test_a_keeper_that_lost_its_lease_writes_nothing(database_url: str) -> None:
    async with running(database_url) as node:
        job = await node.monitor(every="1s", grace="500ms")
        await node.ping(job)
        await node.is_status(job, "up")
        await node.pool.execute(
            "update lease set term = term + 1, holder = 'thief', expires_at = now() + interval '2s'"
        )
        await node.is_status(job, "down", 20)
        taken = await node.pool.fetchrow("select term, holder from lease where name = 'keeper'")
        assert taken["holder"] == "node" and taken["term"] == 3
        assert len(await node.incidents()) == 1


async def test_a_storm_does_not_hold_the_loop(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "SUBJECTS_MAX", 200)
    async with running(database_url) as node:
        async with changes.changing(node.pool) as connection:
            wanted = [Wanted(1, f"m{i}", read_definition({"every": "1s", "grace": "1s"})) for i in range(3000)]
            await definitions.put_monitors(connection, wanted, "test")
        ids = [row["id"] for row in await node.pool.fetch("select id from monitors")]
        await asyncio.gather(*(node.ping(monitor_id) for monitor_id in ids))

        async def all_down() -> bool:
            return bool(await node.pool.fetchval("select count(*) = 3000 from incidents"))

        await eventually(all_down, 30)
        assert await node.pool.fetchval("select count(*) from alerts") == 3000


async def test_a_decision_that_cannot_be_stored_harms_no_neighbour(database_url: str) -> None:
    async with running(database_url) as node:
        bad, good = await node.monitor("bad", every="1h"), await node.monitor("good", every="1h")
        await node.ping(good)
        await node.is_status(good, "up")  # from here on the keeper takes our entries from memory
        # A reader would never let this through; the log replaces it, the row of the run cannot hold it.
        await asyncio.gather(node.ping(bad, "start", run="a\0b"), node.ping(good, "start", run="ab"))
        await eventually(lambda: _true(node.keeper.decisions_dropped == 1))
        assert await node.status(bad) == "new"  # as it was made
        await node.ping(good, "success", run="ab")
        await eventually(lambda: _count(node.pool, "runs where verdict = 'succeeded'"))


async def test_an_error_of_ours_leaves_one_monitor_out_and_harms_no_neighbour(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hearing.hear

    def broken(desk: Any, m: Any, entry: Any) -> None:
        real(desk, m, entry)
        if m.slug == "bad" and entry.ping.message == "poison":
            raise ZeroDivisionError("an error of ours")

    async with running(database_url) as node:
        bad = await node.monitor("bad", every="1h")
        good = await node.monitor("good", every="1s", grace="500ms")
        await asyncio.gather(node.ping(bad), node.ping(good))
        await node.is_status(bad, "up")
        monkeypatch.setattr(engine_module, "hear", broken)
        await asyncio.gather(node.ping(bad, "fail", message="poison"), node.ping(good))
        await node.is_status(good, "down")  # the others are judged as ever
        assert list(node.keeper.engine.quarantined) == [bad]
        assert await node.status(bad) == "up"  # nothing of the half-heard ping is written
        await node.ping(bad)  # passed over
        await node.monitor("bad", every="2h")  # a change tries it again
        await node.ping(bad, "fail", message="a real failure")
        await node.is_status(bad, "down")
        assert not node.keeper.engine.quarantined


async def test_rows_that_cannot_be_read_stop_nobody(database_url: str) -> None:
    async with running(database_url) as node:
        bad, good = await node.monitor("bad", every="1h"), await node.monitor("good", every="1h")
        await asyncio.gather(node.ping(bad), node.ping(good))
        await node.is_status(bad, "up")
        await node.is_status(good, "up")
    connection = await connect(database_url)
    await connection.execute("""update states set state = '["nonsense"]' where monitor_id = $1""", bad)
    await connection.close()
    async with running(database_url) as again:
        await eventually(lambda: _true(again.keeper.judging))
        assert list(again.keeper.engine.quarantined) == [bad]
        async with changes.changing(again.pool) as connection:
            await connection.execute(
                "insert into changes (project_id, monitor_id, actor, kind, subject, after) "
                "values (1, $1, 'test', 'monitor', 'worse', '{}')",
                bad,
            )
        again.keeper.changed()
        await asyncio.gather(again.ping(bad), again.ping(good, "fail"))
        await again.is_status(good, "down")


async def test_a_cancelled_statement_and_a_stalled_renewal_do_not_end_the_keeper(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(database_url) as node:
        await eventually(lambda: _true(node.keeper.judging))
        died: list[str] = []
        node.keeper.on_death = lambda name, error: died.append(name)
        term = await node.pool.fetchval("select term from lease where name = 'keeper'")
        async with node.pool.acquire() as connection, connection.transaction():
            # Neither a renewal nor a take-over passes this lock: the trust runs out while a renewal is under way.
            await connection.execute("select 1 from lease where name = 'keeper' for update")
            await eventually(lambda: _true(not node.keeper.judging))
        await eventually(lambda: _true(node.keeper.judging), 20)
        assert await node.pool.fetchval("select term from lease where name = 'keeper'") > term and not died


async def _true(value: object) -> bool:
    return bool(value)


async def _count(pool: asyncpg.Pool, what: str) -> int:
    count: int = await pool.fetchval(f"select count(*) from {what}")
    return count
