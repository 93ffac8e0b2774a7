"""The status of a monitor at this instant, and monitors by it, for the API, the pages and badges.

The scheduler writes a healthy monitor's state only now and then. So late, due time and deadline are computed here, from
the definition and the newest ping in the log, by the function that the engine itself uses.

Late is known only once it is computed. So a search reads rows until the page is full, and if only late ones are wanted,
just those that may be.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from offbeat_server.common.instants import Micros, to_micros
from offbeat_server.db.pool import Pool, Record
from offbeat_server.db.read_models import overview, pages
from offbeat_server.engine.model.definition import load_definition
from offbeat_server.engine.model.enums import Status
from offbeat_server.engine.schedule.due_times import MonitorStatus, status_at
from offbeat_server.web.framework.pagination import MONITORS, ListPage

ROWS_MAX = 500  # read in one go while looking for a status: some milliseconds of the loop
# The statuses that the scheduler may have written for a monitor that is shown with this status.
STORED_AS: dict[Status, tuple[Status, ...]] = {
    Status.NEW: (Status.NEW,),
    Status.UP: (Status.NEW, Status.UP),
    Status.LATE: (Status.NEW, Status.UP, Status.UNKNOWN),
    Status.DOWN: (Status.DOWN,),
    Status.UNKNOWN: (Status.UNKNOWN,),
    Status.UNWATCHED: (Status.NEW, Status.UNWATCHED),
    Status.PAUSED: (Status.PAUSED,),
}


def status_of_row(row: Record, now: Micros) -> MonitorStatus:
    """The status, due time and deadline of the monitor of a row of `overview.monitors` at `now`."""
    status = "paused" if row["paused"] else row["status"]
    state = row["state"] if row["status"] is not None else {"created": to_micros(row["created_at"])}
    last_ping_at = to_micros(row["last_ping_at"]) if row["last_ping_at"] is not None else None
    if last_ping_at is not None and row["state_at"] is not None and last_ping_at <= to_micros(row["state_at"]):
        last_ping_at = None  # the state has it, and knows whether it counted
    return status_at(load_definition(row["definition"]), status, state, last_ping_at, now)


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
