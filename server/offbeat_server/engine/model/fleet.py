"""A fleet: long-lived workers under one monitor, each expected by itself, evaluated together.

Members appear by pinging and go by `leave` or when they were silent for `forget_after`. Like the monitors themselves,
members are in a lazy queue, so their pings do no work in it.

Each member is a row of its own. One that came, fell silent, came back or went is written with the next decision; the
instants of last pings are brought up to date by the checkpoint alone. So a decision about one of 100 000 writes one
row, and not three megabytes; and after a start the log since the checkpoint says what the rows do not
(`record_late_ping`).
"""

from typing import Any, NamedTuple

from offbeat_server.common.instants import Micros
from offbeat_server.engine.lazy_queue import LazyHeap
from offbeat_server.engine.model.definition import Members

MEMBERS_MAX = 200_000  # per fleet; the names of later ones are not kept


class MemberRow(NamedTuple):
    """A member as it is stored; without `at` it is one no longer. `silent_since`: the deadline that it missed."""

    name: str
    at: Micros | None
    silent_since: Micros | None


class Member:
    """The last ping of a member, the same as its row has it, and its entry in the queue."""

    __slots__ = ("at", "queued_at", "saved_at")

    def __init__(self, at: Micros) -> None:
        self.at = at
        self.queued_at: Micros | None = None
        self.saved_at: Micros | None = None


