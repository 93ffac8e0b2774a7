"""Ended runs that the engine no longer holds, read from their rows before late pings of them are applied."""

from collections.abc import Sequence

from offbeat_server.db.pool import Connection
from offbeat_server.db.scheduler_store import scheduler_rows
from offbeat_server.engine.engine import Engine
from offbeat_server.engine.model.ping import Entry


async def recall_runs(connection: Connection, engine: Engine, entries: Sequence[Entry]) -> bool:
    """Hand the engine the ended runs of these entries that it does not know: one query, or none. Whether there are any.

    The rows must be as old as the state of the engine, except for runs that it has ended or recalled since
    `forget_recalled`. Raises DatabaseDownError.
    """
    keys = engine.unknown_runs(entries)
    found = await scheduler_rows.ended_runs(connection, keys) if keys else []
    for ended in found:
        engine.recall(*ended)
    return bool(found)
