"""Connections that aiohttp has taken over: counted until they close, and closed when they do not take their answers.

aiohttp waits for ever for a client that does not read. A client that requests something large and then stops reading
would keep the answer, and its connection, in memory. They are polled, because aiohttp has no callback for this.
"""

from collections.abc import Iterator

from aiohttp import web

from offbeat_server.ingest.http.client_address import Peer


class _HandedOver:
    """`unsent`: bytes of answers that the kernel has not taken; the number has not changed since `since_s`."""

    __slots__ = ("peer", "since_s", "unsent")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.unsent = 0
        self.since_s = 0.0


class HandedOverConnections:
    """Connections at aiohttp; one whose client takes nothing for `stuck_s_max` seconds is closed."""

    def __init__(self, stuck_s_max: float) -> None:
        self._stuck_s_max = stuck_s_max
        self._connections: dict[web.RequestHandler, _HandedOver] = {}

    def add(self, handler: web.RequestHandler, peer: Peer) -> None:
        """A connection of this peer is aiohttp's from now on."""
        self._connections[handler] = _HandedOver(peer)

    def sweep(self, now_s: float) -> Iterator[Peer]:
        """The peers of those that have closed since the last look."""
        for handler, connection in list(self._connections.items()):
            transport = handler.transport
            if transport is None:
                del self._connections[handler]
                yield connection.peer
                continue
            unsent = transport.get_write_buffer_size()
            if unsent != connection.unsent:
                connection.unsent, connection.since_s = unsent, now_s
            elif unsent and now_s - connection.since_s > self._stuck_s_max:
                transport.abort()
