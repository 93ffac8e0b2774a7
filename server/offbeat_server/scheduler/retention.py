"""Retention: the scheduler creates and retires partitions, and deletes old data.

Old data is data older than `--keep-days`, and the data of deleted monitors. Only the process with the lease does this.
Old alerts and digests are not deleted here: every dispatcher deletes them (`_sweep` in notify/periodic.py).

A partition is never retired before the checkpoint has passed it: a restart follows the log from there. An outage that
may still move a deadline stays, in memory and in Postgres, however old it is.
"""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import islice

import structlog

from offbeat_server.common.errors import OffbeatError
from offbeat_server.common.instants import SECOND, Micros, to_datetime
from offbeat_server.config import Settings
from offbeat_server.db.partitions import make_partitions, retire_partitions
from offbeat_server.db.pool import Connection, connect
from offbeat_server.db.scheduler_store import expired_rows, scheduler_rows
from offbeat_server.engine.engine import Engine
from offbeat_server.scheduler.recovery import SLICE

DAYS_AHEAD = 7
EVERY_S = 600.0
# How long the rows of a deleted monitor stay: processes may still store pings of it, and its end is alerted.
REMAINS_KEPT = timedelta(hours=1)
REMAINS_SLICES_MAX = 500  # of `retention.ROWS_MAX` rows in one round

log = structlog.get_logger("retention")


class Retention:
    """One round every ten minutes, on a connection of its own."""

    def __init__(
        self, url: str, settings: Settings, checkpoint_at: Callable[[], Micros], engine: Callable[[], Engine]
    ) -> None:
        self._url, self._settings, self._checkpoint_at, self._engine = url, settings, checkpoint_at, engine
        self._due = asyncio.Event()
        self._seen_rev = 0  # nothing is left of monitors that were deleted by changes up to this one
        # The instant at which the engine was asked which outages it needs, and the beginning of those.
        self._needed: tuple[Micros, Micros] | None = None

    def request_now(self) -> None:
        """Do a round now: the clock has jumped, and today may have no partition yet."""
        self._due.set()

    async def run(self) -> None:
        """Run for as long as this process is the scheduler."""
        self._seen_rev, self._needed = 0, None  # another process was the scheduler, or Postgres has lost commits
        while True:
            try:
                await self._round()
            except OffbeatError as error:
                log.warning("retention.step_failed", error=str(error))
            except Exception:  # any error: without the next partitions no ping could be stored
                log.exception("retention.step_failed")
            self._due.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._due.wait()

    async def _round(self) -> None:
        connection = await connect(
            self._url, pgbouncer=self._settings.pgbouncer, application_name="offbeat retention", command_timeout_s=60.0
        )
        try:
            await make_partitions(connection, to_datetime(await scheduler_rows.now(connection)).date(), DAYS_AHEAD)
            if await expired_rows.has_leapt(connection):
                log.warning(
                    "retention.paused_after_clock_jump",
                    detail="the clock jumped by more than a day: nothing is deleted for a day",
                )
            elif at := self._checkpoint_at():
                before = to_datetime(at) - timedelta(days=self._settings.keep_days)
                await self._delete_before(connection, before)
                await self._delete_remains(connection, to_datetime(at) - REMAINS_KEPT, before)
                await self._forget_outages(connection, at)
        finally:
            connection.terminate()

    async def _delete_before(self, connection: Connection, before: datetime) -> None:
        await retire_partitions(connection, before.date())
        for subject in expired_rows.SUBJECTS:
            if subject != "outages":
                await self._delete_old(connection, subject, before)

    async def _delete_old(self, connection: Connection, subject: str, before: datetime) -> None:
        while await expired_rows.delete_old(connection, subject, before) == expired_rows.ROWS_MAX:
            await asyncio.sleep(0.1)

    async def _forget_outages(self, connection: Connection, checkpoint_at: Micros) -> None:
        """Forget outages that no deadline needs, in one round after the engine was asked which those are.

        In between a checkpoint must have passed that instant: a start and the self-check apply the log to states that
        are as old as the checkpoint, and those may need older outages than the states in memory.
        """
        engine = self._engine()
        if self._needed is not None:
            asked_at, needed_from = self._needed
            if checkpoint_at < asked_at:
                return
            engine.forget_outages(needed_from)
            await self._delete_old(connection, "outages", to_datetime(needed_from))
        self._needed = None
        kept_from = checkpoint_at - self._settings.keep_days * 86_400 * SECOND
        if any(end < kept_from for _, end in engine.state.outages.intervals[:1]):
            needed_from, starts = kept_from, engine.window_starts(active_since=kept_from)
            while chunk := list(islice(starts, SLICE)):
                needed_from = min(needed_from, *chunk)
                await asyncio.sleep(0)
            self._needed = engine.now, needed_from

    async def _delete_remains(self, connection: Connection, before: datetime, since: datetime) -> None:
        """Delete the rows of deleted monitors: as many as one round may, the rest in the next.

        A finished monitor is not checked again, so the cost of a round depends on the latest deletions. (A new process
        checks all once. Pings that were under way at a deletion come within an hour: until then it is checked.)
        """
        seen = await expired_rows.seen_through(connection, self._seen_rev, before - REMAINS_KEPT)
        slices = 0
        async for _ in expired_rows.delete_remains(connection, before, since, self._seen_rev):
            slices += 1
            if slices == REMAINS_SLICES_MAX:
                return
            await asyncio.sleep(0.1)
        self._seen_rev = seen
