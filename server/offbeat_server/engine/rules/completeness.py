"""Rules for a `success` of a whole run of which stages or expected tasks have not ended.

With `complete: required` such a run has failed, by S6.28 to S6.36 of docs/semantics.md. A run that has sent no ping of
a stage or task, and no number of tasks, may be one command around the whole job: these
rules do not apply to it.
"""

from typing import NamedTuple

from offbeat_server.common.instants import Micros
from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.definition import Definition, Tasks
from offbeat_server.engine.model.enums import StageStatus
from offbeat_server.engine.model.missing_parts import MissingParts
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.engine.model.run import Run, tasks_of
from offbeat_server.engine.model.tasks import TaskGroup
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.schedule.outage_intervals import LOSS_MIN, LOSS_SHARE


class Completeness(NamedTuple):
    """The result for a `success`: `missing` fails it; `note` says what an outage excuses."""

    missing: MissingParts | None = None
    note: str | None = None


def what_is_missing(definition: Definition, run: Run) -> MissingParts | None:
    """The parts that a run which sends `success` now has not done; None: none, or a `success` is trusted."""
    if definition.complete != "required" or run.trusted or not (run.stages or run.tasks):
        return None
    named = [stage.name for stage in definition.stages]
    others = [name for name in run.tasks if name and name not in named]
    groups = tuple(name for name in ("", *named, *others) if _lacks_tasks(definition, run, name))
    statuses = {name: seen.status for name in named if (seen := run.stages.get(name)) is not None}
    never = tuple(each.name for each in definition.stages if each.name not in statuses and not each.optional)
    running = tuple(
        name
        for name, status in statuses.items()
        if status == StageStatus.RUNNING
        and name not in groups
        and not run.ended_by_tasks(name, tasks_of(definition, name))
    )
    failed = tuple(name for name, status in statuses.items() if status == StageStatus.FAILED)
    missing = MissingParts(groups, never, running, failed)
    return missing if any(missing) else None


def _lacks_tasks(definition: Definition, run: Run, stage: str) -> bool:
    """Whether fewer tasks of a group have ended than are expected. Those of a stage that never began do not count."""
    seen = run.stages.get(stage)
    if stage and (seen is None or seen.status == StageStatus.SKIPPED):
        return False
    group, tasks = run.tasks.get(stage) or TaskGroup(), tasks_of(definition, stage)
    return group.expected_of(tasks) is not None and group.outstanding(tasks)


def evaluate_completeness(state: EngineState, m: Monitor, run: Run) -> Completeness:
    """Evaluate an open run that sends `success` now. An outage excuses parts whose pings it may have lost."""
    missing = what_is_missing(m.definition, run)
    if missing is None or (unheard := missing.unheard) is None or not (outage := _lossy_outage(state, m, run)):
        return Completeness(missing)
    return Completeness(missing.explicit, reasons.not_heard(m.definition, run, unheard, outage))


def _lossy_outage(state: EngineState, m: Monitor, run: Run) -> Micros:
    """The length of the longest outage in this run; 0 if it is too short to have lost a ping of it."""
    if m.definition.count_outages or run.started_at is None:
        return 0
    length = state.outages.longest_part(run.started_at, state.now)
    return length if length >= max(LOSS_MIN, (state.now - run.started_at) / LOSS_SHARE) else 0


def requires_more(old: Definition, new: Definition) -> bool:
    """Whether a run must do something by the new definition that it need not do by the old one."""
    if new.complete != "required":
        return False
    if old.complete != "required":
        return True
    before = {stage.name: stage for stage in old.stages}
    if any(each.name not in before or before[each.name].optional > each.optional for each in new.stages):
        return True
    return any(_requires_more_tasks(tasks_of(old, name), tasks_of(new, name)) for name in ("", *before))


def _requires_more_tasks(old: Tasks | None, new: Tasks | None) -> bool:
    if new is not None and new.expected_names is not None:
        return old is None or old.expected_names is None or not new.expected_names <= old.expected_names
    return _count(new) > _count(old)


def _count(tasks: Tasks | None) -> int:
    return (tasks.expected_count if tasks is not None else None) or 0
