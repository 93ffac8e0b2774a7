"""The subject of a call: its project, the slug or number in its path, and the conditions in its headers.

Every handler reads them with these functions; a value that cannot be read is refused here, by name.
"""

import hashlib
import re
from typing import Any, NamedTuple

import orjson

from offbeat_server.common.errors import Problem
from offbeat_server.db.pool import Record
from offbeat_server.db.read_models import overview
from offbeat_server.db.repositories import projects
from offbeat_server.db.repositories.changes import REV_MAX
from offbeat_server.engine.model.definition import SLUG_PATTERN
from offbeat_server.engine.model.definition_problems import SHAPES
from offbeat_server.web.framework.problems import ApiError, not_found
from offbeat_server.web.framework.routing import Call

_SLUG = re.compile(SLUG_PATTERN)
_ID = re.compile(r"(\d{1,9})-(\d{1,9})")
ANY_REV = -1
NO_REV = 0


class ProjectRef(NamedTuple):
    """The project of a call."""

    id: int
    slug: str


async def project_of(call: Call[Any, Any], slug: str | None) -> ProjectRef:
    """The project that is named, else the key's own, else `default`. One that the key may not see does not exist."""
    own = call.principal.project
    if own is not None and slug in (None, own):
        assert call.principal.project_id is not None
        return ProjectRef(call.principal.project_id, own)
    slug = slug or "default"
    row = None if own is not None else await projects.find_project(call.deps.pool, slug)
    if row is None:
        raise not_found(f"project {slug}")
    return ProjectRef(row["id"], slug)


async def project_id_for_list(call: Call[Any, Any], slug: str | None) -> int | None:
    """The project that is named or the key's own; None: all."""
    if slug is None and call.principal.project_id is None:
        return None
    return (await project_of(call, slug)).id


def slug_in(call: Call[Any, Any], what: str = "monitor") -> str:
    """The slug in the path of something that exists."""
    slug = call.request.match_info["slug"]
    if not _SLUG.fullmatch(slug):
        raise not_found(f"{what} {slug[:100]}")
    return slug


def new_slug_in(call: Call[Any, Any]) -> str:
    """The slug in the path of something that may be made."""
    slug = call.request.match_info["slug"]
    if not _SLUG.fullmatch(slug):
        reason = SHAPES["slug"]
        raise ApiError(422, f"slug: {reason}", [Problem("slug", reason)])
    return slug


async def monitor_in(call: Call[Any, Any], project: str | None) -> int:
    """The id of the monitor in the path."""
    slug = slug_in(call)
    found = await overview.monitor_id(call.deps.pool, (await project_of(call, project)).id, slug)
    if found is None:
        raise not_found(f"monitor {slug}")
    return found


def number_in(call: Call[Any, Any], what: str) -> int:
    """The number in the path."""
    text = call.request.match_info["id"]
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise not_found(f"{what} {text[:30]}")
    return int(text)


def pair_in(call: Call[Any, Any], what: str) -> tuple[int, int]:
    """Monitor and number of a run or an incident: `{monitor}-{number}`."""
    found = _ID.fullmatch(call.request.match_info["id"])
    if found is None:
        raise not_found(what)
    return int(found[1]), int(found[2])


def allowed(call: Call[Any, Any], row: Record | None, what: str) -> Record:
    """The row, if there is one and the key may see it."""
    if row is None or call.principal.project_id not in (None, row["project_id"]):
        raise not_found(what)
    return row


def if_rev_in(call: Call[Any, Any]) -> int | None:
    """The revision that a monitor must have: None any, NO_REV none, ANY_REV some."""
    if call.request.headers.get("If-None-Match", "").strip() == "*":
        return NO_REV
    match = call.request.headers.get("If-Match")
    if match is None:
        return None
    if match.strip() == "*":
        return ANY_REV
    found = re.fullmatch(r'\s*"(\d{1,18})"\s*', match)
    return int(found[1]) if found and int(found[1]) > 0 else REV_MAX  # what is not ours matches nothing


def tag_of_rev(rev: int) -> dict[str, str]:
    """The ETag of a monitor's definition. Its status may change under the same one: answers are never cached."""
    return {"ETag": f'"{rev}"'}


def tag_of(document: object) -> dict[str, str]:
    """The ETag of something that has no revision."""
    digest = hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()
    return {"ETag": f'"{digest[:20]}"'}


def check_tag(call: Call[Any, Any], document: object | None) -> None:
    """Hold If-Match and If-None-Match against what is there (None: nothing). Raises ApiError 412."""
    match, none_match = call.request.headers.get("If-Match"), call.request.headers.get("If-None-Match", "").strip()
    if none_match == "*" and document is not None:
        raise ApiError(412, "It exists already.")
    if match is None:
        return
    if document is None:
        raise ApiError(412, "There is no such thing.")
    if match.strip() not in ("*", tag_of(document)["ETag"]):
        raise ApiError(412, "It was changed meanwhile.")


def idempotency_in(call: Call[Any, Any], what: str) -> tuple[str, str, bytes] | None:
    """Scope, key and the hash of the request, where the client sent an Idempotency-Key."""
    key = call.request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not (0 < len(key) <= 255 and key.isprintable()):
        raise ApiError(400, "An Idempotency-Key has 1 to 255 printable characters.")
    said = orjson.dumps([call.body.model_dump(mode="json"), str(call.request.rel_url.query_string)])
    return f"{what} by {call.principal.actor}", key, hashlib.sha256(said).digest()
