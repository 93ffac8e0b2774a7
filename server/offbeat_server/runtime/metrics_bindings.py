"""Binds attributes of the server's parts to the names of the metrics, so that no part keeps a value twice.

Read at the scrape. A series whose value is None is absent: only the scheduler has a watermark, and a zero would look
like one of 1970.
"""

from collections.abc import Callable

from offbeat_server.common.instants import SECOND
from offbeat_server.config import Settings
from offbeat_server.engine.model.enums import Status
from offbeat_server.ingest.http.http_servers import HttpServers
from offbeat_server.ingest.key_index import KeyIndex
from offbeat_server.ingest.log_writer.writer import LogWriter
from offbeat_server.observability.metrics import Metrics, Values
from offbeat_server.observability.watchdog import OutboundWatchdog
from offbeat_server.scheduler.scheduler import Scheduler
from offbeat_server.scheduler.self_check import SelfCheck


def bind_ingest(
    metrics: Metrics, settings: Settings, writer: LogWriter, key_index: KeyIndex, http_servers: HttpServers
) -> None:
    """Metrics of a process that takes pings."""
    metrics.bind("pending_pings", lambda: writer.backlog.pings)
    metrics.bind("pending_bytes", lambda: writer.backlog.bytes)
    metrics.bind("pending_pings_max", lambda: settings.pings_pending_max)
    metrics.bind("pending_bytes_max", lambda: settings.bytes_pending_max)
    metrics.bind("batch_rows_max", lambda: settings.batch_pings_max)
    metrics.bind("connections", lambda: http_servers.connections)
    metrics.bind("connections_refused", lambda: dict(http_servers.connections_refused))
    metrics.bind("connections_max", lambda: settings.connections_max)
    metrics.bind("rows_rejected", lambda: writer.rows_rejected)
    metrics.bind("batches_in_doubt", lambda: writer.batches_doubted)
    metrics.bind("writer_generation", lambda: writer.id or None)
    metrics.bind("key_index_keys", lambda: len(key_index))
    metrics.bind("key_index_refreshes", lambda: key_index.refreshes)


def bind_scheduler(metrics: Metrics, scheduler: Scheduler, self_check: SelfCheck) -> None:
    """Metrics of a process that is the scheduler, or may become it."""

    def while_scheduler(read: Callable[[], Values]) -> Callable[[], Values]:
        return lambda: read() if scheduler.evaluating else None

    metrics.bind("scheduler_leader", lambda: float(scheduler.evaluating))
    metrics.bind("lease_term", while_scheduler(lambda: scheduler.lease.held and scheduler.lease.held.term))
    metrics.bind("watermark_timestamp_seconds", while_scheduler(lambda: scheduler.engine.now / SECOND or None))
    metrics.bind(
        "monitors",
        while_scheduler(lambda: {status.value: count for status, count in scheduler.engine.state.counts.items()}),
    )
    metrics.bind("pings_unwatched", while_scheduler(lambda: scheduler.engine.state.unwatched_pings))
    metrics.bind("pings_skipped", while_scheduler(lambda: scheduler.engine.state.unknown_pings))
    metrics.bind("decisions_dropped", while_scheduler(lambda: scheduler.decision_writer.dropped))
    metrics.bind("monitors_never_pinged", while_scheduler(lambda: scheduler.engine.state.counts[Status.NEW]))
    metrics.bind("incidents_open", while_scheduler(lambda: scheduler.engine.state.counts[Status.DOWN]))
    metrics.bind("deadlines", while_scheduler(lambda: len(scheduler.engine.state.deadlines)))
    metrics.bind("monitors_quarantined", while_scheduler(lambda: len(scheduler.engine.quarantined)))
    metrics.bind("self_checks", while_scheduler(lambda: self_check.checked))
    metrics.bind("self_check_mismatches", while_scheduler(lambda: scheduler.mismatches + self_check.mismatches))


def bind_watchdog(metrics: Metrics, watchdog: OutboundWatchdog) -> None:
    """Metrics of a process that may ping an external watchdog."""
    metrics.bind(
        "watchdog_pings", lambda: {"sent": watchdog.sent, "failed": watchdog.failed, "withheld": watchdog.withheld}
    )
