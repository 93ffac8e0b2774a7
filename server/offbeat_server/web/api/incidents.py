"""What people do about an incident: acknowledge it, say a word, resolve it by hand.

An acknowledgement concerns people and reminders alone and is written at once. To resolve is the keeper's: a change like
any other, which the keeper applies in its order; so the answer is 202, and the incident shows it within two seconds.
"""

from typing import Any

from offbeat_server.db.pool import Record
from offbeat_server.db.read_models import history
from offbeat_server.db.repositories import changes, outbox
from offbeat_server.db.repositories.changes import Change, changing
from offbeat_server.web.api.history import alert_answer, incident_answer
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.api.schemas.monitor import instant
from offbeat_server.web.framework.params import allowed, pair_in
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.framework.routing import ApiReply, Call, Route

ALERTS_SHOWN_MAX = 200


async def get_incident(call: Call[None, None]) -> ApiReply:
    """An incident with its notes and alerts."""
    return await _incident(call)


async def acknowledge(call: Call[requests.Note, None]) -> ApiReply:
    """Acknowledge an incident. It sends no more reminders."""
    return await _by_hand(call, "acknowledge", must_be_open=True)


async def resolve(call: Call[requests.Note, None]) -> ApiReply:
    """Resolve an incident manually. The next failure or missed ping opens a new one."""
    return await _by_hand(call, "resolve", must_be_open=True, status=202)


async def comment(call: Call[requests.Comment, None]) -> ApiReply:
    """Add a comment to an incident."""
    return await _by_hand(call, "comment", must_be_open=False)


async def _by_hand(call: Call[Any, None], kind: str, must_be_open: bool, status: int = 200) -> ApiReply:
    row = await _find(call)
    if must_be_open and row["resolved_at"] is not None:
        raise ApiError(409, "The incident is resolved already.")
    after = {"incident": row["number"], "by": call.principal.actor, "comment": call.body.comment}
    change = Change(kind, row["project_id"], row["monitor_id"], row["monitor"], None, after)
    async with changing(call.deps.pool) as connection:
        if kind == "acknowledge":
            await history.acknowledge(connection, row["monitor_id"], row["number"], call.principal.actor)
        await changes.record_one(connection, call.principal.actor, change)
    call.deps.changed()
    return (await _incident(call))._replace(status=status)


async def _find(call: Call[Any, Any]) -> Record:
    row = await history.find_incident(call.deps.pool, *pair_in(call, "such incident"))
    return allowed(call, row, "such incident")


async def _incident(call: Call[Any, Any]) -> ApiReply:
    row = await _find(call)
    notes = await changes.of_incident(call.deps.pool, row["monitor_id"], row["number"])
    alerts = await outbox.page_alerts(
        call.deps.pool, monitor_id=row["monitor_id"], incident=row["number"], limit=ALERTS_SHOWN_MAX
    )
    return ApiReply(
        {
            **incident_answer(row),
            "notes": [
                {
                    "at": instant(note["at"]),
                    "by": note["actor"],
                    "kind": note["kind"],
                    "comment": note["after"].get("comment"),
                }
                for note in notes
            ],
            "alerts": [alert_answer(alert) for alert in reversed(alerts)],
        }
    )


_ONE = responses.IncidentDetail
ROUTES = [
    Route("GET", "/incidents/{id}", get_incident, _ONE),
    Route(
        "POST",
        "/incidents/{id}/acknowledge",
        acknowledge,
        _ONE,
        "write",
        requests.Note,
        None,
        body_required=False,
    ),
    Route("POST", "/incidents/{id}/resolve", resolve, _ONE, "write", requests.Note, None, (202,), body_required=False),
    Route("POST", "/incidents/{id}/comments", comment, _ONE, "write", requests.Comment),
]
