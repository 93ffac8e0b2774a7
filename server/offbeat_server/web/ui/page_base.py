"""The base of every page: its reader, its headers, its frame, and the page for an error.

A page is a handler that gets a `Visit` and returns a response. Everything else stands here once, above all the
protection: the session, the check that a change comes from a page of this server, the headers.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import jinja2
import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import MultiDict, MultiDictProxy

from offbeat.readable import readable
from offbeat_server import __version__
from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.common.instants import Micros
from offbeat_server.db.pool import database_trouble
from offbeat_server.db.repositories import changes
from offbeat_server.web.framework import sessions
from offbeat_server.web.framework.authorization import NOBODY, Right
from offbeat_server.web.framework.moved import present_address
from offbeat_server.web.framework.problems import ApiError, api_error_of
from offbeat_server.web.framework.routing import REQUEST_S_MAX, Caller, Deps
from offbeat_server.web.ui import template_filters

HERE = Path(__file__).parent
FORM_BYTES_MAX = 500_000
REV_CHARS_MAX = 18
SECRET_HANDED_S = 60  # for the redirect to the page that shows a new secret
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Form = MultiDictProxy[str]
_EMPTY: Form = MultiDictProxy(MultiDict())
log = structlog.get_logger("page_base")


@dataclass(frozen=True, slots=True)
class Visit(Caller):
    """One request for a page by a person who may see it. `token` goes into its forms."""

    token: str
    form: Form = field(default_factory=lambda: _EMPTY)

    @property
    def writes(self) -> bool:
        """Whether they may change things."""
        return self.principal.may("write")

    @property
    def now(self) -> Micros:
        """Log time."""
        return self.deps.now()

    def query_param(self, name: str) -> str:
        """One parameter of the address, without characters that Postgres cannot store; "" if it is absent."""
        return self.request.query.get(name, "").replace("\x00", "")[:500]

    def form_field(self, name: str) -> str:
        """One field of the form, without white space around it."""
        value = self.form.get(name, "")
        return value.replace("\x00", "").strip() if isinstance(value, str) else ""

    @property
    def opened_rev(self) -> int:
        """The revision of the object when its form was opened; a form without one fits no revision."""
        text = self.form_field("rev")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= REV_CHARS_MAX else changes.REV_MAX


class UiRoute(NamedTuple):
    """One address. A page that `needs` nothing is public."""

    method: str
    path: str
    handler: Callable[[Visit], Awaitable[web.StreamResponse]]
    needs: Right = "read"


def add_pages(app: web.Application, pages: list[UiRoute], deps: Deps) -> None:
    """Register them."""
    seen = {page.path for page in pages if page.method == "GET"}
    for page in pages:
        if page.method == "GET":
            app.router.add_get(page.path, _handler(page, deps))
            continue
        app.router.add_post(page.path, _handler(page, deps))
        if page.path not in seen:
            app.router.add_get(page.path, _to_page_above(page.path, seen))


def _to_page_above(path: str, seen: Container[str]) -> Handler:
    """An address that only takes forms, reloaded or typed: go to the nearest page above it."""
    above = path
    while above not in seen:
        above = above.rpartition("/")[0] or "/"
    parts = above.count("/") + 1 if above != "/" else 0

    async def redirect_up(request: web.Request) -> web.StreamResponse:
        target = "/".join(request.rel_url.raw_path.split("/")[:parts]) or "/"
        return redirect(target + (f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""))

    return redirect_up


def _handler(page: UiRoute, deps: Deps) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        visit: Visit | web.Response | None = None
        try:
            with database_trouble():
                visit = await _admit(page, deps, request)
                if isinstance(visit, web.Response):
                    return visit
                async with asyncio.timeout(None if request.path.startswith("/live/") else REQUEST_S_MAX):
                    return await page.handler(visit)
        except Exception as error:
            if isinstance(error, web.HTTPException) and error.status < 400:
                raise
            if isinstance(visit, Visit) and (present := await _present_page(visit, page, error)) is not None:
                return redirect(present)
            return await _trouble(deps, request, page, error)

    return handle


async def _present_page(visit: Visit, page: UiRoute, error: Exception) -> str | None:
    """The page of a monitor that was renamed or moved since its link was made."""
    if page.method != "GET":
        return None
    try:
        with database_trouble():
            address = await present_address(visit.deps.pool, visit.principal, visit.request, page.path, error)
    except DatabaseDownError:
        return None
    if address is None or not address.visible:
        return None
    rest = page.path.removeprefix("/monitors/{slug}")
    more = {name: value for name, value in visit.request.query.items() if name != "project"}
    return address_of("monitors", address.slug, address.project, rest if "{" not in rest else "", **more)


async def _admit(page: UiRoute, deps: Deps, request: web.Request) -> Visit | web.Response:
    cookie = sessions.cookie_in(deps, request)
    form = await _read_form(deps, request) if request.method == "POST" else _EMPTY
    if request.method == "POST" and not await sessions.is_same_origin(
        deps, request, cookie, str(form.get("token", ""))
    ):
        raise ApiError(403, "This form was not sent from an Offbeat page. Go back, reload the page and try again.")
    principal = await sessions.session_principal(deps, cookie) if cookie is not None else None
    if page.needs == "open":
        return Visit(request, deps, principal or NOBODY, await sessions.token_for(deps, cookie or ""), form)
    if principal is None or cookie is None:
        if request.method == "POST":
            raise ApiError(401, "You were signed out, so nothing was changed. Your input is kept: sign in to send it.")
        if "X-Part" in request.headers or request.path.startswith("/live"):
            return web.Response(status=401, headers=HEADERS, text="signed out\n")
        back = f"?{urlencode({'back': request.path_qs})}" if request.path_qs != "/" else ""
        return redirect("/sign-in" + back)
    if not principal.may(page.needs):
        raise ApiError(403, "The key that you signed in with has read access only.")
    return Visit(request, deps, principal, await sessions.token_for(deps, cookie), form)


async def _read_form(deps: Deps, request: web.Request) -> Form:
    if (request.content_length or 0) > FORM_BYTES_MAX:
        raise ApiError(413, "The form is too large.")
    if request.content_type != "application/x-www-form-urlencoded":
        raise ApiError(415, "The request body is not a form.")
    try:
        async with asyncio.timeout(deps.settings.body_timeout):
            form = await request.post()
    except TimeoutError:
        raise ApiError(408, "The form did not arrive in time.") from None
    return MultiDictProxy(MultiDict((name, value) for name, value in form.items() if isinstance(value, str)))


# ---------------------------------------------------------------------------------------------------------- rendering


@cache
def statics() -> dict[str, tuple[bytes, str]]:
    """Every static file with its type, read once."""
    kinds = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    found = sorted((HERE / "static").iterdir())
    return {path.name: (path.read_bytes(), kinds[path.suffix]) for path in found if path.suffix in kinds}


@cache
def statics_version() -> str:
    """Names the whole set of static files, so that browsers may keep them for ever."""
    digest = hashlib.sha256()
    for name, (body, _) in statics().items():
        digest.update(name.encode() + b"\0" + body)
    return digest.hexdigest()[:12]


@cache
def environment() -> jinja2.Environment:
    """The templates. They escape every value, except markup that a filter of template_filters.py made."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=_shown,
    )
    templates.filters.update(template_filters.FILTERS)
    templates.globals.update(
        plural=template_filters.plural, address_of=address_of, static=f"/static/{statics_version()}"
    )
    templates.globals["marks"] = templates.get_template("marks.html").module
    return templates


