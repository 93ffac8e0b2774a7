"""Monitors by what people ask for: project, tags, words, and the status that they have this moment.

Late is known only once it is computed. So rows are read until the page is full, and where only late ones are wanted,
just those that may be.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from offbeat_server.common.instants import Micros
from offbeat_server.db.pool import Pool, Record
from offbeat_server.db.read_models import overview, pages
from offbeat_server.engine.model.enums import Status
from offbeat_server.engine.schedule.due_times import MonitorStatus
from offbeat_server.web.framework.monitor_status import STORED_AS, status_of_row
from offbeat_server.web.framework.pagination import MONITORS, ListPage

ROWS_MAX = 500  # read in one go while looking for a status: some milliseconds of the loop


class MonitorFilter(NamedTuple):
    """Which monitors. Without a status: of any."""

    project_id: int | None
    statuses: Collection[Status] = ()
    tags: Sequence[str] = ()
    text: str | None = None


async def find_monitors(
    pool: Pool, wanted: MonitorFilter, after: tuple[int, str], limit: int, now: Micros
) -> ListPage[tuple[Record, MonitorStatus]]:
    """Rows of `overview.monitors` that follow `after`, with their status at `now`."""
    stored_as = sorted({stored for status in wanted.statuses for stored in STORED_AS[status]})
    ids = await pages.late_candidates(pool, wanted.project_id, now) if set(wanted.statuses) == {Status.LATE} else None
    rows_max = min(limit + 1, ROWS_MAX) if not wanted.statuses else ROWS_MAX
    found: list[tuple[Record, MonitorStatus]] = []
    while True:
        rows = await overview.monitors(
            pool,
            project_id=wanted.project_id,
            after=after,
            tags=wanted.tags,
            text=wanted.text,
            statuses=stored_as or None,
            ids=ids,
            not_new=bool(wanted.statuses) and not {Status.NEW, Status.UNWATCHED} & set(wanted.statuses),
            limit=rows_max,
        )
        for row in rows:
            seen = status_of_row(row, now)
            if wanted.statuses and seen.status not in wanted.statuses:
                continue
            if len(found) == limit:
                return ListPage(found, MONITORS.cursor(found[-1][0]))
            found.append((row, seen))
        if len(rows) < rows_max:
            return ListPage(found, None)
        after = (rows[-1]["project_id"], rows[-1]["slug"])
