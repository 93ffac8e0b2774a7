"""What stands in for the world outside: Postgres, time and chance; with bounds so small that every cut happens."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from server.deliver.repeats import Repeats
from server.engine.engine import Engine
from server.engine.ping import Entry, Micros
from server.errors import DatabaseAway
from server.keep import following
from server.keep.upkeep import Upkeep
from tests.simulation.database import Connection

if TYPE_CHECKING:
    from tests.simulation.world import World

CONNECTING = ("keep.keeper", "keep.lease", "store.log")
TIMED = (
    "keep.keeper",
    "keep.lease",
    "keep.deafness",
    "ingest.writer",
    "service",
    "deliver.courier",
    "deliver.attempts",
)
# Slices, cuts and second reads happen with few rows.
SMALL = {
    "server.keep.keeper.SLICE": (1, 8),
    "server.keep.loading.SLICE": (1, 8),
    "server.keep.keeper.SUBJECTS_MAX": (1, 4),
    "server.keep.keeper.UNDECIDED_MAX": (1, 6),
    "server.keep.order.FED_ENTRIES_MAX": (2, 30),
    "server.store.keeping.CHANGES_MAX": (1, 4),
    "server.store.states.LOAD_ROWS": (1, 4),
}
SHORT = {
    "server.keep.lease.LIFE_S": 3.0,
    "server.keep.lease.TRUST_S": 2.0,
    "server.keep.lease.RENEW_EVERY_S": 1.0,
    "server.keep.lease.TAKE_EVERY_S": 0.5,
    "server.keep.keeper.CYCLE_S": 0.05,
    "server.keep.keeper.FOLLOW_S": 0.15,
    "server.ingest.writer.PULSE_AMONG_SEVERAL_S": 0.3,
    "server.deliver.lane.BACKOFF_S": (0.3, 0.8, 2.0),
    "server.deliver.lane.BACKOFF_S_MIN": 0.1,
    "server.deliver.lane.DIGEST_GAPS_S": (0.5, 1.0),
    "server.deliver.lane.URGENT_GAPS_S": (0.2, 0.4),
    "server.deliver.flapping.HOLD_S": 5.0,
    "server.deliver.lane.BURST_REFILL_S": 0.5,
}


BURST = 2  # alerts that go one by one; more become a digest
NAMED = 2  # monitors with explicit failures in a digest


class Rows(bytes):
    """What stands for a COPY's body: its entries."""

    entries: list[Entry]


@contextmanager
def simulated(rng: random.Random) -> Iterator[pytest.MonkeyPatch]:
    """The code under test, so substituted."""
    configured = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
    with pytest.MonkeyPatch.context() as patch:
        for module in CONNECTING:
            patch.setattr(f"server.{module}.connect", connect)
        for module in TIMED:
            patch.setattr(f"server.{module}.monotonic", lambda: asyncio.get_running_loop().time())
        patch.setattr("server.store.log.encode_entries", _encode)
        patch.setattr(Upkeep, "run", _sleep_for_ever)
        patch.setattr(Repeats, "start", _do_nothing)
        patch.setattr("server.keep.keeper.all_stays", nullcontext)
        for name, seconds in SHORT.items():
            patch.setattr(name, seconds)
        for module in ("courier", "gathering", "lane"):
            patch.setattr(f"server.deliver.{module}.BURST_MAX", BURST, raising=True)
        for module in ("courier", "gathering"):
            patch.setattr(f"server.deliver.{module}.DIGEST_LEAST", BURST + 1)
        for module in ("messages", "gathering"):
            patch.setattr(f"server.deliver.{module}.MONITORS_NAMED_MAX", NAMED)
        patch.setattr("server.keep.keeper.CHECKPOINT_S", rng.uniform(1, 8))
        for name, (low, high) in SMALL.items():
            patch.setattr(name, rng.randint(low, high))
        rows = rng.randint(2, 12)
        patch.setattr("server.store.entries.ENTRIES_MAX", rows)
        patch.setattr("server.keep.order.ENTRIES_MAX", rows)
        patch.setattr("server.keep.following._apply", _noting(following._apply))
        try:
            yield patch
        finally:
            structlog.configure(**configured)


async def connect(
    url: str, *, pgbouncer: bool = False, application_name: str = "", command_timeout_s: float = 10.0
) -> Connection:
    """As server/store/pool.py's."""
    world: World = asyncio.get_running_loop().world  # type: ignore[attr-defined]
    server, link = world.server, world.server.links[url]
    await asyncio.sleep(server.rng.uniform(0.001, 0.01))
    if link.request_cut or link.reply_cut:
        await asyncio.sleep(2.0)
        raise DatabaseAway("nobody answers")
    if not server.up:
        raise DatabaseAway("connection refused")
    return Connection(server, link, server.connect(application_name), world.tables, command_timeout_s)


def _encode(entries: list[Entry]) -> Rows:
    rows = Rows(b"")
    rows.entries = list(entries)
    return rows


async def _do_nothing(repeats: Repeats) -> None:
    """Its reminders come minutes later."""


async def _sleep_for_ever(upkeep: Upkeep) -> None:
    await asyncio.Event().wait()


def _noting(apply: Any) -> Any:
    def noted(engine: Engine, change: Any, at: Micros) -> None:
        world: World = asyncio.get_running_loop().world  # type: ignore[attr-defined]
        world.effective.applied(engine, change.rev, at)
        apply(engine, change, at)

    return noted
