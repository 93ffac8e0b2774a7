"""An incident, and what people do about it: acknowledge it, comment on it, resolve it manually."""

from typing import Any

from offbeat_server.db.read_models import history
from offbeat_server.db.repositories import changes, outbox
from offbeat_server.services import incidents
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.api.schemas.answers import ALERTS_SHOWN_MAX, alert_answer, incident_answer, instant
from offbeat_server.web.framework.params import allowed, pair_in
from offbeat_server.web.framework.routing import ApiReply, Call, Route


async def get_incident(call: Call[None, None]) -> ApiReply:
    """An incident with its notes and alerts."""
    return await _incident(call)


async def acknowledge(call: Call[requests.Note, None]) -> ApiReply:
    """Acknowledge an incident. It sends no more reminders."""
    await incidents.acknowledge(call.context, _note(call), call.actor)
    return await _incident(call)


async def resolve(call: Call[requests.Note, None]) -> ApiReply:
    """Resolve an incident manually. The next failure or missed ping opens a new one."""
    await incidents.resolve(call.context, _note(call), call.actor)
    return (await _incident(call))._replace(status=202)


async def comment(call: Call[requests.Comment, None]) -> ApiReply:
    """Add a comment to an incident."""
    await incidents.comment(call.context, _note(call), call.actor)
    return await _incident(call)


def _note(call: Call[Any, None]) -> incidents.NoteIncident:
    return incidents.NoteIncident(*pair_in(call, "incident"), call.principal.project_id, call.body.comment)


async def _incident(call: Call[Any, Any]) -> ApiReply:
    row = await history.find_incident(call.deps.pool, *pair_in(call, "incident"))
    row = allowed(call, row, "incident")
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
