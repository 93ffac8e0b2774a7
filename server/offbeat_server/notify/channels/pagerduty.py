"""PagerDuty, by Events API v2: an incident there for each incident here, resolved with it.

Source: developer.pagerduty.com/docs/events-api-v2-overview and PagerDuty/api-schema, reference/events-v2: POST
/v2/enqueue with `routing_key` (32 characters), `event_action`, `dedup_key` (≤ 255), `payload.summary` (≤ 1024),
`source`, `severity`, `timestamp`, `component`, `custom_details`, and `links`. 202; 400 is final; 429 and 5xx are not.
"""

from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import Field

from offbeat_server.engine.model.enums import AlertKind
from offbeat_server.notify.channel import LINK_LABEL, Channel, Message
from offbeat_server.notify.messages.render import cut
from offbeat_server.notify.transport.http_client import Transport

FINAL = frozenset((400, 401, 403, 404))
_HOSTS = {"us": "https://events.pagerduty.com", "eu": "https://events.eu.pagerduty.com"}


class PagerDuty(Channel):
    """Triggers and resolves by a key that is the incident's own."""

    kind: ClassVar[str] = "pagerduty"
    hidden: ClassVar[frozenset[str]] = frozenset(("routing_key",))
    keeps_incidents: ClassVar[bool] = True
    per_minute_default: ClassVar[int] = 60

    routing_key: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{32}$", description="Integration key of Events API v2.")]
    region: Literal["us", "eu"] = Field("us", description="Service region of the account.")
    severity: Literal["critical", "error", "warning", "info"] = Field("critical", description="Severity of events.")

    def compose(self, message: Message) -> bytes:
        over = message.kind in (AlertKind.RESOLVED, AlertKind.OVER)
        content: dict[str, Any] = {
            "routing_key": self.routing_key,
            "event_action": "resolve" if over else "trigger",
            "dedup_key": cut(message.thread, 255),
            "client": "Offbeat",
        }
        if not over:
            rendered, facts = message.rendered, message.facts
            summary = f"{rendered.title}: {rendered.lead}"
            # The schema knows texts here and no null.
            optional = {"component": facts.get("monitor"), "group": facts.get("project"), "class": facts.get("cause")}
            content["payload"] = {
                "summary": cut(summary, 1_024),
                "source": str(facts.get("monitor") or "offbeat"),
                "severity": "info" if message.kind == AlertKind.TEST else self.severity,
                "timestamp": message.at,
                **{name: str(value) for name, value in optional.items() if value},
                "custom_details": dict(rendered.fields)
                | ({"Last message": rendered.message} if rendered.message else {}),
            }
        if message.button:
            content["client_url"] = message.button
            content["links"] = [{"href": message.button, "text": LINK_LABEL}]
        elif message.link and not over:
            content["payload"]["custom_details"]["Link"] = message.link
        return orjson.dumps(content)

    async def send(self, message: Message, body: bytes, out: Transport) -> None:
        url = f"{_HOSTS[self.region]}/v2/enqueue"
        await out.post(url, body, {"Content-Type": "application/json"}, final=FINAL, quote=True)
