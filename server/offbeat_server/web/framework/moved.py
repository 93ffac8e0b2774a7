"""Requests for a monitor by the address that it had before it was renamed or moved.

Pages redirect to its present address. The API answers 404 with a sentence that names it: a program should not follow
a redirect with a change.
"""

import re
from typing import NamedTuple

from aiohttp import web

from offbeat_server.db.pool import Pool
from offbeat_server.db.repositories import monitor_moves, projects
from offbeat_server.engine.model.definition import SLUG_PATTERN
from offbeat_server.web.framework.authorization import Principal
from offbeat_server.web.framework.problems import ApiError, api_error_of

_OF_A_MONITOR = "/monitors/{slug}"
_SLUG = re.compile(SLUG_PATTERN)


class PresentAddress(NamedTuple):
    """The present address of a monitor. `visible`: whether the key of the request may see that project."""

    project: str
    slug: str
    visible: bool


async def present_address(
    pool: Pool, principal: Principal, request: web.Request, template: str, error: Exception
) -> PresentAddress | None:
    """The present address of a monitor that a request did not find. None: none was there, or another thing is missing.

    `template`: the path of the route, such as `/monitors/{slug}/runs`.
    """
    if not template.startswith(_OF_A_MONITOR) or not _SLUG.fullmatch(request.match_info["slug"]):
        return None
    slug, refusal = request.match_info["slug"], api_error_of(error)
    if refusal is None or refusal.status != 404 or refusal.detail != f"There is no monitor {slug}.":
        return None
    project_id = principal.project_id
    if project_id is None:
        named = request.query.get("project") or "default"
        row = await projects.find_project(pool, named) if _SLUG.fullmatch(named) else None
        project_id = row["id"] if row is not None else 0
    there = await monitor_moves.now_at(pool, project_id, slug)
    if there is None:
        return None
    return PresentAddress(there["project"], there["slug"], principal.project_id in (None, there["project_id"]))


def with_present_address(error: Exception, address: PresentAddress | None) -> Exception:
    """The error, with a sentence about the present address if there is one."""
    refusal = api_error_of(error)
    if refusal is None or address is None:
        return error
    new = f"It is {address.slug} in the project {address.project} now." if address.visible else "It was moved."
    return ApiError(refusal.status, f"{refusal.detail} {new}")
