"""Rules for deadlines: a deadline has passed without the expected ping.

A monitor is evaluated when the earliest of its deadlines passes. Usually a ping has moved that deadline since, and
nothing is wrong. Outages count against no monitor: if more than half of the watched time was an outage, the occurrence
is excused, twice in a row at most.
"""

from offbeat_server.common.instants import Micros
from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.active_tasks import TaskLimit
from offbeat_server.engine.model.enums import CauseKind
from offbeat_server.engine.model.monitor import Cause, Monitor
from offbeat_server.engine.model.run import TASK_LIMITS, Limit, Run
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.rules.fleets import evaluate_members
from offbeat_server.engine.rules.incidents import record_failure
from offbeat_server.engine.rules.notifications import notify_if_due
from offbeat_server.engine.schedule import business_dates
from offbeat_server.engine.schedule.due_times import calendar_of, due_from, next_due, window_start
from offbeat_server.engine.schedule.outage_intervals import LOSS_SHARE

EXCUSED_MAX = 2  # occurrences in a row
_CAUSE_OF = {"stage": CauseKind.STAGE, "tasks": CauseKind.TASKS}


def evaluate(state: EngineState, m: Monitor, when: Micros) -> None:
    """Evaluate every deadline of this monitor that has come at `when`; that of the schedule once."""
    deadline = state.schedule_deadline(m)
    if deadline is not None and deadline <= when:
        _evaluate_schedule(state, m, deadline)
    if m.awaited:
        _evaluate_awaited(state, m, when)
    if m.runs is not None:
        for run in m.runs.take_until(when):
            _evaluate_run(state, m, run, when)
    if m.fleet is not None:
        evaluate_members(state, m, when)
    notify_if_due(state, m)


def _evaluate_schedule(state: EngineState, m: Monitor, deadline: Micros) -> None:
    definition, due = m.definition, m.due
    assert due is not None  # without it there is no deadline
    if m.last_ping_at is not None:
        start, end = window_start(definition, due), due + definition.grace
        reason = reasons.missed(definition, due, deadline, m.last_ping_at)
    else:
        start, end = due - (definition.first_within or 0), due
        reason = reasons.never_pinged(definition, deadline)
    outage_time = 0 if definition.count_outages else state.outages.within(start, deadline)
    if _is_excused(state, m, outage_time, end - start):
        # An interval begins again, a calendar continues with the next slot, not with one that is long past.
        if m.last_ping_at is not None:
            m.due = due_from(definition, None, deadline)
        else:
            m.due = deadline + (definition.first_within or 0)
        return
    reason += reasons.outage_note(definition, state.outages, start, deadline) if outage_time else ""
    is_calendar = calendar_of(definition) is not None and m.last_ping_at is not None
    date = business_dates.of_slot(definition, due) if is_calendar else None
    if date is not None and (other := _run_for_another_date(m, date, start)) is not None:
        reason += reasons.for_another_date(*other)
    cause = Cause(CauseKind.MISSED, deadline, reason, due=due, business_date=date)
    _miss(state, m, cause)
    if m.incident is not None and cause.key in m.incident.causes:
        m.incident.silent = True
    elif m.last_ping_at is not None:
        m.due = next_due(definition, due)
    else:
        m.due = deadline + (definition.first_within or 0)


def _run_for_another_date(m: Monitor, date: str, since: Micros) -> tuple[str | None, str] | None:
    """The id and the date of the last run since an instant that named another date than this."""
    if m.runs is None:
        return None
    dated: list[tuple[Micros, str | None, str | None]] = [
        *(
            (run.started_at or run.last_at, run.run, run.business_date)
            for run in m.runs.open.values()
            if run.is_date_named
        ),
        *(
            (each.started or each.at, run, each.business_date)
            for run, each in m.runs.closed.items()
            if each.is_date_named
        ),
    ]
    found = [each for each in dated if each[0] >= since and each[2] != date]
    if not found:
        return None
    _, run_id, other = max(found, key=lambda each: each[0])
    assert other is not None
    return run_id, other


def _evaluate_awaited(state: EngineState, m: Monitor, when: Micros) -> None:
    """The upstream monitor has pinged; the ping of this one is missing."""
    assert m.awaited is not None and m.definition.after is not None
    within, grace = m.definition.after.within, m.definition.grace
    for run, due in list(m.awaited.items()):
        deadline = state.awaited_deadline(m, due)
        if deadline > when:
            continue
        del m.awaited[run]
        if m.last_ping_at is not None or m.definition.first_within is None:
            m.due = min(m.awaited.values(), default=None)
        state.open_for(m)
        outage_time = 0 if m.definition.count_outages else state.outages.within(due - within, deadline)
        if _is_excused(state, m, outage_time, within + grace):
            continue
        reason = reasons.awaited(m.definition, due, deadline, run)
        reason += reasons.outage_note(m.definition, state.outages, due - within, deadline) if outage_time else ""
        _miss(state, m, Cause(CauseKind.MISSED, deadline, reason, run=run or None, due=due))


def _is_excused(state: EngineState, m: Monitor, outage_time: Micros, window: Micros) -> bool:
    """Whether more than half of a window was an outage, and not both windows before it were excused."""
    if outage_time * 2 <= window or m.excused >= EXCUSED_MAX:
        return False
    m.excused += 1
    state.excused += 1
    state.update_status(m)
    state.open_for(m)
    return True


