"""Connections: what they are like, what is trouble of the database and what is ours, and life behind a pooler."""

import asyncio
import os
import signal
from typing import Any

import asyncpg
import pytest

from offbeat_server.common.errors import DatabaseDownError, DatabaseRefusedError, SettingsError
from offbeat_server.db.pool import connect, database_trouble, open_cursor, open_pool
from offbeat_server.db.schema import apply_schema
from tests.support.harness import PgBouncer, Postgres, free_port


async def test_every_connection_is_durable_in_utc_and_speaks_json(database_url: str) -> None:
    connection = await connect(database_url, application_name="offbeat test")
    assert await connection.fetchval("show synchronous_commit") == "on"
    assert await connection.fetchval("show timezone") == "UTC"
    assert await connection.fetchval("show application_name") == "offbeat test"
    value = {"name": "Größe", "counts": [1, 2.5, None], "empty": {}}
    assert await connection.fetchval("select $1::jsonb", value) == value
    await connection.execute("create temp table kept (a jsonb)")
    await connection.copy_records_to_table("kept", records=[(value,)])
    assert await connection.fetchval("select a from kept where a->>'name' = 'Größe'") == value
    await connection.close()


async def test_a_pools_connections_are_no_different_and_no_state_is_carried_over(database_url: str) -> None:
    pool = await open_pool(database_url, size_max=1)
    assert await pool.fetchval("select '[1]'::jsonb") == [1]
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("create table lost ()")  # never committed: given back in the middle
    assert await pool.fetchval("select to_regclass('lost')") is None
    assert await pool.fetchval("show synchronous_commit") == "on"
    await pool.close()


async def test_what_says_that_the_database_is_away(database_url: str, postgres: Postgres) -> None:
    connection, admin = await connect(database_url), await connect(database_url)
    pool = await open_pool(database_url)
    asking = asyncio.ensure_future(connection.execute("select pg_sleep(60)"))

    async def in_flight() -> None:
        with database_trouble():
            await asking

    await admin.execute("select pg_terminate_backend($1)", connection.get_server_pid())
    with pytest.raises(DatabaseDownError):
        await in_flight()
    with pytest.raises(DatabaseDownError), database_trouble():
        await connection.execute("select 1")
    await pool.close()
    with pytest.raises(DatabaseDownError), database_trouble():
        await pool.fetchval("select 1")
    with pytest.raises(DatabaseDownError, match="TimeoutError"), database_trouble():
        await admin.execute("select pg_sleep(60)", timeout=0.01)
    with pytest.raises(DatabaseDownError):
        await connect(f"postgresql://offbeat@127.0.0.1:{free_port()}/x")
    with pytest.raises(DatabaseDownError):
        await connect("postgresql://offbeat@/x?host=/nowhere")
    await admin.close()


async def test_what_is_our_own_mistake_passes_as_it_is(database: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.PostgresSyntaxError), database_trouble():
        await database.execute("selekt")
    with pytest.raises(asyncpg.UniqueViolationError), database_trouble():
        await database.execute("insert into projects (slug, name, ping_key) select slug, name, ping_key from projects")
    asking = asyncio.ensure_future(database.execute("select pg_sleep(0.2)"))
    await asyncio.sleep(0)
    with pytest.raises(asyncpg.InterfaceError, match="another operation"), database_trouble():
        await database.execute("select 1")
    await asking


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://offbeat@/nope?{}", 'database "nope" does not exist'),
        ("postgresql://stranger@/postgres?{}", 'role "stranger" does not exist'),
        ("mysql://h/x", "must be a URL of Postgres"),
        ("postgresql://u:sec/ret@h/x", "percent-encoded"),
    ],
)
async def test_a_wrong_address_is_a_wrong_setting_and_no_secret_is_shown(
    postgres: Postgres, url: str, says: str
) -> None:
    with pytest.raises((DatabaseRefusedError, SettingsError)) as caught:
        await connect(url.format(postgres.url.partition("?")[2]))
    assert says in str(caught.value)
    assert "sec" not in str(caught.value)


async def test_a_database_that_hangs_is_away_in_time(
    database_url: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offbeat_server.db.pool.CONNECT_TIMEOUT_S", 0.3)
    connection = await connect(database_url, command_timeout_s=0.3)
    os.kill(postgres.pid, signal.SIGSTOP)  # no new connections
    os.kill(connection.get_server_pid(), signal.SIGSTOP)  # and this one stands still
    try:
        with pytest.raises(DatabaseDownError):
            await connect(database_url)
        with pytest.raises(DatabaseDownError), database_trouble():
            await connection.execute("select 1")
    finally:
        os.kill(connection.get_server_pid(), signal.SIGCONT)
        os.kill(postgres.pid, signal.SIGCONT)
    connection.terminate()


async def test_behind_a_pooler_in_transaction_mode(empty_database_url: str) -> None:
    async with PgBouncer(empty_database_url) as url:
        with pytest.raises(DatabaseRefusedError, match="--pgbouncer"):
            await connect(url)
        connection = await connect(url, pgbouncer=True)
        await apply_schema(connection)
        await connection.close()
        pool = await open_pool(url, pgbouncer=True, size_max=10)

        async def use(n: int) -> None:
            async with pool.acquire() as connection, connection.transaction():
                assert await connection.fetchval("select $1::jsonb", [n]) == [n]
            assert await pool.fetchval("select $1::integer + 1", n) == n + 1

        await asyncio.gather(*(use(n) for n in range(200)))
        await pool.close()


@pytest.mark.parametrize("weak", ["off", "local"])
async def test_behind_a_pooler_a_database_that_forgets_commits_is_refused(database_url: str, weak: str) -> None:
    owner = await connect(database_url)
    await owner.execute(
        f"do $$ begin execute format('alter database %I set synchronous_commit = {weak}', current_database()); end $$"
    )
    await owner.close()
    async with PgBouncer(database_url) as url:
        with pytest.raises(DatabaseRefusedError, match="alter role offbeat set synchronous_commit = on"):
            await connect(url, pgbouncer=True)


async def test_a_session_that_postgres_ended_and_that_is_not_closed_yet_is_down(
    database: asyncpg.Connection,
) -> None:
    fields = b"SFATAL\0C57P01\0Mterminating connection due to unexpected postmaster exit\0\0"
    session: Any = database
    session._protocol.data_received(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
    with pytest.raises(DatabaseDownError, match="cannot switch to state"), database_trouble():
        await database.fetchval("select 1")
    database.terminate()


async def test_a_cursor_behind_a_pooler_does_not_meet_the_statements_of_another_process(database_url: str) -> None:
    async with PgBouncer(database_url) as url:
        connection = await connect(url, pgbouncer=True)
        # As another process may have left them in the session that we are lent.
        module: Any = asyncpg.connection
        begun = module._uid
        names = [f"__asyncpg_stmt_{id:x}__" for id in range(begun, begun + 100)]
        await connection.execute("; ".join(f"prepare {name} as select 1" for name in names))
        async with connection.transaction():
            cursor = await open_cursor(connection, "select generate_series(1, $1)", 3)
            assert await connection.fetchval("select 5") == 5  # takes the place of the statement, not of the cursor
            assert [row[0] for row in await cursor.fetch(10)] == [1, 2, 3]
        with pytest.raises(asyncpg.DuplicatePreparedStatementError):
            async with connection.transaction():
                await connection.cursor("select 1")
        await connection.close()
