"""The schema on real databases: applied once, by the first process, and never over something else; and partitions."""

import asyncio
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest

from offbeat_server.common.errors import SchemaError
from offbeat_server.db.partitions import make_partitions, name_of, retire_partitions
from offbeat_server.db.pool import connect
from offbeat_server.db.schema import SCHEMA_VERSION, apply_schema
from tests.support.harness import Postgres

TODAY = datetime.now(UTC).date()
PING_COLUMNS = ("at", "seq", "writer", "monitor_id", "project_id", "signal")


async def partitions(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch(
        "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'pings'::regclass order by 1"
    )
    return [row["name"] for row in rows]


async def new_writer(connection: asyncpg.Connection) -> int:
    writer: int = await connection.fetchval(
        "insert into writers (started_at, accepted_through, node) values (now(), now(), 'test') returning id"
    )
    return writer


async def copy(connection: asyncpg.Connection, writer: int, *instants: datetime) -> None:
    rows = [(at, seq, writer, 1, 1, "success") for seq, at in enumerate(instants, 1)]
    await connection.copy_records_to_table("pings", records=rows, columns=PING_COLUMNS)


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


# -------------------------------------------------------------------------------------------------------------- schema


async def test_empty_database_gets_the_schema_once_from_five_processes(empty_database_url: str) -> None:
    connections = [await connect(empty_database_url) for _ in range(5)]
    await asyncio.gather(*(apply_schema(connection) for connection in connections))
    rows = await connections[0].fetch("select schema_version, length(secret) from meta")
    assert [tuple(row) for row in rows] == [(SCHEMA_VERSION, 32)]
    assert await connections[0].fetchval("select array_agg(slug) from projects") == ["default"]
    for connection in connections:
        await connection.close()


async def test_current_schema_is_left_alone(database: asyncpg.Connection) -> None:
    before = await database.fetchrow("select * from meta")
    await apply_schema(database)
    assert await database.fetchrow("select * from meta") == before


async def test_a_newer_schema_is_refused_unless_it_says_that_we_can_work_with_it(database: asyncpg.Connection) -> None:
    await database.execute("update meta set schema_version = 99, usable_from = 98")
    with pytest.raises(SchemaError, match=r"99.*newer"):
        await apply_schema(database)
    await database.execute("update meta set usable_from = $1", SCHEMA_VERSION)
    await apply_schema(database)
    assert await database.fetchval("select schema_version from meta") == 99


async def test_something_elses_tables_are_refused_and_nothing_is_changed(empty_database_url: str) -> None:
    connection = await connect(empty_database_url)
    await connection.execute("create table monitors (a integer)")
    with pytest.raises(SchemaError, match=r"monitors.*empty database"):
        await apply_schema(connection)
    assert await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'") == 1
    await connection.execute("drop table monitors; create table meta (version integer)")
    with pytest.raises(SchemaError, match="not Offbeat's"):
        await apply_schema(connection)
    await connection.close()


async def test_a_role_without_rights_gets_an_error_that_names_them(postgres: Postgres, empty_database_url: str) -> None:
    owner = await connect(empty_database_url)
    await owner.execute("drop role if exists guest; create role guest login")
    without_rights = await connect(empty_database_url.replace("//offbeat@", "//guest@"))
    with pytest.raises(SchemaError, match="grant create on schema public"):
        await apply_schema(without_rights)
    await without_rights.close()
    await owner.close()


async def test_a_database_in_another_encoding_is_refused(postgres: Postgres) -> None:
    admin = await connect(postgres.url)
    await admin.execute("drop database if exists latin")
    await admin.execute("create database latin template template0 encoding 'LATIN1' locale_provider libc locale 'C'")
    connection = await connect(postgres.url_of("latin"))
    with pytest.raises(SchemaError, match="LATIN1"):
        await apply_schema(connection)
    await connection.close()
    await admin.execute("drop database latin")
    await admin.close()


# ---------------------------------------------------------------------------------------------------------- partitions


async def test_partitions_are_made_once_by_two_at_once(empty_database_url: str) -> None:
    one, two = await connect(empty_database_url), await connect(empty_database_url)
    await apply_schema(one)
    created = await asyncio.gather(make_partitions(one, TODAY, 7), make_partitions(two, TODAY, 7))
    names = [name_of(TODAY + timedelta(days=n)) for n in range(8)]
    assert sorted(created[0] + created[1]) == names == await partitions(one)
    assert await make_partitions(two, TODAY, 8) == [name_of(TODAY + timedelta(days=8))]
    await one.close()
    await two.close()


async def test_a_days_partition_is_utc_and_has_the_logs_indexes(database: asyncpg.Connection) -> None:
    writer = await new_writer(database)
    tomorrow = TODAY + timedelta(days=1)
    midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=UTC)
    await database.execute("set timezone = 'Pacific/Auckland'")
    await make_partitions(database, TODAY, 9)  # made under another zone
    await copy(database, writer, midnight - timedelta(microseconds=1), midnight)
    rows = await database.fetch("select tableoid::regclass::text as name from pings order by at")
    assert [row["name"] for row in rows] == [name_of(TODAY), name_of(tomorrow)]
    last = name_of(TODAY + timedelta(days=9))
    bounds = await database.fetchval("select pg_get_expr(relpartbound, oid) from pg_class where relname = $1", last)
    assert " 12:00:00+12" in bounds or " 13:00:00+13" in bounds  # midnight UTC
    indexes = await database.fetch("select indexdef from pg_indexes where tablename = $1", name_of(TODAY))
    assert len(indexes) == 2


