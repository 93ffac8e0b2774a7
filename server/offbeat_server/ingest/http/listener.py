"""The listening side of pings: all connections of this process, one coarse clock for them, and the orderly stop.

With `fast` off every connection goes to aiohttp at its first complete request head; then the listener only counts
connections and bounds the time for that head.
"""

import asyncio
import socket
from collections.abc import Callable

import structlog
from aiohttp import web

from offbeat_server.common.clock import LogClock, monotonic
from offbeat_server.common.service import Service
from offbeat_server.config import Settings
from offbeat_server.ingest.http import response, target_cache
from offbeat_server.ingest.http.bodies import BodyBudget
from offbeat_server.ingest.http.client_address import ClientAddresses
from offbeat_server.ingest.http.connection import NO_REQUEST, ConnectionContext, HttpConnection
from offbeat_server.ingest.http.connection_limits import ConnectionLimiter
from offbeat_server.ingest.http.handed_over import HandedOverConnections
from offbeat_server.ingest.pipeline import PingPipeline
from offbeat_server.ingest.protocols.base import OK, Dialect
from offbeat_server.observability.metrics import Metrics

TICK_S = 0.5
TICK_S_MAX = 2 * TICK_S  # of time that counts against clients; if more has passed, the loop or the machine stood still
STOP_SHARE = 0.4  # of `stop_timeout`: the rest is for the writer and the scheduler
BACKLOG = 4096  # connections that wait to be accepted

log = structlog.get_logger("listener")


class FastListener(Service):
    """Listens; `route` says which dialect a path and query speak, `server` makes aiohttp's protocols."""

    name = "listener"

    def __init__(
        self,
        settings: Settings,
        clock: LogClock,
        metrics: Metrics,
        pipeline: PingPipeline,
        sources: ClientAddresses,
        bodies: BodyBudget,
        route: Callable[[str, str], Dialect | None],
        server: web.Server,
        *,
        listen_on: socket.socket | None = None,
    ) -> None:
        super().__init__()
        self._settings = settings
        self.port = 0  # where it listens, once it does
        self._context = ConnectionContext(
            settings,
            metrics,
            pipeline,
            sources,
            bodies,
            route,
            admit=self._admit,
            release=self._release,
            hand_over=self._hand_over,
        )
        self._clock = clock
        self._ticked_s = self._context.now_s
        self._server = server
        self._handed_over = HandedOverConnections(settings.idle_timeout)
        self._turned_away = 0  # because there was no room, until the last tick
        self.connection_limiter = ConnectionLimiter(settings.connections_max, settings.connections_per_address_max)
        self._listen_on = listen_on
        self._listening: asyncio.Server | None = None
        self._open: set[HttpConnection] = set()
        self._closed = asyncio.Event()
        self._tick()

    @property
    def connections(self) -> int:
        """How many are open, those at aiohttp included: of these, one that has closed counts until the next tick."""
        return self.connection_limiter.open_count

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        if self._listen_on is not None:
            self._listening = await loop.create_server(self._made, sock=self._listen_on, backlog=BACKLOG)
        else:
            self._listening = await loop.create_server(
                self._made, self._settings.host, self._settings.port, backlog=BACKLOG, reuse_address=True
            )
        self.port = int(self._listening.sockets[0].getsockname()[1])
        self.spawn(self._tick_forever(), "clock")

    async def stop(self) -> None:
        """Accept no connection, answer the requests that have arrived, close the rest."""
        if self._listening is not None:
            self._listening.close()
        self._context.draining = True
        for connection in list(self._open):
            connection.drain()
        try:
            async with asyncio.timeout(self._settings.stop_timeout * STOP_SHARE):
                while self._open:
                    self._closed.clear()
                    await self._closed.wait()
        except TimeoutError:
            log.warning("listener.connections_closed", connections=len(self._open))
            for connection in list(self._open):
                connection.abort()
        await super().stop()

    def _admit(self, connection: HttpConnection) -> bool:
        """Whether there is room for one more."""
        if self._context.draining or not self.connection_limiter.open(connection.peer):
            return False
        self._open.add(connection)
        return True

    def _release(self, connection: HttpConnection) -> None:
        """It is closed."""
        if connection in self._open:
            self.connection_limiter.release((connection.peer,))
            self._leave(connection)

    def _hand_over(self, connection: HttpConnection) -> web.RequestHandler:
        """A protocol of aiohttp for a connection that does not ping."""
        self._leave(connection)
        handler = self._server()
        self._handed_over.add(handler, connection.peer)
        return handler

    def _leave(self, connection: HttpConnection) -> None:
        self._open.discard(connection)
        if self._context.draining:
            self._closed.set()

    def _made(self) -> HttpConnection:
        return HttpConnection(self._context)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._tick()
            for connection in list(self._open):
                connection.expire()

    def _tick(self) -> None:
        context = self._context
        now_s = monotonic()
        passed_s, self._ticked_s = now_s - self._ticked_s, now_s
        context.now_s += min(passed_s, TICK_S_MAX)
        if self._turned_away != (turned_away := self.connection_limiter.refused["full"]):
            self._turned_away = turned_away
            context.pipeline.record_refusal_time(passed_s)
        self.connection_limiter.release(self._handed_over.sweep(context.now_s))
        context.date = response.date_line(self._clock)
        context.write_again.forget()
        context.ok = {
            dialect: response.write_answer(dialect.answer(OK, NO_REQUEST), context.date, b"", head=False)
            for dialect in target_cache.DIALECTS
        }
