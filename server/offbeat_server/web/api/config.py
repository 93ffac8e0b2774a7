"""The whole estate in one request: applied, and exported as `apply` reads it back."""

import asyncio
from typing import Any

from offbeat_server.db.pool import Record
from offbeat_server.db.read_models import overview
from offbeat_server.db.repositories import projects, windows
from offbeat_server.web.api import config_apply
from offbeat_server.web.api.channels import channel_answer
from offbeat_server.web.api.projects import project_answer
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.framework.params import project_id_for_list
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.framework.routing import ApiReply, Call, Route

BODY_BYTES_MAX = 32_000_000
_ROWS = 500  # of an export, written in one go
_ANSWERED_ONLY = ("created_at", "updated_at", "badge_key", "failing_since", "failing_why")


async def post_apply(call: Call[config_apply.ApplyBody, None]) -> ApiReply:
    """Create and change projects, channels, windows and monitors: all or nothing.

    With `prune` what is not listed is deleted, but for projects and the channel `log`. The answer says what changed,
    field by field; with `dry_run` what would change.
    """
    body, own = call.body, call.principal.project
    if own is not None and "project" not in body.model_fields_set:
        body = body.model_copy(update={"project": own})
    return ApiReply(await config_apply.apply(call.deps, body, call.principal.actor, own))


async def get_export(call: Call[None, requests.InProject]) -> ApiReply:
    """All definitions of one project or of all, with keys. Secrets of channels are masked."""
    if not call.principal.sees_secrets:
        raise ApiError(403, "An export holds ping keys; it needs a key with the role admin.")
    project_id = await project_id_for_list(call, call.query.project)
    pool = call.deps.pool
    all_projects = [row for row in await projects.all_projects(pool) if project_id in (None, row["id"])]
    channels = await projects.all_channels(pool, project_id)
    all_windows = await windows.all_windows(pool, project_id)
    monitors: list[dict[str, Any]] = []
    after = (0, "")
    while rows := await overview.exported(pool, project_id, after, _ROWS):
        monitors += [_monitor(row) for row in rows]
        after = (rows[-1]["project_id"], rows[-1]["slug"])
        await asyncio.sleep(0)
    return ApiReply(
        {
            "projects": [_plain(project_answer(call, row)) for row in all_projects],
            "channels": [_plain(channel_answer(row)) for row in channels],
            "windows": [{"slug": row["slug"], "project": row["project"], **row["definition"]} for row in all_windows],
            "monitors": monitors,
        }
    )


def _monitor(row: Record) -> dict[str, Any]:
    """A monitor as `apply` reads it: what is at its default is left out."""
    keys = row["keys"] or []
    monitor = {
        "slug": row["slug"],
        "project": row["project"],
        **({"name": row["name"]} if row["name"] != row["slug"] else {}),
        **({"tags": row["tags"]} if row["tags"] else {}),
        **row["definition"],
        **({"paused": True} if row["paused"] else {}),
        "key": next((key["key"] for key in keys if key["main"]), None),
    }
    others = [
        {name: key[name] for name in ("key", "signal", "stage") if key[name] is not None}
        for key in keys
        if not key["main"]
    ]
    if others:
        monitor["keys"] = others
    return monitor


def _plain(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in _ANSWERED_ONLY and value is not None}


ROUTES = [
    Route(
        "POST",
        "/apply",
        post_apply,
        responses.ApplyAnswer,
        "write",
        config_apply.ApplyBody,
        body_bytes_max=BODY_BYTES_MAX,
    ),
    Route("GET", "/export", get_export, responses.EstateAnswer, "read", query=requests.InProject),
]
