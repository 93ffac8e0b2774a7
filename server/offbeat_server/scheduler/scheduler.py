"""The scheduler: the one process of all that evaluates. It follows the log, runs the engine and records its decisions.

    lease ─→ recovery ─→ ┌ evaluation ─→ checkpoint ┐ ─→ (stop) whole checkpoint, release
      ↑                  └──────────────────────────┘
      └─ LeaseLostError: forget everything that was not written

One loop, so that there is one order. `evaluation.py` is one turn of it.
"""

import asyncio
from collections.abc import Callable

import structlog

from offbeat_server.committed_batches import CommittedBatches
from offbeat_server.common.clock import LogClock, monotonic
from offbeat_server.common.errors import DatabaseDownError, LeaseLostError
from offbeat_server.common.instants import Micros
from offbeat_server.common.long_work import gc_frozen
from offbeat_server.common.service import Service
from offbeat_server.config import Settings
from offbeat_server.db.pool import KeptConnection
from offbeat_server.db.scheduler_store import scheduler_rows
from offbeat_server.db.scheduler_store.scheduler_rows import Checkpoint
from offbeat_server.engine.engine import Engine
from offbeat_server.observability.metrics import Metrics
from offbeat_server.scheduler.checkpoint import Checkpointer
from offbeat_server.scheduler.config_changes import ConfigChanges
from offbeat_server.scheduler.decision_writer import DecisionWriter
from offbeat_server.scheduler.evaluation import Evaluation
from offbeat_server.scheduler.lease import Lease
from offbeat_server.scheduler.log_reader import LogReader
from offbeat_server.scheduler.outages import OutageDetector
from offbeat_server.scheduler.recovery import compare_incidents, database_time, recover
from offbeat_server.scheduler.retention import Retention

CYCLE_S = 0.02  # at least this long between two cycles: a cycle costs a round trip
IDLE_S = 0.5  # at most this long between two; also how soon a change is noticed
FOLLOW_S = 0.05  # the same, when other processes write too
HANDOVER_S = 0.5  # for the last checkpoint, if others wait for the stop: they read the rest from the log

log = structlog.get_logger("scheduler")


class Scheduler(Service):
    """Evaluates, while it holds the lease. `on_decided` is called after each commit of decisions that hold alerts."""

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
        self._settings, self._clock = settings, clock
        self._committed = committed
        committed.follower = self
        self.evaluating = False
        self.loading = False
        self.idle = False  # between two cycles: everything that was read is applied, evaluated and written
        self.mismatches = 0  # open incidents that the engine and Postgres had differently
        self.engine = Engine(self._quarantined)
        self.lease = Lease(url, settings, holder, node, metrics_address)
        self.connection = KeptConnection(url, pgbouncer=settings.pgbouncer, application_name="offbeat scheduler")
        self.log_reader = LogReader(committed)
        self.config_changes = ConfigChanges()
        self.outage_detector = OutageDetector(settings.writer_silent_max)
        self.decision_writer = DecisionWriter(
            self.connection, self.lease, self.config_changes, clock, metrics, on_decided
        )
        self.checkpointer = Checkpointer(
            self.connection, self.lease, self.log_reader, self.config_changes, self.decision_writer
        )
        self.retention = Retention(url, settings, lambda: self.checkpointer.at, lambda: self.engine)
        self.evaluation = Evaluation(
            self.connection,
            self.lease,
            self.log_reader,
            self.config_changes,
            self.outage_detector,
            self.decision_writer,
            on_clock_jump=self.retention.request_now,
        )
        self._wake = asyncio.Event()
        self._stopping = False
        self._ended = asyncio.Event()

    # ---------------------------------------------------------------- what others call

    def wake(self) -> None:
        """There is something new: pings that are committed, or a definition that this process has changed."""
        self._wake.set()

    @property
    def next_deadline(self) -> Micros | None:
        """When the next deadline is evaluated; None: there is none, or another process is the scheduler."""
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
        self.connection.drop()

    # ---------------------------------------------------------------- the loop

    async def _run(self) -> None:
        while not self._stopping:
            await self.lease.take()
            beside = [self.errand(self.lease.keep(), "lease"), self.errand(self.retention.run(), "retention")]
            try:
                self.loading = True
                await self._recover()
                self.loading = False
                await self._evaluate()
                self._ended.set()
            except LeaseLostError as error:
                log.warning("scheduler.lease_lost", reason=str(error))
            finally:
                self.evaluating = self.loading = self.idle = False
                self._committed.stop()
                for task in beside:
                    task.cancel()
                await asyncio.wait(beside)  # they share the lease's connection with the next attempt to take it
        await asyncio.Event().wait()  # until it is cancelled: for a Service an end by itself would be a failure

    async def _recover(self) -> None:
        """Load everything from Postgres, as the last scheduler left it. Try again until Postgres answers."""
        while True:
            self.lease.check()
            try:
                with gc_frozen():
                    await self._recover_once()
                return
            except DatabaseDownError as error:
                log.warning("scheduler.recovery_failed", error=str(error))
                self.connection.drop()
                await asyncio.sleep(0.5)

    async def _recover_once(self) -> None:
        started_s = monotonic()
        connection = await self.connection.get()
        await database_time(connection, self._clock)
        engine = self.engine = Engine(self._quarantined)
        checkpoint = await scheduler_rows.read_checkpoint(connection) or Checkpoint(0, 0, {})
        self.decision_writer.begin(engine)
        self.evaluation.begin(engine)
        self.checkpointer.begin(engine, checkpoint)
        decisions = await recover(
            connection,
            engine,
            checkpoint,
            self.log_reader,
            self.config_changes,
            self.outage_detector,
            self._clock,
            self.evaluation.yield_to_loop,
        )
        await self.decision_writer.write(decisions)
        await compare_incidents(connection, self.lease, engine, checkpoint.at, self._count_mismatch)
        self.evaluating = True
        log.info("scheduler.recovered", monitors=len(engine.monitors), seconds=round(monotonic() - started_s, 2))

    async def _evaluate(self) -> None:
        """Evaluate until this process loses the lease or stops."""
        last_s = 0.0
        while True:
            self.lease.check()
            stopping = self._stopping
            try:
                self.idle = False
                await self.evaluation.cycle()
                await self.checkpointer.write_slice(complete=stopping)
                self.idle = True
            except DatabaseDownError as error:
                log.warning("scheduler.cycle_failed", error=str(error))
                self.connection.drop()
                self.evaluation.lost_connection()
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

    def _count_mismatch(self) -> None:
        self.mismatches += 1

    def _quarantined(self, monitor_id: int, error: Exception) -> None:
        log.error(
            "scheduler.monitor_quarantined",
            monitor_id=monitor_id,
            detail="ignored until its definition changes or the scheduler starts",
            exc_info=error,
        )
