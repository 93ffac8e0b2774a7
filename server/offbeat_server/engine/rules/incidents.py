"""Opening, changing and resolving incidents.

At most one incident is open per monitor; it holds causes. It opens at the deadline that was missed, once the number of
consecutive failures is more than the monitor tolerates, and resolves when no cause is left.
"""

from collections.abc import Callable, Collection

from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.enums import CauseKind, Resolution
from offbeat_server.engine.model.monitor import EXPECTED, Cause, CauseKey, Incident, Monitor
from offbeat_server.engine.model.run import Run
from offbeat_server.engine.rules import notifications, reasons
from offbeat_server.engine.rules.business_dates import Success, is_about, is_bound
from offbeat_server.engine.rules.holds import end_holds, update_holds
from offbeat_server.engine.schedule.due_times import due_from

CAUSES_MAX = 100  # of one incident; beyond, the oldest is no longer held


def record_failure(
    state: EngineState,
    m: Monitor,
    cause: Cause,
    run: Run | None = None,
    counts: bool = True,
    *,
    is_backfill: bool = False,
    is_known: bool = False,
) -> None:
    """Something went wrong. It is one more failure in a row, but a `run` is only one of them however much it breaks.

    `is_backfill`, as of a run for an earlier date: it is no failure in a row, and needs none before it. `is_known`: a
    person has said so, and gets no alert about this run.
    """
    if m.paused and cause.kind in EXPECTED:
        return
    if run is not None and cause.number:
        cause.business_date, cause.is_date_named = run.business_date, run.is_date_named
    alone = is_backfill or (run is not None and run.is_backfill)
    if alone:
        counts = False
    elif run is not None:
        counts, run.counted = counts and not run.counted, True
    cause.last_failed_at = state.now
    m.last_repeat_key = ""  # every later ping counts as a new one
    if run is not None and run.verdict is not None and cause.evidence is None and not is_known:
        cause.evidence = notifications.evidence_of(m, run)
    incident = m.incident
    if counts:
        if not m.streak:
            m.streak_since = cause.opened_at
        m.streak += 1
        state.open_for(m)
        for each in incident.causes.values() if incident is not None else ():
            each.consecutive_successes = 0
    if incident is None:
        if (1 if alone else m.streak) < m.definition.fail_after:
            return
        since = cause.opened_at if alone else m.streak_since
        assert since is not None  # there was a failure
        m.incidents += 1
        incident = m.incident = Incident(m.incidents, since)
        incident.causes[cause.key] = cause
        state.with_incident.add(m.id)
        if (earlier := m.unreported) is not None:
            m.unreported = None
            incident.take_over(earlier)
            end_holds(state, earlier)
            state.record_incident(m, earlier)
        if is_known:
            incident.known_runs.add(cause.number)
        if not is_known or incident.closed:
            notifications.schedule_opening(state, m, incident, cause)
    else:
        if is_known:
            incident.known_runs.add(cause.number)
        known = incident.causes.get(cause.key)
        if known is not None:
            cause.opened_at = known.opened_at
        incident.causes[cause.key] = cause
        if len(incident.causes) > CAUSES_MAX:
            oldest = min(incident.causes.values(), key=lambda each: (each.opened_at, each.number))
            del incident.causes[oldest.key]
        incident.drop_evidence()
        if incident.announced:
            notifications.schedule_worse(state, m, incident, cause, run)
        elif not (is_known or incident.suppressed_by) and (cause.kind not in EXPECTED or incident.announce_at is None):
            notifications.schedule_opening(state, m, incident, cause)  # None: its causes until now were known
    if m.definition.members is None:  # of a fleet, `run` is a member
        incident.count_run(cause)
    state.update_status(m)
    state.record_incident(m, incident)
    notifications.notify_if_due(state, m)
    if incident.announced and incident.announce_at is None:
        cause.evidence = None  # it is in an alert already, or needs none


def update_reason(state: EngineState, m: Monitor, key: CauseKey, reason: str) -> None:
    """Update the facts of a cause that continues."""
    incident = m.incident
    if incident is not None and key in incident.causes:
        incident.causes[key].reason = reason
        state.record_incident(m, incident)


