"""Brings a database to the schema that this program knows, or says why it cannot be used.

The whole schema is one file (schema.sql), applied at once to an empty database: what a newcomer runs and what a reader
reads are the same text. Later changes are numbered files on top of it, forward only, each in one transaction.
"""

from pathlib import Path

import asyncpg

from server.errors import SchemaError
from server.store.pool import Connection, database_trouble
from server.store.queries import load

SCHEMA_VERSION = 1  # what schema.sql writes into `meta`, and what the last migration leads to
SCHEMA_FILE = Path(__file__).parent / "schema.sql"
MIGRATIONS: list[tuple[int, Path]] = []  # (version it leads to, its file), in order
POSTGRES_MAJOR_MIN = 15
_SQL = load("meta")


async def apply_schema(connection: Connection) -> None:
    """An empty database gets the schema, an older one its migrations, a current one nothing.

    Safe when several processes do it at once. Raises SchemaError that says what to do, or DatabaseAway.
    """
    _check_server(connection)
    with database_trouble():
        try:
            async with connection.transaction():
                await connection.execute(_SQL["lock_schema"])
                await _bring_up(connection)
        except (asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError, asyncpg.DuplicateFunctionError) as error:
            raise SchemaError(
                f"the database holds something else ({error}) and no Offbeat; give --database-url an empty database"
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


def _check_server(connection: Connection) -> None:
    version = connection.get_server_version()
    if version.major < POSTGRES_MAJOR_MIN:
        raise SchemaError(f"Postgres {version.major} is too old: Offbeat needs {POSTGRES_MAJOR_MIN} or newer")
    encoding = connection.get_settings().server_encoding
    if encoding != "UTF8":
        raise SchemaError(
            f"the database's encoding is {encoding}; create one with: create database ... encoding 'UTF8'"
        )


async def _bring_up(connection: Connection) -> None:
    if not await connection.fetchval(_SQL["has_meta"]):
        await connection.execute(SCHEMA_FILE.read_text(encoding="utf-8"))
    version = await connection.fetchval(_SQL["schema_version"])
    if version > SCHEMA_VERSION:
        raise SchemaError(
            f"the database has schema version {version}, this program knows {SCHEMA_VERSION}: it was used by a newer "
            "Offbeat; install that one or restore a backup"
        )
    for leads_to, file in MIGRATIONS:
        if leads_to > version:
            await connection.execute(file.read_text(encoding="utf-8"))
            await connection.execute(_SQL["set_schema_version"], leads_to)
