"""One execution between start and finish: its stages, tasks and counts, and the limits that watch it.

`Run.hear` is the only way in which a ping changes a run, and it is pure: the keeper calls it as pings come, and a page
that shows an open run calls it over the run's pings. So no row is written for a stage, a task or a count.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any, NamedTuple

from server.engine.monitor import Definition
from server.engine.ping import Micros, Ping

RUNS_OPEN_MAX = 1_000  # per monitor; beyond: the oldest is closed as unknown
RUNS_REMEMBERED_MAX = 200  # closed run ids per monitor, to know a repeated finish
TASKS_MAX = 20_000  # per run; the names of later ones are not kept, their pings are signs of life
STAGES_SEEN_MAX = 200  # per run; the same


class Limit(NamedTuple):
    """A bound on a run: it is broken at `base + length`, moved by deaf time since `base`."""

    kind: str
    base: Micros
    length: Micros
    stage: str | None = None


class StageSeen:
    """A stage as far as it was heard of. `status` is running, done, failed or skipped."""

    __slots__ = ("finished_at", "started_at", "status")

    def __init__(self, status: str, started_at: Micros, finished_at: Micros) -> None:
        self.status, self.started_at, self.finished_at = status, started_at, finished_at


class TasksSeen:
    """The pieces of a fan-out by name: True done, False failed, None started."""

    __slots__ = ("by_name", "done", "expected", "failed")

    def __init__(self) -> None:
        self.by_name: dict[str, bool | None] = {}
        self.expected = 0  # what the run said with `total`
        self.done = 0
        self.failed = 0

    def hear(self, name: str, signal: str) -> None:
        """One ping of one task. A retry of a failed task may succeed; a done task stays done unless it fails."""
        before = self.by_name.get(name)
        after = {"success": True, "skip": True, "fail": False}.get(signal, before)
        if name not in self.by_name and len(self.by_name) >= TASKS_MAX:
            return
        self.by_name[name] = after
        self.done += (after is True) - (before is True)
        self.failed += (after is False) - (before is False)

    def expected_of(self, definition: Definition) -> int:
        """How many there should be; 0 where nobody said."""
        return (definition.tasks.expected if definition.tasks else None) or self.expected

    def missing(self, expected: int) -> list[str]:
        """The names that are not done: those heard of first, then the numbers 1 … expected never heard of.

        Names that were never heard of can only be guessed where the others are whole numbers.
        """
        started = [name for name, state in self.by_name.items() if state is not True]
        unheard = expected - len(self.by_name)
        if unheard <= 0 or not all(name.isdecimal() and len(name) < 10 for name in self.by_name):
            return started
        numbers = {int(name) for name in self.by_name}
        low = 0 if 0 in numbers else 1
        return started + [str(n) for n in range(low, low + expected) if n not in numbers][:unheard]


class Run:
    """One run. Instants are Micros, 0 where unknown."""

    __slots__ = (
        "armed",
        "broken",
        "counted_at",
        "done",
        "exit_code",
        "finished_at",
        "first_count",
        "implicit",
        "last_at",
        "message",
        "number",
        "reason",
        "restarted_at",
        "run",
        "stages",
        "started_at",
        "tasks",
        "total",
        "verdict",
    )

    def __init__(self, number: int, run: str | None, started_at: Micros, last_at: Micros) -> None:
        self.number, self.run, self.started_at, self.last_at = number, run, started_at, last_at
        self.armed: Micros = 0  # its entry in the heap of its monitor
        self.restarted_at: Micros = 0  # `max_runtime` counts from here, where its client asked for more time
        self.implicit = False  # its start was never said; the first sign of it was something else
        self.finished_at: Micros = 0
        self.verdict: str | None = None
        self.reason: str | None = None
        self.exit_code: int | None = None
        self.message: str | None = None  # the last one, for the alert; not stored with the state
        self.stages: dict[str, StageSeen] = {}
        self.tasks: TasksSeen | None = None
        self.done: int | None = None
        self.total: int | None = None
        self.counted_at: Micros = 0  # when `done` last changed
        self.first_count: tuple[Micros, int] | None = None
        self.broken: set[tuple[str, str]] = set()  # limits already judged: (kind, stage)

    # ---------------------------------------------------------------- hearing

    def hear(self, at: Micros, ping: Ping) -> None:
        """Take in one ping of this run, whatever its signal; opening and closing is the caller's."""
        self.last_at = at
        if ping.message is not None:
            self.message = ping.message
        if ping.task is not None:
            self._hear_task(at, ping)
        elif ping.stage is not None:
            self._hear_stage(at, ping.stage, ping.signal)
        if ping.done is not None and ping.task is None:
            if ping.done != self.done:
                self.counted_at = at
                self.broken.discard(("stalled", ""))
                if self.first_count is None or ping.done < self.first_count[1]:
                    self.first_count = (at, ping.done)
            self.done = ping.done
        if ping.total is not None:
            if ping.task is None and ping.done is not None:
                self.total = ping.total
            else:
                if self.tasks is None:
                    self.tasks = TasksSeen()
                self.tasks.expected = ping.total
        self.broken.discard(("quiet", ""))

    def _hear_task(self, at: Micros, ping: Ping) -> None:
        assert ping.task is not None
        if self.tasks is None:
            self.tasks = TasksSeen()
        self.tasks.hear(ping.task, ping.signal)
        if ping.stage is not None and ping.stage not in self.stages:
            self._hear_stage(at, ping.stage, "start")

    def _hear_stage(self, at: Micros, name: str, signal: str) -> None:
        seen = self.stages.get(name)
        if seen is None and len(self.stages) >= STAGES_SEEN_MAX:
            return
        if signal == "start":
            if seen is None or seen.status != "running":  # also a retry of a finished stage
                self.stages[name] = StageSeen("running", at, 0)
            self.broken.discard(("stage", name))
        elif signal in ("success", "fail", "skip"):
            status = {"success": "done", "fail": "failed", "skip": "skipped"}[signal]
            started = seen.started_at if seen is not None else 0
            self.stages[name] = StageSeen(status, started, at)
        elif seen is None:
            self.stages[name] = StageSeen("running", at, 0)

    # ---------------------------------------------------------------- limits

    def limits(self, definition: Definition) -> Iterator[Limit]:
        """Every limit that watches this run now and was not judged yet."""
        broken = self.broken
        if definition.max_runtime is not None and self.started_at and ("runtime", "") not in broken:
            yield Limit("runtime", self.restarted_at or self.started_at, definition.max_runtime)
        if definition.quiet_for is not None and ("quiet", "") not in broken:
            yield Limit("quiet", self.last_at, definition.quiet_for)
        if definition.stall_for is not None and self.counted_at and ("stalled", "") not in broken:
            yield Limit("stalled", self.counted_at, definition.stall_for)
        tasks = definition.tasks
        if tasks is not None and tasks.within is not None and self.started_at and ("tasks", "") not in broken:
            expected = self.tasks.expected_of(definition) if self.tasks else tasks.expected or 0
            if expected and (self.tasks is None or self.tasks.done < expected):
                yield Limit("tasks", self.started_at, tasks.within)
        if definition.stages:
            yield from self._stage_limits(definition)

    def _stage_limits(self, definition: Definition) -> Iterator[Limit]:
        """A stage's time runs from the completion of the nearest stage before it that counts, or the run's start."""
        base = self.started_at
        for stage in definition.stages:
            seen = self.stages.get(stage.name)
            if stage.optional and seen is None:
                continue
            if seen is not None and seen.finished_at and seen.status != "failed":
                base = max(base, seen.finished_at)
                continue
            if stage.within is not None and base and ("stage", stage.name) not in self.broken:
                yield Limit("stage", base, stage.within, stage.name)
            return  # what comes after waits for this one

    def stages_complete(self, definition: Definition) -> bool:
        """Whether the last stage and every required one before it is done or skipped."""
        stages = definition.stages
        if not stages or not self._finished(stages[-1].name):
            return False
        return all(self._finished(stage.name) or (stage.optional and stage.name not in self.stages) for stage in stages)

    def tasks_complete(self, definition: Definition) -> bool:
        """Whether all expected tasks have ended, with no more failures than are tolerated."""
        if self.tasks is None or not (expected := self.tasks.expected_of(definition)):
            return False
        tolerate = definition.tasks.tolerate if definition.tasks else 0
        return self.tasks.failed <= tolerate and self.tasks.done + self.tasks.failed >= expected

    def tasks_failed(self, definition: Definition) -> bool:
        """Whether more tasks have failed than are tolerated."""
        return self.tasks is not None and self.tasks.failed > (definition.tasks.tolerate if definition.tasks else 0)

    def _finished(self, name: str) -> bool:
        seen = self.stages.get(name)
        return seen is not None and seen.status in ("done", "skipped")

    # ---------------------------------------------------------------- showing and storing

    @property
    def duration(self) -> Micros | None:
        """From start to finish; None where one of them is unknown."""
        return self.finished_at - self.started_at if self.started_at and self.finished_at else None

    def detail(self, definition: Definition, names_max: int = TASKS_MAX) -> dict[str, Any]:
        """Stages, tasks and progress for `runs.detail`, the API and alerts; instants in Micros."""
        detail: dict[str, Any] = {}
        if self.stages or definition.stages:
            names = [stage.name for stage in definition.stages]
            names += [name for name in self.stages if name not in names]
            detail["stages"] = [self._stage_detail(name) for name in names]
        if self.tasks is not None or definition.tasks is not None:
            tasks = self.tasks or TasksSeen()
            expected = tasks.expected_of(definition)
            detail["tasks"] = {
                "expected": expected or None,
                "started": len(tasks.by_name),
                "done": tasks.done,
                "failed": tasks.failed,
                "failed_names": [name for name, state in tasks.by_name.items() if state is False][:names_max],
                "missing": tasks.missing(expected)[:names_max],
            }
        if self.done is not None:
            rate = self.rate()
            left = self.total - self.done if self.total is not None else None
            detail["progress"] = {
                "done": self.done,
                "total": self.total,
                "rate": rate,
                "eta": round(self.counted_at + left / rate * 1e6) if rate and left is not None and left > 0 else None,
            }
        return detail

    def rate(self) -> float | None:
        """Counted per second since the first count; None before two counts."""
        if self.first_count is None or self.done is None or self.counted_at <= self.first_count[0]:
            return None
        return (self.done - self.first_count[1]) / (self.counted_at - self.first_count[0]) * 1e6

    def _stage_detail(self, name: str) -> dict[str, Any]:
        seen = self.stages.get(name)
        if seen is None:
            return {"name": name, "status": "waiting", "started_at": None, "finished_at": None}
        return {
            "name": name,
            "status": seen.status,
            "started_at": seen.started_at or None,
            "finished_at": seen.finished_at or None,
        }

    def dump(self) -> dict[str, Any]:
        """As JSON, for an open run within its monitor's state."""
        state: dict[str, Any] = {"n": self.number, "s": self.started_at, "l": self.last_at}
        if self.run is not None:
            state["r"] = self.run
        if self.stages:
            state["g"] = {name: [s.status, s.started_at, s.finished_at] for name, s in self.stages.items()}
        if self.tasks is not None:
            state["t"] = [self.tasks.expected, self.tasks.by_name]
        if self.done is not None:
            state["c"] = [self.done, self.total, self.counted_at, self.first_count]
        if self.broken:
            state["b"] = sorted(self.broken)
        if self.implicit:
            state["i"] = True
        if self.restarted_at:
            state["a"] = self.restarted_at
        if self.verdict is not None:  # hung, and still open
            state["v"] = [self.verdict, self.reason]
        return state

    @classmethod
    def load(cls, state: dict[str, Any]) -> "Run":
        """From `dump`."""
        run = cls(state["n"], state.get("r"), state["s"], state["l"])
        run.stages = {name: StageSeen(*seen) for name, seen in state.get("g", {}).items()}
        if "t" in state:
            run.tasks = TasksSeen()
            run.tasks.expected, run.tasks.by_name = state["t"]
            run.tasks.done = sum(1 for each in run.tasks.by_name.values() if each is True)
            run.tasks.failed = sum(1 for each in run.tasks.by_name.values() if each is False)
        if "c" in state:
            run.done, run.total, run.counted_at, first = state["c"]
            run.first_count = tuple(first) if first else None
        run.broken = {(kind, stage) for kind, stage in state.get("b", [])}
        run.implicit = state.get("i", False)
        run.restarted_at = state.get("a", 0)
        run.verdict, run.reason = state.get("v", (None, None))
        return run


