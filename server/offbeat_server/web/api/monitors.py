"""Monitors: defined, shown, listed, paused, snoozed, pinged and deleted."""

from typing import Any

from offbeat_server.common.clock import to_datetime, to_micros
from offbeat_server.common.errors import DefinitionError
from offbeat_server.db.repositories.changes import changing
from offbeat_server.db.repositories.definitions import alter_monitor, delete_monitors, put_monitors
from offbeat_server.db.repositories.references import dangling, reference_problems
from offbeat_server.engine.model.ping import Ping
from offbeat_server.ingest.protocols.slugs import slug_of
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.api.schemas.monitor import one, writer
from offbeat_server.web.framework.idempotency import REPLAYED, created_before, remember
from offbeat_server.web.framework.monitor_search import MonitorFilter, find_monitors
from offbeat_server.web.framework.pagination import MONITORS
from offbeat_server.web.framework.params import (
    ProjectRef,
    if_rev_in,
    monitor_in,
    new_slug_in,
    project_id_for_list,
    project_of,
    slug_in,
    tag_of_rev,
)
from offbeat_server.web.framework.problems import ApiError, not_found
from offbeat_server.web.framework.routing import ApiReply, Call, Route


async def put_monitor(call: Call[requests.MonitorBody, requests.InProject]) -> ApiReply:
    """Create or replace a monitor.

    Fields that are left out get their defaults. Keys that are not named stay. With `If-Match` only the revision that
    was read is replaced; with `If-None-Match: *` a monitor is only created.
    """
    slug, project = new_slug_in(call), await project_of(call, call.query.project)
    wanted = call.body.wanted(project.id, slug, if_rev=if_rev_in(call))
    async with changing(call.deps.pool) as connection:
        written = await put_monitors(connection, [wanted], call.principal.actor)
        if problems := await reference_problems(connection, [wanted]):
            raise DefinitionError(problems)
    if written:
        call.deps.changed()
    return await _monitor(call, project, slug, created=bool(written) and written[0].before is None)


async def post_monitor(call: Call[requests.NewMonitor, requests.InProject]) -> ApiReply:
    """Create a monitor. An omitted slug is generated from the name. Safe to repeat with an Idempotency-Key."""
    project = await project_of(call, call.query.project)
    slug = call.body.slug or _slug_from(call.body.name)
    wanted = call.body.wanted(project.id, slug, if_rev=0)
    what = f"monitor in {project.slug}"
    async with changing(call.deps.pool) as connection:
        earlier = await created_before(connection, call, what)
        if earlier is None:
            await put_monitors(connection, [wanted], call.principal.actor)
            if problems := await reference_problems(connection, [wanted]):
                raise DefinitionError(problems)
            await remember(connection, call, what, slug)
    if earlier is not None:
        reply = await _monitor(call, project, earlier, created=True)
        return reply._replace(headers=reply.headers | REPLAYED)
    call.deps.changed()
    return await _monitor(call, project, slug, created=True)


async def get_monitor(call: Call[None, requests.InProject]) -> ApiReply:
    """A monitor: its definition and its current state."""
    return await _monitor(call, await project_of(call, call.query.project), slug_in(call))


async def delete_monitor(call: Call[None, requests.InProject]) -> ApiReply:
    """Delete a monitor and its keys. Refused while another monitor refers to it."""
    slug, project = slug_in(call), await project_of(call, call.query.project)
    async with changing(call.deps.pool) as connection:
        deleted = await delete_monitors(connection, [(project.id, slug)], call.principal.actor, if_rev_in(call))
        if not deleted:
            raise not_found(f"monitor {slug}")
        if problems := await dangling(connection, [(project.id, slug)]):
            raise ApiError(409, "; ".join(problem.reason for problem in problems), problems)
    call.deps.changed()
    return ApiReply(None)


