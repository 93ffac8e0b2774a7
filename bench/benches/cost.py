"""The cost of a ping: CPU of the process and of its Postgres backend, bytes of WAL and of tables; by size of batch.

The first lines are the server under a closed loop of 512 connections. The others are the same COPY by hand, which has
no HTTP in it: what is left is the price of the batch, and why batches must be allowed to grow.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bench.benches.single import committed
from bench.measure import Goal, Line, Result
from bench.stage import Database, Stage, cpu_s
from offbeat_server.db.repositories.ping_log import LogConnection
from offbeat_server.engine.model.ping import PLAIN, Entry

CONNECTIONS = 512
BATCHES = (1, 32, 256, 2_000)
_LOG_BACKENDS = """
select pid from pg_stat_activity where datname = current_database() and application_name like 'offbeat log%'
"""
_SIZE = "select sum(pg_total_relation_size(inhrelid))::bigint from pg_inherits where inhparent = 'pings'::regclass"
_WAL_SINCE = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)"
_ROWS = "offbeat_batch_rows"


@dataclass
class Used:
    """The resources used between the two ends of a measurement."""

    cpu: dict[int, float] = field(default_factory=dict)
    wal: int = 0
    table: int = 0
    rows: int = 0

    def of_a_row(self, pid: int) -> float:
        """CPU microseconds of this process a row."""
        return self.cpu[pid] * 1e6 / self.rows


async def run(stage: Stage) -> Result:
    """The server, then COPY by hand in four sizes of batch."""
    seconds, monitors = (1.0, 2_000) if stage.quick else (6.0, 100_000)
    result = Result("cost", f"what a ping costs, {CONNECTIONS} connections")
    own, backend, rows, wal, table = (
        Line("Offbeat's process", "µs/ping"),
        Line("its Postgres backend", "µs/ping"),
        Line("pings a batch", "pings"),
        Line("WAL", "bytes/ping"),
        Line("table and indexes", "bytes/ping"),
    )
    async with stage.database() as database:
        keys = await database.populate(monitors, {"every": "1h"})
        async with stage.offbeat(database) as offbeat:
            for _ in range(stage.rounds):
                pids = [row["pid"] for row in await database.connection.fetch(_LOG_BACKENDS)]
                before = await offbeat.metrics()
                async with used(database, offbeat.pid, *pids) as usage:
                    await committed(database, offbeat, keys, connections=CONNECTIONS, seconds=seconds)
                after = await offbeat.metrics()
                batches = after[f"{_ROWS}_count"] - before[f"{_ROWS}_count"]
                own.values.append(usage.of_a_row(offbeat.pid))
                backend.values.append(sum(usage.of_a_row(pid) for pid in pids))
                rows.values.append((after[f"{_ROWS}_sum"] - before[f"{_ROWS}_sum"]) / batches)
                wal.values.append(usage.wal / usage.rows)
                table.values.append(usage.table / usage.rows)
        result.lines = [own, backend, rows, wal, table]
        for size in BATCHES:
            result.lines += await _by_hand(stage, database, size, 200 if stage.quick else 100_000)
    result.goals = [Goal("the process's own share", own.median, at_most=18.0, unit=" µs/ping")]
    return result


async def _by_hand(stage: Stage, database: Database, size: int, count: int) -> list[Line]:
    """`count` rows in batches of `size` (single ones: fewer) through our own COPY, with nothing around it."""
    encode, backend, elapsed, wal = (
        Line(f"COPY by hand, {size:,} a batch: {what}", unit)
        for what, unit in (
            ("encoding and sending", "µs/row"),
            ("backend", "µs/row"),
            ("elapsed", "µs/row"),
            ("WAL", "bytes/row"),
        )
    )
    batches = max(3, min(count // size, 3_000))
    for _ in range(stage.rounds):
        log = await LogConnection.open(database.url, timeout_s=30)
        registered = await log.register("cost", None)
        at = registered.started_at
        pid = log.session.pid
        async with used(database, pid) as usage:
            cpu, began = time.process_time(), time.perf_counter()
            seq = 0
            for _ in range(batches):
                entries = [
                    Entry(at + n, registered.writer, n, n % 1_000 + 1, 1, b"\x7f\0\0\1", PLAIN["success"])
                    for n in range(seq + 1, seq + size + 1)
                ]
                await log.copy(entries)
                seq += size
            cpu, took = time.process_time() - cpu, time.perf_counter() - began
        await log.close()
        encode.values.append(cpu * 1e6 / seq)
        backend.values.append(usage.of_a_row(pid))
        elapsed.values.append(took * 1e6 / seq)
        wal.values.append(usage.wal / usage.rows)
    return [encode, backend, elapsed, wal]


@asynccontextmanager
async def used(database: Database, *pids: int) -> AsyncIterator[Used]:
    """Measures what these processes and the log use inside the block."""
    usage = Used()
    lsn = await database.value("select pg_current_wal_insert_lsn()::text")
    table, rows = await database.value(_SIZE), await database.pings()
    cpu = {pid: cpu_s(pid) for pid in pids}
    yield usage
    usage.cpu = {pid: cpu_s(pid) - before for pid, before in cpu.items()}
    usage.wal = int(await database.value(_WAL_SINCE, lsn))
    usage.table, usage.rows = await database.value(_SIZE) - table, await database.pings() - rows
