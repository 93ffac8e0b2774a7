"""Rules for the schedule: an event satisfies the due occurrence, and the next one is expected.

An interval is served by every satisfying ping. Everything else is served once per run: by what opens it, or by a finish
that was never started; and by every heartbeat that belongs to no run.
"""

from offbeat_server.common.instants import Micros
from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.enums import CauseKind
from offbeat_server.engine.model.monitor import Cause, Monitor
from offbeat_server.engine.model.ping import AFTER_ALL, OVERTAKEN_MAX, Entry
from offbeat_server.engine.model.run import Run
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.rules.business_dates import RunDate, Success, is_about
from offbeat_server.engine.rules.incidents import clear, record_failure
from offbeat_server.engine.schedule import business_dates
from offbeat_server.engine.schedule.due_times import calendar_of, due_after, expected_slot

AWAITED_MAX = 1_000  # runs of the monitor before, per follower; the followers of later ones are not watched


def apply_heartbeat(state: EngineState, m: Monitor) -> None:
    """A satisfying ping has arrived, of a run or of none."""
    every, first = m.definition.every, m.last_ping_at is None
    m.last_ping_at = state.now
    if every is not None:
        m.due = state.now + every
    elif first:  # what was due until now was the first ping
        m.due = min(m.awaited.values()) if m.awaited else None
    if m.incident is not None and (first or every is not None):
        m.incident.silent = False
    m.excused = 0
    state.update_status(m)


def satisfy_schedule(state: EngineState, m: Monitor, run: str | None, date: RunDate) -> None:
    """A run has begun, or a heartbeat came, for this date. The ping has satisfied an interval already."""
    definition, incident = m.definition, m.incident
    if definition.every is not None:
        return
    if definition.after is not None:
        if m.awaited and (key := _answered(m.awaited, run)) is not None:
            del m.awaited[key]
            if m.last_ping_at is not None or definition.first_within is None:
                m.due = min(m.awaited.values(), default=None)
            state.open_for(m)  # pages cannot tell from the ping alone which of the awaited it answered
        return
    slots = calendar_of(definition)
    if slots is None:
        return
    suspended = incident is not None and incident.silent
    if not date.is_named:
        if not date.serves:
            return
        m.due = due_after(definition, m.due, state.now, missed=suspended)
    else:
        expected = expected_slot(definition, m.due, state.now, suspended)
        if date.serves:
            assert expected is not None  # a named date counts for a slot
            m.due = slots.next_after(max(expected, state.now))
        elif m.due is None and not date.is_backfill:
            m.due = expected  # nothing was due yet
        elif suspended and m.last_ping_at and m.due and date.business_date == business_dates.of_slot(definition, m.due):
            m.due = expected  # the missed occurrence has come after all
        else:
            return
    if incident is not None:
        incident.silent = False


def _answered(awaited: dict[str, Micros], run: str | None) -> str | None:
    """Which of the awaited a ping is: its own run, or one that had no id; without an id the first."""
    if run is None:
        return next(iter(awaited))
    return run if run in awaited else "" if "" in awaited else None


def end_absence(state: EngineState, m: Monitor, run: str | None, success: Success = Success()) -> None:
    """It is there again. With `recover_after` successes to wait for, those decide instead."""
    incident = m.incident
    if incident is None or m.definition.recover_after != 1:
        return
    here = {
        key
        for key, cause in incident.causes.items()
        if cause.kind == CauseKind.MISSED and (run is None or cause.run in (None, run)) and is_about(m, cause, success)
    }
    clear(state, m, here.__contains__, by=reasons.recovered_by(run, success.business_date))


def count_occurrence(state: EngineState, m: Monitor, run: Run | None = None) -> bool:
    """Count a run or a heartbeat against `at_most`; whether it is one too many."""
    at_most = m.definition.at_most
    if at_most is None:
        return False
    recent = [at for at in m.recent or () if at > state.now - at_most.per]
    recent.append(state.now)
    m.recent = recent[-at_most.count - 1 :]
    if len(recent) <= at_most.count:
        return False
    record_failure(state, m, Cause(CauseKind.TOO_OFTEN, state.now, reasons.too_often(m.definition, state.now)), run)
    return True


def notify_followers(state: EngineState, m: Monitor, signal: str, run: str | None) -> None:
    """Start the deadlines of the monitors that come `after` this one."""
    for follower_id in sorted(state.followers.get((m.project_id, m.slug), ())):
        follower = state.monitors.get(follower_id)
        if follower is None or follower.paused:
            continue
        if m.writer != AFTER_ALL and m.position <= follower.position and follower is not m:
            continue  # a replayed ping, and its state knows it already; a change is applied once, maybe with others
        after = follower.definition.after
        if after is None or after.signal != signal:
            continue
        if follower is not m:
            follower.at, follower.writer, follower.seq = max(m.position, follower.position)
        if run is not None and follower.runs is not None and follower.runs.knows(run, state.now):
            continue  # it was faster
        if follower.awaited is None:
            follower.awaited = {}
        if len(follower.awaited) < AWAITED_MAX:
            follower.awaited.setdefault(run or "", state.now + after.within)
            if follower.last_ping_at is not None or follower.definition.first_within is None:
                follower.due = min(follower.awaited.values())
        state.open_for(follower)
        state.queue(follower)


def is_repeat(state: EngineState, m: Monitor, entry: Entry, key: str) -> bool:
    """Whether a ping of a whole run is the last one sent again: no later ping or
    evaluation could have changed its effect.

    Without a run id only an outage of Offbeat explains it, in which the answer was lost.
    """
    counted_at = m.counted_at
    if key != m.last_repeat_key or counted_at is None:
        return False
    same_client = entry.source is not None and entry.source == m.counted_source
    if same_client and state.outages.may_be_retry(counted_at, entry.at):
        m.counted_at = entry.at  # its answer may have been lost too
        return True
    if entry.ping.run is None or entry.at - counted_at > m.definition.repeat_within:
        return False
    return not slot_has_come(m)


def slot_has_come(m: Monitor) -> bool:
    """Whether a calendar expects something by now, so that a run id that is said again belongs to another run."""
    definition = m.definition
    is_calendar = definition.cron is not None or definition.oncalendar is not None
    return is_calendar and m.due is not None and m.due <= m.at


def is_out_of_order(m: Monitor, entry: Entry) -> bool:
    """Whether a start without a run id is that of the heartbeat before it, which came through another process."""
    return (
        m.counted_writer not in (0, entry.writer)
        and entry.source is not None
        and entry.source == m.counted_source
        and m.counted_at is not None
        and entry.at - m.counted_at < OVERTAKEN_MAX
    )
