"""The public page of a project: what is up and what is down, for people without a key, where the project is so set.

It says names and states and nothing else: no slug, no key, no word of a job. It is read at most every few seconds,
however many look.
"""

from aiohttp import web

from server.store import overview, projects
from server.web import pages_lines as lines
from server.web.asked import slug_in
from server.web.fresh import Fresh
from server.web.pages_frame import Page, Visit, html, render_part
from server.web.problems import not_found

MONITORS_MAX = 500


async def _render(visit: Visit, slug: str) -> str | None:
    """The page; None where there is none."""
    project = await projects.find_project(visit.deps.pool, slug)
    if project is None or not project["definition"].get("status_page"):
        return None
    now = visit.now
    rows = await overview.monitors(visit.deps.pool, project_id=project["id"], limit=MONITORS_MAX)
    shown = sorted((lines.line_of(row, None, now) for row in rows), key=lambda line: line.name.lower())
    return render_part(
        "status.html",
        project=project["name"],
        lines=shown,
        strips=await lines.strips(visit.deps.pool, shown, now),
        down=[line for line in shown if line.status == "down"],
        now=now,
    )


async def status_page(visit: Visit) -> web.StreamResponse:
    """For everybody."""
    slug = slug_in(visit.call(), "page")
    text = await visit.request.app[SHOWN].get(slug, lambda: _render(visit, slug))
    if text is None:
        raise not_found("such page")
    return html(text)


SHOWN = web.AppKey("status pages", Fresh[str | None])
PAGES = [Page("GET", "/status/{slug}", status_page, "open")]
