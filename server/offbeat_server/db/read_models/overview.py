"""Monitors as they are shown, read from Postgres alone: so every process can answer, not only the scheduler's.

The rows carry the state that the scheduler last wrote and the newest ping; the values that follow from both (late, due,
deadline) are computed by the engine's own pure function when they are shown.
"""

from collections.abc import Sequence

import asyncpg

from offbeat_server.db import sql_loader
from offbeat_server.db.pool import Connection

_SQL = sql_loader.load("overview")


async def monitors(
    pool: asyncpg.Pool | Connection,
    *,
    project_id: int | None = None,
    slugs: Sequence[str] | None = None,
    after: tuple[int, str] = (0, ""),
    tags: Sequence[str] | None = None,
    text: str | None = None,
    statuses: Sequence[str] | None = None,
    ids: Sequence[int] | None = None,
    not_new: bool = False,
    limit: int = 100,
) -> list[asyncpg.Record]:
    """Monitors in the order of project and slug, later than `after`; with `ids` only those.

    `statuses` are those that the scheduler wrote, with `paused` as it is defined. `not_new` leaves out monitors without
    any ping. `text` is searched in slug and name.
    """
    return await pool.fetch(
        _SQL["monitors"],
        project_id,
        None if slugs is None else list(slugs),
        *after,
        list(tags) if tags else None,
        text,
        None if statuses is None else list(statuses),
        limit,
        None if ids is None else list(ids),
        not_new,
    )


async def exported(
    pool: asyncpg.Pool, project_id: int | None, after: tuple[int, str], limit: int
) -> list[asyncpg.Record]:
    """Definitions with their keys, in the order of project and slug, later than `after`."""
    return await pool.fetch(_SQL["exported"], project_id, *after, limit)


async def monitor_id(pool: asyncpg.Pool, project_id: int, slug: str) -> int | None:
    """The monitor of this address, or None."""
    found: int | None = await pool.fetchval(_SQL["monitor_id"], project_id, slug)
    return found
