"""A small installation that runs: Postgres, one or two nodes, perhaps a pooler, a receiver, and jobs that ping.

The faults are in the other modules; this one has their tools: nodes that can be ended, frozen and started again, cables
that can be cut, and `recovered`, which waits until a ping is answered and evaluated on every node.
"""

import asyncio
import contextlib
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import asyncpg
import psutil

from tests.chaos.verdict.journal import (
    SEEN_S,
    AlertRow,
    Delivery,
    Fault,
    Incident,
    Journal,
    OutageRow,
    Reading,
    Row,
    Stored,
    Watched,
)
from tests.chaos.world.clock import Wall, binaries
from tests.chaos.world.databases import Base, OnSmallDisk, Single, UnderPatroni, WithStandby
from tests.chaos.world.load import Load
from tests.chaos.world.nodes import SHAPES, Node, ends, stopped
from tests.support.harness import Postgres, Received, Receiver, eventually
from tests.support.postgres.clusters import all_processes
from tests.support.postgres.link import Link

RECOVERY_S_MAX = 30.0  # without a person, on a busy machine
ALERTED_S_MAX = 60.0  # some of many jobs stop in this time
DRAINED_S_MAX = 150.0  # two failures of a channel in a row may put its next attempt off by a minute
AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
HOOKS = 4
READING_S = 0.25
RSS_BYTES_MAX = 600_000_000
FILES_MAX = 6_000


class NotRecovered(AssertionError):
    """The installation has not recovered without help."""