class Fleet:
    """The members that have pinged, and since when each is silent."""

    __slots__ = (
        "changed",
        "deadlines",
        "has_unsaved_pings",
        "members",
        "not_before",
        "peak",
        "peak_at",
        "silent",
        "whole_at",
    )

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.silent: dict[str, Micros] = {}  # name -> the deadline it missed
        self.deadlines = LazyHeap[str]()  # of the members, by name
        self.not_before: Micros | None = None  # no member is silent before this: a change or a resume was made
        self.peak = 0  # the highest number alive at once, and when it was last reached
        self.peak_at: Micros | None = None
        self.changed: dict[str, None] = {}  # whose rows are to be written with the next decision
        self.has_unsaved_pings = False  # whether any row may be older than its member's last ping
        self.whole_at: Micros | None = None  # no row is older than its member's last ping up to here

    @property
    def alive(self) -> int:
        """How many are not silent."""
        return len(self.members) - len(self.silent)

    def required(self, members: Members) -> int:
        """How many must be alive."""
        least = members.min_alive
        if least is None:
            return max(len(self.members), members.expected or 0)
        if isinstance(least, int):
            return least
        whole, _, part = least.rstrip("%").partition(".")
        of: int = members.expected or self.peak
        percent, scale = int(whole + part), 100 * int("1" + "0" * len(part))
        return -(-of * percent // scale)  # rounded up, exactly

    def shortfall(self, members: Members) -> int:
        """How many too few are alive."""
        return max(0, self.required(members) - self.alive)

    def missing(self, members: Members) -> tuple[int, int]:
        """How many are not alive, of how many."""
        of = max(len(self.members), members.expected or 0)
        return of - self.alive, of

    def short(self, members: Members) -> bool:
        """Whether too few are alive; always true for a fleet without members."""
        return not self.members or self.shortfall(members) > 0

    # ---------------------------------------------------------------- what happens to it

    def record_ping(self, name: str, at: Micros, length: Micros) -> bool:
        """One ping of a member, expected again within `length`. Whether it is new or was silent."""
        member = self.members.get(name)
        self.has_unsaved_pings = True
        if member is not None:
            member.at = at
            if name not in self.silent:
                return False
            del self.silent[name]
            self.queue(name, at + length)
        elif len(self.members) >= MEMBERS_MAX:
            return False
        else:
            self.members[name] = Member(at)
            self.queue(name, at + length)
        self.changed[name] = None
        if self.alive >= self.peak:
            self.peak, self.peak_at = self.alive, at
        return True

    def record_late_ping(self, name: str, at: Micros) -> None:
        """A ping of before what is stored, after a start: all that may be new in it is its time."""
        member = self.members.get(name)
        if member is not None and at > member.at:
            member.at = at
            self.has_unsaved_pings = True

    def fall_silent(self, name: str, deadline: Micros, at: Micros) -> None:
        """A member missed its deadline."""
        if self.alive == self.peak:
            self.peak_at = at
        self.silent[name] = deadline
        self.changed[name] = None

    def leave(self, name: str, at: Micros) -> bool:
        """Remove a member that has sent `leave`: it cannot be missing, and a percentage no longer counts it.

        Returns whether it was known.
        """
        if name not in self.members:
            return False
        if self.alive == self.peak:
            self.peak_at = at
        self.forget(name)
        self.peak = max(self.peak - 1, self.alive)
        return True

    def forget(self, name: str) -> None:
        """Remove a member from the fleet."""
        self.silent.pop(name, None)
        del self.members[name]
        self.changed[name] = None
        self.deadlines.sweep(self.members)

    def lower_peak(self, at: Micros, forget_after: Micros) -> None:
        """Forget a peak that was last reached longer than `forget_after` ago."""
        if self.alive < self.peak and self.peak_at is not None and at - self.peak_at > forget_after:
            self.peak, self.peak_at = self.alive, at

    def put_off(self, until: Micros) -> None:
        """The earliest instant at which a member becomes silent, if a member is known."""
        if self.members:
            self.not_before = until if self.not_before is None else max(self.not_before, until)

    # ---------------------------------------------------------------- when to look at whom

    def queue(self, name: str, when: Micros) -> None:
        """Look at a member at `when`, unless it is looked at earlier anyhow."""
        self.deadlines.queue(name, self.members[name], when)

    def queue_all(self, length: Micros, forget_after: Micros) -> None:
        """Fill the queue from the members, after a load or a changed definition."""
        for name, member in self.members.items():
            member.queued_at = member.at + (forget_after if name in self.silent else length)
        self.deadlines.rebuild(self.members)

    def take_until(self, when: Micros) -> list[str]:
        """The members whose time may have come, taken out of the queue."""
        taken: list[str] = []
        pop, find, before = self.deadlines.pop_before, self.members.get, when + 1
        while (popped := pop(find, before)) is not None:
            taken.append(popped[1])
        return taken

    # ---------------------------------------------------------------- storing

    def dump(self) -> dict[str, Any]:
        """As JSON, 0 for no instant, without the members."""
        state: dict[str, Any] = {"p": [self.peak, self.peak_at or 0], "w": self.whole_at or 0}
        if self.not_before is not None:
            state["b"] = self.not_before
        return state

    def take_rows(self, whole: bool) -> list[MemberRow]:
        """The rows that were changed since they were last taken; `whole`: also those that only are older by a ping."""
        names = dict.fromkeys(name for name, m in self.members.items() if m.at != m.saved_at) if whole else self.changed
        gone = [MemberRow(name, None, None) for name in self.changed if name not in self.members]
        self.has_unsaved_pings = self.has_unsaved_pings and not whole
        rows = [self._row(name) for name in {**names, **self.changed} if name in self.members]
        self.changed = {}
        return [*gone, *rows]

    def _row(self, name: str) -> MemberRow:
        member = self.members[name]
        member.saved_at = member.at
        return MemberRow(name, member.at, self.silent.get(name))

    @classmethod
    def load(cls, state: dict[str, Any]) -> "Fleet":
        """From `dump`; the caller enrols the members and fills the queue."""
        fleet = cls()
        fleet.peak, peak_at = state["p"]
        fleet.peak_at, fleet.whole_at = peak_at or None, state.get("w") or None
        fleet.not_before = state.get("b")
        return fleet

    def add_member(self, row: MemberRow) -> None:
        """A member from its row; the silent ones in the order in which they fell silent."""
        assert row.at is not None
        member = self.members[row.name] = Member(row.at)
        member.saved_at = row.at
        if row.silent_since is not None:
            self.silent[row.name] = row.silent_since
