"""Substitutes for the world outside: Postgres, time and chance; with bounds so small that every cut happens."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.common.instants import Micros
from offbeat_server.engine.engine import Engine
from offbeat_server.engine.model.ping import Entry
from offbeat_server.notify.periodic import PeriodicAlerts
from offbeat_server.scheduler import config_changes
from offbeat_server.scheduler.retention import Retention
from tests.simulation.database.sessions import Connection

if TYPE_CHECKING:
    from tests.simulation.world.world import World

CONNECTING = (
    "offbeat_server.db.pool",
    "offbeat_server.db.repositories.ping_log",
)
TIMED = (
    "offbeat_server.scheduler.scheduler",
    "offbeat_server.scheduler.checkpoint",
    "offbeat_server.scheduler.lease",
    "offbeat_server.scheduler.outages",
    "offbeat_server.ingest.log_writer.writer",
    "offbeat_server.common.service",
    "offbeat_server.notify.dispatcher",
    "offbeat_server.notify.delivery_round",
    "offbeat_server.notify.channel_queues",
    "offbeat_server.notify.attempts",
)
# Slices, cuts and second reads happen with few rows.
SMALL = {
    "offbeat_server.scheduler.evaluation.SLICE": (1, 8),
    "offbeat_server.scheduler.recovery.SLICE": (1, 8),
    "offbeat_server.scheduler.decision_writer.SUBJECTS_MAX": (1, 4),
    "offbeat_server.scheduler.evaluation.UNDECIDED_MAX": (1, 6),
    "offbeat_server.committed_batches.ENTRIES_MAX": (2, 30),
    "offbeat_server.db.scheduler_store.scheduler_rows.CHANGES_MAX": (1, 4),
    "offbeat_server.db.scheduler_store.states.LOAD_ROWS": (1, 4),
}
SHORT = {
    "offbeat_server.scheduler.lease.LIFE_S": 3.0,
    "offbeat_server.scheduler.lease.TRUST_S": 2.0,
    "offbeat_server.scheduler.lease.RENEW_EVERY_S": 1.0,
    "offbeat_server.scheduler.lease.TAKE_EVERY_S": 0.5,
    "offbeat_server.scheduler.scheduler.CYCLE_S": 0.05,
    "offbeat_server.scheduler.scheduler.FOLLOW_S": 0.15,
    "offbeat_server.ingest.log_writer.writer.PULSE_AMONG_SEVERAL_S": 0.3,
    "offbeat_server.notify.channel_queue.BACKOFF_S": (0.3, 0.8, 2.0),
    "offbeat_server.notify.channel_queue.BACKOFF_S_MIN": 0.1,
    "offbeat_server.notify.channel_queue.DIGEST_GAPS_S": (0.5, 1.0),
    "offbeat_server.notify.channel_queue.URGENT_GAPS_S": (0.2, 0.4),
    "offbeat_server.notify.flapping.HOLD_S": 5.0,
    "offbeat_server.notify.channel_queue.BURST_REFILL_S": 0.5,
}


BURST = 2  # alerts that go one by one; more become a digest
NAMED = 2  # monitors with explicit failures in a digest


class Rows(bytes):
    """The substitute for a COPY's body: its entries."""

    entries: list[Entry]


@contextmanager
def simulated(rng: random.Random) -> Iterator[pytest.MonkeyPatch]:
    """The code under test, so substituted."""
    configured = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
    with pytest.MonkeyPatch.context() as patch:
        for module in CONNECTING:
            patch.setattr(f"{module}.connect", connect)
        for module in TIMED:
            patch.setattr(f"{module}.monotonic", lambda: asyncio.get_running_loop().time())
        patch.setattr("offbeat_server.db.repositories.ping_log.encode_entries", _encode)
        patch.setattr(Retention, "run", _sleep_for_ever)
        patch.setattr(PeriodicAlerts, "start", _do_nothing)
        patch.setattr("offbeat_server.scheduler.scheduler.gc_frozen", nullcontext)
        for name, seconds in SHORT.items():
            patch.setattr(name, seconds)
        for module in ("digests", "channel_queue"):
            patch.setattr(f"offbeat_server.notify.{module}.BURST_MAX", BURST, raising=True)
        for module in ("delivery_round", "digests"):
            patch.setattr(f"offbeat_server.notify.{module}.DIGEST_LEAST", BURST + 1)
        for module in ("messages.message_builder", "digests"):
            patch.setattr(f"offbeat_server.notify.{module}.MONITORS_NAMED_MAX", NAMED)
        patch.setattr("offbeat_server.scheduler.checkpoint.CHECKPOINT_S", rng.uniform(1, 8))
        for name, (low, high) in SMALL.items():
            patch.setattr(name, rng.randint(low, high))
        rows = rng.randint(2, 12)
        patch.setattr("offbeat_server.db.scheduler_store.log_entries.ENTRIES_MAX", rows)
        patch.setattr("offbeat_server.scheduler.log_reader.ENTRIES_MAX", rows)
        patch.setattr("offbeat_server.scheduler.config_changes._apply", _noting(config_changes._apply))
        try:
            yield patch
        finally:
            structlog.configure(**configured)


async def connect(
    url: str, *, pgbouncer: bool = False, application_name: str = "", command_timeout_s: float = 10.0
) -> Connection:
    """As server/offbeat_server/db/pool.py's."""
    world: World = asyncio.get_running_loop().world  # type: ignore[attr-defined]
    server, link = world.server, world.server.links[url]
    await asyncio.sleep(server.rng.uniform(0.001, 0.01))
    if link.request_cut or link.reply_cut:
        await asyncio.sleep(2.0)
        raise DatabaseDownError("nobody answers")
    if not server.up:
        raise DatabaseDownError("connection refused")
    return Connection(server, link, server.connect(application_name), world.tables, command_timeout_s)


def _encode(entries: list[Entry]) -> Rows:
    rows = Rows(b"")
    rows.entries = list(entries)
    return rows


async def _do_nothing(repeats: PeriodicAlerts) -> None:
    """Its reminders come minutes later."""


async def _sleep_for_ever(retention: Retention) -> None:
    await asyncio.Event().wait()


def _noting(apply: Any) -> Any:
    def noted(engine: Engine, change: Any, at: Micros) -> None:
        world: World = asyncio.get_running_loop().world  # type: ignore[attr-defined]
        world.effective.applied(engine, change.rev, at)
        apply(engine, change, at)

    return noted