async def test_copy_into_the_log_fires_the_fence_trigger(database: asyncpg.Connection) -> None:
    writer = await new_writer(database)
    at = noon(TODAY + timedelta(days=1))
    await copy(database, writer, noon(TODAY), at)  # two partitions, one statement
    row = await database.fetchrow("select seq, accepted_through from writers where id = $1", writer)
    assert row is not None
    assert tuple(row) == (2, at)
    await database.execute("update writers set fenced = true where id = $1", writer)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await copy(database, writer, at + timedelta(seconds=1))
    assert caught.value.sqlstate == "OB001"
    assert await database.fetchval("select count(*) from pings") == 2


async def test_making_waits_shortly_for_a_lock_and_does_not_stop_the_log(
    database: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offbeat_server.db.partitions.LOCK_WAIT_S", 0.1)
    other = await connect(database_url)
    blocker = other.transaction()
    await blocker.start()
    await other.execute("lock table pings in share update exclusive mode")
    making = asyncio.ensure_future(make_partitions(database, TODAY, 9))
    writer_connection = await connect(database_url)
    writer = await new_writer(writer_connection)
    await copy(writer_connection, writer, noon(TODAY))
    await blocker.rollback()
    assert await making == [name_of(TODAY + timedelta(days=n)) for n in (8, 9)]
    for connection in (other, writer_connection):
        await connection.close()


async def test_retiring_drops_only_what_is_older(database: asyncpg.Connection) -> None:
    await make_partitions(database, TODAY - timedelta(days=4), 4)
    writer = await new_writer(database)
    await copy(database, writer, noon(TODAY - timedelta(days=4)), noon(TODAY - timedelta(days=2)), noon(TODAY))
    gone = await retire_partitions(database, TODAY - timedelta(days=2))
    assert gone == [name_of(TODAY - timedelta(days=4)), name_of(TODAY - timedelta(days=3))]
    assert await database.fetchval("select count(*) from pings") == 2
    assert (await partitions(database))[0] == name_of(TODAY - timedelta(days=2))
    assert await database.fetchval("select to_regclass($1)", gone[0]) is None
    assert await retire_partitions(database, TODAY - timedelta(days=2)) == []


async def test_a_partition_in_use_is_retired_later_while_pings_arrive(
    database: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offbeat_server.db.partitions.LOCK_WAIT_S", 0.2)
    await make_partitions(database, TODAY - timedelta(days=2), 2)
    reader, writing = await connect(database_url), await connect(database_url)
    reading = reader.transaction()
    await reading.start()
    await reader.fetch("select count(*) from pings")
    retiring = asyncio.ensure_future(retire_partitions(database, TODAY))
    await copy(writing, await new_writer(writing), noon(TODAY))
    assert await retiring == []
    # The detach was broken off half-way: pings and new partitions must not mind.
    await copy(writing, await new_writer(writing), noon(TODAY))
    assert await make_partitions(writing, TODAY, 8) == [name_of(TODAY + timedelta(days=8))]
    await reading.rollback()
    assert sorted(await retire_partitions(database, TODAY)) == [name_of(TODAY - timedelta(days=n)) for n in (2, 1)]
    for connection in (reader, writing):
        await connection.close()


async def test_a_table_left_between_detach_and_drop_is_dropped(database: asyncpg.Connection) -> None:
    day = TODAY - timedelta(days=9)
    await make_partitions(database, day, 0)
    await database.execute(f"alter table pings detach partition {name_of(day)}")
    assert await retire_partitions(database, TODAY) == [name_of(day)]


async def test_two_retire_at_once(database: asyncpg.Connection, database_url: str) -> None:
    await make_partitions(database, TODAY - timedelta(days=5), 4)
    other = await connect(database_url)
    gone: list[str] = []
    for _ in range(6):  # a process that finds the other at work leaves the rest to a later call
        for names in await asyncio.gather(retire_partitions(database, TODAY), retire_partitions(other, TODAY)):
            gone += names
    assert (await partitions(database))[0] == name_of(TODAY)
    assert len(gone) >= 5
    await other.close()


@pytest.mark.parametrize("step", ["schema", "partitions"])
async def test_oldest_supported_postgres(debian_postgres: Postgres, step: str) -> None:
    async with debian_postgres.fresh(empty=step == "schema") as url:
        connection = await connect(url)
        assert connection.get_server_version().major == 15
        if step == "schema":
            await apply_schema(connection)
        await make_partitions(connection, TODAY - timedelta(days=1), 8)
        await copy(connection, await new_writer(connection), noon(TODAY))
        assert await retire_partitions(connection, TODAY) == [name_of(TODAY - timedelta(days=1))]
        await connection.close()
