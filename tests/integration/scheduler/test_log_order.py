"""The one order on a real Postgres: what the log has is applied, also where memory, fences and clocks disagree."""

import random
from io import BytesIO

import asyncpg
import orjson
import pytest

from offbeat_server.committed_batches import CommittedBatches
from offbeat_server.common.instants import SECOND, Micros, to_datetime
from offbeat_server.db.copy_format import COLUMNS, encode_entries
from offbeat_server.db.scheduler_store.log_entries import of_writer
from offbeat_server.db.scheduler_store.scheduler_rows import now
from offbeat_server.db.sql_loader import load
from offbeat_server.engine.model.ping import PLAIN, Entry
from offbeat_server.scheduler.log_reader import LogReader


async def _writer(database: asyncpg.Connection, at: Micros) -> int:
    writer: int = await database.fetchval(
        "insert into writers (node, started_at, accepted_through) values ('test', $1, $1) returning id",
        to_datetime(at),
    )
    return writer


async def _commit(database: asyncpg.Connection, *entries: Entry) -> None:
    await database.copy_to_table("pings", source=BytesIO(encode_entries(entries)), columns=COLUMNS, format="binary")


def _entry(writer: int, seq: int, at: Micros) -> Entry:
    return Entry(at, writer, seq, 7, 1, None, PLAIN["success"])


async def test_a_batch_in_doubt_of_a_fenced_writer_is_not_passed_over(database: asyncpg.Connection) -> None:
    start = await now(database)
    old = await _writer(database, start)
    committed = CommittedBatches()
    order = LogReader(committed)
    order.begin(start, {}, [old], 0)
    committed.add(old, [], start)
    first, doubtful = _entry(old, 1, start + 1_000), _entry(old, 2, start + 2_000)
    await _commit(database, first)
    committed.add(old, [first], first.at)
    assert (await order.read_batch(database))[0] == [first]
    await _commit(database, doubtful)  # its reply was lost, and before it could be asked again:
    await database.execute("update writers set fenced = true where id = $1", old)
    new = await _writer(database, start + 3_000)
    entries, _ = await order.read_batch(database)
    assert order.watermark == start + 3_000 and entries == [doubtful]
    committed.add(old, [doubtful], doubtful.at)  # the key said at last that it had committed
    late = _entry(new, 1, start + 4_000)
    await _commit(database, late)
    committed.add(new, [late], late.at)
    assert (await order.read_batch(database))[0] == [late]


async def test_a_batch_that_memory_brings_twice_is_applied_once(database: asyncpg.Connection) -> None:
    start = await now(database)
    old = await _writer(database, start)
    committed = CommittedBatches()
    order = LogReader(committed)
    order.begin(start, {}, [old], 0)
    committed.add(old, [], start)
    entry = _entry(old, 1, start + 1_000)
    await _commit(database, entry)
    await database.execute("update writers set fenced = true where id = $1", old)
    assert (await order.read_batch(database))[0] == [entry]
    committed.add(old, [entry], entry.at)
    await _writer(database, start + SECOND)
    assert (await order.read_batch(database))[0] == []
    assert order.watermark == start + SECOND


async def test_the_first_pings_of_a_writer_that_began_behind_the_others_count(database: asyncpg.Connection) -> None:
    start = await now(database)
    ahead = await _writer(database, start)
    committed = CommittedBatches()
    order = LogReader(committed)
    order.begin(start - SECOND, {}, [ahead], 0)
    await order.read_batch(database)
    assert order.watermark == start
    behind = await _writer(database, start - 5_000)
    early, later = _entry(behind, 1, start - 4_000), _entry(behind, 2, start + 1_000)
    await _commit(database, early)
    assert (await order.read_batch(database))[0] == []  # the watermark never goes back
    await _commit(database, later)
    await database.execute("update writers set accepted_through = $2 where id = $1", ahead, to_datetime(later.at))
    assert (await order.read_batch(database))[0] == [early, later]


async def test_a_long_log_is_read_in_parts_without_a_pause(
    database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("offbeat_server.scheduler.log_reader", "offbeat_server.db.scheduler_store.log_entries"):
        monkeypatch.setattr(f"{module}.ENTRIES_MAX", 2)
    start = await now(database)
    one, two = await _writer(database, start), await _writer(database, start)
    log = [_entry(one, seq, start + seq * 10) for seq in range(1, 6)]
    await _commit(database, *log)
    other = _entry(two, 1, start + 35)
    await _commit(database, other)
    await database.execute("update writers set accepted_through = $1", to_datetime(start + 60))
    committed = CommittedBatches()
    order = LogReader(committed)
    order.begin(start, {}, [one, two], 0)
    read, behind = [], []
    for _ in range(3):
        read.append((await order.read_batch(database))[0])
        behind.append(order.behind)
    assert read == [log[:2], [log[2], other, log[3]], log[4:]]
    assert behind == [True, True, False]


async def test_what_a_writer_wrote_later_is_not_searched_for_the_end(database: asyncpg.Connection) -> None:
    start = await now(database)
    writer = await _writer(database, start)
    await _commit(database, *(_entry(writer, seq, start + seq) for seq in range(1, 20_001)))
    assert [e.seq for e in await of_writer(database, writer, 3, start, start + 6, start + 20_000)] == [4, 5, 6]
    instants = [to_datetime(at) for at in (start, start + 6, start + 20_000)]
    explained = await database.fetchval(
        f"explain (analyze, buffers, format json) {load('entries')['of_writer']}", writer, 3, *instants, 10
    )
    plan = orjson.loads(explained)[0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 30  # of all rows: over 100


async def test_an_instant_is_read_exactly(database: asyncpg.Connection) -> None:
    expression = "(extract(epoch from p.at) * 1000000)::bigint"
    assert expression in load("entries")["of_writer"]
    rng = random.Random(1)
    instants = [rng.randint(946_684_800 * SECOND, 9_000_000_000 * SECOND) for _ in range(20_000)]
    read = await database.fetch(
        f"select {expression} as at from unnest($1::timestamptz[]) as p (at)", [to_datetime(at) for at in instants]
    )
    assert [row["at"] for row in read] == instants
