"""Brings a database to the schema that this program knows, or says why it cannot be used.

The whole schema is one file (schema.sql), applied at once to an empty database: what a newcomer runs and what a reader
reads are the same text. An older database gets numbered files instead, forward only, each in a transaction of its own.

Nodes are upgraded one after the other, so a migration only adds what the program before it can ignore (*expand*);
objects that are no longer used are removed one version later (*contract*). Each file says in its first line which
programs still can: `-- usable from: N`. A program that is older than that refuses the database; one that is not runs
on, and only says that it is behind.
"""

import asyncio
import random
import re
from pathlib import Path
from typing import NamedTuple

import asyncpg
import structlog

from offbeat_server.common.errors import DatabaseDownError, SchemaError
from offbeat_server.db.pool import Connection, confirm, database_trouble, describe, is_away
from offbeat_server.db.sql_loader import load

SCHEMA_FILE = Path(__file__).parent / "schema.sql"
MIGRATIONS_DIR = Path(__file__).parent / "migrations"
POSTGRES_MAJOR_MIN = 15
LOCK_TRIES_MAX = 20  # pings wait behind a lock that waits: so it never waits for long, and tries again
LOCK_PAUSE_S = 0.5
_IN_USE_CLASSES = ("40", "55")  # of SQLSTATE: deadlocks, and locks that others hold
_FILE_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")
_USABLE_FROM = re.compile(r"\A-- usable from: (\d+)\n")
_SQL = load("meta")

log = structlog.get_logger("schema")


class Migration(NamedTuple):
    """One file: the version it leads to, the oldest program that can work with that, and the statements."""

    version: int
    usable_from: int
    sql: str


def read_migrations(directory: Path) -> list[Migration]:
    """The numbered files of a directory in order. Raises ValueError where one is missing, misnamed or incomplete."""
    found: list[Migration] = []
    for path in sorted(directory.glob("*.sql")):
        name, text = _FILE_NAME.match(path.name), path.read_text(encoding="utf-8")
        usable = _USABLE_FROM.match(text)
        if name is None or usable is None or int(name[1]) != len(found) + 2:
            raise ValueError(f"{path.name}: NNNN_words.sql, without a gap from 0002, opened by `-- usable from: N`")
        found.append(Migration(int(name[1]), int(usable[1]), text))
    return found


MIGRATIONS = read_migrations(MIGRATIONS_DIR)
SCHEMA_VERSION = MIGRATIONS[-1].version if MIGRATIONS else 1  # also what schema.sql writes into `meta`


async def apply_schema(connection: Connection) -> None:
    """An empty database gets the schema, an older one its migrations, a current one nothing.

    Safe when several processes do it at once. Raises SchemaError that says what to do; or DatabaseDownError, also if
    another session holds a table for long: then try again.
    """
    _check_server(connection)
    with database_trouble():
        try:
            version = await _first_schema(connection)
            for migration in MIGRATIONS:
                if migration.version > version:
                    await _migrate_patiently(connection, migration)
            await confirm(connection)  # another process may have made it, on the primary alone so far
        except (asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError, asyncpg.DuplicateFunctionError) as error:
            raise SchemaError(
                f"the database is not empty and not of Offbeat ({error}); give --database-url an empty database"
            ) from error
        except asyncpg.UndefinedColumnError as error:
            raise SchemaError(
                "the database has a table `meta` that is not Offbeat's; give --database-url an empty database"
            ) from error
        except asyncpg.InsufficientPrivilegeError as error:
            raise SchemaError(
                f"the role may not set up the database ({error}); let it own the database, or: grant create on schema "
                "public to that role"
            ) from error
        except asyncpg.InvalidSchemaNameError as error:
            raise SchemaError(
                f"the search path of the role names no schema that exists ({error}); see: alter role ... set "
                "search_path, or create the schema"
            ) from error
        except asyncpg.PostgresError as error:
            if is_away(error):
                raise
            if (error.sqlstate or "").startswith(_IN_USE_CLASSES):
                raise DatabaseDownError(f"Postgres: {describe(error)}") from error
            raise SchemaError(f"the database cannot be set up: {describe(error)}") from error


def check_version(version: int, usable_from: int) -> str | None:
    """Why this program cannot work with a database of that version; None: it can, if need be after a migration."""
    if version > SCHEMA_VERSION and usable_from > SCHEMA_VERSION:
        return (
            f"the database has schema version {version}, this program knows {SCHEMA_VERSION}: it was used by a newer "
            "Offbeat; install that one or restore a backup"
        )
    return None


def _check_server(connection: Connection) -> None:
    version = connection.get_server_version()
    if version.major < POSTGRES_MAJOR_MIN:
        raise SchemaError(f"Postgres {version.major} is too old: Offbeat needs {POSTGRES_MAJOR_MIN} or newer")
    encoding = connection.get_settings().server_encoding
    if encoding != "UTF8":
        raise SchemaError(
            f"the database's encoding is {encoding}; create one with: create database ... encoding 'UTF8'"
        )


async def _first_schema(connection: Connection) -> int:
    """The version there is, once there is one. Raises SchemaError where it is too new for this program."""
    async with connection.transaction():
        await connection.execute(_SQL["lock_schema"])
        if not await connection.fetchval(_SQL["has_meta"]):
            await connection.execute(SCHEMA_FILE.read_text(encoding="utf-8"))
        version: int = await connection.fetchval(_SQL["schema_version"])
        usable_from = await connection.fetchval(_SQL["usable_from"]) if version > SCHEMA_VERSION else 0
    if (why := check_version(version, usable_from)) is not None:
        raise SchemaError(why)
    if version > SCHEMA_VERSION:
        log.warning("schema.newer_than_program", version=version, detail="this program can still use it")
    return version


async def _migrate_patiently(connection: Connection, migration: Migration) -> None:
    for _ in range(LOCK_TRIES_MAX):
        try:
            await _migrate(connection, migration)
            return
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            log.warning("schema.migration_waiting", version=migration.version, error=str(error))
            await asyncio.sleep(random.uniform(LOCK_PAUSE_S / 2, LOCK_PAUSE_S))
    raise DatabaseDownError(
        f"the migration to schema version {migration.version} cannot lock its tables: they are in use"
    )


async def _migrate(connection: Connection, migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(_SQL["lock_schema"])
        if await connection.fetchval(_SQL["schema_version"]) >= migration.version:
            return  # another process was first
        await connection.execute(_SQL["wait_shortly"])
        await connection.execute(migration.sql)
        await connection.execute(_SQL["set_schema_version"], migration.version, migration.usable_from)
    log.info("schema.migrated", version=migration.version)
