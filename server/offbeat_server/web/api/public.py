"""Public data of a project: its monitors as series for Prometheus, and badges for other pages.

Both are off until the project switches them on. The server's own /metrics never has a series per monitor; here only a
project that wants them has the cost. A badge is open to every client with the badge key, and shows a status and nothing
else.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from html import escape
from typing import Any

from aiohttp import web

from offbeat_server.common.instants import SECOND
from offbeat_server.db.pool import Record
from offbeat_server.db.read_models import overview
from offbeat_server.db.repositories import projects
from offbeat_server.engine.model.enums import Status
from offbeat_server.engine.schedule.due_times import MonitorStatus
from offbeat_server.web.api.schemas import responses
from offbeat_server.web.framework.monitor_status import status_of_row
from offbeat_server.web.framework.params import project_of, slug_in
from offbeat_server.web.framework.problems import not_found
from offbeat_server.web.framework.routing import ApiReply, Call, Route
from offbeat_server.web.framework.ttl_cache import TtlCache

_ROWS = 500  # read and written in one go
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SERIES = {
    "offbeat_monitor_up": "0 while the monitor has an open incident, else 1.",
    "offbeat_monitor_late": "1 while a ping is due and its grace has not ended.",
    "offbeat_monitor_unwatched": "1 while the monitor expects nothing, so that no missing ping is noticed.",
    "offbeat_monitor_paused": "1 while the monitor is paused.",
    "offbeat_monitor_open_runs": "Runs that have started and not ended.",
    "offbeat_monitor_last_ping_timestamp_seconds": "When the last ping came.",
    "offbeat_monitor_deadline_timestamp_seconds": "When the absence of the next ping is evaluated.",
}
_FILE = re.compile(r"([a-z0-9_.-]{1,100})\.(svg|json)")
_COLOURS = {Status.DOWN: "#c62828", Status.LATE: "#b26a00", Status.UNKNOWN: "#6a1b9a", Status.UP: "#2e7d32"}
_GREY = "#616161"
_CHAR_PX = 7
COUNTS = web.AppKey("counts of badges", TtlCache[Counter[Status]])


async def get_project_metrics(call: Call[None, None]) -> ApiReply:
    """The status of every monitor of the project for Prometheus, if the project has `metrics` on."""
    project = await project_of(call, slug_in(call, "project"))
    row = await projects.find_project(call.deps.pool, project.slug)
    if row is None or not row["definition"].get("metrics"):
        raise not_found("metrics of this project: switch them on with PUT /api/v1/projects/{slug}")
    lines: dict[str, list[str]] = {name: [] for name in _SERIES}
    async for each, seen in _seen(call, project.id):
        labels = f'{{project="{project.slug}",monitor="{each["slug"]}"}}'
        for name, value in _values(each, seen).items():
            lines[name].append(f"{name}{labels} {value}")
    text = "".join(
        f"# HELP {name} {description}\n# TYPE {name} gauge\n" + "".join(line + "\n" for line in lines[name])
        for name, description in _SERIES.items()
    )
    return ApiReply(text.encode())


async def get_badge(call: Call[None, None]) -> ApiReply:
    """A badge of one monitor: `{slug}.svg`, or `{slug}.json` for shields.io."""
    slug, form = _file(call)
    row = await _badge_project(call)
    async for _, seen in _seen(call, row["id"], slugs=[slug]):
        return _badge(slug, seen.status, seen.status, form)
    raise not_found(f"badge of a monitor {slug[:100]}")


async def get_tag_badge(call: Call[None, None]) -> ApiReply:
    """A badge of all monitors with a tag: `{tag}.svg` or `.json`; `all` is every monitor of the project."""
    tag, form = _file(call)
    row = await _badge_project(call)
    counts = await call.request.app[COUNTS].get((row["id"], tag), lambda: _count(call, row["id"], tag))
    if not counts:
        raise not_found(f"badge of a tag {tag[:100]}")
    worst = next(status for status in Status if counts[status])
    message = worst if counts[worst] == counts.total() else f"{counts[worst]} of {counts.total()} {worst}"
    return _badge(row["name"] if tag == "all" else tag, message, worst, form)


async def _count(call: Call[Any, Any], project_id: int, tag: str) -> Counter[Status]:
    """The number of monitors of each status."""
    return Counter([seen.status async for _, seen in _seen(call, project_id, tags=None if tag == "all" else [tag])])


async def _seen(call: Call[Any, Any], project_id: int, **which: Any) -> AsyncIterator[tuple[Record, MonitorStatus]]:
    """Monitors of a project with their current state."""
    after, now = (0, ""), call.deps.now()
    while rows := await overview.monitors(call.deps.pool, project_id=project_id, after=after, limit=_ROWS, **which):
        for row in rows:
            yield row, status_of_row(row, now)
        after = (rows[-1]["project_id"], rows[-1]["slug"])
        await asyncio.sleep(0)


def _values(row: Record, seen: MonitorStatus) -> dict[str, float]:
    values: dict[str, float] = {
        "offbeat_monitor_up": int(seen.status != Status.DOWN),
        "offbeat_monitor_late": int(seen.status == Status.LATE),
        "offbeat_monitor_unwatched": int(seen.status == Status.UNWATCHED),
        "offbeat_monitor_paused": int(seen.status == Status.PAUSED),
        "offbeat_monitor_open_runs": row["open_runs"],
    }
    if row["last_at"] is not None:
        values["offbeat_monitor_last_ping_timestamp_seconds"] = row["last_at"].timestamp()
    if seen.deadline_at is not None:
        values["offbeat_monitor_deadline_timestamp_seconds"] = seen.deadline_at / SECOND
    return values


async def _badge_project(call: Call[Any, Any]) -> Record:
    row = await projects.project_with_badges(call.deps.pool, call.request.match_info["badge_key"][:100])
    if row is None:
        raise not_found("badge at this address: copy it from the settings of the project")
    return row


def _file(call: Call[Any, Any]) -> tuple[str, str]:
    match = _FILE.fullmatch(call.request.match_info["file"].lower())
    if match is None:
        raise not_found(f"badge {call.request.match_info['file'][:100]}: its name must be SLUG.svg or SLUG.json")
    return match[1], match[2]


def _badge(label: str, message: str, status: Status, form: str) -> ApiReply:
    colour = _COLOURS.get(status, _GREY)
    if form == "json":
        # Form: shields.io/badges/endpoint-badge.
        return ApiReply({"schemaVersion": 1, "label": label, "message": message, "color": colour})
    headers = {"Content-Type": "image/svg+xml", "Content-Security-Policy": "default-src 'none'"}
    return ApiReply(_svg(label, message, colour).encode(), headers=headers)


def _svg(label: str, message: str, colour: str) -> str:
    left, right = (len(text) * _CHAR_PX + 12 for text in (label, message))
    name, text, width = escape(label), escape(message), left + right
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{name}: {text}">'
        f"<title>{name}: {text}</title>"
        f'<rect width="{width}" height="20" rx="3" fill="#424242"/>'
        f'<path d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3H{left}z" fill="{colour}"/>'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f'<text x="{left / 2}" y="14" textLength="{left - 12}">{name}</text>'
        f'<text x="{left + right / 2}" y="14" textLength="{right - 12}">{text}</text></g></svg>'
    )


ROUTES = [
    Route("GET", "/projects/{slug}/metrics", get_project_metrics, None, content_type=METRICS_TYPE),
    Route("GET", "/badges/{badge_key}/{file}", get_badge, responses.BadgeAnswer, "open"),
    Route("GET", "/badges/{badge_key}/tags/{file}", get_tag_badge, responses.BadgeAnswer, "open"),
]
