"""Connections that aiohttp has taken over: counted until they close, and closed when they do not take their answers.

aiohttp waits for ever for a client that does not read. A client that requests something large and then stops reading
would keep the answer, and its connection, in memory. They are polled, because aiohttp has no callback for this.
"""

from collections.abc import Iterator

from aiohttp import web

from offbeat_server.ingest.http.client_address import Peer
from offbeat_server.ingest.http.flow_control import Unsent


class HandedOverConnections:
    """Connections at aiohttp; one whose client takes nothing for `stalled_s_max` seconds is closed."""

    def __init__(self, stalled_s_max: float) -> None:
        self._stalled_s_max = stalled_s_max
        self._connections: dict[web.RequestHandler, tuple[Peer, Unsent]] = {}

    def add(self, handler: web.RequestHandler, peer: Peer) -> None:
        """A connection of this peer is aiohttp's from now on."""
        self._connections[handler] = peer, Unsent()

    def sweep(self, now_s: float) -> Iterator[Peer]:
        """The peers of those that have closed since the last look. `now_s` counts only time in which the loop ran."""
        for handler, (peer, unsent) in list(self._connections.items()):
            transport = handler.transport
            if transport is None:
                del self._connections[handler]
                yield peer
            elif unsent.stalled_s(transport, now_s) > self._stalled_s_max:
                transport.abort()
