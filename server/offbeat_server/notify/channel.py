"""The contract between the dispatcher and a kind of channel: the message, how it is sent, and how that can fail.

A kind is a pydantic model of its definition with two verbs. `compose` is pure: the same message gives the same bytes,
so a retry after a crash sends what was sent before. `send` puts those bytes on the wire once, or raises
`DeliveryError`, which says whether trying again can help.
"""

from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from yarl import URL

from offbeat_server.engine.model.enums import AlertKind
from offbeat_server.notify.messages.render import AlertFacts, RenderedAlert
from offbeat_server.notify.transport.http_client import Transport

LINK_LABEL = "Open in Offbeat"


class Message(NamedTuple):
    """One thing to say to one channel: an alert or a digest.

    `id` is the same over all attempts, so receivers can drop a second copy; `thread` is the same over all alerts of an
    incident; `at` is RFC 3339, the decision's time. `members`: the alerts of a digest, only for kinds that want them.
    """

    id: str
    thread: str
    kind: AlertKind
    at: str
    facts: AlertFacts
    rendered: RenderedAlert
    link: str | None = None
    members: tuple["Message", ...] = ()

    @property
    def button(self) -> str | None:
        """The link where a service checks it: Discord and others refuse a message with a link whose host has no dot."""
        return self.link if self.link and _is_public_name(self.link) else None

    @property
    def link_text(self) -> str | None:
        """The link as text, where it is not a button."""
        return None if self.button else self.link


def _is_public_name(link: str) -> bool:
    host = URL(link).host or ""
    name, _, top = host.rpartition(".")
    return bool(name) and (top.isalpha() or _is_address(host)) and top not in ("local", "localhost", "internal")


def _is_address(host: str) -> bool:
    try:
        return ip_address(host).version == 4
    except ValueError:
        return False


class Channel(BaseModel):
    """A channel's definition, and how it speaks. Subclasses set `kind` and the class variables where they differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    hidden: ClassVar[frozenset[str]] = frozenset()  # never shown whole; of an address only what is more than a host
    # "summary": a digest is one summary for people; "members": one request with all of them, for machines.
    digest_style: ClassVar[Literal["summary", "members"]] = "summary"
    digest_alerts_max: ClassVar[int] = 50_000
    # The service keeps an incident open until it gets the end, so a resolution may not vanish in a summary.
    keeps_incidents: ClassVar[bool] = False
    per_minute_default: ClassVar[int] = 60

    per_minute: int | None = Field(None, ge=1, le=60_000, description="Maximum number of messages per minute.")
    digest: bool = Field(
        True,
        description="Combine alerts into one message when more than five wait. False: each alert is sent by itself, "
        "also those of a monitor that flaps.",
    )

    @property
    def combines(self) -> bool:
        """Whether alerts for people may be combined into one message."""
        return self.digest and self.digest_style == "summary"

    def compose(self, message: Message) -> bytes:
        """The bytes to send. Pure: equal messages give equal bytes."""
        raise NotImplementedError

    async def send(self, message: Message, body: bytes, out: Transport) -> dict[str, Any] | None:
        """Deliver `body`, once. Returns fields of the definition that the service has changed.

        Raises DeliveryError.
        """
        raise NotImplementedError


def _check_url(value: str) -> str:
    try:
        url = URL(value)
    except ValueError as error:
        raise ValueError(f"must be an address: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("must be an address that begins with http:// or https://")
    if url.fragment:
        raise ValueError("must have no #fragment")
    # As it was given, down to its escapes, which may be part of a signature; only what cannot be sent so is encoded.
    return value if value.isascii() and value.isprintable() and " " not in value else str(url)


Url = Annotated[str, Field(max_length=2_000), AfterValidator(_check_url)]
