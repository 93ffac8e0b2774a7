"""Reads the log as the engine takes it: of one writer, at a scheduler's start by the million, or of one monitor.

A slice comes as columns, and values that few pings have come as columns of these few. In rows of sixteen columns an
entry took 1.7 µs of this process, now 0.9.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import asyncpg
import orjson

from offbeat_server.common.instants import Micros, to_datetime
from offbeat_server.db.pool import Connection, database_trouble
from offbeat_server.db.sql_loader import load
from offbeat_server.engine.model.monitor import one_of_equal
from offbeat_server.engine.model.ping import PLAIN, Entry, Ping, PingOptions, Position

ENTRIES_MAX = 5_000  # of one writer in one read
_SQL = load("entries")
_INET_HEAD_BYTES = 4  # family, bits, is_cidr, length


async def of_writer(
    connection: Connection, writer: int, seq: int, after: Micros, through: Micros, horizon: Micros
) -> list[Entry]:
    """The next entries of a writer up to `through`, at most `ENTRIES_MAX`. Raises DatabaseDownError.

    `horizon`, not before `through`: up to there the rows of all writers are in the log.
    """
    times = to_datetime(after), to_datetime(through), to_datetime(horizon)
    with database_trouble():
        columns = await connection.fetchrow(_SQL["of_writer"], writer, seq, *times, ENTRIES_MAX)
    return read_entries(columns)


async def of_monitor(
    connection: Connection, monitor_id: int, position: Position, through: Micros, entries_max: int
) -> list[Entry]:
    """Its next entries in order, after `position` and up to `through`. Raises DatabaseDownError."""
    at, writer, seq = position
    with database_trouble():
        columns = await connection.fetchrow(
            _SQL["of_monitor"], monitor_id, to_datetime(at), writer, seq, to_datetime(through), entries_max
        )
    return read_entries(columns)


_new_entry = tuple.__new__  # half the time of Entry(...), which is a Python function


def read_entries(columns: asyncpg.Record | None) -> list[Entry]:
    """The columns of the statements, each a list of one length; the last ones of what is not plain, or all null."""
    assert columns is not None
    writers, ats, seqs, monitor_ids, project_ids, sources, signals, plain, *ping_columns, options = columns
    if writers is None:
        return []
    others: Iterator[Any] = iter(())
    if options is not None:
        others = zip(*ping_columns, map(_options, options), strict=True)
    # The values that a monitor keeps of its last entry are one object for all monitors if they are equal.
    return [
        _new_entry(
            Entry,
            (
                at,
                one_of_equal(writer),
                seq,
                monitor_id,
                project_id,
                None if source is None else _address(source),
                PLAIN[signal] if is_plain else Ping(signal, *next(others)),
            ),
        )
        for writer, at, seq, monitor_id, project_id, source, signal, is_plain in zip(
            writers, ats, seqs, monitor_ids, project_ids, sources, signals, plain, strict=True
        )
    ]


def _options(stored: str | None) -> PingOptions | None:
    return None if stored is None else PingOptions.load(orjson.loads(stored))


@lru_cache(maxsize=10_000)
def _address(sent: bytes) -> bytes:
    """An inet in Postgres' binary form."""
    return sent[_INET_HEAD_BYTES:]
