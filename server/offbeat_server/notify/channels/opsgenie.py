"""Opsgenie, by its Alert API: an alert there for each incident here, closed with it.

Source: docs.opsgenie.com/docs/alert-api: POST /v2/alerts with `message` (≤ 130), `alias` (≤ 512), `description`
(≤ 15 000), `details`, `entity` (≤ 512), `source` (≤ 100), `tags` (≤ 20 of ≤ 50), `priority` P1–P5; POST
/v2/alerts/{alias}/close?identifierType=alias; `Authorization: GenieKey`. 202, also for an alias that does not exist.
"""

from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

import orjson
from pydantic import Field

from offbeat_server.engine.model.enums import AlertKind
from offbeat_server.notify.channel import Channel, Message
from offbeat_server.notify.messages.render import cut
from offbeat_server.notify.transport.http_client import Transport

FINAL = frozenset((400, 401, 402, 403, 404, 422))
_HOSTS = {"us": "https://api.opsgenie.com", "eu": "https://api.eu.opsgenie.com"}


class Opsgenie(Channel):
    """Creates and closes alerts by an alias that is the incident's own."""

    kind: ClassVar[str] = "opsgenie"
    hidden: ClassVar[frozenset[str]] = frozenset(("api_key",))
    keeps_incidents: ClassVar[bool] = True
    per_minute_default: ClassVar[int] = 60

    api_key: Annotated[str, Field(min_length=10, max_length=100, pattern=r"^[\x21-\x7e]+$")] = Field(
        description="Key of an API integration."
    )
    region: Literal["us", "eu"] = Field("us", description="Service region of the account.")
    priority: Literal["P1", "P2", "P3", "P4", "P5"] = Field("P1", description="Priority of alerts.")

    def compose(self, message: Message) -> bytes:
        rendered = message.rendered
        if message.kind in (AlertKind.RESOLVED, AlertKind.OVER):
            return orjson.dumps({"source": "Offbeat", "note": cut(rendered.lead, 25_000)})
        content: dict[str, Any] = {
            "message": cut(rendered.title, 130),
            "alias": _alias(message),
            "description": cut(rendered.text, 15_000),
            "entity": cut(str(message.facts.get("monitor") or ""), 512),
            "source": "Offbeat",
            "tags": [cut(str(tag), 50) for tag in message.facts.get("tags") or ()][:20],
            "details": {label: cut(value, 1_000) for label, value in rendered.fields},
            "priority": "P5" if message.kind == AlertKind.TEST else self.priority,
        }
        return orjson.dumps(content)

    async def send(self, message: Message, body: bytes, out: Transport) -> None:
        url = f"{_HOSTS[self.region]}/v2/alerts"
        if message.kind in (AlertKind.RESOLVED, AlertKind.OVER):
            url += f"/{quote(_alias(message), safe='')}/close?identifierType=alias"
        headers = {"Content-Type": "application/json", "Authorization": f"GenieKey {self.api_key}"}
        await out.post(url, body, headers, final=FINAL, quote=True)


def _alias(message: Message) -> str:
    return cut(message.thread, 512)
