"""Signing in with a key and out again. Wrong keys count as those of programs do (web/framework/auth_throttle.py)."""

from aiohttp import web

from offbeat_server.db.repositories import sessions as stored
from offbeat_server.web.framework import sessions
from offbeat_server.web.framework.authorization import KEY_CHARS_MAX
from offbeat_server.web.ui.page_base import UiRoute, Visit, local_path, redirect, show, unpack_sent


async def sign_in_page(visit: Visit) -> web.StreamResponse:
    """The form."""
    if visit.principal.role in sessions.ROLES:
        return redirect(local_path(visit.query_param("back")))
    return await _form(visit, visit.query_param("back"))


async def sign_in(visit: Visit) -> web.StreamResponse:
    """Take the key; a session of a new id begins."""
    key, target = visit.form_field("key"), local_path(visit.form_field("back"))
    session_id = None
    if 0 < len(key) <= KEY_CHARS_MAX and key.isascii() and key.isprintable():
        session_id = await sessions.sign_in(visit.deps, visit.request, key)
    if session_id is None:
        return await _form(visit, target, "This key is unknown, revoked, or has no access to the pages.")
    response: web.StreamResponse = redirect(target)
    if to := visit.form_field("to"):
        response = await _offer(visit, session_id, local_path(to))
    sessions.set_cookie(visit.deps, visit.request, response, session_id)
    return response


async def _offer(visit: Visit, session_id: str, to: str) -> web.Response:
    """Signed in again after a form came too late: what was entered is shown, and sent only when they say so."""
    token = await sessions.token_for(visit.deps, session_id)
    return show(visit, "send_again.html", sent=unpack_sent(visit.form_field("sent")), to=to, back=to, token=token)


async def sign_out(visit: Visit) -> web.StreamResponse:
    """End the session, here and in the table."""
    cookie = sessions.cookie_in(visit.deps, visit.request)
    if cookie is not None:
        await stored.close_session(visit.deps.pool, cookie)
    response = redirect("/sign-in")
    response.headers["Clear-Site-Data"] = '"cache"'
    sessions.set_cookie(visit.deps, visit.request, response, None)
    return response


async def _form(visit: Visit, target: str, wrong: str = "") -> web.StreamResponse:
    cookie = sessions.cookie_in(visit.deps, visit.request)
    fresh = sessions.new_cookie() if cookie is None else None
    if fresh is not None:
        token = await sessions.token_for(visit.deps, fresh)
        visit = Visit(visit.request, visit.deps, visit.principal, token)
    response = show(
        visit,
        "sign_in.html",
        403 if wrong else 200,
        target=local_path(target),
        wrong=wrong,
        to=visit.form_field("to"),
        packed=visit.form_field("sent"),
        sent=unpack_sent(visit.form_field("sent")),
    )
    if fresh is not None:
        sessions.set_cookie(visit.deps, visit.request, response, fresh)
    return response


PAGES = [
    UiRoute("GET", "/sign-in", sign_in_page, "open"),
    UiRoute("POST", "/sign-in", sign_in, "open"),
    UiRoute("POST", "/sign-out", sign_out, "open"),
]
