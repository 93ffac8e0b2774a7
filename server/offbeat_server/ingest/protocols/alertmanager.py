"""The webhook of Prometheus' Alertmanager, sent to a native or a Healthchecks address: the dead man's switch of a
monitoring system. The other protocols read no body, as their originals. If the address itself names a signal, the body
may be the output of a job, so it is a webhook only if it is declared as JSON, as Alertmanager and Grafana do.

Route an alert that always fires (kube-prometheus calls it Watchdog) to a webhook receiver with this address and a short
`repeat_interval`: while Prometheus and Alertmanager live, a ping comes. A group that fires counts as the signal
of the address; a resolved one is stored as `log`, because the watchdog has just stopped, and its last request must not
count as a sign of life, with any value of `send_resolved`.

Source: prometheus/alertmanager 68fb2d57, docs/configuration.md `<webhook_config>` and notify/webhook/webhook.go: POST,
JSON with version, groupKey, status, receiver, commonLabels, alerts; 2xx is success, 5xx is retried, 4xx is not.
Grafana's alerting sends the same object with more fields. Only the object's shape is looked at, not its version.
"""

from typing import NamedTuple

import orjson

from offbeat_server.engine.model.ping import Ping
from offbeat_server.ingest.protocols.base import ParsedPing
from offbeat_server.ingest.protocols.parsing.message import stored_text

name = "alertmanager"
_MARK = b'"groupKey"'


class AlertmanagerWebhook(NamedTuple):
    """Read a webhook: whether the group fires, and a line for people."""

    firing: bool
    message: str | None


def read_webhook(body: bytes) -> AlertmanagerWebhook | None:
    """The webhook in a body, or None where the body is something else. Never raises."""
    if _MARK not in body:
        return None
    try:
        sent = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(sent, dict) or not isinstance(sent.get("alerts"), list) or "receiver" not in sent:
        return None
    if sent.get("status") not in ("firing", "resolved"):
        return None
    labels = sent.get("commonLabels")
    alert = labels.get("alertname") if isinstance(labels, dict) else None
    line = f"{sent['status']}: {alert if isinstance(alert, str) else 'alerts'} ({len(sent['alerts'])})"
    return AlertmanagerWebhook(sent["status"] == "firing", stored_text(line))


def as_webhook(reading: ParsedPing, webhook: AlertmanagerWebhook) -> ParsedPing:
    """The reading of the address alone, turned into what the webhook in its body means."""
    if webhook.firing:
        return reading._replace(ping=reading.ping._replace(dialect=name))
    return ParsedPing(reading.address, Ping("log", message=reading.ping.message, dialect=name), True, reading.notes)
