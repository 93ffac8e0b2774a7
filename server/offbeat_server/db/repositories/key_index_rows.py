"""The key index's reads: everything once, then only changes.

It follows `changes.rev`, whose order is the order of commits (schema.sql): a process that has seen a revision and then
reads, has everything up to it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, cast

import asyncpg

from offbeat_server.db.pool import database_trouble, open_cursor
from offbeat_server.db.sql_loader import load
from offbeat_server.engine.model.ping import Signal

_SQL = load("key_index")
SLICE_ROWS = 2_000  # made into objects in one go: some 5 ms of the loop
ACQUIRE_TIMEOUT_S = 5.0

# key, monitor_id, project_id, signal and stage it is bound to, slug, definition where it holds rules for pings
KeyRow = tuple[str, int, int, Signal | None, str | None, str, str | None]


class ChangedKeys(NamedTuple):
    """A slice of changes: its last revision, its monitors, and whether there are projects or moves among them."""

    rev: int
    monitor_ids: set[int]
    projects: bool = False
    moves: bool = False


class KeyIndexRows:
    """The queries of ingest/key_index.py. Every call may raise DatabaseDownError."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def rev(self) -> int:
        """The last change."""
        with database_trouble():
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                return int(await self._pool.fetchval(_SQL["rev"]))

    async def ping_keys(self) -> dict[str, int]:
        """Project ids by ping key."""
        with database_trouble():
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                return {row["ping_key"]: row["id"] for row in await self._pool.fetch(_SQL["ping_keys"])}

    async def former_slugs(self) -> dict[str, int]:
        """Monitor ids by former address: `{project id}/{slug}`."""
        with database_trouble():
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                return {row["address"]: row["monitor_id"] for row in await self._pool.fetch(_SQL["former_slugs"])}

    async def all_keys(self) -> AsyncIterator[Sequence[KeyRow]]:
        """Every key, a slice at a time, as of one moment."""
        with database_trouble():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection, connection.transaction():
                cursor = await open_cursor(connection, _SQL["keys"])
                while rows := await cursor.fetch(SLICE_ROWS):
                    yield _as_tuples(rows)

    async def changed(self, after_rev: int) -> ChangedKeys:
        """The next slice of changes."""
        with database_trouble():
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                rows = await self._pool.fetch(_SQL["changes_since"], after_rev, SLICE_ROWS)
        return ChangedKeys(
            rows[-1]["rev"] if rows else after_rev,
            {row["monitor_id"] for row in rows if row["monitor_id"] is not None},
            any(row["kind"] == "project" for row in rows),
            any(row["kind"] == "move" for row in rows),
        )

    async def keys_of(self, monitor_ids: set[int]) -> Sequence[KeyRow]:
        """The keys of these monitors, as they are now."""
        with database_trouble():
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                return _as_tuples(await self._pool.fetch(_SQL["keys_of"], list(monitor_ids)))


def _as_tuples(rows: list[Any]) -> Sequence[KeyRow]:
    # A Record unpacks as the tuple it stands for; a copy of a million of them would only cost.
    return cast(Sequence[KeyRow], rows)
