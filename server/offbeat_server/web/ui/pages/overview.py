"""The overview: what is wrong now, then every monitor, found by words, tags, project and status in the address."""

from typing import Any, NamedTuple
from urllib.parse import urlencode

from aiohttp import web

from offbeat_server.common.instants import Micros
from offbeat_server.db.pool import Pool
from offbeat_server.db.read_models import pages
from offbeat_server.db.repositories import projects
from offbeat_server.engine.model.enums import Status
from offbeat_server.web.framework.monitor_status import STORED_AS, MonitorFilter, find_monitors
from offbeat_server.web.framework.pagination import MONITORS
from offbeat_server.web.framework.params import project_id_for_list
from offbeat_server.web.ui import monitor_rows
from offbeat_server.web.ui.page_base import UiRoute, Visit, html, render_part, show

LINES_MAX = 100  # of one page; the next comes when one scrolls to its end
TROUBLES_SHOWN = 30
TAGS_SHOWN = 40


class Filters(NamedTuple):
    """The filters in the address."""

    text: str
    tags: tuple[str, ...]
    statuses: tuple[Status, ...]
    project: str

    @property
    def any(self) -> bool:
        """Whether it asks for anything."""
        return bool(self.text or self.tags or self.statuses)

    def path(self, **changed: Any) -> str:
        """The overview with other filters."""
        now = self._replace(**changed)
        query = [
            *([("q", now.text)] if now.text else []),
            *(("tag", tag) for tag in now.tags),
            *(("status", status) for status in now.statuses),
            *([("project", now.project)] if now.project else []),
        ]
        return "/" + (f"?{urlencode(query)}" if query else "")

    def toggled(self, status: Status) -> str:
        """The overview with this status added or removed."""
        others = tuple(each for each in self.statuses if each != status)
        return self.path(statuses=others if status in self.statuses else (*others, status))


async def overview(visit: Visit) -> web.StreamResponse:
    """The page, or with the header X-Part only its list or its next lines."""
    part = visit.request.headers.get("X-Part")
    filters = filters_of(visit)
    pool, now = visit.deps.pool, visit.now
    project_id = await project_id_for_list(visit, filters.project or None)
    wanted = MonitorFilter(project_id, filters.statuses, filters.tags, filters.text or None)
    page = await find_monitors(pool, wanted, MONITORS.place(visit.query_param("after") or None), LINES_MAX, now)
    shown = await monitor_rows.read_lines(pool, [row for row, _ in page.rows], now)
    more = filters.path() if page.next_cursor else ""
    listed: dict[str, Any] = {
        "lines": shown,
        "strips": await monitor_rows.strips(pool, shown, now),
        "more": more + ("&" if "?" in more else "?") + urlencode({"after": page.next_cursor}) if more else "",
        "filters": filters,
        "now": now,
    }
    if part == "lines":
        return html(render_part("lines.html", **listed))
    troubles = await trouble_context(pool, scope_of(filters, project_id, visit.writes), now)
    if part == "list":
        return html(render_part("filtered.html", **(troubles | listed)))
    all_projects = await projects.all_projects(pool)
    counts = await pages.counts(pool, project_id)
    tags = await pages.tags(pool, project_id, TAGS_SHOWN + 1)
    return show(
        visit,
        "overview.html",
        **(troubles | listed),
        counts=counts,
        monitors=sum(counts.values()),
        statuses=list(Status),
        tags=tags[:TAGS_SHOWN],
        tags_cut=len(tags) > TAGS_SHOWN,
        projects=[p["slug"] for p in all_projects if visit.principal.project_id in (None, p["id"])],
    )


class Scope(NamedTuple):
    """The open incidents that a page shows: of a project or (None) of all, within the filters, and for which reader."""

    project_id: int | None
    project: str
    writes: bool
    tags: tuple[str, ...]
    text: str
    down: bool  # whether the filters let monitors through that are down

    @property
    def filtered(self) -> bool:
        """Whether only a part is asked for."""
        return bool(self.tags or self.text or not self.down)


def scope_of(filters: Filters, project_id: int | None, writes: bool) -> Scope:
    """The open incidents within these filters."""
    down = not filters.statuses or Status.DOWN in filters.statuses
    return Scope(project_id, filters.project, writes, filters.tags, filters.text, down)


async def trouble_context(pool: Pool, scope: Scope, now: Micros) -> dict[str, Any]:
    """The data of trouble_now.html, in a page or a live update. Its headline counts all incidents of the project."""
    project_id, _, writes, tags, text, down = scope
    matching = open_count = await pages.trouble_count(pool, project_id)
    if open_count and scope.filtered:
        matching = await pages.trouble_matching(pool, project_id, tags, text) if down else 0
    return {
        "troubles": await pages.trouble(pool, project_id, TROUBLES_SHOWN, tags, text) if matching else [],
        "matching": matching,
        "filtered": scope.filtered,
        "open_count": open_count,
        "count_max": pages.COUNT_MAX,
        "scope": scope.project,
        "writes": writes,
        "now": now,
    }


def filters_of(visit: Visit) -> Filters:
    """The filters in the address."""
    query = visit.request.query
    return Filters(
        visit.query_param("q").strip()[:200],
        tuple(dict.fromkeys(tag for tag in query.getall("tag", [])[:20] if tag and "\x00" not in tag)),
        tuple(status for status in Status if status in query.getall("status", []) and status in STORED_AS),
        visit.query_param("project"),
    )


PAGES = [UiRoute("GET", "/", overview)]
