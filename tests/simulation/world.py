"""One seed's world: nodes with the real keeper and writer, clients that ping, people who edit, and what goes wrong.

The seed draws everything. What is random in the code under test draws from the same seed.
"""

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import asyncpg
import orjson
import pytest
import structlog

from server.clock import LogClock, to_datetime
from server.engine.engine import Engine
from server.engine.monitor import read_definition
from server.engine.ping import Entry, Micros, Ping, Signal
from server.errors import DatabaseAway, OffbeatError, Unavailable
from server.ingest.reading import OK
from server.ingest.writer import Writer
from server.keep import following
from server.keep.keeper import Keeper
from server.keep.upkeep import Upkeep
from server.roster import Bound
from server.settings import Settings
from tests.simulation.database import Connection, Link, Server
from tests.simulation.loop import PROCESS, Process, VirtualLoop
from tests.simulation.statements import Statements

PROJECT = 1
CLIENTS_S = 16.0  # so long there are pings, edits and faults
QUIET_S = 30.0  # at most so long until everything is judged
SETTINGS = Settings(writer_silent_max=1.0, ack_timeout=3.0)
# Bounds of the code under test, drawn small so that slices, cuts and second reads happen with few rows.
SMALL = {
    "server.keep.keeper.SLICE": (1, 8),
    "server.keep.keeper.SUBJECTS_MAX": (1, 4),
    "server.keep.keeper.UNDECIDED_MAX": (1, 6),
    "server.keep.order.FED_ENTRIES_MAX": (2, 30),
    "server.store.keeping.CHANGES_MAX": (1, 4),
    "server.store.states.LOAD_ROWS": (1, 4),
}


class Rows(bytes):
    """What stands for a COPY's body: its entries."""

    entries: list[Entry]


class Silent:
    """Metrics that nobody reads."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


class Node:
    """A server process: the real writer and keeper on a clock that drifts, and their way to the database."""

    def __init__(self, world: "World", name: str, start: int) -> None:
        self.world, self.name = world, name
        self.process = Process(f"{name}.{start}")
        loop = world.loop
        offset_s, drift = world.rng.uniform(0, 1e6), world.rng.uniform(-1e-4, 1e-4)
        self.clock = LogClock(lambda: int((loop.time() * (1 + drift) + offset_s) * 1e9))
        metrics: Any = Silent()
        self.keeper = Keeper(name, SETTINGS, self.clock, metrics, holder=self.process.name, node=name)
        self.writer = Writer(
            name,
            SETTINGS,
            self.clock,
            metrics,
            node=name,
            metrics_address=None,
            on_committed=lambda entries, through: self.keeper.feed(self.writer.id, entries, through),
            next_deadline=lambda: self.keeper.next_deadline,
            several_writers=lambda: self.keeper.order.others,
        )
        self.keeper.on_death = self.writer.on_death = self._died
        self.stopping = False
        self.spawn(self._start())

    @property
    def runs(self) -> bool:
        return not (self.process.dead or self.process.frozen)

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        context = copy_context()
        context.run(PROCESS.set, self.process)
        return self.world.loop.create_task(work, context=context)

    async def _start(self) -> None:
        await self.writer.start()
        await self.keeper.start()

    async def stop(self) -> None:
        """As the server stops: the writer's last word first."""
        self.stopping = True
        await self.writer.stop()
        await self.keeper.stop()
        self.process.dead = True

    def crash(self) -> None:
        """Nothing more runs; the server notices sooner or later."""
        self.process.dead = True
        server = self.world.server
        notice_s = server.rng.choice((0.0, 0.02, 5.0))
        for session in [s for s in server.sessions.values() if s.process is self.process]:
            server.later(notice_s, lambda session=session: server.end(session))  # type: ignore[misc]

    def _died(self, name: str, error: BaseException | None) -> None:
        self.world.wrong.append(f"{self.process.name}: {name} died of {error!r}")


class Client:
    """Waits for the answer to one ping."""

    def __init__(self, world: "World", token: str) -> None:
        self._world, self._token = world, token

    def settle(self, outcome: Any) -> None:
        if outcome is OK:
            self._world.acked.append(self._token)


