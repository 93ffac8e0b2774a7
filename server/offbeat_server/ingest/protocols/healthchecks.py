"""Healthchecks' pinging API under `/ping/`, as its own clients and thousands of crontabs speak it.

Source: healthchecks/healthchecks 29b5ec25 (v4.4-dev), hc/api/urls.py, hc/api/views.py `ping`, `ping_by_slug`; the
client bdd/runitor 8c8b5f21, internal/api.go, which takes only 200 and 201 for success, retries 408, 429 and 5xx,
and cuts its output to `Ping-Body-Limit`.

- `/ping/{uuid}` (a trailing slash is allowed), `/ping/{uuid}/start|fail|log|{exit status}`;
- `/ping/{ping key}/{slug}` and the same suffixes after it; `create=1` makes the monitor;
- `rid={uuid}` names the run; any method pings; the body is the message, and never parameters;
- the path is decoded before it is taken apart, as Django does.

Differences, and the reasons:
- there is no limit on how often one may ping; a body keeps its two ends, not only its head;
- a body is read by the charset that it declares or its byte order mark, and then as UTF-8 or Windows-1252, where
  Healthchecks' keyword filters would answer 500;
- a `rid` that is no UUID names the run as it is; an exit status may be any number, and systemd's word for a result or a
  signal; suffixes may be in upper case;
- an outcome in the query (`?status=fail`) is understood, and a failure outranks the suffix; one that cannot be read is
  refused with 400 where there is no suffix, and so is a suffix behind the query (`?create=1/fail`);
- too many new monitors are answered 429, which runitor tries again;
- a UUID may be in upper case, where a key was given so; a slug that begins or ends with `-` or `_` is one without them;
- a ping key may be a UUID. If `{uuid}` is a ping key and no monitor's key, `/ping/{uuid}/start` is the monitor with the
  slug `start`, and so is every other word that is a suffix (`log`, `7`, `watchdog`): a monitor's key wins;
- an added key of another shape works as `/ping/{key}`; with a suffix it would read as a ping key and a slug;
- a webhook of Alertmanager in the body is understood (ingest/protocols/alertmanager.py);
- `/ping/{api key}/{monitor}?state=…` or `?stamp=…`, and `/ping/{api key}/{monitor}/run`, is Cronitor's
  (ingest/protocols/registry.py).
Whether the hosted service still answers `OK (not found)` with 200 is unverified; its code says 404.
"""

import re
from typing import Final

from offbeat_server.engine.model.ping import Ping, Signal
from offbeat_server.engine.model.slugs import is_slug
from offbeat_server.ingest.protocols import alertmanager
from offbeat_server.ingest.protocols.answers import reason_of, status_of, waiting
from offbeat_server.ingest.protocols.base import (
    HttpAnswer,
    KeyAddress,
    Outcome,
    ParsedPing,
    PingNote,
    Rejection,
    Request,
    SlugAddress,
)
from offbeat_server.ingest.protocols.parsing.encodings import utf_8_body
from offbeat_server.ingest.protocols.parsing.ids import read_id
from offbeat_server.ingest.protocols.parsing.message import WHOLE_BYTES_MAX, stored_message
from offbeat_server.ingest.protocols.parsing.outcome import read_exit
from offbeat_server.ingest.protocols.parsing.parameters import appended_outcome, read_beside_path, read_outcome
from offbeat_server.ingest.protocols.parsing.urlencoded import decode, read_pairs

name = "healthchecks"
PREFIX: Final = "/ping/"

_is_uuid = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
_SIGNALS: Final[dict[str, Signal]] = {"start": "start", "fail": "fail", "log": "log"}
# A ping that has only its suffix is one of these, made once; "" is the bare address.
_PLAIN: Final[dict[str, Ping]] = {
    "": Ping("success", dialect=name),
    **{suffix: Ping(signal, dialect=name) for suffix, signal in _SIGNALS.items()},
    **{str(n): Ping("fail" if n else "success", exit_code=n, dialect=name) for n in range(256)},
}
_WRONG_URL = Rejection(400, "invalid url format")
_NOT_FOUND = Rejection(404, "not found")

_HEADERS = (
    ("Ping-Body-Limit", str(WHOLE_BYTES_MAX)),
    ("Access-Control-Allow-Origin", "*"),
    ("Cache-Control", "no-cache, no-store"),
)
_OK = HttpAnswer(200, b"OK", headers=_HEADERS)
_CREATED = HttpAnswer(201, b"Created", headers=_HEADERS)


