"""Beginning and ending runs, by pings, deadlines or changes."""

from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.engine.decisions import NO_PING
from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.definition import Definition
from offbeat_server.engine.model.enums import CauseKind, Verdict
from offbeat_server.engine.model.missing_parts import MissingParts
from offbeat_server.engine.model.monitor import Cause, CauseKey, Monitor
from offbeat_server.engine.model.ping import Ping, repeat_key
from offbeat_server.engine.model.run import Run, tasks_of
from offbeat_server.engine.model.runs import RUNS_OPEN_MAX, TASK_NAMES_MAX, EndedRun, MonitorRuns
from offbeat_server.engine.rules import notifications, reasons
from offbeat_server.engine.rules.business_dates import RunDate, Success, date_of, success_of
from offbeat_server.engine.rules.completeness import Completeness, evaluate_completeness
from offbeat_server.engine.rules.incidents import clear, record_failure, record_success
from offbeat_server.engine.rules.schedule_state import (
    apply_heartbeat,
    count_occurrence,
    notify_followers,
    satisfy_schedule,
)

ANY_SUCCESS_DIALECTS = ("healthchecks",)  # there a success ends every trouble, whichever run it is of


_OF_ITS_END = frozenset((("runtime", ""), ("quiet", "")))  # what a run breaks whose end was lost


def runs_of(m: Monitor) -> MonitorRuns:
    """The runs of a monitor, from now on."""
    if m.runs is None:
        m.runs = MonitorRuns()
    return m.runs


def apply_run_ping(state: EngineState, m: Monitor, run: Run, ping: Ping) -> bool:
    """A ping of an open run. Whether a limit may have come that was not there before."""
    runs = runs_of(m)
    again = run.unverified_reason is not None and run.hung is None
    if again:
        run.broken -= _OF_ITS_END
        if not run.broken:  # it continues after the outage, so its end was not lost
            run.unverified_reason = None
            state.record_run(m, run)
    if ping.task is None:
        return run.apply(state.now, ping) or again
    names = run.task_names
    limits_changed = run.apply(state.now, ping, TASK_NAMES_MAX - runs.task_names)
    runs.task_names += run.task_names - names
    if m.definition.follows_tasks and _has_task_limits(m, ping):
        limits_changed |= run.follow_task(state.now, ping)
    return limits_changed or again


def _has_task_limits(m: Monitor, ping: Ping) -> bool:
    tasks = tasks_of(m.definition, ping.stage or "")
    return tasks is not None and tasks.follows


def open_run(
    state: EngineState, m: Monitor, ping: Ping, date: RunDate | None, implicit: bool = False
) -> tuple[Run, RunDate]:
    """A run begins: by its start, or by its first other ping. `date`: that of the run, if it is known already."""
    runs = runs_of(m)
    date = date or date_of(m, ping, state.now)
    watches_overlap = m.definition.overlap == "alert" and not date.is_backfill
    other = _overlapped(m, runs, ping) if watches_overlap else None
    unended_since: Micros | None = None
    if (before := runs.find(ping.run)) is not None:
        if before.hung is None and not before.implicit:
            unended_since = before.unended_since or before.started_at
        verdict, reason = before.final_verdict
        if verdict == Verdict.FAILED:
            close_run(state, m, before, verdict, reason)
        else:
            close_run(state, m, before, Verdict.SUPERSEDED, "another run started before this one finished")
        before.message = None
    if len(runs.open) >= RUNS_OPEN_MAX:
        oldest = next(iter(runs.open.values()))
        close_run(state, m, oldest, Verdict.UNKNOWN, f"more than {RUNS_OPEN_MAX} runs were open")
        clear(state, m, lambda key: key[1] == oldest.number, is_later=True)
        oldest.message = None
    if ping.run is None and implicit:
        m.last_repeat_key, m.counted_writer = "", 0  # its finish is no repeat of the one before
    run = runs.add(ping.run, state.now, state.now)
    run.implicit, run.unended_since = implicit, unended_since
    take_date(run, date, ping)
    apply_run_ping(state, m, run, ping)
    if not date.is_backfill:
        apply_heartbeat(state, m)
    satisfy_schedule(state, m, ping.run, date)
    if not date.is_backfill:
        count_occurrence(state, m, run)
    if other is not None:
        reason = reasons.overlapping(m.definition, run, other, state.now)
        record_failure(state, m, Cause(CauseKind.OVERLAP, state.now, reason, run.number, run.run), run)
    state.queue_run(m, run)
    state.record_run(m, run)
    notify_followers(state, m, "start", ping.run)
    return run, date


def take_date(run: Run, date: RunDate, ping: Ping) -> None:
    """The run is for this date."""
    run.business_date, run.is_date_named, run.is_backfill = date.business_date, date.is_named, date.is_backfill
    if ping.options is not None:
        run.attempt, run.execution = ping.options.attempt, ping.options.execution


