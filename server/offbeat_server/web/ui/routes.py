"""The web pages as a whole: all their addresses, the static files, and the streams that keep them live."""

import re
from collections.abc import Collection
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from offbeat_server.db.read_models import history, overview
from offbeat_server.db.repositories import sessions as stored_sessions
from offbeat_server.web.framework import sessions
from offbeat_server.web.framework.params import allowed, pair_in, project_id_for_list
from offbeat_server.web.framework.problems import ApiError, not_found
from offbeat_server.web.framework.routing import Deps
from offbeat_server.web.framework.ttl_cache import TtlCache
from offbeat_server.web.ui.live.hub import WATCHED_MAX, LiveHub, StreamOwner, Topic
from offbeat_server.web.ui.live.topics import all_kinds
from offbeat_server.web.ui.page_base import (
    HEADERS,
    UiRoute,
    Visit,
    add_pages,
    html,
    render_trouble,
    statics,
    statics_version,
)
from offbeat_server.web.ui.pages import (
    admin,
    alerts,
    channels,
    incidents,
    monitor,
    monitor_settings,
    run,
    signin,
    status,
    system,
    windows,
)
from offbeat_server.web.ui.pages import overview as overview_page

LIVE = web.AppKey("live", LiveHub)
_LINE = re.compile(r"(\d{1,9})\.([0-9a-z]{1,12})")
FOR_EVER = "public, max-age=31536000, immutable"


def add_routes(app: web.Application, deps: Deps) -> None:
    """Add the pages to the app. Call it once, before the app starts."""
    app[status.SHOWN] = TtlCache()

    async def living(session_ids: Collection[str]) -> set[str]:
        return await stored_sessions.living_sessions(deps.pool, session_ids, deps.access.admin_key_hash)

    live = app[LIVE] = LiveHub(all_kinds(deps.pool), deps.now, living)
    add_pages(app, PAGES, deps)
    app.router.add_get("/static/{version}/{name}", _static)

    async def start(_: web.Application) -> None:
        await live.start()

    async def close(_: web.Application) -> None:
        live.close()  # before the runner waits for requests under way: a stream would never end by itself

    async def stop(_: web.Application) -> None:
        await live.stop()

    app.middlewares.append(_not_found)
    app.on_startup.append(start)
    app.on_shutdown.append(close)
    app.on_cleanup.append(stop)


@web.middleware
async def _not_found(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A page for people who have mistyped an address, or load one that takes other methods; programs get plain text."""
    try:
        return await handler(request)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
        if request.path.startswith("/api/") or "text/html" not in request.headers.get("Accept", ""):
            raise
        if isinstance(error, web.HTTPNotFound):
            return html(render_trouble(not_found(f"page {request.path[:100]}")), 404)
        refusal = ApiError(
            405, f"This address does not take {request.method}.", headers={"Allow": error.headers["Allow"]}
        )
        return html(render_trouble(refusal), 405, refusal.headers)


async def _static(request: web.Request) -> web.Response:
    found = statics().get(request.match_info["name"])
    if found is None or request.match_info["version"] != statics_version():
        return web.Response(status=404, headers=HEADERS, text="no such file\n")
    body, kind = found
    response = web.Response(
        body=body, content_type=kind, charset="utf-8", headers={**HEADERS, "Cache-Control": FOR_EVER}
    )
    response.enable_compression()
    return response


# -------------------------------------------------------------------------------------------------------------- streams


async def live_overview(visit: Visit) -> web.StreamResponse:
    """Lines, each with the version that is shown; what is wrong and the counts, in one project or in all."""
    project_id = await project_id_for_list(visit, visit.query_param("project") or None)
    named = [_LINE.fullmatch(each) for each in visit.request.query.get("lines", "").split("_") if each]
    if len(named) > WATCHED_MAX or not all(named):
        raise ApiError(422, "The lines are not valid: reload the page.")
    lines = {int(each[1]): each[2] for each in named if each}
    if visit.principal.project_id is not None:
        own = await overview.monitors(
            visit.deps.pool, project_id=visit.principal.project_id, ids=list(lines), limit=WATCHED_MAX
        )
        lines = {row["id"]: lines[row["id"]] for row in own}
    shown: dict[Topic, str | None] = {Topic("line", id): version for id, version in lines.items()}
    shown[Topic("trouble", overview_page.scope_of(overview_page.filters_of(visit), project_id, visit.writes))] = None
    shown[Topic("counts", project_id)] = None
    return await _stream(visit, shown)


async def live_monitor(visit: Visit) -> web.StreamResponse:
    """One monitor's page."""
    text = visit.query_param("id")
    ids = [int(text)] if re.fullmatch(r"\d{1,9}", text) else []
    rows = await overview.monitors(visit.deps.pool, project_id=visit.principal.project_id, ids=ids, limit=1)
    if not rows:
        raise not_found(f"monitor with the id {text[:30]!r}")
    monitor_id = rows[0]["id"]
    return await _stream(
        visit, {Topic("monitor", (monitor_id, visit.writes)): None, Topic("history", monitor_id): None}
    )


async def live_run(visit: Visit) -> web.StreamResponse:
    """One run's page."""
    row = await history.find_run(visit.deps.pool, *pair_in(visit, "run"))
    row = allowed(visit, row, "run")
    return await _stream(visit, {Topic("run", (row["monitor_id"], row["number"])): None})


async def live_incident(visit: Visit) -> web.StreamResponse:
    """One incident's page."""
    row = await history.find_incident(visit.deps.pool, *pair_in(visit, "incident"))
    row = allowed(visit, row, "incident")
    return await _stream(visit, {Topic("incident", (row["monitor_id"], row["number"], visit.writes)): None})


async def live_system(visit: Visit) -> web.StreamResponse:
    """The system's page."""
    system.check(visit)
    return await _stream(visit, {Topic("system", None): None})


async def live_session(visit: Visit) -> web.StreamResponse:
    """Whether the session stands: a browser does not say why a stream was refused."""
    return web.Response(status=204, headers=HEADERS)


async def _stream(visit: Visit, shown: dict[Topic, str | None]) -> web.StreamResponse:
    live: Any = visit.request.app[LIVE]
    session_id = sessions.cookie_in(visit.deps, visit.request)
    assert session_id is not None  # who has none was sent to sign in
    owner = StreamOwner(session_id, visit.principal.project_id)
    if not live.has_room_for(owner):
        raise ApiError(503, "Too many live pages are open. Close some of them.", headers={"Retry-After": "10"})
    response: web.StreamResponse = await live.serve(visit.request, owner, shown)
    return response


PAGES: list[UiRoute] = [
    *signin.PAGES,
    *overview_page.PAGES,
    *monitor.PAGES,
    *monitor_settings.PAGES,
    *run.PAGES,
    *incidents.PAGES,
    *alerts.PAGES,
    *channels.PAGES,
    *windows.PAGES,
    *admin.PAGES,
    *system.PAGES,
    *status.PAGES,
    UiRoute("GET", "/live/overview", live_overview),
    UiRoute("GET", "/live/monitor", live_monitor),
    UiRoute("GET", "/live/runs/{id}", live_run),
    UiRoute("GET", "/live/incidents/{id}", live_incident),
    UiRoute("GET", "/live/system", live_system),
    UiRoute("GET", "/live/session", live_session),
]
