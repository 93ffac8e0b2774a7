"""Parts of a run: its stages and its tasks, and what their pings change."""

from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.enums import CauseKind, StageStatus
from offbeat_server.engine.model.monitor import Cause, Monitor
from offbeat_server.engine.model.ping import ENDING, Ping
from offbeat_server.engine.model.run import TASK_LIMITS, Run, says_total, tasks_of
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.rules.business_dates import RunDate
from offbeat_server.engine.rules.ended_runs import apply_late_step, belongs_to_ended_run
from offbeat_server.engine.rules.incidents import clear, record_failure, update_reason
from offbeat_server.engine.rules.runs import apply_run_ping, finish, open_run, runs_of


def apply_step_ping(state: EngineState, m: Monitor, ping: Ping, known: RunDate | None) -> RunDate | None:
    """A ping of a stage or a task. The date of the run that it began, if it did; `known`: that date."""
    if ping.signal == "leave":
        return None
    runs = runs_of(m)
    run = runs.find(ping.run)
    if run is not None and run.is_of_another_execution(ping):
        return None  # of the run that this one superseded
    date = before = None
    if run is None:
        if belongs_to_ended_run(state, m, ping):
            apply_late_step(state, m, ping)
            return None
        if ping.signal == "log":
            return None
        run, date = open_run(state, m, ping, known, implicit=True)
    else:
        seen = run.stages.get(ping.stage) if ping.stage is not None else None
        before = seen.status if seen is not None else None
        if apply_run_ping(state, m, run, ping):
            state.queue_run(m, run)
    if ping.task is not None:
        _evaluate_task(state, m, run, ping)
    elif ping.stage is not None:
        _evaluate_stage(state, m, run, ping, ping.stage, before)
    if says_total(ping):
        apply_total(state, m, run, ping)
    elif ping.signal in ENDING:
        end_if_complete(state, m, run)
    if run.hung is not None and run.hung_by in TASK_LIMITS and run.verdict is None:
        _look_at_hung_tasks(state, m, run, ping.stage or "")
    return date


def apply_total(state: EngineState, m: Monitor, run: Run, ping: Ping) -> None:
    """A ping of an open run may have said how many tasks there are: no more than have ended, perhaps."""
    if not says_total(ping):
        return
    if run.may_end_group(ping):
        _end_group_if_complete(state, m, run, ping.stage or "")
    end_if_complete(state, m, run)


def _evaluate_stage(state: EngineState, m: Monitor, run: Run, ping: Ping, stage: str, before: str | None) -> None:
    fault = ("stage", stage)
    if ping.signal == "fail" and before != StageStatus.FAILED:
        reason = reasons.failed(ping, None)
        set_fault(state, m, run, fault, reason)
        record_failure(state, m, Cause(CauseKind.STAGE, state.now, reason, run.number, run.run, stage), run)
    elif ping.signal == "start" and before == StageStatus.FAILED and run.stages[stage].status == StageStatus.RUNNING:
        drop_fault(state, m, run, fault)  # it is tried again; what it did is over when it has done it
    elif ping.signal in ("success", "skip"):
        drop_fault(state, m, run, fault)
        clear(state, m, lambda key: key == (CauseKind.STAGE, run.number, stage))


def _evaluate_task(state: EngineState, m: Monitor, run: Run, ping: Ping) -> None:
    stage = ping.stage or ""
    group = run.tasks.get(stage)
    if group is None:
        return
    tasks = tasks_of(m.definition, stage)
    fault = ("tasks", stage)
    if group.too_many_failed(tasks):
        if ping.signal == "fail" or fault not in run.faults:
            reason = reasons.tasks_failed(group, tasks, stage, run)
            set_fault(state, m, run, fault, reason)
            record_failure(state, m, Cause(CauseKind.TASKS, state.now, reason, run.number, run.run, stage or None), run)
        elif ping.signal in ENDING:  # one of the failed may have succeeded at last
            reason = reasons.tasks_failed(group, tasks, stage, run)
            if reason != run.faults[fault]:
                set_fault(state, m, run, fault, reason)
                update_reason(state, m, (CauseKind.TASKS, run.number, stage), reason)
    elif fault in run.faults:
        drop_fault(state, m, run, fault)
        if fault not in run.broken:
            clear(state, m, lambda key: key == (CauseKind.TASKS, run.number, stage))
    if ping.signal in ENDING:
        _end_group_if_complete(state, m, run, stage)


def _end_group_if_complete(state: EngineState, m: Monitor, run: Run, stage: str) -> None:
    if not run.group_complete(m.definition, stage):
        return
    clear(state, m, lambda key: key == (CauseKind.TASKS, run.number, stage))
    if stage:
        end_stage(state, m, run, stage)


def _look_at_hung_tasks(state: EngineState, m: Monitor, run: Run, stage: str) -> None:
    """A ping of a group may have ended that a run is hung because of its tasks, if nothing else has made it hung."""
    group = run.tasks.get(stage)
    if not run.has_broken_tasks:
        run.hung, run.hung_by = None, ""
        state.record_run(m, run)
        clear(state, m, lambda key: key[:2] == (CauseKind.HUNG, run.number))
    elif group is None or group.active is None or not group.active.broken:
        clear(state, m, lambda key: key == (CauseKind.HUNG, run.number, stage))
    elif (reason := reasons.tasks_hung(m.definition, run, stage)) != run.hung:
        run.hung = reason
        state.update_run_reason(m, run)
        update_reason(state, m, (CauseKind.HUNG, run.number, stage), reason)


def end_stage(state: EngineState, m: Monitor, run: Run, stage: str) -> None:
    """All tasks of a stage have ended, and so it has."""
    if run.stage_over(stage):
        return
    ended = Ping("success", run.run, stage)
    run.apply(state.now, ended)
    _evaluate_stage(state, m, run, ended, stage, None)
    state.queue_run(m, run)


def end_if_complete(state: EngineState, m: Monitor, run: Run) -> None:
    """All stages, or without any all tasks, have ended, and so has the run."""
    if not run.complete(m.definition):
        return
    finish(state, m, run, Ping("success", run.run), by_steps=True)
    if run.run is None:
        runs_of(m).own_finish_due = True


def set_fault(state: EngineState, m: Monitor, run: Run, fault: tuple[str, str], reason: str) -> None:
    """As it is now this run fails."""
    had = bool(run.faults)
    run.faults.pop(fault, None)
    run.faults[fault] = reason
    if had:
        state.update_run_reason(m, run)
    else:
        state.record_run(m, run)


def drop_fault(state: EngineState, m: Monitor, run: Run, fault: tuple[str, str]) -> None:
    """This no longer makes the run fail."""
    if run.faults.pop(fault, None) is not None:
        state.update_run_reason(m, run)
