"""Makes the backlog of pings durable: one connection, one COPY after the other, and a pulse if there are no pings.

There is no timer and no linger: a batch holds the pings that arrived during the previous COPY, and while its answers
were sent if few were pending. Every failure ends in one of two ways. If the writer itself can continue (a lost
connection), nothing leaves the backlog: the batch at its front is doubtful. It is sent again with the same rows in the
same places until it commits, or until the primary key shows that it had, and a later commit confirms it. If the writer
cannot continue (it was fenced, or the database's clock jumped), the pending pings are given up, because their instants
may lie in time that the scheduler has evaluated. Their clients get 503, and a new writer begins.

    connect ─→ register ─→ append ⇄ pulse ─→ (stop) end
       ↑          ↑_ FencedError, ClockJump: drop what is pending
       └───────────────── DatabaseDownError: keep what is pending
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from operator import attrgetter
from typing import TypeVar

import structlog

from offbeat_server.committed_batches import CommittedBatches
from offbeat_server.common import failpoints
from offbeat_server.common.clock import JUMP_MAX, ClockJump, LogClock, monotonic
from offbeat_server.common.errors import (
    AlreadyInLogError,
    DatabaseDownError,
    FencedError,
    OffbeatError,
    RowRejectedError,
)
from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.common.service import Service
from offbeat_server.config import Settings
from offbeat_server.db.repositories.ping_log import LogConnection, LostPings, Registered, Session
from offbeat_server.engine.model.ping import PLAIN, Entry
from offbeat_server.ingest.log_writer.backlog import Backlog, Batch
from offbeat_server.ingest.log_writer.refused_pings import RefusedPingTracker
from offbeat_server.ingest.protocols.base import OK, Rejection
from offbeat_server.observability.metrics import Metrics

PULSE_S = 1.0  # the longest time between two readings of the database's clock, also under load
PULSE_AMONG_SEVERAL_S = 0.1  # the slowest writer holds the watermark for all
PULSE_GAP_S = 0.01  # however many deadlines are near
SLEEP_S_MIN = 0.001  # log time may stand still just before a deadline, while the database's clock catches up with it
SWEEP_S = 0.25
STALL_S = 1.0  # between two turns of the sweep: this process was stopped, or its machine was
# A client that waits longer than this for its answer may be late with its next ping, and it is our fault. Below half of
# the shortest grace period that makes sense next to a commit.
SLOW_S = 0.5
SLOW_GAP_S = 10.0  # slow answers with less between them are one slow time
SLOW_RUN_S_MAX = 30.0  # at most this part of a slow time is an outage
START_WAIT_S = 2.0
STOP_SHARE = 0.3  # of `stop_timeout`
RECONNECT_S_MAX = 1.0
# A COPY costs 115 µs here and 160 in Postgres before its first row. Where fewer than this are pending after one, those
# who wait for it are answered first, since most of them ask again at once: with 64 connections a batch has 62 rows
# instead of 31, and a tenth more is committed.
FEW_PINGS = 64
NOT_STORABLE = Rejection(400, "the database cannot store this ping")

T = TypeVar("T")

log = structlog.get_logger("writer")


class LogWriter(Service):
    """The writer of this process. It hands what it has committed over to `committed`, after each COPY and each pulse.

    `on_lost` is called if Postgres has lost commits: what is in memory may then be of a later time.
    """

    name = "writer"

    def __init__(
        self,
        url: str,
        settings: Settings,
        clock: LogClock,
        metrics: Metrics,
        *,
        node: str,
        metrics_address: str | None,
        committed: CommittedBatches,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._url, self._settings, self._clock, self._metrics = url, settings, clock, metrics
        self._node, self._metrics_address = node, metrics_address
        self._committed, self._on_lost = committed, on_lost
        self.refused_pings = RefusedPingTracker(clock, metrics)
        self.backlog = Backlog(clock, settings, self.refused_pings, self.wake)
        self.id = 0  # of the row in `writers`; 0: there was none yet
        self._registration = Registered(0, 0)
        self._confirmed_seq = 0  # of that writer: every ping up to it was answered
        self._lost: LostPings | None = None  # not recorded yet
        self.through: Micros = 0  # everything accepted up to here is committed
        self.rows_rejected = 0
        self.batches_doubted = 0
        self._log: LogConnection | None = None
        self._doubtful: Session | None = None  # the session that may still be at work on the batch at the front
        self._registered = asyncio.Event()
        self._jumped = False  # the database's clock has, and no new writer was registered since
        self._trouble = ""  # the last one that was logged
        self._failures = 0  # since Postgres last did what it was asked
        self._stopping = False
        self._stopped_at: Micros = 0  # by the local clock
        self._ended = asyncio.Event()
        self._alarm: asyncio.Future[None] | None = None
        self._answered_s = self._moved_s = self._sampled_s = self._pulsed_s = self._turned_s = monotonic()
        self._slow_since_s = self._slow_last_s = float("-inf")  # of the present slow time, or the last one
        self._slow_logged = False
        self._asked_s: float | None = None  # when the oldest request to Postgres began that is not answered yet

    async def start(self) -> None:
        """Register, or return after `START_WAIT_S` and continue to try; until then pings are refused."""
        self._turned_s = monotonic()
        self.spawn(self._run(), "append")
        self.spawn(self._sweep(), "sweep")
        try:
            async with asyncio.timeout(START_WAIT_S):
                await self._registered.wait()
        except TimeoutError:
            log.warning("writer.database_down", detail="pings are rejected until Postgres answers")

    async def stop(self) -> None:
        """Refuse what comes, commit what is pending, sign off; within its share of `stop_timeout`, then give up."""
        self.backlog.close("stopping")
        self._stopping, self._stopped_at = True, self._clock.local()
        self.wake()
        try:
            if self.tasks:
                async with asyncio.timeout(self._settings.stop_timeout * STOP_SHARE):
                    await self._ended.wait()
        except TimeoutError:
            log.warning("writer.stopped_without_end", pings_dropped=self.backlog.pings)
        finally:
            await self.cancel_tasks()
            self.backlog.drop("database")
            self.refused_pings.publish()
            if self._log is not None:
                self._log.terminate()

    def wake(self) -> None:
        """Look again: a ping is pending, or a nearer deadline has appeared. Costs nothing while awake."""
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)

    async def _run(self) -> None:
        while not self._ended.is_set():
            try:
                await self._connect()
                await self._append()
                await self._end()
            except FencedError as error:
                self._replace_writer("database", str(error))
            except ClockJump as jump:
                self._jumped = True
                self._replace_writer("clock", str(jump))
            except OffbeatError as error:
                self._lose_connection(error)
                await asyncio.sleep(self._pause_s())
        await asyncio.Event().wait()  # until it is cancelled: for a Service an end by itself would be a failure

    async def _connect(self) -> None:
        if opened := self._log is None:
            self._log = await LogConnection.open(
                self._url, pgbouncer=self._settings.pgbouncer, timeout_s=self._settings.commit_timeout
            )
            if self._doubtful is not None:
                await self._log.end_session(self._doubtful)
                self._doubtful = None
            self._sampled_s = 0.0  # a pulse at once, to know whether we still are a writer
        if self.id and (opened or not self._registered.is_set()):
            await self._look_for_lost()
        if not self._registered.is_set():
            await self._register()

    async def _look_for_lost(self) -> None:
        """Find out whether the log still has what it confirmed; if not, a new writer is needed.

        After a failover to an asynchronous standby, or the restore of a backup, the last commits are missing.
        """
        assert self._log is not None
        standing = await self._log.standing(self._registration)
        if standing is not None and standing.seq >= self._confirmed_seq:
            self._lost = None  # not recorded yet, and the writer has left the host without these commits
            return
        seq, since = standing or (0, self._registration.started_at)
        if self._lost is None:
            self._lost = LostPings(since, self._confirmed_seq - seq)
            log.error("writer.pings_lost", pings=self._lost.pings, writer=self.id)
            self._on_lost()
        if standing is None:
            self.id = 0  # the log may have given it to another process
        if self._registered.is_set():
            self._replace_writer("database", "its last pings are missing in the log")

    async def _register(self) -> None:
        assert self._log is not None
        self._notice_silence()
        before = self._clock.local()
        ages = self.refused_pings.ages()
        writer, database = await self._log.register(
            self._node, self._metrics_address, self.id or None, ages, self._jumped, self._lost
        )
        after = self._clock.local()
        self.refused_pings.reported()
        self._jumped, self._lost = False, None
        self._registration, self._confirmed_seq = Registered(writer, database), 0
        try:
            self._clock.sample(before, database, after)
        except ClockJump:
            self._clock.restart(before, database, after)
        self.id, self.through = writer, database
        # Until the end of that call the scheduler could not see this writer. It may have evaluated up to the last sign
        # of any writer, whose clock may be ahead of this one.
        latest = await self._log.latest()
        self._clock.raise_to(max(database, latest))
        if latest - database > JUMP_MAX:
            # The other writer has registered since, by a clock that jumped: follow it, over time without any writer.
            self.refused_pings.add_silence("clock", latest - database)
        self._note_answer()
        self._sampled_s = self._moved_s
        self.backlog.open(writer)
        if self._stopping:
            self.backlog.close("stopping")
        self._registered.set()
        log.info("writer.registered", writer=writer)

    async def _append(self) -> None:
        """Until it is time to stop and nothing is pending."""
        while True:
            batch = self.backlog.front()
            if batch is not None:
                await self._commit(batch)
            elif self._stopping:
                return
            if (wait_s := self._pulse_in_s()) <= 0:
                await self._pulse()
            elif self.backlog.front() is None and not self._stopping:
                await self._sleep(max(wait_s, SLEEP_S_MIN))

    async def _commit(self, batch: Batch) -> None:
        await self._report_refused_pings(batch)
        handed_s = monotonic()
        try:
            await self._store(batch)
        except (AlreadyInLogError, RowRejectedError) as error:
            self._bisect(batch, error)
            return
        except DatabaseDownError:
            batch.doubtful = True
            self.batches_doubted += 1
            raise
        failpoints.pass_by("appended")
        took_s = monotonic() - handed_s
        self.backlog.pop_committed()
        self.through, self._confirmed_seq = batch.entries[-1].at, batch.entries[-1].seq
        self._note_answer()
        self._committed.add(self.id, batch.entries, self.through)
        if self.backlog.pings >= FEW_PINGS:
            # Later: first the next batch is handed over, and Postgres works while we answer this one. To write the
            # answers costs as much as to commit them.
            asyncio.get_running_loop().call_soon(self._answer, batch, took_s)
            return
        self._answer(batch, took_s)
        await asyncio.sleep(0)  # the answers go out
        await asyncio.sleep(0)  # what they bring is read

    async def _store(self, batch: Batch) -> None:
        """Commit a batch. Raises as `copy`; AlreadyInLogError only for a batch that was never sent before."""
        assert self._log is not None
        try:
            await self._ask(self._log.copy(batch.entries))
        except AlreadyInLogError:
            if not batch.doubtful:
                raise
            # An earlier COPY of it is committed here. Perhaps only here: when Postgres ends a session that waits for a
            # synchronous standby, it commits locally. A later commit waits for the standby, and for all before.
            await self._ask(self._log.confirm())

    def _answer(self, batch: Batch, seconds: float) -> None:
        batch.settle(OK)
        self._metrics.committed(_count_signals(batch.entries), seconds)

    def _bisect(self, batch: Batch, error: OffbeatError) -> None:
        """Find the bad row by halves: rare enough that simple beats fast."""
        if len(batch.entries) > 1:
            self.backlog.split_front()
            return
        log.error("writer.ping_rejected", monitor_id=batch.entries[0].monitor_id, error=str(error))
        self.rows_rejected += 1
        self.backlog.reject(NOT_STORABLE)

    async def _pulse(self) -> None:
        assert self._log is not None
        head = self.backlog.front()
        through = self._accepted_through() if head is None else head.entries[0].at - 1
        await self._report_refused_pings()  # after `through` is chosen: pings refused since are later
        self._pulsed_s = monotonic()
        before = self._clock.local()
        database = await self._ask(self._log.pulse(self.id, through))
        after = self._clock.local()
        self.through = through
        self._note_answer()
        self._sampled_s = self._moved_s
        self._committed.add(self.id, [], through)
        self._clock.sample(before, database, after)

    def _accepted_through(self) -> Micros:
        """Return the instant up to which every ping was accepted, for when no ping is pending.

        While the writer runs this is now. After `stop` began it is the instant of the stop: later pings were refused,
        and a later instant would claim that none was sent.
        """
        now = self._clock.stamp()
        if not self._stopping:
            return now
        return max(self.through, now - (self._clock.local() - self._stopped_at))

    async def _report_refused_pings(self, batch: Batch | None = None) -> None:
        """Record when pings were refused or kept waiting, before `batch` or a pulse passes those instants."""
        assert self._log is not None
        self._notice_stall()
        self._notice_silence()
        waited = 0 if batch is None else self._clock.now() - batch.entries[0].at
        if waited > SLOW_S * SECOND and not self._is_slow_for_long():
            self.refused_pings.add_silence("database", waited)
        if self.refused_pings.unreported:
            await self._ask(self._log.report_refusals(self.id, self.refused_pings.instants()))
            self.refused_pings.reported()

    async def _ask(self, request: Awaitable[T]) -> T:
        """One request to Postgres. If the answer takes long, the time until it came is an outage.

        So is the time from a request that failed to the next one (`_notice_silence`).
        """
        if self._asked_s is None:
            self._asked_s = monotonic()
        try:
            answer = await request
        except (AlreadyInLogError, RowRejectedError):
            self._notice_silence(SLOW_S)
            raise
        self._notice_silence(SLOW_S)
        return answer

    def _notice_silence(self, at_least_s: float = 0.0) -> None:
        """Pings that came since the oldest unanswered request were not answered either, and their clients waited."""
        if self._asked_s is None:
            return
        silent_s, self._asked_s = monotonic() - self._asked_s, None
        if silent_s <= at_least_s:
            return
        if at_least_s:  # it was answered
            self._note_slow(silent_s)
            if self._is_slow_for_long():
                return
        self.refused_pings.add_silence("database", round(silent_s * SECOND))

    def _note_slow(self, seconds: float) -> None:
        now_s = monotonic()
        if now_s - seconds - self._slow_last_s > SLOW_GAP_S:
            self._slow_since_s, self._slow_logged = now_s - seconds, False
        self._slow_last_s = now_s
        if self._is_slow_for_long() and not self._slow_logged:
            self._slow_logged = True
            log.error(
                "writer.commits_slow",
                seconds=round(now_s - self._slow_since_s),
                detail="from now on the time of slow commits is no outage",
            )

    def _is_slow_for_long(self) -> bool:
        """Whether Postgres answers, but has been slow for so long that this is no outage that will pass.

        Deadlines that move with every commit would never come, and no silence would be alerted.
        """
        now_s = monotonic()
        return now_s - self._slow_last_s <= SLOW_GAP_S and now_s - self._slow_since_s > SLOW_RUN_S_MAX

    async def _end(self) -> None:
        assert self._log is not None
        through = self._accepted_through()
        await self._report_refused_pings()
        await self._log.end(self.id, through)
        await self._log.close()
        self._ended.set()

    def _pulse_in_s(self) -> float:
        """Seconds until the next pulse; 0 or less: now."""
        now_s = monotonic()
        head = self.backlog.front()
        due_s = self._sampled_s + PULSE_S
        if head is None:
            if self._committed.others_wait:
                due_s = min(due_s, self._moved_s + PULSE_AMONG_SEVERAL_S)
            deadline = self._committed.next_deadline
            if deadline is not None and deadline >= self.through:
                # One microsecond later it is past; the rest is the coarseness of the loop's timers.
                after_s = now_s + (deadline + 1 - self._clock.now()) / SECOND
                due_s = min(due_s, max(after_s, self._pulsed_s + PULSE_GAP_S))
        elif head.doubtful:
            return PULSE_S
        return due_s - now_s

    async def _sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._alarm = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        try:
            await self._alarm
        finally:
            timer.cancel()
            self._alarm = None

    async def _sweep(self) -> None:
        """One coarse timer for all that is late."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._notice_stall()
            self.backlog.expire()
            self.refused_pings.publish()
            if self.backlog.accepting and monotonic() - self._answered_s > self._settings.commit_timeout:
                # A ping that comes now would only wait for a 503.
                self.backlog.close("database")

    def _notice_stall(self) -> None:
        """Also before every statement to the log, which must not pass a stall that is not recorded: pings that clients
        sent in it wait at the socket, and are read only now."""
        now_s = monotonic()
        stalled_s, self._turned_s = now_s - self._turned_s, now_s
        if stalled_s > STALL_S:
            log.warning("writer.process_stalled", seconds=round(stalled_s, 1))
            self.refused_pings.add_silence("stalled", round(stalled_s * SECOND))

    def _note_answer(self) -> None:
        """Postgres has just confirmed that this writer may still write."""
        self._answered_s = self._moved_s = monotonic()
        if self._failures:
            log.info("writer.database_up", pings_pending=self.backlog.pings)
            self._failures = 0
        if not (self.backlog.accepting or self._stopping) and self._registered.is_set():
            self.backlog.reopen()

    def _replace_writer(self, reason: str, why: str) -> None:
        log.warning("writer.replaced", writer=self.id, reason=why, pings_dropped=self.backlog.pings)
        self.backlog.close(reason)
        self.backlog.drop(reason)
        self._registered.clear()

    def _pause_s(self) -> float:
        """None after the first failure: most often a new connection is all it takes."""
        self._failures += 1
        longest_s = min(RECONNECT_S_MAX, 0.05 * 2 ** min(self._failures, 10))
        return random.uniform(longest_s / 2, longest_s) if self._failures > 1 else 0.0

    def _lose_connection(self, error: OffbeatError) -> None:
        is_repeated = self._failures and str(error) == self._trouble
        self._trouble = str(error)
        if is_repeated:
            log.debug("writer.request_failed", error=self._trouble, pings_pending=self.backlog.pings)
        else:
            log.warning("writer.request_failed", error=self._trouble, pings_pending=self.backlog.pings)
        if self._log is not None:
            head = self.backlog.front()
            if head is not None and head.doubtful and self._doubtful is None:
                self._doubtful = self._log.session
            self._log.terminate()
            self._log = None


_signal_of = attrgetter("ping.signal")


def _count_signals(entries: list[Entry]) -> Mapping[str, int]:
    """Count equal values. Usually all are one object, and are counted in a sixth of the time."""
    plain = [entry.ping for entry in entries].count(PLAIN["success"])
    return {"success": plain} if plain == len(entries) else Counter(map(_signal_of, entries))