def record_success(state: EngineState, m: Monitor, success: Success) -> None:
    """A success that counts. It speaks against every cause that is older than it and that it is about.

    It closes those against which `recover_after` have spoken; of its own business date at once.
    """
    if not success.is_backfill:
        m.streak = 0
    incident = m.incident
    if incident is None:
        return
    over, same = set[CauseKey](), set[CauseKey]()
    for key, cause in incident.causes.items():
        if not is_about(m, cause, success) or not _is_later(m, cause, success):
            continue
        cause.consecutive_successes += 1
        is_same = cause.business_date is not None and cause.business_date == success.business_date
        if cause.consecutive_successes >= m.definition.recover_after or (is_same and is_bound(m, cause, success)):
            over.add(key)
            if is_same:
                same.add(key)  # what failed has succeeded, so nothing is left to report of it
    if over:
        by = reasons.recovered_by(success.run, success.business_date)
        clear(state, m, over.__contains__, is_later=True, by=by, own=same)


def _is_later(m: Monitor, cause: Cause, success: Success) -> bool:
    """Whether a success is later than a cause: a run is, if the one that failed started before it."""
    number, since = success.number, success.since
    if not number:
        return True
    if cause.number:
        return number > cause.number
    if since is not None and since > cause.last_failed_at:
        return True
    return cause.kind == CauseKind.MISSED and m.definition.every is not None and not success.by_hand


def clear(
    state: EngineState,
    m: Monitor,
    which: Callable[[CauseKey], bool],
    how: Resolution = Resolution.RECOVERED,
    is_later: bool = False,
    by: str | None = None,
    own: Collection[CauseKey] = (),
) -> None:
    """These causes are over. The incident resolves with the last of them.

    `is_later`: by something that came after what failed, which says nothing about it. So it is still to be reported,
    except for the causes in `own`, whose occurrence has succeeded. `by`: what recovered, as words.
    """
    incident = m.incident
    if incident is None:
        return
    over = [key for key in incident.causes if which(key)]
    if not over:
        return
    if is_later:
        incident.keep_closed((incident.causes[key] for key in over if key not in own), state.now)
    if incident.silent and _last_miss(incident) in over:
        incident.silent = False  # it is over although no ping counted, so the next occurrence is expected
        if m.last_ping_at is not None:
            m.due = due_from(m.definition, m.due, state.now)
    if len(over) == len(incident.causes):
        resolve(state, m, how, by)
        return
    for key in over:
        del incident.causes[key]
    update_holds(state, m, incident)
    state.record_incident(m, incident)


def _last_miss(incident: Incident) -> CauseKey | None:
    """The miss of the schedule that opened last."""
    misses = [cause for cause in incident.causes.values() if cause.kind == CauseKind.MISSED and cause.run is None]
    return max(misses, key=lambda cause: cause.opened_at).key if misses else None


def resolve(state: EngineState, m: Monitor, how: Resolution, by: str | None = None) -> None:
    """Resolve the incident, and count failures from the beginning; the causes stay in the record.

    `how`: recovered, by hand, changed, paused, deleted.
    """
    incident = m.incident
    if incident is None:
        return
    m.incident = None
    m.streak = 0
    m.last_repeat_key = ""  # every later ping counts as a new one
    incident.resolved_at, incident.resolution, incident.recovered_by = state.now, how, by
    for run in m.runs.open.values() if m.runs is not None else ():
        run.counted = False
    for cause in incident.causes.values():
        cause.reason = cause.worst or cause.reason
    if incident.closed and how in (Resolution.RECOVERED, Resolution.CHANGED):
        m.unreported = incident
    else:
        end_holds(state, incident)
        state.with_incident.discard(m.id)
    notifications.notify_recovery(state, m, incident, how)
    state.record_incident(m, incident)
    state.update_status(m)
    notifications.release_held(state, m)


def drop_unreported(state: EngineState, m: Monitor) -> None:
    """A person knows of the incident that is over and was not reported, or no longer wants to."""
    incident = m.unreported
    if incident is not None:
        m.unreported = None
        state.with_incident.discard(m.id)
        end_holds(state, incident)
        state.record_incident(m, incident)
