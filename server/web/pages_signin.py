"""Signing in with a key and out again. Wrong keys are counted as those of programs are (server/web/attempts.py)."""

import secrets

from aiohttp import web

from server.store import sessions as stored
from server.web import sessions
from server.web.access import KEY_CHARS_MAX
from server.web.pages_frame import Page, Visit, go, local_path, show


async def sign_in_page(visit: Visit) -> web.StreamResponse:
    """The form."""
    if visit.principal.role in sessions.ROLES:
        return go(local_path(visit.asked("back")))
    return await _form(visit, visit.asked("back"))


async def sign_in(visit: Visit) -> web.StreamResponse:
    """Take the key; a session of a new id begins."""
    key, there = visit.said("key"), local_path(visit.said("back"))
    session_id = None
    if 0 < len(key) <= KEY_CHARS_MAX and key.isascii() and key.isprintable():
        session_id = await sessions.sign_in(visit.deps, visit.request, key)
    if session_id is None:
        return await _form(visit, there, "This key is unknown, revoked, or may not look at pages.")
    response = go(there)
    sessions.set_cookie(visit.deps, visit.request, response, session_id)
    return response


async def sign_out(visit: Visit) -> web.StreamResponse:
    """End the session, here and in the table."""
    cookie = sessions.cookie_in(visit.deps, visit.request)
    if cookie is not None:
        await stored.close_session(visit.deps.pool, cookie)
    response = go("/sign-in")
    response.headers["Clear-Site-Data"] = '"cache"'
    sessions.set_cookie(visit.deps, visit.request, response, None)
    return response


async def _form(visit: Visit, there: str, wrong: str = "") -> web.StreamResponse:
    cookie = sessions.cookie_in(visit.deps, visit.request)
    fresh = secrets.token_urlsafe(32) if cookie is None else None
    if fresh is not None:
        # Not a session: only what the form's token is bound to.
        token = await sessions.token_for(visit.deps, fresh)
        visit = Visit(visit.request, visit.deps, visit.principal, token)
    response = show(visit, "sign_in.html", 403 if wrong else 200, there=local_path(there), wrong=wrong)
    if fresh is not None:
        sessions.set_cookie(visit.deps, visit.request, response, fresh)
    return response


PAGES = [
    Page("GET", "/sign-in", sign_in_page, "open"),
    Page("POST", "/sign-in", sign_in, "open"),
    Page("POST", "/sign-out", sign_out, "open"),
]
