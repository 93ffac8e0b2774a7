"""Both HTTP servers of a process: one port, one table of protocols, one pipeline.

A connection begins at the fast listener. It moves to aiohttp at its first request that is not a ping, and with
`--http-server aiohttp` at its first request.
"""

import asyncio
import socket
from collections.abc import Mapping
from functools import partial

from aiohttp import web

from offbeat_server.common.rate_limit import RateLimit
from offbeat_server.common.service import Service
from offbeat_server.config import WILDCARDS, Settings
from offbeat_server.ingest.bulk import Bulk
from offbeat_server.ingest.http.aiohttp_bridge import AiohttpListener, runner_options
from offbeat_server.ingest.http.bodies import BodyBudget
from offbeat_server.ingest.http.client_address import ClientAddresses
from offbeat_server.ingest.http.listener import FastListener
from offbeat_server.ingest.key_index import KeyIndex
from offbeat_server.ingest.log_writer.backlog import Backlog
from offbeat_server.ingest.pipeline import MonitorProvider, PingPipeline
from offbeat_server.ingest.protocols import registry
from offbeat_server.observability.metrics import Metrics


class HttpServers(Service):
    """Serves pings and `application`, which holds pages and API; `listen_on` is a socket inherited from a parent."""

    name = "http_servers"

    def __init__(
        self,
        settings: Settings,
        key_index: KeyIndex,
        backlog: Backlog,
        metrics: Metrics,
        application: web.Application,
        provision: MonitorProvider | None = None,
        *,
        listen_on: socket.socket | None = None,
    ) -> None:
        super().__init__()
        self._settings, self._metrics = settings, metrics
        self._clock = backlog.clock
        self._listen_on = listen_on
        per_minute = settings.key_pings_per_minute_max
        key_limit = RateLimit.per_minute(per_minute) if per_minute else None
        self._pipeline = PingPipeline(key_index, backlog, provision, key_limit)
        self._sources = ClientAddresses(settings.trusted_proxies)
        self._bodies = BodyBudget(settings.bytes_pending_max)
        self._route = partial(registry.find, root_protocol=settings.root_protocol)
        AiohttpListener(settings, metrics, self._pipeline, self._sources, self._bodies, self._route).add_to(application)
        Bulk(settings, metrics, self._pipeline, backlog, self._sources).add_to(application)
        self._runner = web.AppRunner(application, **runner_options(settings))
        self._listener: FastListener | None = None

    @property
    def port(self) -> int:
        """The addresses on which it listens."""
        assert self._listener is not None, "not started"
        return self._listener.port

    @property
    def url(self) -> str:
        """For a client on this machine."""
        return local_url(self._settings.host, self.port)

    @property
    def connections(self) -> int:
        """Open connections at both HTTP servers."""
        return 0 if self._listener is None else self._listener.connections

    @property
    def connections_refused(self) -> Mapping[str, int]:
        """Connections that were closed at once, by reason."""
        return {} if self._listener is None else self._listener.connection_limiter.refused

    async def start(self) -> None:
        """Listen."""
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        self._listener = FastListener(
            self._settings,
            self._clock,
            self._metrics,
            self._pipeline,
            self._sources,
            self._bodies,
            self._route,
            server,
            listen_on=self._listen_on,
        )
        self._listener.on_death = self._pipeline.on_death = self.on_death
        await self._listener.start()

    async def stop(self) -> None:
        """Accept no further connections, and answer the requests that have arrived."""
        # The listener first stops to listen; then both wait, side by side, for the requests under way.
        if self._listener is not None:
            await asyncio.gather(self._listener.stop(), self._runner.cleanup())
        await self._pipeline.stop()


def local_url(host: str, port: int) -> str:
    """Return the URL at which a client on this machine reaches the server that listens on `host`."""
    if host in WILDCARDS:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
