"""Who is told of an incident, and when: at once, later or not at all. It never changes the record.

Told is the opening, then a worse cause at once, another run or a greater loss of a fleet at most every ten minutes, and
the end of whatever was told. An opening waits until the monitors it depends on were judged for the same time; while one
of them is in trouble itself it explains this one. Snooze and maintenance windows hold everything back but the end.
"""

from typing import Any

from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.engine.decisions import Alert
from offbeat_server.engine.engine_state import Blame, Desk
from offbeat_server.engine.model.monitor import RANKS, Cause, Incident, Monitor
from offbeat_server.engine.model.run import Run
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.schedule.due_times import breather_end

TELL_AGAIN_MIN: Micros = 600 * SECOND  # between two alerts of an incident, where the second is no worse
TELL_DOUBLED_MIN: Micros = 60 * SECOND  # where a fleet lacks more than twice as many: who dies together goes soon


def plan_opening(desk: Desk, m: Monitor, incident: Incident, cause: Cause) -> None:
    """When people are to be told of a new incident: now, or when what may explain it was judged."""
    now, definition = desk.now, m.definition
    at = now
    for up in desk.upstreams(m):
        if up.paused or up.incident is not None:
            continue
        if up.heard_at <= incident.opened_at and (deadline := _next_judgement(desk, up)):
            at = max(at, min(deadline + 1, now + definition.dependency_wait))
        if cause.due and up.status in ("up", "unwatched") and up.incidents and cause.due <= up.since:
            at = max(at, breather_end(definition, up.since))  # it was due while that one was down
    if cause.due:
        for end in desk.window_ends(m, cause.due):
            at = max(at, breather_end(definition, end))
    incident.announce_at = at


def _next_judgement(desk: Desk, up: Monitor) -> Micros:
    """When an upstream that is silent now is found to be; 0: nothing is expected of it at a time."""
    members = up.definition.members
    if members is not None and up.fleet is not None and up.fleet.alive:
        return desk.now + members.every + members.grace
    deadline = desk.schedule_deadline(up)
    if not up.awaited:
        return deadline
    awaited = desk.awaited_deadline(up, min(up.awaited.values()))
    return min(deadline, awaited) if deadline else awaited


def tell_if_due(desk: Desk, m: Monitor) -> None:
    """Tell people, if something is to be told and its time has come."""
    incident = m.incident
    if incident is None or not (at := desk.tell_at(m, incident)) or at > desk.now:
        return
    incident.announce_at = None
    if incident.announced:
        untold = [cause for cause in incident.causes.values() if _is_news(incident, cause)]
        if untold:
            _tell(desk, m, incident, "worse", max(untold, key=lambda cause: cause.blamed_at))
        return
    up = next((up for up in desk.upstreams(m) if up.incident is not None and not up.paused), None)
    if up is not None:
        incident.suppressed_by = up.id
    else:
        incident.announced = True
        _tell(desk, m, incident, "opened", None)
    desk.record_incident(m, incident)


def plan_worse(desk: Desk, m: Monitor, incident: Incident, cause: Cause) -> None:
    """A further cause of an incident that people know of."""
    if not _is_news(incident, cause):
        return
    at = desk.now
    if RANKS[cause.kind] <= incident.told_rank:
        doubled = cause.lacking > 2 * incident.told_lacking
        at = max(at, incident.told_at + (TELL_DOUBLED_MIN if doubled else TELL_AGAIN_MIN))
    if incident.announce_at is None or at < incident.announce_at:
        incident.announce_at = at


def tell_end(desk: Desk, m: Monitor, incident: Incident, how: str) -> None:
    """The incident is over; those who were told of it are told so, whatever holds other alerts back."""
    if incident.announced:
        _alert(desk, m, incident, "resolved", incident.worst_first, resolution=how)


def release(desk: Desk, m: Monitor) -> None:
    """A monitor is well again: at the end of this instant those it explained get one period and grace of their own."""
    if desk.dependents.get((m.project_id, m.slug)):
        desk.releases.append((m.id, desk.now, desk.downstreams(m)))
        desk.deadlines.push(desk.now, 0)


def release_one(desk: Desk, leave_out: Blame) -> bool:
    """One step of what `release` has begun; whether there was one to take."""
    if not desk.releases:
        return False
    up_id, since, downs = desk.releases[0]
    down_id = next(downs, None)
    if down_id is None:
        del desk.releases[0]
    elif (down := desk.monitors.get(down_id)) is not None:
        try:
            let_go(desk, down, up_id, since)
        except Exception as error:
            leave_out(down_id, error)
    return True


