"""Outages of Offbeat: when pings may have been sent and could not be received. They count against no monitor.

A deadline moves by the outages in its window. The window grows as the deadline moves, so the shift continues until
there is no outage left between the window's start and the moved deadline.
"""

from bisect import bisect_left, bisect_right

from offbeat_server.common.instants import SECOND, Micros

# How long after an outage the retry of a ping comes whose answer was lost in it: at most 8 s for our own 503, 5 s for
# its Retry-After, and 10 s until the client's next attempt reaches us, as `curl -m 10` does it.
RETRY_MAX: Micros = 30 * SECOND
LOSS_MIN: Micros = SECOND  # of an outage: a client waits longer than this for its answer
LOSS_SHARE = 100  # a single ping may be lost in an outage if that is at least 1/LOSS_SHARE of the time
CRASH_MARGIN: Micros = SECOND  # before an outage: pings that were stored by a process which died before it answered


class OutageIntervals:
    """Disjoint outages in order, merged as they come."""

    __slots__ = ("intervals", "retries_until")

    def __init__(self) -> None:
        self.intervals: list[tuple[Micros, Micros]] = []
        self.retries_until: Micros = 0  # no ping after this is a retry because of an outage

    def add(self, start: Micros, end: Micros) -> None:
        """One more interval; overlapping and touching ones become one."""
        if end <= start:
            return
        first = bisect_left(self.intervals, start, key=lambda interval: interval[1])
        after = bisect_right(self.intervals, end, key=lambda interval: interval[0])
        if first < after:
            start, end = min(start, self.intervals[first][0]), max(end, self.intervals[after - 1][1])
        self.intervals[first:after] = [(start, end)]
        self.retries_until = max(self.retries_until, end + RETRY_MAX)

    def forget_before(self, at: Micros) -> None:
        """Drop what ended before `at`: no window reaches back that far.

        `may_be_retry` looks at the first interval after a ping. Where two have less than CRASH_MARGIN between them, the
        second would take the place of the first, so both stay.
        """
        intervals = self.intervals
        count = bisect_left(intervals, at, key=lambda interval: interval[1])
        while 0 < count < len(intervals) and intervals[count][0] - CRASH_MARGIN <= intervals[count - 1][1]:
            count -= 1
        del intervals[:count]

    def within(self, start: Micros, end: Micros) -> Micros:
        """The total time of outages in [start, end)."""
        total = 0
        for low, high in self._from(start):
            if low >= end:
                break
            total += min(high, end) - max(low, start)
        return total

    def shift(self, start: Micros, deadline: Micros) -> Micros:
        """The deadline moved later by the outages between `start` and the moved deadline."""
        if not self.intervals:
            return deadline
        for low, high in self._from(start):
            if low > deadline:  # an outage that begins at the deadline still counts: a ping at its deadline is in time
                break
            deadline += high - max(low, start)
        return deadline

    def may_be_retry(self, first: Micros, again: Micros) -> bool:
        """Whether a ping at `again` may repeat an equal one at `first` because that one's answer was lost in an outage.

        The answer may be lost of what came within an outage, or shortly before it; the retry comes in it or after it.
        So the outage is known before the retry is applied, also when the log is read again.
        """
        if again > self.retries_until:
            return False
        for low, high in self._from(first)[:1]:
            return low - CRASH_MARGIN <= first and low < again <= high + RETRY_MAX
        return False

    def last_outage(self, start: Micros, end: Micros) -> tuple[Micros, Micros] | None:
        """The last interval in [start, end) that is long enough for a client without retries to lose a ping."""
        touching = [each for each in self._from(start) if each[0] < end and each[1] - each[0] >= LOSS_MIN]
        return touching[-1] if touching else None

    def longest_part(self, start: Micros, end: Micros) -> Micros:
        """The length of the longest part of an outage in [start, end); 0 if there is none."""
        parts = (min(high, end) - max(low, start) for low, high in self._from(start) if low < end)
        return max(parts, default=0)

    def longest(self, start: Micros, end: Micros) -> tuple[Micros, Micros] | None:
        """The longest outage that touches [start, end), for the sentence in the alert."""
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
