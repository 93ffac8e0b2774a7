"""The one order: all entries of all writers by (at, writer, seq), up to the watermark.

Entries of the writer in this process come from memory as they are committed (`push_committed`); those of all others are
read from the log by (writer, seq). The watermark is the smallest instant up to which every writer that is not fenced
has committed everything: writers are read first and rows second, so nothing at or before it can still appear.
"""

from bisect import bisect_right
from collections import deque
from itertools import chain

from offbeat_server.common.errors import LeaseLostError
from offbeat_server.common.instants import Micros
from offbeat_server.db.pool import Connection
from offbeat_server.db.repositories import entries as log_entries
from offbeat_server.db.repositories import scheduler_rows
from offbeat_server.db.repositories.entries import ENTRIES_MAX
from offbeat_server.db.repositories.scheduler_rows import WriterSeen
from offbeat_server.engine.model.ping import Entry

FED_ENTRIES_MAX = 200_000  # beyond, our own writer is followed in the log like any other, until we have caught up


class LogReader:
    """Where each writer was read up to, and what was fed and not yet taken."""

    def __init__(self) -> None:
        self.cursors: dict[int, int] = {}  # writer -> the last seq taken
        self.watermark: Micros = 0
        self.newest = 0  # the highest writer id met
        self.others = False  # whether somebody else writes too
        self.behind = False  # whether the last read ended before what could be read
        self.following = False  # only a keeper needs what is fed
        self._own = 0  # the writer in this process
        self._fed: deque[list[Entry]] = deque()
        self._fed_entries = 0
        self._fed_since: Micros = 0  # all that our writer committed after this was fed, and not dropped
        self._fed_through: Micros = 0
        self._from_memory = False  # all up to `_fed_since` was taken, so memory has all the rest
        self._unfinished: set[int] = set()

    def begin(self, at: Micros, cursors: dict[int, int], unfinished: list[int], newest: int) -> None:
        """Follow from here."""
        self.watermark, self.cursors = at, dict(cursors)
        self._unfinished, self.newest = set(unfinished), newest
        self.following = True
        self._drop_fed()

    def push_committed(self, writer: int, entries: list[Entry], through: Micros) -> None:
        """Our own writer has committed these, and everything it accepted up to `through`."""
        if writer != self._own:  # from its first entry on
            self._own, self._fed_through = writer, 0
            self._drop_fed()
            self._from_memory = True
        self._fed_through = through
        if not self.following or self._fed_entries > FED_ENTRIES_MAX:
            self._drop_fed()
        elif entries:
            self._fed.append(entries)
            self._fed_entries += len(entries)

    async def read_batch(self, connection: Connection) -> tuple[list[Entry], list[WriterSeen]]:
        """The next entries in order, moving the watermark; and the writers as they were read.

        Raises DatabaseDownError; LeaseLostError if the log has lost what it had.

        At most `ENTRIES_MAX` are read of a writer; the watermark then stops where the shortest read ended.
        """
        fed_through = self._fed_through  # before the others are read: who comes later, comes after this
        own, memory = self._own, self._from_memory
        seen = await scheduler_rows.writers(connection, list(self._unfinished), self.newest)
        # Once ours is fenced the log has all of it, and memory perhaps not: a batch whose commit is still in doubt.
        memory = memory and not any(writer.fenced and writer.id == own for writer in seen)
        self._check(seen)
        watermark = self._smallest(seen, fed_through)
        self.behind = False
        if watermark is None or watermark <= self.watermark:
            self._note(seen)
            return [], seen
        horizon = watermark
        parts: list[list[Entry]] = []  # each of one writer, in order
        for writer in seen:
            cursor = self.cursors.get(writer.id, 0)
            if writer.seq <= cursor or (writer.id == own and memory):
                continue
            if writer.started_at >= watermark:
                continue  # it comes after what can be read of another now
            # A writer that is met for the first time may have begun a little before the others' word.
            after = self.watermark if cursor else min(self.watermark, writer.started_at)
            read = await log_entries.of_writer(connection, writer.id, cursor, after, watermark, horizon)
            if len(read) >= ENTRIES_MAX:
                watermark, self.behind = min(watermark, read[-1].at), True
            parts.append(read)
        if memory:
            if not self._from_memory or own != self._own:
                return [], seen  # dropped while we were reading: the log has it, next time
            parts.extend(self._take_fed(watermark))
        elif watermark >= self._fed_since:
            self._from_memory = True
        parts = [cut for part in parts if (cut := _through(part, watermark))]  # it may have moved since they were read
        for part in parts:
            self.cursors[part[-1].writer] = part[-1].seq
        entries = _merged(parts)
        self.watermark = watermark
        self._note(seen)
        return entries, seen

    async def check(self, connection: Connection) -> None:
        """After a lost connection. Raises LeaseLostError if the log has lost what it had; DatabaseDownError."""
        self._check(await scheduler_rows.writers(connection, list(self._unfinished), self.newest))

    def _check(self, seen: list[WriterSeen]) -> None:
        """Raises LeaseLostError if the log lacks what was read of it: it is another one, or an older one."""
        missing = self._unfinished.difference(writer.id for writer in seen)
        shorter = [writer.id for writer in seen if writer.seq < self.cursors.get(writer.id, 0)]
        if missing or shorter:
            raise LeaseLostError(f"the log lacks pings that were in it, of writers {sorted({*missing, *shorter})}")

    def _smallest(self, seen: list[WriterSeen], fed_through: Micros) -> Micros | None:
        throughs = [
            # Of our own writer we may know less than the database does: its entries are still on their way to us.
            min(writer.accepted_through, fed_through) if writer.id == self._own else writer.accepted_through
            for writer in seen
            if not writer.fenced
        ]
        if throughs:
            return min(throughs)
        # Nobody writes: what the last ones have left behind can be read to its end.
        return max((writer.accepted_through for writer in seen), default=None)

    def _note(self, seen: list[WriterSeen]) -> None:
        live = {writer.id for writer in seen if not writer.fenced}
        self.others = bool(live - {self._own})
        self.newest = max([self.newest, *(writer.id for writer in seen)])
        unread = {writer.id for writer in seen if writer.seq > self.cursors.get(writer.id, 0)}
        self._unfinished = live | unread

    def _take_fed(self, watermark: Micros) -> list[list[Entry]]:
        parts: list[list[Entry]] = []
        cursor = self.cursors.get(self._own, 0)
        while self._fed and self._fed[0][0].at <= watermark:
            batch = self._fed.popleft()
            self._fed_entries -= len(batch)
            if len(due := _through(batch, watermark)) < len(batch):
                self._fed.appendleft(batch[len(due) :])
                self._fed_entries += len(batch) - len(due)
            if due[0].seq <= cursor:  # was read from the log already
                due = [entry for entry in due if entry.seq > cursor]
            if due:
                parts.append(due)
        return parts

    def _drop_fed(self) -> None:
        self._fed.clear()
        self._fed_entries = 0
        self._fed_since = self._fed_through
        self._from_memory = False


def _through(part: list[Entry], watermark: Micros) -> list[Entry]:
    """The entries up to there, of a part in order."""
    if not part or part[-1].at <= watermark:
        return part
    return part[: bisect_right(part, watermark, key=lambda entry: entry.at)]


def _merged(parts: list[list[Entry]]) -> list[Entry]:
    """All in the one order. Nothing is compared where all are of one writer, whose parts follow each other."""
    if len(parts) == 1:
        return parts[0]
    merged = list(chain.from_iterable(parts))
    if len({part[0].writer for part in parts}) > 1:
        merged.sort()  # each part is in order already, which is what the sort is good at
    return merged
