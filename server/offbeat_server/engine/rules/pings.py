"""Rules for a ping: its effects on its monitor.

A ping is a sign of life for the schedule, a step of a run, or both. The tables of docs/semantics.md say what satisfies
what; `apply_ping` follows them from top to bottom. Of one ping, what is wrong is recorded before what is over, so that
an incident does not end and begin again within it.
"""

from offbeat_server.common.instants import Micros
from offbeat_server.engine.decisions import MonitorResumed
from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.enums import CauseKind, Resolution, Verdict
from offbeat_server.engine.model.monitor import Cause, Monitor
from offbeat_server.engine.model.ping import Entry, Ping, repeat_key
from offbeat_server.engine.model.run import Run
from offbeat_server.engine.model.run_detail import RunEvidence
from offbeat_server.engine.model.runs import LATE_START_MAX, REMEMBERED_FOR, EndedRun, MonitorRuns
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.rules.business_dates import RunDate, Success, date_of
from offbeat_server.engine.rules.definition_changes import resume
from offbeat_server.engine.rules.fleets import apply_member_ping
from offbeat_server.engine.rules.incidents import record_failure, record_success, resolve
from offbeat_server.engine.rules.run_steps import apply_step_ping, apply_total
from offbeat_server.engine.rules.runs import (
    ANY_SUCCESS_DIALECTS,
    apply_run_ping,
    finish,
    note_late,
    open_run,
    revise,
    runs_of,
    take_date,
)
from offbeat_server.engine.rules.schedule_state import (
    apply_heartbeat,
    count_occurrence,
    end_absence,
    is_out_of_order,
    is_repeat,
    notify_followers,
    satisfy_schedule,
    slot_has_come,
)
from offbeat_server.engine.schedule.due_times import SATISFYING

_RESUMING_DIALECTS = ("healthchecks", "snitch")  # their services end a pause with the next ping
_RESTARTING_DIALECTS = ("healthchecks", "sentry")  # a further start of an open run asks for another `max_runtime`
_LATEST_DIALECTS = ("healthchecks", "sentry")  # a finish without an id ends the open run that began last


def apply_ping(state: EngineState, m: Monitor, entry: Entry) -> None:
    """Apply one ping, after every deadline before it was evaluated."""
    ping = entry.ping
    if m.paused and _resumes(m, ping):
        resume(state, m)
        if ping.signal == "fail" and m.incident is not None and m.incident.announced:
            resolve(state, m, Resolution.PAUSED)  # these services notify of a failure after a pause
        state.open_for(m).resumed = MonitorResumed(state.now)
    if m.definition.members is not None:
        apply_member_ping(state, m, ping)
        return
    run = m.runs.find(ping.run) if m.runs is not None else None
    known = None  # of a ping without an id and options it is found when it is needed
    if run is None and (ping.run is not None or ping.options is not None):
        known = date_of(m, ping, state.now)
    satisfying = ping.signal in SATISFYING and not _is_of_backfill(ping, run, known)
    if satisfying:
        apply_heartbeat(state, m)
    if ping.stage is not None or ping.task is not None:
        date = apply_step_ping(state, m, ping, known)
    elif ping.signal in SATISFYING:
        date = _apply_run_ping(state, m, entry, known)
    else:
        date = _apply_sign_of_life(state, m, ping, known)
    if date is not None or (satisfying and m.definition.every is not None):
        end_absence(state, m, ping.run, _presence(ping, run, date))


def _presence(ping: Ping, run: Run | None, date: RunDate | None) -> Success:
    """The date that is there again: that of the open run of a ping, or of the run or heartbeat that began with it."""
    any_date = ping.dialect is not None
    if date is not None:
        return Success(0, None, date.business_date, date.is_backfill, any_date)
    if run is not None:
        return Success(0, None, run.business_date, run.is_backfill, any_date)
    return Success(any_date=any_date)


def _is_of_backfill(ping: Ping, run: Run | None, known: RunDate | None) -> bool:
    """Whether a ping of an open run, or of one for a date, is no sign of life of the schedule."""
    if ping.options is not None and ping.options.backfill:
        return True
    return run.is_backfill if run is not None else known is not None and known.is_backfill


