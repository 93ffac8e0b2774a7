"""The management API as a whole: every route, and the document that describes them all."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

import orjson
from aiohttp import web

from server.web import (
    api_channels,
    api_estate,
    api_history,
    api_incidents,
    api_monitors,
    api_projects,
    openapi,
    routes,
)
from server.web.routes import Call, Deps, Reply, Route


async def get_openapi(call: Call[None, None]) -> Reply:
    """This document."""
    return Reply(_document())


ROUTES = [
    *api_monitors.ROUTES,
    *api_history.ROUTES,
    *api_incidents.ROUTES,
    *api_channels.ROUTES,
    *api_projects.ROUTES,
    *api_estate.ROUTES,
    Route("GET", "/openapi.json", get_openapi, None, "open"),
]


def add_routes(app: web.Application, deps: Deps) -> None:
    """Add the management API to the app. Call it once, before the app starts."""
    routes.add_routes(app, ROUTES, deps)


@cache
def _document() -> bytes:
    try:
        ours = version("offbeat")
    except PackageNotFoundError:
        ours = "0"
    return orjson.dumps(openapi.document(ROUTES, ours))
