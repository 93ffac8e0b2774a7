"""Rows of the database as the API and the pages show them. Their types are in `responses.py`.

A monitor is shown with its status at this instant (web/framework/monitor_status.py).

An open run is shown as it is this moment, from its own pings: no row is written for a stage or a task, so the row of an
open run may be as old as its start; the engine's own code applies its pings. A closed run is as it was written.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from offbeat_server.common.clock import to_rfc3339
from offbeat_server.common.instants import Micros, to_datetime, to_micros
from offbeat_server.db.pool import Pool, Record
from offbeat_server.db.read_models import overview
from offbeat_server.db.repositories import projects
from offbeat_server.db.repositories.client_runs import ClientRun, read_new_pings
from offbeat_server.engine.model.definition import FORMER_COUNT_OUTAGES, Definition, load_definition, with_present_names
from offbeat_server.engine.model.enums import AlertState, Verdict, member_or
from offbeat_server.engine.model.ping import PingOptions
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.schedule.due_times import MonitorStatus
from offbeat_server.engine.schedule.maintenance_windows import Window
from offbeat_server.notify.channels.registry import show_channel
from offbeat_server.services.projects import SWITCHES
from offbeat_server.web.framework.addresses import ping_url
from offbeat_server.web.framework.monitor_status import status_of_row
from offbeat_server.web.framework.problems import not_found
from offbeat_server.web.framework.routing import Caller

NO_CHANNEL = "No channel: its alerts go to the server's log only. Add one with PUT /api/v1/channels/{slug}."
OPEN_FOLLOWED_MAX = 50  # of one page; the rest are shown as they were written
ALERTS_SHOWN_MAX = 200  # of one incident
_DEFAULTS = {
    name: value
    for name, value in orjson.loads(Definition().model_dump_json()).items()
    if name not in ("name", "tags")  # columns of their own
}


def instant(at: datetime | None) -> str | None:
    """As RFC 3339 in UTC."""
    return None if at is None else to_rfc3339(to_micros(at))


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


async def monitor_writer(caller: Caller, project_id: int | None) -> MonitorWriter:
    """A writer that knows the channels of one project, or of all."""
    return MonitorWriter(caller, await projects.all_channels(caller.deps.pool, project_id))


async def monitor_answer(caller: Caller, project_id: int, slug: str) -> dict[str, Any]:
    """The answer for one monitor. Raises ApiError when there is none."""
    rows = await overview.monitors(caller.deps.pool, project_id=project_id, slugs=[slug], limit=1)
    if not rows:
        raise not_found(f"monitor {slug}")
    return (await monitor_writer(caller, project_id)).write(rows[0])


def _order(key: dict[str, Any]) -> tuple[str, str, str]:
    return (key["signal"] or "", key["stage"] or "", key["key"])


async def run_answers(pool: Pool, rows: Sequence[Record]) -> list[dict[str, Any]]:
    """The answers for rows of `history.runs`."""
    followed = {
        row["number"]: ClientRun(row) for row in [r for r in rows if r["finished_at"] is None][:OPEN_FOLLOWED_MAX]
    }
    if followed:
        await read_new_pings(pool, list(followed.values()))
    return [run_answer(row, followed.get(row["number"])) for row in rows]


def run_answer(row: Record, followed: ClientRun | None = None) -> dict[str, Any]:
    """The answer for one row; without `followed` as it was written."""
    detail, last_ping_at = row["detail"], row["last_ping_at"]
    as_of = instant(last_ping_at) if row["finished_at"] is None else None
    if followed is not None and (followed.has_state or followed.pings):
        detail = followed.run.detail(load_definition(row["definition"]))
        last_ping_at = max(last_ping_at, to_datetime(followed.run.last_at))
        as_of = to_rfc3339(followed.detail_as_of)
    tasks, progress = detail.get("tasks"), detail.get("progress")
    return {
        "id": f"{row['monitor_id']}-{row['number']}",
        "monitor": row["monitor"],
        "project": row["project"],
        "number": row["number"],
        "run": row["run"],
        "verdict": None if row["verdict"] is None else member_or(Verdict, row["verdict"], Verdict.UNKNOWN),
        "reason": row["reason"],
        "started_at": instant(row["started_at"]),
        "finished_at": instant(row["finished_at"]),
        "last_ping_at": instant(last_ping_at),
        "duration": row["duration"],
        "exit_code": row["exit_code"],
        "business_date": row["business_date"],
        "backfill": row["backfill"],
        "attempt": row["attempt"],
        "execution": row["execution"],
        "stages": [_stage(stage) for stage in detail.get("stages", ())],
        "tasks": None if tasks is None else _tasks(tasks),
        "progress": None if progress is None else _progress(progress),
        "detail_as_of": as_of,
    }


def ping_answer(row: Record) -> dict[str, Any]:
    """A ping as it is shown."""
    source, options = row["source"], PingOptions.load(row["options"] or {})
    return {
        "at": instant(row["at"]),
        "signal": row["signal"],
        "run": row["run"],
        "stage": row["stage"],
        "task": row["task"],
        "done": row["done"],
        "total": row["total"],
        "exit_code": row["exit_code"],
        "duration": row["duration"],
        "message": row["message"],
        "source": None if source is None else str(getattr(source, "ip", source)),
        "dialect": row["dialect"],
        "business_date": options.business_date,
        "backfill": options.backfill,
        "attempt": options.attempt,
        "execution": options.execution,
    }


def _stage(stage: dict[str, Any]) -> dict[str, Any]:
    return {
        **stage,
        "started_at": to_rfc3339(stage.get("started_at")),
        "finished_at": to_rfc3339(stage.get("finished_at")),
        **({"tasks": _tasks(stage["tasks"])} if "tasks" in stage else {}),
    }


def _tasks(tasks: dict[str, Any]) -> dict[str, Any]:
    if "progress" not in tasks:
        return tasks
    return {**tasks, "progress": [_progress(each) for each in tasks["progress"]]}


def _progress(progress: dict[str, Any]) -> dict[str, Any]:
    return {**progress, "eta": to_rfc3339(progress.get("eta"))}


def incident_answer(row: Record) -> dict[str, Any]:
    """An incident as it is shown."""
    return {
        "id": f"{row['monitor_id']}-{row['number']}",
        "monitor": row["monitor"],
        "project": row["project"],
        "number": row["number"],
        "opened_at": instant(row["opened_at"]),
        "resolved_at": instant(row["resolved_at"]),
        "decided_at": instant(row["decided_at"]),
        "cause": row["cause"],
        "reason": row["reason"],
        "run": row["run"],
        "stage": row["stage"],
        "causes": [{**cause, "opened_at": to_rfc3339(cause.get("opened_at"))} for cause in row["causes"]],
        "suppressed_by": row["suppressed_by"],
        "held": [
            {**hold, "started_at": to_rfc3339(hold["started_at"]), "ends_at": to_rfc3339(hold["ends_at"])}
            for hold in row["held"]
        ],
        "revised": row["revised"],
        "acknowledged_at": instant(row["acknowledged_at"]),
        "acknowledged_by": row["acknowledged_by"],
    }


def channel_answer(row: Record) -> dict[str, Any]:
    """A channel as it is shown."""
    return {
        **show_channel(row["kind"], row["definition"]),
        "slug": row["slug"],
        "project": row["project"],
        "kind": row["kind"],
        "default": row["is_default"],
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
        "failing_since": instant(row["failing_since"]),
        "failing_reason": row["failing_why"],
        "failing_why": row["failing_why"],  # its former name
    }


def alert_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """An alert as it is shown."""
    return {
        "id": row["id"],
        "project": row["project"],
        "monitor": row["monitor"],
        "incident": f"{row['monitor_id']}-{row['incident']}" if row["incident"] else None,
        "channel": row["channel"],
        "kind": row["kind"],
        "state": row["state"],
        "attempts": row["attempts"],
        "error": row["error"],
        "digest_alerts": row["digest_alerts"],
        "recovered_unsent": row["recovered_unsent"],
        "created_at": instant(row["created_at"]),
        "next_attempt_at": instant(row["next_attempt_at"]) if row["state"] == AlertState.PENDING else None,
        "settled_at": instant(row["settled_at"]),
        "expires_at": instant(row["expires_at"]),
    }


def window_answer(row: Record, now: Micros) -> dict[str, Any]:
    """A window as it is shown at `now`."""
    window = Window.model_validate(row["definition"])
    return {
        "slug": row["slug"],
        "project": row["project"],
        **window.model_dump(mode="json"),
        "open_until": to_rfc3339(window.end_at(now)),
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
    }


def project_answer(row: Record, sees_secrets: bool) -> dict[str, Any]:
    """A project as it is shown; its keys only to those who see secrets."""
    return {
        "slug": row["slug"],
        "name": row["name"],
        "ping_key": row["ping_key"] if sees_secrets else None,
        "badge_key": row["definition"].get("badge_key") if sees_secrets else None,
        **{name: row["definition"].get(name, False) for name in SWITCHES},
        "created_at": instant(row["created_at"]),
    }


def key_answer(row: Record) -> dict[str, Any]:
    """An access key as it is shown."""
    return {
        "id": row["id"],
        "name": row["name"],
        "role": row["role"],
        "project": row["project"],
        "prefix": row["prefix"],
        "created_at": instant(row["created_at"]),
        "last_used_at": instant(row["last_used_at"]),
        "revoked_at": instant(row["revoked_at"]),
    }
