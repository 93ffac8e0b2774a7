"""Since when tasks of a group are active and when each pinged last: for the limits of single tasks.

A ping costs the same with ten active tasks as with ten thousand: each dict is in the order of its instants, so its
first task is the next one to break the limit. Only groups with such a limit have an object of this class.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any, Literal

from offbeat_server.common.instants import Micros

TaskLimit = Literal["task overdue", "task silent"]


class ActiveTasks:
    """The active tasks by name: each is in one dict for its end, and in one for its pings."""

    __slots__ = ("begun", "end_excused", "overdue", "ping_excused", "pinged", "silent")

    def __init__(self) -> None:
        # For its end, when it began: in time, too late, or not evaluated because of an outage of Offbeat.
        self.begun: dict[str, Micros] = {}
        self.overdue: dict[str, Micros] = {}
        self.end_excused: dict[str, Micros] = {}
        # For its pings, the last one: in time, too late, or not evaluated.
        self.pinged: dict[str, Micros] = {}
        self.silent: dict[str, Micros] = {}
        self.ping_excused: dict[str, Micros] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.begun or name in self.overdue or name in self.end_excused

    def ping(self, name: str, at: Micros) -> bool:
        """A ping of a task that is active from now on; return whether it may be the next to break a limit."""
        joins = False
        if name not in self.begun and name not in self.overdue:
            self.end_excused.pop(name, None)
            self.begun[name] = at
            joins = len(self.begun) == 1
        if self.pinged.pop(name, None) is None:
            self.silent.pop(name, None)
            self.ping_excused.pop(name, None)
            joins |= not self.pinged
        self.pinged[name] = at
        return joins

    def end(self, name: str) -> None:
        """The task is no longer active."""
        for each in self._all:
            each.pop(name, None)

    def last_ping(self, name: str) -> Micros:
        """When an active task pinged last."""
        return next(each[name] for each in (self.pinged, self.silent, self.ping_excused) if name in each)

    @property
    def broken(self) -> bool:
        """Whether a task is overdue or silent."""
        return bool(self.overdue or self.silent)

    def watched(self, kind: TaskLimit) -> dict[str, Micros]:
        """The tasks for which this limit may be broken, and since when it counts; the first is the next."""
        return self.begun if kind == "task overdue" else self.pinged

    def break_limit(self, kind: TaskLimit, name: str) -> None:
        """Record that a task has broken this limit."""
        broken = self.overdue if kind == "task overdue" else self.silent
        broken[name] = self.watched(kind).pop(name)

    def excuse(self, kind: TaskLimit, name: str) -> None:
        """Do not evaluate this limit of a task until its next ping."""
        excused = self.end_excused if kind == "task overdue" else self.ping_excused
        excused[name] = self.watched(kind).pop(name)

    def reconsider(self, is_broken: Callable[[TaskLimit, Micros], bool]) -> None:
        """Keep as overdue or silent only the tasks for which `is_broken` is true, by the instant that counts."""
        self._reconsider("task overdue", self.overdue, is_broken)
        self._reconsider("task silent", self.silent, is_broken)

    def _reconsider(
        self, kind: TaskLimit, broken: dict[str, Micros], is_broken: Callable[[TaskLimit, Micros], bool]
    ) -> None:
        watched = self.watched(kind)
        back = [(at, name) for name, at in broken.items() if not is_broken(kind, at)]
        if not back:
            return
        merged = sorted(chain(back, ((at, name) for name, at in watched.items())))
        watched.clear()
        for at, name in merged:
            broken.pop(name, None)
            watched[name] = at

    @property
    def _all(self) -> tuple[dict[str, Micros], ...]:
        return (self.begun, self.overdue, self.end_excused, self.pinged, self.silent, self.ping_excused)

    def dump(self) -> list[Any]:
        """As JSON; order matters, so no objects."""
        return [[[name, at] for name, at in each.items()] for each in self._all]

    @classmethod
    def load(cls, state: list[Any]) -> "ActiveTasks":
        """From `dump`."""
        work = cls()
        for into, stored in zip(work._all, state, strict=True):
            into.update(stored)
        return work
