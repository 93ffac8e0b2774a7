"""The parts that the use cases need: the database, the clock, and the parts that a change wakes."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from offbeat_server.common.instants import Micros
from offbeat_server.db.pool import Pool
from offbeat_server.engine.model.ping import Ping


class ChannelSecret(NamedTuple):
    """A signing secret that was generated, and the definition of the channel with it."""

    secret: str
    definition: dict[str, Any]


class ChannelKinds(Protocol):
    """The kinds of channels, as the use cases need them; `notify/channels/registry.py` implements it."""

    def stored(self, kind: str, fields: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the definition to store. Masked secrets are taken from `before`. Raises DefinitionError."""

    def shown(self, kind: str, definition: Mapping[str, Any]) -> dict[str, Any]:
        """Return a stored definition with its secrets masked."""

    def asks_for_secret(self, kind: str, fields: Mapping[str, Any]) -> bool:
        """Whether the fields ask that a signing secret be generated if there is none."""

    def secrets(self, definition: Mapping[str, Any]) -> list[str]:
        """Return the signing secrets of a stored definition, the newest first."""

    def signs(self, kind: str) -> bool:
        """Whether channels of this kind have signing secrets."""

    def with_new_secret(self, definition: Mapping[str, Any], keep_former: bool) -> ChannelSecret:
        """Generate a signing secret and put it before the former ones, or in their place."""


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of the server that the use cases need.

    `now` is log time. `changed` wakes the key index and the scheduler of this process after a definition was written.
    `append` takes a ping for a monitor and project, and returns once it is committed. `wake_dispatcher` is called when
    there is something to send.
    """

    pool: Pool
    now: Callable[[], Micros]
    changed: Callable[[], None]
    append: Callable[[int, int, Ping], Awaitable[None]]
    wake_dispatcher: Callable[[], None]
    channel_kinds: ChannelKinds
