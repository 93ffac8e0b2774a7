"""Opening, changing and resolving incidents, and when people are told.

At most one incident is open per monitor; it holds causes. It opens at the deadline that was missed, is told once, again
only for another run or a worse cause, and resolves when no cause is left. Whether it is told at once, later or not at
all (snooze, pause, an upstream that explains it) never changes the record.
"""

from collections.abc import Callable
from typing import Any

from server.engine import sentences
from server.engine.desk import Desk
from server.engine.effects import Alert
from server.engine.ping import Micros
from server.engine.state import RANKS, Cause, CauseKey, Incident, Monitor


def blame(desk: Desk, m: Monitor, cause: Cause, counts: bool = True) -> None:
    """Something went wrong. `counts`: it is one more miss or failure in a row."""
    if counts:
        if not m.streak:
            m.streak_since = cause.opened_at
        m.streak += 1
        m.goods = 0
        desk.open_for(m)
    incident = m.incident
    if incident is None:
        if m.streak < m.definition.fail_after and counts:
            return
        m.incidents += 1
        opened_at = m.streak_since if counts else cause.opened_at
        incident = m.incident = Incident(m.incidents, opened_at)
        incident.causes[cause.key] = cause
        _plan_announcement(desk, m, incident)
    else:
        known = incident.causes.get(cause.key)
        if known is not None:
            cause.opened_at = known.opened_at
        incident.causes[cause.key] = cause
    desk.restate(m)
    record(desk, m, incident)
    if incident.announce_at == desk.now:
        announce(desk, m)
    elif incident.announced:
        _tell_if_worse(desk, m, incident, cause)


def clear(desk: Desk, m: Monitor, which: Callable[[CauseKey], bool]) -> None:
    """These causes are over. The incident resolves with the last of them."""
    incident = m.incident
    if incident is None:
        return
    over = [key for key in incident.causes if which(key)]
    if not over:
        return
    if len(over) == len(incident.causes):
        resolve(desk, m)
        return
    for key in over:
        del incident.causes[key]
    record(desk, m, incident)


def resolve(desk: Desk, m: Monitor, quietly: bool = False) -> None:
    """The trouble is over; the causes stay in the record. `quietly`: nobody is told."""
    incident = m.incident
    if incident is None:
        return
    m.incident = None
    causes = _worst_first(incident)
    desk.record_incident(m, incident, desk.now, causes)
    if incident.announced and not quietly:
        _alert(desk, m, incident, "resolved", causes, resolved_at=desk.now)
    desk.restate(m)
    release_dependents(desk, m)


def announce(desk: Desk, m: Monitor) -> None:
    """The moment to tell people has come, unless they are not to be told yet."""
    incident = m.incident
    if incident is None or incident.announced:
        return
    incident.announce_at = None
    incident.suppressed_by = None
    if (until := muted_until(m, desk.now)) is not None:
        incident.announce_at = until
        return
    if (up := _upstream_in_trouble(desk, m)) is not None:
        incident.suppressed_by = up.id
        record(desk, m, incident)
        return
    incident.announced = True
    incident.told_rank = RANKS[incident.worst.kind]
    incident.told_runs = {cause.number for cause in incident.causes.values() if cause.number}
    _alert(desk, m, incident, "opened", _worst_first(incident))
    record(desk, m, incident)


def muted_until(m: Monitor, now: Micros) -> Micros | None:
    """Until when alerts of this monitor are held back; None: they are not."""
    return m.snoozed_until if m.snoozed_until > now else None


def release_dependents(desk: Desk, up: Monitor) -> None:
    """A monitor is well again: those whose trouble it explained get one period and grace of their own."""
    line, seen = [up], {up.id}
    for each in line:
        for down_id in sorted(desk.dependents.get((each.project_id, each.slug), ())):
            down = desk.monitors.get(down_id)
            if down is None or down_id in seen:
                continue
            seen.add(down_id)
            line.append(down)
            if down.incident is not None and down.incident.suppressed_by == up.id:
                down.incident.suppressed_by = None
                down.incident.announce_at = desk.now + desk.breather(down)
                record(desk, down, down.incident)
                desk.arm(down)


def _plan_announcement(desk: Desk, m: Monitor, incident: Incident) -> None:
    """At once, unless an upstream has still to be judged: then when it is, at most `dependency_wait` from now."""
    at = desk.now
    limit = desk.now + m.definition.dependency_wait
    for up in desk.upstreams(m):
        if up.paused or up.incident is not None:
            continue
        deadline = desk.next_of(up)
        if deadline > desk.now - m.definition.dependency_wait and up.heard_at <= incident.opened_at:
            at = max(at, min(deadline + 1, limit))
    incident.announce_at = at


def _upstream_in_trouble(desk: Desk, m: Monitor) -> Monitor | None:
    return next((up for up in desk.upstreams(m) if up.incident is not None and not up.paused), None)


def _tell_if_worse(desk: Desk, m: Monitor, incident: Incident, cause: Cause) -> None:
    rank = RANKS[cause.kind]
    another_run = cause.number and cause.number not in incident.told_runs
    if not another_run and rank <= incident.told_rank:
        return
    incident.told_rank = max(rank, incident.told_rank)
    if cause.number:
        incident.told_runs.add(cause.number)
    if muted_until(m, desk.now) is None:
        _alert(desk, m, incident, "worse", [cause, *(c for c in _worst_first(incident) if c is not cause)])


def _worst_first(incident: Incident) -> list[Cause]:
    return sorted(incident.causes.values(), key=lambda cause: (-RANKS[cause.kind], cause.opened_at))


def record(desk: Desk, m: Monitor, incident: Incident) -> None:
    """The row of an open incident is to be written."""
    desk.record_incident(m, incident, None, _worst_first(incident))


def _alert(
    desk: Desk, m: Monitor, incident: Incident, kind: str, causes: list[Cause], resolved_at: Micros | None = None
) -> None:
    incident.ordinal += 1
    worst = causes[0]
    facts: dict[str, Any] = {
        "monitor": m.slug,
        "name": m.name,
        "tags": list(m.definition.tags),
        "incident": incident.number,
        "kind": kind,
        "status": "up" if resolved_at else "down",
        "cause": worst.kind,
        "reason": worst.reason,
        "run": worst.run,
        "stage": worst.stage,
        "causes": [{"cause": c.kind, "reason": c.reason, "run": c.run, "stage": c.stage} for c in causes],
        "opened_at": incident.opened_at,
        "resolved_at": resolved_at,
        "decided_at": desk.now,
        "due_at": m.due or None,
        "last_ping_at": m.heard_at or None,
        "expected": sentences.expected(m.definition),
    }
    run = m.runs.open.get(worst.number) if m.runs is not None and worst.number else None
    if run is not None:
        facts["last_message"] = run.message
        facts["detail"] = run.detail(m.definition, sentences.NAMES_SHOWN_MAX)
    desk.open_for(m).alerts.append(
        Alert(incident.number, incident.ordinal, kind, desk.now, m.definition.channels, facts)
    )
