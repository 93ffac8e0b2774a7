"""One cycle of the scheduler: from the log to decisions that are written.

    read the log ─→ record outages ─→ apply changes of definitions ─→ apply pings, evaluate deadlines ─→ write

Everything it does to the event loop comes in slices of some milliseconds, because pings are taken on the same loop.
Pings that are too many at once wait in the log.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable

import structlog

from offbeat_server.common.errors import LeaseLostError
from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.db.pool import Connection, KeptConnection
from offbeat_server.db.repositories.lease_row import outlast
from offbeat_server.db.scheduler_store import scheduler_rows
from offbeat_server.db.scheduler_store.scheduler_rows import Outage, WriterSeen
from offbeat_server.engine.engine import Engine
from offbeat_server.engine.model.ping import Entry
from offbeat_server.scheduler.config_changes import ConfigChanges
from offbeat_server.scheduler.decision_writer import DecisionWriter
from offbeat_server.scheduler.lease import Lease
from offbeat_server.scheduler.log_reader import LogReader
from offbeat_server.scheduler.outages import OutageDetector
from offbeat_server.scheduler.recall import recall_runs
from offbeat_server.scheduler.recovery import SLICE

UNDECIDED_MAX = 5_000  # monitors; beyond, the evaluation waits until their decisions are written

log = structlog.get_logger("evaluation")


class Evaluation:
    """The cycles of one engine. `on_clock_jump` is called when the database's clock has jumped."""

    def __init__(
        self,
        connection: KeptConnection,
        lease: Lease,
        log_reader: LogReader,
        config_changes: ConfigChanges,
        outage_detector: OutageDetector,
        decision_writer: DecisionWriter,
        on_clock_jump: Callable[[], None],
    ) -> None:
        self._connection, self._lease, self._log_reader = connection, lease, log_reader
        self._config_changes, self._outage_detector = config_changes, outage_detector
        self._decision_writer, self._on_clock_jump = decision_writer, on_clock_jump
        self._engine: Engine
        self._entries: list[Entry] = []  # read from the log; those before `_applied` are in the engine
        self._applied = 0
        self._writers: list[WriterSeen] = []  # as they were when the entries were read
        self._recalled = True  # whether the engine knows the ended runs that the entries name
        self._doubtful = False  # a connection was lost: what was under way may have happened

    def begin(self, engine: Engine) -> None:
        """Evaluate with this engine from now on."""
        self._engine = engine
        self._entries, self._applied, self._writers, self._doubtful = [], 0, [], False

    def lost_connection(self) -> None:
        """Note that a cycle was broken off. The next one first reads what Postgres has, then continues from there."""
        self._outage_detector.blinded()
        self._doubtful = True

    async def cycle(self) -> None:
        """Evaluate everything up to the watermark, and write what was decided.

        Raises LeaseLostError; DatabaseDownError, which may break it off anywhere: see `lost_connection`.
        """
        connection = await self._connection.get()
        if self._doubtful:
            await self._check_database(connection)
        await self._decision_writer.write_all()  # what a lost connection has left
        if self._applied == len(self._entries):
            self._entries, self._writers = await self._log_reader.read_batch(connection)
            self._applied, self._recalled = 0, False
        if not self._recalled:
            self._engine.forget_recalled()  # everything is written
            await recall_runs(connection, self._engine, self._entries)
            self._recalled = True
        # After the writers: if their word passes a refusal, the refusal is seen too. Also if the last cycle was broken
        # off after `read_batch`: nothing is evaluated before its outages are decided.
        rev, refusal_id = await scheduler_rows.news(connection)
        self._check_news(rev, refusal_id)
        await self._record_outages(connection, refusal_id)
        now = self._log_reader.watermark
        await self._replay_windows(now)
        await self._evaluate_through(now)
        if rev > self._config_changes.rev:
            await self._apply_changes(now)
        await self._decision_writer.write_all()

    async def yield_to_loop(self) -> None:
        """Let pings pass. If too much is decided and not written, write it first."""
        await asyncio.sleep(0)
        if self._engine.pending_count > UNDECIDED_MAX:
            await self._decision_writer.write_all()

    async def _check_database(self, connection: Connection) -> None:
        """After a lost connection: Postgres may be another one now, without the last commits.

        Raises LeaseLostError if pings or decisions that were in it are missing; then everything is loaded again.
        """
        await outlast(connection, self._lease.check())
        await self._log_reader.check(connection)
        await self._decision_writer.check(connection)
        for outage in await self._outage_detector.on_record(connection):
            self._engine.add_outage(outage.started_at, outage.ended_at)
        self._doubtful = False

    def _check_news(self, rev: int, refusal_id: int) -> None:
        """Raises LeaseLostError if changes or refusals are missing. `refusal_id` 0: all are past their retention."""
        if rev < self._config_changes.rev or 0 < refusal_id < self._outage_detector.refusal_id:
            raise LeaseLostError("the database no longer has changes or outages that this process has read from it")

    async def _record_outages(self, connection: Connection, refusal_id: int) -> None:
        held, watermark = self._lease.check(), self._log_reader.watermark
        for outage in await self._outage_detector.decide(connection, held, self._writers, refusal_id, watermark):
            self._engine.add_outage(outage.started_at, outage.ended_at)
            self._note(outage)

    def _note(self, outage: Outage) -> None:
        length_s = (outage.ended_at - outage.started_at) / SECOND
        log.warning(
            "evaluation.outage_recorded", reason=outage.reason, seconds=round(length_s, 3), pings_refused=outage.pings
        )
        if outage.reason == "clock":
            self._on_clock_jump()

    async def _replay_windows(self, now: Micros) -> None:
        """Apply the changes of windows that the last scheduler has applied already, each at its instant."""
        while (at := self._config_changes.next_known) is not None and at <= now:
            await self._evaluate_through(at)
            self._config_changes.replay_known(self._engine)

    async def _evaluate_through(self, at: Micros) -> None:
        """Apply every entry that was read up to `at`, and evaluate every deadline up to there."""
        end = bisect_right(self._entries, at, key=lambda entry: entry.at)
        entries = self._entries if end == len(self._entries) else self._entries[:end]
        while self._applied < end:
            self._applied = self._engine.apply(entries, self._applied, SLICE)
            if self._applied < end:
                entry = entries[self._applied]
                if entry.monitor_id not in self._engine.monitors:
                    # It was made a moment ago: its ping has overtaken its definition.
                    await self._apply_changes(entry.at - 1, entry.monitor_id)
                    if entry.monitor_id not in self._engine.monitors:
                        self._engine.ignore(entry.monitor_id)
                await self.yield_to_loop()
        while not self._engine.advance(at, SLICE):
            await self.yield_to_loop()

    async def _apply_changes(self, at: Micros, stranger: int = 0) -> None:
        connection = await self._connection.get()
        await self._config_changes.apply(connection, self._engine, at, self.yield_to_loop, stranger)
