"""Rules for changes of a monitor with open runs or incidents: edit, pause, resume, resolution by hand, deletion.

An edit expects nothing before its own instant: no slot of the new schedule that had passed already, and no interval
that had run out. A deadline that an edit moves comes no earlier than the edit plus one grace period. A pause or a
resolution by hand ends the present expectation; the schedule begins again, with one period and one grace period.
"""

from collections.abc import Iterable

from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.definition import Definition
from offbeat_server.engine.model.enums import CauseKind, Resolution, Verdict
from offbeat_server.engine.model.monitor import MISSED, Monitor
from offbeat_server.engine.model.run import Limit, Run, tasks_of
from offbeat_server.engine.rules import notifications, reasons
from offbeat_server.engine.rules.fleets import forget_silent
from offbeat_server.engine.rules.incidents import clear, resolve
from offbeat_server.engine.rules.run_steps import drop_fault, end_if_complete, end_stage, set_fault
from offbeat_server.engine.rules.runs import close_run
from offbeat_server.engine.schedule.due_times import due_after, due_from, due_when_edited

_SCHEDULE = ("every", "cron", "oncalendar")
_LIMITS = ("max_runtime", "quiet_for", "stall_for", "stages", "tasks", "strict")
_HUNG = frozenset((("runtime", ""), ("quiet", ""), ("stalled", "")))


def redefine(state: EngineState, m: Monitor, old: Definition) -> None:
    """The definition was `old` until now."""
    new = m.definition
    if (new.members is None) != (old.members is None):
        _change_kind(state, m)
    if _differ(old, new, "after"):
        m.awaited = None
        if not m.heard_at and new.first_within is None:
            m.due = 0
        clear(state, m, lambda key: key[0] == CauseKind.MISSED and key != MISSED, Resolution.CHANGED)
    elif m.awaited and _differ(old, new, "grace", "strict"):
        m.awaited = {run: max(due, state.now) for run, due in m.awaited.items()}
        if m.heard_at or new.first_within is None:
            m.due = min(m.awaited.values())
    _change_schedule(state, m, old)
    if m.fleet is not None and new.members is not None and _differ(old, new, "members", "strict"):
        shorter = old.members is not None and new.members.every < old.members.every
        m.fleet.put_off(state.now + (new.members.every if shorter else 0) + new.members.grace)
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
    """Its pings are followed and nothing is judged."""
    m.paused = True
    resolve(state, m, Resolution.PAUSED)
    m.streak = 0
    m.awaited = None
    state.update_status(m)


def resume(state: EngineState, m: Monitor) -> None:
    """It is judged again, by what comes from now on."""
    m.paused = False
    m.excused = 0
    start_over(state, m)
    if m.fleet is not None and (members := m.definition.members) is not None:
        m.fleet.put_off(state.now + members.every + members.grace)
    if m.runs is not None:
        m.runs.put_off(state.now + m.definition.grace)
        for run in m.runs.open.values():
            run.broken.clear()
            for group in run.tasks.values():
                group.stalled = None
            if run.hung is not None or run.unjudged is not None:
                run.hung, run.hung_by, run.unjudged = None, "", None
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
    for run in list(m.runs.open.values()) if m.runs is not None else ():
        close_run(state, m, run, Verdict.UNKNOWN, "the monitor was deleted")


def start_over(state: EngineState, m: Monitor) -> None:
    """End the present expectation; the next ping is due one period later, or at the next slot."""
    definition = m.definition
    if not m.heard_at:
        m.due = state.now + definition.first_within if definition.first_within is not None else 0
    elif definition.after is None:
        m.due = due_from(definition, m.due, state.now)
    elif not m.awaited:
        m.due = 0


def queue_parts(state: EngineState, m: Monitor) -> None:
    """Look at runs and members when their limits, as they are now, would be broken."""
    for run in m.runs.open.values() if m.runs is not None else ():
        state.queue_run(m, run)
    if m.fleet is not None and (members := m.definition.members) is not None:
        m.fleet.arm_all(members.every + members.grace, members.forget_after)


