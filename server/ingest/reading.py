"""What a request says, before anybody knows whether its monitor exists. Pure and total.

A dialect is one module with a pure reader and its answers. A reader takes a `Request` and returns `Reading`s or one
`Refusal`; it never raises and never looks anything up. The door resolves the address in the roster, appends the ping
to the batch, waits for the commit, and asks the dialect for the answer.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from server.engine.ping import Ping, Signal


class Request(NamedTuple):
    """One whole request. `path` and `query` as sent (percent-encoded); header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


class Key(NamedTuple):
    """Addressed by a key of any shape."""

    key: str


class Slug(NamedTuple):
    """Addressed by a project's ping key and a monitor's slug.

    `create`: make the monitor if it is missing; `definition` is what it is made or changed to (None: the defaults).
    """

    ping_key: str
    slug: str
    create: bool = False
    definition: Mapping[str, Any] | None = None


class Reading(NamedTuple):
    """One ping and whom it is for. `named`: the request itself said the signal, so a bound key does not change it."""

    address: Key | Slug
    ping: Ping
    named: bool = False


class Refusal(NamedTuple):
    """Why a request is no ping: an HTTP status from 400 to 499 and a sentence that says what to do."""

    status: int
    reason: str


class Answer(NamedTuple):
    """What goes back to the client."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class Outcome(NamedTuple):
    """What became of a reading: `kind` is one of

    ok           committed
    created      committed, and the monitor was made for it
    unknown      no monitor has this address
    ambiguous    more than one has
    full         auto-provisioning is at its limit
    unavailable  may or may not be stored; come again after `retry_after_s`
    """

    kind: str
    retry_after_s: int = 0


OK = Outcome("ok")


class Dialect(Protocol):
    """A wire protocol: the reader and its answers. Modules satisfy it."""

    name: str

    def read(self, request: Request) -> "Reading | list[Reading] | Refusal":
        """Pure and total."""
        ...

    def answer(self, outcome: Outcome | Refusal, request: Request) -> Answer:
        """The dialect's own answer to what became of the request."""
        ...


class Bound(NamedTuple):
    """Where a key leads: the roster's answer. Signal and stage apply to pings that name none."""

    monitor_id: int
    project_id: int
    signal: Signal | None = None
    stage: str | None = None
