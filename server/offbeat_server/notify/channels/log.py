"""The server's own log: one line an alert, so that nothing is lost on a server without any other channel."""

from typing import ClassVar

import orjson
import structlog

from offbeat_server.notify.channel import Channel, Message
from offbeat_server.notify.transport.http_client import Transport

log = structlog.get_logger("alert")


class Log(Channel):
    """Writes a line; never fails."""

    kind: ClassVar[str] = "log"
    per_minute_default: ClassVar[int] = 6_000

    def compose(self, message: Message) -> bytes:
        return orjson.dumps({"title": message.rendered.title, "reason": message.rendered.lead})

    async def send(self, message: Message, body: bytes, out: Transport) -> None:
        facts = message.facts
        fields = {
            "project": facts.get("project"),
            "monitor": facts.get("monitor"),
            "incident": facts.get("incident"),
            "run": facts.get("run"),
            "stage": facts.get("stage"),
        }
        present = {name: value for name, value in fields.items() if value}
        say = log.warning if message.rendered.symbol in ("🔴", "🟠") else log.info
        content = orjson.loads(body)
        say(content["title"], kind=message.kind, id=message.id, reason=content["reason"], **present)
