"""The backlog of pings that wait for their commit: HTTP servers append to it, the writer takes batches from its front.

A ping gets its place in the log here, `at` and `seq` together, and nothing later reads the clock for it. Batches are
cut while they fill, so the writer takes a whole one and never copies a list. The pings that arrive while one is under
way are the next batch: this is group commit.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import NoReturn, Protocol

import structlog

from offbeat_server.common.clock import LogClock
from offbeat_server.common.errors import BacklogFullError, DatabaseDownError, UnavailableError
from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.config import Settings
from offbeat_server.engine.model.ping import LASTING, Entry, Ping, Signal
from offbeat_server.ingest.key_index import KeyTarget
from offbeat_server.ingest.log_writer.refused_pings import RefusedPingTracker
from offbeat_server.ingest.protocols.base import Outcome, PingNote, Rejection

ROW_BYTES = 120  # what a plain ping takes in a COPY, and near enough in memory
RETRY_AFTER_S_MAX = 5
_new_entry = tuple.__new__  # a third of the time of Entry(...), which is a Python function
_UNAVAILABLE = tuple(Outcome("unavailable", seconds) for seconds in range(1, RETRY_AFTER_S_MAX + 1))

log = structlog.get_logger("backlog")


class Waiter(Protocol):
    """Waits for the commit of a ping. Many pings may have the same one."""

    def settle(self, outcome: Outcome | Rejection) -> None:
        """Called exactly once for each appended ping. Must not raise."""
        ...


class _Nobody:
    def settle(self, outcome: Outcome | Rejection) -> None:
        """Has been answered."""


_NOBODY = _Nobody()


def unavailable() -> Outcome:
    """May or may not be stored. The wait is jittered, so that those refused together do not come back together."""
    return random.choice(_UNAVAILABLE)


class Batch:
    """The rows of one COPY and who waits for them, in the order of `seq`."""

    __slots__ = ("bytes", "doubtful", "entries", "expired", "waiters")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.waiters: list[Waiter] = []
        self.bytes = 0
        self.expired = 0  # how many at the front were answered before the commit
        self.doubtful = False  # a COPY of it may have committed

    def settle(self, outcome: Outcome | Rejection) -> None:
        """Settle every waiter that is left."""
        for waiter in self.waiters:
            _settle(waiter, outcome)

    def halves(self) -> tuple["Batch", "Batch"]:
        """Two batches with the same rows in the same places."""
        middle = len(self.entries) // 2
        return self._part(0, middle), self._part(middle, len(self.entries))

    def _part(self, start: int, end: int) -> "Batch":
        part = Batch()
        part.entries, part.waiters = self.entries[start:end], self.waiters[start:end]
        part.bytes = sum(_bytes_of(entry.ping) for entry in part.entries)
        part.expired = min(max(self.expired - start, 0), end - start)
        part.doubtful = self.doubtful
        return part


class Backlog:
    """All pings that wait for their commit, within `pings_pending_max` and `bytes_pending_max`.

    `wake` is called when a ping is appended to an empty line.
    """

    def __init__(
        self, clock: LogClock, settings: Settings, refused_pings: RefusedPingTracker, wake: Callable[[], None]
    ) -> None:
        self.clock = clock
        self._settings = settings
        self._bytes_max = settings.bytes_pending_max
        self._batch_pings_max, self._batch_bytes_max = settings.batch_pings_max, settings.batch_bytes_max
        self._refused_pings = refused_pings
        self._wake = wake
        self._sealed: deque[Batch] = deque()
        self._open = Batch()
        self._writer = 0
        self._seq = 0
        self._closed: str | None = "database"  # why pings are refused; None: they are not
        self._limit = 0  # `pings_pending_max`, or 0 while closed: one comparison serves both
        self._room: list[asyncio.Future[None]] = []
        self.pings = 0
        self.bytes = 0

    @property
    def accepting(self) -> bool:
        """Whether pings are taken; false while there is no writer, and when stopping."""
        return self._closed is None

    @property
    def full(self) -> bool:
        """Whether the next ping would be refused because there is no room."""
        return self.pings >= self._settings.pings_pending_max or self.bytes >= self._bytes_max

    def append(self, bound: KeyTarget, ping: Ping, source: bytes | None, waiter: Waiter) -> None:
        """Give the ping its place in the log. `waiter` is settled with the result, but not if this raises.

        Raises BacklogFullError, or another UnavailableError while pings are refused altogether.
        """
        pings = self.pings
        if pings >= self._limit or self.bytes >= self._bytes_max:
            self._refuse(ping)
        size = ROW_BYTES if id(ping) in LASTING else _bytes_of(ping)
        batch = self._open
        self._seq = seq = self._seq + 1
        batch.entries.append(
            _new_entry(Entry, (self.clock.stamp(), self._writer, seq, bound[0], bound[1], source, ping))
        )
        batch.waiters.append(waiter)
        batch.bytes += size
        self.bytes += size
        self.pings = pings + 1
        if len(batch.entries) >= self._batch_pings_max or batch.bytes >= self._batch_bytes_max:
            self._seal()
        if not pings:
            self._wake()

    def count_refused(self, reason: str, signal: Signal) -> None:
        """A ping was refused before it came here (`reason`: one of metrics.REFUSALS)."""
        self._refused_pings.add(reason, signal)

    def count_notes(self, notes: Iterable[PingNote]) -> None:
        """Parts of a ping were left out."""
        self._refused_pings.count_notes(notes)

    def record_refusal_time(self, reason: str, age_s: float) -> None:
        """Clients were refused, at some moment of the last `age_s` seconds: who knows what they had to say."""
        self._refused_pings.add_silence(reason, int(age_s * SECOND))

    async def wait_for_capacity(self) -> None:
        """Wait until the line is at most half full; for those who would rather wait than be refused.

        The other half is left to those who cannot wait. Raises UnavailableError while pings are refused altogether.
        """
        while self._closed is None and (
            self.pings * 2 > self._settings.pings_pending_max or self.bytes * 2 > self._bytes_max
        ):
            waiting = asyncio.get_running_loop().create_future()
            self._room.append(waiting)
            await waiting
        if self._closed is not None:
            raise _refusal(self._closed)

    def front(self) -> Batch | None:
        """The batch at the front; it stays there until `pop_committed`, `reject` or `split_front`."""
        if not self._sealed:
            if not self._open.entries:
                return None
            self._seal()
        return self._sealed[0]

    def pop_committed(self) -> Batch:
        """Remove the batch at the front, which is committed; its waiters are still to be settled."""
        batch = self._sealed.popleft()
        self.pings -= len(batch.entries)
        self.bytes -= batch.bytes
        if self._room:
            self._wake_waiting()
        return batch

    def reject(self, refusal: Rejection) -> None:
        """The batch at the front can never be stored."""
        self.pop_committed().settle(refusal)

    def split_front(self) -> None:
        """Put two halves in the place of the batch at the front."""
        first, second = self._sealed.popleft().halves()
        self._sealed.extendleft((second, first))

    def open(self, writer: int) -> None:
        """Accept pings for this writer. Nothing may be pending."""
        assert not self.pings, "rows of another writer are pending"
        self._writer, self._seq = writer, 0
        self._closed, self._limit = None, self._settings.pings_pending_max

    def reopen(self) -> None:
        """Accept pings again, for the same writer."""
        self._closed, self._limit = None, self._settings.pings_pending_max

    def close(self, reason: str) -> None:
        """Refuse pings from now on (`reason`: one of metrics.REFUSALS); what is pending stays."""
        self._closed, self._limit = reason, 0
        self._wake_waiting()

    def drop(self, reason: str) -> None:
        """Discard all pending pings: they are never stored. The backlog must be closed."""
        for batch in [*self._sealed, self._open]:
            for entry in batch.entries:
                self._refused_pings.add_dropped(reason, entry.ping.signal, entry.at)
        batches = [*self._sealed, self._open]
        self._sealed.clear()
        self._open = Batch()
        self.pings = self.bytes = 0
        for batch in batches:
            batch.settle(unavailable())

    def expire(self) -> None:
        """Answer those who have waited for `commit_timeout`; their pings stay in line."""
        if not self.pings:
            return
        before = self.clock.now() - int(self._settings.commit_timeout * SECOND)
        for batch in [*self._sealed, self._open]:
            if not self._expire(batch, before):
                return

    def _expire(self, batch: Batch, before: Micros) -> bool:
        """Whether the whole batch is that old."""
        entries, waiters = batch.entries, batch.waiters
        while batch.expired < len(entries) and entries[batch.expired].at <= before:
            place = batch.expired
            waiter, waiters[place] = waiters[place], _NOBODY
            batch.expired = place + 1
            self._refused_pings.count_late(entries[place].ping.signal, entries[place].at)
            _settle(waiter, unavailable())
        return batch.expired == len(entries)

    def _seal(self) -> None:
        self._sealed.append(self._open)
        self._open = Batch()

    def _wake_waiting(self) -> None:
        waiting, self._room = self._room, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _refuse(self, ping: Ping) -> NoReturn:
        reason = self._closed or "full"
        self._refused_pings.add(reason, ping.signal)
        raise _refusal(reason)


def _refusal(reason: str) -> UnavailableError:
    if reason == "full":
        return BacklogFullError("too many pings wait for their commit")
    if reason == "stopping":
        return UnavailableError("this process is stopping")
    return DatabaseDownError("nothing can be stored now")


def _settle(waiter: Waiter, outcome: Outcome | Rejection) -> None:
    try:
        waiter.settle(outcome)
    except Exception:
        # An error in the answer to one client must not keep the others from their answers.
        log.exception("backlog.answer_failed")


def _bytes_of(ping: Ping) -> int:
    size = ROW_BYTES
    for text in (ping.run, ping.stage, ping.task, ping.message):
        if text is not None:
            size += len(text) if text.isascii() else 4 * len(text)
    return size
