"""Microsoft Teams, by a workflow's webhook ("Post to a channel when a webhook request is received").

Source: learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using and
adaptivecards.io/explorer: a `message` with one attachment of type application/vnd.microsoft.card.adaptive; at most
28 kB. A workflow answers 202, the older connectors 200.
"""

from typing import Any, ClassVar

import orjson
from pydantic import Field

from offbeat_server.notify.channel import LINK_LABEL, Channel, Message, Url
from offbeat_server.notify.messages.render import cut, without_markup
from offbeat_server.notify.transport.http_client import Transport

FINAL = frozenset((400, 401, 403, 404, 410, 413))
_MARKS = "\\[]*_`"  # what a TextBlock reads
_STYLES = {"🔴": "attention", "🟠": "warning", "🟢": "good", "🔵": "accent"}


class MsTeams(Channel):
    """Posts an adaptive card to the address that the workflow gave."""

    kind: ClassVar[str] = "msteams"
    hidden: ClassVar[frozenset[str]] = frozenset(("url",))
    per_minute_default: ClassVar[int] = 60

    url: Url = Field(description="Address of a workflow that posts to a Teams channel.")

    def compose(self, message: Message) -> bytes:
        rendered = message.rendered
        body: list[dict[str, Any]] = [
            {
                "type": "TextBlock",
                "text": f"{rendered.symbol} {_plain(rendered.title)}",
                "size": "Large",
                "weight": "Bolder",
                "color": _STYLES[rendered.symbol],
                "wrap": True,
            },
            {"type": "TextBlock", "text": _plain(cut(rendered.lead, 1_000)), "wrap": True},
        ]
        if rendered.fields:
            facts = [{"title": label, "value": _plain(cut(value, 2_000))} for label, value in rendered.fields]
            body.append({"type": "FactSet", "facts": facts})
        if rendered.message:
            text = {"type": "TextBlock", "text": _plain(rendered.message), "wrap": True, "fontType": "Monospace"}
            body.append(text)
        if message.link_text:
            body.append({"type": "TextBlock", "text": _plain(message.link_text), "wrap": True})
        card: dict[str, Any] = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": body,
            "msteams": {"width": "Full"},
        }
        if message.button:
            card["actions"] = [{"type": "Action.OpenUrl", "title": LINK_LABEL, "url": message.button}]
        attachment = {
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": None,
            "content": card,
        }
        return orjson.dumps({"type": "message", "attachments": [attachment]})

    async def send(self, message: Message, body: bytes, out: Transport) -> None:
        await out.post(self.url, body, {"Content-Type": "application/json"}, final=FINAL)


def _plain(text: str) -> str:
    return without_markup(text, _MARKS)
