"""The one order: all entries of all writers by (at, writer, seq), up to the watermark.

Entries of the writer in this process come from memory (`CommittedBatches`); those of all others are read from the log
by (writer, seq). The watermark is the smallest instant up to which every writer that is not fenced has committed
everything: writers are read first and rows second, so nothing at or before it can still appear.
"""

from itertools import chain

from offbeat_server.committed_batches import CommittedBatches, up_to
from offbeat_server.common.errors import LeaseLostError
from offbeat_server.common.instants import Micros
from offbeat_server.db.pool import Connection
from offbeat_server.db.scheduler_store import log_entries as log_entries
from offbeat_server.db.scheduler_store import scheduler_rows
from offbeat_server.db.scheduler_store.log_entries import ENTRIES_MAX
from offbeat_server.db.scheduler_store.scheduler_rows import WriterSeen
from offbeat_server.engine.model.ping import Entry


class LogReader:
    """Where each writer was read up to. `committed` has the batches of the writer in this process."""

    def __init__(self, committed: CommittedBatches) -> None:
        self.cursors: dict[int, int] = {}  # writer -> the last seq taken
        self.watermark: Micros = 0
        self.newest = 0  # the highest writer id met
        self.entries_read = 0
        self.others = False  # whether other processes write too
        self.behind = False  # whether the last read ended before what could be read
        self._committed = committed
        self._unfinished: set[int] = set()

    def begin(self, at: Micros, cursors: dict[int, int], unfinished: list[int], newest: int) -> None:
        """Follow from here."""
        self.watermark, self.cursors = at, dict(cursors)
        self._unfinished, self.newest = set(unfinished), newest
        self._committed.keep()

    async def read_batch(self, connection: Connection) -> tuple[list[Entry], list[WriterSeen]]:
        """The next entries in order, moving the watermark; and the writers as they were read.

        Raises DatabaseDownError; LeaseLostError if the log has lost what it had.

        At most `ENTRIES_MAX` are read of a writer; the watermark then stops where the shortest read ended.
        """
        committed = self._committed
        through = committed.through  # before the others are read: what is added later, comes after this
        own, from_memory = committed.writer, committed.complete
        seen = await scheduler_rows.writers(connection, list(self._unfinished), self.newest)
        # Once ours is fenced the log has all of it, and memory perhaps not: a batch whose commit is still in doubt.
        from_memory = from_memory and not any(writer.fenced and writer.id == own for writer in seen)
        self._check(seen)
        watermark = self._smallest(seen, through)
        self.behind = False
        if watermark is None or watermark <= self.watermark:
            self._note(seen)
            return [], seen
        read = [writer for writer in seen if not (from_memory and writer.id == own)]
        parts, watermark = await self._read_log(connection, read, watermark)
        if from_memory:
            if not committed.complete or own != committed.writer:
                return [], seen  # dropped while we were reading: the log has it, next time
            parts.extend(committed.take(watermark, self.cursors.get(own, 0)))
        else:
            committed.caught_up(watermark)
        parts = [cut for part in parts if (cut := up_to(part, watermark))]  # it may have moved since they were read
        for part in parts:
            self.cursors[part[-1].writer] = part[-1].seq
        entries = _merged(parts)
        self.entries_read += len(entries)
        self.watermark = watermark
        self._note(seen)
        return entries, seen

    async def _read_log(
        self, connection: Connection, writers: list[WriterSeen], watermark: Micros
    ) -> tuple[list[list[Entry]], Micros]:
        """Read what each of these has written up to `watermark`: a list for each, in order, and the new watermark."""
        horizon = watermark
        parts: list[list[Entry]] = []
        for writer in writers:
            cursor = self.cursors.get(writer.id, 0)
            if writer.seq <= cursor:
                continue
            if writer.started_at >= watermark:
                continue  # it comes after what can be read of another now
            # A writer that is met for the first time may have begun a little before the others' word.
            after = self.watermark if cursor else min(self.watermark, writer.started_at)
            read = await log_entries.of_writer(connection, writer.id, cursor, after, watermark, horizon)
            if len(read) >= ENTRIES_MAX:
                watermark, self.behind = min(watermark, read[-1].at), True
            parts.append(read)
        return parts, watermark

    async def check(self, connection: Connection) -> None:
        """After a lost connection. Raises LeaseLostError if the log has lost what it had; DatabaseDownError."""
        self._check(await scheduler_rows.writers(connection, list(self._unfinished), self.newest))

    def _check(self, seen: list[WriterSeen]) -> None:
        """Raises LeaseLostError if pings that were read are missing: the log is another one, or an older one."""
        missing = self._unfinished.difference(writer.id for writer in seen)
        shorter = [writer.id for writer in seen if writer.seq < self.cursors.get(writer.id, 0)]
        if missing or shorter:
            raise LeaseLostError(f"pings that were in the log are missing, of writers {sorted({*missing, *shorter})}")

    def _smallest(self, seen: list[WriterSeen], through: Micros) -> Micros | None:
        throughs = [
            # Of our own writer we may know less than the database does: its entries are still on their way to us.
            min(writer.accepted_through, through) if writer.id == self._committed.writer else writer.accepted_through
            for writer in seen
            if not writer.fenced
        ]
        if throughs:
            return min(throughs)
        # No writer is there: the pings of the last ones can be read to their end.
        return max((writer.accepted_through for writer in seen), default=None)

    def _note(self, seen: list[WriterSeen]) -> None:
        live = {writer.id for writer in seen if not writer.fenced}
        self.others = bool(live - {self._committed.writer})
        self.newest = max([self.newest, *(writer.id for writer in seen)])
        unread = {writer.id for writer in seen if writer.seq > self.cursors.get(writer.id, 0)}
        self._unfinished = live | unread


def _merged(parts: list[list[Entry]]) -> list[Entry]:
    """All in the one order. Nothing is compared where all are of one writer, whose parts follow each other."""
    if len(parts) == 1:
        return parts[0]
    merged = list(chain.from_iterable(parts))
    if len({part[0].writer for part in parts}) > 1:
        merged.sort()  # each part is in order already, which is what the sort is good at
    return merged
