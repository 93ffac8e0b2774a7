"""The public page of a project: what is up and what is down, for people without a key, where the project is so set.

It says names and states and nothing else: no slug, no key, no word of a job. It is read at most every few seconds,
however many look.
"""

from aiohttp import web

from offbeat_server.db.read_models import overview, pages
from offbeat_server.db.repositories import projects
from offbeat_server.engine.model.enums import Status
from offbeat_server.web.framework.params import slug_in
from offbeat_server.web.framework.problems import not_found
from offbeat_server.web.framework.ttl_cache import TtlCache
from offbeat_server.web.ui import monitor_rows
from offbeat_server.web.ui.page_base import UiRoute, Visit, html, render_part

MONITORS_MAX = 500  # shown; the count of those that are down is of all


async def _render(visit: Visit, slug: str) -> str | None:
    """The page; None where there is none."""
    project = await projects.find_project(visit.deps.pool, slug)
    if project is None or not project["definition"].get("status_page"):
        return None
    now = visit.now
    pool, id = visit.deps.pool, project["id"]
    counts = await pages.counts(pool, id)
    down = await overview.monitors(pool, project_id=id, statuses=[Status.DOWN], limit=MONITORS_MAX)
    others = await overview.monitors(pool, project_id=id, limit=MONITORS_MAX)
    known = {row["id"] for row in down}
    found = [
        monitor_rows.line_of(row, None, now) for row in [*down, *(row for row in others if row["id"] not in known)]
    ]
    found.sort(key=lambda line: (line.status != Status.DOWN, line.name.lower()))
    shown = found[:MONITORS_MAX]
    return render_part(
        "status.html",
        project=project["name"],
        lines=shown,
        strips=await monitor_rows.strips(pool, shown, now),
        down=max(counts.get(Status.DOWN, 0), sum(line.status == Status.DOWN for line in shown)),
        monitors=max(sum(counts.values()), len(shown)),
        now=now,
    )


async def status_page(visit: Visit) -> web.StreamResponse:
    """The public status page."""
    slug = slug_in(visit, "page")
    text = await visit.request.app[SHOWN].get(slug, lambda: _render(visit, slug))
    if text is None:
        raise not_found(f"status page {slug}")
    return html(text)


SHOWN = web.AppKey("status pages", TtlCache[str | None])
PAGES = [UiRoute("GET", "/status/{slug}", status_page, "open")]