def _apply_run_ping(state: EngineState, m: Monitor, entry: Entry, known: RunDate | None) -> RunDate | None:
    """A ping of a whole run, or of none. The date of the run or heartbeat that begins with it; None: none does."""
    ping = entry.ping
    if ping.signal == "start" and ping.run is None and is_out_of_order(m, entry):
        m.counted_writer = 0  # the next one is of another run
        notify_followers(state, m, "start", None)
        return None
    key = repeat_key(ping)
    again = is_repeat(state, m, entry, key)
    heartbeats = m.counted_writer
    if not again:
        m.counted_writer = 0
    if ping.signal == "start":
        date = _apply_start(state, m, entry, again, known)
    else:
        date = _apply_finish(state, m, ping, again, key, known)
    if again:
        m.counted_writer = heartbeats
    else:  # only now: a cause that it opens must not count as known for its own retry
        m.last_repeat_key, m.counted_source, m.counted_at = key, entry.source, entry.at
    return date


def _apply_start(state: EngineState, m: Monitor, entry: Entry, again: bool, known: RunDate | None) -> RunDate | None:
    ping, runs = entry.ping, m.runs
    run = runs.find(ping.run) if runs is not None else None
    if run is not None and (again or (ping.run is not None and _goes_on(m, run, ping))):
        was_implicit = run.implicit  # its stages pinged before its start, which brings a limit of its own
        if was_implicit:
            run.implicit = False
            state.record_run(m, run)
        elif ping.dialect in _RESTARTING_DIALECTS and m.definition.max_runtime is not None and not again:
            run.restarted_at = state.now
        if apply_run_ping(state, m, run, ping) or was_implicit:
            state.queue_run(m, run)
        _watch_for_double_start(state, m, run, entry)
        apply_total(state, m, run, ping)
        return None
    if again:
        return None
    if runs is not None and ping.run is not None:
        ended = runs.ended(ping.run, state.now)
        if ended is not None and not ended.begun and state.now - ended.at <= LATE_START_MAX:  # its end has overtaken it
            note_late(state, m, ended._replace(begun=True), ping)
            notify_followers(state, m, "start", ping.run)
            return None
    run, date = open_run(state, m, ping, known)
    _watch_for_double_start(state, m, run, entry)
    apply_total(state, m, run, ping)
    return date


def _watch_for_double_start(state: EngineState, m: Monitor, run: Run, entry: Entry) -> None:
    """With `overlap: alert`: a run that is started from a second address is started twice."""
    if m.definition.overlap != "alert" or run.is_backfill or entry.source is None:
        return
    if run.source is None:
        run.source = entry.source
    elif run.source != entry.source:
        reason = reasons.started_twice(m.definition, run, run.source, entry.source, state.now)
        record_failure(state, m, Cause(CauseKind.OVERLAP, state.now, reason, run.number, run.run), run)


def _goes_on(m: Monitor, run: Run, ping: Ping) -> bool:
    """Whether a start with the id of an open run is a sign of life, not another run with the same id."""
    if run.is_of_another_execution(ping):
        return False
    return run.implicit or (run.hung is None and run.unverified_reason is None and not slot_has_come(m))


def _apply_finish(
    state: EngineState, m: Monitor, ping: Ping, again: bool, key: str, known: RunDate | None
) -> RunDate | None:
    runs = m.runs
    run = _run_to_end(runs, ping) if runs is not None else None
    is_other = run is not None and run.is_of_another_execution(ping)
    if run is not None and not is_other:
        apply_run_ping(state, m, run, ping)
        finish(state, m, run, ping)
        if runs is not None and run.run is None:
            runs.finished = (state.now, m.writer)
        return None
    if again:
        return None
    if ping.run is None:
        own = runs.auto_completed if runs is not None else None
        if runs is None or own is None or state.now - own.at > REMEMBERED_FOR:
            return _apply_heartbeat(state, m, ping, known)
        runs.own_finish_due = False  # its pieces or a person had ended it, and this is its own finish
        differs = (own.verdict == Verdict.FAILED) != (ping.signal == "fail")
        if differs and (_may_differ(own, ping) if own.by_hand else ping.signal == "fail"):
            revise(state, m, own, ping)
        return None
    runs = runs_of(m)
    ended = runs.ended(ping.run, state.now)
    if is_other and (ended is None or ping.options is None or ended.execution != ping.options.execution):
        return None  # of an execution that is no longer known
    if ended is not None and ended.begun and _apply_to_ended_run(state, m, ended, ping, key):
        return None
    if is_other:
        return None
    date = known or date_of(m, ping, state.now)
    run = runs.add(ping.run, None, state.now)
    run.implicit = True
    take_date(run, date, ping)
    run.apply(state.now, ping)
    finish(state, m, run, ping, created_by_finish=date)
    return date


