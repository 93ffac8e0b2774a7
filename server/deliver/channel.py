"""The contract between the courier and a kind of channel: what is sent (`Message`), how, and how it can fail.

A kind is a pydantic model of its definition with two verbs. `compose` is pure: the same message gives the same bytes,
so a retry after a crash sends what was sent before. `send` puts those bytes on the wire once, or raises
`DeliveryError`, which says whether trying again can help.
"""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from yarl import URL

from server.deliver.words import Words
from server.errors import OffbeatError

Facts = dict[str, Any]


class DeliveryError(OffbeatError):
    """It did not arrive, or may not have. `permanent`: the same message will never be taken.

    `retry_after_s` is the receiver's wish; the message is for people and holds no secret.
    """

    def __init__(self, message: str, *, permanent: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.retry_after_s = retry_after_s


class Message(NamedTuple):
    """One thing to say to one channel: an alert or a digest.

    `id` is the same over all attempts, so receivers can drop a second copy; `thread` is the same over all alerts of an
    incident; `at` is RFC 3339, the decision's time. `members`: the alerts of a digest, only for kinds that want them.
    """

    id: str
    thread: str
    kind: str  # opened, worse, resolved, reminder, operator, test, digest, over
    at: str
    facts: Facts
    words: Words
    link: str | None = None
    members: tuple["Message", ...] = ()


class Reply(NamedTuple):
    """What a receiver answered: at most 64 KiB of it."""

    status: int
    body: bytes


class Outlet(Protocol):
    """The way out of the process that kinds are handed; `server/deliver/outbound.py` is the one there is."""

    async def post(
        self,
        url: str,
        body: bytes,
        headers: dict[str, str],
        *,
        method: str = "POST",
        final: frozenset[int] = frozenset(),
        quote: bool = False,
    ) -> Reply:
        """One HTTP request. 2xx is a Reply, all else a DeliveryError, permanent for the statuses in `final`."""
        ...

    async def mail(self, server: "MailServer", sender: str, recipients: list[str], content: bytes) -> None:
        """Hand a mail to a server. Raises DeliveryError."""
        ...

    async def in_thread(self, work: Any, *arguments: Any) -> Any:
        """Call something that blocks, in one of few threads whose connections are guarded too."""
        ...

    @property
    def mail_server(self) -> "MailServer | None":
        """The operator's own mail server, for channels that name none."""
        ...

    def now_s(self) -> int:
        """Seconds since 1970 in log time, for signatures."""
        ...


class MailServer(NamedTuple):
    """Where mail is handed in. `guarded`: its address must be a public one (it was named by a channel)."""

    host: str
    port: int
    security: Literal["tls", "starttls", "none"]
    username: str | None
    password: str | None
    sender: str | None
    guarded: bool


class Channel(BaseModel):
    """A channel's definition, and how it speaks. Subclasses set `kind` and the class variables where they differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    hidden: ClassVar[frozenset[str]] = frozenset()  # fields that are never shown whole
    # "words": a digest is one summary for people; "members": one request with all of them, for machines.
    digest_style: ClassVar[Literal["words", "members"]] = "words"
    digest_alerts_max: ClassVar[int] = 50_000
    # The service keeps an incident open until told otherwise, so a resolution may not vanish in a summary.
    keeps_incidents: ClassVar[bool] = False
    per_minute_default: ClassVar[int] = 60

    per_minute: int | None = Field(None, ge=1, le=60_000, description="At most so many messages a minute.")
    digest: bool = Field(True, description="Whether many alerts within seconds become one message.")

    def compose(self, message: Message) -> bytes:
        """The bytes to send. Pure: equal messages give equal bytes."""
        raise NotImplementedError

    async def send(self, message: Message, body: bytes, out: Outlet) -> None:
        """Deliver `body`, once. Raises DeliveryError."""
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
