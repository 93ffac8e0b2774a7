"""Maintenance windows: times in which monitors are evaluated and recorded, and no alert is sent."""

from typing import Any

from offbeat_server.db.repositories import windows as stored
from offbeat_server.engine.schedule.maintenance_windows import Window
from offbeat_server.services import windows
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.api.schemas.answers import window_answer
from offbeat_server.web.framework.params import (
    expected_rev_by_tag,
    new_slug_in,
    project_id_for_list,
    project_of,
    slug_in,
    tag_of,
)
from offbeat_server.web.framework.problems import not_found
from offbeat_server.web.framework.routing import ApiReply, Call, Route


async def get_windows(call: Call[None, requests.ProjectPage]) -> ApiReply:
    """All windows of one project, or of all that the key may see; never more than one page."""
    project_id = await project_id_for_list(call, call.query.project)
    rows = await stored.all_windows(call.deps.pool, project_id)
    return ApiReply({"items": [window_answer(row, call.deps.now()) for row in rows], "next_cursor": None})


async def get_window(call: Call[None, requests.InProject]) -> ApiReply:
    """A window and, if it is open now, when it ends."""
    return await _window(call, (await project_of(call, call.query.project)).id, slug_in(call, "window"))


async def put_window(call: Call[Window, requests.InProject]) -> ApiReply:
    """Create or replace a window: once (`start`, `end`), or recurring (`cron` or `oncalendar`, `duration`)."""
    slug, project = new_slug_in(call), await project_of(call, call.query.project)
    command = windows.PutWindow(project.id, slug, call.body, await _expected_rev(call, project.id, slug))
    put = await windows.put_window(call.context, command, call.actor)
    return await _window(call, project.id, slug, created=put.created)


async def delete_window(call: Call[None, requests.InProject]) -> ApiReply:
    """Delete a window. Alerts that it held back are sent."""
    slug, project = slug_in(call, "window"), await project_of(call, call.query.project)
    command = windows.DeleteWindow(project.id, slug, await _expected_rev(call, project.id, slug))
    await windows.delete_window(call.context, command, call.actor)
    return ApiReply(None)


async def _expected_rev(call: Call[Any, Any], project_id: int, slug: str) -> int | None:
    return await expected_rev_by_tag(
        call, lambda: stored.find_window(call.deps.pool, project_id, slug), lambda row: row["definition"]
    )


async def _window(call: Call[Any, Any], project_id: int, slug: str, created: bool = False) -> ApiReply:
    row = await stored.find_window(call.deps.pool, project_id, slug)
    if row is None:
        raise not_found(f"window {slug}")
    return ApiReply(window_answer(row, call.deps.now()), 201 if created else 200, tag_of(row["definition"]))


_IN = requests.InProject
_ONE = responses.WindowAnswer
ROUTES = [
    Route("GET", "/windows", get_windows, responses.Page[_ONE], query=requests.ProjectPage),
    Route("GET", "/windows/{slug}", get_window, _ONE, query=_IN),
    Route(
        "PUT",
        "/windows/{slug}",
        put_window,
        _ONE,
        "write",
        Window,
        _IN,
        (200, 201),
        headers=("If-Match", "If-None-Match"),
    ),
    Route("DELETE", "/windows/{slug}", delete_window, None, "write", None, _IN, (204,), headers=("If-Match",)),
]
