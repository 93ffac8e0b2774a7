"""The one engine that decides, in one order: (state, next input) → effects.

Plain synchronous Python: no I/O, no clock, no randomness. Its state is a function of the log's prefix, not of batches,
ticks or processes: before a ping at `t` is applied every deadline before `t` is judged, and a ping exactly at its
deadline is in time. What is decided waits in `take`, each monitor's effects with the state that followed.

A plain ping of a healthy monitor does no heap work and decides nothing: it takes the first lines of `apply`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from server.engine.desk import Desk
from server.engine.effects import Decision
from server.engine.expectation import due_after
from server.engine.hearing import REPEAT_MAX, close_run, hear
from server.engine.incidents import clear, record, resolve
from server.engine.judging import judge
from server.engine.monitor import Definition
from server.engine.ping import AFTER_ALL, Entry, Micros
from server.engine.state import Monitor


class Engine:
    """Applies inputs in order. `now` is the last instant it knows of; nothing before it can still happen."""

    def __init__(self) -> None:
        self.desk = Desk()
        self._budget = 0

    @property
    def now(self) -> Micros:
        """The instant up to which everything was applied and judged."""
        return self.desk.now

    @property
    def monitors(self) -> dict[int, Monitor]:
        """By id."""
        return self.desk.monitors

    @property
    def next_deadline(self) -> Micros | None:
        """When the next monitor is to be looked at; may be early, never late."""
        return self.desk.deadlines.next()

    # ---------------------------------------------------------------- inputs

    def apply(self, entries: Sequence[Entry], start: int, budget: int) -> int:
        """Apply entries from `start`, judging what comes before each; returns the index of the first not applied.

        Entries are in the one order. It stops early when `budget` entries and judgements are used up, so that a storm
        never holds the loop, and at an entry of a monitor that was never heard of: its definition is in a change that
        the caller has not handed in yet, or it was deleted (then `ignore` it).
        """
        desk = self.desk
        monitors, deadlines = desk.monitors, desk.deadlines
        self._budget = budget
        for index in range(start, len(entries)):
            entry = entries[index]
            at = entry.at
            due = deadlines.next()
            if due is not None and due < at and not self._judge_before(at):
                return index
            if self._budget <= 0:
                return index
            m = monitors.get(entry.monitor_id)
            if m is None:
                if entry.monitor_id not in desk.strangers:
                    return index
                desk.unknown_pings += 1
                continue
            if at <= m.at and (at, entry.writer, entry.seq) <= (m.at, m.writer, m.seq):
                continue  # replay: the state has it already
            self._budget -= 1
            m.at, m.writer, m.seq = at, entry.writer, entry.seq
            desk.now = at
            ping = entry.ping
            if (
                m.plain
                and m.status == "up"
                and not m.streak
                and ping.signal == "success"
                and ping.run is None
                and ping.stage is None
                and ping.task is None
                and (m.runs is None or not m.runs.open)
                and (not desk.listeners or (m.project_id, m.slug) not in desk.listeners)
            ):
                if m.counted_signal != "success" or entry.source != m.counted_source or at - m.counted_at >= REPEAT_MAX:
                    m.counted_signal, m.counted_source, m.counted_at = "success", entry.source, at
                m.heard_at = at
                every = m.definition.every
                m.due = at + every if every is not None else due_after(m.definition, m.due, at)
                if not m.armed:
                    desk.arm(m)
            else:
                hear(desk, m, entry)
                desk.arm(m)
        return len(entries)

    def ignore(self, monitor_id: int) -> None:
        """Pings of this monitor are passed over: it does not exist any more."""
        self.desk.strangers.add(monitor_id)

    def advance(self, through: Micros, budget: int) -> bool:
        """Judge every deadline up to and including `through`; False: the budget was used up and there is more."""
        self._budget = budget
        if not self._judge_before(through + 1):
            return False
        self.desk.now = max(self.desk.now, through)
        return True

    def deafness(self, start: Micros, end: Micros) -> None:
        """A deaf interval becomes known. Deadlines move as they are looked at."""
        self.desk.deaf.add(start, end)

    # ---------------------------------------------------------------- definitions

    def put(
        self,
        monitor_id: int,
        project_id: int,
        slug: str,
        definition: Definition,
        *,
        paused: bool = False,
        snoozed_until: Micros = 0,
        rev: int = 0,
        at: Micros,
    ) -> None:
        """A monitor is made or changed, as of `at`, up to which everything was applied.

        No deadline comes earlier than `at` + grace by a change: nobody is late for what was not asked of them before.
        """
        desk = self.desk
        desk.now = max(desk.now, at)
        m = desk.monitors.get(monitor_id)
        if m is None:
            m = Monitor(monitor_id, project_id, slug, definition.name or slug, definition, at)
            desk.strangers.discard(monitor_id)
            self._enter(m)
        else:
            self._leave(m)
            old = m.definition
            m.slug, m.name = slug, definition.name or slug
            m.define(definition)
            self._enter(m)
            if old != definition:
                self._redefine(m, old)
        m.rev = max(m.rev, rev)
        was_muted = m.snoozed_until > desk.now
        m.snoozed_until = snoozed_until
        if was_muted and snoozed_until <= desk.now and m.incident is not None and not m.incident.announced:
            m.incident.announce_at = desk.now
        if paused != m.paused:
            self._pause(m) if paused else self._resume(m)
        if m.at:  # a new monitor has met no input yet: the ping for which it is made known is still to come
            m.at, m.writer, m.seq = desk.now, AFTER_ALL, AFTER_ALL
        desk.restate(m)
        desk.open_for(m)
        desk.arm(m)

    def remove(self, monitor_id: int, at: Micros) -> None:
        """A monitor is deleted: its incident is resolved and its runs are closed without a word."""
        desk = self.desk
        desk.now = max(desk.now, at)
        m = desk.monitors.get(monitor_id)
        if m is None:
            return
        resolve(desk, m, quietly=True)
        for run in list(m.runs.open.values()) if m.runs is not None else ():
            close_run(desk, m, run, "unknown", "the monitor was deleted")
        m.at, m.writer, m.seq = desk.now, AFTER_ALL, AFTER_ALL
        self._leave(m)
        del desk.monitors[monitor_id]
        desk.gone[monitor_id] = m
        desk.open_for(m)

    def settle_by_hand(self, monitor_id: int, rev: int, at: Micros) -> None:
        """Somebody says that the trouble is over; `rev` is that change."""
        desk = self.desk
        desk.now = max(desk.now, at)
        if (m := desk.monitors.get(monitor_id)) is None:
            return
        m.rev = max(m.rev, rev)
        desk.open_for(m)
        if m.incident is not None:
            m.streak = 0
            m.not_before = desk.now + desk.breather(m)
            resolve(desk, m)
            desk.arm(m)

    # ---------------------------------------------------------------- loading and writing

    def load(self, m: Monitor) -> None:
        """Take a monitor from its stored state, as if it had never left; call `loaded` after the last."""
        self._enter(m)
        if m.runs is not None:
            for run in m.runs.open.values():
                self.desk.arm_run(m, run)
        if m.fleet is not None and m.definition.members is not None:
            m.fleet.arm_all(m.definition.members.every + m.definition.members.grace)

    def loaded(self, at: Micros) -> None:
        """All monitors are there: fill the heap. `at`: the position from which inputs follow."""
        desk = self.desk
        desk.now = at
        entries: list[tuple[Micros, int]] = []
        for m in desk.monitors.values():
            m.armed = desk.next_of(m)
            if m.armed:
                entries.append((m.armed, m.id))
        desk.deadlines.load(entries)

    def restate_incident(self, monitor_id: int) -> None:
        """Write the open incident of this monitor again."""
        m = self.desk.monitors[monitor_id]
        if m.incident is not None:
            record(self.desk, m, m.incident)

    def take(self, subjects_max: int) -> list[Decision]:
        """What was decided, for up to so many monitors, each with the state that followed."""
        return self.desk.take(subjects_max)

    @property
    def undecided(self) -> int:
        """How many monitors wait in `take`."""
        return len(self.desk.undecided)

    def stale(self) -> Iterator[int]:
        """Monitors whose stored state is older than the one here, for the checkpoint."""
        return (m.id for m in list(self.desk.monitors.values()) if m.at > m.saved_at)

    def snapshot(self, monitor_id: int) -> Decision | None:
        """The state of one monitor to be written as it is; None when it is gone."""
        m = self.desk.monitors.get(monitor_id)
        return None if m is None else self.desk.snapshot(m)

    # ---------------------------------------------------------------- within

    def _judge_before(self, at: Micros) -> bool:
        """Judge every deadline before `at`; False when the budget is used up and some are left."""
        desk = self.desk
        while self._budget > 0:
            popped = desk.deadlines.pop_before(at)
            if popped is None:
                return True
            when, monitor_id = popped
            m = desk.monitors.get(monitor_id)
            if m is None or m.armed != when:
                continue  # stale
            self._budget -= 1
            m.armed = 0
            due = desk.next_of(m)
            if due and due <= when:
                desk.now = max(desk.now, when)
                judge(desk, m, when)
            desk.arm(m)
        next_due = desk.deadlines.next()
        return next_due is None or next_due >= at

    def _enter(self, m: Monitor) -> None:
        desk = self.desk
        desk.monitors[m.id] = m
        desk.counts[m.status] += 1
        desk.slugs[m.project_id, m.slug] = m.id
        for graph, slug in self._edges(m):
            graph.setdefault((m.project_id, slug), set()).add(m.id)

    def _leave(self, m: Monitor) -> None:
        desk = self.desk
        desk.counts[m.status] -= 1
        if desk.slugs.get((m.project_id, m.slug)) == m.id:
            del desk.slugs[m.project_id, m.slug]
        for graph, slug in self._edges(m):
            graph[m.project_id, slug].discard(m.id)

    def _edges(self, m: Monitor) -> Iterator[tuple[dict[tuple[int, str], set[int]], str]]:
        """By slug, not by id: the other end may not be there yet."""
        if m.definition.after is not None:
            yield self.desk.listeners, m.definition.after.monitor
        for slug in m.definition.depends_on:
            yield self.desk.dependents, slug

    def _redefine(self, m: Monitor, old: Definition) -> None:
        """What a changed definition does to what is open."""
        desk, definition = self.desk, m.definition
        if _schedule_of(old) != _schedule_of(definition):
            m.due = due_after(definition, 0, m.heard_at) if m.heard_at else 0
            if not _schedule_of(definition) or definition.every is None:
                m.awaited = None
            if not any(_schedule_of(definition)):
                clear(desk, m, lambda key: key[0] == "missed")
        if definition.members is None and m.fleet is not None:
            m.fleet = None
            clear(desk, m, lambda key: key[0] == "members")
        elif definition.members is not None and m.fleet is not None:
            m.fleet.arm_all(definition.members.every + definition.members.grace)
        if old.max_runtime is not None and definition.max_runtime is None:
            clear(desk, m, lambda key: key[0] == "hung")
        m.not_before = max(m.not_before, desk.now + definition.grace)
        for run in m.runs.open.values() if m.runs is not None else ():
            desk.arm_run(m, run)

    def _pause(self, m: Monitor) -> None:
        m.paused = True
        m.streak = 0
        resolve(self.desk, m, quietly=True)

    def _resume(self, m: Monitor) -> None:
        desk = self.desk
        m.paused = False
        m.excused = 0
        m.not_before = desk.now + desk.breather(m)
        if m.fleet is not None and m.definition.members is not None:
            m.fleet.arm_all(m.definition.members.every + m.definition.members.grace)
        for run in m.runs.open.values() if m.runs is not None else ():
            desk.arm_run(m, run)


def _schedule_of(definition: Definition) -> tuple[Any, ...]:
    return (
        definition.every,
        definition.cron,
        definition.oncalendar,
        definition.timezone if definition.every is None and (definition.cron or definition.oncalendar) else None,
        definition.after,
    )
