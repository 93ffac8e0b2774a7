"""Queries of programs: the database's part of the metrics, and the addresses of all processes.

A scrape must answer while Postgres does not, and many scrapers must cost no more than one: so the facts are read at
most once a second, in one flight that all who ask at once share, and given up after a second.
"""

import asyncio
from typing import NamedTuple

import asyncpg
import structlog

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.db.pool import database_trouble
from offbeat_server.db.sql_loader import load
from offbeat_server.observability.metrics import Metrics

FRESH_S = 1.0
TIMEOUT_S = 1.0
_SQL = load("processes")

log = structlog.get_logger("processes")


class MetricFacts(NamedTuple):
    """The database's side of the metrics, at one moment. Timestamps are Unix seconds; None: there is none."""

    writers: int
    outbox_pending: int
    outbox_oldest: float | None
    outbox_due: float | None
    outage_s: float
    checkpoint: float | None
    partitions_through: float | None
    read_at: float


class ScrapeTarget(NamedTuple):
    """A process whose /metrics can be scraped at `address` (host:port)."""

    address: str
    writer: int
    node: str


class DatabaseFacts:
    """The facts as last read; `facts` is None when Postgres did not answer the last time."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._read_s = float("-inf")
        self._flight = asyncio.Lock()
        self.facts: MetricFacts | None = None

    @property
    def was_queried(self) -> bool:
        """Whether Postgres was ever queried; before that, missing facts say nothing about it."""
        return self._read_s > float("-inf")

    async def refresh(self) -> None:
        """Read the facts unless they are fresh. Never raises for Postgres' sake, and takes a second at most."""
        async with self._flight:
            if monotonic() - self._read_s < FRESH_S:
                return
            try:
                self.facts = await read_facts(self._pool)
            except DatabaseDownError as error:
                self.facts = None
                log.debug(
                    "processes.metric_facts_not_read",
                    error=str(error),
                    detail="Metrics from the database are left out until the next read succeeds.",
                )
            self._read_s = monotonic()

    async def untaken_s(self) -> float:
        """How many seconds ago the longest waiting alert could have been sent; 0 without one.

        Raises DatabaseDownError.
        """
        facts = await read_facts(self._pool)
        return 0.0 if facts.outbox_due is None else max(0.0, facts.read_at - facts.outbox_due)

    def bind(self, metrics: Metrics) -> None:
        """Show the facts in the metrics; without them only `offbeat_database_up 0`."""
        metrics.bind("database_up", lambda: float(self.facts is not None))
        metrics.bind("writers", lambda: self.facts and self.facts.writers)
        metrics.bind("outbox_pending", lambda: self.facts and self.facts.outbox_pending)
        metrics.bind("outbox_oldest_timestamp_seconds", lambda: self.facts and self.facts.outbox_oldest)
        metrics.bind("outbox_due_timestamp_seconds", lambda: self.facts and self.facts.outbox_due)
        metrics.bind("ingest_outage_seconds", lambda: self.facts and self.facts.outage_s)
        metrics.bind("checkpoint_timestamp_seconds", lambda: self.facts and self.facts.checkpoint)
        metrics.bind("partitions_through_timestamp_seconds", lambda: self.facts and self.facts.partitions_through)


async def read_facts(pool: asyncpg.Pool) -> MetricFacts:
    """The facts now. Raises DatabaseDownError."""
    with database_trouble():
        async with asyncio.timeout(TIMEOUT_S), pool.acquire() as connection:
            row = await connection.fetchrow(_SQL["facts"])
    assert row is not None
    return MetricFacts(*row.values())


async def read_targets(pool: asyncpg.Pool) -> list[ScrapeTarget]:
    """Every live process that can be scraped. Raises DatabaseDownError."""
    with database_trouble():
        async with asyncio.timeout(TIMEOUT_S), pool.acquire() as connection:
            rows = await connection.fetch(_SQL["targets"])
    return [ScrapeTarget(row["metrics_address"], row["id"], row["node"]) for row in rows]