class Runs:
    """The open runs of a monitor, what it remembers of closed ones, and a small heap of their limits."""

    __slots__ = ("by_id", "closed", "count", "heap", "open")

    def __init__(self) -> None:
        self.count = 0  # the last number given
        self.open: dict[int, Run] = {}
        self.by_id: dict[str, int] = {}
        self.closed: dict[str, tuple[int, str]] = {}  # run id -> (number, verdict), the newest last
        self.heap: list[tuple[Micros, int]] = []

    def find(self, run: str | None) -> Run | None:
        """The open run with this id; without an id the newest open one that has none."""
        if run is not None:
            number = self.by_id.get(run)
            return None if number is None else self.open[number]
        return next((each for each in reversed(self.open.values()) if each.run is None), None)

    def add(self, run: str | None, started_at: Micros, at: Micros) -> Run:
        """Open one more."""
        self.count += 1
        added = self.open[self.count] = Run(self.count, run, started_at, at)
        if run is not None:
            self.by_id[run] = self.count
        return added

    def remove(self, run: Run, verdict: str) -> None:
        """Close one, and remember its id for a while."""
        del self.open[run.number]
        if run.run is not None:
            del self.by_id[run.run]
            self.remember(run.run, run.number, verdict)

    def remember(self, run: str, number: int, verdict: str) -> None:
        """Know a closed run id again."""
        self.closed.pop(run, None)
        self.closed[run] = (number, verdict)
        if len(self.closed) > RUNS_REMEMBERED_MAX:
            del self.closed[next(iter(self.closed))]

    def arm(self, run: Run, when: Micros) -> None:
        """Look at this run at `when`, unless it is looked at earlier anyhow."""
        if not run.armed or when < run.armed:
            run.armed = when
            heappush(self.heap, (when, run.number))

    def next(self) -> Micros | None:
        """When a run is to be looked at; entries of closed runs and stale ones are dropped on the way."""
        heap = self.heap
        while heap:
            run = self.open.get(heap[0][1])
            if run is not None and run.armed == heap[0][0]:
                return heap[0][0]
            heappop(heap)
        return None

    def pop_until(self, when: Micros) -> Run | None:
        """An open run whose time may have come, taken out of the heap."""
        if (due := self.next()) is None or due > when:
            return None
        run = self.open[heappop(self.heap)[1]]
        run.armed = 0
        return run

    def dump(self) -> dict[str, Any]:
        """As JSON; empty when there never was a run."""
        if not self.count:
            return {}
        state: dict[str, Any] = {"n": self.count}
        if self.open:
            state["o"] = [run.dump() for run in self.open.values()]
        if self.closed:
            state["c"] = [[run, number, verdict] for run, (number, verdict) in self.closed.items()]
        return state

    @classmethod
    def load(cls, state: dict[str, Any]) -> "Runs":
        """From `dump`; the caller arms the limits."""
        runs = cls()
        runs.count = state["n"]
        for each in state.get("o", []):
            run = Run.load(each)
            runs.open[run.number] = run
            if run.run is not None:
                runs.by_id[run.run] = run.number
        runs.closed = {run: (number, verdict) for run, number, verdict in state.get("c", [])}
        return runs
