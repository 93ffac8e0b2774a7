"""The journal: every request with its answer, every delivery and every fault, and what Postgres holds.

There are two independent sources: the clients' own clock and the receiver on one side, the tables on the other.
check.py compares them. Times are Unix seconds of this machine's clock, unless a name says `log`.
"""

import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

Answer = Literal["ok", "failed", "unknown"]


class Watched(NamedTuple):
    """A monitor under load."""

    slug: str
    id: int
    key: str
    every_s: float
    grace_s: float
    period_s: float  # between two of its pings, while it lives

    @property
    def patience_s(self) -> float:
        """From its last ping to its deadline."""
        return self.every_s + self.grace_s

    @property
    def window_s(self) -> float:
        """The last part of that, in which its next ping may be expected: outages count in it (docs/semantics.md)."""
        return self.grace_s + min(self.grace_s, self.every_s / 2)


@dataclass(slots=True)
class Try:
    """One request. `unknown`: no answer, or none in time; it may be stored or not."""

    id: str
    monitor: int
    sent: float
    ended: float = 0.0  # 0: under way
    answer: Answer = "unknown"


class Row(NamedTuple):
    """One stored ping; `at` is log time in seconds."""

    id: str
    monitor: int
    at: float
    fails: bool = False  # it said that its job has failed


class Incident(NamedTuple):
    """As it is stored; log times."""

    monitor: int
    number: int
    cause: str
    opened: float
    resolved: float | None
    decided: float
    revised: bool


class AlertRow(NamedTuple):
    """One alert in the outbox."""

    monitor: int
    incident: int
    kind: str
    # As in the outbox; or `digest`: delivered as part of one; or `held`: pending because its monitor flaps.
    state: str


class Delivery(NamedTuple):
    """One request at the receiver."""

    id: str
    slug: str
    incident: int
    kind: str
    body: bytes
    at: float
    opened: int = 0  # of a digest: how many incidents it says have opened

    @classmethod
    def read(cls, headers: Mapping[str, str], body: bytes, at: float) -> "Delivery":
        """From a webhook."""
        event: dict[str, Any] = json.loads(body)
        data = event["data"]
        kind = str(event["type"]).rpartition(".")[2]
        opened = data["opened"] if kind == "digest" else 0
        return cls(headers["webhook-id"], data.get("monitor", ""), data.get("incident") or 0, kind, body, at, opened)


class OutageRow(NamedTuple):
    """An outage that Offbeat has recorded, in log time."""

    start: float
    end: float
    reason: str


@dataclass(slots=True)
class Fault:
    """One fault: from `began` to `cured` it was there; by `recovered` a ping was answered and judged on every node."""

    name: str
    began: float
    cured: float = 0.0
    recovered: float = 0.0
    measured: dict[str, float] = field(default_factory=dict)  # what else it measured, in seconds

    @property
    def recovery_s(self) -> float:
        """Seconds from its end to the recovery."""
        return self.recovered - self.cured


class Restore(NamedTuple):
    """A restore from a backup that was begun at `since`; at `until` the last node had ended."""

    since: float
    until: float


class Reading(NamedTuple):
    """Return the log time at which this machine's clock showed `real`."""

    real: float
    log: float


SEEN_S = 2.0  # a clock is set through a file that each session reads for itself, once in a second or two
# Log time that is ahead of the clock runs a tenth slower; what differs by more between two readings is a jump.
SLEW_MAX = 0.15


@dataclass
class Journal:
    """Everything of one world."""

    watched: dict[int, Watched] = field(default_factory=dict)
    tries: list[Try] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    restores: list[Restore] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)  # none: log time is this machine's
    _parts: list[list[Reading]] = field(default_factory=list)
    _cut: int = 0  # how many readings are in `_parts`

    def restored_away(self, entry: Try) -> bool:
        """Whether a ping may be gone because a later restore went back to a backup from before it."""
        return any(restore.since <= entry.ended and entry.sent <= restore.until for restore in self.restores)

    def epoch(self, at: float) -> int:
        """How many restores there were before: numbers of incidents begin again from those of the backup."""
        return sum(restore.until <= at for restore in self.restores)

    def reals(self, log: float) -> list[float]:
        """When it was that log time: one instant, or all that are possible where it has jumped."""
        if not self.readings:
            return [log]
        instants = []
        for even in self._even_parts():
            if even[0].log <= log <= even[-1].log:
                last = even[max(0, bisect_right(even, log, key=lambda reading: reading.log) - 1)]
                instants.append(last.real + log - last.log)
        for before, after in pairwise(self._even_parts()):
            a, b = before[-1], after[0]
            if min(a.log, b.log) <= log <= max(a.log, b.log):
                instants += [a.real - SEEN_S, a.real, b.real, b.real + SEEN_S]
            if b.log < a.log < log <= a.log + SEEN_S:  # set back, and a session has not read it yet
                instants.append(a.real + log - a.log)
        first, last = self.readings[0], self.readings[-1]
        return instants or [first.real + log - first.log if log < first.log else last.real + log - last.log]

    def _even_parts(self) -> list[list[Reading]]:
        """The readings, cut where log time has jumped."""
        if self._cut != len(self.readings):
            self._parts, self._cut = [self.readings[:1]], len(self.readings)
            for a, b in pairwise(self.readings):
                if abs((b.log - a.log) - (b.real - a.real)) <= SLEW_MAX * (b.real - a.real) + 0.01:
                    self._parts[-1].append(b)
                else:
                    self._parts.append([b])
        return self._parts

    def log(self, real: float) -> float:
        """The log time of an instant."""
        before = [reading for reading in self.readings if reading.real <= real]
        return before[-1].log + real - before[-1].real if before else real


@dataclass
class Stored:
    """The tables in Postgres."""

    rows: list[Row]
    incidents: list[Incident]
    alerts: list[AlertRow]
    outages: list[OutageRow]
    read_at: float  # this machine's clock, before the first of these was read
    settled_before: float  # alerts that were decided before this had all the time they need
