"""The outbox for people: what waits, what was given up and can be sent again, what was delivered."""

from aiohttp import web

from offbeat_server.db.repositories import outbox
from offbeat_server.engine.model.enums import AlertState
from offbeat_server.services import channels
from offbeat_server.web.api.schemas.answers import alert_answer
from offbeat_server.web.framework.pagination import ALERTS
from offbeat_server.web.framework.params import number_in, project_id_for_list
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.ui.page_base import UiRoute, Visit, local_path, redirect, show

LIST_MAX = 100


async def alerts_page(visit: Visit) -> web.StreamResponse:
    """Alerts, the newest first."""
    text = visit.query_param("state")
    try:
        state = AlertState(text) if text else ""
    except ValueError:
        raise ApiError(404, "There is no such state.") from None
    project_id = await project_id_for_list(visit, visit.query_param("project") or None)
    states = [state] if state else None
    page = await ALERTS.page(
        LIST_MAX,
        ALERTS.place(visit.query_param("before") or None),
        lambda before, limit: outbox.page_alerts(
            visit.deps.pool, project_id=project_id, states=states, before=before, limit=limit
        ),
    )
    return show(
        visit,
        "alerts.html",
        alerts=[alert_answer(row) for row in page.rows],
        state=state,
        project=visit.query_param("project"),
        states=list(AlertState),
        older=page.next_cursor,
    )


async def resend(visit: Visit) -> web.StreamResponse:
    """Send an alert again."""
    command = channels.ResendAlert(number_in(visit, "alert"), visit.principal.project_id)
    await channels.resend_alert(visit.context, command)
    return redirect(local_path(visit.form_field("back"), "/alerts"))


PAGES = [UiRoute("GET", "/alerts", alerts_page), UiRoute("POST", "/alerts/{id}/resend", resend, "write")]
