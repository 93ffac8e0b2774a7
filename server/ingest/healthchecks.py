"""Healthchecks' pinging API under `/ping/`, as its own clients and thousands of crontabs speak it.

Source: healthchecks/healthchecks 29b5ec25 (v4.4-dev), hc/api/urls.py, hc/api/views.py `ping`, `ping_by_slug`; the
client bdd/runitor 8c8b5f21, internal/api.go, which takes nothing but 200 and 201 for success, retries 408, 429 and 5xx,
and cuts its output to `Ping-Body-Limit`.

- `/ping/{uuid}` (a trailing slash is allowed), `/ping/{uuid}/start|fail|log|{exit status}`;
- `/ping/{ping key}/{slug}` and the same suffixes after it; `create=1` makes the monitor;
- `rid={uuid}` names the run; any method pings; the body is the message; other parameters are ignored;
- the path is decoded before it is taken apart, as Django does.

What differs, and why:
- there is no limit on how often one may ping; a body keeps its two ends, not only its head;
- invalid UTF-8 in a body is stored with U+FFFD, where Healthchecks' keyword filters would answer 500;
- a bad `rid` together with `create=1` makes nothing; too many new monitors are answered 429, which runitor tries again;
- a UUID may be in upper case, where a key was given so; a slug that begins or ends with `-` or `_` is one without them;
- an added key of another shape works as `/ping/{key}`; with a suffix it would read as a ping key and a slug;
- a webhook of Alertmanager in the body is understood (server/ingest/alertmanager.py);
- `/ping/{api key}/{monitor}?state=…` or `?stamp=…`, and `/ping/{api key}/{monitor}/run`, is Cronitor's
  (server/ingest/dialects.py).
Whether the hosted service still answers `OK (not found)` with 200 is unverified; its code says 404.
"""

import re
from typing import Final

from server.engine.ping import EXIT_CODE_MAX, Ping, Signal
from server.ingest import alertmanager
from server.ingest.answers import reason_of, status_of, waiting
from server.ingest.message import WHOLE_BYTES_MAX, stored_message
from server.ingest.reading import Answer, Key, Outcome, Reading, Refusal, Request, Slug
from server.ingest.slugs import is_slug
from server.ingest.urlencoded import decode, read_values

name = "healthchecks"
PREFIX: Final = "/ping/"

_is_uuid = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
_SIGNALS: Final[dict[str, Signal]] = {"start": "start", "fail": "fail", "log": "log"}
# A ping that says nothing but its suffix is one of these, made once; "" is the bare address.
_PLAIN: Final[dict[str, Ping]] = {
    "": Ping("success", dialect=name),
    **{word: Ping(signal, dialect=name) for word, signal in _SIGNALS.items()},
    **{str(n): Ping("fail" if n else "success", exit_code=n, dialect=name) for n in range(EXIT_CODE_MAX + 1)},
}
_WRONG_URL = Refusal(400, "invalid url format")
_WRONG_UUID = Refusal(400, "invalid uuid format")
_NOT_FOUND = Refusal(404, "not found")

_HEADERS = (
    ("Ping-Body-Limit", str(WHOLE_BYTES_MAX)),
    ("Access-Control-Allow-Origin", "*"),
    ("Cache-Control", "no-cache, no-store"),
)
_OK = Answer(200, b"OK", headers=_HEADERS)
_CREATED = Answer(201, b"Created", headers=_HEADERS)


def read(request: Request) -> Reading | Refusal:
    """The ping that a request under PREFIX describes."""
    first, slash, rest = decode(request.path[len(PREFIX) :]).partition("/")
    run: str | None = None
    create = False
    if request.query:
        values = read_values(request.query)
        run = values.get("rid")
        if run is not None:
            run = run.lower()
            if not _is_uuid(run):
                return _WRONG_UUID
        create = values.get("create") == "1"
    if not rest:
        if not first or (slash and not _is_uuid(first)):
            return _NOT_FOUND
        return _reading(Key(first), _PLAIN[""], run, request, False)
    if _is_uuid(first):
        ping = _suffix(rest)
        if ping is not None:
            return ping if isinstance(ping, Refusal) else _reading(Key(first), ping, run, request, True)
    slug, slash, word = rest.partition("/")
    ping = _suffix(word) if word else _PLAIN[""]
    if ping is None or (slash and not word):
        return _NOT_FOUND
    if isinstance(ping, Refusal) or slug != slug.lower():
        return _WRONG_URL
    ours = slug if is_slug(slug) else slug.strip("-_")
    if create and not is_slug(ours):
        return _WRONG_URL
    address = Slug(first, ours, create, sent=None if ours == slug else slug)
    return _reading(address, ping, run, request, word != "")


def answer(outcome: Outcome | Refusal, request: Request) -> Answer:
    """200 `OK`, 201 `Created`, 404 `not found`, 409 `ambiguous slug`, or the reason."""
    status = status_of(outcome)
    if status == 200:
        return _CREATED if isinstance(outcome, Outcome) and outcome.kind == "created" else _OK
    reason = "ambiguous slug" if status == 409 else reason_of(outcome, "not found")
    return Answer(status, reason.encode("utf-8", "replace"), headers=waiting(outcome))


def _suffix(word: str) -> Ping | Refusal | None:
    """The ping of a suffix, a refusal of an exit status out of range, or None where it is no suffix."""
    ping = _PLAIN.get(word)
    if ping is None and word.isascii() and word.isdigit():
        return _PLAIN.get(word.lstrip("0") or "0", _WRONG_URL)
    return ping


def _reading(address: Key | Slug, ping: Ping, run: str | None, request: Request, named: bool) -> Reading:
    body = request.body
    if run is None and not body:
        return Reading(address, ping, named)
    webhook = alertmanager.read_webhook(body)
    message = webhook.message if webhook is not None else stored_message(body)
    reading = Reading(address, ping._replace(run=run, message=message), named)
    return reading if webhook is None else alertmanager.as_webhook(reading, webhook)
