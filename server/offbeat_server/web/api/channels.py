"""Channels: where alerts go. What is secret in them is masked, and a mask that is sent back stays as it is."""

import asyncio
from typing import Any

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import DefinitionError, Problem
from offbeat_server.db.pool import Record
from offbeat_server.db.read_models import history
from offbeat_server.db.repositories import outbox, projects
from offbeat_server.db.repositories.changes import changing
from offbeat_server.engine.model.enums import AlertState
from offbeat_server.notify.channels.registry import dump_channel, read_channel, show_channel
from offbeat_server.notify.channels.webhook import GENERATE, SECRETS_MAX, Webhook, new_secret
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.api.schemas.monitor import instant
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

TEST_WAIT_S = 20.0
_LOOK_EVERY_S = 0.1


async def put_channel(call: Call[requests.ChannelBody, requests.InProject]) -> ApiReply:
    """Create or replace a channel: its kind, and the fields of that kind beside it."""
    slug, project = new_slug_in(call), await project_of(call, call.query.project)
    async with changing(call.deps.pool) as connection:
        row = await projects.find_channel(connection, project.id, slug)
        check_tag(call, row and channel_answer(row))
        definition = stored_form(call.body, row)
        wanted = projects.WantedChannel(project.id, slug, call.body.kind, call.body.default, definition)
        change = await projects.put_channel(connection, wanted, call.principal.actor, show_channel)
    if change.before != change.after:
        call.deps.changed()
    generated = generated_secret(call.body, row, definition)
    return await _channel(call, project.id, slug, created=change.before is None, new_secret=generated)


async def post_secret(call: Call[requests.NewSecret, requests.InProject]) -> ApiReply:
    """Generate a signing secret for a webhook channel. The answer shows it once, in `new_secret`.

    The former secrets still sign too, five in all, so that the receiver can change over, and so that a repeated request
    whose first answer was lost breaks nothing. Without `keep_former` only the new one signs.
    """
    slug, project = slug_in(call, "channel"), await project_of(call, call.query.project)
    async with changing(call.deps.pool) as connection:
        row = await projects.find_channel(connection, project.id, slug)
        if row is None:
            raise not_found(f"channel {slug}")
        check_tag(call, channel_answer(row))
        if row["kind"] != Webhook.kind:
            raise ApiError(409, f"{slug} is of kind {row['kind']}; only webhook channels have signing secrets.")
        secret = new_secret()
        former = row["definition"].get("secrets", [])[: SECRETS_MAX - 1] if call.body.keep_former else []
        definition = {**row["definition"], "secrets": [secret, *former]}
        wanted = projects.WantedChannel(project.id, slug, row["kind"], row["is_default"], definition)
        await projects.put_channel(connection, wanted, call.principal.actor, show_channel)
    call.deps.changed()
    return await _channel(call, project.id, slug, created=True, new_secret=secret)


async def get_channel(call: Call[None, requests.InProject]) -> ApiReply:
    """A channel."""
    return await _channel(call, (await project_of(call, call.query.project)).id, slug_in(call, "channel"))


async def get_channels(call: Call[None, requests.ProjectPage]) -> ApiReply:
    """All channels of one project, or of all that the key may see; never more than one page."""
    project_id = await project_id_for_list(call, call.query.project)
    rows = await projects.all_channels(call.deps.pool, project_id)
    return ApiReply({"items": [channel_answer(row) for row in rows], "next_cursor": None})


async def delete_channel(call: Call[None, requests.InProject]) -> ApiReply:
    """Delete a channel. Refused while a monitor names it."""
    slug, project = slug_in(call, "channel"), await project_of(call, call.query.project)
    async with changing(call.deps.pool) as connection:
        row = await projects.find_channel(connection, project.id, slug)
        if row is None:
            raise not_found(f"channel {slug}")
        check_tag(call, channel_answer(row))
        if users := await projects.users_of_channel(connection, project.id, slug):
            raise ApiError(409, f"{slug} is named by {', '.join(users)}: change them first.")
        await projects.delete_channel(connection, row, call.principal.actor, show_channel)
    call.deps.changed()
    return ApiReply(None)


