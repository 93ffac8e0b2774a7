"""The deadlines of all monitors: a lazy queue for a million items, at eight bytes an entry.

An entry is the integer `offset << 31 | monitor id` in the bucket of its four seconds. A bucket is an array without
order until it is the first; then it becomes a heap. One heap of all took 56 bytes an entry (155 with tuples). Ties are
ordered by monitor, so that two deadlines of one instant are always evaluated in the same order.
"""

from array import array
from heapq import heapify, heappop, heappush

from offbeat_server.common.instants import Micros
from offbeat_server.engine.lazy_queue import LazyQueue

MONITOR_BITS = 31
BUCKET_BITS = 22  # of the instant; with a million deadlines in 100 s it takes 3 ms to make a heap of one
_MONITOR_MASK = (1 << MONITOR_BITS) - 1
_OFFSET_MASK = (1 << BUCKET_BITS) - 1


class DeadlineQueue(LazyQueue[int]):
    """A lazy queue whose keys are ids of monitors."""

    __slots__ = ("_buckets", "_numbers", "earliest")

    def __init__(self) -> None:
        self._buckets: dict[int, array[int] | list[int]] = {}  # a list is a heap
        self._numbers: list[int] = []  # of the buckets, a heap
        self.earliest: Micros | None = None  # when the first entry is due; it may be stale

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def push(self, when: Micros, key: int) -> None:
        """Add an entry."""
        number, entry = when >> BUCKET_BITS, (when & _OFFSET_MASK) << MONITOR_BITS | key
        bucket = self._buckets.get(number)
        if bucket is None:
            self._buckets[number] = array("q", (entry,))
            heappush(self._numbers, number)
        elif isinstance(bucket, list):
            heappush(bucket, entry)
        else:
            bucket.append(entry)
        if self.earliest is None or when < self.earliest:
            self.earliest = when

    def pop_entry(self, before: Micros) -> tuple[Micros, int] | None:
        """Take out the earliest entry if it is strictly before an instant; it may be stale."""
        when = self.earliest
        if when is None or when >= before:
            return None
        number = self._numbers[0]
        first = self._buckets[number]
        heap = first if isinstance(first, list) else self._heap(number)
        key = heappop(heap) & _MONITOR_MASK
        if not heap:  # no other bucket is empty
            del self._buckets[heappop(self._numbers)]
            if not self._numbers:
                self.earliest = None
                return when, key
            number = self._numbers[0]
            heap = self._heap(number)
        self.earliest = number << BUCKET_BITS | heap[0] >> MONITOR_BITS
        return when, key

    def _heap(self, number: int) -> list[int]:
        """A bucket as a heap, because it is the first now."""
        bucket = self._buckets[number]
        if not isinstance(bucket, list):
            bucket = self._buckets[number] = bucket.tolist()
            heapify(bucket)
        return bucket
