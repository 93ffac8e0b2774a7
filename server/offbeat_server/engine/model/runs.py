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
ENDED_NAMES_MAX = 20_000  # of stages and tasks of the ended runs of a monitor; the oldest are no longer held
LATE_START_MAX: Micros = 10 * SECOND  # the first start of a run, this soon after its end, was overtaken by it


class EndedRun(NamedTuple):
    """A run that has ended, as far as a late ping of it needs to know.

    `content` is None if the other fields say everything, or if it is `forgotten`: only its row has it.
    """

    number: int
    verdict: Verdict
    at: Micros
    begun: bool = True  # whether it had a ping before its end
    started: Micros | None = None
    finish_key: str = ""  # what its own last ping said (see `repeat_key`); "": it has not said how it ended
    business_date: str | None = None
    is_date_named: bool = False
    is_backfill: bool = False
    execution: str | None = None
    by_hand: bool = False  # a person gave it this verdict, and it has sent no other finish since
    content: Run | None = None
    forgotten: bool = False

    @property
    def which(self) -> tuple[str | None, bool, bool, str | None]:
        """As of `Run`."""
        return self.business_date, self.is_date_named, self.is_backfill, self.execution

    def dump(self) -> list[Any]:
        """As JSON, the fields that the program before reads. It does not know the verdict `ignored`."""
        verdict = Verdict.UNKNOWN if self.verdict == Verdict.IGNORED else self.verdict
        return [self.number, verdict, self.at, self.begun]

    @property
    def finish(self) -> str:
        """The signal by which it said how it ended; "": its stages or tasks ended it, or Offbeat closed it."""
        return self.finish_key.partition(" ")[0]

    def as_run(self, run: str | None) -> Run:
        """It as a run with this id. Not if its content is forgotten."""
        if self.content is not None:
            return self.content
        plain = Run(self.number, run, self.started, self.at)
        plain.finished_at, plain.verdict = self.at, self.verdict
        plain.which = self.which
        plain.exit_code = 0 if self.finish_key.split(" ", 2)[1:2] == ["0"] else None
        return plain

    @property
    def names(self) -> int:
        """How many names of stages and tasks it holds."""
        return len(self.content.stages) + self.content.task_names if self.content is not None else 0


class EndedRunRow(NamedTuple):
    """The row of an ended run with an id; `state` is of `MonitorRuns.dump_ended`."""

    number: int
    verdict: Verdict
    at: Micros
    business_date: str | None
    backfill: bool
    execution: str | None
    state: list[Any]


_DATE_FIELDS = ("business_date", "is_date_named", "is_backfill", "execution")
_FORGOTTEN = 0  # in place of a content; also of a state that was written without contents


def _dump_content(ended: EndedRun) -> dict[str, Any] | int | None:
    if ended.content is None:
        return _FORGOTTEN if ended.forgotten else None
    return ended.content.dump()


def ended_run(run: Run, verdict: Verdict, at: Micros, begun: bool, finish_key: str) -> EndedRun:
    """Return what a late ping of a run needs to know that ended at `at`."""
    content = None if run.is_plain else run
    return EndedRun(run.number, verdict, at, begun, run.started_at, finish_key, *run.which, content=content)


def _load_ended(
    number: int,
    verdict: str,
    at: Micros,
    begun: bool = True,
    started: Micros = 0,
    finish_key: str = "",
    content: dict[str, Any] | int | None = None,
    *which: Any,
) -> EndedRun:
    """From JSON, in which an unknown start is 0. `which`: its business date and execution."""
    run = Run.load(content) if isinstance(content, dict) else None
    forgotten = content == _FORGOTTEN
    ended = EndedRun(number, read_enum(Verdict, verdict), at, begun, started or None, finish_key)
    dates = dict(zip(_DATE_FIELDS, which, strict=False))
    return ended._replace(content=run, forgotten=forgotten, **dates)