class World:
    """All of it."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        random.seed(seed)
        self.loop = VirtualLoop()
        self.server = Server(self.loop, self.rng)
        self.tables = Statements(self.server)
        self.tables.on_states, self.tables.on_deaf = self._states_written, self._deaf_written
        self.tables.on_copy = self._copied
        self.wrong = self.tables.wrong
        self.nodes: dict[str, Node] = {}
        self.graveyard: list[Node] = []
        self.acked: list[str] = []
        self.sent = 0
        self.applied: dict[tuple[Engine, int], tuple[Micros, int]] = {}
        self.unsettled: dict[int, list[SimpleNamespace]] = {}
        self.effective: list[tuple[Micros, int, Any]] = []  # changes and deaf rows where they took effect
        self.furthest: Micros = 0
        self.faults: list[str] = []
        self.ended = False
        self._ticks = self._starts = 0

    # ------------------------------------------------------------------------------------ where inputs take effect

    def change_applied(self, engine: Engine, rev: int, at: Micros) -> None:
        """An engine takes in a change."""
        self._ticks += 1
        self.applied[engine, rev] = (at, self._ticks)

    def _states_written(self, session: Any, monitor_id: int, rev: int) -> None:
        engine = session.process.node.keeper.engine
        self.furthest = max(self.furthest, engine.now)
        waiting = self.unsettled.get(monitor_id, [])
        while waiting and waiting[0].rev <= rev:
            change = waiting.pop(0)
            place = self.applied.get((engine, change.rev))
            if place is None:
                self.wrong.append(f"change {change.rev} is in a state and was never applied")
            else:
                self.effective.append((*place, change))

    def _deaf_written(self, session: Any, deaf: SimpleNamespace) -> None:
        engine = session.process.node.keeper.engine
        self._ticks += 1
        known = max(engine.now, self.furthest)
        self.effective.append((known, self._ticks, deaf))
        if deaf.in_time and known > deaf.started and not self._is_covered(deaf):
            self.wrong.append(f"judged up to {known} before the {deaf.reason} of {deaf.started} was known")

    def _copied(self, entries: list[Entry]) -> None:
        passed = max((node.keeper.order.watermark for node in self.nodes.values() if node.keeper.judging), default=0)
        if entries[0].at <= passed:
            self.wrong.append(f"a ping of {entries[0].at} was committed after the watermark had passed it")

    def _is_covered(self, deaf: SimpleNamespace) -> bool:
        """Whether what is now known says nothing new."""
        reached = deaf.started
        for other in sorted(self.tables.deaf, key=lambda other: other.started):
            if other is not deaf and other.started <= reached:
                reached = max(reached, other.ended)
        return reached >= deaf.ended

    # ------------------------------------------------------------------------------------------------------- people

    def define(self, monitor_id: int, kind: str, **fields: Any) -> None:
        """A change as the API writes it: the row and the change, together."""
        tables = self.tables
        m = tables.monitors.get(monitor_id)
        before = _document(m) if m is not None else None
        rev = len(tables.changes) + 1
        if m is None:
            m = SimpleNamespace(id=monitor_id, project_id=PROJECT, slug=f"m{monitor_id}", paused=False)
            m.snoozed_until = None
            tables.monitors[monitor_id] = m
        if "definition" in fields:
            read_definition(fields["definition"])
            fields["definition"] = orjson.dumps(fields["definition"]).decode()
        vars(m).update(fields)
        m.rev = rev
        self._record(rev, kind, m, before, _document(m))

    def delete(self, monitor_id: int) -> None:
        m = self.tables.monitors.pop(monitor_id)
        self._record(len(self.tables.changes) + 1, "monitor", m, _document(m), None)

    def resolve(self, monitor_id: int) -> None:
        m = self.tables.monitors[monitor_id]
        self._record(len(self.tables.changes) + 1, "resolve", m, None, b"{}")

    def _record(self, rev: int, kind: str, m: SimpleNamespace, before: Any, after: Any) -> None:
        change = SimpleNamespace(
            rev=rev, kind=kind, project_id=PROJECT, monitor_id=m.id, subject=m.slug, before=before, after=after
        )
        change.ended_at = None
        self.tables.changes.append(change)
        self.unsettled.setdefault(m.id, []).append(change)

    def draw_definition(self, monitor_id: int) -> dict[str, Any]:
        rng = self.rng
        said: dict[str, Any] = {"grace": rng.choice((0.2, 0.5, 1.0, 2.0))}
        kind = rng.random()
        others = [f"m{other}" for other in range(1, monitor_id)]
        if kind < 0.6 or not others:
            said["every"] = rng.choice((1, 1.5, 2, 4))
        elif kind < 0.7:
            said["after"] = {"monitor": rng.choice(others), "within": rng.choice((1, 2))}
        elif kind < 0.8:
            said["members"] = {"every": rng.choice((1, 2)), "grace": 0.5, "forget_after": rng.choice((3, 60))}
        if "members" not in said:
            if rng.random() < 0.4:
                said["max_runtime"] = rng.choice((1, 2, 3))
            if rng.random() < 0.2:
                said["quiet_for"] = rng.choice((1, 2))
            if rng.random() < 0.2:
                said["fail_after"] = rng.choice((2, 3))
            if rng.random() < 0.2:
                said["recover_after"] = 2
            if rng.random() < 0.2:
                said["first_within"] = 2
        if others and rng.random() < 0.35:
            said["depends_on"] = [rng.choice(others)]
            said["dependency_wait"] = rng.choice((0.5, 3))
        if rng.random() < 0.2:
            said["strict"] = True
        return said

    async def _edit(self) -> None:
        rng = self.rng
        while not self.ended:
            await asyncio.sleep(rng.expovariate(0.7))
            if self.ended or not self.tables.monitors:
                return
            monitor_id = rng.choice(list(self.tables.monitors))
            m = self.tables.monitors[monitor_id]
            what = rng.random()
            if what < 0.35:
                self.define(monitor_id, "monitor", definition=self.draw_definition(monitor_id))
            elif what < 0.6:
                self.define(monitor_id, "resume" if m.paused else "pause", paused=not m.paused)
            elif what < 0.7:
                until = self.server.now + int(rng.uniform(0.5, 4) * 1e6)
                self.define(monitor_id, "snooze", snoozed_until=to_datetime(until))
            elif what < 0.85:
                self.resolve(monitor_id)
            elif what < 0.93:
                self.delete(monitor_id)
            else:
                self._new_monitor()

    def _new_monitor(self) -> None:
        monitor_id = max([*self.tables.monitors, *self.unsettled], default=0) + 1
        self.define(monitor_id, "monitor", definition=self.draw_definition(monitor_id))
        self.loop.create_task(self._pings_of(monitor_id))

    # ------------------------------------------------------------------------------------------------------ clients

    async def _pings_of(self, monitor_id: int) -> None:
        rng = self.rng
        period_s = rng.choice((0.3, 0.8, 1.5))
        run = 0
        while not self.ended:
            await asyncio.sleep(rng.uniform(0.5, 1.1) * period_s)
            if rng.random() < 0.06:
                await asyncio.sleep(rng.uniform(1, 6))
            if self.ended:
                return
            said: dict[str, Any] = {}
            what, signal = rng.random(), "success"
            if what < 0.12:
                signal = "fail"
            elif what < 0.3:
                signal = "start"
            elif what < 0.36:
                signal = rng.choice(("log", "progress", "skip", "leave"))
            if rng.random() < 0.4:
                run += signal == "start"
                said["run"] = f"r{max(0, run - (rng.random() < 0.2))}"
            if rng.random() < 0.1:
                said["task"] = rng.choice("ab")
            self._ping(monitor_id, signal, rng.choice((None, b"\x0a\0\0\x01")), **said)
            if monitor_id not in self.tables.monitors and rng.random() < 0.3:
                return

    def _ping(self, monitor_id: int, signal: Any, source: bytes | None, **said: Any) -> None:
        nodes = [node for node in self.nodes.values() if node.runs]
        if not nodes:
            return
        self.sent += 1
        token = str(self.sent)
        node = self.rng.choice(nodes)
        kind: Signal = signal
        ping = Ping(kind, message=token, **said)
        try:
            node.writer.backlog.append(Bound(monitor_id, PROJECT), ping, source, Client(self, token))
        except Unavailable:
            return

    # ------------------------------------------------------------------------------------------------------- faults

    async def _go_wrong(self) -> None:
        rng = self.rng
        kinds: list[Callable[[Node], Awaitable[None]]] = [
            self._crash, self._crash, self._freeze, self._freeze, self._cut, self._lose, self._lose,
            self._slow, self._restart_database, self._restart,
        ]  # fmt: skip
        while not self.ended:
            await asyncio.sleep(rng.expovariate(0.6))
            node = rng.choice(list(self.nodes.values()))
            if self.ended or node.process.dead or node.stopping:
                continue
            kind = rng.choice(kinds)
            self.faults.append(f"{self.loop.time():.3f} {kind.__name__} {node.process.name}")
            self.loop.create_task(kind(node))  # type: ignore[arg-type]

    async def _crash(self, node: Node) -> None:
        node.process.after_steps(self.rng.randint(1, 300), node.crash)
        await asyncio.sleep(self.rng.uniform(0.1, 4))
        if not node.process.dead and not node.stopping:
            node.crash()
        if self.nodes[node.name] is node:
            self._boot(node.name)

    async def _freeze(self, node: Node) -> None:
        def freeze() -> None:
            node.process.frozen = True

        node.process.after_steps(self.rng.randint(1, 300), freeze)
        await asyncio.sleep(self.rng.choice((0.3, 2, 2.8, 5, 8)))
        self.loop.thaw(node.process)

    async def _cut(self, node: Node) -> None:
        link = self.server.links[node.name]
        which = self.rng.randrange(3)
        link.request_cut, link.reply_cut = which != 0, which != 1
        await asyncio.sleep(self.rng.choice((0.3, 1, 3, 6)))
        link.request_cut = link.reply_cut = False

    async def _lose(self, node: Node) -> None:
        link = self.server.links[node.name]
        link.loss = self.rng.choice((0.02, 0.1, 0.3))
        await asyncio.sleep(self.rng.uniform(0.5, 4))
        link.loss = 0.0

    async def _slow(self, node: Node) -> None:
        link = self.server.links[node.name]
        link.slow_s = self.rng.choice((0.03, 0.2, 0.8))
        await asyncio.sleep(self.rng.uniform(0.5, 3))
        link.slow_s = 0.0

    async def _restart_database(self, node: Node) -> None:
        self.server.restart()
        self.server.up = False
        await asyncio.sleep(self.rng.uniform(0.05, 2))
        self.server.up = True

    async def _restart(self, node: Node) -> None:
        await node.spawn(node.stop())
        await asyncio.sleep(self.rng.uniform(0.1, 1))
        if self.nodes[node.name] is node:
            self._boot(node.name)

    def _boot(self, name: str) -> None:
        self._starts += 1
        if name in self.nodes:
            self.graveyard.append(self.nodes[name])
        node = Node(self, name, self._starts)
        node.process.node = node  # type: ignore[attr-defined]
        self.nodes[name] = node

    # ------------------------------------------------------------------------------------------------------ the end

    async def _live(self) -> None:
        rng = self.rng
        for number in range(rng.choice((1, 2, 2, 3))):
            self.server.links[f"n{number}"] = Link()
            self._boot(f"n{number}")
            await asyncio.sleep(rng.choice((0.0, 0.5)))
        for _ in range(rng.randint(2, 6)):
            self._new_monitor()
        self.loop.create_task(self._edit())
        self.loop.create_task(self._go_wrong())
        await asyncio.sleep(CLIENTS_S)
        self.ended = True
        await self._heal()
        await self._settle()
        for node in sorted(self.nodes.values(), key=lambda node: node.keeper.judging):
            await node.spawn(node.stop())

    async def _heal(self) -> None:
        self.server.up = True
        for _ in range(2):
            for link in self.server.links.values():
                link.request_cut = link.reply_cut = False
                link.loss = link.slow_s = 0.0
            for node in [*self.nodes.values()]:
                node.process.after_steps(1 << 62, lambda: None)
                self.loop.thaw(node.process)
            await asyncio.sleep(9)  # what was begun before has ended too

    async def _settle(self) -> None:
        """Until somebody has judged beyond the last ping, and knows every change."""
        last = max((entry.at for entry in self.tables.pings.values()), default=0)
        revs = len(self.tables.changes)
        for _ in range(int(QUIET_S / 0.25)):
            await asyncio.sleep(0.25)
            for node in self.nodes.values():
                keeper = node.keeper
                settled = keeper.judging and keeper.engine.now > last and keeper.following.rev >= revs
                if settled and not keeper.engine.undecided and not node.writer.backlog.pings:
                    return
        self.wrong.append("nobody judges any more")

    def run(self) -> None:
        """From the beginning to the end."""
        self.loop.world = self  # type: ignore[attr-defined]
        self.loop.set_exception_handler(self._failed)
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._live())

    def _failed(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, OffbeatError | asyncpg.PostgresError):
            trace = "".join(traceback.format_exception(error)[-3:])
            self.wrong.append(f"{context.get('message')}: {trace}")

    def close(self) -> None:
        """The dead are buried: their coroutines are closed, whatever they say."""
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            for _ in range(5):  # a `finally` may await once more
                with suppress(BaseException):
                    task.get_coro().close()  # type: ignore[union-attr]
                    break
        asyncio.set_event_loop(None)
        self.loop.close()


def _document(m: SimpleNamespace) -> bytes:
    until = m.snoozed_until.isoformat() if m.snoozed_until else None
    said = {"slug": m.slug, "name": m.slug, "tags": [], "paused": m.paused, "snoozed_until": until}
    return orjson.dumps(said | {"definition": orjson.loads(m.definition)})


async def _connect(
    url: str, *, pgbouncer: bool = False, application_name: str = "", command_timeout_s: float = 10.0
) -> Connection:
    world: World = asyncio.get_running_loop().world  # type: ignore[attr-defined]
    server, link = world.server, world.server.links[url]
    await asyncio.sleep(server.rng.uniform(0.001, 0.01))
    if link.request_cut or link.reply_cut:
        await asyncio.sleep(2.0)
        raise DatabaseAway("nobody answers")
    if not server.up:
        raise DatabaseAway("connection refused")
    return Connection(server, link, server.connect(application_name), world.tables, command_timeout_s)


def _encode(entries: list[Entry]) -> Rows:
    rows = Rows(b"")
    rows.entries = list(entries)
    return rows


async def _sleep_for_ever(upkeep: Upkeep) -> None:
    await asyncio.Event().wait()


@contextmanager
def simulated(rng: random.Random) -> Iterator[pytest.MonkeyPatch]:
    """The code under test, with Postgres and time replaced, its pauses shortened and its bounds drawn small."""
    configured = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("keep.keeper", "keep.lease", "store.log"):
            patch.setattr(f"server.{module}.connect", _connect)
        for module in ("keep.keeper", "keep.lease", "keep.deafness", "ingest.writer", "service"):
            patch.setattr(f"server.{module}.monotonic", lambda: asyncio.get_running_loop().time())
        patch.setattr("server.store.log.encode_entries", _encode)
        patch.setattr(Upkeep, "run", _sleep_for_ever)
        patch.setattr("server.keep.keeper.gc", SimpleNamespace(enable=int, disable=int, freeze=int))
        patch.setattr("server.keep.lease.LIFE_S", 3.0)
        patch.setattr("server.keep.lease.TRUST_S", 2.0)
        patch.setattr("server.keep.lease.RENEW_EVERY_S", 1.0)
        patch.setattr("server.keep.lease.TAKE_EVERY_S", 0.5)
        patch.setattr("server.keep.keeper.CHECKPOINT_S", rng.uniform(1, 8))
        patch.setattr("server.keep.keeper.CYCLE_S", 0.05)
        patch.setattr("server.keep.keeper.FOLLOW_S", 0.15)
        patch.setattr("server.ingest.writer.PULSE_AMONG_SEVERAL_S", 0.3)
        for name, (low, high) in SMALL.items():
            patch.setattr(name, rng.randint(low, high))
        rows = rng.randint(2, 12)
        patch.setattr("server.store.keeping.ENTRIES_MAX", rows)
        patch.setattr("server.keep.order.ENTRIES_MAX", rows)
        apply = following._apply

        def noted(engine: Engine, change: Any, at: Micros) -> None:
            world: World = asyncio.get_running_loop().world  # type: ignore[attr-defined]
            world.change_applied(engine, change.rev, at)
            apply(engine, change, at)

        patch.setattr("server.keep.following._apply", noted)
        try:
            yield patch
        finally:
            structlog.configure(**configured)
