"""Everything that Prometheus can learn about this process: one registry, all names, all label values.

Values come in two ways, so that no other package needs to know Prometheus and the hot path pays once per batch. Events
(a batch was committed, a decision was made) call a method of `Metrics`. States (pings waiting, the watermark) are read
at the scrape from an attribute that its owner keeps anyway, by a callable that is bound to a name of `READINGS`
(runtime/metrics_bindings.py, db/read_models/processes.py). No series is labelled by monitor: a million of them would be
a million series.

Names follow prometheus.io/docs/practices/naming: base units, `_total` on counters, timestamps rather than ages.
One registry per process and a port for each: the client's multiprocess mode loses process metrics and custom readings.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from offbeat_server.engine.model.enums import Status
from offbeat_server.engine.model.ping import SIGNALS

COMMIT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
LAG_BUCKETS_S = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 1, 2, 5, 10, 30, 60, 300, 900)
LOOP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2000)

REFUSALS = ("full", "database", "clock", "timeout", "stopping", "limited")
ERROR_CODES = (400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 415, 417, 422, 429, 431, 500, 501, 503, 505)
DETAILS = (
    *("attempt", "backfill", "body", "code", "done", "duration", "error", "execution", "exit_code", "for"),
    *("message", "path", "run", "stage", "status", "success", "task", "total"),
)
STATUSES = tuple(status.value for status in Status if status != Status.LATE)
ALERT_RESULTS = ("delivered", "retried", "dead", "expired", "collapsed")

Value = float | None
Values = Value | Mapping[str, float]


class MetricSpec(NamedTuple):
    """One metric that is read at the scrape. `label` with its known `values` where it has several series."""

    kind: Literal["gauge", "counter"]
    help: str
    label: str | None = None
    values: tuple[str, ...] = ()


READINGS: dict[str, MetricSpec] = {
    # Ingest.
    "pending_pings": MetricSpec("gauge", "Pings accepted that wait for their commit."),
    "pending_bytes": MetricSpec("gauge", "Bytes of the pings that wait for their commit."),
    "pending_pings_max": MetricSpec("gauge", "Limit of offbeat_pending_pings; beyond it pings are answered 503."),
    "pending_bytes_max": MetricSpec("gauge", "Limit of offbeat_pending_bytes; beyond it pings are answered 503."),
    "batch_rows_max": MetricSpec("gauge", "Limit of the pings in one COPY."),
    "connections": MetricSpec("gauge", "Open client connections."),
    "connections_max": MetricSpec("gauge", "Limit of offbeat_connections; beyond it they are closed at once."),
    "connections_refused": MetricSpec(
        "counter",
        "Connections closed at once: `full` by --connections-max, `address` by --connections-per-address-max.",
        "reason",
        ("full", "address"),
    ),
    "key_index_keys": MetricSpec("gauge", "Keys of monitors held in memory."),
    "key_index_refreshes": MetricSpec("counter", "Refreshes of the keys held in memory."),
    "writer_generation": MetricSpec("gauge", "Id of this process's row in `writers`; a new one after each fencing."),
    "rows_rejected": MetricSpec("counter", "Pings that Postgres could not store, answered 400."),
    "batches_in_doubt": MetricSpec("counter", "Batches whose commit was in doubt, and that were sent again."),
    # Scheduler: only the process that is the scheduler has them.
    "scheduler_leader": MetricSpec(
        "gauge", "1 in the process that is the scheduler, else 0. The sum over all processes must be 1."
    ),
    "lease_term": MetricSpec("gauge", "Term of the scheduler's lease; it grows with every take-over."),
    "watermark_timestamp_seconds": MetricSpec("gauge", "Log time up to which everything is committed and evaluated."),
    "monitors": MetricSpec("gauge", "Monitors by status.", "status", STATUSES),
    "monitors_never_pinged": MetricSpec("gauge", "Monitors that expect something and were never pinged."),
    "pings_unwatched": MetricSpec("counter", "Pings of monitors that expect nothing (status `unwatched`)."),
    "pings_skipped": MetricSpec("counter", "Pings not applied: their monitor was deleted, or is quarantined."),
    "incidents_open": MetricSpec("gauge", "Incidents that are open."),
    "deadlines": MetricSpec("gauge", "Entries in the heap of deadlines, stale ones included."),
    "monitors_quarantined": MetricSpec(
        "gauge", "Monitors left out because of an internal error; the log has the error."
    ),
    "decisions_dropped": MetricSpec(
        "counter", "Decisions that Postgres could not store; their monitors are quarantined."
    ),
    "self_checks": MetricSpec("counter", "Monitors whose state in memory was compared with what the log says."),
    "self_check_mismatches": MetricSpec(
        "counter", "Of these, how many differed; and open incidents in SQL that were not the engine's at a start."
    ),
    "watchdog_pings": MetricSpec(
        "counter",
        "Pings of --watchdog-url: `sent`, `failed` (not reached or refused), or `withheld` because deadlines are not "
        "evaluated or alerts are not sent.",
        "result",
        ("sent", "failed", "withheld"),
    ),
    # The database's side, read once per scrape (db/read_models/processes.py).
    "database_up": MetricSpec("gauge", "1 when Postgres answered at the last scrape, else 0."),
    "writers": MetricSpec("gauge", "Writers that are neither fenced nor stopped."),
    "outbox_pending": MetricSpec("gauge", "Alerts that are neither delivered nor given up."),
    "outbox_oldest_timestamp_seconds": MetricSpec(
        "gauge", "When the oldest pending alert was made; absent without one."
    ),
    "outbox_due_timestamp_seconds": MetricSpec(
        "gauge", "Since when the longest waiting alert may be sent and is not claimed; absent without one."
    ),
    "checkpoint_timestamp_seconds": MetricSpec("gauge", "Log time from which a restart would follow the log."),
    "ingest_outage_seconds": MetricSpec(
        "counter", "Seconds of outages of Offbeat, in which pings could not be received."
    ),
    "partitions_through_timestamp_seconds": MetricSpec("gauge", "Until when the log has partitions."),
}

# Old names of metrics, by the present one. They have the same values and go in the next minor version after 0.1.
FORMER_NAMES = {
    "scheduler_leader": "keeper",
    "key_index_keys": "roster_keys",
    "key_index_refreshes": "roster_refreshes",
    "ingest_outage_seconds": "deaf_seconds",
    "watchdog_pings": "beats",
    "monitors_never_pinged": "monitors_never_heard",
    "batches_in_doubt": "batches_doubted",
}


def full_name(name: str, kind: str) -> str:
    """The name of a metric as Prometheus shows it."""
    return f"offbeat_{name}{'_total' if kind == 'counter' else ''}"


class Metrics:
    """This process's metrics. Methods take what happened since the last call; none is called once per ping."""

    def __init__(self, version: str, channel_kinds: Iterable[str] = ("log", "webhook")) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._readings = _Readings()
        self.registry.register(self._readings)
        Info("offbeat_build", "Versions of Offbeat and Python.", registry=self.registry).info(
            {"version": version, "python": platform.python_version()}
        )

        pings = self._counter("pings", "Pings by what became of them.", "signal", "result")
        self._committed: dict[str, Counter] = {signal: pings.labels(signal, "committed") for signal in SIGNALS}
        self._refused: dict[str, Counter] = {signal: pings.labels(signal, "refused") for signal in SIGNALS}
        refusals = self._counter("ping_refusals", "Pings answered 503, by reason (`limited`: 429).", "reason")
        self._reasons = {reason: refusals.labels(reason) for reason in REFUSALS}
        notes = self._counter("ping_details_ignored", "Parts of pings left out or changed, by parameter.", "field")
        self._notes = {field: notes.labels(field) for field in DETAILS}
        self._errors = self._counter("http_errors", "Requests answered with 4xx or 5xx.", "code")
        self._codes = {code: self._errors.labels(str(code)) for code in ERROR_CODES}
        self._alerts = self._counter("alerts", "Attempts to deliver an alert, by outcome.", "channel_kind", "result")
        self._merged = self._counter("alerts_merged", "Alerts combined into digests.", "channel_kind")
        for kind in channel_kinds:
            self._merged.labels(kind)
            for result in ALERT_RESULTS:
                self._alerts.labels(kind, result)

        self._commit = self._histogram(
            "ping_commit_duration_seconds", "From the hand-over of a batch to its commit.", COMMIT_BUCKETS_S
        )
        self._rows = self._histogram("batch_rows", "Pings in one COPY.", ROWS_BUCKETS)
        self._lag = self._histogram(
            "decision_lag_seconds", "From a missed deadline to the commit of its decision.", LAG_BUCKETS_S
        )
        self._loop = self._histogram(
            "event_loop_lag_seconds", "How much later than asked for the event loop came back.", LOOP_BUCKETS_S
        )

    def committed(self, counts: Mapping[str, int], seconds: float) -> None:
        """One batch is committed: pings by signal, and the time from its hand-over to the commit."""
        for signal, count in counts.items():
            self._committed[signal].inc(count)
        self._rows.observe(sum(counts.values()))
        self._commit.observe(seconds)

    def noted(self, counts: Mapping[str, int]) -> None:
        """Parts of pings that were left out or changed, by parameter: one of DETAILS."""
        for field, count in counts.items():
            self._notes[field].inc(count)

    def refused(self, reason: str, counts: Mapping[str, int]) -> None:
        """Pings by signal that were answered 503 (or 429, `limited`); `reason` is one of REFUSALS."""
        for signal, count in counts.items():
            self._refused[signal].inc(count)
        self._reasons[reason].inc(sum(counts.values()))

    def failed(self, code: int, count: int = 1) -> None:
        """Requests answered with this status, 400 or above."""
        child = self._codes.get(code)
        if child is None:
            child = self._codes[code] = self._errors.labels(str(code))
        child.inc(count)

    def decided(self, lags_s: Iterable[float]) -> None:
        """Decisions are committed, each this number of seconds after its deadline."""
        for lag_s in lags_s:
            self._lag.observe(lag_s)

    def delivered(self, channel_kind: str, result: str, count: int = 1) -> None:
        """Count attempts to deliver; `result` is one of ALERT_RESULTS, or `merged` into a digest."""
        if result == "merged":
            self._merged.labels(channel_kind).inc(count)
        else:
            self._alerts.labels(channel_kind, result).inc(count)

    def loop_lagged(self, seconds: float) -> None:
        """The event loop came back this number of seconds late."""
        self._loop.observe(seconds)

    def bind(self, name: str, read: Callable[[], Values]) -> None:
        """Read the metric `name` of READINGS by this callable at every scrape; where it gives None it is absent.

        Raises KeyError for a name that READINGS does not know, ValueError for one that is bound already.
        """
        self._readings.bind(name, read)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"offbeat_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"offbeat_{name}", text, buckets=buckets, registry=self.registry)


class _Readings(Collector):
    """The bound readings as metric families."""

    def __init__(self) -> None:
        self._bound: dict[str, Callable[[], Values]] = {}

    def bind(self, name: str, read: Callable[[], Values]) -> None:
        if name in self._bound:
            raise ValueError(f"{name} is bound already")
        if name not in READINGS:
            raise KeyError(name)
        self._bound[name] = read

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for name, read in self._bound.items():
            spec, value = READINGS[name], read()
            yield _family(name, spec, spec.help, value)
            if former := FORMER_NAMES.get(name):
                yield _family(former, spec, f"Deprecated: use {full_name(name, spec.kind)}.", value)


def _family(name: str, spec: MetricSpec, text: str, value: Values) -> Metric:
    """A metric with its value at this scrape; no series if the value is None."""
    family_type = GaugeMetricFamily if spec.kind == "gauge" else CounterMetricFamily
    family = family_type(f"offbeat_{name}", text, labels=[spec.label] if spec.label else [])
    if isinstance(value, Mapping):
        for label in dict.fromkeys((*spec.values, *value)):
            family.add_metric([label], value.get(label, 0))
    elif value is not None:
        family.add_metric([], value)
    return family
