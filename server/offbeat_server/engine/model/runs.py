"""The open runs of a monitor, what it remembers of those that ended, and a queue of their limits."""

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any, NamedTuple

from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.engine.lazy_queue import LazyHeap
from offbeat_server.engine.model.enums import Verdict, read_enum
from offbeat_server.engine.model.run import Run

RUNS_OPEN_MAX = 1_000  # per monitor; beyond: the oldest is closed as unknown
RUNS_REMEMBERED_MAX = 200  # ids of ended runs per monitor
TASK_NAMES_MAX = 100_000  # of all open runs of a monitor; the names of later ones are not kept
REMEMBERED_FOR: Micros = 600 * SECOND  # how long a run keeps its id after its end: a late retry is no new run
LATE_START_MAX: Micros = 10 * SECOND  # the first start of a run, this soon after its end, was overtaken by it


class EndedRun(NamedTuple):
    """A run that has ended, as far as a late ping of it needs to know."""

    number: int
    verdict: Verdict
    at: Micros
    begun: bool = True  # whether it had a ping before its end
    started: Micros | None = None
    finish_key: str = ""  # what its own last ping said (see `repeat_key`); "": it has not said how it ended
    by_hand: bool = False  # a person gave it this verdict, and it has sent no other finish since

    def dump(self) -> list[Any]:
        """As JSON, the fields that the program before reads. It does not know the verdict `ignored`."""
        verdict = Verdict.UNKNOWN if self.verdict == Verdict.IGNORED else self.verdict
        return [self.number, verdict, self.at, self.begun]


def _load_ended(
    number: int, verdict: str, at: Micros, begun: bool = True, started: Micros = 0, finish_key: str = ""
) -> EndedRun:
    """From JSON, in which an unknown start is 0."""
    return EndedRun(number, read_enum(Verdict, verdict), at, begun, started or None, finish_key)


