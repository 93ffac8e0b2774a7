"""The page of maintenance windows: list, create and delete them."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from offbeat_server.common.errors import DefinitionError, PreconditionError
from offbeat_server.db.repositories import projects
from offbeat_server.db.repositories import windows as stored
from offbeat_server.db.repositories.changes import NO_REV
from offbeat_server.engine.schedule.maintenance_windows import Window
from offbeat_server.services import windows
from offbeat_server.services.revisions import ChangeSince, changes_since
from offbeat_server.web.api.schemas.answers import window_answer
from offbeat_server.web.framework.params import new_slug, project_id_for_list, project_of, slug_in
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.framework.routing import validate
from offbeat_server.web.ui.page_base import UiRoute, Visit, redirect, show


async def windows_page(visit: Visit) -> web.StreamResponse:
    """All of them, and a form for a new one."""
    return await _page(visit)


async def create(visit: Visit) -> web.StreamResponse:
    """Make a window of the form."""
    slug = visit.form_field("slug")
    project = await project_of(visit, visit.form_field("project") or None)
    try:
        window = validate(Window, _read(visit))
        command = windows.PutWindow(project.id, new_slug(slug), window, expected_rev=NO_REV)
        await windows.put_window(visit.context, command, visit.actor)
    except PreconditionError:
        return await _page(visit, f"Window {slug} already exists.")
    except (ApiError, DefinitionError) as error:
        return await _page(visit, str(error))
    return redirect("/windows")


async def delete(visit: Visit) -> web.StreamResponse:
    """Delete a window; alerts that it held back are sent. One that was changed after the page was opened stays."""
    project = await project_of(visit, visit.form_field("project") or None)
    slug = slug_in(visit, "window")
    try:
        command = windows.DeleteWindow(project.id, slug, expected_rev=visit.opened_rev)
        await windows.delete_window(visit.context, command, visit.actor)
    except PreconditionError:
        text = f"Window {slug} was changed after you opened the page. Review it before deleting it."
        return await _page(visit, text, changed=(project.id, slug))
    return redirect("/windows")


def _read(visit: Visit) -> dict[str, Any]:
    fields: dict[str, Any] = {name: visit.form_field(name) for name in ("name", "timezone", "duration")}
    fields |= {name: visit.form_field(name).replace(",", " ").split() for name in ("monitors", "tags")}
    if visit.form_field("when") == "once":
        # The browser gives no offset; it is meant in UTC, as the label says.
        fields |= {name: f"{visit.form_field(name)}Z" if visit.form_field(name) else "" for name in ("start", "end")}
        del fields["duration"]
    else:
        fields["cron"] = visit.form_field("cron")
    return {name: value for name, value in fields.items() if value}


async def _page(visit: Visit, wrong: str = "", changed: tuple[int, str] | None = None) -> web.StreamResponse:
    """The page. `changed`: project and slug of a window that was changed after the page was opened."""
    project_id = await project_id_for_list(visit, visit.query_param("project") or None)
    rows = await stored.all_windows(visit.deps.pool, project_id)
    every_project = await projects.all_projects(visit.deps.pool)
    # After the rows: a change in between is listed, and the form has the revision before it.
    meanwhile: Sequence[ChangeSince] = ()
    if changed is not None:
        meanwhile = await changes_since(visit.context, "window", *changed, visit.opened_rev)
    return show(
        visit,
        "windows.html",
        422 if wrong else 200,
        windows=[{**window_answer(row, visit.now), "rev": row["rev"]} for row in rows],
        wrong=wrong,
        meanwhile=meanwhile,
        fields=defaultdict(str, visit.form.items()),
        projects=[p["slug"] for p in every_project if visit.principal.project_id in (None, p["id"])],
    )


PAGES = [
    UiRoute("GET", "/windows", windows_page),
    UiRoute("POST", "/windows", create, "write"),
    UiRoute("POST", "/windows/{slug}/delete", delete, "write"),
]
