"""Rules for changes of a monitor with open runs or incidents: edit, pause, resume, resolution by hand, deletion.

An edit expects nothing before its own instant: no slot of the new schedule that had passed already, and no interval
that had run out. A deadline that an edit moves comes no earlier than the edit plus one grace period. A pause or a
resolution by hand ends the present expectation; the schedule begins again, with one period and one grace period.
"""

from collections.abc import Iterable
from typing import NamedTuple

from offbeat_server.common.instants import Micros
from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.definition import Definition
from offbeat_server.engine.model.enums import CauseKind, Resolution, Verdict
from offbeat_server.engine.model.monitor import CauseKey, Incident, Monitor
from offbeat_server.engine.model.run import Limit, Run, tasks_of
from offbeat_server.engine.rules import notifications, reasons
from offbeat_server.engine.rules.completeness import requires_more
from offbeat_server.engine.rules.fleets import forget_silent
from offbeat_server.engine.rules.holds import extend_pause, update_holds
from offbeat_server.engine.rules.incidents import clear, drop_unreported, resolve
from offbeat_server.engine.rules.run_steps import drop_fault, end_if_complete, end_stage, set_fault
from offbeat_server.engine.rules.runs import close_run
from offbeat_server.engine.schedule.due_times import due_after, due_from, due_when_edited, end_of_grace_period

_SCHEDULE = ("every", "cron", "oncalendar")
_LIMITS = ("max_runtime", "quiet_for", "stall_for", "stages", "tasks", "count_outages")
_HUNG = frozenset((("runtime", ""), ("quiet", ""), ("stalled", "")))


def redefine(state: EngineState, m: Monitor, old: Definition) -> None:
    """The definition was `old` until now."""
    new = m.definition
    if (new.members is None) != (old.members is None):
        _change_kind(state, m)
    if _differ(old, new, "after"):
        m.awaited = None
        if m.last_ping_at is None and new.first_within is None:
            m.due = None
        clear(state, m, _misses(m.incident, of_schedule=False).__contains__, Resolution.CHANGED)
    elif m.awaited and _differ(old, new, "grace", "count_outages"):
        m.awaited = {run: max(due, state.now) for run, due in m.awaited.items()}
        if m.last_ping_at is not None or new.first_within is None:
            m.due = min(m.awaited.values())
    _change_schedule(state, m, old)
    if m.fleet is not None and new.members is not None and _differ(old, new, "members", "count_outages"):
        shorter = old.members is not None and new.members.every < old.members.every
        m.fleet.put_off(state.now + (new.members.every if shorter else 0) + new.members.grace)
    if m.runs is not None and requires_more(old, new):
        for run in m.runs.open.values():
            run.trusted = True
    if _differ(old, new, *_LIMITS) and m.runs is not None:
        m.runs.put_off(state.now + new.grace)
        for run in list(m.runs.open.values()):
            _reevaluate_run(state, m, run)
    if _differ(old, new, "at_most"):
        m.recent = None
        clear(state, m, lambda key: key[0] == CauseKind.TOO_OFTEN, Resolution.CHANGED)
    if new.overlap == "allow":
        clear(state, m, lambda key: key[0] == CauseKind.OVERLAP, Resolution.CHANGED)
    queue_parts(state, m)


def pause(state: EngineState, m: Monitor) -> None:
    """Stop to evaluate the monitor; its pings still move its due time. Its open incident explains no other one now."""
    m.paused = True
    if m.incident is not None:
        notifications.release_held(state, m)
    state.update_status(m)


def drop(state: EngineState, m: Monitor) -> None:
    """Forget the open incident and the awaited runs of a paused monitor."""
    resolve(state, m, Resolution.PAUSED)
    drop_unreported(state, m)
    m.streak = 0
    m.awaited = None
    state.update_status(m)


def resume(state: EngineState, m: Monitor) -> None:
    """Evaluate the monitor again, by the pings from now on."""
    m.paused = False
    m.excused = 0
    if m.awaited:
        m.awaited = {run: max(due, state.now) for run, due in m.awaited.items()}
    start_over(state, m)
    if m.awaited and (m.last_ping_at is not None or m.definition.first_within is None):
        m.due = min(m.awaited.values())
    if (incident := m.current_incident) is not None:
        at = state.notify_at(m, incident)
        if at is not None and at <= state.now and not incident.tells_explicit_failure:
            incident.announce_at = end_of_grace_period(m.definition, state.now)
            extend_pause(incident, incident.announce_at)
            state.record_incident(m, incident)
        update_holds(state, m, incident)
    if m.fleet is not None and (members := m.definition.members) is not None:
        m.fleet.put_off(state.now + members.every + members.grace)
    if m.runs is not None:
        m.runs.put_off(state.now + m.definition.grace)
        for run in m.runs.open.values():
            run.broken.clear()
            for group in run.tasks.values():
                group.stalled = None
                if group.active is not None:
                    group.active.reconsider(lambda kind, base: False)
            if run.hung is not None or run.unverified_reason is not None:
                run.hung, run.hung_by, run.unverified_reason = None, "", None
                state.record_run(m, run)
    state.update_status(m)
    queue_parts(state, m)


