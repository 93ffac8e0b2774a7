"""Pages for programs: /metrics, /livez, /readyz and the targets for Prometheus.

*Alive* means that the event loop runs and nothing else, for supervisors that restart the server: if Postgres is away,
they must not restart a server that only waits for it. *Ready* means that traffic may be routed here: the deadlines are
loaded and no stop is under way. The server stays ready while Postgres is away, because a ping answered 503 with a
Retry-After is better than a refused connection; `/readyz?verbose` and the metrics show it.
"""

import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client.aiohttp import make_aiohttp_handler

from offbeat_server.common.errors import UnavailableError
from offbeat_server.db.read_models.processes import ScrapeTarget
from offbeat_server.observability.metrics import Metrics


class Check(NamedTuple):
    """One check. A check that is not `required` is only shown.

    `former_name` is deprecated: scripts may look for it, so the check has a line by this name too.
    """

    name: str
    ok: bool
    detail: str = ""
    required: bool = True
    former_name: str | None = None


@dataclass(frozen=True)
class Ops:
    """The parts that these pages need. `refresh` reads the database's part of the metrics, for at most a second."""

    metrics: Metrics
    token: str | None
    checks: Callable[[], Sequence[Check]]
    refresh: Callable[[], Awaitable[None]]
    targets: Callable[[], Awaitable[Sequence[ScrapeTarget]]]


NO_STORE = {"Cache-Control": "no-store"}


def add_routes(app: web.Application, ops: Ops) -> None:
    """Add the pages for programs. The probes are open; with a token the metrics and the list of processes are not."""
    render = make_aiohttp_handler(ops.metrics.registry)

    async def metrics(request: web.Request) -> web.StreamResponse:
        await ops.refresh()
        return await render(request)

    async def discover(request: web.Request) -> web.Response:
        # Form: prometheus.io/docs/prometheus/latest/http_sd. The whole list each time; on an error Prometheus keeps
        # the list it has, so an error is better than an empty list.
        try:
            targets = await ops.targets()
        except UnavailableError as error:
            return web.Response(status=503, text=f"{error}\n", headers=NO_STORE)
        found = [
            {
                "targets": [target.address],
                "labels": {"__meta_offbeat_node": target.node, "__meta_offbeat_writer": str(target.writer)},
            }
            for target in targets
        ]
        return web.Response(body=orjson.dumps(found), content_type="application/json", headers=NO_STORE)

    async def alive(request: web.Request) -> web.Response:
        return web.Response(text="ok\n", headers=NO_STORE)

    async def ready(request: web.Request) -> web.Response:
        if "verbose" in request.query:  # alone, because the answer to a probe must not wait for Postgres
            await ops.refresh()
        left_out = set(request.query.getall("exclude", []))
        checks = [check for check in ops.checks() if left_out.isdisjoint((check.name, check.former_name))]
        ok = all(check.ok for check in checks if check.required)
        if "verbose" in request.query or not ok:
            text = "".join(_lines(check) for check in checks) + ("ready\n" if ok else "not ready\n")
        else:
            text = "ok\n"
        return web.Response(status=200 if ok else 503, text=text, headers=NO_STORE)

    app.router.add_get("/metrics", _guarded(metrics, ops.token))
    app.router.add_get("/sd/prometheus", _guarded(discover, ops.token))
    for path in ("/livez", "/-/healthy"):
        app.router.add_get(path, alive)
    for path in ("/readyz", "/-/ready"):
        app.router.add_get(path, ready)


def _lines(check: Check) -> str:
    mark = "+" if check.ok else "-"
    line = f"[{mark}] {check.name}{': ' if check.detail else ''}{check.detail}\n"
    if check.former_name is None:
        return line
    return f"{line}[{mark}] {check.former_name}: deprecated name of {check.name}\n"


def _guarded(handler: Handler, token: str | None) -> Handler:
    if token is None:
        return handler
    expected = f"Bearer {token}".encode()

    async def guarded(request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not hmac.compare_digest(given, expected):
            return web.Response(
                status=401,
                text="a metrics token is needed\n",
                headers={"WWW-Authenticate": 'Bearer realm="metrics"', **NO_STORE},
            )
        return await handler(request)

    return guarded
