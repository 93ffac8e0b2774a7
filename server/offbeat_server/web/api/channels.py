"""Channels: destinations of alerts. Their secrets are masked, and a mask that is sent back keeps the secret."""

from typing import Any

from offbeat_server.db.repositories import projects as stored
from offbeat_server.services import channels, documents
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.api.schemas.answers import channel_answer
from offbeat_server.web.framework.params import (
    expected_rev_by_tag,
    new_slug_in,
    number_in,
    project_id_for_list,
    project_of,
    slug_in,
    tag_of,
)
from offbeat_server.web.framework.problems import not_found
from offbeat_server.web.framework.routing import ApiReply, Call, Route


async def put_channel(call: Call[documents.ChannelBody, requests.InProject]) -> ApiReply:
    """Create or replace a channel: its kind, and the fields of that kind beside it."""
    slug, project = new_slug_in(call), await project_of(call, call.query.project)
    command = channels.PutChannel(project.id, slug, call.body, await _expected_rev(call, project.id, slug))
    put = await channels.put_channel(call.context, command, call.actor)
    return await _channel(call, project.id, slug, created=put.created, new_secret=put.new_secret)


async def post_secret(call: Call[requests.NewSecretBody, requests.InProject]) -> ApiReply:
    """Generate a signing secret for a webhook channel. The answer shows it once, in `new_secret`.

    A message then has one signature for each secret, at most five. So the receiver can change to the new secret, and a
    repeated request whose first answer was lost does no harm. Without `keep_former` only the new one signs.
    """
    slug, project = slug_in(call, "channel"), await project_of(call, call.query.project)
    expected = await _expected_rev(call, project.id, slug)
    command = channels.GenerateSecret(project.id, slug, call.body.keep_former, expected)
    secret = await channels.generate_secret(call.context, command, call.actor)
    return await _channel(call, project.id, slug, created=True, new_secret=secret)


async def get_channel(call: Call[None, requests.InProject]) -> ApiReply:
    """A channel."""
    return await _channel(call, (await project_of(call, call.query.project)).id, slug_in(call, "channel"))


async def get_channels(call: Call[None, requests.ProjectPage]) -> ApiReply:
    """All channels of one project, or of all that the key may see; never more than one page."""
    project_id = await project_id_for_list(call, call.query.project)
    rows = await stored.all_channels(call.deps.pool, project_id)
    return ApiReply({"items": [channel_answer(row) for row in rows], "next_cursor": None})


async def delete_channel(call: Call[None, requests.InProject]) -> ApiReply:
    """Delete a channel. Refused while a monitor names it."""
    slug, project = slug_in(call, "channel"), await project_of(call, call.query.project)
    command = channels.DeleteChannel(project.id, slug, await _expected_rev(call, project.id, slug))
    await channels.delete_channel(call.context, command, call.actor)
    return ApiReply(None)


async def test_channel(call: Call[None, requests.InProject]) -> ApiReply:
    """Send a test message and wait up to 20 s for the result of its first attempt."""
    slug, project = slug_in(call, "channel"), await project_of(call, call.query.project)
    tested = await channels.send_test(call.context, channels.SendTest(project.id, slug), call.actor)
    return ApiReply({"id": tested.alert_id, "state": tested.state, "attempts": tested.attempts, "error": tested.error})


async def resend_alert(call: Call[None, None]) -> ApiReply:
    """Send an alert again, by itself: one that was given up, that expired, or that was lost after its delivery."""
    command = channels.ResendAlert(number_in(call, "alert"), call.principal.project_id)
    await channels.resend_alert(call.context, command)
    return ApiReply(None)


async def _expected_rev(call: Call[Any, Any], project_id: int, slug: str) -> int | None:
    return await expected_rev_by_tag(
        call, lambda: stored.find_channel(call.deps.pool, project_id, slug), channel_answer
    )


async def _channel(
    call: Call[Any, Any], project_id: int, slug: str, created: bool = False, new_secret: str | None = None
) -> ApiReply:
    row = await stored.find_channel(call.deps.pool, project_id, slug)
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
        documents.ChannelBody,
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
        requests.NewSecretBody,
        _IN,
        (201,),
        headers=("If-Match",),
    ),
    Route("POST", "/channels/{slug}/test", test_channel, responses.TestAnswer, "write", None, _IN),
    Route("POST", "/alerts/{id}/resend", resend_alert, None, "write", None, None, (204,)),
]
