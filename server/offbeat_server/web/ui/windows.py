"""Maintenance windows: seen, made and taken away."""

from collections import defaultdict
from typing import Any

from aiohttp import web

from offbeat_server.common.errors import DefinitionError, PreconditionError
from offbeat_server.db.repositories import projects, windows
from offbeat_server.engine.schedule.maintenance_windows import Window
from offbeat_server.web.api import windows as api_windows
from offbeat_server.web.api.schemas import requests
from offbeat_server.web.framework.params import project_id_for_list, project_of
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.framework.routing import validate
from offbeat_server.web.ui.page_base import UiRoute, Visit, redirect, show


async def windows_page(visit: Visit) -> web.StreamResponse:
    """All of them, and a form for a new one."""
    return await _page(visit)


async def create(visit: Visit) -> web.StreamResponse:
    """Make a window of the form."""
    visit.request.match_info["slug"] = visit.form_field("slug")
    project = await project_of(visit.call(), visit.form_field("project") or None)
    try:
        if await windows.find_window(visit.deps.pool, project.id, visit.form_field("slug")) is not None:
            raise PreconditionError(f"Window {visit.form_field('slug')} already exists.")
        await api_windows.put_window(visit.call(validate(Window, _read(visit)), _in(project.slug)))
    except (ApiError, DefinitionError, PreconditionError) as error:
        return await _page(visit, str(error))
    return redirect("/windows")


async def delete(visit: Visit) -> web.StreamResponse:
    """Delete a window; alerts that it held back are sent."""
    await api_windows.delete_window(visit.call(query=_in(visit.form_field("project"))))
    return redirect("/windows")


def _read(visit: Visit) -> dict[str, Any]:
    said: dict[str, Any] = {name: visit.form_field(name) for name in ("name", "timezone", "duration")}
    said |= {name: visit.form_field(name).replace(",", " ").split() for name in ("monitors", "tags")}
    if visit.form_field("when") == "once":
        # The browser gives no offset; it is meant in UTC, as the label says.
        said |= {name: f"{visit.form_field(name)}Z" if visit.form_field(name) else "" for name in ("start", "end")}
        del said["duration"]
    else:
        said["cron"] = visit.form_field("cron")
    return {name: value for name, value in said.items() if value}


def _in(project: str) -> requests.InProject:
    return requests.InProject.model_validate({"project": project or None})


async def _page(visit: Visit, wrong: str = "") -> web.StreamResponse:
    project_id = await project_id_for_list(visit.call(), visit.query_param("project") or None)
    rows = await windows.all_windows(visit.deps.pool, project_id)
    every_project = await projects.all_projects(visit.deps.pool)
    return show(
        visit,
        "windows.html",
        422 if wrong else 200,
        windows=[api_windows.window_answer(visit.call(), row) for row in rows],
        wrong=wrong,
        said=defaultdict(str, visit.form.items()),
        projects=[p["slug"] for p in every_project if visit.principal.project_id in (None, p["id"])],
    )


PAGES = [
    UiRoute("GET", "/windows", windows_page),
    UiRoute("POST", "/windows", create, "write"),
    UiRoute("POST", "/windows/{slug}/delete", delete, "write"),
]
