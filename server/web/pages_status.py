"""The public page of a project: what is up and what is down, for people without a key, where the project is so set.

It says names and states and nothing else: no slug, no key, no word of a job. It is read at most every few seconds,
however many look.
"""

import asyncio
from typing import NamedTuple

from aiohttp import web

from server.clock import monotonic
from server.store import overview, projects
from server.web import pages_lines as lines
from server.web.asked import slug_in
from server.web.pages_frame import Page, Visit, html, render_part
from server.web.problems import not_found

MONITORS_MAX = 500
FRESH_S = 5.0
PAGES_KEPT_MAX = 100


class Kept(NamedTuple):
    """A page as it was rendered; None for a project that has none."""

    at: float
    text: str | None


class Shown:
    """The public pages of this process, each rendered by one visitor for all."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}
        self._one = asyncio.Lock()

    async def text(self, visit: Visit, slug: str) -> str | None:
        """The page; None where there is none."""
        async with self._one:
            kept = self._kept.get(slug)
            if kept is None or monotonic() - kept.at > FRESH_S:
                kept = Kept(monotonic(), await _render(visit, slug))
                self._kept.pop(slug, None)
                self._kept[slug] = kept
                if len(self._kept) > PAGES_KEPT_MAX:
                    del self._kept[next(iter(self._kept))]
            return kept.text


async def _render(visit: Visit, slug: str) -> str | None:
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
    text = await visit.request.app[SHOWN].text(visit, slug)
    if text is None:
        raise not_found("such page")
    return html(text)


SHOWN = web.AppKey("status pages", Shown)
PAGES = [Page("GET", "/status/{slug}", status_page, "open")]
