"""Queues of what is to be looked at later: monitors by their deadlines, runs by their limits, members of a fleet.

Pings move most deadlines later, and many times before they come. So the queue does not follow: an item keeps the entry
it has, is looked at early, and is then queued again for its new deadline. Only a deadline that moves earlier adds an
entry. `queued_at` of an item is the instant of its one valid entry, None without one; every other entry is stale and is
dropped when it comes first.

A queue does not hold its items. Its methods get `find`, which returns the item of a key, or None if it no longer
exists.

One rule over two kinds of storage costs an item that is looked at early about 2 % of its time in the engine (1.75 µs
instead of 1.72 with a queue of its own), for the call of `pop_entry`. Misses, members and ends of runs take no longer.
"""

from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar

from offbeat_server.common.instants import Micros

STALE_SHARE = 4  # a heap with more entries than this for each item, and STALE_MIN, is rebuilt without the stale ones
STALE_MIN = 1_000


class Queued(Protocol):
    """An item of a queue."""

    queued_at: Micros | None


QueueKey = TypeVar("QueueKey")
QueueItem = TypeVar("QueueItem", bound=Queued)


class LazyQueue(Generic[QueueKey]):
    """The rule above, for any storage of the entries: `push` and `pop_entry` are a subclass's own."""

    __slots__ = ()

    def push(self, when: Micros, key: QueueKey) -> None:
        """Add an entry."""
        raise NotImplementedError

    def pop_entry(self, before: Micros) -> tuple[Micros, QueueKey] | None:
        """Take out the earliest entry if it is strictly before an instant; it may be stale.

        Of the entries at one instant, the one with the least key is the first.
        """
        raise NotImplementedError

    def queue(self, key: QueueKey, item: Queued, when: Micros) -> None:
        """Look at this item at `when`, unless it is looked at earlier."""
        queued_at = item.queued_at
        if queued_at is None or when < queued_at:
            item.queued_at = when = when | 0  # see `Micros`
            self.push(when, key)

    def pop_before(
        self, find: Callable[[QueueKey], QueueItem | None], before: Micros
    ) -> tuple[Micros, QueueKey, QueueItem] | None:
        """The first item that is to be looked at strictly before an instant: when, its key and itself.

        It is taken out of the queue.
        """
        while (entry := self.pop_entry(before)) is not None:
            when, key = entry
            item = find(key)
            if item is not None and item.queued_at == when:
                item.queued_at = None
                return when, key, item
        return None


class LazyHeap(LazyQueue[QueueKey], list[tuple[Micros, QueueKey]]):
    """A small queue: a heap of tuples. It is a list, so that it takes no memory beside its entries."""

    __slots__ = ()

    def push(self, when: Micros, key: QueueKey) -> None:
        """Add an entry."""
        heappush(self, (when, key))

    def pop_entry(self, before: Micros) -> tuple[Micros, QueueKey] | None:
        """Take out the earliest entry if it is strictly before an instant; it may be stale."""
        return heappop(self) if self and self[0][0] < before else None

    def next(self, find: Callable[[QueueKey], Queued | None]) -> Micros | None:
        """When an item is to be looked at. Stale entries before it are dropped."""
        while self:
            when, key = self[0]
            item = find(key)
            if item is not None and item.queued_at == when:
                return when
            heappop(self)
        return None

    def rebuild(self, items: Mapping[QueueKey, Queued]) -> None:
        """Replace all entries by those of the items."""
        self[:] = [(item.queued_at, key) for key, item in items.items() if item.queued_at is not None]
        heapify(self)

    def sweep(self, items: Mapping[QueueKey, Queued]) -> None:
        """Drop stale entries if there are too many. For the caller that removes items."""
        if len(self) > STALE_SHARE * len(items) + STALE_MIN:
            self.rebuild(items)
