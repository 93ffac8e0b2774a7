"""Every statement we ship is prepared against the real schema: what Postgres cannot read never reaches a release."""

import re

import asyncpg
import pytest

from offbeat_server.db.pool import connect
from offbeat_server.db.sql_loader import SQL_DIR, load, parse
from tests.support.harness import Postgres

SUBJECTS = sorted(path.stem for path in SQL_DIR.glob("*.sql"))


async def prepare_all(connection: asyncpg.Connection, subject: str) -> None:
    broken = []
    for name, sql in load(subject).items():
        if sql.startswith("copy "):
            continue  # Postgres prepares none; the log's tests run it
        try:
            await connection.prepare(sql)
        except asyncpg.PostgresError as error:
            broken.append(f"sql/{subject}.sql: {name}: {error}")
    assert not broken, "\n".join(broken)


@pytest.mark.quick
@pytest.mark.parametrize("subject", SUBJECTS)
async def test_every_statement_can_be_prepared(database: asyncpg.Connection, subject: str) -> None:
    await prepare_all(database, subject)


async def test_every_statement_can_be_prepared_by_the_oldest_supported_postgres(debian_postgres: Postgres) -> None:
    async with debian_postgres.fresh() as url:
        connection = await connect(url)
        for subject in SUBJECTS:
            await prepare_all(connection, subject)
        await connection.close()


@pytest.mark.quick
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_statement_is_used(subject: str) -> None:
    """A statement that no module of db names is dead."""
    code = "".join(path.read_text() for path in SQL_DIR.parent.rglob("*.py"))
    unused = [name for name in load(subject) if not re.search(rf"""["']{name}["']""", code)]
    assert not unused, f"sql/{subject}.sql: used nowhere in offbeat_server/db: {', '.join(unused)}"


def test_blocks_are_read_without_their_comments() -> None:
    text = (
        "-- the file\n\n-- name: one\n-- why one\nselect 1\n  -- inside\n  + 1\n\n-- name: two\n-- why two\nselect 2\n"
    )
    assert parse(text, "x.sql") == {"one": "select 1\n  + 1", "two": "select 2"}


def test_a_part_is_put_where_it_is_included() -> None:
    text = "-- part: both\n-- why\nselect a\n  from t\n\n-- name: one\n-- why\n-- include: both\n where a = 1\n"
    assert parse(text, "x.sql") == {"one": "select a\n  from t\n where a = 1"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("-- name: a\n-- why\n-- include: b\nwhere c", "a includes b, and no part"),
        ("-- name: a\n-- why\nselect 1\n-- name: a\n-- why\nselect 2", "a stands there twice"),
        ("-- name: a\nselect 1", "a has no comment"),
        ("-- name: a\n-- why", "a has no SQL"),
        ("-- name: A-b\n-- why\nselect 1", "a name is lower case"),
        ("select 1\n-- name: a\n-- why\nselect 1", "SQL before the first"),
    ],
)
def test_a_wrong_file_is_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(text, "x.sql")
