"""The instants of inputs that have none of their own: changes and outages, as the schedulers applied them.

A scheduler chooses the instant of a change, and it holds once a state that includes it is stored, or a window is
recorded; a change that a scheduler applied and did not store took effect nowhere.
"""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from offbeat_server.common.instants import Micros
from offbeat_server.engine.engine import Engine
from tests.simulation.database.statements import Statements

Place = tuple[Micros, int]  # the instant, and which of those of one instant came first


class Effective:
    """The observed acts of the schedulers, and acts that must never be seen."""

    def __init__(self, tables: Statements, schedulers: Callable[[], Iterable[Any]]) -> None:
        self._tables, self._schedulers = tables, schedulers
        tables.on_states, tables.on_outage = self._states_written, self._outage_written
        tables.on_copy, tables.on_window = self._copied, self._window_written
        self.inputs: list[tuple[Micros, int, Any]] = []  # changes and outages
        self.unsettled: dict[int, list[SimpleNamespace]] = {}  # changes of each monitor that were ever made
        self.windows: list[SimpleNamespace] = []  # changes of windows that nothing rests on yet
        self._places: dict[tuple[Engine, int], Place] = {}
        self._furthest: Micros = 0
        self._ticks = 0

    def record(self, change: SimpleNamespace) -> None:
        """A definition was changed."""
        if change.about is None:
            self.windows.append(change)
        else:
            self.unsettled.setdefault(change.about, []).append(change)

    def applied(self, engine: Engine, rev: int, at: Micros) -> None:
        """An engine takes in a change."""
        self._ticks += 1
        self._places[engine, rev] = (at, self._ticks)

    def _states_written(self, session: Any, monitor_id: int, rev: int) -> None:
        engine = session.process.node.scheduler.engine
        self._furthest = max(self._furthest, engine.now)
        waiting = self.unsettled.get(monitor_id, [])
        while waiting and waiting[0].rev <= rev:
            change = waiting.pop(0)
            place = self._places.get((engine, change.rev))
            if place is None:
                self._tables.wrong.append(f"change {change.rev} is in a state and was never applied")
            else:
                self.inputs.append((*place, change))

    def _window_written(self, session: Any, change: SimpleNamespace) -> None:
        if change in self.windows:
            self.windows.remove(change)
            self.inputs.append((*self._places[session.process.node.scheduler.engine, change.rev], change))

    def _outage_written(self, session: Any, outage: SimpleNamespace) -> None:
        engine = session.process.node.scheduler.engine
        self._ticks += 1
        known = max(engine.now, self._furthest)
        self.inputs.append((known, self._ticks, outage))
        if outage.in_time and known > outage.started and not self._is_covered(outage):
            self._tables.wrong.append(f"judged up to {known} before the {outage.reason} of {outage.started} was known")

    def _copied(self, entries: list[Any]) -> None:
        passed = max(
            (scheduler.log_reader.watermark for scheduler in self._schedulers() if scheduler.evaluating), default=0
        )
        if entries[0].at <= passed:
            self._tables.wrong.append(f"a ping of {entries[0].at} was committed after the watermark had passed it")

    def _is_covered(self, outage: SimpleNamespace) -> bool:
        """Whether what is now known says nothing new."""
        reached: Micros = outage.started
        for other in sorted(self._tables.outages, key=lambda other: other.started):
            if other is not outage and other.started <= reached:
                reached = max(reached, other.ended)
        return reached >= int(outage.ended)
