"""Outages on a real Postgres: refused pings and a lost database count against no job, and one alert is sent."""

import asyncio
from datetime import timedelta

import asyncpg

from offbeat_server.common.instants import SECOND, to_datetime
from offbeat_server.db.partitions import make_partitions, name_of
from offbeat_server.db.scheduler_store import scheduler_rows
from offbeat_server.db.scheduler_store.scheduler_rows import Outage
from offbeat_server.scheduler.outages import ReportedOutages
from tests.support.harness import eventually
from tests.support.postgres.link import Link
from tests.support.servers.scheduler_node import count_of, running, true


async def test_an_outage_of_two_writers_is_one_alert_and_a_short_one_is_none(database_url: str) -> None:
    async with running(database_url, "a") as a, running(database_url, "b") as b:
        await eventually(lambda: true(a.scheduler.evaluating or b.scheduler.evaluating))
        refuse = """
            insert into refusals (writer, started_at, ended_at, pings, reason)
            values ($1, log_time() - $2 * interval '1 s', log_time(), $3, 'full')"""
        await a.pool.execute(refuse, a.writer.id, 2, 1)
        await eventually(lambda: count_of(a.pool, "deaf having count(*) = 1"))
        assert not await count_of(a.pool, "alerts")
        for node, pings in ((a, 5), (b, 7)):
            await a.pool.execute(refuse, node.writer.id, 30, pings)
        await eventually(lambda: count_of(a.pool, "deaf having count(*) = 3"))
        await eventually(lambda: count_of(a.pool, "alerts where kind = 'operator'"))
        reason = await a.pool.fetchval("select facts ->> 'reason' from alerts")
        assert "30 s (full)" in reason and "pings are known to have been refused" in reason
        assert await count_of(a.pool, "alerts") == 1
        assert await a.pool.fetchval("select sum(pings)::integer from deaf") == 13


async def test_while_postgres_is_away_the_log_s_clock_stands_still(database_url: str) -> None:
    async with Link(database_url) as link, running(link.url, commit_timeout=1.0) as node:
        steady, silent = await node.monitor("steady", every="2s", grace="1s"), await node.monitor("silent", every="1h")
        await asyncio.gather(node.ping(steady), node.ping(silent))
        await node.is_status(steady, "up")
        link.cut(stay=True)
        for _ in range(50):  # five seconds of pings, and no process can take them
            await node.offer(steady)
            await asyncio.sleep(0.1)  # sleep: the pace of the pings
        link.mend()

        await eventually(lambda: node.offer(steady))
        await eventually(lambda: count_of(node.pool, "deaf where reason = 'database'"))
        outage = await node.pool.fetchrow(
            "select sum(pings)::integer as pings, max(ended_at) - min(started_at) as length from deaf"
        )
        assert outage is not None and outage["pings"] > 10 and outage["length"].total_seconds() > 2
        for _ in range(8):  # continues as before
            await node.ping(steady)
            await asyncio.sleep(0.25)  # sleep: the pace of the pings
        assert await node.status(steady) == "up" and not await node.incidents()
        await node.is_status(steady, "down")  # and a real silence is one


async def test_a_writer_that_died_before_the_clock_was_set_back_has_an_outage_until_the_last_sign_of_any_writer(
    database: asyncpg.Connection,
) -> None:
    at = await scheduler_rows.now(database)
    writers = (
        "insert into writers (node, started_at, accepted_through, seen_at) values ('test', $1, $1, $1) returning id"
    )
    dead, _ = [await database.fetchval(writers, to_datetime(at + by * SECOND)) for by in (3600, 3605)]
    outage = await scheduler_rows.fence(database, dead, at + 3600 * SECOND, at)
    assert outage is not None and (outage.started_at - at, outage.ended_at - at) == (3600 * SECOND, 3605 * SECOND)


async def test_after_a_leap_of_the_clock_nothing_is_deleted_for_a_day(database_url: str) -> None:
    """It may have been set wrongly: then nothing is as old as it seems."""
    async with running(database_url) as node:
        await eventually(lambda: true(node.scheduler.evaluating))
        old = (await node.pool.fetchval("select log_time()")).date() - timedelta(days=99)
        async with node.pool.acquire() as connection:
            await make_partitions(connection, old, 0)
        node.scheduler.checkpointer.at = node.scheduler.engine.now
        await node.pool.execute("""
            insert into deaf (started_at, ended_at, reason, decided_at)
            values (log_time() - interval '9 days', log_time(), 'clock', log_time())""")
        await node.scheduler.retention._round()
        assert await node.pool.fetchval("select to_regclass($1)", name_of(old)) is not None
        await node.pool.execute("update deaf set ended_at = ended_at - interval '25 hours'")
        await node.scheduler.retention._round()
        assert await node.pool.fetchval("select to_regclass($1)", name_of(old)) is None


def test_which_outages_need_an_alert() -> None:
    def outage(start_s: int, end_s: int, reason: str = "database") -> Outage:
        return Outage(1, start_s * SECOND, end_s * SECOND, reason)

    reported = ReportedOutages()
    assert not reported.needs_alert(outage(0, 9))
    assert reported.needs_alert(outage(100, 111))
    assert not reported.needs_alert(outage(105, 125, "full"))  # of the same trouble
    assert reported.needs_alert(outage(126, 186))  # which has become much longer
    assert not reported.needs_alert(outage(150, 190))
    assert reported.needs_alert(outage(186, 3_786))
    assert not reported.needs_alert(outage(3_780, 3_790))
    reported = ReportedOutages(until=111 * SECOND, run=(100 * SECOND, 111 * SECOND))
    assert reported.needs_alert(outage(200, 211))
    assert not reported.needs_alert(outage(270, 271, "clock"))  # no: within a minute of the last
    assert reported.needs_alert(outage(280, 281, "clock"))  # a jump is, however short
