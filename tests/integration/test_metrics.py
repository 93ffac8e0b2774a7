"""The metrics of /metrics: names, label values that exist from the start, and numbers counted by the batch."""

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from offbeat_server.engine.model.ping import SIGNALS
from offbeat_server.observability.metrics import (
    ALERT_RESULTS,
    ERROR_CODES,
    FORMER_NAMES,
    READINGS,
    REFUSALS,
    STATUSES,
    Metrics,
)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_known_label_value_is_there_and_zero_from_the_start() -> None:
    seen = samples(Metrics("1.2.3", channel_kinds=["log", "email"]))
    for signal in SIGNALS:
        for result in ("committed", "refused"):
            assert seen["offbeat_pings_total", (("result", result), ("signal", signal))] == 0
    for reason in REFUSALS:
        assert seen["offbeat_ping_refusals_total", (("reason", reason),)] == 0
    for code in ERROR_CODES:
        assert seen["offbeat_http_errors_total", (("code", str(code)),)] == 0
    for result in ALERT_RESULTS:
        assert seen["offbeat_alerts_total", (("channel_kind", "email"), ("result", result))] == 0


def test_there_are_no_created_series_and_the_build_is_named() -> None:
    text = generate_latest(Metrics("1.2.3").registry).decode()
    assert "_created" not in text
    assert 'version="1.2.3"' in text and "offbeat_build_info" in text
    assert "process_resident_memory_bytes" in text


def test_a_batch_is_counted_once() -> None:
    metrics = Metrics("1")
    metrics.committed({"success": 250, "start": 6}, seconds=0.004)
    seen = samples(metrics)
    assert seen["offbeat_pings_total", (("result", "committed"), ("signal", "success"))] == 250
    assert seen["offbeat_pings_total", (("result", "committed"), ("signal", "start"))] == 6
    assert seen["offbeat_batch_rows_count", ()] == 1
    assert seen["offbeat_batch_rows_sum", ()] == 256
    assert seen["offbeat_ping_commit_duration_seconds_bucket", (("le", "0.0025"),)] == 0
    assert seen["offbeat_ping_commit_duration_seconds_bucket", (("le", "0.005"),)] == 1


def test_refusals_count_by_signal_and_by_reason() -> None:
    metrics = Metrics("1")
    metrics.refused("full", {"success": 3, "fail": 1})
    metrics.failed(404)
    metrics.failed(418)
    seen = samples(metrics)
    assert seen["offbeat_pings_total", (("result", "refused"), ("signal", "success"))] == 3
    assert seen["offbeat_ping_refusals_total", (("reason", "full"),)] == 4
    assert seen["offbeat_http_errors_total", (("code", "404"),)] == 1
    assert seen["offbeat_http_errors_total", (("code", "418"),)] == 1


def test_decisions_and_alerts() -> None:
    metrics = Metrics("1")
    metrics.decided([0.05, 0.2, 40])
    metrics.delivered("webhook", "delivered", 2)
    metrics.loop_lagged(0.003)
    seen = samples(metrics)
    assert seen["offbeat_decision_lag_seconds_bucket", (("le", "0.25"),)] == 2
    assert seen["offbeat_decision_lag_seconds_count", ()] == 3
    assert seen["offbeat_alerts_total", (("channel_kind", "webhook"), ("result", "delivered"))] == 2
    assert seen["offbeat_event_loop_lag_seconds_count", ()] == 1


def test_readings_are_taken_at_the_scrape_and_none_is_absent() -> None:
    metrics = Metrics("1")
    pending = [3]
    metrics.bind("pending_pings", lambda: pending[0])
    metrics.bind("watermark_timestamp_seconds", lambda: None)
    metrics.bind("monitors", lambda: {"up": 7})
    metrics.bind("ingest_outage_seconds", lambda: 1.5)
    pending[0] = 4
    seen = samples(metrics)
    assert seen["offbeat_pending_pings", ()] == 4
    assert seen["offbeat_ingest_outage_seconds_total", ()] == 1.5
    assert not any(name == "offbeat_watermark_timestamp_seconds" for name, _ in seen)
    assert {status: seen["offbeat_monitors", (("status", status),)] for status in STATUSES} == {
        "new": 0,
        "up": 7,
        "down": 0,
        "unknown": 0,
        "unwatched": 0,
        "paused": 0,
    }


@pytest.mark.parametrize(
    ("former", "name"),
    [
        ("offbeat_keeper", "offbeat_scheduler_leader"),
        ("offbeat_roster_keys", "offbeat_key_index_keys"),
        ("offbeat_roster_refreshes_total", "offbeat_key_index_refreshes_total"),
        ("offbeat_deaf_seconds_total", "offbeat_ingest_outage_seconds_total"),
        ("offbeat_monitors_never_heard", "offbeat_monitors_never_pinged"),
        ("offbeat_batches_doubted_total", "offbeat_batches_in_doubt_total"),
    ],
)
def test_a_metric_is_exported_under_its_former_name_too(former: str, name: str) -> None:
    metrics = Metrics("1")
    values: list[float | None] = [2.5, None]
    metrics.bind(name.removeprefix("offbeat_").removesuffix("_total"), lambda: values.pop(0))
    text = generate_latest(metrics.registry).decode()
    assert f"\n{name} 2.5\n" in text and f"\n{former} 2.5\n" in text
    assert f"# HELP {former} Deprecated: use {name}.\n" in text
    assert not {key for key, _ in samples(metrics)} & {name, former}, "without a value neither has a series"


def test_a_former_name_has_the_same_labels() -> None:
    metrics = Metrics("1")
    metrics.bind("watchdog_pings", lambda: {"sent": 3})
    seen = samples(metrics)
    for result, count in {"sent": 3, "failed": 0, "withheld": 0}.items():
        for name in ("offbeat_watchdog_pings_total", "offbeat_beats_total"):
            assert seen[name, (("result", result),)] == count


def test_no_former_name_is_in_use() -> None:
    assert FORMER_NAMES.keys() <= READINGS.keys() and not set(FORMER_NAMES.values()) & READINGS.keys()


def test_a_name_is_bound_once_and_must_be_known() -> None:
    metrics = Metrics("1")
    metrics.bind("scheduler_leader", lambda: 1)
    with pytest.raises(ValueError, match="bound already"):
        metrics.bind("scheduler_leader", lambda: 0)
    with pytest.raises(KeyError):
        metrics.bind("no_such_thing", lambda: 0)


def test_no_metric_can_be_labelled_by_monitor() -> None:
    labels = {reading.label for reading in READINGS.values()} - {None}
    assert labels == {"status", "reason", "result"}
    assert {label for _, pairs in samples(Metrics("1")) for label, _ in pairs} <= {
        "signal", "result", "reason", "code", "field", "channel_kind", "le", "version", "python", "generation",
        "status",
    }  # fmt: skip
