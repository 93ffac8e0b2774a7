"""Every deadline, the soonest first, at eight bytes each.

Pings only move deadlines later, so a monitor keeps one entry and is looked at again when it pops early: a ping does no
heap work. Only what moves a deadline earlier pushes a second entry; the first is then stale and is recognised by not
being the one the monitor is armed with.

An entry is the integer `offset << 31 | monitor id` in the bucket of its four seconds. A bucket is an array without
order until it is the first; then it becomes a heap. One heap of all took 56 bytes an entry (155 with tuples). Ties are
ordered by monitor, so that two deadlines of one instant are always judged in the same order.
"""

from array import array
from heapq import heapify, heappop, heappush

from offbeat_server.common.instants import Micros

MONITOR_BITS = 31
BUCKET_BITS = 22  # of the instant; with a million deadlines in 100 s it takes 3 ms to make a heap of one
_MONITOR_MASK = (1 << MONITOR_BITS) - 1
_OFFSET_MASK = (1 << BUCKET_BITS) - 1


class DeadlineQueue:
    """A priority queue of (when, monitor id)."""

    __slots__ = ("_buckets", "_first", "_numbers")

    def __init__(self) -> None:
        self._buckets: dict[int, array[int] | list[int]] = {}  # a list is a heap
        self._numbers: list[int] = []  # of the buckets, a heap
        self._first: Micros | None = None

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def push(self, when: Micros, monitor_id: int) -> None:
        """One more entry."""
        number, entry = when >> BUCKET_BITS, (when & _OFFSET_MASK) << MONITOR_BITS | monitor_id
        bucket = self._buckets.get(number)
        if bucket is None:
            self._buckets[number] = array("q", (entry,))
            heappush(self._numbers, number)
        elif isinstance(bucket, list):
            heappush(bucket, entry)
        else:
            bucket.append(entry)
        if self._first is None or when < self._first:
            self._first = when

    def next(self) -> Micros | None:
        """When the earliest entry is due; it may be stale."""
        return self._first

    def pop_due(self, at: Micros) -> tuple[Micros, int] | None:
        """The earliest entry strictly before `at`, taken out; None when there is none."""
        when = self._first
        if when is None or when >= at:
            return None
        monitor_id = heappop(self._heap()) & _MONITOR_MASK
        while self._numbers and not (heap := self._heap()):
            del self._buckets[heappop(self._numbers)]
        self._first = self._numbers[0] << BUCKET_BITS | heap[0] >> MONITOR_BITS if self._numbers else None
        return when, monitor_id

    def _heap(self) -> list[int]:
        """The first bucket."""
        number = self._numbers[0]
        bucket = self._buckets[number]
        if not isinstance(bucket, list):
            bucket = self._buckets[number] = bucket.tolist()
            heapify(bucket)
        return bucket
