"""Decides outages: each interval once, recorded, and passed to the engine before any later instant is evaluated.

Pings may have been sent and could not be received while a writer refused them, from the last sign of a writer that died
to its fencing, and while there was no writer at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from sys import maxsize
from typing import NamedTuple

import structlog

from offbeat_server.common.clock import monotonic
from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.db.pool import Connection
from offbeat_server.db.repositories.lease_row import Held, held_by
from offbeat_server.db.scheduler_store import decision_rows, scheduler_rows
from offbeat_server.db.scheduler_store.scheduler_rows import Outage, WriterSeen

WORTH_TELLING: Micros = 10 * SECOND  # a shorter outage is recorded, without an alert; a jump of the clock has one
MUCH_LONGER: Micros = 60 * SECOND  # of an outage that was reported before its end: when it has at least doubled
SAME_JUMP: Micros = 60 * SECOND  # of the database's clock, noticed by one writer after the other

log = structlog.get_logger("outages")


class _SignOfLife(NamedTuple):
    """A writer's last sign of life: by the database's clock, and since when we know of no later one."""

    seen_at: Micros
    since_s: float


@dataclass
class ReportedOutages:
    """Which outages operators were alerted to.

    It follows from the recorded outages alone, in their order, so that the next scheduler neither repeats an alert nor
    leaves one out.
    """

    until: Micros | None = None  # the end of what was reported
    run: tuple[Micros, Micros] | None = None  # outages with less than a second between them are one

    def needs_alert(self, outage: Outage) -> bool:
        """Add the next outage. One trouble is one alert, though every writer notices it."""
        if outage.reason == "lost":  # each writer knows of its own
            return True
        if outage.reason == "clock":
            if self.until is not None and outage.started_at < self.until + SAME_JUMP:
                return False
            self.until = outage.ended_at
            return True
        start, end = outage.started_at, outage.ended_at
        if self.run is not None and start <= self.run[1] + SECOND:
            start, end = min(self.run[0], start), max(self.run[1], end)
        self.run = (start, end)
        reported = max(0, self.until - start) if self.until is not None else 0
        if end - start - reported < (max(MUCH_LONGER, reported) if reported else WORTH_TELLING):
            return False
        self.until = end
        return True


class OutageDetector:
    """The outages that were decided so far."""

    def __init__(self, writer_silent_max_s: float) -> None:
        self._silent_max_s = writer_silent_max_s
        self._refusal_id = 0
        self._newest_writer = 0
        self._began: set[int] = set()  # writers of which is not known yet whether another was there before
        self._seeing_from_s = 0.0  # before this, silence may be that of Postgres
        self._signs: dict[int, _SignOfLife] | None = None  # None: not read yet
        self._reported = ReportedOutages()

    async def begin(self, connection: Connection, at: Micros) -> list[Outage]:
        """All recorded outages, for an engine that starts at `at`. Raises DatabaseDownError."""
        self._refusal_id = await scheduler_rows.refusals_applied(connection)
        self._newest_writer = await scheduler_rows.last_writer(connection, at)
        self._began = set()
        self._signs = None
        return await self.on_record(connection)

    async def on_record(self, connection: Connection) -> list[Outage]:
        """All recorded outages. Needed again after a transaction whose end is unknown. Raises DatabaseDownError."""
        known = await scheduler_rows.known_outages(connection)
        self._reported = ReportedOutages()
        for each in known:
            self._reported.needs_alert(each)
        return known

    @property
    def refusal_id(self) -> int:
        """The last refusal that was decided on."""
        return self._refusal_id

    def blinded(self) -> None:
        """Postgres was away, perhaps for the writers too: they get their full time again to show that they live."""
        self._seeing_from_s = monotonic() + self._silent_max_s

    async def decide(
        self, connection: Connection, held: Held, writers: Sequence[WriterSeen], refusal_id: int, now: Micros
    ) -> list[Outage]:
        """New outages, as far as they are known by `now`. Their alerts are committed with them.

        Raises LeaseLostError, DatabaseDownError.
        """
        self._began.update(writer.id for writer in writers if writer.id > self._newest_writer)
        self._newest_writer = max(self._newest_writer, *self._began, 0)
        # While an older one is there nothing is evaluated beyond its sign, and its last sign is still to come: it may
        # have received no ping for a while, or not know of a jump of the clock.
        oldest = min((writer.id for writer in writers if not writer.fenced), default=maxsize)
        new = sorted(writer_id for writer_id in self._began if writer_id <= oldest)
        silent = self._silent(writers)
        if monotonic() < self._seeing_from_s:
            silent = []
        if not new and not silent and refusal_id <= self._refusal_id:
            return []
        found: list[Outage | None] = []
        reported = replace(self._reported)
        async with held_by(connection, held):
            found += [await scheduler_rows.outage_before_writer(connection, writer_id, now) for writer_id in new]
            for writer in silent:
                log.warning("outages.writer_fenced", writer=writer.id)
                found.append(await scheduler_rows.fence(connection, writer.id, writer.seen_at, now))
            if refusal_id > self._refusal_id:
                found += await scheduler_rows.outages_by_refusals(connection, self._refusal_id, now)
            decided = sorted((each for each in found if each is not None), key=lambda each: each.id)
            for each in decided:
                if reported.needs_alert(each):
                    await decision_rows.alert_operators(connection, scheduler_rows.outage_facts(each))
        self._reported = reported
        self._began.difference_update(new)
        self._refusal_id = max(self._refusal_id, refusal_id)
        return decided

    def _silent(self, writers: Sequence[WriterSeen]) -> list[WriterSeen]:
        """Those that have shown no sign of life for too long, by our own clock: that of the database may jump.

        The database's clock counts once, at the first look: a writer may have died before this scheduler began.
        """
        now_s = monotonic()
        signs: dict[int, _SignOfLife] = {}
        known_signs = self._signs or {}
        for writer in writers:
            if writer.fenced:
                continue
            sign = known_signs.get(writer.id)
            if self._signs is None:
                sign = _SignOfLife(writer.seen_at, now_s - max(0.0, writer.silent_s))
            elif sign is None or sign.seen_at != writer.seen_at:
                sign = _SignOfLife(writer.seen_at, now_s)
            signs[writer.id] = sign
        self._signs = signs
        return [
            writer for writer in writers if writer.id in signs and now_s - signs[writer.id].since_s > self._silent_max_s
        ]
