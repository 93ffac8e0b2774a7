"""Deaf time: when pings may have been sent and could not be heard. It does not count against anybody.

A deadline moves by the deaf time in its window. The window grows as the deadline moves, so the shift goes on until
there is no deaf time left between the window's start and the moved deadline.
"""

from bisect import bisect_left, insort

from server.engine.ping import Micros


class DeafTime:
    """Disjoint deaf intervals in order, merged as they come."""

    __slots__ = ("intervals",)

    def __init__(self) -> None:
        self.intervals: list[tuple[Micros, Micros]] = []

    def add(self, start: Micros, end: Micros) -> None:
        """One more interval; overlapping and touching ones become one."""
        if end <= start:
            return
        kept: list[tuple[Micros, Micros]] = []
        for low, high in self.intervals:
            if high < start or low > end:
                kept.append((low, high))
            else:
                start, end = min(start, low), max(end, high)
        insort(kept, (start, end))
        self.intervals = kept

    def forget_before(self, at: Micros) -> None:
        """Drop what ended before `at`: no window reaches back that far."""
        self.intervals = [interval for interval in self.intervals if interval[1] >= at]

    def within(self, start: Micros, end: Micros) -> Micros:
        """How much of [start, end) was deaf."""
        total = 0
        for low, high in self._from(start):
            if low >= end:
                break
            total += min(high, end) - max(low, start)
        return total

    def shift(self, start: Micros, deadline: Micros) -> Micros:
        """The deadline moved later by the deaf time between `start` and where it ends up."""
        if not self.intervals:
            return deadline
        for low, high in self._from(start):
            if low > deadline:  # deaf from the deadline itself on still counts: a ping at its deadline is in time
                break
            deadline += high - max(low, start)
        return deadline

    def longest(self, start: Micros, end: Micros) -> tuple[Micros, Micros] | None:
        """The longest deaf interval that touches [start, end), for the sentence that admits it."""
        touching = [interval for interval in self._from(start) if interval[0] < end]
        return max(touching, key=lambda interval: interval[1] - interval[0], default=None)

    def _from(self, start: Micros) -> list[tuple[Micros, Micros]]:
        intervals = self.intervals
        if not intervals or intervals[-1][1] <= start:
            return []
        first = max(0, bisect_left(intervals, (start, start)) - 1)
        while first < len(intervals) and intervals[first][1] <= start:
            first += 1
        return intervals[first:]
