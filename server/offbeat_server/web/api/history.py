"""What was: pings, runs, incidents, alerts and the audit log."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from offbeat_server.common.clock import to_datetime, to_micros, to_rfc3339
from offbeat_server.db.pool import Record
from offbeat_server.db.read_models import history
from offbeat_server.db.repositories import changes, outbox
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.api.schemas.monitor import instant
from offbeat_server.web.api.schemas.run import run_answers
from offbeat_server.web.framework.config_diff import action_of, field_changes
from offbeat_server.web.framework.pagination import BIGINT_MAX, read_cursor, whole, write_cursor
from offbeat_server.web.framework.params import allowed, monitor_in, pair_in, project_id_for_list
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.framework.routing import ApiReply, Call, Route

_LAST = datetime(9999, 1, 1, tzinfo=UTC)
_MICROS_MAX = to_micros(_LAST)


async def get_pings(call: Call[None, requests.PingsQuery]) -> ApiReply:
    """Pings of a monitor, the newest first."""
    query = call.query
    for name, at in (("since", query.since), ("until", query.until)):
        if at is not None and at.tzinfo is None:
            raise ApiError(422, f"{name}: give the offset from UTC, such as Z.")
    monitor_id = await monitor_in(call, query.project)
    first = history.PingPlace(query.until or _LAST)
    before = read_cursor(
        query.cursor,
        first,
        lambda at, writer, seq: history.PingPlace(
            to_datetime(whole(at, _MICROS_MAX)), whole(writer), whole(seq, BIGINT_MAX)
        ),
    )
    rows = await history.pings(
        call.deps.pool,
        monitor_id,
        before,
        since=query.since,
        signal=query.signal,
        run=query.run,
        limit=query.limit + 1,
    )
    return _page(query.limit, rows, ping_answer, lambda row: (to_micros(row["at"]), row["writer"], row["seq"]))


async def get_runs(call: Call[None, requests.RunsQuery]) -> ApiReply:
    """Runs of a monitor, the newest first."""
    query = call.query
    monitor_id = await monitor_in(call, query.project)
    before = read_cursor(query.cursor, history.NUMBER_MAX, whole)
    rows = await history.runs(
        call.deps.pool,
        monitor_id,
        before,
        is_open=query.open,
        verdict=query.verdict,
        run=query.run,
        limit=query.limit + 1,
    )
    shown = await run_answers(call.deps.pool, rows[: query.limit])
    more = write_cursor(rows[query.limit - 1]["number"]) if len(rows) > query.limit else None
    return ApiReply({"items": shown, "next_cursor": more})


async def get_run(call: Call[None, None]) -> ApiReply:
    """One run with its stages, tasks and progress."""
    row = await history.find_run(call.deps.pool, *pair_in(call, "such run"))
    (answer,) = await run_answers(call.deps.pool, [allowed(call, row, "such run")])
    return ApiReply(answer)


async def get_monitor_incidents(call: Call[None, requests.IncidentsQuery]) -> ApiReply:
    """Incidents of a monitor, the newest first."""
    query = call.query
    monitor_id = await monitor_in(call, query.project)
    before = read_cursor(query.cursor, history.NUMBER_MAX, whole)
    rows = await history.incidents_of_monitor(
        call.deps.pool, monitor_id, before, is_open=query.open, limit=query.limit + 1
    )
    return _page(query.limit, rows, incident_answer, lambda row: (row["number"],))


async def get_incidents(call: Call[None, requests.IncidentsQuery]) -> ApiReply:
    """Incidents of one project, or of all that the key may see, the newest first."""
    query = call.query
    project_id = await project_id_for_list(call, query.project)
    before = read_cursor(
        query.cursor,
        (_LAST, history.NUMBER_MAX, history.NUMBER_MAX),
        lambda at, monitor, number: (to_datetime(whole(at, _MICROS_MAX)), whole(monitor), whole(number)),
    )
    rows = await history.incidents(
        call.deps.pool, before, project_id=project_id, is_open=query.open, limit=query.limit + 1
    )
    return _page(
        query.limit,
        rows,
        incident_answer,
        lambda row: (to_micros(row["opened_at"]), row["monitor_id"], row["number"]),
    )


async def get_alerts(call: Call[None, requests.AlertsQuery]) -> ApiReply:
    """Alerts, the newest first. `state=dead` selects those that were given up."""
    query = call.query
    project_id = await project_id_for_list(call, query.project)
    before = read_cursor(query.cursor, BIGINT_MAX, lambda number: whole(number, BIGINT_MAX))
    rows = await outbox.page_alerts(
        call.deps.pool,
        project_id=project_id,
        states=[query.state] if query.state else None,
        before=before,
        limit=query.limit + 1,
    )
    return _page(query.limit, rows, alert_answer, lambda row: (row["id"],))


async def get_changes(call: Call[None, requests.ChangesQuery]) -> ApiReply:
    """The audit log, the newest first: who changed what, field by field."""
    query = call.query
    project_id = await project_id_for_list(call, query.project)
    before = read_cursor(query.cursor, changes.REV_MAX, lambda rev: whole(rev, BIGINT_MAX))
    rows = await changes.page(call.deps.pool, before, project_id, query.kind, query.subject, query.limit + 1)

    def answer(row: Record) -> dict[str, Any]:
        return {
            "rev": row["rev"],
            "at": instant(row["at"]),
            "project": row["project"],
            "actor": row["actor"],
            "kind": row["kind"],
            "subject": row["subject"],
            "action": action_of(row["before"], row["after"]),
            "fields": field_changes(row["kind"], row["before"], row["after"]),
        }

    return _page(query.limit, rows, answer, lambda row: (row["rev"],))


def _page(limit: int, rows: Sequence[Any], answer: Any, place: Any) -> ApiReply:
    """A page of at most `limit` of the rows, one more of which was asked for to know whether there is a next."""
    more = len(rows) > limit
    shown = rows[:limit]
    return ApiReply(
        {"items": [answer(row) for row in shown], "next_cursor": write_cursor(*place(shown[-1])) if more else None}
    )


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
        "revised": row["revised"],
        "acknowledged_at": instant(row["acknowledged_at"]),
        "acknowledged_by": row["acknowledged_by"],
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
        "next_attempt_at": instant(row["next_attempt_at"]) if row["state"] == "pending" else None,
        "settled_at": instant(row["settled_at"]),
        "expires_at": instant(row["expires_at"]),
    }


ROUTES = [
    Route("GET", "/monitors/{slug}/pings", get_pings, responses.Page[responses.PingAnswer], query=requests.PingsQuery),
    Route("GET", "/monitors/{slug}/runs", get_runs, responses.Page[responses.RunAnswer], query=requests.RunsQuery),
    Route(
        "GET",
        "/monitors/{slug}/incidents",
        get_monitor_incidents,
        responses.Page[responses.IncidentAnswer],
        query=requests.IncidentsQuery,
    ),
    Route("GET", "/runs/{id}", get_run, responses.RunAnswer),
    Route("GET", "/incidents", get_incidents, responses.Page[responses.IncidentAnswer], query=requests.IncidentsQuery),
    Route("GET", "/alerts", get_alerts, responses.Page[responses.AlertAnswer], query=requests.AlertsQuery),
    Route("GET", "/changes", get_changes, responses.Page[responses.ChangeAnswer], query=requests.ChangesQuery),
]
