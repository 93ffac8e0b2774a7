"""ntfy, the public server or one's own.

Source: docs.ntfy.sh/publish/#publish-as-json: POST to the server's root with `topic`, `title`, `message` (≤ 4096 bytes,
else it becomes an attachment), `priority` 1–5, `tags` (names of emoji are shown as such), `click`; `Authorization:
Bearer` for access tokens. 200; 429 when a limit is reached; 413, 400, 401, 403, 404 are permanent.
"""

from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import Field

from offbeat_server.notify.channel import Channel, Message, Url
from offbeat_server.notify.transport.http_client import Transport

FINAL = frozenset((400, 401, 403, 404, 413))
_TAGS = {"🔴": "red_circle", "🟠": "orange_circle", "🟢": "green_circle", "🔵": "blue_circle"}
_MESSAGE_BYTES_MAX = 4_000


class Ntfy(Channel):
    """Publishes to a topic."""

    kind: ClassVar[str] = "ntfy"
    hidden: ClassVar[frozenset[str]] = frozenset(("token", "server"))
    per_minute_default: ClassVar[int] = 12  # the public server refills one request each five seconds

    server: Url = Field("https://ntfy.sh", description="Address of the ntfy server.")
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Topic to publish to.")]
    token: Annotated[str, Field(max_length=200, pattern=r"^[\x21-\x7e]+$")] | None = Field(
        None, description="Access token of the server."
    )
    priority: Literal[1, 2, 3, 4, 5] = Field(4, description="Priority of problem alerts. Recoveries have priority 3.")

    def compose(self, message: Message) -> bytes:
        rendered = message.rendered
        text = rendered.text.encode()
        if len(text) > _MESSAGE_BYTES_MAX:
            text = text[:_MESSAGE_BYTES_MAX].decode(errors="ignore").encode() + "…".encode()
        content: dict[str, Any] = {
            "topic": self.topic,
            "title": rendered.title,
            "message": text.decode(),
            "tags": [_TAGS[rendered.symbol]],
            "priority": self.priority if rendered.symbol == "🔴" else 3,
        }
        if message.button:  # the text has the link too
            content["click"] = message.button
        return orjson.dumps(content)

    async def send(self, message: Message, body: bytes, out: Transport) -> None:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        await out.post(self.server.rstrip("/") + "/", body, headers, final=FINAL, quote=True)
