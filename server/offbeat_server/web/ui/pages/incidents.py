"""Incidents: the list, and the page of one with everything that happened in it."""

from typing import Any, NamedTuple

from aiohttp import web

from offbeat_server.common.instants import Micros, to_micros
from offbeat_server.common.plural import plural
from offbeat_server.db.pool import Pool, Record
from offbeat_server.db.read_models import history
from offbeat_server.db.repositories import changes, outbox
from offbeat_server.engine.model.enums import AlertState
from offbeat_server.engine.rules import reasons
from offbeat_server.services import incidents
from offbeat_server.web.api.schemas import requests
from offbeat_server.web.api.schemas.answers import ALERTS_SHOWN_MAX
from offbeat_server.web.framework.pagination import ALERTS, INCIDENTS
from offbeat_server.web.framework.params import allowed, pair_in, project_id_for_list
from offbeat_server.web.framework.routing import validate
from offbeat_server.web.ui.page_base import UiRoute, Visit, local_path, redirect, show

LIST_MAX = 50


class Event(NamedTuple):
    """One thing that happened in an incident. `alert` is set where it can be sent again."""

    at: Micros
    look: str
    title: str
    text: str
    alert: int | None = None


async def incidents_page(visit: Visit) -> web.StreamResponse:
    """All incidents, the newest first, or only those that are open."""
    project_id = await project_id_for_list(visit, visit.query_param("project") or None)
    only_open = visit.query_param("open") == "yes"
    page = await INCIDENTS.page(
        LIST_MAX,
        INCIDENTS.place(visit.query_param("before") or None),
        lambda before, limit: history.incidents(
            visit.deps.pool, before, project_id=project_id, is_open=True if only_open else None, limit=limit
        ),
    )
    return show(
        visit,
        "incidents.html",
        incidents=page.rows,
        only_open=only_open,
        project=visit.query_param("project"),
        older=page.next_cursor,
    )


async def incident_page(visit: Visit) -> web.StreamResponse:
    """One of them."""
    row = await history.find_incident(visit.deps.pool, *pair_in(visit, "incident"))
    row = allowed(visit, row, "incident")
    return show(visit, "incident.html", **await context(visit.deps.pool, row, visit.now, visit.writes))


async def context(pool: Pool, row: Record, now: Micros, writes: bool) -> dict[str, Any]:
    """The data of the live part of the page."""
    notes = await changes.of_incident(pool, row["monitor_id"], row["number"])
    alerts = await ALERTS.page(
        ALERTS_SHOWN_MAX,
        ALERTS.first,
        lambda before, limit: outbox.page_alerts(
            pool, monitor_id=row["monitor_id"], incident=row["number"], before=before, limit=limit
        ),
    )
    events = [
        *_causes(row),
        *(Event(to_micros(note["at"]), note["kind"], _DONE[note["kind"]], _note_text(note)) for note in notes),
        *(_alert(alert) for alert in alerts.rows),
    ]
    if row["resolved_at"] is not None:
        events.append(Event(to_micros(row["resolved_at"]), "resolved", "Resolved", ""))
    return {
        "incident": row,
        "holds": [_hold(each, now) for each in row["held"]],
        "events": sorted(events, key=lambda event: event.at),
        "run_number": next((cause.get("number") for cause in row["causes"] if cause.get("run") == row["run"]), None),
        "dates": sorted({cause["business_date"] for cause in row["causes"] if cause.get("business_date")}),
        "alerts_cut": ALERTS_SHOWN_MAX if alerts.next_cursor else 0,
        "writes": writes,
    }


def _hold(each: dict[str, Any], now: Micros) -> dict[str, Any]:
    """One of the holds of its alerts, and whether it still holds."""
    ends_at = each["ends_at"]
    return {**each, "what": reasons.say_hold(each["kind"], each["by"]), "now": ends_at is None or ends_at > now}


_DONE = {"acknowledge": "Acknowledged", "resolve": "Resolved manually", "comment": "Comment"}


def _note_text(note: Record) -> str:
    comment = note["after"].get("comment")
    return f"{note['actor']}: {comment}" if comment else f"by {note['actor']}"


def _causes(row: Record) -> list[Event]:
    causes = [
        Event(cause.get("opened_at") or to_micros(row["opened_at"]), "down", str(cause["kind"]), cause["reason"])
        for cause in row["causes"]
        if "reason" in cause and "kind" in cause
    ]
    return causes or [Event(to_micros(row["opened_at"]), "down", row["cause"], row["reason"])]


def _alert(alert: dict[str, Any]) -> Event:
    """An alert, and what has become of it."""
    where = f"channel {alert['channel']}" if alert["channel"] else "the server's log"
    at = to_micros(alert["settled_at"] or alert["created_at"])
    kind, tries, state = alert["kind"], alert["attempts"], alert["state"]
    error = alert["error"] or ""
    merged = ""
    if alert["digest_alerts"] is not None:
        merged = f", in a digest of {plural(alert['digest_alerts'], 'alert')}"
        merged += "; recovered before it was sent" if alert["recovered_unsent"] else ""
    if state == AlertState.DELIVERED:
        tried = f", attempt {tries}" if tries > 1 else ""
        return Event(at, state, f"Alert sent to {where}", f"{kind}{tried}{merged}", alert["id"])
    if state == AlertState.COLLAPSED:
        return Event(
            at, state, f"No separate alert to {where}", f"{kind}: {error or 'the incident ended before it was sent'}"
        )
    if state in (AlertState.DEAD, AlertState.EXPIRED):
        return Event(
            at, state, f"Alert to {where} failed", f"{kind}: gave up after attempt {tries}. {error}", alert["id"]
        )
    if error:  # without one it is being tried for the first time, or was asked for again
        return Event(at, "late", f"Alert to {where} failed, retrying", f"{kind}: attempt {tries} failed. {error}")
    return Event(at, state, f"Alert to {where} pending", kind)


# -------------------------------------------------------------------------------------------------------- what one does


async def acknowledge(visit: Visit) -> web.StreamResponse:
    """Acknowledge an incident."""
    await incidents.acknowledge(visit.context, _note(visit, requests.Note), visit.actor)
    return _back(visit)


async def resolve(visit: Visit) -> web.StreamResponse:
    """Close it by hand."""
    await incidents.resolve(visit.context, _note(visit, requests.Note), visit.actor)
    return _back(visit)


async def comment(visit: Visit) -> web.StreamResponse:
    """Say a word."""
    await incidents.comment(visit.context, _note(visit, requests.Comment), visit.actor)
    return _back(visit)


def _note(visit: Visit, model: type[requests.Note | requests.Comment]) -> incidents.NoteIncident:
    comment = visit.form_field("comment")
    body = validate(model, {"comment": comment or None if model is requests.Note else comment})
    return incidents.NoteIncident(*pair_in(visit, "incident"), visit.principal.project_id, body.comment)


def _back(visit: Visit) -> web.Response:
    return redirect(local_path(visit.form_field("back"), f"/incidents/{visit.request.match_info['id']}"))


PAGES = [
    UiRoute("GET", "/incidents", incidents_page),
    UiRoute("GET", "/incidents/{id}", incident_page),
    UiRoute("POST", "/incidents/{id}/acknowledge", acknowledge, "write"),
    UiRoute("POST", "/incidents/{id}/resolve", resolve, "write"),
    UiRoute("POST", "/incidents/{id}/comment", comment, "write"),
]