class World:
    """`async with World("two", seed) as world`. Everything is drawn from the seed but what the machine does."""

    def __init__(self, shape: str, seed: int, monitors: int) -> None:
        self.shape = SHAPES[shape]
        self.seed = seed
        self.chance = random.Random(seed)
        self.journal = Journal()
        self.nodes: list[Node] = []
        self.receiver = Receiver()
        self.hostile = Receiver()
        self.seen: Counter[str] = Counter()  # of the nodes' health: highest values
        self.troubles: list[str] = []
        self.directory = Path(tempfile.mkdtemp(prefix="offbeat-chaos-"))
        self.directory.chmod(0o755)
        self.wall = Wall(self.directory / "wall") if self.shape.clocks else None
        self.base: Base
        self.load: Load
        self.probe: Watched
        self._monitors = monitors
        self._stack = AsyncExitStack()
        self._connection: asyncpg.Connection | None = None
        self._connected_to = ""
        self._asking = asyncio.Lock()
        self.shifted_s = 0.0  # so far ahead is Postgres' clock

    # ---------------------------------------------------------------- begin and end

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(120):
                await self._begin()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _begin(self) -> None:
        enter = self._stack.enter_async_context
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.base = await enter(self._database())
        self._stack.push_async_callback(self._disconnect)
        for receiver in (self.receiver, self.hostile):
            await enter(receiver)
        self.hook = await enter(Link(self.receiver.url))
        for number in range(self.shape.nodes):
            wall = Wall(self.directory / f"wall-{number}") if self.shape.clocks else None
            node = Node("ab"[number], await enter(self.base.cable()), self.shape, wall)
            await enter(ends(node))
            await node.start()
            self.nodes.append(node)
        await self._define()
        self.load = Load(self.journal, self.chance, [node.server.port for node in self.nodes])
        await self.recovered()
        self.load.start()
        self._stack.push_async_callback(self.load.stop)
        for watch in (self._watch(), *([self._read_clock()] if self.shape.clocks else [])):
            self._stack.callback(asyncio.create_task(watch).cancel)

    def _database(self) -> Single | OnSmallDisk | WithStandby | UnderPatroni:
        match self.shape.database:
            case "disk":
                return OnSmallDisk()
            case "standby":
                return WithStandby()
            case "patroni":
                return UnderPatroni()
        bin_dir = binaries(self.directory / "bin", self.wall) if self.wall is not None else None
        return Single(Postgres(bin_dir), pooled=self.shape.pooled)

    @property
    def database_url(self) -> str:
        """Of the present primary, past every cable."""
        return self.base.url

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _define(self) -> None:
        chance = random.Random(self.seed)
        hooks = {
            # Most channels send one message per alert, so that each can be timed; the first combines them.
            f"hook-{n}": {"kind": "webhook", "url": f"{self.hook.url}/{n}", "digest": n == 0, "per_minute": 6_000}
            for n in range(HOOKS)
        }
        bad = {"kind": "webhook", "url": self.hostile.url, "digest": False, "per_minute": 6_000}
        monitors: list[dict[str, Any]] = [{"slug": "probe", "max_runtime": "1h", "channels": []}]
        periods: dict[str, tuple[float, float, float]] = {}
        for number in range(self._monitors):
            every, grace = chance.choice((3.0, 4.0, 6.0)), chance.choice((4.0, 5.0))
            slug = f"job-{number}"
            periods[slug] = every, grace, every * 0.6
            channels = [f"hook-{number % HOOKS}", *(["hostile"] if number % 5 == 0 else [])]
            monitors.append({"slug": slug, "every": f"{every:g}s", "grace": f"{grace:g}s", "channels": channels})
        await self.apply({"channels": [{"slug": s, **c} for s, c in {**hooks, "hostile": bad}.items()]})
        await self.apply({"monitors": monitors})
        rows = await self.ask(
            "select m.slug, m.id, k.key from monitors m join keys k on k.monitor_id = m.id and k.main"
        )
        for row in rows:
            every, grace, period = periods.get(row["slug"], (3600.0, 60.0, 0.0))
            watched = Watched(row["slug"], row["id"], row["key"], every, grace, period)
            if row["slug"] == "probe":
                self.probe = watched
            else:
                self.journal.watched[watched.id] = watched

    async def apply(self, config: dict[str, Any]) -> None:
        """Define something."""
        answer = await self.nodes[0].server.api("POST", "/api/v1/apply", config)
        assert answer.status == 200, answer

    # ---------------------------------------------------------------- looking

    async def ask(self, sql: str, *arguments: Any, within_s: float = RECOVERY_S_MAX) -> list[asyncpg.Record]:
        """Rows, past every cable; waits for Postgres."""
        deadline = time.monotonic() + within_s
        async with self._asking:  # several wait for their nodes at once, by one connection
            while True:
                try:
                    if self._connected_to != self.database_url:  # an old primary may hang and never answer
                        await self._disconnect()
                    if self._connection is None:
                        self._connected_to = self.database_url
                        self._connection = await asyncpg.connect(self.database_url, timeout=5, command_timeout=20)
                    rows: list[asyncpg.Record] = await self._connection.fetch(sql, *arguments)
                    return rows
                except AWAY as error:
                    await self._disconnect()
                    await self.base.follow()
                    if time.monotonic() > deadline:
                        raise NotRecovered(f"Postgres does not answer: {error!r}") from error
                    await asyncio.sleep(0.1)

    async def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def scheduler(self) -> Node:
        """The node whose scheduler evaluates deadlines."""
        if len(self.nodes) == 1:
            return self.nodes[0]

        async def found() -> Node | None:
            for node in self.nodes:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    async with node.server.session.get("/readyz?verbose", timeout=_timeout(2.0)) as answer:
                        if "[+] scheduler" in await answer.text():
                            return node
            return None

        node = await eventually(found, RECOVERY_S_MAX)
        assert node is not None
        return node

    def other(self, node: Node) -> Node:
        """The one beside it; itself where it is alone."""
        return next((each for each in self.nodes if each is not node), node)

    async def recovered(self) -> None:
        """Every node is ready, and a ping to it is answered and judged. Raises NotRecovered."""
        try:
            async with asyncio.timeout(RECOVERY_S_MAX):
                await self.base.follow()
                for node in self.nodes:
                    await self._ready(node)
                await asyncio.gather(*(self.judged_by(node) for node in self.nodes))
        except TimeoutError:
            raise NotRecovered(f"not within {RECOVERY_S_MAX} s") from None

    async def judged_by(self, node: Node) -> None:
        """Return when a new ping to that node is answered, and the scheduler has evaluated it."""
        while (
            entry := await self.load.ping(self.probe, node.server.port, f"?run={os.urandom(6).hex()}")
        ).answer != "ok":
            await asyncio.sleep(0.1)
        while not await self.ask(
            "select 1 from runs r join pings p using (monitor_id, run) where p.monitor_id = $1 and p.message = $2",
            self.probe.id,
            entry.id,
        ):
            await asyncio.sleep(0.03)

    async def _ready(self, node: Node) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with node.server.session.get("/readyz", timeout=_timeout(3.0)) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.05)

    async def alerted(self) -> None:
        """Return when the receiver knows of an incident."""

        def opened(request: Received) -> bool:
            delivery = Delivery.read(request.headers, request.body, request.at)
            return delivery.kind == "opened" or delivery.opened > 0

        await self.receiver.wait_for(opened, ALERTED_S_MAX)

    async def drained(self) -> float:
        """Until everything that was in the outbox is settled; since when."""
        since = time.time()
        sql = (
            "select a.id, a.kind, a.attempts, a.error, c.slug, a.next_attempt_at from alerts a"
            " join channels c on c.id = a.channel_id where a.state = 'pending' and c.slug <> 'hostile'"
            " and a.created_at < to_timestamp($1::float8)"
            " and (a.facts #>> '{flapping,held}')::boolean is not true order by a.id"
        )
        deadline = time.monotonic() + DRAINED_S_MAX
        while left := await self.ask(sql, since + self.shifted_s):
            if time.monotonic() > deadline:
                raise NotRecovered(f"{len(left)} alerts wait for {DRAINED_S_MAX} s: {[dict(row) for row in left[:3]]}")
            await asyncio.sleep(0.25)
        return since

    async def stored(self, settled_before: float) -> Stored:
        """Everything that the verdict needs, as of one moment."""
        await self.ask("select 1")
        read_at = time.time()
        rows = await self.ask(
            "select message, monitor_id, extract(epoch from at)::float8 as at, signal = 'fail' from pings"
            " where message like 'p%'"
        )
        incidents = await self.ask(
            "select monitor_id, number, cause, extract(epoch from opened_at)::float8 as opened,"
            " extract(epoch from resolved_at)::float8 as resolved, extract(epoch from decided_at)::float8 as decided,"
            " revised from incidents"
        )
        alerts = await self.ask(
            "select a.monitor_id, a.incident, a.kind, case when d.state = 'delivered' then 'digest'"
            " when d.state is not null then d.state when a.state = 'pending'"
            " and (a.facts #>> '{flapping,held}')::boolean then 'held' else a.state end"
            " from alerts a join channels c on c.id = a.channel_id left join digests d on d.id = a.digest_id"
            " where a.monitor_id is not null and c.slug <> 'hostile'"
        )
        outages = await self.ask(
            "select extract(epoch from started_at)::float8, extract(epoch from ended_at)::float8, reason from deaf"
        )
        return Stored(
            [Row(*row) for row in rows],
            [Incident(*row) for row in incidents],
            [AlertRow(*row) for row in alerts],
            [OutageRow(*row) for row in outages],
            read_at,
            settled_before,
        )

    def collect_deliveries(self) -> None:
        """From the receiver into the journal."""
        known = len(self.journal.deliveries)
        self.journal.deliveries += [Delivery.read(r.headers, r.body, r.at) for r in self.receiver.requests[known:]]

    async def shift(self, by: float) -> None:
        """Set the database's clock."""
        assert self.wall is not None
        self.shifted_s = by
        self.wall.set(by)
        await asyncio.sleep(SEEN_S)

    async def _read_clock(self) -> None:
        """Log time beside this machine's, all the time."""
        while True:
            with contextlib.suppress(*AWAY):
                connection = await asyncpg.connect(self.database_url, timeout=5, command_timeout=5)
                try:
                    while True:
                        before = time.time()
                        log = await connection.fetchval("select extract(epoch from log_time())::float8")
                        after = time.time()
                        if after - before < READING_S:
                            self.journal.readings.append(Reading((before + after) / 2, log))
                        await asyncio.sleep(READING_S)
                finally:
                    connection.terminate()
            await asyncio.sleep(READING_S)

    async def _watch(self) -> None:
        """The nodes' health, all the time: alive means alive, and nothing grows without bound."""
        while True:
            for node in self.nodes:
                for process in node.processes():
                    with contextlib.suppress(psutil.Error):
                        self.seen["rss_bytes"] = max(self.seen["rss_bytes"], process.memory_info().rss)
                        self.seen["files"] = max(self.seen["files"], process.num_fds())
                if node.free and node.server.has_ended:
                    self.troubles.append(f"node {node.name} has ended by itself at {time.time():.3f}")
                    node.free = False
                start = node.starts
                if node.free and not await self._alive(node) and node.free and node.starts == start:
                    self.troubles.append(f"node {node.name} runs and /livez does not answer 200 at {time.time():.3f}")
            await asyncio.sleep(1)

    async def _alive(self, node: Node) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with node.server.session.get("/livez", timeout=_timeout(5.0)) as answer:
                return answer.status == 200
        return False

    async def look(self) -> None:
        """Values that must always be zero, and values with an upper bound."""
        for node in self.nodes:
            async with node.server.session.get("/metrics") as answer:
                text = await answer.text()
            for line in text.splitlines():
                name, _, value = line.rpartition(" ")
                if name in ("offbeat_self_check_mismatches_total", "offbeat_monitors_quarantined") and float(value):
                    self.troubles.append(f"node {node.name}: {line}")
        if self.load.odd:
            self.troubles.append(f"pings were answered {dict(self.load.odd)}")
        for name, cap in (("rss_bytes", RSS_BYTES_MAX), ("files", FILES_MAX)):
            if self.seen[name] > cap:
                self.troubles.append(f"{name} has come to {self.seen[name]}")

    def begin(self, name: str) -> Fault:
        """A fault begins."""
        fault = Fault(name, time.time())
        self.journal.faults.append(fault)
        return fault

    def frozen_postgres(self) -> contextlib.AbstractContextManager[None]:
        """Nothing of Postgres runs."""
        return stopped(all_processes(self.base.pid))


def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds)