def read(request: Request) -> ParsedPing | Rejection:
    """The ping that a request under PREFIX describes."""
    first, slash, rest = _parts(request)
    if not rest:
        if not first or (slash and not _is_uuid(first)):
            return _NOT_FOUND
        return _reading(KeyAddress(first), _PLAIN[""], request, False)
    if _is_uuid(first):
        ping = _suffix(rest)
        if ping is not None:
            return _reading(KeyAddress(first), ping, request, True)
    return _by_slug(first, rest, request)


def read_by_ping_key(request: Request) -> ParsedPing | Rejection | None:
    """The same request if its UUID is a project's ping key, not a monitor's key; None: that changes nothing."""
    first, _, rest = _parts(request)
    return _by_slug(first, rest, request) if rest else None


def _parts(request: Request) -> tuple[str, str, str]:
    path = request.path[len(PREFIX) :]
    if "%" in path or not path.isascii():  # decoded before it is taken apart, as there
        path = "/".join(part.rstrip("\r\n") for part in decode(path).split("/"))
    return path.partition("/")


def _by_slug(first: str, rest: str, request: Request) -> ParsedPing | Rejection:
    create = bool(request.query) and any(each == ("create", "1") for each in _lower(read_pairs(request.query)))
    slug, slash, suffix = rest.partition("/")
    ping = _suffix(suffix) if suffix else _PLAIN[""]
    if ping is None or (slash and not suffix):
        return _NOT_FOUND
    if slug != slug.lower():
        return _WRONG_URL
    slug_stored = slug if is_slug(slug) else slug.strip("-_")
    if create and not is_slug(slug_stored):
        return _WRONG_URL
    address = SlugAddress(first, slug_stored, create, sent=None if slug_stored == slug else slug)
    return _reading(address, ping, request, suffix != "")


def answer(outcome: Outcome | Rejection, request: Request) -> HttpAnswer:
    """200 `OK`, 201 `Created`, 404 `not found`, 409 `ambiguous slug`, or the reason."""
    status = status_of(outcome)
    if status == 200:
        return _CREATED if isinstance(outcome, Outcome) and outcome.kind == "created" else _OK
    reason = "ambiguous slug" if status == 409 else reason_of(outcome, "not found")
    return HttpAnswer(status, reason.encode("utf-8", "replace"), headers=waiting(outcome))


def _lower(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in pairs]


def _suffix(suffix: str) -> Ping | None:
    """The ping of a suffix; None: it is no suffix."""
    ping = _PLAIN.get(suffix) or _PLAIN.get(suffix.lower())
    if ping is None and (exit_status := read_exit(suffix)) is not None:
        return Ping(exit_status.signal, exit_code=exit_status.code, message=exit_status.message, dialect=name)
    return ping


def _reading(address: KeyAddress | SlugAddress, ping: Ping, request: Request, named: bool) -> ParsedPing | Rejection:
    notes: list[PingNote] = []
    if request.query:
        for parameter, value in (pairs := read_pairs(request.query)):
            if parameter.lower() == "rid":
                run, changed = read_id("run", value.lower() if _is_uuid(value) else value)
                ping = ping._replace(run=run)
                notes += [] if changed is None else [PingNote("run", changed, changed=True)]
        if named:
            ping, beside = read_beside_path(ping, pairs)
            notes += beside
        elif (outcome := read_outcome(pairs) or appended_outcome(request.query)) is not None:
            if isinstance(outcome, Rejection):
                return outcome
            ping, named = ping._replace(signal=outcome.ping.signal, exit_code=outcome.ping.exit_code), True
            notes += outcome.notes
    if request.fault is not None:
        if not named:
            return request.fault
        notes.append(PingNote("body", request.fault.reason))
    if not request.body:
        return ParsedPing(address, ping, named, tuple(notes))
    body, kind = utf_8_body(request), request.headers.get("content-type", "").lower()
    may_be_webhook = not request.whole_bytes and (not named or kind.startswith("application/json"))
    webhook = alertmanager.read_webhook(body) if may_be_webhook else None
    message = webhook.message if webhook is not None else stored_message(body, request.whole_bytes)
    reading = ParsedPing(address, ping._replace(message=message or ping.message), named, tuple(notes))
    return reading if webhook is None else alertmanager.as_webhook(reading, webhook)
