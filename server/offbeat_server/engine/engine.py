"""The one engine that decides, in one order: (state, next input) → effects.

Plain synchronous Python: no I/O, no clock, no randomness. Its state is a function of the log's prefix, not of batches,
ticks or processes: before a ping at `t` is applied every deadline before `t` is evaluated, and a ping exactly at its
deadline is in time. Decisions wait for `drain`, each monitor's effects with the state that followed.

A plain ping of a healthy monitor does no heap work and decides nothing: it takes the first lines of `apply`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from sys import maxsize
from typing import NamedTuple

from offbeat_server.common.instants import Micros
from offbeat_server.engine.decisions import Decision, MonitorMoved
from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.fast_path import apply_plain_ping, apply_stage_ping
from offbeat_server.engine.model.definition import Definition, renamed_within
from offbeat_server.engine.model.enums import Status, Verdict
from offbeat_server.engine.model.monitor import EMPTY_RARE_STATE, Monitor
from offbeat_server.engine.model.ping import AFTER_ALL, Entry, Position
from offbeat_server.engine.model.runs import EndedRunRow
from offbeat_server.engine.quarantine import Quarantine
from offbeat_server.engine.rules import definition_changes, notifications
from offbeat_server.engine.rules.deadlines import evaluate
from offbeat_server.engine.rules.dependencies import register, unregister
from offbeat_server.engine.rules.fleets import apply_late_ping
from offbeat_server.engine.rules.outage_windows import window_starts
from offbeat_server.engine.rules.pings import apply_ping
from offbeat_server.engine.rules.runs import close_by_hand
from offbeat_server.engine.schedule.maintenance_windows import Window


class Reference(NamedTuple):
    """A monitor that refers to one that is renamed, and the change by which its definition gets the new slug."""

    monitor_id: int
    rev: int


_UP, _UNWATCHED = Status.UP, Status.UNWATCHED  # a name of the module is read faster than an attribute of the class


class Engine:
    """Applies inputs in order. `now` is the last instant it knows of; nothing before it can still happen."""

    def __init__(self, on_quarantine: Callable[[int, Exception], None] = lambda monitor_id, error: None) -> None:
        self.state = EngineState()
        self._quarantine = Quarantine(self.state, on_quarantine)
        self._unwatched: list[Monitor] = []  # loaded with another status
        self._steps_left = 0

    @property
    def now(self) -> Micros:
        """The instant up to which every ping was applied and every deadline evaluated."""
        return self.state.now

    @property
    def ahead(self) -> Micros:
        """The instant up to which some of the loaded states reach, while inputs are applied again."""
        return self.state.ahead

    @property
    def monitors(self) -> dict[int, Monitor]:
        """By id."""
        return self.state.monitors

    @property
    def next_deadline(self) -> Micros | None:
        """When the next monitor is to be looked at; may be early, never late."""
        return self.state.deadlines.earliest

    # ---------------------------------------------------------------- inputs

    def apply(self, entries: Sequence[Entry], start: int, steps_max: int) -> int:
        """Apply entries from `start`, each after the deadlines before it; return the index of the first not applied.

        Entries are in the one order. It stops early after `steps_max` entries and evaluations, so that a storm
        never holds the loop, and at an entry of an unknown monitor: its definition is in a change that
        the caller has not handed in yet, or it was deleted (then `ignore` it).
        """
        self._steps_left = steps_max
        end = self._apply(entries, start)
        if end > start:
            last = entries[end - 1]
            self.state.position = Position(last.at, last.writer, last.seq)
        return end

    def _apply(self, entries: Sequence[Entry], start: int) -> int:
        state = self.state
        monitors, deadlines = state.monitors, state.deadlines
        for index in range(start, len(entries)):
            entry = entries[index]
            at = entry.at
            due = deadlines.earliest
            if due is not None and due < at and not self._evaluate_before(at):
                return index
            if self._steps_left <= 0:
                return index
            m = monitors.get(entry.monitor_id)
            if m is None:
                if entry.monitor_id not in state.unknown_ids:
                    return index
                state.unknown_pings += 1
                continue
            state.now = at
            if at <= m.at and (at, entry.writer, entry.seq) <= (m.at, m.writer, m.seq):
                if m.fleet is not None:
                    apply_late_ping(m.fleet, entry)
                continue  # replay: the state has it already
            self._steps_left -= 1
            m.at, m.writer, m.seq, m.is_saved = at, entry.writer, entry.seq, False
            ping = entry.ping
            if m.status is _UNWATCHED:
                state.unwatched_pings += 1
            try:
                if (
                    ping.run is None
                    and ping.signal == "success"
                    and ping.stage is None
                    and ping.task is None
                    and ping.options is None
                    and m.definition.is_plain
                    and (m.status is _UP or (m.status is _UNWATCHED and m.last_ping_at is not None))
                    and (m.rare is EMPTY_RARE_STATE or not m.rare.affects_plain_success)
                    and (not state.followers or (m.project_id, m.slug) not in state.followers)
                ):
                    apply_plain_ping(state, m, entry)
                    if m.queued_at is None:
                        state.queue(m)
                elif ping.stage is None or not apply_stage_ping(state, m, entry):
                    apply_ping(state, m, entry)
                    state.queue(m)
            except Exception as error:
                self.quarantine(m.id, error)
        return len(entries)

    def unknown_runs(self, entries: Sequence[Entry]) -> list[tuple[int, str]]:
        """Monitor and id of runs that these entries name, and of which only a row may have what they need to know.

        Each once: a run that the engine does not know may be new, and its stages and tasks name it often.

        Call `forget_recalled` before, and `recall` for those that have ended, before the entries are applied. Then the
        result is the same however the entries are cut into batches.
        """
        monitors = self.state.monitors
        started: set[tuple[int, str]] = set()
        unknown: dict[tuple[int, str], None] = {}
        for entry in entries:
            ping = entry.ping
            if ping.run is None:
                continue
            key = (entry.monitor_id, ping.run)
            is_whole = ping.stage is None and ping.task is None
            if key not in unknown and key not in started:
                m = monitors.get(entry.monitor_id)
                runs = m.rare.runs if m is not None else None
                if runs is not None and runs.needs_row(ping.run, is_whole):
                    unknown[key] = None
            if is_whole and ping.signal == "start":
                started.add(key)  # it opens this run, if the run is not known
        return list(unknown)

    def recall(self, monitor_id: int, run: str, row: EndedRunRow) -> None:
        """Know a run that has ended from its row, until `forget_recalled`."""
        m = self.state.monitors.get(monitor_id)
        if m is not None and m.rare.runs is not None:
            m.rare.runs.recall(run, row)
            self.state.with_recalled.add(monitor_id)

    def forget_recalled(self) -> None:
        """Forget recalled runs, unless decisions are not written yet: until then their rows are older."""
        state = self.state
        if state.pending_decisions:
            return
        for monitor_id in state.with_recalled:
            m = state.monitors.get(monitor_id)
            if m is not None and m.rare.runs is not None:
                m.rare.runs.recalled.clear()
        state.with_recalled.clear()

    def ignore(self, monitor_id: int) -> None:
        """Ignore pings of this monitor: it no longer exists."""
        self.state.unknown_ids.add(monitor_id)

    @property
    def quarantined(self) -> Mapping[int, Monitor | None]:
        """Monitors left out because of an internal error; None: one whose state could not even be read."""
        return self._quarantine.monitors

    def quarantine(self, monitor_id: int, error: Exception) -> None:
        """Leave a monitor out until it is changed or all are loaded again: see engine/quarantine.py."""
        self._quarantine.add(monitor_id, error)

    def advance(self, through: Micros, steps_max: int) -> bool:
        """Evaluate every deadline up to and including `through`, up to which every entry was applied.

        False: `steps_max` was reached and there is more.
        """
        self._steps_left = steps_max
        if not self._evaluate_before(through + 1):
            return False
        self._reach(through)
        return True

    def add_outage(self, start: Micros, end: Micros) -> None:
        """Add an outage. Deadlines move when they are evaluated."""
        self.state.outages.add(start, end)

    def window_starts(self, active_since: Micros) -> Iterator[Micros]:
        """Where every window begins that may still be asked for outages; see engine/rules/outage_windows.py.

        Many instants for a fleet, one or few for others. Inputs may be applied between two of them: what begins by an
        input reaches back no further than what was there, unless it is a change.
        """
        state = self.state
        for m in list(state.monitors.values()):
            yield from window_starts(state, m, state.now, active_since)
        for left_out in list(self._quarantine.monitors.values()):
            if left_out is None:
                yield 0  # its state is unknown, so its windows may begin at any time
            else:
                yield from window_starts(state, left_out, min(left_out.at, state.now), active_since)

    def forget_outages(self, before: Micros) -> None:
        """Forget outages that ended before this instant; no window begins before it."""
        self.state.outages.forget_before(before)

    # ---------------------------------------------------------------- changes

    def put(
        self,
        monitor_id: int,
        project_id: int,
        slug: str,
        definition: Definition,
        *,
        paused: bool = False,
        drop: bool = False,
        snoozed_until: Micros | None = None,
        rev: int = 0,
        name: str | None = None,
        tags: tuple[str, ...] | None = None,
        references: Sequence[Reference] = (),
        at: Micros,
    ) -> None:
        """A monitor is made, changed, renamed or moved as of `at`, up to which every entry was applied.

        `name` and `tags` are those of the definition unless they are given. `drop`: the pause also resolves the open
        incident and forgets awaited runs. `references`: the monitors that refer to it by its former slug, which get the
        new one in the same step. The effect of a change on open runs and incidents is in
        engine/rules/definition_changes.py.
        """
        self._catch_up(at)
        state = self.state
        if not self._quarantine.restore(monitor_id):
            return
        m = state.monitors.get(monitor_id)
        if m is None:
            m = Monitor(monitor_id, project_id, slug, slug, definition, state.now)
            state.unknown_ids.discard(monitor_id)
            definition_changes.start_over(state, m)
            m.paused = paused
            m.at = state.now  # as if just before it: the ping for which it is made known may be of this instant
            m.rev = rev
            register(state, m)
        else:
            self._include(m, rev)
        old, former = m.definition, (m.project_id, m.slug)
        moves = former != (project_id, slug)
        if moves or (old.depends_on, old.after) != (definition.depends_on, definition.after):
            state.tie(m)
        downs = list(state.downstreams(m)) if moves else []
        unregister(state, m)
        m.project_id, m.slug, m.name = project_id, slug, name or definition.name or slug
        m.tags = tags if tags is not None else definition.tags
        m.definition = definition
        register(state, m)
        if former[0] != project_id:
            state.open_for(m).moved = MonitorMoved(state.now)
        for reference in references:
            self._rename_in(reference, former[1], slug)
        m.snoozed_until = snoozed_until
        if old != definition:
            definition_changes.redefine(state, m, old)
        if paused != m.paused:
            definition_changes.pause(state, m) if paused else definition_changes.resume(state, m)
        if paused and drop:
            definition_changes.drop(state, m)
        state.update_status(m)
        state.open_for(m)
        if moves or old.depends_on != definition.depends_on:
            definition_changes.update_suppression(state, [m.id, *downs, *state.downstreams(m)])
        notifications.notify_if_due(state, m)
        state.queue(m)

    def _rename_in(self, reference: Reference, former: str, slug: str) -> None:
        """Let a monitor that refers to a renamed one refer to its new slug, so that its awaited runs stay awaited."""
        state = self.state
        m = state.monitors.get(reference.monitor_id)
        if m is None or m.rev >= reference.rev:
            return  # it is gone or left out, or its state knows this change
        self._include(m, reference.rev)
        unregister(state, m)
        m.definition = renamed_within(m.definition, former, slug)
        register(state, m)
        state.open_for(m)

    def remove(self, monitor_id: int, at: Micros) -> None:
        """A monitor is deleted: its incident ends and its runs are closed."""
        self._catch_up(at)
        state = self.state
        self._quarantine.restore(monitor_id)
        state.unknown_ids.add(monitor_id)
        m = state.monitors.get(monitor_id)
        if m is None:
            return
        self._include(m, 0)
        definition_changes.end(state, m)
        downs = list(state.downstreams(m))
        state.tie(m)
        unregister(state, m)
        del state.monitors[monitor_id]
        state.pending_deletion[monitor_id] = m
        state.open_for(m)
        definition_changes.update_suppression(state, downs)

    def resolve_by_hand(self, monitor_id: int, number: int, rev: int, at: Micros) -> None:
        """Resolve this incident by hand (0: the one that is open); `rev` is that change."""
        self._catch_up(at)
        if (m := self.state.monitors.get(monitor_id)) is None:
            return
        self._include(m, rev)
        self.state.open_for(m)
        if m.incident is not None and number not in (0, m.incident.number):
            return  # another one has opened since; it is not the one that was resolved
        definition_changes.resolve_by_hand(self.state, m)
        self.state.queue(m)

    def close_run_by_hand(
        self, monitor_id: int, number: int, verdict: Verdict, reason: str, had_ended: bool, rev: int, at: Micros
    ) -> None:
        """Close a run with the verdict of a person, or revise one that `had_ended`; `rev` is that change."""
        self._catch_up(at)
        if (m := self.state.monitors.get(monitor_id)) is None:
            return
        self._include(m, rev)
        self.state.open_for(m)
        close_by_hand(self.state, m, number, verdict, reason, had_ended)
        self.state.queue(m)

    def put_window(self, window_id: int, project_id: int, window: Window, at: Micros) -> None:
        """A maintenance window is made or changed, as of `at`."""
        self._catch_up(at)
        self.state.windows[window_id] = (project_id, window)
        notifications.recheck_after_window_change(self.state, project_id, self.quarantine)

    def remove_window(self, window_id: int, at: Micros) -> None:
        """Delete a maintenance window, as of `at`: alerts that it held back are sent."""
        self._catch_up(at)
        project_id, _ = self.state.windows.pop(window_id, (0, None))
        notifications.recheck_after_window_change(self.state, project_id, self.quarantine)

    # ---------------------------------------------------------------- loading and writing

    def load(self, m: Monitor) -> None:
        """Take a monitor from its stored state, as if it had never left.

        Windows (`load_window`) and outages (`add_outage`) come before the first, `loaded` after the last.
        """
        state = self.state
        register(state, m)
        if m.status is not _UNWATCHED and not m.definition.watches:
            self._unwatched.append(m)  # perhaps written by a program that did not know this status
        if m.at > state.ahead:
            state.ahead = m.at
        if m.rare is not EMPTY_RARE_STATE:
            if m.current_incident is not None:
                state.with_incident.add(m.id)
            definition_changes.queue_parts(state, m)
        state.queue(m)

    def load_window(self, window_id: int, project_id: int, window: Window) -> None:
        """Take a maintenance window as it is defined."""
        self.state.windows[window_id] = (project_id, window)

    def loaded(self, at: Micros) -> None:
        """All monitors are there. `at`: the position from which inputs follow."""
        state = self.state
        state.now = at
        state.position = Position(at, AFTER_ALL, AFTER_ALL)
        for m in self._unwatched:
            state.update_status(m)
        self._unwatched.clear()
        for monitor_id in sorted(state.with_incident):
            try:
                notifications.repair(state, state.monitors[monitor_id])
                state.queue(state.monitors[monitor_id])
            except Exception as error:
                self.quarantine(monitor_id, error)

    def open_incidents(self) -> dict[int, int]:
        """Monitor to the number of its open incident."""
        monitors = self.state.monitors
        return {
            id: incident.number for id in self.state.with_incident if (incident := monitors[id].incident) is not None
        }

    def restate_incident(self, monitor_id: int) -> None:
        """Write the open incident of this monitor again."""
        m = self.state.monitors[monitor_id]
        if m.incident is not None:
            self.state.record_incident(m, m.incident)

    def drain(self, subjects_max: int) -> list[Decision]:
        """Return the decisions of about `subjects_max` monitors, each with the state that followed.

        All of one answer belongs in one transaction: monitors that depend on one another come together, also if they
        are more than `subjects_max`.
        """
        return self.state.drain(subjects_max, self.quarantine)

    @property
    def pending_count(self) -> int:
        """How much waits for `drain`: monitors, and rows of their runs."""
        return len(self.state.pending_decisions) + self.state.pending_runs

    def stale(self) -> Iterator[int]:
        """Monitors whose stored state is older than the one here, for the checkpoint."""
        for m in list(self.state.monitors.values()):
            if not m.is_saved or (m.fleet and m.fleet.has_unsaved_pings):
                yield m.id

    def snapshot(self, monitor_id: int) -> Decision | None:
        """The state of one monitor to be written as it is; None if it is gone, or if `drain` will return it.

        Write it only after everything that `drain` returned before.
        """
        m = self.state.monitors.get(monitor_id)
        try:
            return None if m is None else self.state.snapshot(m)
        except Exception as error:
            self.quarantine(monitor_id, error)
            return None

    # ---------------------------------------------------------------- within

    def _evaluate_before(self, at: Micros) -> bool:
        """Evaluate every deadline before `at`; False if `steps_max` is reached and some are left."""
        state = self.state
        deadlines, releases, find = state.deadlines, state.releases, state.monitors.get
        while self._steps_left > 0:
            since = releases[0][1] if releases else at
            popped = deadlines.pop_before(find, since if since < at else at)
            if popped is None:
                if since >= at:
                    return True
                notifications.release_one(state, self.quarantine)
                self._steps_left -= 1
                continue
            when, monitor_id, m = popped
            self._steps_left -= 1
            try:
                due = state.next_deadline_of(m)
                if due is not None and due <= when:
                    state.now = max(state.now, when)
                    evaluate(state, m, when)
                    due = state.next_deadline_of(m)
                if due is not None:
                    deadlines.queue(monitor_id, m, due)
            except Exception as error:
                self.quarantine(m.id, error)
        next_due = deadlines.earliest
        return (next_due is None or next_due >= at) and not (releases and releases[0][1] < at)

    def _catch_up(self, at: Micros) -> None:
        """Before a change: evaluate everything up to it, at any cost."""
        self._steps_left = maxsize
        self._evaluate_before(at + 1)
        self._reach(at)

    def _reach(self, at: Micros) -> None:
        state = self.state
        state.now = max(state.now, at)
        if at >= state.position.at:
            state.position = Position(at, AFTER_ALL, AFTER_ALL)

    def _include(self, m: Monitor, rev: int) -> None:
        """A change is an input too: the state of the monitor includes it and all before it."""
        m.rev = max(m.rev, rev)
        m.at, m.writer, m.seq, m.is_saved = *self.state.position, False


def isolated_engine(
    outages: Sequence[tuple[Micros, Micros]],
    windows: Mapping[int, tuple[int, Window]],
    m: Monitor,
    on_quarantine: Callable[[int, Exception], None],
) -> Engine:
    """An engine that holds only `m`, at its last input, with the outages and the maintenance windows of another.

    It gives the state that `m` would have if it had continued from a stored state under the same inputs. A start does
    the same for all monitors at once. It is done for one whose state was left behind (an internal error that a new
    version corrects), and to compare the state in memory and in the database with the log.

    Other monitors do not exist for it: what depends on them (`depends_on`, `after`) is decided as if they were up.
    """
    lone = Engine(on_quarantine)
    for start, end in outages:
        lone.state.outages.add(start, end)
    lone.state.windows = dict(windows)
    lone.load(m)
    lone.loaded(m.at)
    return lone
