"""The scheduler with a real writer on a real Postgres, without HTTP: order, decisions, restart, outages, lease."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import LeaseLostError
from offbeat_server.common.instants import SECOND, to_micros
from offbeat_server.db.pool import connect
from offbeat_server.db.repositories import changes, definitions, windows
from offbeat_server.db.repositories.definitions import WantedMonitor
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.scheduler import checkpoint, decision_writer
from offbeat_server.scheduler import lease as lease_module
from offbeat_server.scheduler.recovery import compare_incidents
from tests.support.harness import eventually
from tests.support.servers.scheduler_node import Node, count_of, running, short_lease, true  # noqa: F401

with_short_lease = pytest.mark.usefixtures("short_lease")  # the scheduler that follows waits for its end


@pytest.mark.quick
async def test_silence_becomes_an_incident_and_a_ping_resolves_it(database_url: str) -> None:
    async with running(database_url) as node:
        job = await node.monitor(every="2s", grace="1s")
        await node.ping(job)
        await node.is_status(job, "up")
        await node.is_status(job, "down")
        (incident,) = await node.incidents()
        assert incident["cause"] == "missed"
        pinged_at = await node.pool.fetchval("select at from pings")
        assert incident["decided_at"] >= incident["opened_at"] == pinged_at + timedelta(seconds=3)
        await node.ping(job)
        await node.is_status(job, "up")
        assert await node.alerts() == ["opened", "resolved"]
        stored = await node.pool.fetchrow("select at, state from states where monitor_id = $1", job)
        last = await node.pool.fetchval("select max(at) from pings")
        assert stored is not None and stored["at"] >= last and stored["state"]["heard_at"] == to_micros(last)


async def test_the_first_ping_right_after_the_creation_counts(database_url: str) -> None:
    async with running(database_url) as node:
        await eventually(lambda: true(node.scheduler.evaluating))
        job = await node.monitor(max_runtime="1s")
        await node.ping(job, "start", run="r1", message="hello")
        await node.is_status(job, "down")
        run = await node.pool.fetchrow("select * from runs")
        assert run is not None and run["run"] == "r1" and run["verdict"] == "hung"
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


@pytest.mark.quick
@with_short_lease
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
    await eventually(lambda: count_of(node.pool, "runs"))
    await node.ping(steady)  # plain: in the log and in no state
    await node.crash()

    async with running(database_url, "again", writer_silent_max=3.0) as again:
        await eventually(lambda: count_of(again.pool, "deaf"))
        await again.ping(running_job, "log", run="long")  # else its end might have been lost in the crash
        await again.is_status(running_job, "down")
        assert await again.status(steady) == "up"
        kinds = [(row["monitor_id"], row["number"], row["cause"]) for row in await again.incidents()]
        assert kinds == [(failing, 1, "failed"), (running_job, 1, "hung")]
        times = await again.pool.fetchrow(
            "select r.started_at, i.opened_at from runs r join incidents i using (monitor_id) where r.monitor_id = $1",
            running_job,
        )
        assert times is not None
        started, opened = times
        outages = await again.pool.fetch("select * from deaf")
        assert [row["reason"] for row in outages] == ["crash"]
        moved = (opened - started).total_seconds() - 8
        assert moved == pytest.approx((outages[0]["ended_at"] - outages[0]["started_at"]).total_seconds(), abs=0.01)
        assert again.scheduler.mismatches == 0
        assert await again.alerts() == ["opened", "opened"]


@with_short_lease
async def test_a_window_that_was_in_force_is_so_again_for_the_next_scheduler(database_url: str) -> None:
    async with running(database_url) as node:
        silent = await node.monitor("silent", every="1s", grace="1s", strict=True)
        other = await node.monitor("other", every="1h")
        await node.ping(silent)
        now = datetime.now(UTC)
        definition = {
            "monitors": ["silent"],
            "start": str(now - timedelta(hours=1)),
            "end": str(now + timedelta(hours=1)),
        }
        async with changes.changing(node.pool) as connection:
            await windows.put_window(connection, 1, "night", definition, "test")
        rev = await node.pool.fetchval("select max(rev) from changes")
        await eventually(lambda: true(node.scheduler.config_changes.rev >= rev))
        await node.ping(other, "fail")
        await node.is_status(other, "down")
        deadline = node.clock.now() + 2 * SECOND
        await (
            node.scheduler.cancel_tasks()
        )  # without a statement; its writer continues, and no process evaluates deadlines
        await eventually(lambda: true(node.writer.through > deadline))

        async with running(database_url, "next") as follower:
            await follower.is_status(silent, "down")
            assert await follower.alerts() == ["opened"]  # of the other


async def test_a_clean_stop_leaves_a_checkpoint_and_an_outage(database_url: str) -> None:
    began_s = monotonic()
    async with running(database_url) as node:
        job = await node.monitor(every="1h")
        await node.ping(job)
        await node.is_status(job, "up")
        await node.ping(job)
        last = node.writer.through
    connection = await connect(database_url)
    stored = await connection.fetchrow("select s.at, s.state, c.at as checkpoint from states s, checkpoint c")
    last_ping = await connection.fetchval("select max(at) from pings")
    assert stored is not None and stored["state"]["heard_at"] == to_micros(last_ping)
    assert stored["checkpoint"] >= stored["at"] >= last_ping
    assert await connection.fetchval("select expires_at = '-infinity' from lease where name = 'keeper'")
    async with running(database_url, "again") as again:
        await eventually(lambda: true(again.scheduler.evaluating))
        await eventually(lambda: count_of(again.pool, "deaf"))
        outage = await connection.fetchrow("select * from deaf")
        assert outage is not None and outage["reason"] == "stopped"
        assert (outage["ended_at"] - outage["started_at"]).total_seconds() < monotonic() - began_s
        last_ping_at = again.scheduler.engine.monitors[job].last_ping_at
        assert last_ping_at is not None and last_ping_at <= last
    await connection.close()


@with_short_lease
async def test_many_changes_are_not_read_again_by_a_start(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "CHECKPOINT_CHANGES", 3)
    async with running(database_url) as node:
        jobs = [await node.monitor(slug, every="1h") for slug in ("a", "b", "c", "d")]
        await eventually(lambda: node.pool.fetchval("select applied_rev >= $1 from checkpoint", len(jobs) - 1))
        await node.scheduler.cancel_tasks()  # without a word
        async with running(database_url, "next") as follower:
            await eventually(lambda: true(follower.scheduler.evaluating))
            # The last change may be younger than the checkpoint: the follower reads it in its first cycle.
            await eventually(lambda: true(set(jobs) <= follower.scheduler.engine.monitors.keys()))


async def test_two_writers_are_one_order(database_url: str) -> None:
    async with running(database_url, "a") as a, running(database_url, "b") as b:
        await eventually(lambda: true(a.scheduler.evaluating or b.scheduler.evaluating))
        assert a.scheduler.evaluating != b.scheduler.evaluating
        job = await a.monitor(every="1h")
        for index in range(50):
            await (a, b)[index % 2].ping(job, "progress", run=str(index), done=index)
        await b.ping(job, "start", run="x")
        await a.ping(job, "success", run="x")
        await eventually(lambda: count_of(a.pool, "runs where verdict = 'succeeded'"))

        async def all_applied() -> bool:  # by the present scheduler; their clocks differ by milliseconds
            return max(sum(node.scheduler.log_reader.cursors.values()) for node in (a, b)) == 52

        await eventually(all_applied)


@with_short_lease
async def test_a_stopped_scheduler_is_followed_at_once_and_a_crashed_one_soon(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_s = lease_module.LIFE_S
    monkeypatch.setattr(lease_module, "LIFE_S", 3_600.0)  # the lease ends only if it is released
    a, b = Node(database_url, "a"), Node(database_url, "b")
    await a.start()
    await eventually(lambda: true(a.scheduler.evaluating))
    await b.start()
    job = await b.monitor(every="1s", grace="1s")
    await a.stop()
    await eventually(lambda: true(b.scheduler.evaluating))
    monkeypatch.setattr(lease_module, "LIFE_S", short_s)
    await eventually(lambda: b.pool.fetchval("select expires_at < now() + interval '1 minute' from lease"))
    c = Node(database_url, "c", writer_silent_max=3.0)
    await c.start()
    await b.ping(job)
    await b.is_status(job, "up")
    await b.crash()
    await eventually(lambda: true(c.scheduler.evaluating))
    await c.is_status(job, "down")
    terms = await c.pool.fetchval("select term from lease where name = 'keeper'")
    assert terms == 3
    await c.stop()


async def test_a_scheduler_that_lost_its_lease_writes_nothing(database_url: str) -> None:
    async with running(database_url) as node:
        job = await node.monitor(every="1s", grace="500ms")
        await node.ping(job)
        await node.is_status(job, "up")
        await node.pool.execute(
            "update lease set term = term + 1, holder = 'thief', expires_at = now() + interval '2s'"
        )
        await node.is_status(job, "down")
        taken = await node.pool.fetchrow("select term, holder from lease where name = 'keeper'")
        assert taken is not None and taken["holder"] == "node" and taken["term"] == 3
        assert len(await node.incidents()) == 1


async def test_an_incident_that_a_successor_has_opened_is_no_mismatch(database_url: str) -> None:
    async with running(database_url) as node:
        job = await node.monitor(every="1h")
        await eventually(lambda: true(node.scheduler.evaluating))
        # Log time may leap past the end of a lease whose holder still trusts it.
        await node.pool.execute(
            "update lease set term = term + 1, holder = 'successor', expires_at = now() + interval '2s'"
        )
        await node.pool.execute(
            """insert into incidents (monitor_id, number, project_id, opened_at, decided_at, cause, reason, causes)
               values ($1, 1, 1, now(), now(), 'missed', 'it did not come', '[]')""",
            job,
        )
        async with node.pool.acquire() as connection:
            with pytest.raises(LeaseLostError):
                scheduler = node.scheduler
                await compare_incidents(connection, scheduler.lease, scheduler.engine, 1, scheduler._count_mismatch)
        assert node.scheduler.mismatches == 0


async def test_a_storm_does_not_hold_the_loop(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_writer, "SUBJECTS_MAX", 200)
    async with running(database_url) as node:
        async with changes.changing(node.pool) as connection:
            wanted = [WantedMonitor(1, f"m{i}", read_definition({"every": "1s", "grace": "1s"})) for i in range(3000)]
            await definitions.put_monitors(connection, wanted, "test")
        ids = [row["id"] for row in await node.pool.fetch("select id from monitors")]
        await asyncio.gather(*(node.ping(monitor_id) for monitor_id in ids))

        async def all_down() -> bool:
            return bool(await node.pool.fetchval("select count(*) = 3000 from incidents"))

        await eventually(all_down)
        assert await node.pool.fetchval("select count(*) from alerts") == 3000


@with_short_lease
async def test_a_cancelled_statement_and_a_stalled_renewal_do_not_end_the_scheduler(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(database_url) as node:
        await eventually(lambda: true(node.scheduler.evaluating))
        died: list[str] = []
        node.scheduler.on_death = lambda name, error: died.append(name)
        term = await node.pool.fetchval("select term from lease where name = 'keeper'")
        # By its name none of a frozen process, whose locks would be taken from it.
        connection = await connect(database_url, application_name="somebody")
        async with connection.transaction():
            # Neither a renewal nor a take-over passes this lock: the trust runs out while a renewal is under way.
            await connection.execute("select 1 from lease where name = 'keeper' for update")
            # At worst a decision is under way, and waits for the lock as long as any statement may.
            await eventually(lambda: true(not node.scheduler.evaluating))
        await connection.close()
        await eventually(lambda: true(node.scheduler.evaluating))
        assert await node.pool.fetchval("select term from lease where name = 'keeper'") > term and not died
