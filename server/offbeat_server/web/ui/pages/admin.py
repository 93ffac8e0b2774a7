"""Projects, access keys and the audit log."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from offbeat_server.common.errors import DefinitionError, PreconditionError
from offbeat_server.db.repositories import access as stored
from offbeat_server.db.repositories import changes
from offbeat_server.db.repositories import projects as stored_projects
from offbeat_server.db.repositories.changes import NO_REV
from offbeat_server.services import access_keys, documents, projects
from offbeat_server.services.config_diff import action_of, field_changes
from offbeat_server.services.revisions import ChangeSince, changes_since
from offbeat_server.web.api.schemas import requests
from offbeat_server.web.api.schemas.answers import key_answer, project_answer
from offbeat_server.web.framework.pagination import ACCESS_KEYS, CHANGES
from offbeat_server.web.framework.params import new_slug, number_in, project_id_for_list, project_of, slug_in
from offbeat_server.web.framework.problems import ApiError, not_found
from offbeat_server.web.framework.routing import validate
from offbeat_server.web.ui.page_base import UiRoute, Visit, hand_secret_to_page, redirect, show

LIST_MAX = 100
KEYS_SHOWN = 1_000
NO_PROJECT: Mapping[str, Any] = {"slug": "", "name": ""}  # the empty form of a new one
_MADE = "offbeat-made-key"
KINDS = (
    *("monitor", "channel", "project", "key", "move", "pause", "resume", "snooze", "acknowledge", "resolve", "comment"),
    *("close", "window"),
)


# ----------------------------------------------------------------------------------------------------------- projects


async def projects_page(visit: Visit) -> web.StreamResponse:
    """The projects that the key may see."""
    return await _projects(visit)


async def put_project(visit: Visit) -> web.StreamResponse:
    """Make a project, or change one. A later change of another user is not overwritten."""
    slug, changes_one = visit.form_field("slug"), bool(visit.form_field("rev"))
    switches = {name: visit.form_field(name) == "on" for name in projects.SWITCHES}
    fields = {"slug": slug, "name": visit.form_field("name"), **switches}
    try:
        body = validate(documents.ProjectBody, {"name": visit.form_field("name") or None, **switches})
        command = projects.PutProject(new_slug(slug), body, visit.opened_rev if changes_one else NO_REV)
        await projects.put_project(visit.context, command, visit.actor)
    except PreconditionError:
        if not changes_one:
            return await _projects(visit, f"Project {slug} already exists.", new=fields)
        row = await stored_projects.find_project(visit.deps.pool, slug)
        if row is None:
            raise not_found(f"project {slug}") from None
        meanwhile = await changes_since(visit.context, "project", row["id"], slug, visit.opened_rev)
        text = f"Project {slug} was changed after you opened the page. Review it before saving."
        return await _projects(visit, text, changed={**fields, "rev": row["rev"]}, meanwhile=meanwhile)
    except (ApiError, DefinitionError) as error:
        if not changes_one:
            return await _projects(visit, str(error), new=fields)
        return await _projects(visit, str(error), changed={**fields, "rev": visit.form_field("rev")})
    return redirect("/projects")


async def delete_project(visit: Visit) -> web.StreamResponse:
    """Refused while it has monitors."""
    await projects.delete_project(visit.context, projects.DeleteProject(slug_in(visit, "project")), visit.actor)
    return redirect("/projects")


async def _projects(
    visit: Visit,
    wrong: str = "",
    changed: Mapping[str, Any] = NO_PROJECT,
    new: Mapping[str, Any] = NO_PROJECT,
    meanwhile: Sequence[ChangeSince] = (),
) -> web.StreamResponse:
    """The page. `changed` and `new`: what was typed into the form of a project, or into that of a new one."""
    rows = await stored_projects.all_projects(visit.deps.pool)
    shown = [
        {**project_answer(row, visit.principal.sees_secrets), "rev": row["rev"]}
        for row in rows
        if visit.principal.project_id in (None, row["id"])
    ]
    return show(
        visit,
        "projects.html",
        422 if wrong else 200,
        projects=[{**each, **changed} if each["slug"] == changed["slug"] else each for each in shown],
        wrong=wrong,
        meanwhile=meanwhile,
        manages=visit.principal.may("server"),
        new=new,
    )


# --------------------------------------------------------------------------------------------------------------- keys


async def keys_page(visit: Visit) -> web.StreamResponse:
    """The access keys. A key itself is shown once, on the page after it was made."""
    cookie = visit.request.cookies.get(_MADE, "")
    id, _, key = cookie.partition(".")
    if not cookie or id != visit.query_param("made"):
        return await _keys(visit)
    response = await _keys(visit, new_key={"name": visit.query_param("name"), "key": key})
    response.del_cookie(_MADE, path="/keys")
    return response


async def make_key(visit: Visit) -> web.StreamResponse:
    """Make a key. The page that shows it comes by a redirect, so that loading it again makes no second one."""
    fields = {
        "name": visit.form_field("name"),
        "role": visit.form_field("role"),
        "project": visit.form_field("project") or None,
    }
    try:
        body = validate(requests.NewKey, fields)
        project = None
        if body.project is not None or visit.principal.project is not None:
            project = (await project_of(visit, body.project)).slug
        new_key = await access_keys.create_key(
            visit.context, access_keys.CreateKey(body.name, body.role, project), visit.actor
        )
    except (ApiError, DefinitionError) as error:
        return await _keys(visit, wrong=str(error), status=422)
    response = redirect("/keys?" + urlencode({"made": new_key.id, "name": body.name}))
    hand_secret_to_page(visit, response, _MADE, f"{new_key.id}.{new_key.key}", "/keys")
    return response


async def revoke_key(visit: Visit) -> web.StreamResponse:
    """Revoke a key at once and for ever. Sessions that were opened with it end, too."""
    command = access_keys.RevokeKey(number_in(visit, "key"), visit.principal.project_id)
    await access_keys.revoke_key(visit.context, command, visit.actor)
    return redirect("/keys")


async def _keys(
    visit: Visit, new_key: dict[str, Any] | None = None, wrong: str = "", status: int = 200
) -> web.StreamResponse:
    project_id = visit.principal.project_id
    page = await ACCESS_KEYS.page(
        KEYS_SHOWN,
        ACCESS_KEYS.first,
        lambda after, limit: stored.keys(visit.deps.pool, after, project_id, limit),
    )
    every_project = await stored_projects.all_projects(visit.deps.pool)
    return show(
        visit,
        "keys.html",
        status,
        keys=[key_answer(row) for row in page.rows],
        fields={name: visit.form_field(name) if wrong else "" for name in ("name", "role", "project")},
        keys_cut=page.next_cursor is not None,
        new_key=new_key,
        wrong=wrong,
        own_project=visit.principal.project,
        projects=[p["slug"] for p in every_project if visit.principal.project_id in (None, p["id"])],
    )


# -------------------------------------------------------------------------------------------------------------- audit


async def audit_page(visit: Visit) -> web.StreamResponse:
    """The audit log, the newest first."""
    project_id = await project_id_for_list(visit, visit.query_param("project") or None)
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
            "fields": field_changes(visit.context.channel_kinds, row["kind"], row["before"], row["after"]),
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