def _run_to_end(runs: MonitorRuns, ping: Ping) -> Run | None:
    run = runs.find(ping.run)
    if run is None and ping.run is None and ping.dialect in _LATEST_DIALECTS:
        return runs.latest
    return run


def _apply_to_ended_run(state: EngineState, m: Monitor, ended: EndedRun, ping: Ping, key: str) -> bool:
    """A finish of a run that was begun and has ended. False: it is of another run with the same id."""
    failed = ping.signal == "fail"
    if ended.by_hand and not _may_differ(ended, ping):
        return True
    if ended.by_hand or not ended.finish_key:  # its pieces had ended it, or we had, and this is its own finish
        if ended.verdict != (Verdict.FAILED if failed else Verdict.SUCCEEDED):
            revise(state, m, ended, ping)
        else:
            note_late(state, m, ended._replace(finish_key=key, by_hand=False), ping)
        return True
    if slot_has_come(m):
        return False
    if ended.finish_key.partition(" ")[0] != ping.signal:
        revise(state, m, ended, ping)
    elif failed:
        resolved = not m.streak  # since then: it fails again
        if resolved or key != ended.finish_key:
            revise(state, m, ended, ping, counts=resolved)
    elif ping.dialect in ANY_SUCCESS_DIALECTS:
        return False
    return True


def _may_differ(ended: EndedRun, ping: Ping) -> bool:
    """Whether a finish counts although a person gave the run its verdict: it must say what the run never said."""
    return ended.verdict != Verdict.IGNORED and ended.finish_key.partition(" ")[0] != ping.signal


def _apply_heartbeat(state: EngineState, m: Monitor, ping: Ping, known: RunDate | None) -> RunDate:
    """It belongs to no run: a run of its own that began and ended at once."""
    m.counted_writer = m.writer
    date = known or date_of(m, ping, state.now)
    satisfy_schedule(state, m, None, date)
    if ping.options is not None:
        state.open_for(m)  # pages cannot tell from the ping alone whether it counts
    excess = not date.is_backfill and count_occurrence(state, m)
    business_date = date.business_date
    if ping.signal == "fail":
        evidence: RunEvidence[Micros] = {"last_message": ping.message}
        reason = reasons.failed(ping, None)
        cause = Cause(CauseKind.FAILED, state.now, reason, evidence=evidence, business_date=business_date)
        cause.is_date_named = date.is_named
        record_failure(state, m, cause, counts=not excess, is_backfill=date.is_backfill)
    elif not excess:
        any_date = ping.dialect is not None
        record_success(state, m, Success(0, None, business_date, date.is_backfill, any_date))
    notify_followers(state, m, "fail" if ping.signal == "fail" else "success", None)
    return date


def _apply_sign_of_life(state: EngineState, m: Monitor, ping: Ping, known: RunDate | None) -> RunDate | None:
    """`log` and `progress`: a sign of life for a run, nothing for the schedule. `leave`: nothing."""
    if ping.signal not in ("log", "progress"):
        return None
    runs = m.runs
    run = runs.find(ping.run) if runs is not None else None
    if run is not None:
        if not run.is_of_another_execution(ping):
            if apply_run_ping(state, m, run, ping):
                state.queue_run(m, run)
            apply_total(state, m, run, ping)
        return None
    if ping.signal == "log" or ping.run is None or (runs is not None and runs.ended(ping.run, state.now) is not None):
        return None
    run, date = open_run(state, m, ping, known, implicit=True)
    apply_total(state, m, run, ping)
    return date


def _resumes(m: Monitor, ping: Ping) -> bool:
    """Whether this ping ends the pause, as the service promises whose dialect it speaks."""
    if m.definition.manual_resume or ping.dialect not in _RESUMING_DIALECTS:
        return False
    return ping.signal in ("success", "fail")