async def get_monitors(call: Call[None, requests.MonitorsQuery]) -> ApiReply:
    """Monitors by project and slug, of one project or of all that the key may see."""
    query = call.query
    project_id = await project_id_for_list(call, query.project)
    write = await writer(call, project_id)
    wanted = MonitorFilter(project_id, set(query.status), query.tag, query.q)
    page = await find_monitors(call.deps.pool, wanted, MONITORS.place(query.cursor), query.limit, write.now)
    return ApiReply({"items": [write.write(row, seen) for row, seen in page.rows], "next_cursor": page.next_cursor})


async def pause(call: Call[None, requests.InProject]) -> ApiReply:
    """Pause monitoring until it is resumed. Pings are still recorded."""
    return await _alter(call, "pause", paused=True)


async def resume(call: Call[None, requests.InProject]) -> ApiReply:
    """Resume monitoring. Deadlines apply again after one period and the grace time."""
    return await _alter(call, "resume", paused=False)


async def snooze(call: Call[requests.Snooze, requests.InProject]) -> ApiReply:
    """Hold back alerts until an instant or for a duration; with neither, end the snooze."""
    until = to_micros(call.body.until) if call.body.until and call.body.until.tzinfo else None
    if call.body.until is not None and until is None:
        raise ApiError(422, "until: give the offset from UTC, such as Z.")
    if call.body.duration is not None:
        until = call.deps.now() + call.body.duration
    return await _alter(call, "snooze", snoozed_until=None if until is None else to_datetime(until))


async def ping(call: Call[requests.PingBody, requests.InProject]) -> ApiReply:
    """Ping a monitor by its slug; answered once it is committed. A key of the role ping is enough."""
    project = await project_of(call, call.query.project)
    monitor_id = await monitor_in(call, call.query.project)
    await call.deps.append(monitor_id, project.id, Ping(**call.body.model_dump()))
    return ApiReply(None)


async def _monitor(call: Call[Any, Any], project: ProjectRef, slug: str, created: bool = False) -> ApiReply:
    answer = await one(call, project.id, slug)
    return ApiReply(answer, 201 if created else 200, tag_of_rev(answer["rev"]))


async def _alter(call: Call[Any, requests.InProject], kind: str, **fields: Any) -> ApiReply:
    slug, project = slug_in(call), await project_of(call, call.query.project)
    async with changing(call.deps.pool) as connection:
        change = await alter_monitor(connection, project.id, slug, call.principal.actor, kind, **fields)
    if change is None:
        raise not_found(f"monitor {slug}")
    call.deps.changed()
    return await _monitor(call, project, slug)


def _slug_from(name: str | None) -> str:
    slug = slug_of((name or "")[:100])
    if slug is None:
        raise ApiError(422, "Give a slug, or a name with a letter or digit from which one can be made.")
    return slug


_IN = requests.InProject
_ONE = responses.MonitorAnswer
ROUTES = [
    Route("GET", "/monitors", get_monitors, responses.Page[_ONE], query=requests.MonitorsQuery),
    Route(
        "POST",
        "/monitors",
        post_monitor,
        _ONE,
        "write",
        requests.NewMonitor,
        _IN,
        (201,),
        headers=("Idempotency-Key",),
    ),
    Route("GET", "/monitors/{slug}", get_monitor, _ONE, query=_IN),
    Route(
        "PUT",
        "/monitors/{slug}",
        put_monitor,
        _ONE,
        "write",
        requests.MonitorBody,
        _IN,
        (200, 201),
        headers=("If-Match", "If-None-Match"),
    ),
    Route("DELETE", "/monitors/{slug}", delete_monitor, None, "write", None, _IN, (204,), headers=("If-Match",)),
    Route("POST", "/monitors/{slug}/pause", pause, _ONE, "write", None, _IN),
    Route("POST", "/monitors/{slug}/resume", resume, _ONE, "write", None, _IN),
    Route("POST", "/monitors/{slug}/snooze", snooze, _ONE, "write", requests.Snooze, _IN, body_required=False),
    Route("POST", "/monitors/{slug}/ping", ping, None, "ping", requests.PingBody, _IN, (204,), body_required=False),
]
