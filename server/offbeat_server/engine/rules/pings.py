"""Rules for a ping: its effects on its monitor.

A ping is a sign of life for the schedule, a step of a run, or both. The tables of docs/semantics.md say what satisfies
what; `apply_ping` follows them from top to bottom. Of one ping, what is wrong is recorded before what is over, so that
an incident does not end and begin again within it.
"""

from offbeat_server.engine.decisions import MonitorResumed
from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.enums import CauseKind, Resolution, Verdict
from offbeat_server.engine.model.monitor import Cause, Monitor
from offbeat_server.engine.model.ping import Entry, Ping, repeat_key
from offbeat_server.engine.model.run import Run
from offbeat_server.engine.model.runs import LATE_START_MAX, REMEMBERED_FOR, EndedRun, MonitorRuns
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.rules.definition_changes import resume
from offbeat_server.engine.rules.fleets import apply_member_ping
from offbeat_server.engine.rules.incidents import record_failure, record_success, resolve
from offbeat_server.engine.rules.run_steps import apply_step_ping, apply_total
from offbeat_server.engine.rules.runs import ANY_SUCCESS_DIALECTS, apply_run_ping, finish, open_run, revise, runs_of
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
    satisfying = ping.signal in SATISFYING
    if satisfying:
        apply_heartbeat(state, m)
    if ping.stage is not None or ping.task is not None:
        served = apply_step_ping(state, m, ping)
    elif satisfying:
        served = _apply_run_ping(state, m, entry)
    else:
        served = _apply_sign_of_life(state, m, ping)
    if served or (satisfying and m.definition.every is not None):
        end_absence(state, m, ping.run)


def _apply_run_ping(state: EngineState, m: Monitor, entry: Entry) -> bool:
    """A ping of a whole run, or of none. Whether it counts for the schedule."""
    ping = entry.ping
    if ping.signal == "start" and ping.run is None and is_out_of_order(m, entry):
        m.counted_writer = 0  # the next one is of another run
        notify_followers(state, m, "start", None)
        return False
    key = repeat_key(ping)
    again = is_repeat(state, m, entry, key)
    heartbeats = m.counted_writer
    if not again:
        m.counted_writer = 0
    served = (
        _apply_start(state, m, ping, again) if ping.signal == "start" else _apply_finish(state, m, ping, again, key)
    )
    if again:
        m.counted_writer = heartbeats
    else:  # only now: a cause that it opens must not count as known for its own retry
        m.last_repeat_key, m.counted_source, m.counted_at = key, entry.source, entry.at
    return served


def _apply_start(state: EngineState, m: Monitor, ping: Ping, again: bool) -> bool:
    runs = m.runs
    run = runs.find(ping.run) if runs is not None else None
    if run is not None and (again or (ping.run is not None and _goes_on(m, run))):
        was_implicit = run.implicit  # its stages pinged before its start, which brings a limit of its own
        if was_implicit:
            run.implicit = False
            state.record_run(m, run)
        elif ping.dialect in _RESTARTING_DIALECTS and m.definition.max_runtime is not None and not again:
            run.restarted_at = state.now
        if apply_run_ping(state, m, run, ping) or was_implicit:
            state.queue_run(m, run)
        apply_total(state, m, run, ping)
        return False
    if again:
        return False
    if runs is not None and ping.run is not None:
        ended = runs.ended(ping.run, state.now)
        if ended is not None and not ended.begun and state.now - ended.at <= LATE_START_MAX:  # its end has overtaken it
            runs.closed[ping.run] = ended._replace(begun=True)
            notify_followers(state, m, "start", ping.run)
            return False
    apply_total(state, m, open_run(state, m, ping), ping)
    return True


def _goes_on(m: Monitor, run: Run) -> bool:
    """Whether a start with the id of an open run is a sign of life, not another run with the same id."""
    return run.implicit or (run.hung is None and run.unverified_reason is None and not slot_has_come(m))


def _apply_finish(state: EngineState, m: Monitor, ping: Ping, again: bool, key: str) -> bool:
    runs = m.runs
    run = _run_to_end(runs, ping) if runs is not None else None
    if run is not None:
        apply_run_ping(state, m, run, ping)
        finish(state, m, run, ping)
        if runs is not None and run.run is None:
            runs.finished = (state.now, m.writer)
        return False
    if again:
        return False
    if ping.run is None:
        own = runs.auto_completed if runs is not None else None
        if runs is None or own is None or state.now - own.at > REMEMBERED_FOR:
            _apply_heartbeat(state, m, ping)
            return True
        runs.own_finish_due = False  # its pieces or a person had ended it, and this is its own finish
        differs = (own.verdict == Verdict.FAILED) != (ping.signal == "fail")
        if differs and (_may_differ(own, ping) if own.by_hand else ping.signal == "fail"):
            revise(state, m, own, ping)
        return False
    runs = runs_of(m)
    ended = runs.ended(ping.run, state.now)
    if ended is not None and ended.begun and _apply_to_ended_run(state, m, ended, ping, key):
        return False
    run = runs.add(ping.run, None, state.now)
    run.implicit = True
    run.apply(state.now, ping)
    finish(state, m, run, ping, created_by_finish=True)
    return True


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
        elif m.runs is not None and ping.run is not None:
            m.runs.closed[ping.run] = ended._replace(finish_key=key, by_hand=False)
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


def _apply_heartbeat(state: EngineState, m: Monitor, ping: Ping) -> None:
    """It belongs to no run: a run of its own that began and ended at once."""
    m.counted_writer = m.writer
    satisfy_schedule(state, m, None)
    excess = count_occurrence(state, m)
    if ping.signal == "fail":
        cause = Cause(CauseKind.FAILED, state.now, reasons.failed(ping, None), evidence={"last_message": ping.message})
        record_failure(state, m, cause, counts=not excess)
    elif not excess:
        record_success(state, m)
    notify_followers(state, m, "fail" if ping.signal == "fail" else "success", None)


def _apply_sign_of_life(state: EngineState, m: Monitor, ping: Ping) -> bool:
    """`log` and `progress`: a sign of life for a run, nothing for the schedule. `leave`: nothing."""
    if ping.signal not in ("log", "progress"):
        return False
    runs = m.runs
    run = runs.find(ping.run) if runs is not None else None
    if run is not None:
        if apply_run_ping(state, m, run, ping):
            state.queue_run(m, run)
        apply_total(state, m, run, ping)
        return False
    if ping.signal == "log" or ping.run is None or (runs is not None and runs.ended(ping.run, state.now) is not None):
        return False
    apply_total(state, m, open_run(state, m, ping, implicit=True), ping)
    return True


def _resumes(m: Monitor, ping: Ping) -> bool:
    """Whether this ping ends the pause, as the service promises whose dialect it speaks."""
    if m.definition.manual_resume or ping.dialect not in _RESUMING_DIALECTS:
        return False
    return ping.signal in ("success", "fail")
