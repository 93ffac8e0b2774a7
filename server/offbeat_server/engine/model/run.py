"""One execution between start and finish: its stages, tasks and counts, and the limits that watch it.

Only `Run.apply` applies a ping to a run, and it is pure: the scheduler calls it as pings arrive, and a page that shows
an open run calls it with the run's pings. So no row is written for a stage, a task or a count.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from offbeat_server.common.instants import Micros
from offbeat_server.engine.model.active_tasks import ActiveTasks, TaskLimit
from offbeat_server.engine.model.definition import TASKS_MAX, Definition, Stage, Tasks
from offbeat_server.engine.model.enums import LimitKind, StageStatus, Verdict, read_enum
from offbeat_server.engine.model.ping import ENDING, OVERTAKEN_MAX, Ping
from offbeat_server.engine.model.run_detail import RunDetail, StageDetail
from offbeat_server.engine.model.tasks import TaskCount, TaskGroup

STAGES_SEEN_MAX = 200  # per run; the names of later ones are not kept, their pings are signs of life
# Names of the module: on Python 3.11 they take a fifth of the time of an attribute of the class.
_WAITING, _RUNNING, _DONE = StageStatus.WAITING, StageStatus.RUNNING, StageStatus.DONE
_FAILED, _SKIPPED = StageStatus.FAILED, StageStatus.SKIPPED
_OVER = (_DONE, _SKIPPED)
_STATUS: dict[str, StageStatus] = {"success": _DONE, "fail": _FAILED, "skip": _SKIPPED}
# Limits on a run that may continue after they were broken.
PAUSES: tuple[LimitKind, ...] = ("quiet", "stalled", "task stalled")
# Limits of single tasks. A run that has broken no other is no longer hung when these tasks have pinged or ended.
TASK_LIMITS: tuple[TaskLimit, ...] = ("task overdue", "task silent")

Mark = tuple[str, str]  # a limit that was broken: its kind, and the stage if it has one


class Limit(NamedTuple):
    """A bound on a run: it is broken at `base + length`, moved by the outages since `base`."""

    kind: LimitKind
    base: Micros
    length: Micros
    stage: str = ""
    task: str = ""


class StageState:
    """A stage as its pings show it. `status` is running, done, failed or skipped; instants are None if unknown.

    A run that has ended shows stages that did not end before it as failed (the one stage at work when it failed),
    unfinished or not started.
    """

    __slots__ = ("finished_at", "retried_at", "started_at", "status")

    def __init__(
        self,
        status: StageStatus,
        started_at: Micros | None,
        finished_at: Micros | None = None,
        retried_at: Micros | None = None,
    ) -> None:
        self.status, self.started_at, self.finished_at, self.retried_at = status, started_at, finished_at, retried_at


class Run:
    """One run. Instants are Micros, None if unknown."""

    __slots__ = (
        "attempt",
        "broken",
        "business_date",
        "count",
        "counted",
        "execution",
        "exit_code",
        "faults",
        "finished_at",
        "hung",
        "hung_by",
        "implicit",
        "is_backfill",
        "is_date_named",
        "last_at",
        "message",
        "number",
        "queued_at",
        "reason",
        "restarted_at",
        "run",
        "source",
        "stages",
        "started_at",
        "tasks",
        "trusted",
        "unended_since",
        "unverified_reason",
        "verdict",
    )

    def __init__(self, number: int, run: str | None, started_at: Micros | None, last_at: Micros) -> None:
        self.number, self.run, self.started_at, self.last_at = number, run, started_at, last_at
        self.queued_at: Micros | None = None  # its entry in the queue of its monitor
        # `max_runtime` counts from here if its client asked for more time.
        self.restarted_at: Micros | None = None
        # The start of the first of the runs that it superseded, none of which has ended.
        self.unended_since: Micros | None = None
        self.implicit = False  # its start was never said; the first sign of it was something else
        self.trusted = False  # its success is trusted: more is required of a run since an edit while it was open
        self.counted = False  # it is one of the failures in a row
        self.finished_at: Micros | None = None
        self.verdict: Verdict | None = None  # the final one
        self.reason: str | None = None
        self.hung: str | None = None  # why, once a limit was broken
        # The kind of that limit: a deadline, once one was broken, else quiet or stalled, else one of a single task.
        self.hung_by: LimitKind | Literal[""] = ""
        self.unverified_reason: str | None = None  # set when an outage of Offbeat may be why a limit was broken
        self.faults: dict[Mark, str] = {}  # why it fails as it is now: a stage that failed, too many failed tasks
        self.exit_code: int | None = None
        self.message: str | None = None  # the last one, for the alert; not stored with the state
        self.stages: dict[str, StageState] = {}
        self.tasks: dict[str, TaskGroup] = {}  # by stage; "": of the run itself
        self.count: TaskCount | None = None
        self.business_date: str | None = None  # None: it serves no occurrence
        self.is_date_named = False  # its client named that date, in `for` or in the run id
        self.is_backfill = False  # it makes up for an earlier occurrence
        self.attempt: int | None = None  # as its client numbers it
        self.execution: str | None = None  # the id of the execution that started it, as its client sent it
        self.source: bytes | None = None  # the address of the client that started it, where overlaps are watched
        self.broken: set[Mark] = set()

    # ---------------------------------------------------------------- pings

    def apply(self, at: Micros, ping: Ping, names_left: int = TASKS_MAX) -> bool:
        """Apply one ping of this run, with any signal; the caller opens and closes runs.

        `names_left`: how many more names of tasks its monitor may hold. Returns whether the ping may have brought a new
        limit, or made one earlier.
        """
        self.last_at = at
        if ping.message is not None:
            self.message = ping.message
        limits_changed = bool(self.broken)
        self.broken.discard(("quiet", ""))
        if ping.task is not None:
            limits_changed |= self._apply_task(at, ping, ping.task, names_left)
        elif ping.stage is not None:
            self.apply_stage(at, ping.stage, ping.signal)
            limits_changed = True
        if ping.done is not None:
            if ping.task is None:
                limits_changed |= self._apply_progress(at, ping.done, ping.total)
        elif says_total(ping) and (len(self.tasks) < STAGES_SEEN_MAX or (ping.stage or "") in self.tasks):
            self.group(ping.stage or "").expected = ping.total
            limits_changed = True
        return limits_changed

    @property
    def which(self) -> tuple[str | None, bool, bool, str | None]:
        """Its business date, whether that is named, whether it is a backfill, and the execution that started it."""
        return self.business_date, self.is_date_named, self.is_backfill, self.execution

    @which.setter
    def which(self, values: tuple[str | None, bool, bool, str | None]) -> None:
        self.business_date, self.is_date_named, self.is_backfill, self.execution = values

    def is_of_another_execution(self, ping: Ping) -> bool:
        """Whether a ping with the id of this run names another execution than the one that started it."""
        execution = ping.options.execution if ping.options is not None and ping.run is not None else None
        return execution is not None and self.execution is not None and execution != self.execution

    def group(self, stage: str) -> TaskGroup:
        """The tasks of a stage, or of the run itself."""
        group = self.tasks.get(stage)
        if group is None:
            group = self.tasks[stage] = TaskGroup()
        return group

    @property
    def task_names(self) -> int:
        """How many names of tasks it holds."""
        return sum(len(group.by_name) for group in self.tasks.values())

    def _apply_progress(self, at: Micros, done: int, total: int | None) -> bool:
        before = self.count
        self.count = TaskCount(done, total, at, done, at) if before is None else before.next(done, total, at)
        if before is None or done != before.done:
            self.broken.discard(("stalled", ""))
        return before is None

    def _apply_task(self, at: Micros, ping: Ping, name: str, names_left: int) -> bool:
        stage = ping.stage or ""
        known = stage in self.tasks
        if not known and len(self.tasks) >= STAGES_SEEN_MAX:
            return False
        group = self.group(stage)
        new = group.apply(name, ping.signal, names_left > 0 and self.task_names < TASKS_MAX)
        # The first that is outstanding brings the limit if no expected number is known.
        limits_changed = not known or (new and len(group.by_name) - group.ended == 1)
        if stage and stage not in self.stages:
            self.apply_stage(at, stage, "start")
            limits_changed = True
        if ping.done is not None:
            limits_changed |= group.count(name, ping.done, ping.total, at)
        return limits_changed

    def follow_task(self, at: Micros, ping: Ping) -> bool:
        """Note a ping of a task, after `apply`, for its limits; return whether it may be the next to break one."""
        stage, group = ping.stage or "", self.tasks.get(ping.stage or "")
        if group is None or ping.task is None or not self._is_open_group(stage):
            return False
        return group.follow(ping.task, ping.signal, at)

    def _is_open_group(self, stage: str) -> bool:
        """Whether single tasks of this group are watched: those of the run itself, and of a running stage."""
        seen = self.stages.get(stage)
        return not stage or (seen is not None and seen.status is _RUNNING)

    def change_task_limits(self, definition: Definition, at: Micros, is_over: Callable[[Limit], bool]) -> None:
        """Follow the active tasks by a changed definition, and keep those as broken that are so by it."""
        for stage, group in self.tasks.items():
            tasks = tasks_of(definition, stage)
            if tasks is None or not tasks.follows:
                group.active = None
                continue
            work = group.active = group.active or ActiveTasks()
            lengths = {"task overdue": tasks.each_within, "task silent": tasks.quiet_for}
            work.reconsider(
                lambda kind, base, lengths=lengths: (  # type: ignore[misc]
                    (length := lengths[kind]) is not None and is_over(Limit(kind, base, length))
                )
            )
            for name, outcome in group.by_name.items() if self._is_open_group(stage) else ():
                if outcome is None and name not in work:
                    work.ping(name, at)

    @property
    def has_broken_tasks(self) -> bool:
        """Whether a single task is overdue or silent."""
        return any(group.active is not None and group.active.broken for group in self.tasks.values())

    def apply_stage(self, at: Micros, name: str, signal: str) -> None:
        """Apply a ping of a stage, or the first one of a task of it, to the stage."""
        seen = self.stages.get(name)
        if seen is None:
            if len(self.stages) < STAGES_SEEN_MAX:
                started = signal not in _STATUS
                self.stages[name] = (
                    StageState(_RUNNING, at) if started else StageState(_STATUS[signal], None, finished_at=at)
                )
        elif (
            signal == "start"
            and seen.started_at is None
            and seen.finished_at is not None
            and at - seen.finished_at < OVERTAKEN_MAX
        ):
            seen.started_at = seen.finished_at  # its end has overtaken it
        elif signal == "start" and seen.status is not _RUNNING:
            self.stages[name] = StageState(_RUNNING, at, retried_at=at)
            self.broken -= {("stage", name), ("tasks", name)}
        elif signal in _STATUS and seen.status != _STATUS[signal]:
            seen.status, seen.finished_at = _STATUS[signal], at
            if self.tasks and (group := self.tasks.get(name)) is not None:
                group.active = None  # its tasks are no longer expected to ping or to end

    # ---------------------------------------------------------------- limits

    def limits(self, definition: Definition, include_broken: bool = False) -> Iterator[Limit]:
        """Yield every limit that watches this run now; those recorded as broken only with `include_broken`."""
        broken: set[Mark] = set() if include_broken else self.broken
        if self.started_at is not None and ("runtime", "") not in broken:
            if definition.max_runtime is not None:
                yield Limit("runtime", self.restarted_at or self.started_at, definition.max_runtime)
            elif definition.runtime_default is not None and not self.implicit:
                base = self.restarted_at or self.unended_since or self.started_at
                yield Limit("runtime", base, definition.runtime_default)
        if definition.quiet_for is not None and ("quiet", "") not in broken:
            yield Limit("quiet", self.last_at, definition.quiet_for)
        if definition.stall_for is not None:
            if self.count is not None and ("stalled", "") not in broken:
                yield Limit("stalled", self.count.at, definition.stall_for)
            for stage, group in self.tasks.items():
                if (slowest := group.slowest()) is not None:
                    yield Limit("task stalled", slowest[1].at, definition.stall_for, stage, slowest[0])
        if definition.follows_tasks:
            for kind in TASK_LIMITS:
                yield from self._single_task_limits(definition, kind)
        if definition.tasks is not None and self.started_at is not None:
            yield from self._task_limit(definition.tasks, "", self.started_at, broken)
        if definition.stages:
            yield from self._stage_limits(definition, broken)

    def _single_task_limits(self, definition: Definition, kind: TaskLimit) -> Iterator[Limit]:
        """Of each group, the limit of the task that breaks it first."""
        for stage, group in self.tasks.items():
            tasks = tasks_of(definition, stage)
            if tasks is None or group.active is None:
                continue
            length = tasks.each_within if kind == "task overdue" else tasks.quiet_for
            first = next(iter(group.active.watched(kind).items()), None)
            if length is not None and first is not None:
                yield Limit(kind, first[1], length, stage, first[0])

    def _task_limit(self, tasks: Tasks, stage: str, base: Micros, broken: set[Mark]) -> Iterator[Limit]:
        if tasks.within is None or ("tasks", stage) in broken:
            return
        group = self.tasks.get(stage)
        if group.outstanding(tasks) if group is not None else tasks.expected:
            yield Limit("tasks", base, tasks.within, stage)

    def _stage_limits(self, definition: Definition, broken: set[Mark]) -> Iterator[Limit]:
        """A stage's time runs from the completion of the nearest stage before it that counts, or the run's start."""
        base = self.started_at
        waiting = False
        for stage in definition.stages:
            seen = self.stages.get(stage.name)
            if stage.tasks is not None and seen is not None and seen.status is _RUNNING:
                assert seen.started_at is not None
                yield from self._task_limit(stage.tasks, stage.name, seen.started_at, broken)
            if waiting or (seen is None and stage.optional):
                continue
            if seen is not None and seen.status in _OVER:
                assert seen.finished_at is not None
                if base is None or seen.finished_at > base:
                    base = seen.finished_at
                continue
            waiting = True  # what comes after waits for this one
            if stage.within is None or base is None or (seen is not None and seen.status is _FAILED):
                continue
            if ("stage", stage.name) not in broken:
                if seen is not None and seen.retried_at is not None and seen.retried_at > base:
                    base = seen.retried_at
                yield Limit("stage", base, stage.within, stage.name)

    def hang(self, limit: Limit, reason: str) -> None:
        """Record a broken limit. A run that has missed a deadline is late from then on, also if it breaks others."""
        self.hung = reason
        if _weight(limit.kind) >= _weight(self.hung_by):
            self.hung_by = limit.kind

    def is_hung_by_others(self, definition: Definition, at: Micros) -> bool:
        """Whether it is hung only because runs that it superseded never ended: it may still end well by itself."""
        default = definition.runtime_default
        return (
            self.unended_since is not None
            and default is not None
            and self.broken == {("runtime", "")}
            and self.started_at is not None
            and at - self.started_at < default
        )

    # ---------------------------------------------------------------- results of its parts

    def complete(self, definition: Definition) -> bool:
        """Whether all stages, or without any all tasks, have ended well: it needs no finish of its own."""
        if not definition.stages:
            group = self.tasks.get("")
            return group is not None and group.complete(definition.tasks)
        if not self.stage_over(definition.stages[-1].name):
            return False
        return all(self.stage_over(s.name) or (s.optional and s.name not in self.stages) for s in definition.stages)

    def group_complete(self, definition: Definition, stage: str) -> bool:
        """Whether the tasks of this stage have all ended, so that the stage is done."""
        group = self.tasks.get(stage)
        return group is not None and group.complete(tasks_of(definition, stage))

    def may_end_group(self, ping: Ping) -> bool:
        """Whether this ping, which was applied, may be the last that its group of tasks waited for."""
        if ping.task is not None and ping.signal in ENDING:
            return True
        seen = self.stages.get(ping.stage or "")
        # A number does not undo what the stage itself said.
        return says_total(ping) and (seen is None or seen.status is not _FAILED)

    def ends_stage(self, definition: Definition, ping: Ping) -> bool:
        """Whether all tasks of its stage have ended with this ping, which was applied, and so has the stage."""
        stage = ping.stage or ""
        if not stage or self.stage_over(stage):
            return False
        return self.may_end_group(ping) and self.group_complete(definition, stage)

    def tasks_failed(self, definition: Definition) -> str | None:
        """The stage ("": the run itself) of which more tasks have failed than are tolerated, if there is one."""
        groups = self.tasks.items()
        return next((stage for stage, group in groups if group.too_many_failed(tasks_of(definition, stage))), None)

    def has_outstanding_tasks(self, definition: Definition) -> bool:
        """Whether tasks that are expected have not ended."""
        groups = self.tasks.items()
        return any(group.expected_of(d := tasks_of(definition, s)) and group.outstanding(d) for s, group in groups)

    def has_passed(self, definition: Definition, stage: str) -> bool:
        """Whether a later stage has pinged."""
        names = [each.name for each in definition.stages]
        return any(name in self.stages for name in names[names.index(stage) + 1 :])

    def stage_over(self, name: str) -> bool:
        """Whether this stage is done or skipped."""
        seen = self.stages.get(name)
        return seen is not None and seen.status in _OVER

    # ---------------------------------------------------------------- showing and storing

    @property
    def duration(self) -> Micros | None:
        """From start to finish; None if one of them is unknown."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at

    @property
    def is_plain(self) -> bool:
        """Whether, once it has ended, there is nothing to know of it but its verdict and its times."""
        parts = (
            self.stages
            or self.tasks
            or self.count is not None
            or self.reason is not None
            or self.exit_code
            or self.trusted
        )
        return not parts and self.verdict != Verdict.FAILED

    @property
    def final_verdict(self) -> tuple[Verdict | None, str | None]:
        """The verdict and its reason: the final one, or for an open run the provisional one."""
        if self.verdict is not None:
            return self.verdict, self.reason
        if self.faults:
            return Verdict.FAILED, next(reversed(self.faults.values()))
        if self.hung is not None:
            return Verdict.HUNG, self.hung
        return (Verdict.UNVERIFIED, self.unverified_reason) if self.unverified_reason is not None else (None, None)

    def detail(self, definition: Definition, names_max: int = TASKS_MAX) -> RunDetail[Micros]:
        """Stages, tasks and progress for `runs.detail`, the API and alerts; instants in Micros."""
        detail: RunDetail[Micros] = {}
        if self.stages or definition.stages:
            defined = {stage.name: stage for stage in definition.stages}
            names = [*defined, *(name for name in self.stages if name not in defined)]
            detail["stages"] = [self._stage_detail(name, defined.get(name), names_max) for name in names]
        own = self.tasks.get("")
        if definition.tasks is not None or (own is not None and (own.by_name or own.expected == 0)):
            detail["tasks"] = (own or TaskGroup()).show(definition.tasks, names_max)
        if self.count is not None:
            detail["progress"] = self.count.show(own.expected if own is not None else None)
            if self.verdict is not None:
                detail["progress"]["eta"] = None  # it has ended
        return detail

    @property
    def running_stages(self) -> list[str]:
        """The names of the stages that are running."""
        return [name for name, seen in self.stages.items() if seen.status is _RUNNING]

    @property
    def current_work(self) -> str | None:
        """The stage that is running, if it is the only one."""
        running = self.running_stages
        return running[0] if len(running) == 1 else None

    def ended_by_tasks(self, name: str, defined: Tasks | None) -> bool:
        """Whether a stage without a word of its end has tasks, all of which ended well; no total may be known."""
        group = self.tasks.get(name)
        if group is None or not group.ended or group.more or group.too_many_failed(defined):
            return False
        return not group.outstanding(defined)

    def _stage_at_the_end(self, name: str, seen: StageState, tasks: Tasks | None) -> StageState:
        """A stage of a run that has ended: nothing runs or waits."""
        if seen.status is _RUNNING:
            if self.verdict == Verdict.FAILED and name == self.current_work:
                return StageState(_FAILED, seen.started_at, self.finished_at)
            if self.verdict == Verdict.SUCCEEDED and self.ended_by_tasks(name, tasks):
                return StageState(_DONE, seen.started_at, self.finished_at)
            return StageState(StageStatus.UNFINISHED, seen.started_at)
        return StageState(StageStatus.NOT_STARTED, None) if seen.status is _WAITING else seen

    def _stage_detail(self, name: str, defined: Stage | None, names_max: int) -> StageDetail[Micros]:
        seen = self.stages.get(name) or StageState(_WAITING, None)
        tasks = defined.tasks if defined is not None else None
        if self.verdict is not None:
            seen = self._stage_at_the_end(name, seen, tasks)
        detail: StageDetail[Micros] = {
            "name": name,
            "status": seen.status,
            "started_at": seen.started_at,
            "finished_at": seen.finished_at,
        }
        if (group := self.tasks.get(name)) is not None or tasks is not None:
            detail["tasks"] = (group or TaskGroup()).show(tasks, names_max)
        return detail

    def dump(self) -> dict[str, Any]:
        """As JSON, for a run within its monitor's state; lists where order matters, because jsonb sorts keys.

        The start of a run and the instants of a stage are 0 if unknown.
        """
        stages = [
            [name, stage.status, stage.started_at or 0, stage.finished_at or 0, stage.retried_at or 0]
            for name, stage in self.stages.items()
        ]
        state: dict[str, Any] = {"n": self.number, "s": self.started_at or 0, "l": self.last_at}
        optional = {
            "r": self.run,
            "a": self.restarted_at,
            "e": self.unended_since,
            "i": self.implicit or None,
            "k": self.counted or None,
            "x": self.trusted or None,
            "h": self.hung,
            "y": self.hung_by or None,
            "u": self.unverified_reason,
            "f": [[*mark, reason] for mark, reason in self.faults.items()] or None,
            "g": stages or None,
            "t": [[stage, group.dump()] for stage, group in self.tasks.items()] or None,
            "c": list(self.count) if self.count is not None else None,
            "b": sorted(self.broken) or None,
            "w": [[stage, group.active.dump()] for stage, group in self.tasks.items() if group.active is not None]
            or None,
            "z": [stage for stage, group in self.tasks.items() if group.expected == 0] or None,  # their total is 0
            "v": [self.verdict, self.finished_at, self.reason, self.exit_code] if self.verdict is not None else None,
            "d": self._date(),
            "p": self._sender(),
        }
        state.update((key, value) for key, value in optional.items() if value is not None)
        return state

    def _date(self) -> list[Any] | None:
        if self.business_date is None and not self.is_backfill:
            return None
        return [self.business_date, self.is_date_named, self.is_backfill]

    def _sender(self) -> list[Any] | None:
        if (self.attempt, self.execution, self.source) == (None, None, None):
            return None
        return [self.attempt, self.execution, self.source.hex() if self.source is not None else None]

    @classmethod
    def load(cls, state: dict[str, Any]) -> "Run":
        """From `dump`."""
        run = cls(state["n"], state.get("r"), state["s"] or None, state["l"])
        run.restarted_at, run.implicit = state.get("a"), state.get("i", False)
        run.unended_since = state.get("e")
        run.trusted = state.get("x", False)
        run.counted, run.hung, run.unverified_reason = state.get("k", False), state.get("h"), state.get("u")
        run.hung_by = state.get("y", "")
        run.faults = {(kind, stage): reason for kind, stage, reason in state.get("f", ())}
        run.stages = {
            name: StageState(read_enum(StageStatus, status), *(at or None for at in instants))
            for name, status, *instants in state.get("g", ())
        }
        run.tasks = {stage: TaskGroup.load(group) for stage, group in state.get("t", ())}
        for stage, work in state.get("w", ()):
            run.tasks[stage].active = ActiveTasks.load(work)
        for stage in state.get("z", ()):
            run.tasks[stage].expected = 0
        run.count = TaskCount(*state["c"]) if "c" in state else None
        run.broken = {(kind, stage) for kind, stage in state.get("b", ())}
        if "v" in state:
            verdict, run.finished_at, run.reason, run.exit_code = state["v"]
            run.verdict = read_enum(Verdict, verdict)
        run.business_date, run.is_date_named, run.is_backfill = state.get("d", (None, False, False))
        run.attempt, run.execution, source = state.get("p", (None, None, None))
        run.source = bytes.fromhex(source) if source else None
        return run


def says_total(ping: Ping) -> bool:
    """Whether a ping says how many tasks there are: a `total` beside `done` is the end of a count."""
    return ping.total is not None and ping.done is None


def _weight(kind: str) -> int:
    """Which of several broken limits says how a run that ends has ended: the one with the greatest weight."""
    return 0 if not kind else 1 if kind in TASK_LIMITS else 2 if kind in PAUSES else 3


def tasks_of(definition: Definition, stage: str) -> Tasks | None:
    """Return the rules for the tasks of a stage; "": of the run itself."""
    if not stage:
        return definition.tasks
    return next((each.tasks for each in definition.stages if each.name == stage), None)
