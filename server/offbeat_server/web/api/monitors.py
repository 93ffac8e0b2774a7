"""Monitors: defined, shown, listed, paused, snoozed, pinged and deleted."""

from typing import Any

from offbeat_server.common.instants import to_micros
from offbeat_server.db.repositories.monitor_moves import MonitorPlace
from offbeat_server.services import documents, monitor_moves, monitors
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.api.schemas.answers import monitor_answer, monitor_writer
from offbeat_server.web.framework.monitor_status import MonitorFilter, find_monitors
from offbeat_server.web.framework.pagination import MONITORS
from offbeat_server.web.framework.params import (
    REPLAYED,
    ProjectRef,
    expected_rev_in,
    new_slug_in,
    project_id_for_list,
    project_of,
    repeatable_in,
    slug_in,
    tag_of_rev,
)
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.framework.routing import ApiReply, Call, Route


async def put_monitor(call: Call[documents.MonitorBody, requests.InProject]) -> ApiReply:
    """Create or replace a monitor.

    Fields that are left out get their defaults. Keys that are not named stay. With `If-Match` only the revision that
    was read is replaced; with `If-None-Match: *` a monitor is only created.
    """
    slug, project = new_slug_in(call), await project_of(call, call.query.project)
    command = monitors.PutMonitor(project.id, slug, call.body, expected_rev_in(call))
    put = await monitors.put_monitor(call.context, command, call.actor)
    return await _monitor(call, project, slug, created=put.created)


async def post_monitor(call: Call[requests.NewMonitor, requests.InProject]) -> ApiReply:
    """Create a monitor. An omitted slug is generated from the name. Safe to repeat with an Idempotency-Key."""
    project = await project_of(call, call.query.project)
    repeatable = repeatable_in(call, f"monitor in {project.slug}")
    command = monitors.CreateMonitor(project.id, call.body.slug, call.body, repeatable)
    created = await monitors.create_monitor(call.context, command, call.actor)
    reply = await _monitor(call, project, created.slug, created=True)
    return reply._replace(headers=reply.headers | REPLAYED) if created.repeated else reply


async def get_monitor(call: Call[None, requests.InProject]) -> ApiReply:
    """A monitor: its definition and its current state."""
    return await _monitor(call, await project_of(call, call.query.project), slug_in(call))


async def delete_monitor(call: Call[None, requests.InProject]) -> ApiReply:
    """Delete a monitor and its keys. Refused while another monitor refers to it."""
    slug, project = slug_in(call), await project_of(call, call.query.project)
    command = monitors.DeleteMonitor(project.id, slug, expected_rev_in(call))
    await monitors.delete_monitor(call.context, command, call.actor)
    return ApiReply(None)


async def get_monitors(call: Call[None, requests.MonitorsQuery]) -> ApiReply:
    """Monitors by project and slug, of one project or of all that the key may see."""
    query = call.query
    project_id = await project_id_for_list(call, query.project)
    write = await monitor_writer(call, project_id)
    wanted = MonitorFilter(project_id, set(query.status), query.tag, query.q)
    page = await find_monitors(call.deps.pool, wanted, MONITORS.place(query.cursor), query.limit, write.now)
    return ApiReply({"items": [write.write(row, seen) for row, seen in page.rows], "next_cursor": page.next_cursor})


async def move(call: Call[requests.NewAddress, requests.InProject]) -> ApiReply:
    """Rename a monitor, or move it to another project. Its id, keys, runs, incidents and history stay.

    Pings and links by the former slug still reach it, until another monitor takes that slug. In the same project,
    everything that names the monitor gets the new slug; the answer lists it. Into another project, the channels that
    the monitor names must exist there, and a key that is for one project is not enough.
    """
    slug, project = slug_in(call), await project_of(call, call.query.project)
    to = project if call.body.project is None else await project_of(call, call.body.project)
    new = MonitorPlace(to.id, to.slug, call.body.slug or slug)
    command = monitor_moves.MoveMonitor(
        MonitorPlace(project.id, project.slug, slug), new, call.body.drop_references, expected_rev_in(call)
    )
    done = await monitor_moves.move_monitor(call.context, command, call.actor)
    reply = await _monitor(call, to, new.slug)
    references = [each._asdict() for each in done.references]
    return reply._replace(value={"monitor": reply.value, "references": references})


async def pause(call: Call[requests.Pause, requests.InProject]) -> ApiReply:
    """Pause monitoring until it is resumed. Pings are still recorded, and the open incident stays open.

    No alert is sent before the resume, except the end of an incident. Failures until then are reported at the resume.
    """
    return await _pause(call, paused=True, drop=call.body.drop)


async def resume(call: Call[None, requests.InProject]) -> ApiReply:
    """Resume monitoring. Deadlines apply again after one period and the grace time."""
    return await _pause(call, paused=False)


async def snooze(call: Call[requests.Snooze, requests.InProject]) -> ApiReply:
    """Hold back alerts until an instant or for a duration; with neither, end the snooze."""
    until = to_micros(call.body.until) if call.body.until and call.body.until.tzinfo else None
    if call.body.until is not None and until is None:
        raise ApiError(422, "until: give the offset from UTC, such as Z.")
    slug, project = slug_in(call), await project_of(call, call.query.project)
    command = monitors.SnoozeMonitor(project.id, slug, until, call.body.duration)
    await monitors.snooze_monitor(call.context, command, call.actor)
    return await _monitor(call, project, slug)


async def ping(call: Call[requests.PingBody, requests.InProject]) -> ApiReply:
    """Ping a monitor by its slug; answered once it is committed. A key of the role ping is enough."""
    project = await project_of(call, call.query.project)
    command = monitors.PingMonitor(project.id, slug_in(call), call.body.ping())
    await monitors.ping_monitor(call.context, command)
    return ApiReply(None)


async def _monitor(call: Call[Any, Any], project: ProjectRef, slug: str, created: bool = False) -> ApiReply:
    answer = await monitor_answer(call, project.id, slug)
    return ApiReply(answer, 201 if created else 200, tag_of_rev(answer["rev"]))


async def _pause(call: Call[Any, requests.InProject], paused: bool, drop: bool = False) -> ApiReply:
    slug, project = slug_in(call), await project_of(call, call.query.project)
    await monitors.pause_monitor(call.context, monitors.PauseMonitor(project.id, slug, paused, drop), call.actor)
    return await _monitor(call, project, slug)


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
        documents.MonitorBody,
        _IN,
        (200, 201),
        headers=("If-Match", "If-None-Match"),
    ),
    Route("DELETE", "/monitors/{slug}", delete_monitor, None, "write", None, _IN, (204,), headers=("If-Match",)),
    Route(
        "POST",
        "/monitors/{slug}/move",
        move,
        responses.MovedAnswer,
        "write",
        requests.NewAddress,
        _IN,
        headers=("If-Match",),
    ),
    Route("POST", "/monitors/{slug}/pause", pause, _ONE, "write", requests.Pause, _IN, body_required=False),
    Route("POST", "/monitors/{slug}/resume", resume, _ONE, "write", None, _IN),
    Route("POST", "/monitors/{slug}/snooze", snooze, _ONE, "write", requests.Snooze, _IN, body_required=False),
    Route("POST", "/monitors/{slug}/ping", ping, None, "ping", requests.PingBody, _IN, (204,), body_required=False),
]
