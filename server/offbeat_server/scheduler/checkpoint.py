"""Brings the stored states up to date from time to time, so that a restart has little of the log to apply.

The states are written in slices, some at each cycle. When all are written, so is the checkpoint: the position in the
log from which a restart begins.
"""

from collections.abc import Iterator
from itertools import islice

from offbeat_server.common.clock import monotonic
from offbeat_server.common.instants import Micros
from offbeat_server.db.pool import KeptConnection
from offbeat_server.db.repositories.lease_row import held_by
from offbeat_server.db.scheduler_store import scheduler_rows
from offbeat_server.db.scheduler_store.scheduler_rows import Checkpoint
from offbeat_server.engine.engine import Engine
from offbeat_server.scheduler import decision_writer
from offbeat_server.scheduler.config_changes import ConfigChanges
from offbeat_server.scheduler.decision_writer import DecisionWriter
from offbeat_server.scheduler.lease import Lease
from offbeat_server.scheduler.log_reader import LogReader

CHECKPOINT_ENTRIES = 2_000_000
CHECKPOINT_CHANGES = 100_000  # each is read again by a start, and a changed monitor takes longer to load
CHECKPOINT_S = 300.0
CHECKPOINT_SLICES = 4  # of SUBJECTS_MAX, at each cycle: a million states in 26 s, some 50 ms without an evaluation


class Checkpointer:
    """The last checkpoint, and the one that is being written."""

    def __init__(
        self,
        connection: KeptConnection,
        lease: Lease,
        log_reader: LogReader,
        config_changes: ConfigChanges,
        writer: DecisionWriter,
    ) -> None:
        self._connection, self._lease, self._writer = connection, lease, writer
        self._log_reader, self._config_changes = log_reader, config_changes
        self.at: Micros = 0  # the instant of the last checkpoint
        self._engine: Engine
        self._under_way: tuple[Checkpoint, Iterator[int]] | None = None  # and the monitors whose states are not written
        self._began_s = monotonic()  # when the last one was begun
        self._began_rev = self._began_entries = 0  # up to where changes and entries were read then

    def begin(self, engine: Engine, last: Checkpoint) -> None:
        """Write checkpoints of this engine from now on. `last` is the one that it was loaded from."""
        self._engine, self._under_way = engine, None
        self.at, self._began_rev = last.at, last.applied_rev

    async def write_slice(self, *, complete: bool) -> None:
        """Write some states, if a checkpoint is due or under way; `complete`: write a whole checkpoint now.

        Raises DatabaseDownError, LeaseLostError.
        """
        if self._under_way is None or complete:  # one that was begun is of an earlier instant
            if not (complete or self._is_due()):
                return
            self._under_way = self._start()
        checkpoint, stale = self._under_way
        slices = 0
        while ids := list(islice(stale, decision_writer.SUBJECTS_MAX)):
            await self._writer.write([d for d in map(self._engine.snapshot, ids) if d is not None])
            slices += 1
            if slices == CHECKPOINT_SLICES and not complete:
                return
        await self._writer.write_all()
        await self._finish(checkpoint)

    def _is_due(self) -> bool:
        many_entries = self._log_reader.entries_read - self._began_entries >= CHECKPOINT_ENTRIES
        many_changes = self._config_changes.rev - self._began_rev >= CHECKPOINT_CHANGES
        late = monotonic() - self._began_s >= CHECKPOINT_S and self._engine.now > 0
        return many_entries or many_changes or late

    def _start(self) -> tuple[Checkpoint, Iterator[int]]:
        reader = self._log_reader
        checkpoint = Checkpoint(reader.watermark, self._config_changes.rev, dict(reader.cursors))
        self._began_entries, self._began_rev, self._began_s = reader.entries_read, checkpoint.applied_rev, monotonic()
        return checkpoint, self._engine.stale()

    async def _finish(self, checkpoint: Checkpoint) -> None:
        connection = await self._connection.get()
        # A monitor that was quarantined since has an older state. One that no longer is has been written just now.
        checkpoint = checkpoint._replace(set_aside=sorted(self._engine.quarantined))
        async with held_by(connection, self._lease.check()):
            await scheduler_rows.write_checkpoint(connection, checkpoint)
        self.at, self._under_way = checkpoint.at, None