def _overlapped(m: Monitor, runs: MonitorRuns, ping: Ping) -> Run | None:
    """The run that is still running while another begins. A run that hangs does not count: it is reported already.

    Nor does one that is unverified because of an outage: its end may have been lost.
    """
    before = runs.find(ping.run)
    candidates = (each for each in (before, *runs.open.values()) if each is not None and not each.is_backfill)
    return next((each for each in candidates if each.hung is None and each.unverified_reason is None), None)


def finish(
    state: EngineState,
    m: Monitor,
    run: Run,
    ping: Ping,
    created_by_finish: RunDate | None = None,
    by_steps: bool = False,
) -> None:
    """An open run ends, by its own ping or with its last stage or task.

    `created_by_finish`: this is its first ping, and it is for this date.
    """
    number = run.number
    key = "" if by_steps else repeat_key(ping)
    run.exit_code = ping.exit_code
    run.finished_at = state.now
    if run.started_at is None and ping.duration is not None:
        run.started_at = state.now - round(ping.duration * SECOND)
    if created_by_finish is not None:
        satisfy_schedule(state, m, run.run, created_by_finish)
        if not run.is_backfill:
            count_occurrence(state, m, run)
    is_new = created_by_finish is not None
    by_itself = ping.signal == "success" and not is_new and not by_steps
    completeness = evaluate_completeness(state, m, run) if by_itself else Completeness()
    cause = _what_is_wrong(m, run, ping, state, completeness.missing)
    in_time = run.hung is None or run.is_hung_by_others(m.definition, state.now)
    if cause is not None:
        close_run(state, m, run, Verdict.FAILED, cause.reason, is_new, key)
    elif ping.signal == "skip":
        close_run(state, m, run, Verdict.SUCCEEDED, "skipped", is_new, key)
    else:
        late = None if in_time else reasons.finished_after_all(m.definition, run)
        reason = "; ".join(each for each in (late, completeness.note) if each is not None) or None
        close_run(state, m, run, Verdict.SUCCEEDED, reason, is_new, key)
    open_causes = set[CauseKey]()
    if cause is not None:
        record_failure(state, m, cause, run)
        open_causes.add(cause.key)
        if cause.kind == CauseKind.INCOMPLETE and completeness.missing is not None:
            open_causes |= {(CauseKind.STAGE, number, stage) for stage in completeness.missing.failed}
    by = reasons.recovered_by(run.run, run.business_date)
    clear(state, m, lambda key: key[1] == number and key not in open_causes, by=by)
    heals_all = ping.dialect in ANY_SUCCESS_DIALECTS
    if cause is None and (heals_all or not run.counted or (run.hung is not None and in_time)):
        record_success(state, m, success_of(run, ping, 0 if is_new or heals_all else number, run.started_at))
    notify_followers(state, m, "fail" if cause is not None else "success", run.run)
    run.message = None  # the alert has it


def _what_is_wrong(m: Monitor, run: Run, ping: Ping, state: EngineState, missing: MissingParts | None) -> Cause | None:
    definition, number = m.definition, run.number
    if ping.signal == "fail":
        return Cause(CauseKind.FAILED, state.now, reasons.failed(ping, run), number, run.run)
    if ping.signal == "skip":
        return None
    if (stage := run.tasks_failed(definition)) is not None:
        reason = reasons.tasks_failed(run.group(stage), tasks_of(definition, stage), stage, run)
        return Cause(CauseKind.TASKS, state.now, reason, number, run.run, stage or None)
    if missing is not None:
        reason = reasons.incomplete(definition, run, missing)
        return Cause(CauseKind.INCOMPLETE, state.now, reason, number, run.run)
    if is_too_early(definition, run):
        assert run.duration is not None
        return Cause(CauseKind.TOO_EARLY, state.now, reasons.too_early(definition, run, run.duration), number, run.run)
    return None


def is_too_early(definition: Definition, run: Run) -> bool:
    """Whether a run that has ended took less time than it should."""
    return definition.min_runtime is not None and run.duration is not None and run.duration < definition.min_runtime


def close_run(
    state: EngineState,
    m: Monitor,
    run: Run,
    verdict: Verdict,
    reason: str | None,
    created_by_finish: bool = False,
    key: str = "",
) -> None:
    """An open run is over. `reason` is for people. If it failed, the caller adds the cause."""
    runs = runs_of(m)
    run.finished_at, run.verdict, run.reason = state.now, verdict, reason
    runs.remove(run, verdict, state.now, created_by_finish, key)
    state.record_run(m, run)


