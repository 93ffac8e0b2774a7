"""A monitor as the API and the pages show it, with its status at this instant (web/framework/monitor_status.py)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from offbeat_server.common.clock import to_rfc3339
from offbeat_server.common.instants import to_micros
from offbeat_server.db.pool import Record
from offbeat_server.db.read_models import overview
from offbeat_server.db.repositories import projects
from offbeat_server.engine.model.definition import FORMER_COUNT_OUTAGES, Definition, load_definition, with_present_names
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.schedule.due_times import MonitorStatus
from offbeat_server.web.framework.addresses import ping_url
from offbeat_server.web.framework.monitor_status import status_of_row
from offbeat_server.web.framework.problems import not_found
from offbeat_server.web.framework.routing import Caller

NO_CHANNEL = "No channel: its alerts go to the server's log only. Add one with PUT /api/v1/channels/{slug}."
_DEFAULTS = {
    name: value
    for name, value in orjson.loads(Definition().model_dump_json()).items()
    if name not in ("name", "tags")  # columns of their own
}


class MonitorWriter:
    """Writes monitors for one caller at one instant."""

    def __init__(self, caller: Caller, channels: Sequence[Record]) -> None:
        self.now, self.base, self.open = caller.deps.now(), caller.base, caller.principal.sees_secrets
        self.alerting = {(c["project_id"], c["slug"]) for c in channels if c["kind"] != "log"}
        self.defaults: dict[int, list[str]] = {}
        for channel in channels:
            if channel["is_default"]:
                self.defaults.setdefault(channel["project_id"], []).append(channel["slug"])

    def seen(self, row: Record) -> MonitorStatus:
        """How this monitor is now."""
        return status_of_row(row, self.now)

    def write(self, row: Record, seen: MonitorStatus | None = None) -> dict[str, Any]:
        """The answer for one row of `overview.monitors`."""
        seen = seen or self.seen(row)
        definition = {**_DEFAULTS, **with_present_names(orjson.loads(row["definition"]))}
        project_id = row["project_id"]
        chosen = definition.get("channels")
        alerts_to = self.defaults.get(project_id, []) if chosen is None else chosen
        main = next((key["key"] for key in row["keys"] or () if key["main"]), None)
        return {
            "slug": row["slug"],
            "project": row["project"],
            "name": row["name"],
            "status": seen.status,
            "since": instant(row["since"]),
            "paused": row["paused"],
            "snoozed_until": instant(row["snoozed_until"]),
            "key": main if self.open else None,
            "ping_url": ping_url(self.base, main) if self.open and main else None,
            "keys": [self._key(key) for key in sorted(row["keys"] or (), key=_order) if not key["main"]],
            "last_ping_at": instant(row["last_at"]),
            "last_signal": row["last_signal"],
            "due_at": to_rfc3339(seen.due_at),
            "deadline_at": to_rfc3339(seen.deadline_at),
            "open_runs": row["open_runs"],
            "open_incident": f"{row['id']}-{row['incident']}" if row["incident"] else None,
            "tags": row["tags"],
            **definition,
            FORMER_COUNT_OUTAGES: definition["count_outages"],
            "alerts_to": alerts_to,
            "warnings": [
                *reasons.warnings(load_definition(row["definition"]), row["last_at"] is not None, row["open_runs"]),
                *([] if any((project_id, slug) in self.alerting for slug in alerts_to) else [NO_CHANNEL]),
            ],
            "rev": row["rev"],
            "created_at": instant(row["created_at"]),
            "updated_at": instant(row["updated_at"]),
        }

    def _key(self, key: dict[str, Any]) -> dict[str, Any]:
        value = key["key"] if self.open else None
        return {
            "key": value,
            "ping_url": ping_url(self.base, value) if value else None,
            "signal": key["signal"],
            "stage": key["stage"],
        }


async def writer(caller: Caller, project_id: int | None) -> MonitorWriter:
    """A writer that knows the channels of one project, or of all."""
    return MonitorWriter(caller, await projects.all_channels(caller.deps.pool, project_id))


async def one(caller: Caller, project_id: int, slug: str) -> dict[str, Any]:
    """The answer for one monitor. Raises ApiError when there is none."""
    rows = await overview.monitors(caller.deps.pool, project_id=project_id, slugs=[slug], limit=1)
    if not rows:
        raise not_found(f"monitor {slug}")
    return (await writer(caller, project_id)).write(rows[0])


def instant(at: datetime | None) -> str | None:
    """As RFC 3339 in UTC."""
    return None if at is None else to_rfc3339(to_micros(at))


def _order(key: dict[str, Any]) -> tuple[str, str, str]:
    return (key["signal"] or "", key["stage"] or "", key["key"])
