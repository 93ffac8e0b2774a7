"""A process that freezes within a transaction delays the others by some seconds at most.

To Postgres a frozen process is a session that says nothing more; so is what stands for it here, at the very places
where the server's own functions would be.
"""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.config import Settings
from offbeat_server.db.pool import connect, database_trouble, open_pool
from offbeat_server.db.read_models import history
from offbeat_server.db.repositories import changes
from offbeat_server.db.repositories.outbox import DigestSelection, Outbox
from offbeat_server.db.sql_loader import load
from offbeat_server.scheduler.stuck_sessions import StuckSessionReaper
from tests.support.harness import Receiver, Server, eventually
from tests.support.outbox import scene


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """As a server's own."""
    opened = await open_pool(database_url)
    yield opened
    opened.terminate()


@pytest.mark.parametrize("where", ["before its first write", "between statements", "within one"])
async def test_others_continue_if_a_process_froze_in_a_change(
    database_url: str, pool: asyncpg.Pool, where: str
) -> None:
    async with Server(database_url) as server:
        key = (await server.api("PUT", "/api/v1/monitors/job", {"every": "1h"})).body["key"]
        await server.session.get(f"/api/v1/heartbeat/{key}/fail")

        async def down() -> int | None:
            monitor_id: int | None = await pool.fetchval("select monitor_id from incidents where resolved_at is null")
            return monitor_id

        monitor_id = await eventually(down)
        assert monitor_id is not None
        change = changes.changing(pool)
        frozen = await change.__aenter__()
        if where != "before its first write":
            await history.acknowledge(frozen, monitor_id, 1, "somebody")  # the scheduler writes that row next
        if where == "within one":
            await frozen.prepare("select 1")  # parsed, with nothing sent that would end the statement
        await server.session.get(f"/api/v1/heartbeat/{key}")

        async def resolved() -> bool:
            return not await pool.fetchval("select count(*) from incidents where resolved_at is null")

        async def changed() -> bool:
            return (await server.api("PUT", "/api/v1/monitors/other", {"every": "1h"})).status in (200, 201)

        await eventually(resolved)
        await eventually(changed)
        with pytest.raises(DatabaseDownError), database_trouble():  # when it wakes up it has changed nothing
            await change.__aexit__(None, None, None)
        assert not await pool.fetchval("select count(*) from incidents where acknowledged_at is not null")


@pytest.mark.parametrize(
    ("name", "subject", "lock"), [("start", "meta", "lock_schema"), ("retention", "partitions", "lock_partitions")]
)
async def test_a_node_starts_where_another_froze_while_it_started(
    database_url: str, pool: asyncpg.Pool, name: str, subject: str, lock: str
) -> None:
    last = await pool.fetchval("select max(relname) from pg_class where relkind = 'r' and relname ~ '^pings_[0-9]{8}$'")
    await pool.execute(f"drop table {last}")  # so there is one to make
    frozen = await connect(database_url, application_name=f"offbeat {name}")
    await frozen.execute("begin")
    await frozen.execute(load(subject)[lock])

    async def has_been_silent() -> bool:
        silent_for = "select clock_timestamp() - state_change > interval '3 s' from pg_stat_activity where pid = $1"
        return bool(await pool.fetchval(silent_for, frozen.get_server_pid()))

    await eventually(has_been_silent)  # before that, the start would run into its bound, and try again
    async with Server(database_url):
        assert await pool.fetchval("select to_regclass($1) is not null", last)
    with pytest.raises(DatabaseDownError), database_trouble():
        await frozen.execute("commit")
    frozen.terminate()


async def test_alerts_in_the_hands_of_a_dispatcher_that_froze_are_sent_by_another(database_url: str) -> None:
    frozen = StuckSessionReaper(database_url, Settings())
    async with scene(database_url) as world, Receiver() as receiver:
        channel = await world.channel("hook", "webhook", url=receiver.url)
        await world.alerts(channel, 8)
        transaction = Outbox(world.pool, "frozen", "there").transaction()
        connection = await transaction.__aenter__()
        wanted = DigestSelection(channel, 100, 2, following=True, resolves=True, which="all")
        assert await Outbox(world.pool, "frozen", "there").attach(connection, wanted, (20, 5), 0) is not None
        async with world.dispatcher():  # it skips rows that another process has locked
            await frozen.start()
            await world.settled()
        assert receiver.requests
        with pytest.raises(DatabaseDownError):
            await transaction.__aexit__(None, None, None)
    await frozen.stop()
