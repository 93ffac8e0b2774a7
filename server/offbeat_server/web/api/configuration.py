"""The whole configuration in one request: applied, and exported as `apply` reads it back."""

from offbeat_server.services import config_apply, config_export
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.framework.params import project_id_for_list
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.framework.routing import ApiReply, Call, Route

BODY_BYTES_MAX = 32_000_000


async def post_apply(call: Call[config_apply.ApplyBody, None]) -> ApiReply:
    """Create and change projects, channels, windows and monitors: all or nothing.

    With `prune` what is not listed is deleted, except for projects and the channel `log`. The answer says what changed,
    field by field; with `dry_run` what would change.
    """
    body, own = call.body, call.principal.project
    if own is not None and "project" not in body.model_fields_set:
        body = body.model_copy(update={"project": own})
    command = config_apply.ApplyConfig(body, only_project=own)
    return ApiReply(await config_apply.apply(call.context, command, call.actor))


async def get_export(call: Call[None, requests.InProject]) -> ApiReply:
    """All definitions of one project or of all, with keys. Secrets of channels are masked."""
    if not call.principal.sees_secrets:
        raise ApiError(403, "An export holds ping keys; it needs a key with the role admin.")
    project_id = await project_id_for_list(call, call.query.project)
    return ApiReply(await config_export.export(call.context, project_id))


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
    Route("GET", "/export", get_export, responses.ExportAnswer, "read", query=requests.InProject),
]
