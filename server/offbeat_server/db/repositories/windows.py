"""Maintenance windows: created, changed and deleted, each with its row in the audit log that the scheduler reads.

A change of kind `window` has no monitor; `before` and `after` are `{"id", "slug", "definition"}`, the definition as
engine/schedule/maintenance_windows.py reads it and the id as the engine knows the window.
"""

from typing import Any

import asyncpg

from offbeat_server.db import sql_loader
from offbeat_server.db.pool import Connection
from offbeat_server.db.repositories import changes
from offbeat_server.db.repositories.changes import Change

_SQL = sql_loader.load("windows")


async def all_windows(pool: asyncpg.Pool | Connection, project_id: int | None = None) -> list[asyncpg.Record]:
    """The windows of one project, or of all."""
    return await pool.fetch(_SQL["windows"], project_id)


async def find_window(pool: asyncpg.Pool | Connection, project_id: int, slug: str) -> asyncpg.Record | None:
    """The window of this slug, or None."""
    return await pool.fetchrow(_SQL["window"], project_id, slug)


async def put_window(
    connection: Connection, project_id: int, slug: str, definition: dict[str, Any], actor: str
) -> Change:
    """Create or replace; a change whose `before` equals its `after` was not written."""
    row = await find_window(connection, project_id, slug)
    before = None if row is None else _document(row)
    if before is not None and before["definition"] == definition:
        return Change("window", project_id, None, slug, before, before)
    (rev,) = await changes.next_revs(connection, 1)
    window_id = await connection.fetchval(_SQL["put_window"], project_id, rev, slug, definition)
    after = {"id": window_id, "slug": slug, "definition": definition}
    change = Change("window", project_id, None, slug, before, after)
    await changes.record(connection, actor, [change], [rev])
    return change


async def delete_window(connection: Connection, row: asyncpg.Record, actor: str) -> Change:
    """Delete a window."""
    await connection.execute(_SQL["delete_window"], row["project_id"], row["slug"])
    change = Change("window", row["project_id"], None, row["slug"], _document(row), None)
    await changes.record_one(connection, actor, change)
    return change


def _document(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": row["id"], "slug": row["slug"], "definition": row["definition"]}
