"""The history: pings, runs, incidents, alerts and the audit log."""

from collections.abc import Callable
from typing import Any, TypeVar

from offbeat_server.db.pool import Record
from offbeat_server.db.read_models import history
from offbeat_server.db.repositories import changes, outbox
from offbeat_server.engine.model.enums import Verdict
from offbeat_server.services import runs
from offbeat_server.services.config_diff import action_of, field_changes
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.api.schemas.answers import alert_answer, incident_answer, instant, ping_answer, run_answers
from offbeat_server.web.framework.pagination import (
    ALERTS,
    CHANGES,
    INCIDENTS,
    INCIDENTS_OF_MONITOR,
    PINGS,
    RUNS,
    ListPage,
)
from offbeat_server.web.framework.params import allowed, monitor_in, pair_in, project_id_for_list
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.framework.routing import ApiReply, Call, Route

PageRow = TypeVar("PageRow")


async def get_pings(call: Call[None, requests.PingsQuery]) -> ApiReply:
    """Pings of a monitor, the newest first."""
    query = call.query
    for name, at in (("since", query.since), ("until", query.until)):
        if at is not None and at.tzinfo is None:
            raise ApiError(422, f"{name}: give the offset from UTC, such as Z.")
    monitor_id = await monitor_in(call, query.project)
    first = history.PingPlace(query.until) if query.until and query.cursor is None else PINGS.place(query.cursor)
    page = await PINGS.page(
        query.limit,
        first,
        lambda before, limit: history.pings(
            call.deps.pool,
            monitor_id,
            before,
            since=query.since,
            signal=query.signal,
            run=query.run,
            limit=limit,
        ),
    )
    return _reply(page, ping_answer)


async def get_runs(call: Call[None, requests.RunsQuery]) -> ApiReply:
    """Runs of a monitor, the newest first."""
    query = call.query
    monitor_id = await monitor_in(call, query.project)
    page = await RUNS.page(
        query.limit,
        RUNS.place(query.cursor),
        lambda before, limit: history.runs(
            call.deps.pool,
            monitor_id,
            before,
            is_open=query.open,
            verdict=query.verdict,
            run=query.run,
            business_date=query.business_date,
            limit=limit,
        ),
    )
    return ApiReply({"items": await run_answers(call.deps.pool, page.rows), "next_cursor": page.next_cursor})


async def get_run(call: Call[Any, None]) -> ApiReply:
    """One run with its stages, tasks and progress."""
    row = await history.find_run(call.deps.pool, *pair_in(call, "run"))
    (answer,) = await run_answers(call.deps.pool, [allowed(call, row, "run")])
    return ApiReply(answer)


async def close_run(call: Call[requests.RunVerdict, None]) -> ApiReply:
    """Close a run by hand, such as one whose job has died. The run ends now with this verdict.

    The verdict of a run that has ended can be changed in the same way for 10 minutes. The answer is the run as it was
    before; it shows the change within two seconds.
    """
    pair, body = pair_in(call, "run"), call.body
    command = runs.CloseRun(*pair, call.principal.project_id, Verdict(body.verdict), body.reason)
    await runs.close_run(call.context, command, call.actor)
    return (await get_run(call))._replace(status=202)


async def get_monitor_incidents(call: Call[None, requests.IncidentsQuery]) -> ApiReply:
    """Incidents of a monitor, the newest first."""
    query = call.query
    monitor_id = await monitor_in(call, query.project)
    page = await INCIDENTS_OF_MONITOR.page(
        query.limit,
        INCIDENTS_OF_MONITOR.place(query.cursor),
        lambda before, limit: history.incidents_of_monitor(
            call.deps.pool, monitor_id, before, is_open=query.open, limit=limit
        ),
    )
    return _reply(page, incident_answer)


async def get_incidents(call: Call[None, requests.IncidentsQuery]) -> ApiReply:
    """Incidents of one project, or of all that the key may see, the newest first."""
    query = call.query
    project_id = await project_id_for_list(call, query.project)
    page = await INCIDENTS.page(
        query.limit,
        INCIDENTS.place(query.cursor),
        lambda before, limit: history.incidents(
            call.deps.pool, before, project_id=project_id, is_open=query.open, limit=limit
        ),
    )
    return _reply(page, incident_answer)


async def get_alerts(call: Call[None, requests.AlertsQuery]) -> ApiReply:
    """Alerts, the newest first. `state=dead` selects those that were given up."""
    query = call.query
    project_id = await project_id_for_list(call, query.project)
    states = [query.state] if query.state else None
    page = await ALERTS.page(
        query.limit,
        ALERTS.place(query.cursor),
        lambda before, limit: outbox.page_alerts(
            call.deps.pool, project_id=project_id, states=states, before=before, limit=limit
        ),
    )
    return _reply(page, alert_answer)


async def get_changes(call: Call[None, requests.ChangesQuery]) -> ApiReply:
    """The audit log, the newest first: who changed what, field by field."""
    query = call.query
    project_id = await project_id_for_list(call, query.project)
    page = await CHANGES.page(
        query.limit,
        CHANGES.place(query.cursor),
        lambda before, limit: changes.page(call.deps.pool, before, project_id, query.kind, query.subject, limit),
    )

    kinds = call.context.channel_kinds

    def answer(row: Record) -> dict[str, Any]:
        return {
            "rev": row["rev"],
            "at": instant(row["at"]),
            "project": row["project"],
            "actor": row["actor"],
            "kind": row["kind"],
            "subject": row["subject"],
            "action": action_of(row["before"], row["after"]),
            "fields": field_changes(kinds, row["kind"], row["before"], row["after"]),
        }

    return _reply(page, answer)


def _reply(page: ListPage[PageRow], answer: Callable[[PageRow], dict[str, Any]]) -> ApiReply:
    return ApiReply({"items": [answer(row) for row in page.rows], "next_cursor": page.next_cursor})


ROUTES = [
    Route(
        "GET",
        "/monitors/{slug}/pings",
        get_pings,
        responses.Page[responses.PingAnswer],
        query=requests.PingsQuery,
    ),
    Route("GET", "/monitors/{slug}/runs", get_runs, responses.Page[responses.RunAnswer], query=requests.RunsQuery),
    Route(
        "GET",
        "/monitors/{slug}/incidents",
        get_monitor_incidents,
        responses.Page[responses.IncidentAnswer],
        query=requests.IncidentsQuery,
    ),
    Route("GET", "/runs/{id}", get_run, responses.RunAnswer),
    Route("POST", "/runs/{id}/close", close_run, responses.RunAnswer, "write", requests.RunVerdict, None, (202,)),
    Route(
        "GET",
        "/incidents",
        get_incidents,
        responses.Page[responses.IncidentAnswer],
        query=requests.IncidentsQuery,
    ),
    Route("GET", "/alerts", get_alerts, responses.Page[responses.AlertAnswer], query=requests.AlertsQuery),
    Route("GET", "/changes", get_changes, responses.Page[responses.ChangeAnswer], query=requests.ChangesQuery),
]