def close_by_hand(
    state: EngineState, m: Monitor, number: int, verdict: Verdict, reason: str, had_ended: bool = False
) -> None:
    """Apply the verdict of a person (failed, succeeded or ignored) to a run: S15.16 to S15.18 of docs/semantics.md.

    `had_ended`: it had ended when the person said so. Otherwise, if it has ended since, its own end stands.
    """
    runs = m.runs
    if runs is None or m.definition.members is not None:
        return
    if (run := runs.open.get(number)) is not None:
        close_run(state, m, run, verdict, reason)
        ended = runs.last(run.run)._replace(by_hand=True)
        runs.keep(run.run, ended)
        runs.own_finish_due |= run.run is None
        state.record_run(m, run)  # again: its row says, too, who decided
        _apply_verdict_by_hand(state, m, ended, run.run, reason, run)
        run.message = None
        if verdict != Verdict.IGNORED:
            notify_followers(state, m, "fail" if verdict == Verdict.FAILED else "success", run.run)
    elif had_ended and (known := runs.ended_by_number(number, state.now)) is not None:
        run_id, ended = known
        if ended.verdict == verdict:
            return
        ended = ended._replace(verdict=verdict, by_hand=True)
        if not ended.forgotten:
            content = ended.as_run(run_id)
            content.verdict, content.reason = verdict, reason
            ended = ended._replace(content=content)
        runs.keep(run_id, ended)
        revised = Run(number, run_id, None, NO_PING)
        revised.which = ended.which
        revised.finished_at, revised.verdict, revised.reason = ended.at, verdict, reason
        state.revise_run(m, revised)
        _apply_verdict_by_hand(state, m, ended, run_id, reason, None)


def _apply_verdict_by_hand(
    state: EngineState, m: Monitor, ended: EndedRun, run_id: str | None, reason: str, run: Run | None
) -> None:
    number = ended.number
    failed = Cause(CauseKind.FAILED, state.now, reason, number, run_id) if ended.verdict == Verdict.FAILED else None
    if failed is not None:
        failed.business_date, failed.is_date_named = ended.business_date, ended.is_date_named
        record_failure(state, m, failed, run, is_backfill=ended.is_backfill, is_known=True)
    elif m.incident is not None:
        m.incident.known_runs.discard(number)
    clear(state, m, lambda key: key[1] == number and (failed is None or key != failed.key))
    if ended.verdict == Verdict.SUCCEEDED:
        date, is_backfill = ended.business_date, ended.is_backfill
        record_success(state, m, Success(number, ended.started, date, is_backfill, run=run_id, by_hand=True))


def revise(state: EngineState, m: Monitor, ended: EndedRun, ping: Ping, counts: bool = True) -> None:
    """A later finish says something else of a run than how it had ended, and that stands.

    `counts`: it is one more failure in a row; not if it only gives another reason.
    """
    failed = ping.signal == "fail"
    run = ended.as_run(ping.run)
    run.apply(state.now, ping)
    run.exit_code = ping.exit_code
    reason = reasons.failed(ping, run) if failed else "skipped" if ping.signal == "skip" else None
    ended = ended._replace(finish_key=repeat_key(ping), by_hand=False)
    if failed:
        revise_to_failed(
            state, m, ended, run, Cause(CauseKind.FAILED, state.now, reason or "", run.number, run.run), counts
        )
    else:
        revise_to_succeeded(state, m, ended, run, ping, reason)


def revise_to_failed(
    state: EngineState, m: Monitor, ended: EndedRun, run: Run, cause: Cause, counts: bool = True
) -> None:
    """A run that has ended has failed after all. `run` is all that is known of it."""
    run.verdict, run.reason = Verdict.FAILED, cause.reason
    _keep_revised(state, m, ended, run)
    cause.evidence = {"last_message": run.message} if ended.forgotten else notifications.evidence_of(m, run)
    run.message = None
    cause.business_date, cause.is_date_named = ended.business_date, ended.is_date_named
    record_failure(state, m, cause, counts=counts, is_backfill=ended.is_backfill)


def revise_to_succeeded(
    state: EngineState, m: Monitor, ended: EndedRun, run: Run, ping: Ping, reason: str | None = None
) -> None:
    """A run that has ended has succeeded after all, which is a success that counts."""
    run.verdict, run.reason, run.message = Verdict.SUCCEEDED, reason, None
    _keep_revised(state, m, ended, run)
    by = reasons.recovered_by(run.run, run.business_date)
    clear(state, m, lambda key: key[1] == run.number, by=by)
    number = 0 if ping.dialect in ANY_SUCCESS_DIALECTS else run.number
    record_success(state, m, success_of(run, ping, number, run.started_at))


def _keep_revised(state: EngineState, m: Monitor, ended: EndedRun, run: Run) -> None:
    assert run.verdict is not None
    if m.incident is not None and run.verdict != ended.verdict:
        m.incident.known_runs.discard(run.number)
    keep_ended(state, m, ended._replace(verdict=run.verdict), run)


def keep_ended(state: EngineState, m: Monitor, ended: EndedRun, run: Run) -> None:
    """Remember what a late ping has changed in a run that has ended, and record it."""
    runs_of(m).keep(run.run, ended if ended.forgotten else ended._replace(content=None if run.is_plain else run))
    if ended.forgotten:
        state.revise_run(m, run)
    else:
        state.record_run(m, run)


def note_late(state: EngineState, m: Monitor, ended: EndedRun, ping: Ping) -> None:
    """Remember what a late ping of a run says beside the verdict: its own finish, which agrees, or that it began."""
    run = ended.as_run(ping.run)
    if ended.forgotten:
        runs_of(m).keep(ping.run, ended)
    else:
        keep_ended(state, m, ended, run)
