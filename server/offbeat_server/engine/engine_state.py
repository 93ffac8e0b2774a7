"""The state that the engine's rules share: the monitors, the heap, the outages, and the pending decisions.

Rules share no other state and do not know each other's order; `now` is the instant of the present input.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from offbeat_server.common.instants import Micros
from offbeat_server.engine.deadline_queue import DeadlineQueue
from offbeat_server.engine.decisions import (
    Alert,
    Decision,
    Effect,
    IncidentChanged,
    MonitorMoved,
    MonitorResumed,
    RunChanged,
)
from offbeat_server.engine.model.definition import ProjectSlug
from offbeat_server.engine.model.enums import HoldKind, Status
from offbeat_server.engine.model.monitor import EMPTY_RARE_STATE, Incident, Monitor
from offbeat_server.engine.model.ping import AFTER_ALL, START, Position
from offbeat_server.engine.model.run import Limit, Run
from offbeat_server.engine.schedule.due_times import end_of_grace_period, window_start
from offbeat_server.engine.schedule.maintenance_windows import OVERLAPS_MAX, Window
from offbeat_server.engine.schedule.outage_intervals import OutageIntervals

OnMonitorError = Callable[[int, Exception], None]  # leaves out the monitor that an internal error concerns
RELEASES = 0  # in the queue of deadlines, in place of the id of a monitor: `releases` has something to do


class RecordedIncident(NamedTuple):
    """An incident to be written as it is when it is taken: every change records it again."""

    incident: Incident
    decided_at: Micros

    def row(self) -> IncidentChanged:
        """As it is now."""
        incident = self.incident
        causes = incident.worst_first
        worst = causes[0]
        return IncidentChanged(
            incident.number,
            incident.opened_at,
            incident.resolved_at,
            self.decided_at,
            worst.kind,
            worst.reason,
            worst.run,
            worst.stage,
            [cause.show() for cause in causes],
            incident.suppressed_by,
            incident.holds,
        )


class PendingDecision:
    """Decisions about one monitor that are not written yet; a later row of the same run or incident replaces one."""

    __slots__ = ("alerts", "disbanded", "full", "incidents", "moved", "resumed", "runs", "updated_runs")

    def __init__(self) -> None:
        self.runs: dict[int, RunChanged] = {}
        self.updated_runs: dict[int, Run] = {}  # open ones with another reason: their rows are made when all are taken
        self.incidents: dict[int, RecordedIncident] = {}
        self.alerts: list[Alert] = []
        self.resumed: MonitorResumed | None = None
        self.moved: MonitorMoved | None = None
        self.disbanded = False  # it was a fleet, and a fleet that it is now has begun again
        self.full = False  # a checkpoint waits for it

    def effects(self) -> list[Effect]:
        """In the order in which they are written."""
        resumed: list[Effect] = [self.resumed] if self.resumed is not None else []
        moved: list[Effect] = [self.moved] if self.moved is not None else []
        return [*moved, *resumed, *self.runs.values(), *[each.row() for each in self.incidents.values()], *self.alerts]


class EngineState:
    """Everything the engine holds."""

    def __init__(self) -> None:
        self.now: Micros = 0
        self.position: Position = START  # all inputs up to here were applied
        self.ahead: Micros = 0  # how far the loaded states reach
        self.monitors: dict[int, Monitor] = {}
        self.slugs: dict[int, dict[str, int]] = {}  # project -> slug -> monitor, where anybody asked: see `find`
        self.deadlines = DeadlineQueue()
        self.outages = OutageIntervals()
        self.windows: dict[int, tuple[int, Window]] = {}  # by id, with the project
        self.pending_decisions: dict[int, PendingDecision] = {}
        self.pending_runs = 0  # rows of runs in there: a single monitor may have very many
        self.pending_deletion: dict[int, Monitor] = {}  # deleted, their end not yet written
        self.followers: dict[ProjectSlug, set[int]] = {}  # those that come `after` it
        self.dependents: dict[ProjectSlug, set[int]] = {}  # those that depend on it
        self.ties: dict[int, set[int]] = {}  # who was linked when something undecided was decided, and is no longer
        self.with_incident: set[int] = set()  # those with a `current_incident`
        self.releases: list[tuple[int, Micros, Iterator[int]]] = []  # upstreams that have recovered, since when
        self.with_recalled: set[int] = set()  # those that hold ended runs of which the rows may be read again
        self.unknown_ids: set[int] = set()  # monitors that were deleted while pings of them were still under way
        self.counts: Counter[Status] = Counter()  # monitors by status
        self.excused = 0  # occurrences, since the start
        self.missed = 0
        self.unknown_pings = 0  # of monitors that are gone or left out
        self.unwatched_pings = 0  # of monitors that expect nothing

    @property
    def reached(self) -> Position:
        """The position up to which all inputs were applied and all deadlines before them evaluated."""
        return self.position if self.now <= self.position.at else Position(self.now, AFTER_ALL, AFTER_ALL)

    # ---------------------------------------------------------------- finding

    def find(self, project_id: int, slug: str) -> Monitor | None:
        """A monitor of a project by its slug.

        Only those that refer to others ask; the first of a project makes its index (0.1 s for a million monitors).
        """
        index = self.slugs.get(project_id)
        if index is None:
            index = {m.slug: m.id for m in self.monitors.values() if m.project_id == project_id}
            self.slugs[project_id] = index
        monitor_id = index.get(slug)
        return None if monitor_id is None else self.monitors.get(monitor_id)

    def upstreams(self, m: Monitor) -> list[Monitor]:
        """Everything this monitor depends on, directly or not, nearest first; survives cycles."""
        if not m.definition.depends_on:
            return []
        found: dict[int, Monitor] = {}
        line = [m]
        for each in line:
            for slug in each.definition.depends_on:
                up = self.find(each.project_id, slug)
                if up is not None and up.id != m.id and up.id not in found:
                    found[up.id] = up
                    line.append(up)
        return list(found.values())

    def downstreams(self, m: Monitor) -> Iterator[int]:
        """Everything that depends on this monitor, directly or not."""
        line, seen = [m], {m.id}
        for each in line:
            for down_id in sorted(self.dependents.get((each.project_id, each.slug), ())):
                down = self.monitors.get(down_id)
                if down is not None and down_id not in seen:
                    seen.add(down_id)
                    line.append(down)
                    yield down_id

    # ---------------------------------------------------------------- deciding

    def open_for(self, m: Monitor) -> PendingDecision:
        """Return the pending decisions of a monitor, and mark its state as to be written."""
        undecided = self.pending_decisions.get(m.id)
        if undecided is None:
            undecided = self.pending_decisions[m.id] = PendingDecision()
        return undecided

    def update_status(self, m: Monitor) -> None:
        """Bring the status in line with the state."""
        if m.paused:
            status = Status.PAUSED
        elif m.incident is not None:
            status = Status.DOWN
        elif not m.definition.expects(m.last_ping_at is not None):
            status = Status.UNWATCHED
        elif m.excused:
            status = Status.UNKNOWN
        else:
            status = Status.UP if m.last_ping_at is not None else Status.NEW
        if status != m.status:
            self.counts[m.status] -= 1
            self.counts[status] += 1
            m.status, m.since = status, self.now
            self.open_for(m)

    def record_run(self, m: Monitor, run: Run) -> None:
        """A run was opened or closed, or its verdict has changed."""
        rows = self.open_for(m).runs
        self.pending_runs += run.number not in rows
        rows[run.number] = _row_of(m, run)
        if m.runs is not None and m.runs.recalled:
            self.with_recalled.add(m.id)

    def update_run_reason(self, m: Monitor, run: Run) -> None:
        """The reason of an open run has changed. Each task that fails may do this, so its row is made only once."""
        self.open_for(m).updated_runs[run.number] = run

    def revise_run(self, m: Monitor, run: Run) -> None:
        """A run that had ended turns out to have ended otherwise; of what it was only `run`'s few fields are known."""
        pending = self.open_for(m).runs.get(run.number)
        self.record_run(m, run)
        revised = self.pending_decisions[m.id].runs
        if pending is None:
            revised[run.number] = revised[run.number]._replace(detail={})
        else:
            row = revised[run.number]
            revised[run.number] = row._replace(
                started_at=pending.started_at,
                duration=pending.duration,
                detail=pending.detail,
                last_ping_at=row.last_ping_at or pending.last_ping_at,
                exit_code=row.exit_code if row.last_ping_at else pending.exit_code,
            )

    def record_incident(self, m: Monitor, incident: Incident) -> None:
        """An incident was opened, changed or resolved."""
        self.open_for(m).incidents[incident.number] = RecordedIncident(incident, self.now)

    def drain(self, subjects_max: int, on_error: OnMonitorError) -> list[Decision]:
        """Take the decisions of about this number of monitors, each with the state that followed.

        A monitor whose state cannot be written down is left out.
        Monitors whose decisions may rest on one another come together, so that no stored state is newer than what
        another one was decided by: a restart between two transactions decides nothing differently.
        """
        decisions: list[Decision] = []
        # Listed at once: to find the first again each time, a dict looks at the places of all that were taken before.
        for first_id in list(islice(self.pending_decisions, subjects_max)):
            if len(decisions) >= subjects_max:
                break
            for monitor_id in self._together(first_id) if first_id in self.pending_decisions else ():
                undecided = self.pending_decisions.pop(monitor_id)
                self.pending_runs -= len(undecided.runs)
                self._untie(monitor_id)
                m = self.monitors.get(monitor_id)
                gone = m is None
                m = self.pending_deletion.pop(monitor_id) if m is None else m
                try:
                    decisions.append(self._decision(m, gone, undecided))
                except Exception as error:
                    on_error(monitor_id, error)
        return decisions

    def _together(self, monitor_id: int) -> list[int]:
        """The undecided monitors that are linked with this one by `depends_on` or `after`, itself included."""
        if not (self.followers or self.dependents or self.ties):
            return [monitor_id]  # no monitor refers to another
        found = {monitor_id: None}
        line = [monitor_id]
        for each_id in line:
            m = self.monitors.get(each_id)
            links = set(self._linked(m)) if m is not None else set()
            for linked_id in sorted(links | self.ties.get(each_id, set())):
                if linked_id in self.pending_decisions and linked_id not in found:
                    found[linked_id] = None
                    line.append(linked_id)
        return list(found)

    def _linked(self, m: Monitor) -> Iterator[int]:
        here = (m.project_id, m.slug)
        yield from self.followers.get(here, ())
        if self.dependents.get(here):
            yield from self.downstreams(m)
        if m.definition.depends_on:
            yield from (up.id for up in self.upstreams(m))
        if m.definition.after is not None and (before := self.find(m.project_id, m.definition.after.monitor)):
            yield before.id

    def tie(self, m: Monitor) -> None:
        """Its links are about to change: until it is taken it goes together with those that it had."""
        for each in (m, *(self.monitors[down_id] for down_id in self.downstreams(m))):
            for linked_id in self._linked(each):
                self.ties.setdefault(each.id, set()).add(linked_id)
                self.ties.setdefault(linked_id, set()).add(each.id)

    def _untie(self, monitor_id: int) -> None:
        for tied_id in self.ties.pop(monitor_id, ()):
            ties = self.ties.get(tied_id, set())
            ties.discard(monitor_id)
            if not ties:
                self.ties.pop(tied_id, None)

    def snapshot(self, m: Monitor) -> Decision | None:
        """A monitor's state without any effect, for the checkpoint; None if effects wait for `drain`."""
        undecided = self.pending_decisions.get(m.id) or PendingDecision()
        undecided.full = True
        return None if m.id in self.pending_decisions else self._decision(m, False, undecided)

    def _decision(self, m: Monitor, gone: bool, undecided: PendingDecision) -> Decision:
        # It includes every input up to now, also those of other monitors, and every deadline evaluated: a restart must
        # not apply a change to it earlier than that.
        m.at, m.writer, m.seq = position = max(m.position, self.reached)
        m.is_saved = True
        if m.fleet is not None and undecided.full:
            m.fleet.whole_at = m.at
        for run in undecided.updated_runs.values() if not gone else ():
            if run.verdict is None:  # else its end was recorded
                undecided.runs[run.number] = _row_of(m, run)
        state = None if gone else m.dump()
        decision = Decision(m.id, m.project_id, position, m.status, m.since, state, undecided.effects())
        decision.disbanded = undecided.disbanded or (gone and m.fleet is not None)
        if m.fleet is not None and not gone:
            decision.members = m.fleet.take_rows(undecided.full)
        return decision

    # ---------------------------------------------------------------- deadlines

    def schedule_deadline(self, m: Monitor) -> Micros | None:
        """The deadline of the ping that is due, moved by outages; None: there is none."""
        due, definition = m.due, m.definition
        if due is None or ((incident := m.rare.incident) is not None and incident.silent):
            return None  # nothing is expected, or it is known to be missing and the next that counts is a ping
        if m.last_ping_at is None:
            first_within = definition.first_within
            return self.moved(m, due - first_within, due) if first_within is not None else None
        if definition.after is not None:
            return None  # see `awaited`
        deadline = due + definition.grace
        if self.outages.intervals and not definition.count_outages:
            return self.outages.shift(window_start(definition, due), deadline)
        return deadline

    def awaited_deadline(self, m: Monitor, due: Micros) -> Micros:
        """Return when the absence of a follower is evaluated."""
        assert m.definition.after is not None
        return self.moved(m, due - m.definition.after.within, due + m.definition.grace)

    def moved(self, m: Monitor, start: Micros, deadline: Micros) -> Micros:
        """A deadline moved by the outages since `start`."""
        return deadline if m.definition.count_outages else self.outages.shift(start, deadline)

    def run_deadline(self, m: Monitor, run: Run, limit: Limit) -> Micros:
        """The instant at which a limit of a run is broken, moved by outages."""
        assert m.runs is not None
        deadline = self.moved(m, limit.base, limit.base + limit.length)
        not_before = m.runs.not_before
        return deadline if not_before is None or run.number > m.runs.not_before_of else max(deadline, not_before)

    def queue_run(self, m: Monitor, run: Run) -> None:
        """Look at a run when the first of its limits would be broken."""
        assert m.runs is not None
        whens = [self.run_deadline(m, run, limit) for limit in run.limits(m.definition)]
        if whens:
            m.runs.limits.queue(run.number, run, min(whens))

    def queue(self, m: Monitor) -> None:
        """Look at a monitor when the first of its deadlines comes."""
        if (when := self.next_deadline_of(m)) is not None:
            self.deadlines.queue(m.id, m, when)

    def next_deadline_of(self, m: Monitor) -> Micros | None:
        """When a monitor is to be looked at next; None: never. May be early for runs and members, never late.

        Never before its last input, since a state from the log's future may be read by a restart.
        """
        rare, when = m.rare, self.schedule_deadline(m)
        if rare is not EMPTY_RARE_STATE:
            if rare.paused:
                return None
            if (runs := rare.runs) is not None and (run := runs.limits.next(runs.open.get)) is not None:
                when = run if when is None or run < when else when
            if (fleet := rare.fleet) is not None:
                member = fleet.deadlines.next(fleet.members.get)
                when = member if member is not None and (when is None or member < when) else when
            if rare.awaited:
                # The one that is due first has the first deadline: outages move no deadline past a later one.
                awaited = self.awaited_deadline(m, min(rare.awaited.values()))
                when = awaited if when is None or awaited < when else when
            if (incident := rare.current_incident) is not None and (at := self.notify_at(m, incident)) is not None:
                when = at if when is None or at < when else when
        return max(when, m.at) if when is not None else None

    # ---------------------------------------------------------------- when alerts may be sent

    def notify_at(self, m: Monitor, incident: Incident) -> Micros | None:
        """The instant of the next alert: as planned, or when alerts are allowed again; None: there is none."""
        mutes = list(self.mutes(m, incident))
        return max((end for _, _, _, end in mutes), default=incident.announce_at)

    def mutes(self, m: Monitor, incident: Incident) -> Iterator[tuple[HoldKind, str | None, Micros, Micros]]:
        """List the holds of the planned alert, in order: their kind, name of the window, start and end.

        A snooze and a maintenance window hold it back until their end; if it is about a missing ping alone, the window
        until the end of one period and grace after that.
        """
        at = incident.announce_at
        if at is None:
            return
        is_explicit: bool | None = None  # asked only if there is a window
        for _ in range(OVERLAPS_MAX):
            until = at
            if m.snoozed_until is not None and m.snoozed_until > at:
                until = m.snoozed_until
                yield HoldKind.SNOOZE, None, at, until
            for window, window_end in self.open_windows(m, at):
                is_explicit = incident.tells_explicit_failure if is_explicit is None else is_explicit
                end = window_end if is_explicit else end_of_grace_period(m.definition, window_end)
                until = max(until, end)
                yield HoldKind.MAINTENANCE, window.name, at, end
            if until == at:
                return
            at = until

    def open_windows(self, m: Monitor, at: Micros) -> Iterator[tuple[Window, Micros]]:
        """The maintenance windows that cover a monitor at `at`, each with its end."""
        for project_id, window in self.windows.values():
            if project_id == m.project_id and window.covers(m.slug, m.tags) and (end := window.end_at(at)) is not None:
                yield window, end


def _row_of(m: Monitor, run: Run) -> RunChanged:
    """A run as it is now."""
    verdict, reason = run.final_verdict
    return RunChanged(
        run.number,
        run.run,
        run.started_at,
        run.finished_at,
        run.last_at,
        run.duration,
        verdict,
        reason,
        run.exit_code,
        run.detail(m.definition),
        run.business_date,
        run.is_backfill,
        run.attempt,
        run.execution,
        m.runs.dump_ended(run) if m.runs is not None and run.verdict is not None else None,
    )
