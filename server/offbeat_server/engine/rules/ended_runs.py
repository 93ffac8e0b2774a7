"""Pings of stages and tasks that come after the end of their run.

They count as before the end: they may change the verdict of the run, and are recorded if they do not. They open no run,
extend nothing and are not reported to followers.
"""

from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.enums import CauseKind, StageStatus, Verdict
from offbeat_server.engine.model.monitor import Cause, Monitor
from offbeat_server.engine.model.ping import ENDING, OVERTAKEN_MAX, Ping
from offbeat_server.engine.model.run import Run, tasks_of
from offbeat_server.engine.model.runs import ENDED_NAMES_MAX, LATE_START_MAX, EndedRun
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.rules.completeness import what_is_missing
from offbeat_server.engine.rules.incidents import update_reason
from offbeat_server.engine.rules.runs import is_too_early, keep_ended, revise_to_failed, revise_to_succeeded, runs_of


def belongs_to_ended_run(state: EngineState, m: Monitor, ping: Ping) -> bool:
    """Whether a ping of a stage or task whose run is not open belongs to a run that has ended."""
    runs = runs_of(m)
    if ping.run is not None:
        return runs.find_ended(ping.run) is not None
    if ping.signal == "start":
        return False
    if runs.finished is not None and runs.finished[1] != m.writer and state.now - runs.finished[0] < OVERTAKEN_MAX:
        return True  # it was overtaken by the finish
    own = runs.auto_completed
    return own is not None and state.now - own.at <= LATE_START_MAX


def apply_late_step(state: EngineState, m: Monitor, ping: Ping) -> None:
    """Apply a ping of a stage or task to the run that has ended."""
    runs = runs_of(m)
    ended = runs.find_ended(ping.run) if ping.run is not None else runs.unnamed
    if ended is None or ended.forgotten:
        return  # its row is of a program that kept less
    run = ended.as_run(ping.run)
    before, last_at, was_wrong = _results(m, run, ping), run.last_at, _is_wrong(m, ended, run)
    run.apply(state.now, ping, ENDED_NAMES_MAX - runs.ended_names)
    if run.ends_stage(m.definition, ping):
        run.apply(state.now, Ping("success", run.run, ping.stage))
    if _results(m, run, ping) == before:  # it was sent before
        run.last_at, run.message = last_at, None
        return
    if (cause := _failure(state, m, ended, run, ping)) is not None:
        revise_to_failed(state, m, ended, run, cause)
    elif ended.verdict == Verdict.FAILED and was_wrong and _has_succeeded(m, ended, run, ping):
        revise_to_succeeded(state, m, ended, run, ping)
    else:
        _update_reason(state, m, ended, run, ping)
        run.message = None
        keep_ended(state, m, ended, run)


_Results = tuple[StageStatus | None, bool | str | None, int | None]


def _results(m: Monitor, run: Run, ping: Ping) -> _Results:
    """All that this ping may change: its stage, its task, and the total of its group."""
    stage, group = run.stages.get(ping.stage or ""), run.tasks.get(ping.stage or "")
    task: bool | str | None = "unknown"
    if group is not None and ping.task is not None:
        task = group.by_name.get(ping.task, "unknown")
    return (
        stage.status if stage is not None else None,
        task,
        group.expected if group is not None else None,
    )


def _is_wrong(m: Monitor, ended: EndedRun, run: Run) -> bool:
    """Whether the stages and tasks of a run are why it has failed, or would be."""
    if run.tasks_failed(m.definition) is not None:
        return True
    if ended.finish:
        return ended.begun and what_is_missing(m.definition, run) is not None
    return not run.complete(m.definition)


def _failure(state: EngineState, m: Monitor, ended: EndedRun, run: Run, ping: Ping) -> Cause | None:
    """Why the run would have ended as failed, had this ping come before its end; None: it would not, or it did."""
    if ping.signal != "fail" or ended.verdict == Verdict.FAILED or ended.finish == "skip" or ended.by_hand:
        return None
    stage = ping.stage or ""
    if ping.task is not None:
        tasks, group = tasks_of(m.definition, stage), run.tasks.get(stage)
        if group is None or not group.too_many_failed(tasks):
            return None
        reason = reasons.tasks_failed(group, tasks, stage, run)
        return Cause(CauseKind.TASKS, state.now, reason, run.number, run.run, ping.stage)
    if ended.finish:
        missing = what_is_missing(m.definition, run) if ended.begun else None
        if missing is None or stage not in missing.failed:
            return None  # its own finish decides, not its stages
    elif ended.verdict == Verdict.SUCCEEDED and all(each.name != stage for each in m.definition.stages):
        return None  # its end has not waited for this stage
    return Cause(CauseKind.STAGE, state.now, reasons.failed(ping, None), run.number, run.run, stage)


def _has_succeeded(m: Monitor, ended: EndedRun, run: Run, ping: Ping) -> bool:
    """Whether nothing is wrong with a failed run now that this task or stage has succeeded."""
    if ended.by_hand or ended.finish not in ("", "success") or ping.signal not in ("success", "skip"):
        return False
    return not _is_wrong(m, ended, run) and not is_too_early(m.definition, run)


def _update_reason(state: EngineState, m: Monitor, ended: EndedRun, run: Run, ping: Ping) -> None:
    """Name the tasks that have failed by now, if the run has failed because of them."""
    stage = ping.stage or ""
    group, tasks = run.tasks.get(stage), tasks_of(m.definition, stage)
    if ended.verdict != Verdict.FAILED or ping.signal not in ENDING or group is None:
        return
    key = (CauseKind.TASKS, run.number, stage)
    if not group.too_many_failed(tasks) or m.incident is None or key not in m.incident.causes:
        return
    reason = reasons.tasks_failed(group, tasks, stage, run)
    update_reason(state, m, key, reason)
    if ended.finish != "fail" and not ended.by_hand:
        run.reason = reason
