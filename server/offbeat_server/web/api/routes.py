"""The management API as a whole: every route, and the document that describes them all."""

from functools import cache
from typing import Any

import orjson
from aiohttp import web

from offbeat_server import __version__
from offbeat_server.notify.messages.payload_schema import webhook_schema
from offbeat_server.web.api import (
    channels,
    configuration,
    history,
    incidents,
    monitors,
    openapi,
    projects,
    public,
    statistics,
    windows,
)
from offbeat_server.web.framework import routing
from offbeat_server.web.framework.routing import ApiReply, Call, Deps, Route
from offbeat_server.web.framework.ttl_cache import TtlCache


async def get_openapi(call: Call[None, None]) -> ApiReply:
    """This document."""
    return ApiReply(_document_text())


async def get_alert_schema(call: Call[None, None]) -> ApiReply:
    """The JSON Schema of the body that a webhook channel sends."""
    return ApiReply(webhook_schema())


ROUTES = [
    *monitors.ROUTES,
    *history.ROUTES,
    *statistics.ROUTES,
    *incidents.ROUTES,
    *channels.ROUTES,
    *windows.ROUTES,
    *projects.ROUTES,
    *configuration.ROUTES,
    *public.ROUTES,
    Route("GET", "/openapi.json", get_openapi, None, "open"),
    Route("GET", "/schemas/alert-payload", get_alert_schema, None, "open", content_type="application/schema+json"),
]


def add_routes(app: web.Application, deps: Deps) -> None:
    """Add the management API to the app. Call it once, before the app starts."""
    app[public.COUNTS] = TtlCache()
    routing.add_routes(app, ROUTES, deps)


def document() -> dict[str, Any]:
    """The OpenAPI document of this version."""
    return openapi.document(ROUTES, __version__)


@cache
def _document_text() -> bytes:
    return orjson.dumps(document())
