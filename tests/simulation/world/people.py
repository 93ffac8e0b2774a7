"""The users of a simulated installation: people who define and change monitors and windows, and jobs that ping."""

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import orjson

from offbeat_server.common.errors import UnavailableError
from offbeat_server.common.instants import SECOND, to_datetime
from offbeat_server.engine.model.definition import NEWER_FIELDS, read_definition
from offbeat_server.engine.model.enums import Verdict
from offbeat_server.engine.model.ping import Ping, Signal
from offbeat_server.engine.schedule.maintenance_windows import read_window
from offbeat_server.ingest.key_index import KeyTarget
from tests.simulation.world.node import Client, Node

if TYPE_CHECKING:
    from tests.simulation.world.world import World

PROJECT = 1
STEADY = 1  # a monitor that is never changed, and whose job is never silent: every miss is a false alarm
STEADY_EVERY_S = 0.9
CALENDARS = ({"cron": "* * * * *"}, {"oncalendar": "*:*:0/2"}, {"oncalendar": "*:*:1/5"})


class People:
    """Everything they do is drawn from the world's seed."""

    def __init__(self, world: "World") -> None:
        self._world, self._rng, self._tables = world, world.rng, world.tables
        self.pings_sent = 0

    # ---------------------------------------------------------------- what they can do

    def define(self, monitor_id: int, kind: str, **fields: Any) -> None:
        """A change as the API writes it: the row and the change, together."""
        tables = self._tables
        m = tables.monitors.get(monitor_id)
        before = _document(m) if m is not None else None
        if m is None:
            m = SimpleNamespace(id=monitor_id, project_id=PROJECT, slug=f"m{monitor_id}", paused=False)
            m.snoozed_until = None
            tables.monitors[monitor_id] = m
        if "definition" in fields:
            read_definition(fields["definition"])
            fields["definition"] = orjson.dumps(fields["definition"]).decode()
        dropped = {"drop": True} if fields.pop("drop", False) else {}
        vars(m).update(fields)
        m.rev = self._record(kind, m.id, m.slug, before, _document(m, **dropped))

    def delete(self, monitor_id: int) -> None:
        """A monitor is deleted."""
        m = self._tables.monitors.pop(monitor_id)
        self._record("monitor", m.id, m.slug, _document(m), None)

    def resolve(self, monitor_id: int) -> None:
        """A user resolves the open incident by hand."""
        self._record("resolve", monitor_id, f"m{monitor_id}", None, b"{}")

    def close_run(self, monitor_id: int, number: int, verdict: Verdict, had_ended: bool) -> None:
        """A user closes a run by hand."""
        closed = {"monitor_id": monitor_id, "number": number, "verdict": verdict, "by": "x", "had_ended": had_ended}
        self._record("close", None, f"m{monitor_id}", None, orjson.dumps(closed), monitor_id)

    def put_window(self, window_id: int, definition: dict[str, Any]) -> None:
        """A maintenance window is made or changed."""
        read_window(definition)
        was = self._tables.windows.get(window_id)
        window = SimpleNamespace(id=window_id, slug=f"w{window_id}", definition=definition)
        window.rev = self._record("window", None, window.slug, was and _window(was), _window(window))
        self._tables.windows[window_id] = window

    def delete_window(self, window_id: int) -> None:
        """A maintenance window is deleted."""
        was = self._tables.windows.pop(window_id)
        self._record("window", None, was.slug, _window(was), None)

    def _record(
        self, kind: str, monitor_id: int | None, subject: str, before: Any, after: Any, about: int | None = None
    ) -> int:
        """`about`: the monitor that the change concerns, if the row does not name it."""
        rev = len(self._tables.changes) + 1
        change = SimpleNamespace(
            rev=rev,
            kind=kind,
            project_id=PROJECT,
            monitor_id=monitor_id,
            about=monitor_id or about,
            subject=subject,
            before=before,
            after=after,
            effective_at=None,
        )
        self._tables.changes.append(change)
        self._world.effective.record(change)
        return rev

    # ---------------------------------------------------------------- what they do

    def begin(self) -> None:
        """The first monitors; then all act by themselves."""
        self.define(STEADY, "monitor", definition={"every": 3, "grace": 1})
        self._world.loop.create_task(self._ping_steadily())
        for _ in range(self._rng.randint(2, 6)):
            self._new_monitor()
        self._world.loop.create_task(self._edit())
        self._world.loop.create_task(self._maintain())

    async def _edit(self) -> None:
        rng, tables = self._rng, self._tables
        while not self._world.ended:
            await asyncio.sleep(rng.expovariate(0.7))
            if self._world.ended:
                return
            monitor_id = rng.choice([id for id in tables.monitors if id != STEADY] or [0])
            if not monitor_id:
                continue
            m = tables.monitors[monitor_id]
            what = rng.random()
            if what < 0.35:
                self.define(monitor_id, "monitor", definition=self._draw_definition(monitor_id))
            elif what < 0.6:
                pauses = not m.paused
                drop = pauses and rng.random() < 0.5
                self.define(monitor_id, "pause" if pauses else "resume", paused=pauses, drop=drop)
            elif what < 0.7:
                until = self._world.tables.log_time + int(rng.uniform(0.5, 4) * SECOND)
                self.define(monitor_id, "snooze", snoozed_until=to_datetime(until))
            elif what < 0.78:
                self.resolve(monitor_id)
            elif what < 0.86:
                verdict = rng.choice((Verdict.FAILED, Verdict.SUCCEEDED, Verdict.IGNORED))
                known = [number for id, number in tables.runs if id == monitor_id]
                number = rng.choice([max(known, default=0) + 1, *known[-4:]])
                self.close_run(monitor_id, number, verdict, had_ended=rng.random() < 0.5)
            elif what < 0.93:
                self.delete(monitor_id)
            else:
                self._new_monitor()

    async def _maintain(self) -> None:
        rng, windows = self._rng, self._tables.windows
        while not self._world.ended:
            await asyncio.sleep(rng.expovariate(0.2))
            if self._world.ended:
                return
            what = rng.random()
            if windows and what < 0.3:
                self.delete_window(rng.choice(list(windows)))
            elif windows and what < 0.5:
                self.put_window(rng.choice(list(windows)), self._draw_window())
            else:
                self.put_window(len(self._tables.changes) + 1, self._draw_window())

    def _new_monitor(self) -> None:
        monitor_id = max(self._world.effective.unsettled, default=0) + 1
        self.define(monitor_id, "monitor", definition=self._draw_definition(monitor_id))
        self._world.loop.create_task(self._ping(monitor_id))

    async def _ping_steadily(self) -> None:
        """To all processes: one that is cut off cannot tell that it refuses, and so a job tries the next one too."""
        while not self._world.over:
            for node in self._world.nodes.values():
                if node.runs:
                    self._send_to(node, STEADY, "success", None, {})
            await asyncio.sleep(STEADY_EVERY_S)

    async def _ping(self, monitor_id: int) -> None:
        world, rng = self._world, self._rng
        period_s = rng.choice((0.3, 0.8, 1.5))
        run = 0
        while not world.ended:
            await asyncio.sleep(rng.uniform(0.5, 1.1) * period_s)
            if rng.random() < 0.06:
                await asyncio.sleep(rng.uniform(1, 6))
            if world.ended:
                return
            fields: dict[str, Any] = {}
            what, signal = rng.random(), "success"
            if what < 0.12:
                signal = "fail"
            elif what < 0.3:
                signal = "start"
            elif what < 0.36:
                signal = rng.choice(("log", "progress", "skip", "leave"))
            if rng.random() < 0.4:
                run += signal == "start"
                fields["run"] = f"r{max(0, run - (rng.random() < 0.2))}"
            if rng.random() < 0.1:
                fields["task"] = rng.choice("ab")
            self._send(monitor_id, signal, rng.choice((None, b"\x0a\0\0\x01")), fields)
            if monitor_id not in self._tables.monitors and rng.random() < 0.3:
                return

    def _send(self, monitor_id: int, signal: Any, source: bytes | None, fields: dict[str, Any]) -> None:
        if nodes := [node for node in self._world.nodes.values() if node.runs]:
            self._send_to(self._rng.choice(nodes), monitor_id, signal, source, fields)

    def _send_to(self, node: Node, monitor_id: int, signal: Any, source: bytes | None, fields: dict[str, Any]) -> None:
        self.pings_sent += 1
        token = str(self.pings_sent)
        kind: Signal = signal
        ping = Ping(kind, message=token, **fields)
        try:
            node.writer.backlog.append(KeyTarget(monitor_id, PROJECT), ping, source, Client(self._world, token))
        except UnavailableError:
            return

    # ---------------------------------------------------------------- what they think of

    def _draw_definition(self, monitor_id: int) -> dict[str, Any]:
        rng = self._rng
        definition: dict[str, Any] = {"grace": rng.choice((0.2, 0.5, 1.0, 2.0))}
        kind = rng.random()
        others = [f"m{other}" for other in range(1, monitor_id)]
        if kind < 0.15:
            definition |= rng.choice(CALENDARS)
        elif kind < 0.6 or not others:
            definition["every"] = rng.choice((1, 1.5, 2, 4))
        elif kind < 0.7:
            definition["after"] = {"monitor": rng.choice(others), "within": rng.choice((1, 2))}
        elif kind < 0.8:
            definition["members"] = {"every": rng.choice((1, 2)), "grace": 0.5, "forget_after": rng.choice((3, 60))}
        if "members" not in definition:
            if rng.random() < 0.4:
                definition["max_runtime"] = rng.choice((1, 2, 3))
            if rng.random() < 0.2:
                definition["quiet_for"] = rng.choice((1, 2))
            if rng.random() < 0.2:
                definition["fail_after"] = rng.choice((2, 3))
            if rng.random() < 0.2:
                definition["recover_after"] = 2
            if rng.random() < 0.2:
                definition["first_within"] = 2
        if others and rng.random() < 0.35:
            definition["depends_on"] = [rng.choice(others)]
            definition["dependency_wait"] = rng.choice((0.5, 3))
        if rng.random() < 0.2:
            definition["count_outages"] = True
        return definition

    def _draw_window(self) -> dict[str, Any]:
        rng = self._rng
        window: dict[str, Any] = {"monitors": rng.choice(([], ["m1", "m3"], ["m[2-4]"]))}
        if rng.random() < 0.5:
            start = self._tables.log_time + int(rng.uniform(-1, 3) * SECOND)
            window["start"] = to_datetime(start).isoformat()
            window["end"] = to_datetime(start + int(rng.uniform(1, 5) * SECOND)).isoformat()
        else:
            window |= rng.choice(({"cron": "* * * * *"}, {"oncalendar": "*:*:0/7"}))
            window["duration"] = rng.choice((1, 3))
        return window


def _document(m: SimpleNamespace, **more: Any) -> bytes:
    until = m.snoozed_until.isoformat() if m.snoozed_until else None
    document = {"slug": m.slug, "name": m.slug, "tags": [], "paused": m.paused, "snoozed_until": until}
    definition = orjson.loads(m.definition)
    newer = {field: definition.pop(field) for field in NEWER_FIELDS if field in definition}
    return orjson.dumps(document | {"definition": definition, "newer_fields": newer} | more)


def _window(window: SimpleNamespace) -> bytes:
    return orjson.dumps({"id": window.id, "slug": window.slug, "definition": window.definition})
