"""A fleet: long-lived workers under one monitor, each expected by itself, judged together.

Members appear by pinging and go by `leave` or when they were silent for `forget_after`. Like the monitors themselves,
a member keeps one entry in a heap that is looked at again when it pops early.
"""

from heapq import heapify, heappop, heappush
from typing import Any

from server.engine.monitor import Definition
from server.engine.ping import Micros

MEMBERS_MAX = 200_000  # per fleet; the names of later ones are not kept


class Fleet:
    """Who was heard of, and who is silent since when."""

    __slots__ = ("count_max", "count_max_at", "heap", "members", "silent")

    def __init__(self) -> None:
        self.members: dict[str, Micros] = {}  # name -> last ping
        self.silent: dict[str, Micros] = {}  # name -> the deadline it missed
        self.heap: list[tuple[Micros, str]] = []
        self.count_max = 0  # the highest count of members, and when it was last reached
        self.count_max_at: Micros = 0

    def hear(self, name: str, at: Micros, length: Micros) -> bool:
        """One ping of a member, expected again within `length`. Whether it was silent before."""
        if name not in self.members:
            if len(self.members) >= MEMBERS_MAX:
                return False
            heappush(self.heap, (at + length, name))
        self.members[name] = at
        if len(self.members) >= self.count_max:
            self.count_max, self.count_max_at = len(self.members), at
        if self.silent.pop(name, None) is not None:
            heappush(self.heap, (at + length, name))
            return True
        return False

    def leave(self, name: str) -> None:
        """A member says good-bye. It is not missed, and a percentage no longer counts it."""
        if self.members.pop(name, None) is not None:
            self.silent.pop(name, None)
            self.count_max = max(len(self.members), self.count_max - 1, 1)  # it once had members

    def required(self, definition: Definition) -> int:
        """How many must be alive."""
        members = definition.members
        assert members is not None
        if members.min_alive is None:
            return max(len(self.members), members.expected or 0)
        if isinstance(members.min_alive, int):
            return members.min_alive
        of = members.expected or max(self.count_max, len(self.members))
        share = float(members.min_alive.rstrip("%")) / 100
        return -int(-of * share // 1)  # rounded up

    @property
    def alive(self) -> int:
        """How many are not silent."""
        return len(self.members) - len(self.silent)

    def arm_all(self, length: Micros) -> None:
        """Fill the heap from the members, after a load or a changed definition."""
        self.heap = [(at + length, name) for name, at in self.members.items()]
        heapify(self.heap)

    def next(self) -> Micros | None:
        """When a member is to be looked at."""
        return self.heap[0][0] if self.heap else None

    def arm(self, when: Micros, name: str) -> None:
        """Look at a member at `when`."""
        heappush(self.heap, (when, name))

    def pop_until(self, when: Micros) -> str | None:
        """A member whose time may have come, taken out of the heap."""
        while self.heap and self.heap[0][0] <= when:
            name = heappop(self.heap)[1]
            if name in self.members:
                return name
        return None

    def forget(self, name: str, before: Micros) -> None:
        """Drop a silent member, and a highest count that was last reached before `before`."""
        self.silent.pop(name, None)
        self.members.pop(name, None)
        if self.count_max_at < before:
            self.count_max, self.count_max_at = len(self.members), before

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return {"m": self.members, "s": self.silent, "p": [self.count_max, self.count_max_at]}

    @classmethod
    def load(cls, state: dict[str, Any]) -> "Fleet":
        """From `dump`; the caller fills the heap."""
        fleet = cls()
        fleet.members, fleet.silent = state["m"], state["s"]
        fleet.count_max, fleet.count_max_at = state["p"]
        return fleet