def update_suppression(state: EngineState, monitor_ids: Iterable[int]) -> None:
    """Apply changed dependencies: an incident is no longer explained by a monitor that is no longer upstream."""
    for monitor_id in monitor_ids:
        m = state.monitors.get(monitor_id)
        if m is None or m.incident is None or m.incident.announced or (up_id := m.incident.suppressed_by) is None:
            continue
        up = state.monitors.get(up_id)
        if up is None or up.incident is None or up not in state.upstreams(m):
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


def _change_schedule(state: EngineState, m: Monitor, old: Definition) -> None:
    new, now = m.definition, state.now
    if not m.heard_at:
        if not _differ(old, new, "first_within"):
            return
        due = wanted = m.created_at + new.first_within if new.first_within is not None else 0
        late = bool(due) and due <= now
        if late and new.first_within is not None:
            due = now + new.first_within
            if old.first_within is not None and m.due > now:  # it was asked for sooner already
                due = min(due, m.due)
        m.due = max(due, now + new.grace) if due else min(m.awaited.values()) if m.awaited else 0
    else:
        if new.after is not None and new.after == old.after:
            return  # `redefine` has moved what is awaited; misses stay open until a ping answers them
        of_calendar = new.cron is not None or new.oncalendar is not None
        anew = _differ(old, new, *_SCHEDULE) or (of_calendar and _differ(old, new, "timezone"))
        if not anew and not _differ(old, new, "grace", "after", "strict"):
            return
        if new.after is not None:
            due = wanted = 0
        elif anew:
            before = m.due if any(getattr(old, name) for name in _SCHEDULE) else 0
            wanted, due = due_after(new, 0, m.heard_at), due_when_edited(new, before, m.heard_at, now)
        else:
            due = wanted = m.due if any(getattr(new, n) for n in _SCHEDULE) else 0
        late = bool(wanted) and wanted + new.grace <= now
        m.due = max(due, now) if due else 0
    if m.incident is not None and MISSED in m.incident.causes and not late:
        m.incident.silent = False
        clear(state, m, lambda key: key == MISSED, Resolution.CHANGED)
    elif m.incident is not None and m.incident.silent:
        m.due = wanted


def _reevaluate_run(state: EngineState, m: Monitor, run: Run) -> None:
    """A limit was changed: what no limit upholds any more is taken back, and pieces may be complete by now."""
    definition = m.definition
    marks = {(each.kind, each.stage) for each in run.limits(definition, judged=True) if _is_over(state, m, each)}
    run.broken &= marks
    stalled = False
    for group in run.tasks.values():
        stall_for = definition.stall_for
        kept = [
            name
            for name in group.stalled or ()
            if stall_for is not None and group.counts and group.counts[name].at + stall_for <= state.now
        ]
        group.stalled = dict.fromkeys(kept) or None
        stalled = stalled or bool(kept)
    if run.hung is not None and not run.broken and not stalled:
        run.hung, run.hung_by = None, ""
        state.record_run(m, run)
    for stage, group in run.tasks.items():
        tasks, fault = tasks_of(definition, stage), ("tasks", stage)
        if not group.too_many_failed(tasks):
            drop_fault(state, m, run, fault)
        elif fault not in run.faults:  # it fails by the new definition, but a tolerated failure counts against no run
            set_fault(state, m, run, fault, reasons.tasks_failed(group, tasks, stage, run))

    def is_taken_back(key: tuple[str, int, str]) -> bool:
        kind, number, stage = key
        if number != run.number or kind not in (CauseKind.HUNG, CauseKind.STAGE, CauseKind.TASKS):
            return False
        if kind == CauseKind.HUNG:
            return not stalled and not run.broken & _HUNG
        return (kind, stage) not in run.broken and (kind, stage) not in run.faults

    clear(state, m, is_taken_back, Resolution.CHANGED)
    for stage in [stage for stage in run.tasks if stage and run.group_complete(definition, stage)]:
        end_stage(state, m, run, stage)
    end_if_complete(state, m, run)


def _is_over(state: EngineState, m: Monitor, limit: Limit) -> bool:
    return state.moved(m, limit.base, limit.base + limit.length) <= state.now
