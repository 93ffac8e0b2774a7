"""The facts about a database that `offbeat doctor` checks."""

import asyncpg

from offbeat_server.db.pool import connect, database_trouble
from offbeat_server.db.sql_loader import load

_SQL = load("doctor")


async def examine(url: str, pgbouncer: bool) -> tuple[asyncpg.Record, asyncpg.Record | None]:
    """Its settings, and its state where it has our schema. Raises DatabaseDownError, SettingsError."""
    connection = await connect(url, pgbouncer=pgbouncer, application_name="offbeat doctor")
    try:
        with database_trouble():
            settings = await connection.fetchrow(_SQL["settings"])
            assert settings is not None
            return settings, await connection.fetchrow(_SQL["state"]) if settings["ours"] else None
    finally:
        await connection.close()
