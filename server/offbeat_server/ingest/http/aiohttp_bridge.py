"""Pings through aiohttp: a middleware in front of pages and API that accepts pings and passes other requests on.

It accepts the pings that the fast HTTP server does not read (chunked bodies, `Expect`, unusual heads) and, with
`--http-server aiohttp`, all pings. The readers, the pipeline and the answers are the same.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import hdrs, web, web_response
from aiohttp.http_exceptions import HttpProcessingError

from offbeat_server.config import Settings
from offbeat_server.ingest.http.bodies import Body, BodyBudget, HeadAndTail, read_body
from offbeat_server.ingest.http.client_address import ClientAddresses
from offbeat_server.ingest.http.listener import STOP_SHARE
from offbeat_server.ingest.http.request_head import LINE_BYTES_MAX
from offbeat_server.ingest.pipeline import PingPipeline
from offbeat_server.ingest.protocols.answers import answer_of
from offbeat_server.ingest.protocols.base import Dialect, HttpAnswer, Outcome, Rejection, Request
from offbeat_server.ingest.protocols.registry import one_slash
from offbeat_server.observability.metrics import Metrics

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# In every answer, also in those that its parser gives, aiohttp names itself and Python with their versions. No option
# and no signal reaches them all.
vars(web_response)["SERVER_SOFTWARE"] = "offbeat"


def runner_options(settings: Settings) -> dict[str, Any]:
    """Arguments for the `AppRunner` of the application with this middleware."""
    return {
        "access_log": None,
        "logger": _logger(),
        "auto_decompress": False,  # without a bound on what a body becomes
        "max_line_size": LINE_BYTES_MAX,
        "keepalive_timeout": settings.idle_timeout,
        "lingering_time": settings.body_timeout,  # reads on after a refusal: the client gets the answer
        "shutdown_timeout": settings.stop_timeout * STOP_SHARE,
        "handle_signals": False,
    }


class AiohttpListener:
    """Accepts pings that come as aiohttp's requests; `route` as in the fast HTTP server."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        pipeline: PingPipeline,
        sources: ClientAddresses,
        bodies: BodyBudget,
        route: Callable[[str, str], Dialect | None],
    ) -> None:
        self._settings, self._metrics, self._pipeline = settings, metrics, pipeline
        self._sources, self._bodies, self._route = sources, bodies, route

    def add_to(self, application: web.Application) -> None:
        """Put it before everything else; pings are no resources of the application."""
        application.middlewares.insert(0, self._middleware())

    def _middleware(self) -> Any:
        @web.middleware
        async def pings(request: web.Request, handler: Handler) -> web.StreamResponse:
            path, query = _target(request)
            dialect = self._route(path, query)
            return await handler(request) if dialect is None else await self._take(dialect, path, query, request)

        return pings

    async def _take(self, dialect: Dialect, path: str, query: str, request: web.Request) -> web.Response:
        headers = {name.lower(): ", ".join(request.headers.getall(name)) for name in request.headers}
        ping_request = Request(request.method, path, query, headers, b"")
        body = await self._read_body(request, dialect, path)
        if isinstance(body, Body):
            ping_request = ping_request._replace(body=body.body, whole_bytes=body.whole_bytes, fault=body.fault)
            peer = self._sources.peer(request.transport and request.transport.get_extra_info("peername"))
            waiting = PendingOutcome()
            client = self._sources.client(peer, headers.get("x-forwarded-for"))
            self._pipeline.accept(dialect, ping_request, client.source, waiting)
            outcome = await waiting.outcome
        else:
            outcome = body
        answer = answer_of(dialect, outcome, ping_request)
        if answer.status >= 400:
            self._metrics.failed(answer.status)
        response = response_of(answer)
        if not isinstance(body, Body) or not body.ended:
            response.force_close()  # what is left of the body is not worth reading
        return response

    async def _read_body(self, request: web.Request, dialect: Dialect, path: str) -> Body | Rejection | Outcome:
        """The body, or why there is no ping."""
        make_sink = getattr(dialect, "sink", None)
        sink = (make_sink(path) if make_sink is not None else None) or HeadAndTail(self._settings.body_bytes_max)
        try:
            return await read_body(request, sink, self._bodies, self._settings.body_timeout)
        except web.RequestPayloadError:
            return Rejection(400, "the body is not what its headers say")


class PendingOutcome:
    """A waiter for one who awaits."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Outcome | Rejection] = asyncio.get_running_loop().create_future()

    def settle(self, outcome: Outcome | Rejection) -> None:
        """The outcome is there; the client may be gone."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)


def response_of(answer: HttpAnswer) -> web.Response:
    """An answer as aiohttp sends it."""
    headers = [*answer.headers, (hdrs.CONTENT_TYPE, answer.content_type)]
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def _logger() -> logging.Logger:
    """aiohttp's log without the requests that are no HTTP: a scanner's mistakes are not our errors."""
    logger = logging.getLogger("offbeat.http")
    logger.addFilter(_is_server_error)
    return logger


def _is_server_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _target(request: web.Request) -> tuple[str, str]:
    """Path and query as sent."""
    target = request.raw_path.partition("#")[0]
    if not target.startswith("/"):  # the absolute form, as to a proxy
        target = "/" + target.partition("://")[2].partition("/")[2]
    path, _, query = target.partition("?")
    return one_slash(path), query
