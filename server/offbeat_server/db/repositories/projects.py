"""Projects and channels: created, changed and deleted, each with its row in the audit log.

They are few and changed by people, so here is one statement a thing; the thousands are in definitions.py.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import asyncpg

from offbeat_server.common.errors import DefinitionError, Problem
from offbeat_server.db import sql_loader
from offbeat_server.db.pool import Connection
from offbeat_server.db.repositories import changes
from offbeat_server.db.repositories.changes import Change

_SQL = sql_loader.load("projects")
# A channel's kind and definition -> the definition as it may be shown: what is recorded.
Shown = Callable[[str, Mapping[str, Any]], dict[str, Any]]
LOG_CHANNEL = "log"  # every project has it from the start: an alert without another channel is at least logged


class WantedProject(NamedTuple):
    """The wanted state of a project. None for `ping_key`: as it is, or made. `path` is how problems name it."""

    slug: str
    name: str
    ping_key: str | None
    definition: dict[str, Any]
    path: str = ""


class WantedChannel(NamedTuple):
    """The wanted state of a channel; `definition` is what server/deliver has read and found right."""

    project_id: int
    slug: str
    kind: str
    is_default: bool
    definition: dict[str, Any]


async def all_projects(pool: asyncpg.Pool) -> list[asyncpg.Record]:
    """Every project, by slug."""
    return await pool.fetch(_SQL["projects"])


async def find_project(pool: asyncpg.Pool | Connection, slug: str) -> asyncpg.Record | None:
    """The project of this slug, or None."""
    return await pool.fetchrow(_SQL["project"], slug)


async def project_with_badges(pool: asyncpg.Pool, badge_key: str) -> asyncpg.Record | None:
    """Return the project whose badges this key shows, or None."""
    return await pool.fetchrow(_SQL["project_with_badges"], badge_key)


async def put_project(connection: Connection, wanted: WantedProject, actor: str) -> Change:
    """Create or replace; a change whose `before` equals its `after` was not written.

    Raises DefinitionError when another project has the ping key.
    """
    row = await find_project(connection, wanted.slug)
    if row is None:
        (rev,) = await changes.next_revs(connection, 1)
        stored = await connection.fetchrow(
            _SQL["insert_project"], wanted.slug, wanted.name, wanted.ping_key, wanted.definition, rev
        )
        if stored is not None:
            change = Change("project", stored["id"], None, wanted.slug, None, _project(stored))
    else:
        before = _project(row)
        ping_key = wanted.ping_key or row["ping_key"]
        after = {"slug": wanted.slug, "name": wanted.name, "ping_key": ping_key, "definition": wanted.definition}
        change = Change("project", row["id"], None, wanted.slug, before, after)
        if before == after:
            return change
        (rev,) = await changes.next_revs(connection, 1)
        stored = await connection.fetchrow(
            _SQL["update_project"], row["id"], wanted.name, ping_key, wanted.definition, rev
        )
    field = f"{wanted.path}.ping_key" if wanted.path else "ping_key"
    if stored is None:
        raise DefinitionError([Problem(field, "another project has this ping key")])
    if await connection.fetchval(_SQL["ping_key_hides"], stored["id"], stored["ping_key"]):
        raise DefinitionError([Problem(field, "a key of another project's monitor is, or begins with, this ping key")])
    await changes.record(connection, actor, [change], [rev])
    if change.before is None:
        assert change.project_id is not None
        log = WantedChannel(change.project_id, LOG_CHANNEL, "log", True, {})
        await put_channel(connection, log, actor, lambda kind, definition: {})
    return change


async def size_of_project(connection: Connection, project_id: int) -> int:
    """How many monitors it has; counted to a thousand."""
    count: int = await connection.fetchval(_SQL["size_of_project"], project_id)
    return count


async def delete_project(connection: Connection, row: asyncpg.Record, actor: str) -> Change:
    """Delete a project; the caller has seen that it is empty (`size_of_project`)."""
    await connection.execute(_SQL["delete_project"], row["id"])
    change = Change("project", row["id"], None, row["slug"], _project(row), None)
    await changes.record_one(connection, actor, change)
    return change


async def all_channels(pool: asyncpg.Pool | Connection, project_id: int | None) -> list[asyncpg.Record]:
    """The channels of one project, or of all with None."""
    return await pool.fetch(_SQL["channels"], project_id)


async def find_channel(pool: asyncpg.Pool | Connection, project_id: int, slug: str) -> asyncpg.Record | None:
    """The channel of this slug, or None."""
    return await pool.fetchrow(_SQL["channel"], project_id, slug)


async def put_channel(connection: Connection, wanted: WantedChannel, actor: str, shown: Shown) -> Change:
    """Create or replace; a change whose `before` equals its `after` was not written. It is recorded as `shown`."""
    row = await find_channel(connection, wanted.project_id, wanted.slug)
    before = None if row is None else _channel(row)
    after = {
        "slug": wanted.slug,
        "kind": wanted.kind,
        "default": wanted.is_default,
        "definition": wanted.definition,
    }
    change = Change("channel", wanted.project_id, None, wanted.slug, before, after)
    if before != after:
        (rev,) = await changes.next_revs(connection, 1)
        await connection.execute(
            _SQL["put_channel"], wanted.project_id, wanted.slug, wanted.kind, wanted.is_default, wanted.definition, rev
        )
        await changes.record(connection, actor, [_masked(change, shown)], [rev])
    return change


async def users_of_channel(connection: Connection, project_id: int, slug: str) -> list[str]:
    """The first five monitors that name this channel."""
    return [row["slug"] for row in await connection.fetch(_SQL["users_of_channel"], project_id, slug)]


async def delete_channel(connection: Connection, row: asyncpg.Record, actor: str, shown: Shown) -> Change:
    """Delete a channel that no monitor names (see `users_of_channel`). The change is recorded as `shown`."""
    await connection.execute(_SQL["delete_channel"], row["project_id"], row["slug"])
    change = Change("channel", row["project_id"], None, row["slug"], _channel(row), None)
    await changes.record_one(connection, actor, _masked(change, shown))
    return change


def _project(row: asyncpg.Record) -> dict[str, Any]:
    return {name: row[name] for name in ("slug", "name", "ping_key", "definition")}


def _channel(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "slug": row["slug"],
        "kind": row["kind"],
        "default": row["is_default"],
        "definition": row["definition"],
    }


def _masked(change: Change, shown: Shown) -> Change:
    def mask(document: dict[str, Any] | None) -> dict[str, Any] | None:
        return document and {**document, "definition": shown(document["kind"], document["definition"])}

    return change._replace(before=mask(change.before), after=mask(change.after))
