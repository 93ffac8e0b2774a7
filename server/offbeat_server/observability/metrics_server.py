"""A page of one's own for a process whose port is shared: where Prometheus finds it."""

from aiohttp import web

from offbeat_server.common.service import Service


class MetricsServer(Service):
    """Serves `application` on `host` and `port` (0: a free one)."""

    name = "metrics_server"

    def __init__(self, application: web.Application, host: str, port: int) -> None:
        super().__init__()
        self._runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=1.0)
        self._host, self._port = host, port

    @property
    def port(self) -> int:
        """The address on which it listens."""
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Listen."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        """Finish the requests under way."""
        await self._runner.cleanup()
