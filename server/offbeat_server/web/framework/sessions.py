"""Sessions of the web pages: the cookie, its principal, and the check that a form was sent by a page of this server.

A session belongs to an access key: it has the rights of the key and ends with it. Scripts cannot read the cookie. Over
https, no other host of the domain can set it (`__Host-`).
"""

import hmac
import secrets
from urllib.parse import urlsplit

from aiohttp import web

from offbeat_server.db.repositories import access as stored_access
from offbeat_server.db.repositories import sessions as stored
from offbeat_server.web.framework.addresses import base_url
from offbeat_server.web.framework.authorization import Principal
from offbeat_server.web.framework.routing import Deps

_NAME = "offbeat"
_TOKEN_CHARS = 22  # of the part that is random
ROLES = ("admin", "read")  # a key that may only ping has nothing to see


def is_https(deps: Deps, request: web.Request) -> bool:
    """Whether the browser came by https, as far as we can know behind a proxy."""
    if base_url(request, None, deps.access.client_addresses).startswith("https:"):
        return True
    public = urlsplit(deps.settings.public_url or "")
    return public.scheme == "https" and public.netloc == request.headers.get("Host")


def cookie_name(https: bool) -> str:
    """Browsers take `__Host-` only from https, for this host alone and for all paths."""
    return f"__Host-{_NAME}" if https else _NAME


def cookie_in(deps: Deps, request: web.Request) -> str | None:
    """The session id that the browser sent, if it has the shape of one."""
    value = request.cookies.get(cookie_name(is_https(deps, request)), "")
    return value if 20 <= len(value) <= 100 and value.isascii() and value.isprintable() else None


def new_cookie() -> str:
    """A value for a visitor without a session: a form's token is bound to it."""
    return secrets.token_urlsafe(32)


def set_cookie(deps: Deps, request: web.Request, response: web.StreamResponse, value: str | None) -> None:
    """Give the browser its session id; None takes it away."""
    https = is_https(deps, request)
    response.set_cookie(
        cookie_name(https),
        value or "",
        max_age=int(stored.LIFE_S) if value else 0,
        path="/",
        secure=https,
        httponly=True,
        samesite="Lax",
    )


async def sign_in(deps: Deps, request: web.Request, key: str) -> str | None:
    """A new session for this key; None where the key may not look at pages, or is none. Raises ApiError (429)."""
    principal = await deps.access.identify(request, key)
    if principal is None or principal.role not in ROLES:
        return None
    return await stored.open_session(deps.pool, stored_access.hash_key(await deps.access.secret(), key))


async def session_principal(deps: Deps, session_id: str) -> Principal | None:
    """Return the principal of a session; None for one that is over."""
    row = await stored.find_session(deps.pool, session_id)
    if row is None:
        return None
    if row["role"] is not None:
        return Principal(row["prefix"], row["role"], row["project_id"], row["project"])
    is_admin = hmac.compare_digest(deps.access.admin_key_hash, row["key_hash"])
    return Principal("admin", "admin") if is_admin else None


async def token_for(deps: Deps, cookie: str) -> str:
    """Return a token that shows that this server made a form; a new one each time, so that its bytes reveal nothing."""
    salt = secrets.token_urlsafe(16)
    return salt + await _seal(deps, salt, cookie)


async def is_same_origin(deps: Deps, request: web.Request, cookie: str | None, token: str) -> bool:
    """Whether a change was sent from a page of this server.

    Browsers say it themselves (Sec-Fetch-Site), but not over plain http to another machine. There Origin says it,
    where `no-referrer` does not keep it back; what remains is the token of the form.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin", "null")
    if origin != "null":
        public = urlsplit(deps.settings.public_url or "").netloc
        return urlsplit(origin).netloc in {request.headers.get("Host"), public or None} - {None}
    if cookie is None:
        return False
    expected = await _seal(deps, token[:_TOKEN_CHARS], cookie)
    return hmac.compare_digest(token[_TOKEN_CHARS:].encode(), expected.encode())


async def _seal(deps: Deps, salt: str, cookie: str) -> str:
    return hmac.digest(await deps.access.secret(), f"form {salt} {cookie}".encode(), "sha256").hex()
