"""The state of Offbeat itself: scheduler, writers, watermark, alerts that wait, and outages."""

from typing import Any

from aiohttp import web

from offbeat_server.common.instants import to_micros
from offbeat_server.db.pool import Pool
from offbeat_server.db.read_models import pages
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.ui.page_base import UiRoute, Visit, show


async def system_page(visit: Visit) -> web.StreamResponse:
    """The page of the system. Sizes are read once; the rest is live."""
    check(visit)
    pool = visit.deps.pool
    return show(
        visit,
        "system.html",
        **await context(pool),
        partitions=await pages.partitions(pool),
        database=await pages.database(pool),
        settings=visit.deps.settings,
    )


def check(visit: Visit) -> None:
    """It is about all projects, so a key of one does not see it."""
    if visit.principal.project_id is not None:
        raise ApiError(403, "A key for one project cannot see the system page.")


async def context(pool: Pool) -> dict[str, Any]:
    """The data of the live part of the page."""
    leases = await pages.leases(pool)
    writers = await pages.writers(pool)
    checkpoint = await pages.checkpoint(pool)
    live = [writer for writer in writers if not writer["fenced"]]
    database_now = max((to_micros(lease["now"]) for lease in leases), default=None)
    watermark = min((to_micros(writer["accepted_through"]) for writer in live), default=None)
    return {
        "leases": {lease["name"]: lease for lease in leases},
        "writers": writers,
        "checkpoint": checkpoint,
        "watermark": watermark,
        "behind": database_now - watermark if database_now is not None and watermark is not None else None,
        "outages": await pages.outages(pool),
        "outages_shown": pages.OUTAGES_SHOWN,
        "writers_shown": pages.WRITERS_SHOWN,
        "outbox": {row["state"]: row for row in await pages.outbox(pool)},
    }


PAGES = [UiRoute("GET", "/system", system_page)]
