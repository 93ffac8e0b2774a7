"""The keeper: the one process that judges. It follows the log, runs the engine and records what it decides.

    lease ─→ load ─→ ┌ collect ─→ deaf time ─→ changes ─→ apply, judge ─→ write ┐ ─→ (stop) checkpoint, release
      ↑              └──────────────────────────────────────────────────────────┘
      └─ LeaseLostError: forget everything that was not written

One loop, so that there is one order. Everything it does to the event loop comes in slices of some milliseconds, because
pings are taken on the same loop; what it cannot keep up with waits in the log, and never on the way of a ping.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import structlog

from offbeat_server.committed_batches import CommittedBatches
from offbeat_server.common import failpoints
from offbeat_server.common.clock import LogClock, monotonic
from offbeat_server.common.errors import DatabaseDownError, LeaseLostError, RowRejectedError
from offbeat_server.common.gc_pause import gc_frozen
from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.common.service import Service
from offbeat_server.config import Settings
from offbeat_server.db.pool import Connection, connect
from offbeat_server.db.repositories import decisions, scheduler_rows
from offbeat_server.db.repositories.lease import held_by, outlast
from offbeat_server.db.repositories.scheduler_rows import Checkpoint, WriterSeen
from offbeat_server.engine.decisions import Alert, Decision
from offbeat_server.engine.engine import Engine
from offbeat_server.engine.model.ping import Entry
from offbeat_server.observability.metrics import Metrics
from offbeat_server.scheduler.config_changes import ConfigChanges
from offbeat_server.scheduler.lease import Lease
from offbeat_server.scheduler.log_reader import LogReader
from offbeat_server.scheduler.outages import OutageDetector
from offbeat_server.scheduler.recovery import SLICE, load_monitors
from offbeat_server.scheduler.retention import Retention

SUBJECTS_MAX = 500  # monitors in one transaction
UNDECIDED_MAX = 5_000  # monitors; beyond, judging waits for writing
CYCLE_S = 0.02  # at least so long between two cycles: a cycle costs a round trip
IDLE_S = 0.5  # at most so long; also how soon a change is met
FOLLOW_S = 0.05  # the same, when others write too
HANDOVER_S = 0.5  # for the last checkpoint, where others wait for us to go: what it lacks they take from the log
CHECKPOINT_ENTRIES = 2_000_000
CHECKPOINT_CHANGES = 100_000  # each is read again by a start, and the monitors it is of come dearer
CHECKPOINT_S = 300.0
CHECKPOINT_SLICES = 4  # of SUBJECTS_MAX, at each cycle: a million states in 26 s, some 50 ms without judging

log = structlog.get_logger("scheduler")


class Scheduler(Service):
    """Judges, while it holds the lease. `on_decided` is called after each commit of decisions that hold alerts."""

    name = "scheduler"

    def __init__(
        self,
        url: str,
        settings: Settings,
        clock: LogClock,
        metrics: Metrics,
        committed: CommittedBatches,
        *,
        holder: str,
        node: str,
        metrics_address: str | None = None,
        on_decided: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._url, self._settings, self._clock, self._metrics = url, settings, clock, metrics
        self._on_decided = on_decided
        self.lease = Lease(url, settings, holder, node, metrics_address)
        self.log_reader = LogReader(committed)
        self._committed = committed
        committed.follower = self
        self.engine = Engine(self._quarantined)
        self.outage_detector = OutageDetector(settings.writer_silent_max)
        self.retention = Retention(url, settings, lambda: self.checkpoint_at, lambda: self.engine)
        self.evaluating = False
        self.loading = False
        self.idle = False  # between two cycles: all that was collected is applied, judged and written
        self.mismatches = 0
        self.decisions_dropped = 0
        self.checkpoint_at: Micros = 0
        self._connection: Connection | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._ended = asyncio.Event()
        self.config_changes = ConfigChanges()
        self._inbox: list[Entry] = []  # collected; those before `_applied` are in the engine
        self._applied = 0
        self._writers: list[WriterSeen] = []  # as they were when the inbox was collected
        self._pending: list[Decision] = []  # taken from the engine, not known to be written
        self._written: tuple[int, Micros] = 0, 0  # the last state that was written: monitor, and its last input
        self._doubtful = False  # a connection was lost: what was under way may have happened
        self._checkpointing: tuple[Checkpoint, Iterator[int]] | None = None
        self._entries_since_checkpoint = self._checkpoint_rev = 0
        self._checkpoint_s = monotonic()

    # ---------------------------------------------------------------- what others call

    def wake(self) -> None:
        """There is something new: pings that are committed, or a definition that this process has changed."""
        self._wake.set()

    @property
    def next_deadline(self) -> Micros | None:
        """When the next monitor is to be looked at; None while somebody else judges."""
        return self.engine.next_deadline if self.evaluating else None

    @property
    def others_wait(self) -> bool:
        """Whether another process is the scheduler, or this one also follows writers of other processes."""
        return not self.evaluating or self.log_reader.others

    async def start(self) -> None:
        """Begin to try for the lease."""
        self.spawn(self._run(), "evaluate")

    async def stop(self) -> None:
        """Write what was decided, checkpoint, give up the lease."""
        self._stopping = True
        self._wake.set()
        if self.evaluating:
            try:
                async with asyncio.timeout(HANDOVER_S if self.log_reader.others else self._settings.stop_timeout / 2):
                    await self._ended.wait()
            except TimeoutError:
                log.warning("scheduler.checkpoint_incomplete")
        await self.cancel_tasks()
        await self.lease.release()
        self._drop_connection()

    # ---------------------------------------------------------------- the loop

    async def _run(self) -> None:
        while not self._stopping:
            await self.lease.take()
            aides = [self.errand(self.lease.keep(), "lease"), self.errand(self.retention.run(), "retention")]
            try:
                self.loading = True
                await self._load()
                self.loading = False
                await self._evaluate()
                self._ended.set()
            except LeaseLostError as error:
                log.warning("scheduler.lease_lost", reason=str(error))
            finally:
                self.evaluating = self.loading = self.idle = False
                self._committed.stop()
                for aide in aides:
                    aide.cancel()
                await asyncio.wait(aides)  # they share the lease's connection with whoever takes it next
        await asyncio.Event().wait()  # until it is cancelled: for a Service an end by itself would be a failure

    async def _load(self) -> None:
        """Everything from Postgres, as the last keeper left it."""
        while True:
            self.lease.check()
            try:
                with gc_frozen():
                    await self._load_once()
                return
            except DatabaseDownError as error:
                log.warning("scheduler.recovery_failed", error=str(error))
                self._drop_connection()
                await asyncio.sleep(0.5)

    async def _load_once(self) -> None:
        started_s = monotonic()
        connection = await self._connected()
        await self._database_time(connection)
        self.engine, self._pending, self._checkpointing = Engine(self._quarantined), [], None
        self._inbox, self._applied, self._writers, self._doubtful = [], 0, [], False
        self._written = 0, 0
        checkpoint = await scheduler_rows.read_checkpoint(connection) or Checkpoint(0, 0, {})
        self.checkpoint_at, self._checkpoint_rev = checkpoint.at, checkpoint.applied_rev
        unfinished = await scheduler_rows.unfinished_writers(connection, checkpoint.cursors)
        self.log_reader.begin(checkpoint.at, checkpoint.cursors, unfinished, max(checkpoint.cursors, default=0))
        await self.config_changes.begin(connection, checkpoint.applied_rev)
        for outage in await self.outage_detector.begin(connection, checkpoint.at):
            self.engine.add_outage(outage.started_at, outage.ended_at)
        for window_id, project_id, window in await scheduler_rows.windows(connection, checkpoint.applied_rev):
            self.engine.load_window(window_id, project_id, window)
        begin = checkpoint.at or await self._database_time(connection)
        self._pending = await load_monitors(connection, self.engine, checkpoint, begin, self._yield_to_loop)
        await self._write_pending()
        await self._compare_incidents(connection)
        self.evaluating = True
        log.info("scheduler.recovered", monitors=len(self.engine.monitors), seconds=round(monotonic() - started_s, 2))

    async def _database_time(self, connection: Connection) -> Micros:
        """Also for a process without a writer, whose clock nobody else keeps true."""
        before = self._clock.local()
        now = await scheduler_rows.now(connection)
        if not self._clock.ready:
            self._clock.sample(before, now, self._clock.local())
        return now

    async def _compare_incidents(self, connection: Connection) -> None:
        """What is open in SQL must be what is open here; a difference is a bug, repaired and counted."""
        ours = self.engine.open_incidents()
        theirs = await scheduler_rows.open_incidents(connection)
        if ours != theirs:  # or somebody else may have gone on since the states were read
            await outlast(connection, self.lease.check())
        for monitor_id, number in theirs.items():
            if ours.get(monitor_id) != number and monitor_id not in self.engine.quarantined:
                self.mismatches += 1
                log.error("scheduler.incident_only_in_database", monitor_id=monitor_id, incident=number)
                at = max(self.checkpoint_at, 1)
                await decisions.close_incident(connection, self.lease.check(), monitor_id, number, at)
        for monitor_id in ours.keys() - theirs.keys():
            self.mismatches += 1
            log.error("scheduler.incident_only_in_engine", monitor_id=monitor_id)
            self.engine.restate_incident(monitor_id)

    async def _evaluate(self) -> None:
        last_s = 0.0
        while True:
            self.lease.check()
            stopping = self._stopping
            try:
                self.idle = False
                await self._cycle()
                await self._checkpoint_slice(whole=stopping)
                self.idle = True
            except DatabaseDownError as error:
                log.warning("scheduler.cycle_failed", error=str(error))
                self._drop_connection()
                self.outage_detector.blinded()
                self._doubtful = True
                await asyncio.sleep(0.25)
            if stopping:
                return
            if not self.log_reader.behind:
                await asyncio.sleep(max(0.0, CYCLE_S - (monotonic() - last_s)))
                await self._wait(FOLLOW_S if self.log_reader.others else IDLE_S)
            last_s = monotonic()

    async def _wait(self, at_most_s: float) -> None:
        timer = asyncio.get_running_loop().call_later(at_most_s, self._wake.set)
        await self._wake.wait()
        timer.cancel()
        self._wake.clear()

    async def _cycle(self) -> None:
        """From the log to the outbox.

        May be broken off by DatabaseDownError anywhere; the next one goes on from there.
        """
        connection = await self._connected()
        if self._doubtful:
            await outlast(connection, self.lease.check())
            await self.log_reader.check(connection)
            await self._check_written(connection)
            for outage in await self.outage_detector.on_record(connection):
                self.engine.add_outage(outage.started_at, outage.ended_at)
            self._doubtful = False
        await self._write()  # what a lost connection has left
        if self._applied == len(self._inbox):
            self._inbox, self._writers = await self.log_reader.read_batch(connection)
            self._applied = 0
            self._entries_since_checkpoint += len(self._inbox)
        # After the writers: whoever has seen their word pass a refusal sees the refusal too. Also where the last cycle
        # was broken off after `read_batch`: nothing is judged whose deaf time is not decided.
        rev, refusal_id = await scheduler_rows.news(connection)
        if (
            rev < self.config_changes.rev or 0 < refusal_id < self.outage_detector.refusal_id
        ):  # 0: all are past their retention
            raise LeaseLostError("the database lacks changes or outages that were in it")
        for outage in await self._record_outages(connection, self._writers, refusal_id):
            self.engine.add_outage(outage.started_at, outage.ended_at)
            self._apply_outage(outage)
        now = self.log_reader.watermark
        while (at := self.config_changes.next_known) is not None and at <= now:
            await self._evaluate_through(at)
            self.config_changes.replay_known(self.engine)
        await self._evaluate_through(now)
        if rev > self.config_changes.rev:
            await self._follow(now)
        await self._write()

    async def _check_written(self, connection: Connection) -> None:
        """After a lost connection Postgres may be another one, without the last decisions. Then all is loaded again.

        So it is if pings, changes or outages are missing that were read (`order`, `_cycle`).
        """
        monitor_id, at = self._written
        if monitor_id and await scheduler_rows.state_at(connection, monitor_id) < at:
            raise LeaseLostError("the database lacks decisions that were in it")

    async def _record_outages(
        self, connection: Connection, writers: Sequence[WriterSeen], refusal_id: int
    ) -> Sequence[scheduler_rows.Outage]:
        held = self.lease.check()
        return await self.outage_detector.decide(connection, held, writers, refusal_id, self.log_reader.watermark)

    async def _evaluate_through(self, at: Micros) -> None:
        """Apply every collected entry up to `at`, and judge every deadline up to there."""
        end = bisect_right(self._inbox, at, key=lambda entry: entry.at)
        entries = self._inbox if end == len(self._inbox) else self._inbox[:end]
        while self._applied < end:
            self._applied = self.engine.apply(entries, self._applied, SLICE)
            if self._applied < end:
                entry = entries[self._applied]
                if entry.monitor_id not in self.engine.monitors:
                    # It was made a moment ago: its ping has overtaken its definition.
                    await self._follow(entry.at - 1, entry.monitor_id)
                    if entry.monitor_id not in self.engine.monitors:
                        self.engine.ignore(entry.monitor_id)
                await self._yield_to_loop()
        while not self.engine.advance(at, SLICE):
            await self._yield_to_loop()

    async def _follow(self, at: Micros, stranger: int = 0) -> None:
        await self.config_changes.apply(await self._connected(), self.engine, at, self._yield_to_loop, stranger)

    async def _yield_to_loop(self) -> None:
        """Let pings pass; and let judging wait where writing cannot keep up."""
        await asyncio.sleep(0)
        if self.engine.pending_count > UNDECIDED_MAX:
            await self._write()

    # ---------------------------------------------------------------- writing

    async def _write(self) -> None:
        """Everything undecided, whole subjects at a time; a transaction in doubt is written again, as it was."""
        while self._pending or self.engine.pending_count:
            if not self._pending:
                failpoints.pass_by("judged")
                self._pending = self.engine.drain(SUBJECTS_MAX)
                failpoints.pass_by("taken")
            await self._write_pending()

    async def _write_pending(self) -> None:
        """One transaction; where a row cannot be stored, halves, until who is to blame stands alone and is left out."""
        connection = await self._connected()
        parts = [self._pending] if self._pending else []
        while parts:
            part = parts.pop()
            try:
                await self._write_part(connection, part)
            except RowRejectedError as error:
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                    continue
                self.decisions_dropped += 1
                log.error("scheduler.decision_rejected", monitor_id=part[0].monitor_id, error=str(error))
                if part[0].state is not None:  # else it was deleted, and nothing will follow
                    self.engine.quarantine(part[0].monitor_id, error)
            self._announce_decided(part)
        self._pending = []
        failpoints.pass_by("known")

    async def _write_part(self, connection: Connection, part: Sequence[Decision]) -> None:
        following = self.config_changes
        taken = tuple(following.windows_applied)
        await decisions.write(
            connection, self.lease.check(), part, following.channels_of, following.projects, windows_applied=taken
        )
        del following.windows_applied[: len(taken)]
        for decision in part:
            if decision.state is not None:
                self._written = decision.monitor_id, decision.position.at
            elif decision.monitor_id == self._written[0]:
                self._written = 0, 0

    def _announce_decided(self, written: Sequence[Decision]) -> None:
        alerts = [e for d in written for e in d.effects if isinstance(e, Alert)]
        if alerts:
            now = self._clock.now()
            self._metrics.decided((now - alert.decided_at) / SECOND for alert in alerts if alert.kind != "resolved")
            self._on_decided()

    async def _checkpoint_slice(self, whole: bool) -> None:
        """Bring stored states up to date, some at each cycle; when all are, a restart follows the log from here."""
        if self._checkpointing is None or whole:  # one that was begun is of an earlier instant
            due = monotonic() - self._checkpoint_s >= CHECKPOINT_S
            many = self._entries_since_checkpoint >= CHECKPOINT_ENTRIES
            many = many or self.config_changes.rev - self._checkpoint_rev >= CHECKPOINT_CHANGES
            if not (whole or many or (due and self.engine.now)):
                return
            checkpoint = Checkpoint(self.log_reader.watermark, self.config_changes.rev, dict(self.log_reader.cursors))
            self._checkpointing = checkpoint, self.engine.stale()
            self._entries_since_checkpoint, self._checkpoint_s = 0, monotonic()
            self._checkpoint_rev = checkpoint.applied_rev
        checkpoint, stale = self._checkpointing
        written = 0
        while ids := list(islice(stale, SUBJECTS_MAX)):
            self._pending = [d for d in map(self.engine.snapshot, ids) if d is not None]
            await self._write_pending()
            if (written := written + 1) == CHECKPOINT_SLICES and not whole:
                return
        await self._write()
        connection = await self._connected()
        # Whoever was left out meanwhile has an older state. Who was and is no more has been written just now.
        checkpoint = checkpoint._replace(set_aside=sorted(self.engine.quarantined))
        async with held_by(connection, self.lease.check()):
            await scheduler_rows.write_checkpoint(connection, checkpoint)
        self.checkpoint_at, self._checkpointing = checkpoint.at, None

    def _apply_outage(self, outage: scheduler_rows.Outage) -> None:
        length_s = (outage.ended_at - outage.started_at) / SECOND
        log.warning(
            "scheduler.outage_recorded", reason=outage.reason, seconds=round(length_s, 3), pings_refused=outage.pings
        )
        if outage.reason == "clock":
            self.retention.request_now()

    def _quarantined(self, monitor_id: int, error: Exception) -> None:
        log.error(
            "scheduler.monitor_quarantined",
            monitor_id=monitor_id,
            detail="ignored until its definition changes or the scheduler starts",
            exc_info=error,
        )

    # ---------------------------------------------------------------- the connection

    async def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = await connect(
                self._url, pgbouncer=self._settings.pgbouncer, application_name="offbeat scheduler"
            )
        return self._connection

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
