"""The management API as a whole: every route, and the document that describes them all."""

from functools import cache
from typing import Any

import orjson
from aiohttp import web

from server import __version__
from server.web import (
    api_channels,
    api_estate,
    api_history,
    api_incidents,
    api_monitors,
    api_projects,
    api_public,
    api_statistics,
    api_windows,
    openapi,
    routes,
)
from server.web.fresh import Fresh
from server.web.routes import Call, Deps, Reply, Route


async def get_openapi(call: Call[None, None]) -> Reply:
    """This document."""
    return Reply(_document_text())


ROUTES = [
    *api_monitors.ROUTES,
    *api_history.ROUTES,
    *api_statistics.ROUTES,
    *api_incidents.ROUTES,
    *api_channels.ROUTES,
    *api_windows.ROUTES,
    *api_projects.ROUTES,
    *api_estate.ROUTES,
    *api_public.ROUTES,
    Route("GET", "/openapi.json", get_openapi, None, "open"),
]


def add_routes(app: web.Application, deps: Deps) -> None:
    """Add the management API to the app. Call it once, before the app starts."""
    app[api_public.COUNTS] = Fresh()
    routes.add_routes(app, ROUTES, deps)


def document() -> dict[str, Any]:
    """The OpenAPI document of this version."""
    return openapi.document(ROUTES, __version__)


@cache
def _document_text() -> bytes:
    return orjson.dumps(document())
