"""The table at which the engine's parts work: the monitors, the heap, deaf time, and what was decided so far.

Parts share no other state and do not know each other's order; `now` is the instant of the input at hand.
"""

from collections import Counter
from typing import Any

from server.engine.deadlines import Deadlines
from server.engine.deaf import DeafTime
from server.engine.effects import Alert, Decision, Effect, IncidentChanged, Resumed, RunChanged
from server.engine.expectation import period, window_start
from server.engine.ping import Micros
from server.engine.run import Run
from server.engine.state import Incident, Monitor


class Undecided:
    """What was decided about one monitor and not yet written; a later row of the same run or incident replaces it."""

    __slots__ = ("alerts", "incidents", "resumed", "runs")

    def __init__(self) -> None:
        self.runs: dict[int, RunChanged] = {}
        self.incidents: dict[int, IncidentChanged] = {}
        self.alerts: list[Alert] = []
        self.resumed: Resumed | None = None

    def effects(self) -> list[Effect]:
        """In the order in which they are written."""
        resumed: list[Effect] = [self.resumed] if self.resumed is not None else []
        return [*resumed, *self.runs.values(), *self.incidents.values(), *self.alerts]


class Desk:
    """Everything the engine holds."""

    def __init__(self) -> None:
        self.now: Micros = 0
        self.monitors: dict[int, Monitor] = {}
        self.slugs: dict[tuple[int, str], int] = {}
        self.deadlines = Deadlines()
        self.deaf = DeafTime()
        self.undecided: dict[int, Undecided] = {}
        self.gone: dict[int, Monitor] = {}  # deleted, their end not yet written
        self.listeners: dict[tuple[int, str], set[int]] = {}  # (project, slug) -> those that come `after` it
        self.dependents: dict[tuple[int, str], set[int]] = {}  # (project, slug) -> those that depend on it
        self.strangers: set[int] = set()  # monitors that were deleted while pings of them were still under way
        self.counts: Counter[str] = Counter()  # monitors by status
        self.excused = 0  # occurrences, since the start
        self.missed = 0
        self.unknown_pings = 0  # of monitors that are gone

    # ---------------------------------------------------------------- finding

    def find(self, project_id: int, slug: str) -> Monitor | None:
        """A monitor of a project by its slug."""
        monitor_id = self.slugs.get((project_id, slug))
        return None if monitor_id is None else self.monitors.get(monitor_id)

    def upstreams(self, m: Monitor) -> list[Monitor]:
        """Everything this monitor depends on, directly or not, nearest first; survives cycles."""
        found: dict[int, Monitor] = {}
        line = [m]
        for each in line:
            for slug in each.definition.depends_on:
                up = self.find(each.project_id, slug)
                if up is not None and up.id != m.id and up.id not in found:
                    found[up.id] = up
                    line.append(up)
        return list(found.values())

    # ---------------------------------------------------------------- deciding

    def open_for(self, m: Monitor) -> Undecided:
        """What is undecided about a monitor; asking marks its state as to be written."""
        undecided = self.undecided.get(m.id)
        if undecided is None:
            undecided = self.undecided[m.id] = Undecided()
        return undecided

    def restate(self, m: Monitor) -> None:
        """Bring the status in line with the state."""
        if m.paused:
            status = "paused"
        elif m.incident is not None:
            status = "down"
        elif m.excused:
            status = "unknown"
        else:
            status = "up" if m.heard_at else "new"
        if status != m.status:
            self.counts[m.status] -= 1
            self.counts[status] += 1
            m.status, m.since = status, self.now
            self.open_for(m)

    def record_run(self, m: Monitor, run: Run) -> None:
        """A run was opened, closed or revised."""
        duration = run.duration
        self.open_for(m).runs[run.number] = RunChanged(
            run.number,
            run.run,
            run.started_at or None,
            run.finished_at or None,
            run.last_at,
            duration,
            run.verdict,
            run.reason,
            run.exit_code,
            run.detail(m.definition),
        )

    def record_incident(self, m: Monitor, incident: Incident, resolved_at: Micros | None, causes: list[Any]) -> None:
        """An incident was opened, changed or resolved. `causes` are those it shows, the worst first."""
        worst = causes[0]
        self.open_for(m).incidents[incident.number] = IncidentChanged(
            incident.number,
            incident.opened_at,
            resolved_at,
            self.now,
            worst.kind,
            worst.reason,
            worst.run,
            worst.stage,
            [cause.dump() for cause in causes],
            incident.suppressed_by,
        )

    def take(self, subjects_max: int) -> list[Decision]:
        """The decisions of up to so many monitors, each with the state that followed; they are no longer undecided."""
        decisions: list[Decision] = []
        while self.undecided and len(decisions) < subjects_max:
            monitor_id = next(iter(self.undecided))
            undecided = self.undecided.pop(monitor_id)
            m = self.monitors.get(monitor_id)
            gone = m is None
            m = self.gone.pop(monitor_id) if m is None else m
            decisions.append(self._decision(m, gone, undecided.effects()))
        return decisions

    def snapshot(self, m: Monitor) -> Decision:
        """A monitor's state without any effect, for the checkpoint."""
        undecided = self.undecided.pop(m.id, None)
        return self._decision(m, False, undecided.effects() if undecided is not None else [])

    def _decision(self, m: Monitor, gone: bool, effects: list[Effect]) -> Decision:
        m.saved_at = m.at
        state = None if gone else m.dump()
        return Decision(m.id, m.project_id, m.position, m.status, m.since, state, effects)

    # ---------------------------------------------------------------- deadlines

    def schedule_deadline(self, m: Monitor) -> Micros:
        """When the absence of what is due is judged, deaf time included; 0: never."""
        definition = m.definition
        if m.incident is not None and ("missed", 0, "") in m.incident.causes:
            return 0  # it is known to be missing; the next that counts is a ping
        if not m.heard_at:
            if definition.first_within is None:
                return 0
            return max(self._moved(m, m.created_at, m.created_at + definition.first_within), m.not_before)
        if not m.due:
            return 0
        deadline = m.due + definition.grace
        if self.deaf.intervals and not definition.strict:
            deadline = self.deaf.shift(window_start(definition, m.due), deadline)
        return max(deadline, m.not_before)

    def limit_deadline(self, m: Monitor, base: Micros, length: Micros) -> Micros:
        """When a bound that runs from `base` is broken, deaf time included."""
        return max(self._moved(m, base, base + length), m.not_before)

    def _moved(self, m: Monitor, start: Micros, deadline: Micros) -> Micros:
        return deadline if m.definition.strict else self.deaf.shift(start, deadline)

    def arm_run(self, m: Monitor, run: Run) -> None:
        """Look at a run when the first of its limits would be broken."""
        assert m.runs is not None
        whens = [self.limit_deadline(m, limit.base, limit.length) for limit in run.limits(m.definition)]
        if whens:
            m.runs.arm(run, min(whens))

    def arm(self, m: Monitor) -> None:
        """Look at a monitor when the first of its deadlines comes."""
        if (when := self.next_of(m)) and (not m.armed or when < m.armed):
            m.armed = when
            self.deadlines.push(when, m.id)

    def next_of(self, m: Monitor) -> Micros:
        """The earliest of a monitor's deadlines; 0: there is none."""
        if m.paused:
            return 0
        when = self.schedule_deadline(m)
        if m.runs is not None and m.runs.open and (run := m.runs.next()) and (not when or run < when):
            when = run
        if m.fleet is not None and (member := m.fleet.next()) and (not when or member < when):
            when = member
        if m.awaited:
            first = min(self.awaited_deadline(m, due) for due in m.awaited.values())
            when = first if not when or first < when else when
        if m.incident is not None and (at := m.incident.announce_at) and (not when or at < when):
            when = at
        return when

    def awaited_deadline(self, m: Monitor, due: Micros) -> Micros:
        """When the absence of a follower is judged."""
        assert m.definition.after is not None
        length = m.definition.after.within
        return max(self._moved(m, due - length, due + m.definition.grace), m.not_before)

    def breather(self, m: Monitor) -> Micros:
        """One period and its grace: what a monitor gets after a window, a resume or its upstream's recovery."""
        return period(m.definition, self.now) + m.definition.grace