class MonitorRuns:
    """The runs of one monitor."""

    __slots__ = (
        "by_id",
        "closed",
        "count",
        "ended_names",
        "finished",
        "limits",
        "not_before",
        "not_before_of",
        "open",
        "own_finish_due",
        "recalled",
        "task_names",
        "unnamed",
    )

    def __init__(self) -> None:
        self.count = 0  # the last number given
        self.open: dict[int, Run] = {}
        self.by_id: dict[str, Run] = {}
        self.closed: dict[str, EndedRun] = {}  # by run id, the newest last
        self.unnamed: EndedRun | None = None  # the last run without an id that has ended, until another one opens
        self.own_finish_due = False  # its pieces or a person ended it, and its own finish may follow
        self.finished: tuple[Micros, int] | None = None  # the last finish of a run without an id, and its writer
        # No limit of a run up to that number is evaluated before: something was changed.
        self.not_before: Micros | None = None
        self.not_before_of = 0
        self.ended_names = 0  # of stages and tasks of `closed`
        # Ended runs that `closed` no longer has in full, until their rows are written and can be read: not stored.
        self.recalled: dict[str, EndedRun] = {}
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
        return self.find_ended(run) if known is not None and at - known.at <= REMEMBERED_FOR else None

    def find_ended(self, run: str) -> EndedRun | None:
        """The last ended run with this id that is remembered or recalled, however long ago it ended."""
        known = self.closed.get(run)
        if known is not None and not known.forgotten:
            return known
        recalled = self.recalled.get(run)
        if known is None or recalled is None or recalled.number != known.number:
            return known or recalled
        return known._replace(content=recalled.content, forgotten=recalled.forgotten)

    def needs_row(self, run: str, is_whole: bool) -> bool:
        """Whether a ping with this run id may need what only the row of the run has.

        `is_whole`: it is of the whole run. Then the run is another one, if its id is not remembered.
        """
        if run in self.by_id or run in self.recalled:
            return False
        known = self.closed.get(run)
        return known.forgotten if known is not None else not is_whole

    def dump_ended(self, run: Run) -> list[Any] | None:
        """As JSON for the row of an ended run, see `recall`; None: it has no id, or only its row has its content."""
        ended = self.find_ended(run.run) if run.run is not None else None
        if ended is None or ended.number != run.number or ended.forgotten:
            return None
        content = _dump_content(ended)
        return [ended.begun, ended.started or 0, ended.finish_key, content, ended.is_date_named, ended.by_hand]

    def recall(self, run: str, row: EndedRunRow) -> None:
        """Know an ended run from its row."""
        begun, started, finish_key, content, is_date_named, by_hand = row.state
        which = (row.business_date, is_date_named, row.backfill, row.execution)
        ended = _load_ended(row.number, row.verdict, row.at, begun, started, finish_key, content, *which)
        if ended.content is not None:
            ended.content.verdict = row.verdict
        self.recalled[run] = ended._replace(by_hand=by_hand)

    def ended_by_number(self, number: int, at: Micros) -> tuple[str | None, EndedRun] | None:
        """The id and the ended run with this number, if it is remembered."""
        found = ((run, e) for run, e in self._remembered() if e.number == number and at - e.at <= REMEMBERED_FOR)
        return next(found, None)

    def _remembered(self) -> Iterator[tuple[str | None, EndedRun]]:
        yield from ((run, self.find_ended(run) or ended) for run, ended in self.closed.items())
        if self.auto_completed is not None:
            yield None, self.auto_completed

    @property
    def auto_completed(self) -> EndedRun | None:
        """The last run without an id, if its own pieces or a person ended it."""
        return self.unnamed if self.own_finish_due else None

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
            self.unnamed, self.own_finish_due = None, False
        return added

    def remove(self, run: Run, verdict: Verdict, at: Micros, created_by_finish: bool, finish_key: str) -> None:
        """Close one, and remember its id for a while.

        `created_by_finish`: its end was the first ping of it. `finish_key`: the repeat key of the ping that ended it.
        """
        del self.open[run.number]
        self.limits.sweep(self.open)
        self.task_names -= run.task_names
        ended = ended_run(run, verdict, at, not created_by_finish, finish_key)
        if run.run is not None:
            del self.by_id[run.run]
        else:
            self.finished, self.own_finish_due = None, False
        self.keep(run.run, ended)

    def last(self, run: str | None) -> EndedRun:
        """The run with this id that has just ended; None: the one without an id."""
        ended = self.closed[run] if run is not None else self.unnamed
        assert ended is not None
        return ended

    def keep(self, run: str | None, ended: EndedRun) -> None:
        """Know an ended run again: by its id, or as the last one that had none."""
        if run is None:
            self.unnamed = ended
            return
        closed = self.closed
        before = closed.get(run)
        if before is None and (old := self.recalled.get(run)) is not None and old.number == ended.number:
            self.recalled[run] = ended
            return
        if ended.forgotten is False and before is not None and before.forgotten and before.number == ended.number:
            self.recalled[run], ended = ended, ended._replace(content=None, forgotten=True)
        if before is not None and before.number != ended.number:
            del closed[run]  # so that the newest is the last
        closed[run] = ended
        if before is None:
            self.ended_names += ended.names
        else:
            self.ended_names = sum(each.names for each in closed.values())
        while len(closed) > RUNS_REMEMBERED_MAX or closed[next(iter(closed))].at < ended.at - REMEMBERED_FOR:
            oldest = next(iter(closed))
            gone = closed.pop(oldest)
            self.ended_names -= gone.names
            if not gone.forgotten or (old := self.recalled.get(oldest)) is None or old.number != gone.number:
                self.recalled[oldest] = gone
        for oldest, each in closed.items() if self.ended_names > ENDED_NAMES_MAX else ():
            self.ended_names -= each.names
            if not each.forgotten:
                self.recalled[oldest] = each
            closed[oldest] = each._replace(content=None, forgotten=each.forgotten or each.content is not None)
            if self.ended_names <= ENDED_NAMES_MAX:
                break

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
            state["d"] = [_dump_content(ended) for ended in self.closed.values()]
            dates = [list(ended.which) for ended in self.closed.values()]
            if any(map(any, dates)):
                state["x"] = dates
        if self.unnamed is not None:
            ended = self.unnamed
            which = ended.which if any(ended.which) else ()
            state["u"] = [*ended.dump(), ended.started or 0, ended.finish_key, _dump_content(ended), *which]
        if self.auto_completed is not None:
            state["f"] = self.auto_completed.dump()
            state["s"] = self.auto_completed.started or 0
            if any(self.auto_completed.which):
                state["t"] = list(self.auto_completed.which)
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
        keys = chain(state.get("w", ()), repeat((0, "")))
        contents = chain(state.get("d", ()), repeat(_FORGOTTEN))
        dates = chain(state.get("x", ()), repeat(()))
        for (run_id, *ended), more, content, which in zip(state.get("c", ()), keys, contents, dates, strict=False):
            runs.closed[run_id] = _load_ended(*chain(ended, more, [content], which))
        runs.ended_names = sum(ended.names for ended in runs.closed.values())
        runs.own_finish_due = "f" in state
        if "f" in state:
            runs.unnamed = _load_ended(*chain(state["f"], [state.get("s", 0), "", _FORGOTTEN]))
        if "u" in state:
            runs.unnamed = _load_ended(*state["u"])
        by_hand = dict(state.get("h", ()))
        for run_id, known in [each for each in runs._remembered() if each[0] in by_hand]:
            runs.keep(run_id, known._replace(verdict=read_enum(Verdict, by_hand[run_id]), by_hand=True))
        if "e" in state:
            runs.finished = (state["e"][0], state["e"][1])
        runs.not_before, runs.not_before_of = state.get("b", (None, 0))
        return runs