def _miss(state: EngineState, m: Monitor, cause: Cause) -> None:
    m.excused = 0
    state.missed += 1
    record_failure(state, m, cause)
    state.update_status(m)


def _evaluate_run(state: EngineState, m: Monitor, run: Run, when: Micros) -> None:
    """Record the limits of an open run that are broken, and queue the next."""
    while broken := _broken(state, m, run, when):
        for limit, deadline in broken:
            if limit.kind in TASK_LIMITS:
                _break_tasks(state, m, run, limit, when)
            else:
                _break(state, m, run, limit, deadline)
    state.queue_run(m, run)


def _broken(state: EngineState, m: Monitor, run: Run, when: Micros) -> list[tuple[Limit, Micros]]:
    limits = [(limit, state.run_deadline(m, run, limit)) for limit in run.limits(m.definition)]
    return [(limit, deadline) for limit, deadline in limits if deadline <= when]


def _break(state: EngineState, m: Monitor, run: Run, limit: Limit, deadline: Micros) -> None:
    if limit.task:
        run.tasks[limit.stage].stall(limit.task)
    else:
        run.broken.add((limit.kind, limit.stage))
    state.open_for(m)
    outage_time = 0 if m.definition.count_outages else state.outages.within(limit.base, deadline)
    note = reasons.outage_note(m.definition, state.outages, limit.base, deadline) if outage_time else ""
    if outage_time * 2 > deadline - limit.base:
        _leave_unverified(state, m, run, f"cannot be evaluated{note}")
        return
    if _may_be_lost(state, m, run, limit, deadline, outage_time):
        what = reasons.broken(m.definition, run, limit, deadline)
        _leave_unverified(state, m, run, f"unverified because of an outage of Offbeat: {what}{note}")
        return
    kind = _CAUSE_OF.get(limit.kind, CauseKind.HUNG)
    reason = reasons.broken(m.definition, run, limit, deadline) + note
    run.hang(limit, reason)
    state.record_run(m, run)
    record_failure(state, m, Cause(kind, deadline, reason, run.number, run.run, limit.stage or None), run)


def _break_tasks(state: EngineState, m: Monitor, run: Run, first: Limit, when: Micros) -> None:
    """Apply a limit of single tasks to all tasks of a group for which its deadline has come, with one cause."""
    kind: TaskLimit = "task overdue" if first.kind == "task overdue" else "task silent"
    work = run.tasks[first.stage].active
    assert work is not None  # it gave the limit
    opened_at: Micros | None = None
    for limit, deadline in _due_tasks(state, m, run, first, work.watched(kind), when):
        if _may_hide_a_task(state, m, run, limit, deadline, work.last_ping(limit.task)):
            work.excuse(kind, limit.task)
            continue
        work.break_limit(kind, limit.task)
        opened_at = deadline if opened_at is None else opened_at
    state.open_for(m)
    if opened_at is None:
        return
    was_hung, reason = run.hung is not None, reasons.tasks_hung(m.definition, run, first.stage)
    run.hang(first, reason)
    if was_hung:  # thousands of tasks may follow one another, and only the reason is new
        state.update_run_reason(m, run)
    else:
        state.record_run(m, run)
    record_failure(state, m, Cause(CauseKind.HUNG, opened_at, reason, run.number, run.run, first.stage or None), run)


def _due_tasks(
    state: EngineState, m: Monitor, run: Run, first: Limit, watched: dict[str, Micros], when: Micros
) -> list[tuple[Limit, Micros]]:
    """The limits of a group whose deadlines have come: the first ones, because `watched` is in the order of time."""
    due: list[tuple[Limit, Micros]] = []
    for name, base in watched.items():
        limit = first._replace(base=base, task=name)
        if (deadline := state.run_deadline(m, run, limit)) > when:
            break
        due.append((limit, deadline))
    return due


def _may_hide_a_task(
    state: EngineState, m: Monitor, run: Run, limit: Limit, deadline: Micros, last_ping_at: Micros
) -> bool:
    """Whether the ping that a limit of a single task misses may have been sent in an outage, and was lost."""
    if m.definition.count_outages:
        return False
    if run.unverified_reason is not None:
        return True
    outage = state.outages.last_outage(limit.base, deadline)
    if outage is None or last_ping_at >= outage[1]:
        return False
    return state.outages.within(limit.base, deadline) * LOSS_SHARE >= deadline - limit.base


def _leave_unverified(state: EngineState, m: Monitor, run: Run, reason: str) -> None:
    state.excused += run.unverified_reason is None
    run.unverified_reason = reason
    state.record_run(m, run)


def _may_be_lost(state: EngineState, m: Monitor, run: Run, limit: Limit, deadline: Micros, outage_time: Micros) -> bool:
    """Whether the pings that a limit misses may have been sent in an outage, by a client that does not retry.

    A fan-out sends many pings, so any outage may have taken some. A single ping is lost as likely as the outage is
    long; if that is less than one in a hundred, a job that died is the better explanation.
    """
    if m.definition.count_outages:
        return False
    if run.unverified_reason is not None:
        return True
    if run.has_outstanding_tasks(m.definition) and state.outages.last_outage(run.started_at or limit.base, deadline):
        return True
    outage = state.outages.last_outage(limit.base, deadline)
    if outage is None:
        return False
    if limit.kind == "tasks" or (limit.kind == "stage" and run.has_passed(m.definition, limit.stage)):
        return True
    return run.last_at < outage[1] and outage_time * LOSS_SHARE >= deadline - limit.base
