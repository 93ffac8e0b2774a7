"""Runs and pings as the API shows them. An open run is shown as it is this moment, from its own pings.

No row is written for a stage or a task, so the row of an open run may be as old as its start; the engine's own code
applies its pings. A closed run is as it was written.
"""

from collections.abc import Sequence
from typing import Any

from offbeat_server.common.clock import to_rfc3339
from offbeat_server.common.instants import to_datetime
from offbeat_server.db.pool import Pool, Record
from offbeat_server.db.repositories.client_runs import ClientRun, read_new_pings
from offbeat_server.engine.model.definition import load_definition
from offbeat_server.web.api.schemas.monitor import instant

OPEN_HEARD_MAX = 50  # of one page; the rest are shown as they were written


async def run_answers(pool: Pool, rows: Sequence[Record]) -> list[dict[str, Any]]:
    """The answers for rows of `history.runs`."""
    followed = {row["number"]: ClientRun(row) for row in [r for r in rows if r["finished_at"] is None][:OPEN_HEARD_MAX]}
    if followed:
        await read_new_pings(pool, list(followed.values()))
    return [run_answer(row, followed.get(row["number"])) for row in rows]


def run_answer(row: Record, heard: ClientRun | None = None) -> dict[str, Any]:
    """The answer for one row; without `heard` as it was written."""
    detail, last_ping_at = row["detail"], row["last_ping_at"]
    if heard is not None and heard.pings:
        detail = heard.run.detail(load_definition(row["definition"]))
        last_ping_at = max(last_ping_at, to_datetime(heard.run.last_at))
    tasks, progress = detail.get("tasks"), detail.get("progress")
    return {
        "id": f"{row['monitor_id']}-{row['number']}",
        "monitor": row["monitor"],
        "project": row["project"],
        "number": row["number"],
        "run": row["run"],
        "verdict": row["verdict"],
        "reason": row["reason"],
        "started_at": instant(row["started_at"]),
        "finished_at": instant(row["finished_at"]),
        "last_ping_at": instant(last_ping_at),
        "duration": row["duration"],
        "exit_code": row["exit_code"],
        "stages": [_stage(stage) for stage in detail.get("stages", ())],
        "tasks": None if tasks is None else _tasks(tasks),
        "progress": None if progress is None else _progress(progress),
    }


def ping_answer(row: Record) -> dict[str, Any]:
    """A ping as it is shown."""
    source = row["source"]
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