def let_go(desk: Desk, m: Monitor, up_id: int, since: Micros) -> None:
    """What explained this monitor's trouble is over since then."""
    incident = m.incident
    if incident is None or incident.announced or incident.suppressed_by != up_id:
        return
    incident.suppressed_by = None
    incident.held_by = up.slug if (up := desk.monitors.get(up_id)) is not None else ""
    incident.held_until = since
    incident.announce_at = breather_end(m.definition, since)
    desk.record_incident(m, incident)
    desk.arm(m)


def look_again(desk: Desk, project_id: int, leave_out: Blame) -> None:
    """A window was changed: what it held back may be told, or must wait."""
    for monitor_id in sorted(desk.troubled):
        m = desk.monitors[monitor_id]
        if m.project_id == project_id:
            try:
                tell_if_due(desk, m)
                desk.arm(m)
            except Exception as error:
                leave_out(monitor_id, error)


def repair(desk: Desk, m: Monitor) -> None:
    """Let go of what explained this monitor's trouble, where the last keeper had no time to.

    The end of an upstream's incident is written before those that it releases, since they may be very many.
    """
    incident = m.incident
    if incident is None or incident.announced or incident.suppressed_by is None or incident.announce_at is not None:
        return
    up = desk.monitors.get(incident.suppressed_by)
    if up is None or up.incident is None:
        let_go(desk, m, incident.suppressed_by, up.since if up is not None else desk.now)


def _is_news(incident: Incident, cause: Cause) -> bool:
    another_run = cause.number > 0 and cause.number not in incident.told_runs
    return another_run or cause.lacking > incident.told_lacking or RANKS[cause.kind] > incident.told_rank


def _tell(desk: Desk, m: Monitor, incident: Incident, kind: str, first: Cause | None) -> None:
    causes = incident.worst_first
    if first is not None:
        causes = [first, *(cause for cause in causes if cause is not first)]
    incident.told_at = desk.now
    incident.told_rank = max(incident.told_rank, *(RANKS[cause.kind] for cause in causes))
    incident.told_lacking = max(incident.told_lacking, *(cause.lacking for cause in causes))
    incident.told_runs = {cause.number for cause in causes if cause.number}
    _alert(desk, m, incident, kind, causes)


def evidence_of(m: Monitor, run: Run) -> dict[str, Any]:
    """What an alert says of a run: since when, its last output, its stages, tasks and progress."""
    return {
        "stage": run.at_work if run.verdict == "failed" else None,
        "last_ping_at": run.last_at,
        "run_started_at": run.started_at or None,
        "run_finished_at": run.finished_at or None,
        "last_message": run.message,
        "detail": run.detail(m.definition, reasons.NAMES_SHOWN_MAX),
    }


def _alert(
    desk: Desk, m: Monitor, incident: Incident, kind: str, causes: list[Cause], resolution: str | None = None
) -> None:
    incident.ordinal += 1
    worst = causes[0]
    facts: dict[str, Any] = {
        "monitor": m.slug,
        "name": m.name,
        "tags": list(m.tags),
        "timezone": m.definition.timezone,
        "incident": incident.number,
        "kind": kind,
        "status": "down" if resolution is None else "up",
        "cause": worst.kind,
        "reason": worst.reason,
        "run": worst.run,
        "stage": worst.stage,
        "causes": [{"cause": c.kind, "reason": c.reason, "run": c.run, "stage": c.stage} for c in causes],
        "opened_at": incident.opened_at,
        "resolved_at": desk.now if resolution is not None else None,
        "resolution": resolution,
        "decided_at": desk.now,
        "due_at": m.due or None,
        "last_ping_at": m.heard_at or None,
        "expected": reasons.expected(m.definition),
    }
    if incident.held_by and kind == "opened":
        facts["held_back"] = reasons.held_back(m.definition, incident.held_by, incident.held_until)
    run = m.runs.open.get(worst.number) if m.runs is not None and worst.number else None
    evidence = evidence_of(m, run) if run is not None else worst.evidence
    if evidence is not None:
        stage = evidence.get("stage")
        facts.update(evidence, last_ping_at=max(m.heard_at, evidence.get("last_ping_at", 0)) or None)
        facts["stage"] = worst.stage or stage
    desk.open_for(m).alerts.append(
        Alert(incident.number, incident.ordinal, kind, desk.now, m.definition.channels, facts)
    )
