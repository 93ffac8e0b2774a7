"""Rules for alerts about an incident: at once, later or not at all. They never change the record.

An alert is sent when an incident opens, at once for a worse cause, at most every ten minutes for another run or a
greater loss of a fleet, and for the end of every incident with an alert. An opening waits until the monitors that this
one depends on were evaluated for the same time; while one of them has an incident, that incident explains this one.
Snooze and maintenance windows hold back everything but the end. After what held the alert back, an explicit failure
is reported at once, also if a later success has resolved its incident; a missing ping has one more period to come.
"""

from collections.abc import Iterator
from itertools import islice
from typing import cast

from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.engine.decisions import Alert
from offbeat_server.engine.engine_state import RELEASES, EngineState, OnMonitorError
from offbeat_server.engine.model.alert_payload import AlertPayload, CausePayload
from offbeat_server.engine.model.enums import AlertKind, CauseKind, HoldKind, Resolution, Status, Verdict
from offbeat_server.engine.model.monitor import RANKS, Cause, Incident, Monitor
from offbeat_server.engine.model.run import Run
from offbeat_server.engine.model.run_detail import HoldDetail, RunEvidence
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.rules.holds import end_holds, hold, update_holds
from offbeat_server.engine.schedule.due_times import end_of_grace_period

ReportedCause = tuple[Cause, Micros | None]  # with the instant at which it closed; None: it is open

NOTIFY_AGAIN_MIN: Micros = 600 * SECOND  # between two alerts of an incident, where the second is no worse
NOTIFY_DOUBLED_MIN: Micros = 60 * SECOND  # if more than twice as many members are missing: a common cause shows early

RUNS_NAMED_MAX = 10  # in the alert about the end of an incident


def schedule_opening(state: EngineState, m: Monitor, incident: Incident, cause: Cause) -> None:
    """Plan the first alert about an incident: now, or when the monitors that may explain it were evaluated.

    A further cause can only make it due earlier.
    """
    waits = list(_waits(state, m, incident, cause))
    at = max((end for *_, end in waits), default=state.now)
    if incident.announce_at is None or at < incident.announce_at:
        incident.announce_at = at
        incident.holds = [*incident.holds, *(hold(kind, by, state.now, end) for kind, by, end in waits)]


def _waits(
    state: EngineState, m: Monitor, incident: Incident, cause: Cause
) -> Iterator[tuple[HoldKind, str | None, Micros]]:
    """List the waits of the first alert for this cause: kind, name and end, each later than now."""
    now, definition, due = state.now, m.definition, cause.due
    for up in state.upstreams(m):
        if up.paused or up.incident is not None:
            continue
        end = now
        is_silent = up.last_ping_at is None or up.last_ping_at <= incident.opened_at
        if is_silent and (deadline := _next_evaluation(state, up)) is not None:
            end = max(end, min(deadline + 1, now + definition.dependency_wait))
        if due is not None and up.status in (Status.UP, Status.UNWATCHED) and up.incidents and due <= up.since:
            end = max(end, end_of_grace_period(definition, up.since))  # it was due while that one was down
        if end > now:
            yield HoldKind.DEPENDENCY, up.slug, end
    for window, window_end in state.open_windows(m, due) if due is not None else ():
        if (end := end_of_grace_period(definition, window_end)) > now:
            yield HoldKind.MAINTENANCE, window.name, end


def _next_evaluation(state: EngineState, up: Monitor) -> Micros | None:
    """When an upstream that is silent now is found to be; None: nothing is expected of it at a time."""
    members = up.definition.members
    if members is not None and up.fleet is not None and up.fleet.alive:
        return state.now + members.every + members.grace
    deadline = state.schedule_deadline(up)
    if not up.awaited:
        return deadline
    awaited = state.awaited_deadline(up, min(up.awaited.values()))
    return min(deadline, awaited) if deadline is not None else awaited