def _shown(value: Any) -> Any:
    """Values for templates: text that jobs have sent, without characters that could deceive a reader."""
    return readable(value) if type(value) is str else value


def render_part(template: str, **context: Any) -> str:
    """A template alone, without the frame: what live updates send."""
    return environment().get_template(template).render(**context)


def show(visit: Visit, template: str, status: int = 200, **context: Any) -> web.Response:
    """A whole page."""
    frame = {
        "writes": visit.writes,
        "principal": visit.principal,
        "token": visit.token,
        "now": visit.now,
        "path": visit.request.path,
        "version": __version__,
    }
    return html(render_part(template, **{**frame, **context}), status)


def html(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer of HTML with everything that keeps it safe."""
    response = web.Response(
        text=text, status=status, content_type="text/html", charset="utf-8", headers={**HEADERS, **(headers or {})}
    )
    response.enable_compression()
    return response


def redirect(path: str) -> web.Response:
    """Look there instead (also after a form was taken)."""
    return web.Response(status=303, headers={**HEADERS, "Location": path})


def local_path(text: str, otherwise: str = "/") -> str:
    """Return a path on this server, for any value in the address."""
    is_local = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable() and len(text) < 2000
    return text if is_local else otherwise


def address_of(what: str, slug: str, project: str = "default", rest: str = "", **more: Any) -> str:
    """The page of a monitor or channel; the project is named where it is not `default`."""
    query: Mapping[str, Any] = {**({"project": project} if project != "default" else {}), **more}
    return f"/{what}/{quote(slug, safe='')}{rest}" + (f"?{urlencode(query)}" if query else "")


async def _trouble(deps: Deps, request: web.Request, page: UiRoute, error: Exception) -> web.Response:
    """The page for an error. The values of the form that failed are on the page, and can be sent again."""
    refusal = api_error_of(error)
    if refusal is None:
        log.exception("page_base.page_failed", method=request.method, path=request.path, exc_info=error)
        refusal = ApiError(500, "Internal error; see the server's log.")
    sent = await _sent(request) if request.method == "POST" and page.needs != "open" else []
    cookie, fresh = sessions.cookie_in(deps, request), None
    if refusal.status == 401 and cookie is None:
        cookie = fresh = sessions.new_cookie()
    token = await _token_if_any(deps, cookie) if cookie is not None and request.method == "POST" else ""
    text = render_trouble(refusal, sent, request.path_qs, token)
    response = html(text, refusal.status, refusal.headers)
    if fresh is not None:
        sessions.set_cookie(deps, request, response, fresh)
    return response


def hand_secret_to_page(visit: Visit, response: web.StreamResponse, cookie: str, value: str, path: str) -> None:
    """Hand a new secret to the page that a redirect leads to, in a cookie for `path` alone: it is in no address."""
    response.set_cookie(
        cookie,
        value,
        max_age=SECRET_HANDED_S,
        path=path,
        secure=sessions.is_https(visit.deps, visit.request),
        httponly=True,
        samesite="Strict",
    )


async def _token_if_any(deps: Deps, cookie: str) -> str:
    """A form's token, or none while the database is away and the secret was never read."""
    try:
        with database_trouble():
            return await sessions.token_for(deps, cookie)
    except DatabaseDownError:
        return ""


def render_trouble(refusal: ApiError, sent: Sequence[tuple[str, str]] = (), to: str = "", token: str = "") -> str:
    """The page of an error; with a `token` it offers to send the form `sent` to `to` again."""
    return render_part("trouble.html", refusal=refusal, sent=sent, packed=pack_sent(sent), to=to, token=token)


async def _sent(request: web.Request) -> list[tuple[str, str]]:
    """The fields of a form that was read, without what is ours; none if it could not be read or is a stranger's."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return []
    try:
        form = await request.post() if request.content_type == "application/x-www-form-urlencoded" else {}
    except Exception:
        return []
    return [(name, value) for name, value in form.items() if isinstance(value, str) and name not in ("token", "sent")]


def pack_sent(sent: Sequence[tuple[str, str]]) -> str:
    """The fields of a form that was not taken, as one field of another form."""
    return orjson.dumps([list(pair) for pair in sent]).decode()


def unpack_sent(text: str) -> list[tuple[str, str]]:
    """The opposite; nothing for what is not ours."""
    try:
        return [(str(name), str(value)) for name, value in orjson.loads(text)]
    except (orjson.JSONDecodeError, TypeError, ValueError):
        return []
