"""Binds what the rooms of the server keep to the names that the metrics know; nobody keeps anything twice for it.

Read at the scrape. What is None is absent: only the keeper has a watermark, and a zero would look like one of 1970.
"""

from collections.abc import Mapping

from server.engine.ping import SECOND
from server.ingest.writer import Writer
from server.keep.census import Census, Counted
from server.keep.keeper import Keeper
from server.metrics import Metrics
from server.roster import Roster
from server.settings import Settings


def bind_ingest(metrics: Metrics, settings: Settings, writer: Writer, roster: Roster) -> None:
    """What a process that takes pings knows."""
    metrics.bind("pending_pings", lambda: writer.backlog.pings)
    metrics.bind("pending_bytes", lambda: writer.backlog.bytes)
    metrics.bind("pending_pings_max", lambda: settings.pings_pending_max)
    metrics.bind("pending_bytes_max", lambda: settings.bytes_pending_max)
    metrics.bind("batch_rows_max", lambda: settings.batch_pings_max)
    metrics.bind("rows_rejected", lambda: writer.rows_rejected)
    metrics.bind("batches_doubted", lambda: writer.batches_doubted)
    metrics.bind("writer_id", lambda: writer.id or None)
    metrics.bind("roster_keys", lambda: len(roster))
    metrics.bind("roster_refreshes", lambda: roster.refreshes)


def bind_keeper(metrics: Metrics, keeper: Keeper, census: Census) -> None:
    """What a process knows that is the keeper, or may become it."""
    metrics.bind("keeper", lambda: float(keeper.judging))
    metrics.bind("lease_term", lambda: keeper.lease.held.term if keeper.judging and keeper.lease.held else None)
    metrics.bind(
        "watermark_timestamp_seconds",
        lambda: keeper.order.watermark / SECOND if keeper.judging and keeper.order.watermark else None,
    )
    metrics.bind("deadlines", lambda: len(keeper.engine.desk.deadlines) if keeper.judging else None)
    metrics.bind("self_check_mismatches", lambda: keeper.mismatches)

    def statuses(counted: Counted | None) -> Mapping[str, float] | None:
        return None if counted is None else counted.statuses

    metrics.bind("monitors", lambda: statuses(census.counted))
    metrics.bind("monitors_never_heard", lambda: census.counted and census.counted.never_heard)
    metrics.bind("incidents_open", lambda: census.counted and census.counted.incidents_open)
    metrics.bind("runs_open", lambda: census.counted and census.counted.runs_open)
