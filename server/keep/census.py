"""Counts the monitors by status for the metrics, a few thousand at a time.

Counting a million takes a quarter of a second, too long for a scrape and for the loop. So it goes round in slices of a
millisecond and then rests a hundred times as long as it worked: it takes one percent of a core, and the numbers of a
million monitors are half a minute old, those of a thousand a second.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from server.clock import monotonic
from server.engine.state import Monitor
from server.service import Service

SLICE = 5_000
REST_S_MIN = 1.0
REST_TIMES = 100


class Counted(NamedTuple):
    """What was counted."""

    statuses: Mapping[str, int]
    never_heard: int
    incidents_open: int
    runs_open: int


class Census(Service):
    """Keeps `counted` up to date; None while `monitors` gives None, which is where somebody else is the keeper."""

    name = "census"

    def __init__(self, monitors: Callable[[], Mapping[int, Monitor] | None]) -> None:
        super().__init__()
        self._monitors = monitors
        self.counted: Counted | None = None

    async def start(self) -> None:
        self.spawn(self._go_round(), "count")

    async def _go_round(self) -> None:
        while True:
            monitors = self._monitors()
            work_s = 0.0
            if monitors is None:
                self.counted = None
            else:
                work_s = await self._count(list(monitors.values()))
            await asyncio.sleep(max(REST_S_MIN, REST_TIMES * work_s))

    async def _count(self, monitors: list[Monitor]) -> float:
        """Count them all; gives the seconds that it took without the pauses."""
        statuses: Counter[str] = Counter()
        never_heard = incidents = runs = 0
        work_s = 0.0
        for begin in range(0, len(monitors), SLICE):
            began = monotonic()
            part = monitors[begin : begin + SLICE]
            statuses.update(m.status for m in part)
            never_heard += _how_many(not m.heard_at for m in part)
            incidents += _how_many(m.incident is not None for m in part)
            runs += sum(len(m.runs.open) for m in part if m.runs is not None)
            work_s += monotonic() - began
            await asyncio.sleep(0)
        self.counted = Counted(statuses, never_heard, incidents, runs)
        return work_s


def _how_many(answers: Iterable[bool]) -> int:
    return sum(answers)