def resolve_by_hand(state: EngineState, m: Monitor) -> None:
    """Apply a resolution by hand."""
    incident = m.incident
    if incident is None:
        return
    resolve(state, m, Resolution.BY_HAND)
    if incident.silent:
        start_over(state, m)
    forget_silent(state, m)


def end(state: EngineState, m: Monitor) -> None:
    """The monitor is deleted."""
    resolve(state, m, Resolution.DELETED)
    drop_unreported(state, m)
    for run in list(m.runs.open.values()) if m.runs is not None else ():
        close_run(state, m, run, Verdict.UNKNOWN, "the monitor was deleted")


def start_over(state: EngineState, m: Monitor) -> None:
    """End the present expectation; the next ping is due one period later, or at the next slot."""
    definition = m.definition
    if m.last_ping_at is None:
        m.due = state.now + definition.first_within if definition.first_within is not None else None
    elif definition.after is None:
        m.due = due_from(definition, m.due, state.now)
    elif not m.awaited:
        m.due = None


def queue_parts(state: EngineState, m: Monitor) -> None:
    """Look at runs and members when their limits, as they are now, would be broken."""
    for run in m.runs.open.values() if m.runs is not None else ():
        state.queue_run(m, run)
    if m.fleet is not None and (members := m.definition.members) is not None:
        m.fleet.queue_all(members.every + members.grace, members.forget_after)


def update_suppression(state: EngineState, monitor_ids: Iterable[int]) -> None:
    """Apply changed dependencies: an incident is no longer explained by a monitor that is no longer upstream."""
    for monitor_id in monitor_ids:
        m = state.monitors.get(monitor_id)
        incident = m.current_incident if m is not None else None
        if m is None or incident is None or incident.announced or (up_id := incident.suppressed_by) is None:
            continue
        up = state.monitors.get(up_id)
        if up is None or up.incident is None or up.paused or up not in state.upstreams(m):
            notifications.release_held_by(state, m, up_id, state.now)


def _differ(old: Definition, new: Definition, *names: str) -> bool:
    return any(getattr(old, name) != getattr(new, name) for name in names)


def _change_kind(state: EngineState, m: Monitor) -> None:
    """A fleet became a job, or the other way round: nothing of the one means anything to the other."""
    if m.fleet is not None:
        m.fleet = None
        state.open_for(m).disbanded = True
    for run in list(m.runs.open.values()) if m.runs is not None else ():
        close_run(state, m, run, Verdict.UNKNOWN, "the monitor became a fleet")
    clear(state, m, lambda key: True, Resolution.CHANGED)


class _NewDue(NamedTuple):
    """The due time of the schedule after a change of the definition."""

    wanted: Micros | None  # by the new definition alone, as if it had always held; None: none
    due: Micros | None  # by the rules of a change; None: none
    passed: bool  # whether the deadline after `wanted` has passed


def _change_schedule(state: EngineState, m: Monitor, old: Definition) -> None:
    """Apply S16.1 to S16.8 of docs/semantics.md."""
    last_ping_at = m.last_ping_at
    if last_ping_at is None:
        changed = _due_before_first_ping(state, m, old)
    else:
        changed = _due_after_pings(state, m, old, last_ping_at)
    if changed is None:
        return
    m.due = changed.due
    if m.incident is None:
        return
    missed = _misses(m.incident, of_schedule=True)
    if missed and not changed.passed:  # S16.8
        m.incident.silent = False
        clear(state, m, missed.__contains__, Resolution.CHANGED)
    elif m.incident.silent:
        m.due = changed.wanted


def _due_before_first_ping(state: EngineState, m: Monitor, old: Definition) -> _NewDue | None:
    """Apply S16.7. Return None if nothing changes."""
    new, now = m.definition, state.now
    if not _differ(old, new, "first_within"):
        return None
    if new.first_within is None:
        return _NewDue(None, _first_awaited(m), passed=False)
    assert m.created_at is not None  # it is known until the first ping
    wanted = due = m.created_at + new.first_within
    passed = wanted <= now
    if passed:
        due = now + new.first_within
        if old.first_within is not None and m.due is not None and m.due > now:  # the previous due time, if it is sooner
            due = min(due, m.due)
    return _NewDue(wanted, max(due, now + new.grace), passed)


