"""Telegram, by a bot.

Source: core.telegram.org/bots/api#sendmessage, #html-style and #responseparameters: POST /bot{token}/sendMessage with
`chat_id`, `text` (≤ 4096 characters), `parse_mode` HTML (only `<`, `>`, `&` need escaping), `message_thread_id`,
`link_preview_options`; on 429 `parameters.retry_after` in seconds, on 400 `parameters.migrate_to_chat_id` where a group
has become a supergroup. A group takes 20 messages a minute (bots/faq).
"""

from html import escape
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import Field

from offbeat_server.notify.channel import LINK_LABEL, Channel, Message, Url
from offbeat_server.notify.messages.render import cut, cut_head
from offbeat_server.notify.transport.delivery import DeliveryError
from offbeat_server.notify.transport.http_client import Transport

FINAL = frozenset((400, 401, 403, 404))


class Telegram(Channel):
    """Sends as a bot to a chat, a group or a topic of it."""

    kind: ClassVar[str] = "telegram"
    hidden: ClassVar[frozenset[str]] = frozenset(("token", "api"))
    per_minute_default: ClassVar[int] = 20

    token: Annotated[str, Field(pattern=r"^\d{5,20}:[A-Za-z0-9_-]{20,100}$", description="Token of the bot.")]
    chat: int | Annotated[str, Field(pattern=r"^@\w{3,100}$")] = Field(description="The chat's number, or @its_name.")
    topic: int | None = Field(None, ge=1, description="A topic of a group: message_thread_id.")
    api: Url = Field("https://api.telegram.org", description="Another server of the Bot API.")

    def compose(self, message: Message) -> bytes:
        rendered = message.rendered
        parts = [
            f"<b>{escape(f'{rendered.symbol} {rendered.title}', False)}</b>",
            escape(cut(rendered.lead, 800), False),
        ]
        # 4096 counts after the markup is read; bounds on the parts keep any sum of them below it.
        others = cut(rendered.title, 300), cut(rendered.lead, 800), cut_head(rendered.message or "", 1_200)
        left = 3_700 - sum(map(len, others))
        fields = cut("\n".join(f"{label}: {value}" for label, value in rendered.fields), left)
        if fields:
            parts.append(escape(fields, False))
        if rendered.message:
            parts.append(f"<pre>{escape(cut_head(rendered.message, 1_200), False)}</pre>")
        if message.button:
            parts.append(f'<a href="{escape(message.button)}">{LINK_LABEL}</a>')
        elif message.link:
            parts.append(escape(message.link, False))
        content = {
            "chat_id": self.chat,
            "text": "\n\n".join(parts),
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
        }
        if self.topic is not None:
            content["message_thread_id"] = self.topic
        return orjson.dumps(content)

    async def send(self, message: Message, body: bytes, out: Transport) -> dict[str, Any] | None:
        """A group that became a supergroup has a new id, which the refusal names: the message goes there at once."""
        try:
            await self._post(body, out)
        except DeliveryError as error:
            moved = _new_chat(error.answer)
            if moved is None:
                raise
            await self._post(orjson.dumps(orjson.loads(body) | {"chat_id": moved}), out)
            return {"chat": moved}
        return None

    async def _post(self, body: bytes, out: Transport) -> None:
        url = f"{self.api.rstrip('/')}/bot{self.token}/sendMessage"
        await out.post(url, body, {"Content-Type": "application/json"}, final=FINAL, quote=True)


def _new_chat(answer: bytes) -> int | None:
    try:
        moved = orjson.loads(answer)["parameters"]["migrate_to_chat_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return moved if isinstance(moved, int) and not isinstance(moved, bool) else None
