"""The meaning of a request, before its monitor is looked up. Pure and total.

A protocol (dialect) is one module with a pure reader and its answers. A reader takes a `Request` and returns
`ParsedPing`s or one `Rejection`; it never raises and never looks anything up. The pipeline resolves the address in the
key index, appends the ping to the backlog, waits for the commit, and takes the answer from the protocol.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from offbeat_server.engine.model.ping import Ping


class Request(NamedTuple):
    """One whole request. `path` and `query` as sent (percent-encoded); header names in lower case.

    Bytes of the request line above 0x7f are decoded as UTF-8 with `surrogateescape`.

    `body` is without its chunks and its Content-Encoding (ingest/http/bodies.py). `whole_bytes`: the length of a
    body of which `body` holds only both ends, ENDS_BYTES; 0: it is whole. `fault`: why the body could not be read; a
    dialect for which the address says everything takes the ping anyway, and any other refuses it with this.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    whole_bytes: int = 0
    fault: "Rejection | None" = None


class KeyAddress(NamedTuple):
    """Addressed by a key of any shape."""

    key: str


class SlugAddress(NamedTuple):
    """Addressed by a project's ping key and a monitor's slug.

    Found in this order: the project with this ping key and its monitor with this slug; an added key written
    `ping_key/slug`, taken over from a service whose addresses have two parts; a monitor whose own key is `ping_key`
    and whose slug is `slug`. Only the first can create.

    `create`: make the monitor if it is missing. `definition`: the fields it is made with, or changed to where they
    differ (None in it: back to the default); fields it does not name stay as they are, since people may have set them.
    `defaults`: fields that only a monitor that is made now gets, under those of `definition`.
    `like`: the slug of another monitor of the project; if it exists, the missing one is created with its
    definition, even without `create` (an environment of a known job).
    `sent`: the name as the client wrote it where that is not the slug itself; an added key is written with it.
    `problem`: why the definition that the client sent cannot be used; it names the field.
    """

    ping_key: str
    slug: str
    create: bool = False
    definition: Mapping[str, Any] | None = None
    defaults: Mapping[str, Any] | None = None
    like: str | None = None
    sent: str | None = None
    problem: str = ""


class PingNote(NamedTuple):
    """A part of a request that was left out, or `changed`, so that the ping could be stored, and why."""

    field: str
    reason: str
    changed: bool = False


class ParsedPing(NamedTuple):
    """One ping and whom it is for. `named`: the request itself said the signal, so a bound key does not change it.
    `notes`: shown to the client beside its outcome.
    """

    address: KeyAddress | SlugAddress
    ping: Ping
    named: bool = False
    notes: tuple[PingNote, ...] = ()


class Rejection(NamedTuple):
    """Why a request is no ping: an HTTP status from 400 to 499 and a sentence that says what to do."""

    status: int
    reason: str


class HttpAnswer(NamedTuple):
    """The answer to the client."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class Outcome(NamedTuple):
    """The result of a parsed ping: `kind` is one of

    ok           committed
    created      committed, and the monitor was made for it
    unknown      no monitor has this address
    ambiguous    more than one has
    full         auto-provisioning is at its limit of monitors in a minute
    crowded      the project has the maximum number of monitors that pings may create
    limited      not stored: this key pings too often; come again after `retry_after_s`
    unavailable  may or may not be stored; come again after `retry_after_s`

    `reason`: what else the client should know, such as why its monitor was not made.
    `notes`: of a ping that is committed, what was left out.
    """

    kind: str
    retry_after_s: int = 0
    reason: str = ""
    notes: tuple[PingNote, ...] = ()


OK = Outcome("ok")

_WORST_FIRST = ("unavailable", "full", "crowded", "limited", "ambiguous", "unknown", "created", "ok")


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The one to tell a client whose request held several pings, or none (then it is ok)."""
    return min(outcomes, key=lambda outcome: _WORST_FIRST.index(outcome.kind), default=OK)


class Dialect(Protocol):
    """A wire protocol: the reader and its answers. Modules satisfy it.

    A list of readings may be empty (nothing in the request was for us): it is answered as ok. Of several outcomes the
    dialect answers the worst.
    """

    name: str

    def read(self, request: Request) -> "ParsedPing | list[ParsedPing] | Rejection":
        """Pure and total."""
        ...

    def answer(self, outcome: Outcome | Rejection, request: Request) -> HttpAnswer:
        """Return the protocol's answer to an outcome. Total, also for refusals by the HTTP server (408, 413)."""
        ...
