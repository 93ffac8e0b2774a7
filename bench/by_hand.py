"""Rivals that write to the same table without Offbeat: one INSERT a ping, and asyncpg's own COPY of records.

`python -m bench.by_hand KIND` reads its order as JSON from standard input and writes what it found as JSON. The rows
are those of plain pings, the schema is the real one with its indexes and its trigger, each statement is its own commit,
and each connection its own writer, so that they do not wait for each other's row in `writers`.
"""

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import uvloop

from bench.load import DRAIN_S, Latency
from offbeat_server.db.pool import connect
from offbeat_server.db.repositories.ping_log import LogConnection

TICK_S = 0.001  # what the loop's timer can resolve; to wait for less would be to turn round without a rest
_COLUMNS = ("writer", "seq", "at", "monitor_id", "project_id", "signal")
_INSERT = "insert into pings (writer, seq, at, monitor_id, project_id, signal) values ($1, $2, $3, $4, 1, 'success')"


@dataclass
class Order:
    """A load of rows: `rate` rows a second in an open loop (0: as fast as it goes), in batches of `rows`."""

    url: str
    seconds: float
    connections: int = 1
    rate: float = 0.0
    rows: int = 1
    monitors: int = 1_000


@dataclass
class Written:
    """The result."""

    rows: int = 0
    elapsed_s: float = 0.0
    latency: Latency = field(default_factory=Latency)

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.elapsed_s


async def write(kind: str, order: Order) -> Written:
    """Run `insert` or `copy` in a process of its own."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.by_hand", kind, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    answer, _ = await child.communicate(json.dumps(asdict(order)).encode())
    if child.returncode != 0:
        raise RuntimeError(f"writing by hand failed with {child.returncode}")
    read = json.loads(answer)
    return Written(latency=Latency(**read.pop("latency")), **read)


async def _insert(order: Order) -> Written:
    """Each connection inserts one row after the other; with a rate, the rows are due at Poisson's moments."""
    writers = [await _register(order.url) for _ in range(order.connections)]
    connections = [await connect(order.url) for _ in range(order.connections)]
    statements = [await connection.prepare(_INSERT) for connection in connections]
    start = time.perf_counter()
    end = start + order.seconds
    latencies: list[float] = []
    due_line: asyncio.Queue[float] = asyncio.Queue()

    async def one_after_the_other(writer: int, statement: Any) -> None:
        seq = 0
        while True:
            due = await due_line.get() if order.rate else time.perf_counter()
            if due >= end:
                return
            seq += 1
            await statement.fetch(writer, seq, datetime.now(UTC), seq % order.monitors + 1)
            latencies.append(time.perf_counter() - due)

    workers = [asyncio.create_task(one_after_the_other(*each)) for each in zip(writers, statements, strict=True)]
    if order.rate:
        await _offer(due_line, start, end, order.rate)
        for _ in workers:
            due_line.put_nowait(end)
    # Rows that could not be written in the end are not waited for without bound: the rate was too high.
    await asyncio.wait(workers, timeout=order.seconds + DRAIN_S)
    elapsed_s = time.perf_counter() - start
    for worker in workers:
        worker.cancel()
    return Written(len(latencies), elapsed_s, Latency.of(latencies))


async def _offer(line: "asyncio.Queue[float]", start: float, end: float, rate: float) -> None:
    gap = random.Random(1).expovariate
    due = start
    while due < end:
        now = time.perf_counter()
        while due <= now and due < end:
            line.put_nowait(due)
            due += gap(rate)
        await asyncio.sleep(max(due - time.perf_counter(), TICK_S))


async def _copy(order: Order) -> Written:
    """One connection, one COPY of ready-made records after the other."""
    writer = await _register(order.url)
    connection: asyncpg.Connection = await connect(order.url)
    start = time.perf_counter()
    seq = 0
    while (now := time.perf_counter()) - start < order.seconds:
        at = datetime.now(UTC)
        records = [(writer, n, at, n % order.monitors + 1, 1, "success") for n in range(seq + 1, seq + 1 + order.rows)]
        await connection.copy_records_to_table("pings", records=records, columns=_COLUMNS)
        seq += order.rows
    return Written(seq, now - start)


async def _register(url: str) -> int:
    log = await LogConnection.open(url, timeout_s=10)
    registered = await log.register("by hand", None)
    await log.close()
    return registered.writer


def _main() -> None:
    order = Order(**json.load(sys.stdin))
    work = {"insert": _insert, "copy": _copy}[sys.argv[1]]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(asdict(runner.run(work(order))), sys.stdout)


if __name__ == "__main__":
    _main()
