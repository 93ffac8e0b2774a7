"""A stage for the engine: monitors, pings and time, without a database or a clock.

Times are seconds from the scene's beginning, as numbers or durations such as `1h30m`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from offbeat_server.common.instants import SECOND, Micros, to_micros
from offbeat_server.engine.decisions import Alert, Decision, IncidentChanged, RunChanged
from offbeat_server.engine.engine import Engine, Reference
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.model.enums import Verdict
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.engine.model.ping import Entry, Ping, Signal
from offbeat_server.engine.rules.reasons import closed_by_hand
from offbeat_server.engine.schedule.durations import read_duration
from offbeat_server.engine.schedule.maintenance_windows import Window

PROJECT = 1
BEGIN: Micros = to_micros(datetime(2026, 1, 5, tzinfo=UTC))


class Scene:
    """One engine, that begins at 2026-01-05 00:00 UTC, a Monday, or at another instant."""

    def __init__(self, begin: Micros = BEGIN) -> None:
        self.begin = begin
        self.engine = Engine()
        self.engine.loaded(self.begin - SECOND)
        self.seq = 0
        self.ids: dict[str, int] = {}
        self.renames = 0
        self.decisions: list[Decision] = []
        self.log: list[Entry] = []

    def at(self, when: float | str) -> Micros:
        """An instant of log time."""
        return self.begin + read_duration(when)

    def monitor(self, slug: str = "job", when: float | str = 0, exact: bool = False, **definition: Any) -> Monitor:
        """Make a monitor (1 µs before, so that it may be pinged at that very instant, if not `exact`) or change it."""
        extra = {name: definition.pop(name) for name in ("paused", "drop", "snoozed_until") if name in definition}
        if "snoozed_until" in extra:
            extra["snoozed_until"] = self.at(extra["snoozed_until"])
        at = self.at(when) - (slug not in self.ids and not exact)
        self._tick(at)
        monitor_id = self.ids.setdefault(slug, len(self.ids) + 1)
        self.engine.put(monitor_id, PROJECT, slug, read_definition(definition), at=at, **extra)
        self._take()
        return self.engine.monitors[monitor_id]

    def ping(
        self,
        when: float | str,
        signal: Signal = "success",
        slug: str = "job",
        source: bytes | None = None,
        writer: int = 1,
        **fields: Any,
    ) -> None:
        """One ping at `when`."""
        self.send(when, Ping(signal, **fields), slug, source, writer)

    def send(self, when: float | str, ping: Ping, slug: str, source: bytes | None = None, writer: int = 1) -> None:
        """The same, with the ping as one object."""
        self.seq += 1
        entry = Entry(self.at(when), writer, self.seq, self.ids[slug], PROJECT, source, ping)
        self.log.append(entry)
        index = 0
        while index < 1:
            index = self.engine.apply([entry], index, 500)
        self._take()

    def tick(self, when: float | str) -> None:
        """Evaluate all deadlines up to `when`."""
        self._tick(self.at(when))
        self._take()

    def _tick(self, at: Micros) -> None:
        while not self.engine.advance(at, 500):
            pass

    def outage(self, start: float | str, end: float | str) -> None:
        """An outage of Offbeat from `start` to `end`."""
        self.engine.add_outage(self.at(start), self.at(end))

    def resolve(self, when: float | str, slug: str = "job") -> None:
        """A person resolves the open incident."""
        self._tick(self.at(when))
        self.engine.resolve_by_hand(self.ids[slug], 0, 0, self.at(when))
        self._take()

    def close(
        self, when: float | str, number: int, verdict: Verdict, had_ended: bool = True, slug: str = "job"
    ) -> None:
        """A person closes a run; `had_ended` False: it was open when they looked."""
        self._tick(self.at(when))
        reason = closed_by_hand(verdict, "ann", "the host was lost")
        self.engine.close_run_by_hand(self.ids[slug], number, verdict, reason, had_ended, 0, self.at(when))
        self._take()

    def rename(self, when: float | str, slug: str, new: str) -> None:
        """A person gives the monitor a new slug; all others that refer to it follow."""
        self.renames += 1
        monitor_id = self.ids[new] = self.ids.pop(slug)
        references = [Reference(id, self.renames) for id in self.engine.monitors if id != monitor_id]
        self._put_again(when, monitor_id, self.engine.monitors[monitor_id].project_id, new, references)

    def move(self, when: float | str, slug: str, project_id: int) -> None:
        """A person moves the monitor to another project."""
        self._put_again(when, self.ids[slug], project_id, slug)

    def _put_again(
        self, when: float | str, monitor_id: int, project_id: int, slug: str, references: Sequence[Reference] = ()
    ) -> None:
        self._tick(self.at(when))
        m = self.engine.monitors[monitor_id]
        self.engine.put(
            monitor_id,
            project_id,
            slug,
            m.definition,
            paused=m.paused,
            snoozed_until=m.snoozed_until,
            references=references,
            at=self.at(when),
        )
        self._take()

    def delete(self, when: float | str, slug: str = "job") -> None:
        """A person deletes the monitor."""
        self._tick(self.at(when))
        self.engine.remove(self.ids[slug], self.at(when))
        self._take()

    def window(self, when: float | str, number: int, window: Window | None) -> None:
        """A person defines a maintenance window, or deletes it (None)."""
        self._tick(self.at(when))
        if window is None:
            self.engine.remove_window(number, self.at(when))
        else:
            self.engine.put_window(number, PROJECT, window, self.at(when))
        self._take()

    def _take(self) -> None:
        self.decisions += self.engine.drain(1_000_000)

    # ---------------------------------------------------------------- looking

    def status(self, slug: str = "job") -> str:
        """The engine's word for it."""
        return self.engine.monitors[self.ids[slug]].status

    def effects(self, kind: type, slug: str = "job") -> list[Any]:
        """Everything of a kind decided about a monitor, in order."""
        mine = [d for d in self.decisions if d.monitor_id == self.ids[slug]]
        return [effect for d in mine for effect in d.effects if isinstance(effect, kind)]

    def incidents(self, slug: str = "job") -> dict[int, IncidentChanged]:
        """The last row of each incident."""
        return {effect.number: effect for effect in self.effects(IncidentChanged, slug)}

    def runs(self, slug: str = "job") -> dict[int, RunChanged]:
        """The last row of each run."""
        return {effect.number: effect for effect in self.effects(RunChanged, slug)}

    def alerts(self, slug: str = "job") -> list[str]:
        """The kinds of the alerts, in order."""
        return [effect.kind for effect in self.effects(Alert, slug)]

    def seconds(self, at: Micros | None) -> float | None:
        """An instant as seconds of the scene."""
        return None if at is None else (at - self.begin) / SECOND
