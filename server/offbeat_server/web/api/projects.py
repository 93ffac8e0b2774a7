"""Projects: name spaces of monitors and channels, and the access keys to them."""

import secrets
from typing import Any

from offbeat_server.db.pool import Record
from offbeat_server.db.repositories import access as stored
from offbeat_server.db.repositories import projects
from offbeat_server.db.repositories.changes import changing
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.api.schemas.monitor import instant
from offbeat_server.web.framework.idempotency import REPLAYED, created_before, remember
from offbeat_server.web.framework.pagination import ACCESS_KEYS
from offbeat_server.web.framework.params import (
    check_tag,
    new_slug_in,
    number_in,
    project_id_for_list,
    project_of,
    slug_in,
    tag_of,
)
from offbeat_server.web.framework.problems import ApiError, not_found
from offbeat_server.web.framework.routing import ApiReply, Call, Route

SWITCHES = ("metrics", "badges", "status_page")


async def get_projects(call: Call[None, None]) -> ApiReply:
    """The projects that the key may see; never more than one page."""
    rows = await projects.all_projects(call.deps.pool)
    seen = [row for row in rows if call.principal.project_id in (None, row["id"])]
    return ApiReply({"items": [project_answer(call, row) for row in seen], "next_cursor": None})


async def get_project(call: Call[None, None]) -> ApiReply:
    """A project. An admin sees its ping key."""
    return await _project(call, (await project_of(call, slug_in(call, "project"))).slug)


async def put_project(call: Call[requests.ProjectBody, None]) -> ApiReply:
    """Create or replace a project. An omitted ping key stays unchanged, or is generated."""
    slug = new_slug_in(call)
    async with changing(call.deps.pool) as connection:
        row = await projects.find_project(connection, slug)
        check_tag(call, row and project_answer(call, row))
        change = await projects.put_project(connection, wanted_project(slug, call.body, row), call.principal.actor)
    if change.before != change.after:
        call.deps.changed()
    return await _project(call, slug, created=change.before is None)


async def delete_project(call: Call[None, None]) -> ApiReply:
    """Delete a project without monitors, with its channels and access keys."""
    slug = slug_in(call, "project")
    async with changing(call.deps.pool) as connection:
        row = await projects.find_project(connection, slug)
        if row is None:
            raise not_found(f"project {slug}")
        check_tag(call, project_answer(call, row))
        if slug == "default":
            raise ApiError(409, "The project default is always there.")
        if count := await projects.size_of_project(connection, row["id"]):
            raise ApiError(409, f"{slug} still has {count} monitors: delete them first.")
        await projects.delete_project(connection, row, call.principal.actor)
    call.deps.changed()
    return ApiReply(None)


async def get_keys(call: Call[None, requests.ProjectPage]) -> ApiReply:
    """Access keys, also revoked ones; never the keys themselves."""
    project_id = await project_id_for_list(call, call.query.project)
    page = await ACCESS_KEYS.page(
        call.query.limit,
        ACCESS_KEYS.place(call.query.cursor),
        lambda after, limit: stored.keys(call.deps.pool, after, project_id, limit),
    )
    return ApiReply({"items": [key_answer(row) for row in page.rows], "next_cursor": page.next_cursor})


async def post_key(call: Call[requests.NewKey, None]) -> ApiReply:
    """Create an access key. It is shown only in this answer.

    A repetition with the same Idempotency-Key makes no second one, and cannot show the first again.
    """
    project = None
    if call.body.project is not None or call.principal.project is not None:
        project = await projects.find_project(call.deps.pool, (await project_of(call, call.body.project)).slug)
    secret = await call.deps.access.secret()
    async with changing(call.deps.pool) as connection:
        earlier = await created_before(connection, call, "access key")
        if earlier is None:
            made = await stored.make_key(
                connection, secret, call.body.role, call.body.name, project, call.principal.actor
            )
            await remember(connection, call, "access key", str(made.id))
    row = await stored.key_row(call.deps.pool, made.id if earlier is None else int(earlier))
    if row is None:
        raise not_found("such key any more")
    if earlier is not None:
        return ApiReply(key_answer(row), 201, REPLAYED)
    return ApiReply({**key_answer(row), "key": made.key}, 201)


async def delete_key(call: Call[None, None]) -> ApiReply:
    """Revoke an access key, immediately and permanently."""
    key_id = number_in(call, "key")
    async with changing(call.deps.pool) as connection:
        row = await stored.key_row(connection, key_id) if key_id < 2**31 else None
        if row is None or call.principal.project_id not in (None, row["project_id"]):
            raise not_found(f"key {key_id}")
        await stored.revoke_key(connection, row, call.principal.actor)
    return ApiReply(None)


def wanted_project(slug: str, body: requests.ProjectBody, row: Record | None, path: str = "") -> projects.WantedProject:
    """A project as the store takes it. The badge key is made with the first badge and stays."""
    definition: dict[str, Any] = {name: True for name in SWITCHES if getattr(body, name)}
    badge_key = row["definition"].get("badge_key") if row is not None else None
    if badge_key is not None or body.badges:
        definition["badge_key"] = badge_key or secrets.token_urlsafe(16)
    name = body.name or (row["name"] if row is not None else slug)
    return projects.WantedProject(slug, name, body.ping_key, definition, path)


def project_answer(call: Call[Any, Any], row: Record) -> dict[str, Any]:
    """A project as it is shown."""
    shown = call.principal.sees_secrets
    return {
        "slug": row["slug"],
        "name": row["name"],
        "ping_key": row["ping_key"] if shown else None,
        "badge_key": row["definition"].get("badge_key") if shown else None,
        **{name: row["definition"].get(name, False) for name in SWITCHES},
        "created_at": instant(row["created_at"]),
    }


def key_answer(row: Record) -> dict[str, Any]:
    """An access key as it is shown."""
    return {
        "id": row["id"],
        "name": row["name"],
        "role": row["role"],
        "project": row["project"],
        "prefix": row["prefix"],
        "created_at": instant(row["created_at"]),
        "last_used_at": instant(row["last_used_at"]),
        "revoked_at": instant(row["revoked_at"]),
    }


async def _project(call: Call[Any, Any], slug: str, created: bool = False) -> ApiReply:
    row = await projects.find_project(call.deps.pool, slug)
    if row is None:
        raise not_found(f"project {slug}")
    answer = project_answer(call, row)
    return ApiReply(answer, 201 if created else 200, tag_of(answer))


_ONE = responses.ProjectAnswer
_KEY = responses.AccessKeyAnswer
ROUTES = [
    Route("GET", "/projects", get_projects, responses.Page[_ONE]),
    Route("GET", "/projects/{slug}", get_project, _ONE),
    Route(
        "PUT",
        "/projects/{slug}",
        put_project,
        _ONE,
        "server",
        requests.ProjectBody,
        None,
        (200, 201),
        headers=("If-Match", "If-None-Match"),
    ),
    Route("DELETE", "/projects/{slug}", delete_project, None, "server", None, None, (204,), headers=("If-Match",)),
    Route("GET", "/keys", get_keys, responses.Page[_KEY], "write", query=requests.ProjectPage),
    Route("POST", "/keys", post_key, _KEY, "write", requests.NewKey, None, (201,), headers=("Idempotency-Key",)),
    Route("DELETE", "/keys/{id}", delete_key, None, "write", None, None, (204,)),
]
