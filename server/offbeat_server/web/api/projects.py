"""Projects: name spaces of monitors and channels, and the access keys to them."""

from typing import Any

from offbeat_server.db.pool import Record
from offbeat_server.db.repositories import access as stored_keys
from offbeat_server.db.repositories import projects as stored
from offbeat_server.services import access_keys, documents, projects
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.api.schemas.answers import key_answer, project_answer
from offbeat_server.web.framework.pagination import ACCESS_KEYS
from offbeat_server.web.framework.params import (
    REPLAYED,
    expected_rev_by_tag,
    new_slug_in,
    number_in,
    project_id_for_list,
    project_of,
    repeatable_in,
    slug_in,
    tag_of,
)
from offbeat_server.web.framework.problems import not_found
from offbeat_server.web.framework.routing import ApiReply, Call, Route


async def get_projects(call: Call[None, None]) -> ApiReply:
    """The projects that the key may see; never more than one page."""
    rows = await stored.all_projects(call.deps.pool)
    seen = [row for row in rows if call.principal.project_id in (None, row["id"])]
    return ApiReply({"items": [_answer(call, row) for row in seen], "next_cursor": None})


async def get_project(call: Call[None, None]) -> ApiReply:
    """A project. An admin sees its ping key."""
    return await _project(call, (await project_of(call, slug_in(call, "project"))).slug)


async def put_project(call: Call[documents.ProjectBody, None]) -> ApiReply:
    """Create or replace a project. An omitted ping key stays unchanged, or is generated."""
    slug = new_slug_in(call)
    command = projects.PutProject(slug, call.body, await _expected_rev(call, slug))
    put = await projects.put_project(call.context, command, call.actor)
    return await _project(call, slug, created=put.created)


async def delete_project(call: Call[None, None]) -> ApiReply:
    """Delete a project without monitors, with its channels and access keys."""
    slug = slug_in(call, "project")
    command = projects.DeleteProject(slug, await _expected_rev(call, slug))
    await projects.delete_project(call.context, command, call.actor)
    return ApiReply(None)


async def get_keys(call: Call[None, requests.ProjectPage]) -> ApiReply:
    """Access keys, also revoked ones; never the keys themselves."""
    project_id = await project_id_for_list(call, call.query.project)
    page = await ACCESS_KEYS.page(
        call.query.limit,
        ACCESS_KEYS.place(call.query.cursor),
        lambda after, limit: stored_keys.keys(call.deps.pool, after, project_id, limit),
    )
    return ApiReply({"items": [key_answer(row) for row in page.rows], "next_cursor": page.next_cursor})


async def post_key(call: Call[requests.NewKey, None]) -> ApiReply:
    """Create an access key. It is shown only in this answer.

    A repetition with the same Idempotency-Key makes no second one, and cannot show the first again.
    """
    project = None
    if call.body.project is not None or call.principal.project is not None:
        project = (await project_of(call, call.body.project)).slug
    command = access_keys.CreateKey(call.body.name, call.body.role, project, repeatable_in(call, "access key"))
    created = await access_keys.create_key(call.context, command, call.actor)
    row = await stored_keys.key_row(call.deps.pool, created.id)
    if row is None:
        raise not_found(f"access key {created.id}: another request revoked it")
    if created.key is None:
        return ApiReply(key_answer(row), 201, REPLAYED)
    return ApiReply({**key_answer(row), "key": created.key}, 201)


async def delete_key(call: Call[None, None]) -> ApiReply:
    """Revoke an access key, immediately and permanently."""
    command = access_keys.RevokeKey(number_in(call, "key"), call.principal.project_id)
    await access_keys.revoke_key(call.context, command, call.actor)
    return ApiReply(None)


async def _expected_rev(call: Call[Any, Any], slug: str) -> int | None:
    return await expected_rev_by_tag(
        call, lambda: stored.find_project(call.deps.pool, slug), lambda row: _answer(call, row)
    )


async def _project(call: Call[Any, Any], slug: str, created: bool = False) -> ApiReply:
    row = await stored.find_project(call.deps.pool, slug)
    if row is None:
        raise not_found(f"project {slug}")
    answer = _answer(call, row)
    return ApiReply(answer, 201 if created else 200, tag_of(answer))


def _answer(call: Call[Any, Any], row: Record) -> dict[str, Any]:
    return project_answer(row, call.principal.sees_secrets)


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
        documents.ProjectBody,
        None,
        (200, 201),
        headers=("If-Match", "If-None-Match"),
    ),
    Route("DELETE", "/projects/{slug}", delete_project, None, "server", None, None, (204,), headers=("If-Match",)),
    Route("GET", "/keys", get_keys, responses.Page[_KEY], "write", query=requests.ProjectPage),
    Route("POST", "/keys", post_key, _KEY, "write", requests.NewKey, None, (201,), headers=("Idempotency-Key",)),
    Route("DELETE", "/keys/{id}", delete_key, None, "write", None, None, (204,)),
]
