"""Maintenance windows: times in which monitors are judged and recorded, and nobody is told."""

from typing import Any

from offbeat_server.common.clock import to_rfc3339
from offbeat_server.db.pool import Record
from offbeat_server.db.repositories import windows
from offbeat_server.db.repositories.changes import changing
from offbeat_server.engine.schedule.maintenance_windows import Window
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.api.schemas.monitor import instant
from offbeat_server.web.framework.params import (
    check_tag,
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
    rows = await windows.all_windows(call.deps.pool, project_id)
    return ApiReply({"items": [window_answer(call, row) for row in rows], "next_cursor": None})


async def get_window(call: Call[None, requests.InProject]) -> ApiReply:
    """A window and, if it is open now, when it ends."""
    return await _window(call, (await project_of(call, call.query.project)).id, slug_in(call, "window"))


async def put_window(call: Call[Window, requests.InProject]) -> ApiReply:
    """Create or replace a window: once (`start`, `end`), or recurring (`cron` or `oncalendar`, `duration`)."""
    slug, project = new_slug_in(call), await project_of(call, call.query.project)
    async with changing(call.deps.pool) as connection:
        row = await windows.find_window(connection, project.id, slug)
        check_tag(call, row and row["definition"])
        change = await windows.put_window(connection, project.id, slug, dump(call.body), call.principal.actor)
    if change.before != change.after:
        call.deps.changed()
    return await _window(call, project.id, slug, created=change.before is None)


async def delete_window(call: Call[None, requests.InProject]) -> ApiReply:
    """Delete a window. Alerts that it held back are sent."""
    slug, project = slug_in(call, "window"), await project_of(call, call.query.project)
    async with changing(call.deps.pool) as connection:
        row = await windows.find_window(connection, project.id, slug)
        if row is None:
            raise not_found(f"window {slug}")
        check_tag(call, row["definition"])
        await windows.delete_window(connection, row, call.principal.actor)
    call.deps.changed()
    return ApiReply(None)


def dump(window: Window) -> dict[str, Any]:
    """As it is stored: without what is at its default."""
    return window.model_dump(mode="json", exclude_defaults=True)


def window_answer(call: Call[Any, Any], row: Record) -> dict[str, Any]:
    """A window as it is shown."""
    window = Window.model_validate(row["definition"])
    return {
        "slug": row["slug"],
        "project": row["project"],
        **window.model_dump(mode="json"),
        "open_until": to_rfc3339(window.end_at(call.deps.now())),
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
    }


async def _window(call: Call[Any, Any], project_id: int, slug: str, created: bool = False) -> ApiReply:
    row = await windows.find_window(call.deps.pool, project_id, slug)
    if row is None:
        raise not_found(f"window {slug}")
    return ApiReply(window_answer(call, row), 201 if created else 200, tag_of(row["definition"]))


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
