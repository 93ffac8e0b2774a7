"""Parts of a run: its stages and its tasks, and what their pings come to."""

from offbeat_server.engine.engine_state import Desk
from offbeat_server.engine.model.monitor import Cause, Monitor
from offbeat_server.engine.model.ping import OVERTAKEN_MAX, Ping
from offbeat_server.engine.model.run import Run, tasks_of
from offbeat_server.engine.model.runs import LATE_START_MAX
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.rules.incidents import blame, clear, reword
from offbeat_server.engine.rules.runs import finish, hear_run, open_run, runs_of

_ENDS = ("success", "skip", "fail")


def hear_piece(desk: Desk, m: Monitor, ping: Ping) -> bool:
    """A ping of a stage or a task. Whether it began a run."""
    if ping.signal == "leave":
        return False
    runs = runs_of(m)
    run = runs.find(ping.run)
    begins = run is None
    before = None
    if run is None:
        if ping.signal == "log" or _is_of_an_ended_run(desk, m, ping):
            return False
        run = open_run(desk, m, ping, implicit=True)
    else:
        seen = run.stages.get(ping.stage) if ping.stage is not None else None
        before = seen.status if seen is not None else None
        if hear_run(desk, m, run, ping):
            desk.arm_run(m, run)
    if ping.task is not None:
        _judge_task(desk, m, run, ping)
    elif ping.stage is not None:
        _judge_stage(desk, m, run, ping, ping.stage, before)
    if ping.signal in _ENDS:
        end_if_complete(desk, m, run)
    return begins


def _is_of_an_ended_run(desk: Desk, m: Monitor, ping: Ping) -> bool:
    runs = runs_of(m)
    if ping.run is not None:
        return runs.ended(ping.run, desk.now) is not None
    if ping.signal == "start":
        return False
    if runs.finished is not None and runs.finished[1] != m.writer and desk.now - runs.finished[0] < OVERTAKEN_MAX:
        return True  # it was overtaken by the finish
    own = runs.fanned_in
    return own is not None and desk.now - own.at <= LATE_START_MAX


def _judge_stage(desk: Desk, m: Monitor, run: Run, ping: Ping, stage: str, before: str | None) -> None:
    fault = ("stage", stage)
    if ping.signal == "fail" and before != "failed":
        reason = reasons.failed(ping, None)
        set_fault(desk, m, run, fault, reason)
        blame(desk, m, Cause("stage", desk.now, reason, run.number, run.run, stage), run)
    elif ping.signal == "start" and before == "failed" and run.stages[stage].status == "running":
        drop_fault(desk, m, run, fault)  # it is tried again; what it did is over when it has done it
    elif ping.signal in ("success", "skip"):
        drop_fault(desk, m, run, fault)
        clear(desk, m, lambda key: key == ("stage", run.number, stage))


def _judge_task(desk: Desk, m: Monitor, run: Run, ping: Ping) -> None:
    stage = ping.stage or ""
    group = run.tasks.get(stage)
    if group is None:
        return
    tasks = tasks_of(m.definition, stage)
    fault = ("tasks", stage)
    if group.too_many_failed(tasks):
        if ping.signal == "fail" or fault not in run.faults:
            reason = reasons.tasks_failed(group, tasks, stage, run)
            set_fault(desk, m, run, fault, reason)
            blame(desk, m, Cause("tasks", desk.now, reason, run.number, run.run, stage or None), run)
        elif ping.signal in _ENDS:  # one of the failed may have succeeded at last
            reason = reasons.tasks_failed(group, tasks, stage, run)
            if reason != run.faults[fault]:
                set_fault(desk, m, run, fault, reason)
                reword(desk, m, ("tasks", run.number, stage), reason)
    elif fault in run.faults:
        drop_fault(desk, m, run, fault)
        if fault not in run.broken:
            clear(desk, m, lambda key: key == ("tasks", run.number, stage))
    if ping.signal in _ENDS and run.group_complete(m.definition, stage):
        clear(desk, m, lambda key: key == ("tasks", run.number, stage))
        if stage:
            end_stage(desk, m, run, stage)


def end_stage(desk: Desk, m: Monitor, run: Run, stage: str) -> None:
    """All tasks of a stage have ended, and so it has."""
    if run.stage_over(stage):
        return
    ended = Ping("success", run.run, stage)
    run.hear(desk.now, ended)
    _judge_stage(desk, m, run, ended, stage, None)
    desk.arm_run(m, run)


def end_if_complete(desk: Desk, m: Monitor, run: Run) -> None:
    """All stages, or without any all tasks, have ended, and so has the run."""
    if not run.complete(m.definition):
        return
    finish(desk, m, run, Ping("success", run.run), by_pieces=True)
    if run.run is None:
        runs_of(m).end_of_pieces(run, desk.now)


def set_fault(desk: Desk, m: Monitor, run: Run, fault: tuple[str, str], reason: str) -> None:
    """As it is now this run fails."""
    had = bool(run.faults)
    run.faults.pop(fault, None)
    run.faults[fault] = reason
    if had:
        desk.reword_run(m, run)
    else:
        desk.record_run(m, run)


def drop_fault(desk: Desk, m: Monitor, run: Run, fault: tuple[str, str]) -> None:
    """This no longer makes the run fail."""
    if run.faults.pop(fault, None) is not None:
        desk.reword_run(m, run)
