"""The subject of a request: its project, the slug or number in its path, and the conditions in its headers.

Every handler reads them with these functions; a value that cannot be read is refused here, by name.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import orjson

from offbeat_server.common.errors import Problem
from offbeat_server.db.pool import Record
from offbeat_server.db.read_models import overview
from offbeat_server.db.repositories import projects
from offbeat_server.db.repositories.changes import ANY_REV, NO_REV, REV_MAX
from offbeat_server.engine.model.definition import SLUG_PATTERN
from offbeat_server.engine.model.definition_problems import SHAPES
from offbeat_server.services.repeatable_creation import Repeatable
from offbeat_server.web.framework.problems import ApiError, not_found
from offbeat_server.web.framework.routing import Call, Caller

_SLUG = re.compile(SLUG_PATTERN)
REPLAYED = {"Idempotency-Replayed": "true"}
_ID = re.compile(r"(\d{1,9})-(\d{1,9})")


class ProjectRef(NamedTuple):
    """The project of a caller."""

    id: int
    slug: str


async def project_of(caller: Caller, slug: str | None) -> ProjectRef:
    """The project that is named, else the key's own, else `default`. One that the key may not see does not exist."""
    own = caller.principal.project
    if own is not None and slug in (None, own):
        assert caller.principal.project_id is not None
        return ProjectRef(caller.principal.project_id, own)
    slug = slug or "default"
    row = None if own is not None else await projects.find_project(caller.deps.pool, slug)
    if row is None:
        raise not_found(f"project {slug}")
    return ProjectRef(row["id"], slug)


async def project_id_for_list(caller: Caller, slug: str | None) -> int | None:
    """The project that is named or the key's own; None: all."""
    if slug is None and caller.principal.project_id is None:
        return None
    return (await project_of(caller, slug)).id


def slug_in(caller: Caller, what: str = "monitor") -> str:
    """The slug in the path of something that exists."""
    slug = caller.request.match_info["slug"]
    if not _SLUG.fullmatch(slug):
        raise not_found(f"{what} {slug[:100]}")
    return slug


def new_slug_in(caller: Caller) -> str:
    """The slug in the path of something that may be made."""
    return new_slug(caller.request.match_info["slug"])


def new_slug(slug: str) -> str:
    """The slug of something that may be made, if it is one. Raises ApiError (422)."""
    if not _SLUG.fullmatch(slug):
        reason = SHAPES["slug"]
        raise ApiError(422, f"slug: {reason}", [Problem("slug", reason)])
    return slug


async def monitor_in(caller: Caller, project: str | None) -> int:
    """The id of the monitor in the path."""
    slug = slug_in(caller)
    found = await overview.monitor_id(caller.deps.pool, (await project_of(caller, project)).id, slug)
    if found is None:
        raise not_found(f"monitor {slug}")
    return found


def number_in(caller: Caller, what: str) -> int:
    """The number in the path."""
    text = caller.request.match_info["id"]
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise not_found(f"{what} {text[:30]}")
    return int(text)


def pair_in(caller: Caller, what: str) -> tuple[int, int]:
    """Monitor and number of a run or an incident (`what`): `{monitor}-{number}`."""
    text = caller.request.match_info["id"]
    match = _ID.fullmatch(text)
    if match is None:
        raise not_found(f"{what} {text[:30]}: its id must have the form MONITOR-NUMBER, such as 12-3")
    return int(match[1]), int(match[2])


def allowed(caller: Caller, row: Record | None, what: str) -> Record:
    """The row of the run or incident (`what`) in the path, if there is one and the key may see it."""
    if row is None or caller.principal.project_id not in (None, row["project_id"]):
        raise not_found(f"{what} {caller.request.match_info['id']}")
    return row


def expected_rev_in(caller: Caller) -> int | None:
    """The revision that a monitor must have by the conditions of the request; None: no condition."""
    if caller.request.headers.get("If-None-Match", "").strip() == "*":
        return NO_REV
    match = caller.request.headers.get("If-Match")
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


async def expected_rev_by_tag(
    caller: Caller, find: Callable[[], Awaitable[Record | None]], document: Callable[[Record], object]
) -> int | None:
    """The revision that an object must have whose ETag is made of its `document`; None: the request has no condition.

    The tag of If-Match is compared with the row that `find` reads; the use case then expects that row's revision.
    Raises ApiError (412) if the tag is another one.
    """
    if caller.request.headers.get("If-None-Match", "").strip() == "*":
        return NO_REV
    match = caller.request.headers.get("If-Match")
    if match is None:
        return None
    if match.strip() == "*":
        return ANY_REV
    row = await find()
    if row is None:
        return REV_MAX  # an object that another request creates now has another tag
    if match.strip() != tag_of(document(row))["ETag"]:
        raise ApiError(
            412, "The object was changed by another request: read it again, then send the new ETag in If-Match."
        )
    rev: int = row["rev"]
    return rev


def repeatable_in(call: Call[Any, Any], what: str) -> Repeatable | None:
    """Return the Idempotency-Key under which `what` is created, if the client sent one. Raises ApiError (400)."""
    key = call.request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not (0 < len(key) <= 255 and key.isprintable()):
        raise ApiError(400, "An Idempotency-Key has 1 to 255 printable characters.")
    content = orjson.dumps([call.body.model_dump(mode="json"), str(call.request.rel_url.query_string)])
    return Repeatable(f"{what} by {call.principal.actor}", key, hashlib.sha256(content).digest())