def notify_if_due(state: EngineState, m: Monitor) -> None:
    """Send the planned alert, if there is one and its time has come."""
    incident = m.current_incident
    if incident is None:
        return
    at = state.notify_at(m, incident)
    if m.paused or at is None or at > state.now:
        update_holds(state, m, incident)
        return
    incident.announce_at = None
    if not incident.closed and all(incident.is_known(cause) for cause in incident.causes.values()):
        end_holds(state, incident)
        state.open_for(m)  # no alert records that the plan is over
        return
    if incident.announced:
        news = [cause for cause in incident.causes.values() if incident.is_news(cause)]
        if news:
            _notify(state, m, incident, AlertKind.WORSE, max(news, key=lambda cause: cause.last_failed_at))
        else:
            end_holds(state, incident)
    elif (up := next((up for up in state.upstreams(m) if up.incident is not None and not up.paused), None)) is not None:
        incident.suppressed_by = up.id
        update_holds(state, m, incident)
    else:
        incident.announced = True
        _notify(state, m, incident, AlertKind.OPENED, None)
    state.record_incident(m, incident)


def schedule_worse(state: EngineState, m: Monitor, incident: Incident, cause: Cause, run: Run | None) -> None:
    """Plan the alert about a further cause, of `run`, in an incident whose *opened* was issued."""
    if cause.kind == CauseKind.FAILED and run is not None and _says_why_it_fails(incident, run):
        incident.notified_rank = RANKS[CauseKind.FAILED]
    if not incident.is_news(cause):
        return
    at = state.now
    if incident.notified_at is not None and RANKS[cause.kind] <= incident.notified_rank:
        doubled = cause.shortfall > 2 * incident.notified_shortfall
        at = max(at, incident.notified_at + (NOTIFY_DOUBLED_MIN if doubled else NOTIFY_AGAIN_MIN))
    if incident.announce_at is None or at < incident.announce_at:
        incident.announce_at = at


def notify_recovery(state: EngineState, m: Monitor, incident: Incident, how: Resolution) -> None:
    """Send the end of an incident to every channel that received an alert about it, also if others are held back."""
    if incident.announced:
        causes: list[ReportedCause] = [(cause, incident.resolved_at) for cause in incident.worst_first]
        _alert(state, m, incident, AlertKind.RESOLVED, causes, [], how)


def release_held(state: EngineState, m: Monitor) -> None:
    """A monitor has recovered or is paused: at the end of this instant it no longer explains other incidents."""
    if state.dependents.get((m.project_id, m.slug)):
        state.releases.append((m.id, state.now, state.downstreams(m)))
        state.deadlines.push(state.now, RELEASES)


def release_one(state: EngineState, on_error: OnMonitorError) -> None:
    """Take one step of what `release_held` has begun."""
    up_id, since, downs = state.releases[0]
    down_id = next(downs, None)
    if down_id is None:
        del state.releases[0]
    elif (down := state.monitors.get(down_id)) is not None:
        try:
            release_held_by(state, down, up_id, since)
        except Exception as error:
            on_error(down_id, error)


def release_held_by(state: EngineState, m: Monitor, up_id: int, since: Micros) -> None:
    """The incident that explained this monitor's incident has ended."""
    incident = m.current_incident
    if incident is None or incident.announced or incident.suppressed_by != up_id:
        return
    incident.suppressed_by = None
    at_once = incident.tells_explicit_failure
    incident.announce_at = since if at_once else end_of_grace_period(m.definition, since)
    update_holds(state, m, incident)
    state.record_incident(m, incident)
    state.queue(m)


def recheck_after_window_change(state: EngineState, project_id: int, on_error: OnMonitorError) -> None:
    """Apply a changed window: alerts that it held back may be sent, or must wait."""
    for monitor_id in sorted(state.with_incident):
        m = state.monitors[monitor_id]
        if m.project_id == project_id:
            try:
                notify_if_due(state, m)
                state.queue(m)
            except Exception as error:
                on_error(monitor_id, error)


def repair(state: EngineState, m: Monitor) -> None:
    """Release a monitor from the incident that explained its own, if the last scheduler had no time for it.

    The end of an upstream's incident is written before those that it releases, since they may be very many.
    """
    incident = m.current_incident
    if incident is None or incident.announced or incident.suppressed_by is None or incident.announce_at is not None:
        return
    up = state.monitors.get(incident.suppressed_by)
    if up is None or up.incident is None or up.paused:
        release_held_by(state, m, incident.suppressed_by, up.since if up is not None else state.now)


def _says_why_it_fails(incident: Incident, run: Run) -> bool:
    """Whether alerts have named each failed stage and group of tasks of a run that has no running stage (S13.7)."""
    notified_at = incident.notified_at
    if not run.faults or notified_at is None or run.running_stages:
        return False
    causes = [incident.causes.get((CauseKind(kind), run.number, stage)) for kind, stage in run.faults]
    return all(cause is not None and cause.last_failed_at <= notified_at for cause in causes)


