"""The hand-over from ingest to the scheduler: the pings that the log writer of this process has committed.

The writer adds each batch after its COPY. The log reader of the scheduler takes them in the order of the log, and reads
only the pings of other processes from Postgres. In the other direction the writer asks here when the scheduler needs
to know up to which instant everything is committed.

In a process without a scheduler, and while another process is the scheduler, nothing is kept.
"""

from bisect import bisect_right
from collections import deque
from typing import Protocol

from offbeat_server.common.instants import Micros
from offbeat_server.engine.model.ping import Entry

ENTRIES_MAX = 200_000  # beyond, the reader follows this writer in the log like any other, until it has caught up


class Follower(Protocol):
    """The scheduler of this process, as its writer sees it."""

    @property
    def next_deadline(self) -> Micros | None:
        """When the scheduler evaluates the next deadline; None: there is none, or another process is the scheduler."""

    @property
    def others_wait(self) -> bool:
        """Whether another scheduler, or one that also follows other writers, waits for this process's writer."""

    def wake(self) -> None:
        """There is something new."""


class CommittedBatches:
    """Batches of one writer, committed and not yet taken. `follower` is the scheduler of this process, if any."""

    def __init__(self) -> None:
        self.follower: Follower | None = None
        self.writer = 0  # its id; 0: it has not committed anything yet
        self.through: Micros = 0  # everything that it accepted up to here is committed
        self.complete = False  # whether all that the reader has not taken is here, so that it need not read the log
        self.kept = False  # whether this process is the scheduler
        self._batches: deque[list[Entry]] = deque()
        self._entries = 0
        self._since: Micros = 0  # all that the writer committed after this was added, and not dropped

    # ---------------------------------------------------------------- for the writer

    def add(self, writer: int, entries: list[Entry], through: Micros) -> None:
        """Hand over a batch that `writer` has committed; `entries` may be empty. Wakes the scheduler.

        `through` is the instant up to which everything that the writer accepted is committed.
        """
        if writer != self.writer:  # from its first entry on
            self.writer, self.through = writer, 0
            self._drop()
            self.complete = True
        self.through = through
        if not self.kept or self._entries > ENTRIES_MAX:
            self._drop()
        elif entries:
            self._batches.append(entries)
            self._entries += len(entries)
        if self.follower is not None:
            self.follower.wake()

    @property
    def next_deadline(self) -> Micros | None:
        """When the scheduler of this process evaluates the next deadline, which waits for this writer."""
        return None if self.follower is None else self.follower.next_deadline

    @property
    def others_wait(self) -> bool:
        """Whether the scheduler is another process, or also follows other writers. Then it waits for this one."""
        return self.follower is None or self.follower.others_wait

    # ---------------------------------------------------------------- for the log reader

    def keep(self) -> None:
        """Begin to keep batches: this process is now the scheduler. The reader begins with the log."""
        self.kept = True
        self._drop()

    def stop(self) -> None:
        """Keep nothing more: this process is no longer the scheduler."""
        self.kept = False

    def caught_up(self, watermark: Micros) -> None:
        """Note that the reader has read the log of this writer up to `watermark`."""
        if watermark >= self._since:
            self.complete = True

    def take(self, watermark: Micros, seq: int) -> list[list[Entry]]:
        """Remove and return the batches up to `watermark`, without entries up to `seq`: the log had those already."""
        taken: list[list[Entry]] = []
        while self._batches and self._batches[0][0].at <= watermark:
            batch = self._batches.popleft()
            self._entries -= len(batch)
            if len(due := up_to(batch, watermark)) < len(batch):
                self._batches.appendleft(batch[len(due) :])
                self._entries += len(batch) - len(due)
            if due[0].seq <= seq:
                due = [entry for entry in due if entry.seq > seq]
            if due:
                taken.append(due)
        return taken

    def _drop(self) -> None:
        self._batches.clear()
        self._entries = 0
        self._since = self.through
        self.complete = False


def up_to(entries: list[Entry], watermark: Micros) -> list[Entry]:
    """Return the entries of a list in order, up to `watermark`."""
    if not entries or entries[-1].at <= watermark:
        return entries
    return entries[: bisect_right(entries, watermark, key=lambda entry: entry.at)]
