"""Discord, by a channel's webhook.

Source: discord.com/developers/docs/resources/webhook#execute-webhook and …/message#embed-object-embed-limits: an embed
has a title ≤ 256, a description ≤ 4096, at most 25 fields of name ≤ 256 and value ≤ 1024, 6000 characters in all;
`allowed_mentions` with an empty `parse` lets no text ping anybody. 204; on 429 `retry_after` in seconds.
"""

from typing import Any, ClassVar

import orjson
from pydantic import Field

from offbeat_server.notify.channel import Channel, Message, Url
from offbeat_server.notify.messages.render import cut, cut_head, without_markup
from offbeat_server.notify.transport.http_client import Transport

FINAL = frozenset((400, 401, 403, 404, 405, 410))
_EMBED_CHARS_MAX = 5_800
_FIELDS_MAX = 25
_MARKS = "\\[]<>*_~`|#"  # what descriptions and fields read; titles read no links


class Discord(Channel):
    """Posts to the address that Discord gave."""

    kind: ClassVar[str] = "discord"
    hidden: ClassVar[frozenset[str]] = frozenset(("url",))
    per_minute_default: ClassVar[int] = 30

    url: Url = Field(description="Address of a webhook, from the settings of the Discord channel.")

    def compose(self, message: Message) -> bytes:
        rendered = message.rendered
        description = cut(without_markup(cut(rendered.lead, 1_500), _MARKS), 2_000)
        if rendered.message:
            description += "\n```\n" + cut_head(rendered.message, 1_500).replace("```", "``\u200b`") + "\n```"
        if message.link_text:
            description += f"\n\n{without_markup(message.link_text, _MARKS)}"
        embed: dict[str, Any] = {
            "title": cut(f"{rendered.symbol} {rendered.title}", 256),
            "description": description,
            "color": int(rendered.color[1:], 16),
            "timestamp": message.at,
        }
        if message.button:
            embed["url"] = message.button
        left = _EMBED_CHARS_MAX - len(embed["title"]) - len(description)
        fields = []
        for label, value in rendered.fields[:_FIELDS_MAX]:
            value = cut(without_markup(value, _MARKS), 1_000)
            left -= len(label) + len(value)
            if left < 0:
                break
            fields.append({"name": label, "value": value, "inline": len(value) < 40})
        if fields:
            embed["fields"] = fields
        return orjson.dumps({"embeds": [embed], "allowed_mentions": {"parse": []}})

    async def send(self, message: Message, body: bytes, out: Transport) -> None:
        await out.post(self.url, body, {"Content-Type": "application/json"}, final=FINAL, quote=True)
