"""Every change of a definition, numbered in the order of commits: the scheduler reads them, the audit shows them.

A change and its row are one transaction under one lock, so a reader that has seen number n has seen all before it, and
nothing can be changed without a record. The record outlives its subject, so it holds no key and no secret: of keys
their beginnings, of channels the fields that may be shown.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import orjson

from offbeat_server.db import sql_loader
from offbeat_server.db.pool import Connection, confirm

_SQL = sql_loader.load("changes")
REV_MAX = 2**63 - 1
# A writer may expect these of an object instead of a certain revision; no row has them.
ANY_REV = -1  # that it exists
NO_REV = -2  # that it does not exist
KEY_CHARS_SHOWN = 4  # enough to know a key again, too few to be one


class Change(NamedTuple):
    """The values before and after a change: None before a creation and after a deletion.

    For a monitor both hold everything that the scheduler needs to go back: `slug, name, tags, paused, snoozed_until,
    created_at, definition, newer_fields, keys`, instants as ISO 8601 text. Keys are whole here and cut where they are
    recorded; a channel's secrets are masked by the caller, because only the channel's kind knows them.
    """

    kind: str
    project_id: int | None
    monitor_id: int | None
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@asynccontextmanager
async def changing(pool: asyncpg.Pool, *, keep: bool = True) -> AsyncIterator[Connection]:
    """A transaction that may change definitions; with `keep` false all of it is undone at the end (a dry run).

    It waits for the synchronous standby even if there was nothing left to change: the caller answers that what it read
    here is kept, and an earlier commit of it may be known to the primary alone.
    """
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(_SQL["lock"])
            yield connection
        except BaseException:
            await transaction.rollback()
            raise
        if keep:
            await confirm(connection)
            await transaction.commit()
        else:
            await transaction.rollback()


async def next_revs(connection: Connection, count: int) -> list[int]:
    """Numbers for `count` changes of this transaction."""
    return [row["rev"] for row in await connection.fetch(_SQL["next_revs"], count)]


async def record(connection: Connection, actor: str, changes: Sequence[Change], revs: Sequence[int]) -> None:
    """Write the rows. `revs` come from `next_revs` in the same transaction."""
    if not changes:
        return
    await connection.execute(
        _SQL["record"],
        actor,
        list(revs),
        [change.project_id for change in changes],
        [change.monitor_id for change in changes],
        [change.kind for change in changes],
        [change.subject for change in changes],
        [_recorded(change.before) for change in changes],
        [_recorded(change.after) for change in changes],
    )


async def record_one(connection: Connection, actor: str, change: Change) -> int:
    """Write one row and return its number."""
    (rev,) = await next_revs(connection, 1)
    await record(connection, actor, [change], [rev])
    return rev


async def page(
    pool: asyncpg.Pool, before_rev: int, project_id: int | None, kind: str | None, subject: str | None, limit: int
) -> list[asyncpg.Record]:
    """The audit log below `before_rev`, the newest first."""
    return await pool.fetch(_SQL["page"], before_rev, project_id, kind, subject, limit)


async def since(
    pool: asyncpg.Pool, rev: int, project_id: int, kinds: Sequence[str], subject: str, limit: int
) -> list[asyncpg.Record]:
    """The changes of one object after `rev`, the newest first."""
    return await pool.fetch(_SQL["since"], rev, project_id, list(kinds), subject, limit)


async def of_incident(pool: asyncpg.Pool, monitor_id: int, number: int) -> list[asyncpg.Record]:
    """Acknowledgements, resolutions and comments of one incident, in order."""
    return await pool.fetch(_SQL["of_incident"], monitor_id, number)


def _recorded(document: dict[str, Any] | None) -> str | None:
    if document is None:
        return None
    kept = dict(document)
    if "keys" in kept:
        kept["keys"] = [{**key, "key": begin_of_key(key["key"])} for key in kept["keys"]]
    if "ping_key" in kept:
        kept["ping_key"] = begin_of_key(kept["ping_key"])
        definition = kept["definition"]
        if definition.get("badge_key"):
            kept["definition"] = {**definition, "badge_key": begin_of_key(definition["badge_key"])}
    return orjson.dumps(kept).decode()


def begin_of_key(key: str) -> str:
    """Enough of it to know it again."""
    return f"{key[:KEY_CHARS_SHOWN]}…"
