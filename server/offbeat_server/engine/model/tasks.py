"""The pieces of a fan-out: N tasks of a run or of one of its stages, each started, done or failed, and what they count.

A ping costs the same with ten tasks as with ten thousand: values that need all names (which tasks are missing) are
computed only when they are shown.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from offbeat_server.common.instants import Micros
from offbeat_server.engine.model.active_tasks import ActiveTasks
from offbeat_server.engine.model.definition import Tasks
from offbeat_server.engine.model.run_detail import ProgressDetail, TasksDetail

_ENDS = {"success": True, "skip": True, "fail": False}


class TaskCount(NamedTuple):
    """How far something came: `done` of `total` since `at`; the first count gives the rate."""

    done: int
    total: int | None
    at: Micros
    first_done: int
    first_at: Micros

    def next(self, done: int, total: int | None, at: Micros) -> "TaskCount":
        """The count after a further one. A count that went down begins again."""
        total = self.total if total is None else total
        if done == self.done:
            return self._replace(total=total)
        if done < self.first_done:
            return TaskCount(done, total, at, done, at)
        return TaskCount(done, total, at, self.first_done, self.first_at)

    def show(self, total: int | None = None) -> ProgressDetail[Micros]:
        """Done, total, rate per second and estimated finish; the last two are None until they are known."""
        total = self.total if self.total is not None else total
        rate = (self.done - self.first_done) / (self.at - self.first_at) * 1e6 if self.at > self.first_at else None
        left = total - self.done if total is not None else 0
        return {
            "done": self.done,
            "total": total,
            "rate": rate,
            "eta": round(self.at + left / rate * 1e6) if rate and left > 0 else None,
        }


class NamedTasks:
    """The tasks of a group against the names that the definition expects.

    Computed from both when it is needed, so it is not stored, and a change of the definition needs no work of its own.
    """

    __slots__ = ("ended", "names", "unexpected")

    def __init__(self, names: frozenset[str], by_name: dict[str, bool | None]) -> None:
        self.names = names
        self.unexpected = dict.fromkeys(name for name in by_name if name not in names)
        self.ended = sum(state is not None and name in names for name, state in by_name.items())

    def apply(self, name: str, had_ended: bool, has_ended: bool) -> None:
        """One ping of one task, whether its name is expected or not."""
        if name in self.names:
            self.ended += has_ended - had_ended
        else:
            self.unexpected[name] = None

    @property
    def missing(self) -> int:
        """How many of the expected have not ended."""
        return len(self.names) - self.ended


class TaskGroup:
    """Tasks by name: True done, False failed, None started."""

    __slots__ = ("active", "by_name", "counts", "done", "expected", "failing", "more", "named", "stalled")

    def __init__(self) -> None:
        self.by_name: dict[str, bool | None] = {}
        self.failing: dict[str, None] = {}  # those that have failed, in that order
        self.done = 0
        self.expected: int | None = None  # what a ping said with `total`; None: nothing
        self.more = False  # there were more names than are kept
        self.named: NamedTasks | None = None  # see `_against`
        self.counts: dict[str, TaskCount] | None = None  # of running tasks that count; first the one that moved last
        self.stalled: dict[str, None] | None = None  # those of them recorded as stalled
        self.active: ActiveTasks | None = None  # only of groups with limits of single tasks

    def apply(self, name: str, signal: str, may_grow: bool) -> bool:
        """One ping of one task; whether its name is new. A failed task may be tried again; a done one may yet fail."""
        before = self.by_name.get(name)
        is_new = before is None and name not in self.by_name
        if is_new and not may_grow:
            self.more = True
            return False
        if (after := _ENDS.get(signal, before)) is not before or is_new:
            self.by_name[name] = after
            self.done += (after is True) - (before is True)
            if after is False:
                self.failing[name] = None
            elif before is False:
                del self.failing[name]
            if self.named is not None:
                self.named.apply(name, before is not None, after is not None)
        if after is not None and self.counts is not None:
            self.counts.pop(name, None)
            if self.stalled is not None:
                self.stalled.pop(name, None)
        return is_new

    def count(self, name: str, done: int, total: int | None, at: Micros) -> bool:
        """Record the progress of a running task; return whether it may be the next to stall."""
        if self.by_name.get(name, False) is not None:
            return False  # ended, or not kept
        if self.counts is None:
            self.counts = {}
        before = self.counts.get(name)
        after = before.next(done, total, at) if before is not None else TaskCount(done, total, at, done, at)
        joins = before is None
        if before is None or done != before.done:
            self.counts.pop(name, None)  # so that the one that stands still longest comes first
            if self.stalled and name in self.stalled:
                del self.stalled[name]
                joins = True
        self.counts[name] = after
        return joins and len(self.counts) - len(self.stalled or ()) == 1

    def follow(self, name: str, signal: str, at: Micros) -> bool:
        """Note a ping, after `apply`, for the limits of single tasks; return whether it may be the next to break one.

        A task is active from its first ping, or from its `start` after a failure, to its end.
        """
        if signal in _ENDS:
            if self.active is not None:
                self.active.end(name)
            return False
        outcome = self.by_name.get(name, True)  # a name that is not kept is not watched
        if self.active is None:
            self.active = ActiveTasks()
        if name not in self.active and outcome is not None and (outcome or signal != "start"):
            return False
        return self.active.ping(name, at)

    @property
    def failed(self) -> int:
        """How many have failed and were not tried again with success."""
        return len(self.failing)

    @property
    def ended(self) -> int:
        """How many are done or failed."""
        return self.done + len(self.failing)

    @property
    def running(self) -> int:
        """How many have started and not ended."""
        return len(self.by_name) - self.ended

    def expected_of(self, defined: Tasks | None) -> int | None:
        """The expected number of tasks; None if it is unknown."""
        return self.expected if defined is None or defined.expected is None else defined.expected_count

    def _against(self, defined: Tasks | None) -> NamedTasks | None:
        """The tasks against the expected names; None: no names are defined."""
        names = defined.expected_names if defined is not None else None
        if names is None:
            self.named = None
        elif self.named is None or self.named.names is not names:
            self.named = NamedTasks(names, self.by_name)
        return self.named

    def unexpected(self, defined: Tasks | None) -> dict[str, None] | None:
        """The tasks whose names are not expected, in the order of their first pings; None: no names are defined."""
        named = self._against(defined)
        return named.unexpected if named is not None else None

    def missing_count(self, defined: Tasks | None) -> int:
        """How many tasks are known not to have ended."""
        if (named := self._against(defined)) is not None:
            return named.missing
        expected = self.expected_of(defined)
        return max((len(self.by_name) if expected is None else expected) - self.ended, 0)

    def outstanding(self, defined: Tasks | None) -> bool:
        """Whether a task is known not to have ended."""
        return not self.more and self.missing_count(defined) > 0  # with more names than are kept it is unknown

    def complete(self, defined: Tasks | None) -> bool:
        """Whether all expected tasks have ended, with no more failures than are tolerated. 0 of 0 have."""
        expected = self.expected if defined is None or defined.expected is None else defined.expected
        if expected is None or self.more:
            return False
        all_ended = not self.missing_count(defined) if isinstance(expected, tuple) else expected <= self.ended
        return all_ended and not self.too_many_failed(defined)

    def too_many_failed(self, defined: Tasks | None) -> bool:
        """Whether more have failed than are tolerated."""
        return len(self.failing) > (defined.tolerate if defined is not None else 0)

    def slowest(self) -> tuple[str, TaskCount] | None:
        """Return the running task whose count has not moved for longest, without those recorded as stalled."""
        stalled = self.stalled or ()
        return next(((n, c) for n, c in (self.counts or {}).items() if n not in stalled), None)

    def stall(self, name: str) -> None:
        """Record that this task stalled."""
        if self.stalled is None:
            self.stalled = {}
        self.stalled[name] = None

    def missing(self, defined: Tasks | None) -> Iterator[str]:
        """The names that have not ended: those that started, then those that are expected without any ping.

        If no names are defined, they are the numbers 1 … expected, if the others are whole numbers; otherwise unknown.
        """
        unexpected = self.unexpected(defined) or ()
        yield from (name for name, state in self.by_name.items() if state is None and name not in unexpected)
        if defined is not None and isinstance(defined.expected, tuple):
            yield from (name for name in defined.expected if name not in self.by_name)
            return
        expected = self.expected_of(defined) or 0
        unseen = expected - len(self.by_name)
        if unseen <= 0 or not all(name.isdecimal() and len(name) < 10 for name in self.by_name):
            return
        numbers = {int(name) for name in self.by_name}
        low = 0 if 0 in numbers else 1
        unseen_names = (str(number) for number in range(low, low + expected) if number not in numbers)
        yield from islice(unseen_names, unseen)

    def show(self, defined: Tasks | None, names_max: int) -> TasksDetail[Micros]:
        """For the API and alerts, with at most this number of names of each kind."""
        unexpected = self.unexpected(defined)
        others = unexpected or {}
        shown: TasksDetail[Micros] = {
            "expected": self.expected_of(defined),
            "started": len(self.by_name) - len(others),
            "done": self.done - sum(self.by_name[name] is True for name in others),
            "failed": self.failed,
            "failed_names": list(islice(self.failing, names_max)),
            "missing_count": self.missing_count(defined),
            "missing": list(islice(self.missing(defined), names_max)),
        }
        if unexpected is not None:
            shown["unexpected"] = len(unexpected)
            shown["unexpected_names"] = list(islice(unexpected, names_max))
        if self.counts:
            shown["progress"] = [{"task": n, **c.show()} for n, c in islice(self.counts.items(), names_max)]
        return shown

    def dump(self) -> list[Any]:
        """As JSON; order matters, so no objects: Postgres sorts their keys.

        A total of 0 is the same as none here, which is all that the program before knows: see `Run.dump`.
        """
        names: list[list[str]] = [[], [], list(self.failing)]
        for name, state in self.by_name.items():
            if state is not False:
                names[1 if state else 0].append(name)
        counts = [[name, *count] for name, count in (self.counts or {}).items()]
        return [self.expected or 0, self.more, *names, counts, list(self.stalled or ())]

    @classmethod
    def load(cls, state: list[Any]) -> "TaskGroup":
        """From `dump`."""
        group = cls()
        expected, group.more, started, done, failing, counts, stalled = state
        group.expected = expected or None
        group.by_name = {
            **dict.fromkeys(started, None),
            **dict.fromkeys(done, True),
            **dict.fromkeys(failing, False),
        }
        group.done, group.failing = len(done), dict.fromkeys(failing)
        group.counts = {name: TaskCount(*count) for name, *count in counts} or None
        group.stalled = dict.fromkeys(stalled) or None
        return group