def _due_after_pings(state: EngineState, m: Monitor, old: Definition, last_ping_at: Micros) -> _NewDue | None:
    """Apply S16.1 to S16.6. Return None if nothing changes."""
    new, now = m.definition, state.now
    if new.after is not None:
        # S16.5: `redefine` has moved awaited runs; misses stay open until a ping answers them. S16.6: nothing is due.
        return None if new.after == old.after else _NewDue(None, None, passed=False)
    other_schedule = _differ(old, new, *_SCHEDULE) or (_has_calendar(new) and _differ(old, new, "timezone"))
    if not other_schedule and not _differ(old, new, "grace", "after", "count_outages"):
        return None
    if other_schedule:  # S16.1 to S16.4
        previous = m.due if _has_schedule(old) else None
        wanted, due = due_after(new, None, last_ping_at), due_when_edited(new, previous, last_ping_at, now)
    else:  # S16.5
        wanted = due = m.due if _has_schedule(new) else None
    passed = wanted is not None and wanted + new.grace <= now
    return _NewDue(wanted, max(due, now) if due is not None else None, passed)


def _misses(incident: Incident | None, *, of_schedule: bool) -> set[CauseKey]:
    """The open misses of the schedule, or those of awaited runs with an id."""
    causes = incident.causes.items() if incident is not None else ()
    return {key for key, cause in causes if cause.kind == CauseKind.MISSED and (cause.run is None) == of_schedule}


def _has_schedule(definition: Definition) -> bool:
    return any(getattr(definition, name) for name in _SCHEDULE)


def _has_calendar(definition: Definition) -> bool:
    return definition.cron is not None or definition.oncalendar is not None


def _first_awaited(m: Monitor) -> Micros | None:
    return min(m.awaited.values()) if m.awaited else None


def _reevaluate_run(state: EngineState, m: Monitor, run: Run) -> None:
    """Apply S16.10 to S16.12 of docs/semantics.md to an open run."""
    run.broken &= {
        (each.kind, each.stage) for each in run.limits(m.definition, include_broken=True) if _is_over(state, m, each)
    }
    stalled = _keep_stalled_tasks(state, m, run)
    run.change_task_limits(m.definition, state.now, lambda limit: _is_over(state, m, limit))
    if run.hung is not None and not run.broken and not stalled:
        if run.has_broken_tasks:
            run.hung_by = "task silent"  # nothing else makes it hung from now on
        else:
            run.hung, run.hung_by = None, ""
            state.record_run(m, run)
    stalled = stalled or run.has_broken_tasks
    _reevaluate_tasks(state, m, run)
    clear(state, m, lambda key: _has_lost_its_reason(run, key, stalled), Resolution.CHANGED)
    for stage in [stage for stage in run.tasks if stage and run.group_complete(m.definition, stage)]:
        end_stage(state, m, run, stage)
    end_if_complete(state, m, run)


def _keep_stalled_tasks(state: EngineState, m: Monitor, run: Run) -> bool:
    """Keep only the tasks that are stalled by the new `stall_for`. Return whether there are any."""
    stall_for = m.definition.stall_for
    any_left = False
    for group in run.tasks.values():
        kept = [
            name
            for name in group.stalled or ()
            if stall_for is not None and group.counts and group.counts[name].at + stall_for <= state.now
        ]
        group.stalled = dict.fromkeys(kept) or None
        any_left = any_left or bool(kept)
    return any_left


def _reevaluate_tasks(state: EngineState, m: Monitor, run: Run) -> None:
    """Set or drop the faults of the run's tasks, by the number of failures that the new definition tolerates."""
    for stage, group in run.tasks.items():
        tasks, fault = tasks_of(m.definition, stage), ("tasks", stage)
        if not group.too_many_failed(tasks):
            drop_fault(state, m, run, fault)
        elif fault not in run.faults:  # it fails by the new definition, but a tolerated failure counts against no run
            set_fault(state, m, run, fault, reasons.tasks_failed(group, tasks, stage, run))


def _has_lost_its_reason(run: Run, key: CauseKey, stalled: bool) -> bool:
    """Whether the broken limit or the fault of a cause of this run no longer exists (S16.11)."""
    kind, number, stage = key
    if number != run.number or kind not in (CauseKind.HUNG, CauseKind.STAGE, CauseKind.TASKS):
        return False
    if kind == CauseKind.HUNG:
        return not stalled and not run.broken & _HUNG
    return (kind, stage) not in run.broken and (kind, stage) not in run.faults


def _is_over(state: EngineState, m: Monitor, limit: Limit) -> bool:
    return state.moved(m, limit.base, limit.base + limit.length) <= state.now