class MonitorRuns:
    """The runs of one monitor."""

    __slots__ = (
        "auto_completed",
        "by_id",
        "closed",
        "count",
        "finished",
        "limits",
        "not_before",
        "not_before_of",
        "open",
        "task_names",
    )

    def __init__(self) -> None:
        self.count = 0  # the last number given
        self.open: dict[int, Run] = {}
        self.by_id: dict[str, Run] = {}
        self.closed: dict[str, EndedRun] = {}  # by run id, the newest last
        # The last run without an id, if its own pieces or a person ended it.
        self.auto_completed: EndedRun | None = None
        self.finished: tuple[Micros, int] | None = None  # the last finish of a run without an id, and its writer
        # No limit of a run up to that number is evaluated before: something was changed.
        self.not_before: Micros | None = None
        self.not_before_of = 0
        self.task_names = 0  # of all open runs
        self.limits = LazyHeap[int]()  # of the open runs, by number

    def find(self, run: str | None) -> Run | None:
        """The open run with this id; without an id the open one that has none."""
        if run is not None:
            return self.by_id.get(run)
        return next((each for each in reversed(self.open.values()) if each.run is None), None)

    @property
    def latest(self) -> Run | None:
        """The open run that began last."""
        return next(reversed(self.open.values()), None)

    def ended(self, run: str, at: Micros) -> EndedRun | None:
        """The ended run with this id, if it is remembered."""
        known = self.closed.get(run)
        return known if known is not None and at - known.at <= REMEMBERED_FOR else None

    def ended_by_number(self, number: int, at: Micros) -> tuple[str | None, EndedRun] | None:
        """The id and the ended run with this number, if it is remembered."""
        found = ((run, e) for run, e in self._remembered() if e.number == number and at - e.at <= REMEMBERED_FOR)
        return next(found, None)

    def _remembered(self) -> Iterator[tuple[str | None, EndedRun]]:
        yield from self.closed.items()
        if self.auto_completed is not None:
            yield None, self.auto_completed

    def replace_ended(self, run: str | None, ended: EndedRun) -> None:
        """Remember otherwise how a remembered run ended."""
        if run is not None:
            self.closed[run] = ended
        else:
            self.auto_completed = ended

    def knows(self, run: str, at: Micros) -> bool:
        """Whether the run with this id is open, or ended a short while ago."""
        return run in self.by_id or self.ended(run, at) is not None

    def add(self, run: str | None, started_at: Micros | None, at: Micros) -> Run:
        """Open one more."""
        self.count += 1
        added = self.open[self.count] = Run(self.count, run, started_at, at)
        if run is not None:
            self.by_id[run] = added
        else:
            self.auto_completed = None
        return added

    def remove(self, run: Run, verdict: Verdict, at: Micros, created_by_finish: bool, finish_key: str) -> None:
        """Close one, and remember its id for a while.

        `created_by_finish`: its end was the first ping of it. `finish_key`: the repeat key of the ping that ended it.
        """
        del self.open[run.number]
        self.limits.sweep(self.open)
        self.task_names -= run.task_names
        if run.run is not None:
            del self.by_id[run.run]
            self.remember(run.run, EndedRun(run.number, verdict, at, not created_by_finish, run.started_at, finish_key))

    def remember(self, run: str, ended: EndedRun) -> None:
        """Know an ended run's id again."""
        closed = self.closed
        closed.pop(run, None)
        closed[run] = ended
        while True:
            oldest = next(iter(closed))
            if len(closed) <= RUNS_REMEMBERED_MAX and closed[oldest].at >= ended.at - REMEMBERED_FOR:
                return
            del closed[oldest]

    def end_of_pieces(self, run: Run, at: Micros) -> None:
        """A run without an id was ended by its pieces: a finish of its own may still follow."""
        self.auto_completed = EndedRun(run.number, run.verdict or Verdict.UNKNOWN, at, started=run.started_at)

    def put_off(self, until: Micros) -> None:
        """Evaluate no limit of the runs that are open now before `until`."""
        if self.open:
            self.not_before = until if self.not_before is None else max(self.not_before, until)
            self.not_before_of = self.count

    def take_until(self, when: Micros) -> list[Run]:
        """The open runs whose time may have come, by number, taken out of the queue.

        Not in the queue's order: a run may be in it for a time that is long past and meant something else.
        """
        taken: list[Run] = []
        while (popped := self.limits.pop_before(self.open.get, when + 1)) is not None:
            taken.append(popped[2])
        return sorted(taken, key=lambda run: run.number)

    def dump(self) -> dict[str, Any]:
        """As JSON; empty when there never was a run. Where order matters there are lists: jsonb sorts keys."""
        if not self.count:
            return {}
        state: dict[str, Any] = {"n": self.count}
        if self.open:
            state["o"] = [run.dump() for run in self.open.values()]
        if self.closed:
            # Later fields have a key of their own: the program before reads exactly the first four.
            state["c"] = [[run, *ended.dump()] for run, ended in self.closed.items()]
            state["w"] = [[ended.started or 0, ended.finish_key] for ended in self.closed.values()]
        if self.auto_completed is not None:
            state["f"] = self.auto_completed.dump()
            state["s"] = self.auto_completed.started or 0
        if by_hand := [[run, ended.verdict] for run, ended in self._remembered() if ended.by_hand]:
            state["h"] = by_hand
        if self.finished is not None:
            state["e"] = list(self.finished)
        if self.not_before is not None:
            state["b"] = [self.not_before, self.not_before_of]
        return state

    @classmethod
    def load(cls, state: dict[str, Any]) -> "MonitorRuns":
        """From `dump`; the caller arms the limits."""
        runs = cls()
        runs.count = state["n"]
        for each in state.get("o", ()):
            run = Run.load(each)
            runs.open[run.number] = run
            runs.task_names += run.task_names
            if run.run is not None:
                runs.by_id[run.run] = run
        keys = chain(state.get("w", ()), repeat(()))
        runs.closed = {
            run: _load_ended(*ended, *more) for (run, *ended), more in zip(state.get("c", ()), keys, strict=False)
        }
        if "f" in state:
            runs.auto_completed = _load_ended(*state["f"])._replace(started=state.get("s") or None)
        by_hand = dict(state.get("h", ()))
        for run_id, ended in [each for each in runs._remembered() if each[0] in by_hand]:
            runs.replace_ended(run_id, ended._replace(verdict=read_enum(Verdict, by_hand[run_id]), by_hand=True))
        if "e" in state:
            runs.finished = (state["e"][0], state["e"][1])
        runs.not_before, runs.not_before_of = state.get("b", (None, 0))
        return runs