def _notify(state: EngineState, m: Monitor, incident: Incident, kind: AlertKind, first: Cause | None) -> None:
    causes = incident.worst_first
    if first is not None:
        causes = [first, *(cause for cause in causes if cause is not first)]
    held = end_holds(state, incident)
    incident.notified_at = state.now
    incident.notified_rank = max(incident.notified_rank, *(RANKS[cause.kind] for cause in causes))
    incident.notified_shortfall = max(incident.notified_shortfall, *(cause.shortfall for cause in causes))
    incident.notified_runs = {cause.number for cause in causes if cause.number}
    incident.notified_dates = {cause.business_date for cause in causes if cause.business_date is not None}
    closed: list[ReportedCause] = [(cause, at) for at, cause in incident.closed]
    incident.closed = []
    if incident.resolved_at is None:
        _alert(state, m, incident, kind, [*((cause, None) for cause in causes), *closed], held)
        return
    known = {cause.key for cause, _ in closed}
    closed += [(cause, incident.resolved_at) for cause in causes if cause.key not in known]
    _alert(state, m, incident, kind, closed, held)
    _alert(state, m, incident, AlertKind.RESOLVED, closed, held, incident.resolution)
    m.unreported = None
    state.with_incident.discard(m.id)


def evidence_of(m: Monitor, run: Run) -> RunEvidence[Micros]:
    """The facts of a run in an alert: its start, its last output, its stages, tasks and progress."""
    return {
        "stage": run.current_work if run.verdict == Verdict.FAILED else None,
        "last_ping_at": run.last_at,
        "run_started_at": run.started_at,
        "run_finished_at": run.finished_at,
        "last_message": run.message,
        "detail": run.detail(m.definition, reasons.NAMES_SHOWN_MAX),
    }


def _payload_of(cause: Cause, closed_at: Micros | None) -> CausePayload[Micros]:
    payload: CausePayload[Micros] = {
        "cause": cause.kind,
        "reason": cause.reason,
        "run": cause.run,
        "stage": cause.stage,
        "business_date": cause.business_date,
        "opened_at": cause.opened_at,
    }
    if closed_at is not None:
        payload["closed_at"] = closed_at
    return payload


def _alert(
    state: EngineState,
    m: Monitor,
    incident: Incident,
    kind: AlertKind,
    causes: list[ReportedCause],
    held: list[HoldDetail[Micros]],
    resolution: Resolution | None = None,
) -> None:
    incident.ordinal += 1
    worst = causes[0][0]
    facts: AlertPayload[Micros] = {
        "monitor": m.slug,
        "name": m.name,
        "tags": list(m.tags),
        "timezone": m.definition.timezone,
        "incident": incident.number,
        "kind": kind,
        "status": Status.DOWN if resolution is None else Status.UP,
        "cause": worst.kind,
        "reason": worst.reason,
        "run": worst.run,
        "stage": worst.stage,
        "business_date": worst.business_date,
        "causes": [_payload_of(cause, closed_at) for cause, closed_at in causes],
        "opened_at": incident.opened_at,
        "resolved_at": incident.resolved_at if resolution is not None else None,
        "resolution": resolution,
        "decided_at": state.now,
        "due_at": m.due,
        "last_ping_at": m.last_ping_at,
        "expected": reasons.expected(m.definition),
    }
    if held:
        facts["held"], facts["held_back"] = held, reasons.held_back(m.definition, held)
    if resolution is not None and incident.runs:
        named = islice(incident.runs.items(), RUNS_NAMED_MAX)
        facts["runs"] = [{"run": id, "number": key if isinstance(key, int) else None} for key, id in named]
        facts["runs_count"] = len(incident.runs)
    if resolution is not None and incident.recovered_by is not None:
        facts["recovered_by"] = incident.recovered_by
    run = m.runs.open.get(worst.number) if m.runs is not None and worst.number else None
    evidence = evidence_of(m, run) if run is not None else worst.evidence
    if evidence is not None:
        facts |= cast(AlertPayload[Micros], evidence)
        instants = [at for at in (m.last_ping_at, evidence.get("last_ping_at")) if at is not None]
        facts["last_ping_at"] = max(instants, default=None)
        facts["stage"] = worst.stage or evidence.get("stage")
    state.open_for(m).alerts.append(
        Alert(incident.number, incident.ordinal, kind, state.now, m.definition.channels, facts)
    )
