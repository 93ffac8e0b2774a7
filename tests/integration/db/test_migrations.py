"""An older database becomes like a fresh one, keeps its rows, and may be in use by older programs at the same time."""

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from offbeat_server.cli.doctor import _database
from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.db import schema
from offbeat_server.db.pool import connect
from offbeat_server.db.schema import MIGRATIONS, SCHEMA_VERSION, apply_schema, read_migrations
from offbeat_server.db.sql_loader import parse
from tests.support.harness import HANG_S, Server, eventually
from tests.support.servers.scheduler_node import running, true

FIRST = Path(__file__).parents[2] / "fixtures" / "schema_1.sql"  # schema.sql as it first was; never to be changed

FIRST_STATEMENTS = FIRST.with_name("statements_1")  # of the program of that version

# Two databases are the same to a program if these are equal: tables with their columns in order, and everything on
# them.
CATALOG = {
    "columns": """
        select c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
               a.attgenerated, pg_get_expr(d.adbin, d.adrelid)
          from pg_class c join pg_attribute a on a.attrelid = c.oid
          left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0
         order by c.relname, a.attnum""",
    "options": """
        select relname, relkind, reloptions from pg_class
         where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') order by relname""",
    "constraints": """
        select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
         where connamespace = 'public'::regnamespace order by 1, 2""",
    "indexes": "select tablename, indexname, indexdef from pg_indexes where schemaname = 'public' order by 1, 2",
    "functions": """
        select proname, pg_get_functiondef(oid) from pg_proc
         where pronamespace = 'public'::regnamespace order by 1, 2""",
    "triggers": """
        select tgrelid::regclass::text, pg_get_triggerdef(oid) from pg_trigger where not tgisinternal order by 1, 2""",
    "enums": """
        select t.typname, e.enumlabel from pg_enum e join pg_type t on t.oid = e.enumtypid
         order by 1, e.enumsortorder""",
}