async def test_channel(call: Call[None, requests.InProject]) -> ApiReply:
    """Send a test message and wait up to 20 s for the result of its first attempt."""
    slug, project = slug_in(call, "channel"), await project_of(call, call.query.project)
    row = await projects.find_channel(call.deps.pool, project.id, slug)
    if row is None:
        raise not_found(f"channel {slug}")
    alert_id = await history.add_test_alert(call.deps.pool, project.id, row["id"], call.principal.actor)
    call.deps.wake_dispatcher()
    until = monotonic() + TEST_WAIT_S
    while True:
        alert = await history.find_alert(call.deps.pool, alert_id)
        if alert is None:
            raise not_found("such alert any more")
        if alert["state"] != AlertState.PENDING or alert["error"] or monotonic() > until:
            said = {name: alert[name] for name in ("state", "attempts", "error")}
            return ApiReply({"id": alert_id, **said})
        await asyncio.sleep(_LOOK_EVERY_S)


async def resend_alert(call: Call[None, None]) -> ApiReply:
    """Send an alert again, by itself: one that was given up, that expired, or that was lost after its delivery."""
    alert_id = number_in(call, "alert")
    alert = await history.find_alert(call.deps.pool, alert_id)
    if alert is None or call.principal.project_id not in (None, alert["project_id"]):
        raise not_found(f"alert {alert_id}")
    if not await outbox.resend(call.deps.pool, alert_id):
        raise ApiError(409, "The alert waits to be sent anyway.")
    call.deps.wake_dispatcher()
    return ApiReply(None)


def stored_form(body: requests.ChannelBody, row: Record | None, path: str = "") -> dict[str, Any]:
    """The definition to store; a masked secret stands for the stored one. Raises DefinitionError that names fields."""
    stored = row["definition"] if row is not None and row["kind"] == body.kind else None
    try:
        return dump_channel(read_channel(body.kind, body.fields(), stored))
    except DefinitionError as error:
        raise DefinitionError(
            [Problem(f"{path}.{p.field}" if path else p.field, p.reason) for p in error.problems]
        ) from None


def generated_secret(body: requests.ChannelBody, row: Record | None, definition: dict[str, Any]) -> str | None:
    """The signing secret that was generated for the definition to store; None if none was."""
    if body.kind != Webhook.kind or body.fields().get("secrets") != [GENERATE]:
        return None
    secret: str = definition["secrets"][0]
    return None if row is not None and secret in row["definition"].get("secrets", ()) else secret


def channel_answer(row: Record) -> dict[str, Any]:
    """A channel as it is shown."""
    return {
        **show_channel(row["kind"], row["definition"]),
        "slug": row["slug"],
        "project": row["project"],
        "kind": row["kind"],
        "default": row["is_default"],
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
        "failing_since": instant(row["failing_since"]),
        "failing_why": row["failing_why"],
    }


async def _channel(
    call: Call[Any, Any], project_id: int, slug: str, created: bool = False, new_secret: str | None = None
) -> ApiReply:
    row = await projects.find_channel(call.deps.pool, project_id, slug)
    if row is None:
        raise not_found(f"channel {slug}")
    answer = channel_answer(row)
    shown = answer if new_secret is None else {**answer, "new_secret": new_secret}
    return ApiReply(shown, 201 if created else 200, tag_of(answer))


_IN = requests.InProject
_ONE = responses.ChannelAnswer
_CONDITIONS = ("If-Match", "If-None-Match")
ROUTES = [
    Route("GET", "/channels", get_channels, responses.Page[_ONE], query=requests.ProjectPage),
    Route("GET", "/channels/{slug}", get_channel, _ONE, query=_IN),
    Route(
        "PUT",
        "/channels/{slug}",
        put_channel,
        _ONE,
        "write",
        requests.ChannelBody,
        _IN,
        (200, 201),
        headers=_CONDITIONS,
    ),
    Route("DELETE", "/channels/{slug}", delete_channel, None, "write", None, _IN, (204,), headers=("If-Match",)),
    Route(
        "POST",
        "/channels/{slug}/secrets",
        post_secret,
        _ONE,
        "write",
        requests.NewSecret,
        _IN,
        (201,),
        headers=("If-Match",),
    ),
    Route("POST", "/channels/{slug}/test", test_channel, responses.TestAnswer, "write", None, _IN),
    Route("POST", "/alerts/{id}/resend", resend_alert, None, "write", None, None, (204,)),
]
