"""The page of metrics, from the metrics themselves."""

from prometheus_client import Counter, Histogram, Info

from docs.generate.markdown import described, table, words
from offbeat_server.notify.channels.registry import KINDS
from offbeat_server.observability.metrics import FORMER_NAMES, READINGS, Metrics, MetricSpec, full_name

Event = Counter | Histogram | Info
SUFFIXES = {"counter": "_total", "info": "_info"}


def page() -> str:
    """The page."""
    return f"""# Metrics

`/metrics` serves them in the format of Prometheus. Names begin with `offbeat_`. Times are in seconds, sizes in bytes.
A timestamp is in seconds since 1970. No series has a label per monitor. Every value of a label exists from the start.
[Monitoring Offbeat](../operations/monitoring.md) says which of them to alert on.

## Events

Each process counts its own.

{table(("metric", "type", "labels", "meaning"), map(_event, _events()))}
## State

Each process reads its own at a scrape. The scheduler's metrics exist only in the process that is the scheduler. The
database's metrics exist in one process of each node and are the same on all nodes.

{table(("metric", "type", "labels", "meaning"), (_reading(name, spec) for name, spec in READINGS.items()))}
## Deprecated names

These metrics have the same values as the ones that replace them. They will be removed in the next minor version
([versions](../../CHANGELOG.md#versions)).

{table(("deprecated", "use"), former_names())}
## Process

The client library for Prometheus adds the usual metrics `process_…` (memory, processor time, open files) and
`python_gc_…`.
"""


def names() -> set[str]:
    """The name of every metric, as Prometheus shows it, without the suffixes of histograms."""
    rows: list[tuple[str, ...]] = [*map(_event, _events()), *(_reading(name, spec) for name, spec in READINGS.items())]
    rows += former_names()
    return {row[0].strip("`") for row in rows}


def former_names() -> list[tuple[str, str]]:
    """Each deprecated metric with the one that replaces it."""
    kinds = {name: READINGS[name].kind for name in FORMER_NAMES}
    return [
        (f"`{full_name(former, kinds[name])}`", f"`{full_name(name, kinds[name])}`")
        for name, former in FORMER_NAMES.items()
    ]


def _events() -> list[Event]:
    collectors = Metrics("0", KINDS).registry._collector_to_names
    return [each for each in collectors if isinstance(each, Event)]


def _event(metric: Event) -> tuple[str, ...]:
    name, kind = metric._name, metric._type
    values: dict[str, dict[str, None]] = {label: {} for label in metric._labelnames}
    for family in metric.collect():
        for sample in family.samples:
            for label in values:
                values[label][sample.labels[label]] = None
    labels = "; ".join(f"`{label}`: {words(known)}" for label, known in values.items())
    if kind == "info":
        labels = "`version`; `python`"
    return f"`{name}{SUFFIXES.get(kind, '')}`", kind, labels, described(name, metric._documentation)


def _reading(name: str, spec: MetricSpec) -> tuple[str, ...]:
    labels = f"`{spec.label}`: {words(spec.values)}" if spec.label else ""
    return f"`{full_name(name, spec.kind)}`", spec.kind, labels, described(name, spec.help)