async def catalog(connection: asyncpg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    return {name: [tuple(row) for row in await connection.fetch(sql)] for name, sql in CATALOG.items()}


async def rows(connection: asyncpg.Connection) -> dict[str, list[dict[str, Any]]]:
    tables = await connection.fetch("select tablename as name from pg_tables where schemaname = 'public'")
    return {
        table["name"]: [
            json.loads(row["row"])
            for row in await connection.fetch(f"select to_jsonb(t)::text as row from {table['name']} t order by 1")
        ]
        for table in tables
    }


@pytest.fixture
async def old(empty_database_url: str) -> asyncpg.Connection:
    """A database of the first version with a row or more in it."""
    connection = await connect(empty_database_url)
    await connection.execute(FIRST.read_text(encoding="utf-8"))
    await connection.execute("""
        insert into monitors (project_id, rev, slug, name, definition) values (1, 1, 'job', 'Job', '{"every": "1h"}');
        insert into changes (project_id, monitor_id, actor, kind, subject, after)
          values (1, 1, 'admin', 'monitor', 'job', '{}'), (1, 2, 'admin', 'monitor', 'gone', null);
        insert into writers (started_at, accepted_through, node, seq) values (now(), now(), 'old', 7);
        insert into checkpoint (at, applied_rev, cursors) values (now(), 1, '{"1": 7}');
        insert into states (monitor_id, project_id, at, seq, writer, status, since, state)
          values (1, 1, now(), 7, 1, 'up', now(), '{"created": 1}');
        insert into incidents (monitor_id, number, project_id, opened_at, decided_at, cause, reason, causes)
          values (1, 1, 1, now(), now(), 'missed', 'was silent', '[]');
        insert into alerts (project_id, kind, facts) values (1, 'operator', '{}');
    """)
    return connection


async def test_an_old_database_becomes_like_a_fresh_one_and_keeps_its_rows(
    old: asyncpg.Connection, database: asyncpg.Connection
) -> None:
    before = await rows(old)
    await apply_schema(old)
    # `usable_from` too: a fresh database refuses the same programs as a migrated one.
    meta = "select to_jsonb(meta) - array['secret', 'created_at'] from meta"
    assert await old.fetchval(meta) == await database.fetchval(meta)
    after, fresh = await rows(old), await catalog(database)
    days = await database.fetch("select inhrelid::regclass::text as name from pg_inherits")
    partitions = {row["name"] for row in days} | {f"{row['name']}_pkey" for row in days}
    for name, objects in (await catalog(old)).items():
        assert objects == [row for row in fresh[name] if row[0] not in partitions], name
    for table, was in before.items():
        if table == "meta":
            assert after[table][0]["schema_version"] == SCHEMA_VERSION and after[table][0]["secret"] == was[0]["secret"]
            continue
        assert [{key: row[key] for key in kept} for row, kept in zip(after[table], was, strict=True)] == was, table
    await old.close()


async def test_the_program_before_can_run_beside_this_one(old: asyncpg.Connection) -> None:
    """The ingestion and evaluation of the older program: its statements can be prepared, its writer writes."""
    await apply_schema(old)
    for path in sorted(FIRST_STATEMENTS.glob("*.sql")):
        for sql in parse(path.read_text(encoding="utf-8"), path.name).values():
            await old.prepare(sql)
    log = parse((FIRST_STATEMENTS / "log.sql").read_text(encoding="utf-8"), "log.sql")
    registered = await old.fetchrow(log["register"], "old", None, None, [], [], [], [])
    assert registered is not None
    assert await old.fetchval(log["pulse"], registered["id"], registered["started_at"])


async def test_migrations_are_applied_once_by_several_at_once(old: asyncpg.Connection, empty_database_url: str) -> None:
    others = [await connect(empty_database_url) for _ in range(4)]
    await asyncio.gather(*(apply_schema(each) for each in (old, *others)))
    assert await old.fetchval("select schema_version from meta") == SCHEMA_VERSION
    assert await old.fetchval("select usable_from from meta") == MIGRATIONS[-1].usable_from
    for each in (old, *others):
        await each.close()


async def test_a_migration_never_waits_long_for_a_table_and_comes_again(
    old: asyncpg.Connection, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "LOCK_PAUSE_S", 0.05)
    other = await connect(empty_database_url)
    await other.execute("begin; select * from changes")  # a reader: enough to keep an `alter table` waiting
    monkeypatch.setattr(schema, "LOCK_TRIES_MAX", 1)
    with pytest.raises(DatabaseDownError, match="in use"):
        await apply_schema(old)
    assert await old.fetchval("select schema_version from meta") == 1  # all of it or nothing
    monkeypatch.setattr(schema, "LOCK_TRIES_MAX", 100)
    migrating = asyncio.ensure_future(apply_schema(old))
    await asyncio.sleep(0)
    async with asyncio.timeout(HANG_S):  # a statement behind the waiting lock does not wait for the reader
        third = await connect(empty_database_url)
        await third.fetch("select * from changes")
    assert not migrating.done()
    await other.execute("commit")
    await migrating
    for each in (old, other, third):
        await each.close()


async def test_a_fleet_that_the_program_before_wrote_beside_us_is_taken_as_it_wrote_it(
    old: asyncpg.Connection, empty_database_url: str
) -> None:
    await old.execute("""update monitors set definition = '{"members": {"every": "1h", "grace": "1h"}}'""")
    fleet: dict[str, Any] = {"p": [3, 1]}
    now = await old.fetchval("select (extract(epoch from now()) * 1e6)::bigint")

    async def write(*names: str) -> None:  # as version 1 did
        fleet["m"] = [[name, now] for name in names]
        state = json.dumps({"created": 1, "fleet": fleet})
        await old.execute(f"update states set state = '{state}'")

    await write("a", "b", "gone")
    await apply_schema(old)
    assert await old.fetchval("select array_agg(name order by name) from members") == ["a", "b", "gone"]
    await write("a", "b", "new")  # it is still the scheduler, and is stopped then
    async with running(empty_database_url) as node:
        await eventually(lambda: true(node.scheduler.evaluating))
        members = node.scheduler.engine.monitors[1].fleet
        assert members is not None and sorted(members.members) == ["a", "b", "new"]
        await node.ping(1, "leave", task="b")
        await eventually(lambda: true(len(members.members) == 2))
    assert await old.fetchval("select array_agg(name order by name) from members") == ["a", "new"]
    assert await old.fetchval("select state -> 'fleet' -> 'm' from states") is None
    await old.close()


async def test_the_doctor_says_which_version_there_is_and_what_follows(
    old: asyncpg.Connection, empty_database_url: str
) -> None:
    async def schema_line() -> dict[str, str]:
        findings = await asyncio.to_thread(lambda: {each.check: each for each in _database(empty_database_url)})
        return findings["schema"]._asdict()

    assert "version 1, " in (line := await schema_line())["message"] and "next start" in line["message"]
    await apply_schema(old)
    assert (await schema_line())["status"] == "ok"
    await old.execute("update meta set schema_version = 99")
    assert (await schema_line())["status"] == "warning"
    await old.execute("update meta set usable_from = 98")
    assert "newer Offbeat" in (await schema_line())["message"]
    await old.close()


async def test_a_real_server_takes_over_an_old_database(old: asyncpg.Connection, empty_database_url: str) -> None:
    async with Server(empty_database_url) as server:
        assert (await server.api("GET", "/api/v1/monitors/job")).status == 200
    assert await old.fetchval("select schema_version from meta") == SCHEMA_VERSION
    await old.close()


def test_files_are_numbered_without_a_gap_and_say_who_can_still_work_with_them(tmp_path: Path) -> None:
    assert [migration.version for migration in MIGRATIONS] == list(range(2, SCHEMA_VERSION + 1))
    assert all(migration.usable_from <= migration.version for migration in MIGRATIONS)
    (tmp_path / "0003_late.sql").write_text("-- usable from: 1\nselect 1;")
    with pytest.raises(ValueError, match="0003_late"):
        read_migrations(tmp_path)
    (tmp_path / "0002_soon.sql").write_text("select 1;")
    with pytest.raises(ValueError, match="0002_soon"):
        read_migrations(tmp_path)
