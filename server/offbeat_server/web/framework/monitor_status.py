"""The status of a monitor at this instant, for the API, the pages and badges.

The scheduler writes a healthy monitor's state only now and then. So late, due time and deadline are computed here, from
the definition and the newest ping in the log, by the function that the engine itself uses.
"""

from offbeat_server.common.instants import Micros, to_micros
from offbeat_server.db.pool import Record
from offbeat_server.engine.model.definition import load_definition
from offbeat_server.engine.model.enums import Status
from offbeat_server.engine.schedule.due_times import MonitorStatus, status_at

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
    return status_at(load_definition(row["definition"]), status, state, last_ping_at, now)
