"""Projects, access keys and the audit log."""

from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from offbeat_server.common.errors import DefinitionError
from offbeat_server.db.repositories import access as stored
from offbeat_server.db.repositories import changes, projects
from offbeat_server.web.api import projects as api_projects
from offbeat_server.web.api.schemas import requests
from offbeat_server.web.framework import sessions
from offbeat_server.web.framework.config_diff import action_of, field_changes
from offbeat_server.web.framework.pagination import ACCESS_KEYS, CHANGES
from offbeat_server.web.framework.params import project_id_for_list
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.framework.routing import validate
from offbeat_server.web.ui.page_base import UiRoute, Visit, redirect, show

LIST_MAX = 100
KEYS_SHOWN = 1_000
NO_PROJECT = {"slug": "", "name": ""}  # the empty form of a new one
MADE_S = 60  # for the redirect to the page that shows a new key
_MADE = "offbeat-made-key"
KINDS = (
    *("monitor", "channel", "project", "key", "pause", "resume", "snooze", "acknowledge", "resolve", "comment"),
    "window",
)


# ----------------------------------------------------------------------------------------------------------- projects


async def projects_page(visit: Visit) -> web.StreamResponse:
    """The projects that the key may see."""
    rows = await projects.all_projects(visit.deps.pool)
    seen = [row for row in rows if visit.principal.project_id in (None, row["id"])]
    shown = [api_projects.project_answer(visit.call(), row) for row in seen]
    return show(visit, "projects.html", projects=shown, wrong="", manages=visit.principal.may("server"), new=NO_PROJECT)


async def put_project(visit: Visit) -> web.StreamResponse:
    """Make a project, or change one."""
    slug = visit.form_field("slug")
    visit.request.match_info["slug"] = slug
    switches = {name: visit.form_field(name) == "on" for name in api_projects.SWITCHES}
    try:
        body = validate(requests.ProjectBody, {"name": visit.form_field("name") or None, **switches})
        await api_projects.put_project(visit.call(body))
    except (ApiError, DefinitionError) as error:
        rows = await projects.all_projects(visit.deps.pool)
        shown = [api_projects.project_answer(visit.call(), row) for row in rows]
        said = {"slug": slug, "name": visit.form_field("name"), **switches}
        shown = [{**each, **said} if each["slug"] == slug else each for each in shown]
        is_new = all(each["slug"] != slug for each in shown)
        new = said if is_new else NO_PROJECT
        return show(visit, "projects.html", 422, projects=shown, wrong=str(error), manages=True, new=new)
    return redirect("/projects")


async def delete_project(visit: Visit) -> web.StreamResponse:
    """Refused while it has monitors."""
    await api_projects.delete_project(visit.call())
    return redirect("/projects")


# --------------------------------------------------------------------------------------------------------------- keys


async def keys_page(visit: Visit) -> web.StreamResponse:
    """The access keys. A key itself is shown once, on the page after it was made."""
    made = visit.request.cookies.get(_MADE, "")
    id, _, key = made.partition(".")
    if not made or id != visit.query_param("made"):
        return await _keys(visit)
    response = await _keys(visit, made={"name": visit.query_param("name"), "key": key})
    response.del_cookie(_MADE, path="/keys")
    return response


async def make_key(visit: Visit) -> web.StreamResponse:
    """Make a key. The page that shows it comes by a redirect, so that loading it again makes no second one."""
    said = {
        "name": visit.form_field("name"),
        "role": visit.form_field("role"),
        "project": visit.form_field("project") or None,
    }
    try:
        reply = await api_projects.post_key(visit.call(validate(requests.NewKey, said)))
    except (ApiError, DefinitionError) as error:
        return await _keys(visit, wrong=str(error), status=422)
    response = redirect("/keys?" + urlencode({"made": reply.value["id"], "name": reply.value["name"]}))
    response.set_cookie(
        _MADE,
        f"{reply.value['id']}.{reply.value['key']}",
        max_age=MADE_S,
        path="/keys",
        secure=sessions.is_https(visit.deps, visit.request),
        httponly=True,
        samesite="Strict",
    )
    return response


async def revoke_key(visit: Visit) -> web.StreamResponse:
    """At once and for ever; sessions that stand on it end with it."""
    await api_projects.delete_key(visit.call())
    return redirect("/keys")


async def _keys(
    visit: Visit, made: dict[str, Any] | None = None, wrong: str = "", status: int = 200
) -> web.StreamResponse:
    project_id = visit.principal.project_id
    page = await ACCESS_KEYS.page(
        KEYS_SHOWN,
        ACCESS_KEYS.first,
        lambda after, limit: stored.keys(visit.deps.pool, after, project_id, limit),
    )
    every_project = await projects.all_projects(visit.deps.pool)
    return show(
        visit,
        "keys.html",
        status,
        keys=[api_projects.key_answer(row) for row in page.rows],
        said={name: visit.form_field(name) if wrong else "" for name in ("name", "role", "project")},
        keys_cut=page.next_cursor is not None,
        made=made,
        wrong=wrong,
        own_project=visit.principal.project,
        projects=[p["slug"] for p in every_project if visit.principal.project_id in (None, p["id"])],
    )


# -------------------------------------------------------------------------------------------------------------- audit


async def audit_page(visit: Visit) -> web.StreamResponse:
    """The audit log, the newest first."""
    project_id = await project_id_for_list(visit.call(), visit.query_param("project") or None)
    kind, subject = visit.query_param("kind") or None, visit.query_param("subject") or None
    page = await CHANGES.page(
        LIST_MAX,
        CHANGES.place(visit.query_param("before") or None),
        lambda before, limit: changes.page(visit.deps.pool, before, project_id, kind, subject, limit),
    )
    entries = [
        {
            **{name: row[name] for name in ("rev", "at", "project", "actor", "kind", "subject")},
            "action": action_of(row["before"], row["after"]),
            "fields": field_changes(row["kind"], row["before"], row["after"]),
        }
        for row in page.rows
    ]
    return show(
        visit,
        "audit.html",
        entries=entries,
        kinds=KINDS,
        kind=kind or "",
        subject=subject or "",
        project=visit.query_param("project"),
        older=page.next_cursor,
    )


PAGES = [
    UiRoute("GET", "/projects", projects_page),
    UiRoute("POST", "/projects", put_project, "server"),
    UiRoute("POST", "/projects/{slug}/delete", delete_project, "server"),
    UiRoute("GET", "/keys", keys_page, "write"),
    UiRoute("POST", "/keys", make_key, "write"),
    UiRoute("POST", "/keys/{id}/revoke", revoke_key, "write"),
    UiRoute("GET", "/audit", audit_page),
]
