"""How a management request becomes a call of a handler, and its result an answer.

A `Route` says everything about itself: right, body, query, answer, statuses. The same table registers the routes, reads
and refuses requests, and is the OpenAPI document, so these three cannot differ. Handlers get a `Call`
whose parts are read and allowed, and return an `ApiReply`; every exception becomes a problem document here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar, get_origin

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ValidationError

from offbeat.strict_json import read_json
from offbeat_server.common.errors import DatabaseDownError, Problem
from offbeat_server.common.instants import Micros
from offbeat_server.config import Settings
from offbeat_server.db.pool import Pool, database_trouble
from offbeat_server.engine.model.definition_problems import problems_of
from offbeat_server.services.context import Context
from offbeat_server.web.framework.addresses import base_url
from offbeat_server.web.framework.authorization import Access, Principal, Right
from offbeat_server.web.framework.moved import present_address, with_present_address
from offbeat_server.web.framework.problems import ApiError, answer_of

ROOT = "/api/v1"
BODY_BYTES_MAX = 1_000_000
REQUEST_S_MAX = 120.0  # for the work behind one request, mostly a wait for one of the few connections to Postgres
B = TypeVar("B")
Q = TypeVar("Q")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Deps:
    """The parts of the server that pages and the API need; `context` is for the use cases."""

    context: Context
    settings: Settings
    access: Access

    @property
    def pool(self) -> Pool:
        """The database, for what is read."""
        return self.context.pool

    def now(self) -> Micros:
        """Log time."""
        return self.context.now()


@dataclass(frozen=True, slots=True)
class Caller:
    """A request and its sender, for pages and the API alike."""

    request: web.Request
    deps: Deps
    principal: Principal

    @property
    def context(self) -> Context:
        """The parts that the use cases need."""
        return self.deps.context

    @property
    def actor(self) -> str:
        """The sender's name in the audit log."""
        return self.principal.actor

    @property
    def base(self) -> str:
        """The server's address as this client reached it."""
        return base_url(self.request, self.deps.settings.public_url, self.deps.access.client_addresses)


@dataclass(frozen=True, slots=True)
class Call(Caller, Generic[B, Q]):
    """A request to the API that was read, and whose sender may make it."""

    body: B
    query: Q


class ApiReply(NamedTuple):
    """The answer of a handler: an object for JSON, bytes as they are, or None for no content."""

    value: Any
    status: int = 200
    headers: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `path` is below ROOT; the handler's docstring is its description."""

    method: str
    path: str
    handler: Callable[[Call[Any, Any]], Awaitable[ApiReply]]
    answer: Any
    needs: Right = "read"
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    statuses: Sequence[int] = (200,)
    body_bytes_max: int = BODY_BYTES_MAX
    body_required: bool = True
    headers: Sequence[str] = field(default=())  # of the request: If-Match, If-None-Match, Idempotency-Key
    content_type: str = "application/json"


def add_routes(app: web.Application, routes: Sequence[Route], deps: Deps) -> None:
    """Register them; also makes the router's own refusals below ROOT problem documents."""
    for route in routes:
        handler = _handler(route, deps)
        if route.method == "GET":
            app.router.add_get(ROOT + route.path, handler)
        else:
            app.router.add_route(route.method, ROOT + route.path, handler)
    app.middlewares.append(_router_refusals)


@web.middleware
async def _router_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400 or not request.path.startswith(ROOT + "/"):
            raise
        return answer_of(error, request)


def _handler(route: Route, deps: Deps) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        principal: Principal | None = None
        try:
            with database_trouble():
                principal = await deps.access.admit(request, route.needs)
                query = _read_query(route, request)
                body = await _read_body(route, request, deps.settings.body_timeout)
                async with asyncio.timeout(REQUEST_S_MAX):
                    reply = await route.handler(Call(request, deps, principal, body, query))
                return _response(reply, route.content_type)
        except Exception as error:
            return answer_of(await _with_present_address(error, deps, route, request, principal), request)

    return handle


async def _with_present_address(
    error: Exception, deps: Deps, route: Route, request: web.Request, principal: Principal | None
) -> Exception:
    """The error; of a monitor that was renamed or moved, with its present address."""
    if principal is None:
        return error
    try:
        with database_trouble():
            address = await present_address(deps.pool, principal, request, route.path, error)
    except DatabaseDownError:
        return error
    return with_present_address(error, address)


def _response(reply: ApiReply, content_type: str) -> web.Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **reply.headers}
    if reply.value is None:
        return web.Response(status=reply.status if reply.status != 200 else 204, headers=headers)
    body = reply.value if isinstance(reply.value, bytes) else orjson.dumps(reply.value)
    return web.Response(body=body, status=reply.status, headers={"Content-Type": content_type, **headers})


def _read_query(route: Route, request: web.Request) -> BaseModel | None:
    if route.query is None:
        if request.query:
            names = sorted(request.query)
            raise ApiError(422, "This address takes no parameters.", [Problem(name, "is not known") for name in names])
        return None
    values: dict[str, Any] = {}
    for name in request.query:
        given = request.query.getall(name)
        if any("\x00" in value for value in given):
            raise ApiError(422, "Parameters must not contain NUL characters.", [Problem(name, "must not contain NUL")])
        known = route.query.model_fields.get(name)
        many = known is not None and get_origin(known.annotation) is tuple
        if not many and len(given) > 1:
            raise ApiError(422, f"The parameter {name} is given twice.", [Problem(name, "is given twice")])
        values[name] = given if many else given[0]
    try:
        return route.query.model_validate(values)
    except ValidationError as error:
        raise _refused(problems_of(error, model=route.query)) from None


async def _read_body(route: Route, request: web.Request, timeout_s: float) -> BaseModel | None:
    if route.body is None:
        return None
    raw = await _read_bytes(request, route.body_bytes_max, timeout_s)
    if not raw and not route.body_required:
        return route.body()
    if request.content_type != "application/json" and not request.content_type.endswith("+json"):
        raise ApiError(415, "Send JSON, with the header Content-Type: application/json.")
    try:
        value = read_json(raw)
    except ValueError as error:
        raise ApiError(400, f"The body is not JSON: {error}.") from None
    if b"\\u0000" in raw and _holds_nul(value):
        raise ApiError(422, "The body must not contain NUL characters.", [Problem("", "a text must not contain NUL")])
    return validate(route.body, value)


def validate(model: type[M], value: object) -> M:
    """The value as this type. Raises ApiError that names every wrong field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _refused(problems_of(error, model=model)) from None


def _refused(problems: list[Problem]) -> ApiError:
    summary = "; ".join(f"{p.field}: {p.reason}" if p.field else p.reason for p in problems[:5])
    return ApiError(422, summary, problems)


async def _read_bytes(request: web.Request, most: int, timeout_s: float) -> bytes:
    """The whole body within its bounds. aiohttp itself never ends a body that drips."""
    too_large = ApiError(413, f"The body may have {most} bytes.")
    if (request.content_length or 0) > most:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(timeout_s + most / 1_000_000):
            async for part in request.content.iter_chunked(65_536):
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, "The body did not arrive in time.") from None
    except web.RequestPayloadError as error:
        raise ApiError(400, f"The body cannot be read: {error}.") from None
    return b"".join(parts)


def _holds_nul(value: object) -> bool:
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, str):
            if "\x00" in each:
                return True
        elif isinstance(each, dict):
            pending.extend(each)
            pending.extend(each.values())
        elif isinstance(each, list):
            pending.extend(each)
    return False
