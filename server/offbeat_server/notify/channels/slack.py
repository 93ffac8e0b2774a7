"""Slack, by an incoming webhook.

Source: docs.slack.dev/messaging/sending-messages-using-incoming-webhooks and /reference/block-kit/blocks: `text` for
notifications and `blocks`; header ≤ 150 characters of plain text, section text ≤ 3000 of mrkdwn, at most 10 fields of
≤ 2000; `&`, `<`, `>` are escaped. The answer is 200 `ok`, or 400, 403, 404, 410 with a word such as `no_service`.
"""

from typing import Any, ClassVar

import orjson
from pydantic import Field

from offbeat_server.notify.channel import LINK_LABEL, Channel, Message, Url
from offbeat_server.notify.messages.render import cut, cut_head
from offbeat_server.notify.transport.http_client import Transport

FINAL = frozenset((400, 403, 404, 410))
_FIELDS_MAX = 10


class Slack(Channel):
    """Posts to the address that Slack gave."""

    kind: ClassVar[str] = "slack"
    hidden: ClassVar[frozenset[str]] = frozenset(("url",))
    per_minute_default: ClassVar[int] = 60  # one a second

    url: Url = Field(description="Address of an incoming webhook, from Slack's settings.")

    def compose(self, message: Message) -> bytes:
        rendered = message.rendered
        blocks: list[dict[str, Any]] = [
            {"type": "header", "text": {"type": "plain_text", "text": cut(f"{rendered.symbol} {rendered.title}", 150)}},
            {"type": "section", "text": {"type": "mrkdwn", "text": _escape(rendered.lead, 3_000)}},
        ]
        fields = [
            {"type": "mrkdwn", "text": f"*{_escape(label, 100)}*\n{_escape(value, 1_800)}"}
            for label, value in rendered.fields
        ]
        if fields:
            blocks.append({"type": "section", "fields": fields[:_FIELDS_MAX]})
        if rendered.message:
            # A zero-width space keeps the message from ending the code block.
            quoted = _escape(cut_head(rendered.message, 1_200), 2_900).replace("```", "``\u200b`")
            blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": f"```{quoted}```"}})
        if message.link:
            shown = f"<{message.button}|{LINK_LABEL}>" if message.button else _escape(message.link, 2_000)
            link = {"type": "mrkdwn", "text": shown}
            blocks.append({"type": "context", "elements": [link]})
        summary = f"{rendered.symbol} {rendered.title}: {rendered.lead}"
        return orjson.dumps({"text": _escape(summary, 3_000), "blocks": blocks})

    async def send(self, message: Message, body: bytes, out: Transport) -> None:
        await out.post(self.url, body, {"Content-Type": "application/json"}, final=FINAL, quote=True)


def _escape(text: str, chars_max: int) -> str:
    """Escaped, and not longer than that afterwards."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    while len(escaped) > chars_max:
        text = cut(text, max(1, len(text) - (len(escaped) - chars_max)))
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped
