"""Any HTTP receiver, signed as Standard Webhooks says, or in a shape of one's own by template and headers.

Source: Standard Webhooks 1.0.0 (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md): headers
`webhook-id` (the same over all attempts), `webhook-timestamp` (seconds, of the attempt) and `webhook-signature`
(`v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`; several, separated by spaces, while secrets are changed);
secrets are `whsec_` and base64 of 24 to 64 bytes; only 2xx is success, 410 means never again.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets as random_secrets
from typing import Annotated, Any, ClassVar, Literal, Self

import orjson
from pydantic import AfterValidator, Field, model_validator

from offbeat_server.engine.model.enums import AlertKind
from offbeat_server.notify.channel import Channel, Message, Url
from offbeat_server.notify.messages.template import check_template, escape_for, fill
from offbeat_server.notify.transport.http_client import Transport

# Statuses that a correct receiver sends only because of this message. 401, 403 and 404 also come from one that is being
# set up or deployed, so the alert is tried again.
FINAL = frozenset((400, 410, 411, 413, 414, 415, 422, 431))
HEADERS_MAX = 50
SECRETS_MAX = 5
GENERATE = "generate"  # stands alone in `secrets`: those that the channel has, or a new one
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_OF_INCIDENTS = (AlertKind.OPENED, AlertKind.WORSE, AlertKind.REMINDER, AlertKind.RESOLVED)
_OURS = frozenset(
    (
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    )
)


def new_secret() -> str:
    """A fresh signing secret, as its owner is shown it."""
    return "whsec_" + base64.b64encode(random_secrets.token_bytes(32)).decode()


def sign(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """One `v1,…` of the signature header."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    digest = hmac.new(_secret_bytes(secret), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _secret_bytes(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix("whsec_"), validate=True)


def _check_secret(value: str) -> str:
    try:
        length = len(_secret_bytes(value))
    except (binascii.Error, ValueError):
        length = 0
    if not value.startswith("whsec_") or not 24 <= length <= 64:
        raise ValueError("must be whsec_ and the base64 of 24 to 64 bytes")
    return value


Secret = Annotated[str, AfterValidator(_check_secret)]


class Webhook(Channel):
    """Posts JSON to an address."""

    kind: ClassVar[str] = "webhook"
    hidden: ClassVar[frozenset[str]] = frozenset(("secrets", "headers", "url"))
    per_minute_default: ClassVar[int] = 600

    url: Url = Field(description="Address of the receiver.")
    method: Literal["POST", "PUT", "PATCH"] = Field("POST", description="HTTP method of the request.")
    secrets: tuple[Secret, ...] = Field(
        (),
        max_length=SECRETS_MAX,
        description="Signing secrets (whsec_…), the newest first; all of them sign. [generate]: the secrets that the "
        "channel has, or a new one, which the answer shows once.",
    )
    headers: dict[str, Annotated[str, Field(max_length=4_000)]] = Field(
        default_factory=dict, max_length=HEADERS_MAX, description="More headers of the request."
    )
    content_type: Annotated[str, Field(max_length=200, pattern=r"^[\x21-\x7e][\x20-\x7e]*$")] = Field(
        "application/json", description="Content-Type of the request. Values in `body` are escaped for it."
    )
    body: str | None = Field(
        None,
        max_length=20_000,
        description="The body in another shape, with {{title}}, {{monitor}}, {{reason}}, … Values are escaped for the "
        "content type; {{title|raw}} is not.",
    )

    @model_validator(mode="after")
    def _can_be_sent(self) -> Self:
        for name, value in self.headers.items():
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"headers: {name!r} is not a header's name")
            if name.lower() in _OURS:
                raise ValueError(f"headers: {name} is set by Offbeat")
            if any((ord(char) < 32 and char != "\t") or ord(char) == 127 for char in value):
                raise ValueError(f"headers: {name} must be one line")
        if self.body is not None:
            try:
                check_template(self.body, escape_for(self.content_type))
            except ValueError as error:
                raise ValueError(f"body: {error}") from None
        return self

    def compose(self, message: Message) -> bytes:
        if self.body is not None:
            return fill(self.body, flat(message), escape_for(self.content_type)).encode()
        rendered = message.rendered
        content = {
            "type": event_type(message.kind),
            "timestamp": message.at,
            "data": {**message.facts, "title": rendered.title, "text": rendered.text, "link": message.link},
        }
        return orjson.dumps(content)

    async def send(self, message: Message, body: bytes, out: Transport) -> None:
        timestamp_s = out.now_s()
        headers = {"Content-Type": self.content_type, "webhook-id": message.id, "webhook-timestamp": str(timestamp_s)}
        if self.secrets:
            headers["webhook-signature"] = " ".join(sign(s, message.id, timestamp_s, body) for s in self.secrets)
        chosen = {name.lower() for name in self.headers}
        headers = {name: value for name, value in headers.items() if name.lower() not in chosen} | self.headers
        await out.post(self.url, body, headers, method=self.method, final=FINAL)


def event_type(kind: AlertKind) -> str:
    """The dotted `type` of a message."""
    return f"incident.{kind}" if kind in _OF_INCIDENTS else f"offbeat.{kind}"


def flat(message: Message) -> dict[str, Any]:
    """The fields that a template can name."""
    rendered = message.rendered
    return {
        **message.facts,
        "id": message.id,
        "type": event_type(message.kind),
        "kind": message.kind,
        "thread": message.thread,
        "title": rendered.title,
        "lead": rendered.lead,
        "text": rendered.text,
        "color": rendered.color,
        "symbol": rendered.symbol,
        "link": message.link or "",
    }
