"""Postgres reads the values that Offbeat's encoder writes: every column, every kind of value."""

import ipaddress
from collections.abc import AsyncIterator

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offbeat_server.common.errors import RowRejectedError
from offbeat_server.common.instants import to_micros
from offbeat_server.db.copy_format import COLUMNS
from offbeat_server.db.repositories.ping_log import LogConnection
from offbeat_server.engine.model.ping import (
    COUNT_MAX,
    EXIT_CODE_MAX,
    EXIT_CODE_MIN,
    PLAIN,
    SIGNALS,
    Entry,
    Ping,
    PingOptions,
)
from tests.support.harness import HANG_S

TEXT = st.text(st.characters(codec="utf-8"), max_size=300)
PINGS = st.one_of(
    st.sampled_from(list(PLAIN.values())),
    st.builds(
        Ping,
        signal=st.sampled_from(SIGNALS),
        run=st.none() | TEXT,
        stage=st.none() | TEXT,
        task=st.none() | TEXT,
        done=st.none() | st.integers(0, COUNT_MAX),
        total=st.none() | st.integers(0, COUNT_MAX),
        exit_code=st.none() | st.integers(EXIT_CODE_MIN, EXIT_CODE_MAX),
        duration=st.none() | st.floats(allow_nan=False),
        message=st.none() | TEXT,
        dialect=st.none() | st.sampled_from(["healthchecks", "sentry"]),
        options=st.none()
        | st.builds(
            PingOptions,
            business_date=st.none() | TEXT,
            backfill=st.booleans(),
            attempt=st.none() | st.integers(1, 9),
            execution=st.none() | TEXT,
        ),
    ),
)
SOURCES = st.none() | st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[LogConnection]:
    connection = await LogConnection.open(database_url, timeout_s=HANG_S)
    yield connection
    connection.terminate()


async def columns_of(database: asyncpg.Connection) -> list[str]:
    rows = await database.fetch(
        "select attname from pg_attribute where attrelid = 'pings'::regclass and attnum > 0 order by attnum"
    )
    return [row["attname"] for row in rows]


async def test_the_columns_are_those_of_the_schema(database: asyncpg.Connection) -> None:
    assert list(COLUMNS) == await columns_of(database)


async def test_every_kind_of_value_comes_back(database: asyncpg.Connection, log: LogConnection) -> None:
    writer, started_at = await log.register("node", None)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(PINGS, SOURCES, st.integers(1, 2**31 - 1)), min_size=1, max_size=20))
    def examples(batch: list[tuple[Ping, bytes | None, int]]) -> None:
        batches.append(batch)

    batches: list[list[tuple[Ping, bytes | None, int]]] = []
    examples()
    entries: list[Entry] = []
    for batch in batches:
        rows = [
            Entry(started_at + len(entries) + i, writer, len(entries) + i, monitor_id, 2**31 - monitor_id, source, ping)
            for i, (ping, source, monitor_id) in enumerate(batch, 1)
        ]
        await log.copy(rows)
        entries += rows
    stored = await database.fetch("select * from pings order by seq")
    assert len(stored) == len(entries)
    for entry, row in zip(entries, stored, strict=True):
        ping = entry.ping
        assert (to_micros(row["at"]), row["writer"], row["seq"]) == (entry.at, entry.writer, entry.seq)
        assert (row["monitor_id"], row["project_id"]) == (entry.monitor_id, entry.project_id)
        assert row["source"] == (None if entry.source is None else ipaddress.ip_address(entry.source))
        for field in ("signal", "done", "total", "duration", "dialect"):
            assert row[field] == getattr(ping, field)
        assert ping.exit_code == (row["exit_code"] if row["wide_exit_code"] is None else row["wide_exit_code"])
        for field in ("run", "stage", "task", "message"):
            sent = getattr(ping, field)
            assert row[field] == (None if sent is None else sent.replace("\0", "\ufffd"))
        sent = {} if ping.options is None else ping.options.dump()
        texts = {name: value.replace("\0", "\ufffd") for name, value in sent.items() if isinstance(value, str)}
        assert (row["options"] or {}) == sent | texts


async def test_what_postgres_cannot_hold_is_made_storable(database: asyncpg.Connection, log: LogConnection) -> None:
    writer, at = await log.register("node", None)
    texts = ["a\0b", "\ud800", "x\udfff\ud800y", "\ud83d\ude00", "ok \U0001f600 ü"]
    await log.copy([Entry(at + i, writer, i, 1, 1, None, Ping(message=text)) for i, text in enumerate(texts, 1)])
    stored = [row["message"] for row in await database.fetch("select message from pings order by seq")]
    assert stored == ["a\ufffdb", "\ufffd", "x\ufffd\ufffdy", "\U0001f600", "ok \U0001f600 ü"]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (Entry(1, 1, 1, 2**31, 1, None, PLAIN["start"]), "monitor id"),
        (Entry(1, 1, 1, 1, 1, b"12345", PLAIN["start"]), "source"),
        (Entry(1, 1, 1, 1, 1, None, Ping(done=2**63)), "count"),
        (Entry(1, 1, 1, 1, 1, None, Ping(signal="sing")), "signal"),  # type: ignore[arg-type]
        (Entry(1, 1, 1, 1, 1, None, Ping(run=b"bytes")), "type"),  # type: ignore[arg-type]
    ],
)
async def test_a_row_that_cannot_be_written_down_is_named_so_and_nothing_is_sent(
    database: asyncpg.Connection, log: LogConnection, entry: Entry, why: str
) -> None:
    writer, at = await log.register("node", None)
    good = Entry(at + 1, writer, 1, 1, 1, None, PLAIN["success"])
    with pytest.raises(RowRejectedError):
        await log.copy([good, entry._replace(at=at + 2, writer=writer, seq=2)])
    await log.copy([good])  # the connection still works
    assert await database.fetchval("select count(*) from pings") == 1


async def test_a_label_that_postgres_cannot_hold_is_made_storable(
    database: asyncpg.Connection, log: LogConnection
) -> None:
    writer, at = await log.register("node", None)
    await log.copy([Entry(at + 1, writer, 1, 1, 1, None, Ping(options=PingOptions("a\0\ud800", execution="\0")))])
    (row,) = await database.fetch("select options from pings")
    assert row["options"] == {"for": "a\ufffd\ufffd", "execution": "\ufffd"}
