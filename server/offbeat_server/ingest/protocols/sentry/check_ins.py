"""Sentry Crons: check-ins of any Sentry SDK, whose DSN is `http://{ping key}@{host}:{port}/{any number}`.

Sources: getsentry/sentry-python 064542dd, sentry_sdk/crons/api.py, transport.py, utils.py; getsentry/relay,
relay-server/src/extractors/request_meta.rs (01aef71f) and relay-server/src/endpoints/monitor.rs (12634919);
getsentry/sentry, src/sentry/monitors/consumers/monitor_consumer.py. Envelopes: ingest/protocols/sentry/envelope.py.

- `POST /api/{number}/envelope/`: every check-in in it is a ping; all other items of an SDK (errors, traces, sessions,
  logs, …) are accepted and dropped, so that a whole SDK can be pointed here. `/api/{number}/store/` drops everything.
- `GET|HEAD|POST /api/{number}/cron/{slug}/{ping key}/` with the check-in in the query or as JSON.

The ping key is the project's, in X-Sentry-Auth, Authorization, `sentry_key`, the path, or the envelope's `dsn`. The
slug is the monitor's; every environment but production is a monitor of its own, `slug.environment`, made like `slug`
where that exists. A `monitor_config` makes the monitor or changes it (protocols/sentry/monitor_config.py). One that
cannot be used changes nothing: the check-in of a monitor that exists is kept; the answer (`warning`, or `detail` of a
404), the log and the ping's message name the wrong field. Without one nothing is made.

`in_progress` is start, `ok` success, `error` fail; a further `in_progress` of the same check-in is a start of a run
that is open, which is a sign of life. Native words are understood too; an unknown status is stored as `log`, and the
answer says so. Names of JSON may be written as in JavaScript (`checkInId`). The check-in's id is the run id. The
all-zero id means the latest check-in: it is stored as a ping without a run id, and the engine ends the open run that
began last. `duration` is kept.

Differences: Sentry answers before it knows whether a monitor exists, and drops silently; here 200 (202 for the cron
address) means stored, and a check-in that has no monitor is answered 404. Slugs are not cut to 50 characters, as that
would make one monitor of two. There is no quota of 6 check-ins a minute, and 429 is never said, because the SDK would
then hold back everything for a minute; too many new monitors are answered 503. An SDK does not repeat what was refused.
Unverified: what Relay answers to a malformed check-in; we answer 400 where no check-in of the envelope can be read. The
id of the event is not repeated in the answer, since no SDK reads it.
"""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable
from typing import Any, Final

import orjson

from offbeat_server.common.instants import SECOND
from offbeat_server.engine.model.ping import Ping, Signal
from offbeat_server.engine.model.slugs import slug_in, slug_of
from offbeat_server.engine.schedule.durations import DURATION_MAX
from offbeat_server.ingest.protocols.answers import reason_of, status_of, waiting
from offbeat_server.ingest.protocols.base import (
    HttpAnswer,
    Outcome,
    ParsedPing,
    PingNote,
    Rejection,
    Request,
    SlugAddress,
)
from offbeat_server.ingest.protocols.parsing.encodings import utf_8_body
from offbeat_server.ingest.protocols.parsing.ids import read_id
from offbeat_server.ingest.protocols.parsing.objects import NotJson, read_object
from offbeat_server.ingest.protocols.parsing.outcome import read_word, shown
from offbeat_server.ingest.protocols.parsing.parameters import appended_outcome, read_beside
from offbeat_server.ingest.protocols.parsing.urlencoded import decode_segment, read_pairs
from offbeat_server.ingest.protocols.sentry.envelope import PAYLOAD_BYTES_MAX, Envelope, open_envelope
from offbeat_server.ingest.protocols.sentry.monitor_config import DEFAULTS, NO_CONFIG, read_config, snake_case

name = "sentry"
CRON_METHODS: Final = ("GET", "HEAD", "POST")  # as Relay's router, which answers HEAD wherever it answers GET
CHECK_INS_MAX: Final = 100  # in one envelope
ITEM_TYPE: Final = "check_in"
FORM_BYTES_MAX: Final = 10_000
_OWN: Final = (
    *("status", "check_in_id", "environment", "duration", "sentry_key", "sentry_version", "sentry_client"),
    *("monitor_slug", "monitor_config", "contexts", "release", "type"),
)

speaks: Final = re.compile(r"/api/[0-9]{1,20}/(?:envelope|store|cron/.+)/?").fullmatch
_STATUSES: Final[dict[str, Signal]] = {"in_progress": "start", "ok": "success", "error": "fail"}
_is_id = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}").fullmatch
_sentry_key = re.compile(r"sentry_key\s*=\s*([^\s,]+)").search
_dsn_key = re.compile(r"https?://([^:@/]+)(?::[^@/]*)?@").match
_LATEST = "0" * 32
_ACCEPTED = HttpAnswer(202, b"")
_JSON = "application/json"
_ANYWHERE = (("Access-Control-Allow-Origin", "*"),)
_OK = HttpAnswer(200, b"{}", _JSON, _ANYWHERE)


def read(request: Request) -> ParsedPing | list[ParsedPing] | Rejection:
    """The pings that a request to one of Sentry's addresses describes; none where it holds no check-in."""
    parts = request.path.strip("/").split("/")
    kind = parts[2] if len(parts) > 2 else ""
    if kind == "cron" and len(parts) in (4, 5):
        return _read_cron(request, decode_segment(parts[3]), decode_segment(parts[4]) if len(parts) == 5 else None)
    if kind not in ("envelope", "store") or len(parts) != 3:
        return Rejection(404, "not found")
    if request.method != "POST":
        return Rejection(405, "use POST")
    return _read_envelope(request) if kind == "envelope" else []


def sink(path: str) -> Envelope | None:
    """Return a reader that keeps the check-ins of a long envelope; None: the address takes no envelope."""
    return Envelope(ITEM_TYPE) if "/envelope" in path else None


def answer(outcome: Outcome | Rejection, request: Request) -> HttpAnswer:
    """200 `{}`, 202 for the cron address, or `{"detail": "…"}`."""
    # After 429 an SDK sends nothing at all for a while, not even the check-ins of its other monitors.
    limited = isinstance(outcome, Outcome) and outcome.kind in ("full", "crowded", "limited")
    status = 503 if limited else status_of(outcome)
    reason = outcome.reason
    if status == 200:
        ok = _ACCEPTED if "/cron/" in request.path else _OK
        if not reason:
            return ok
        return HttpAnswer(
            ok.status, orjson.dumps({"warning": reason}), _JSON, (*_ANYWHERE, ("Offbeat-Ignored", "monitor_config"))
        )
    unknown = reason or "unknown key, or a monitor that does not exist: send a monitor_config"
    detail = reason_of(outcome, unknown)
    allowed = ", ".join(CRON_METHODS) if "/cron/" in request.path else "POST"
    headers = (("Allow", allowed),) if status == 405 else waiting(outcome)
    return HttpAnswer(status, orjson.dumps({"detail": detail}), _JSON, (*_ANYWHERE, *headers))


def _read_envelope(request: Request) -> list[ParsedPing] | Rejection:
    envelope = open_envelope(request.body, ITEM_TYPE)
    fault = request.fault or envelope.fault or envelope.skipped
    if envelope.header is None:
        return fault or Rejection(400, "envelope is empty")
    ping_key = _ping_key(request, envelope.header.get("dsn"))
    if isinstance(ping_key, Rejection):
        return ping_key
    if len(envelope.payloads) > CHECK_INS_MAX:
        return Rejection(413, f"envelope has more than {CHECK_INS_MAX} check-ins")
    readings: list[ParsedPing] = []
    refusal: Rejection | None = None
    for payload in envelope.payloads:
        reading = _read_payload(ping_key, payload, None)
        if isinstance(reading, Rejection):
            refusal = refusal or reading
        else:
            readings.append(reading)
    if not readings:
        if refusal is None and {"monitor_slug", "monitorSlug"} & envelope.header.keys():
            refusal = Rejection(
                400, 'a check-in is an item of an envelope: {} and {"type":"check_in"} stand in lines before'
            )
        return fault or refusal or readings
    if fault is not None:
        readings[0] = readings[0]._replace(notes=(*readings[0].notes, PingNote("body", fault.reason)))
    return readings


def _read_cron(request: Request, slug: str, path_key: str | None) -> ParsedPing | Rejection:
    if request.method not in CRON_METHODS:
        return Rejection(405, "use GET, HEAD or POST")
    ping_key = _ping_key(request, None, path_key)
    if isinstance(ping_key, Rejection):
        return ping_key
    pairs = read_pairs(request.query)
    if request.body and request.fault is None:
        body = utf_8_body(request)
        if request.headers.get("content-type", "").lower().startswith(_JSON):
            return _read_payload(ping_key, body, slug)
        if all(parameter.lower() != "status" for parameter, _ in pairs):  # sent without its Content-Type
            if body.lstrip()[:1] == b"{":
                return _read_payload(ping_key, body, slug)
            pairs += read_pairs(body[:FORM_BYTES_MAX].decode("utf-8", "replace").rstrip("\r\n"))
    values = {parameter.lower(): value for parameter, value in pairs}
    own = [("status", value) for parameter, value in pairs if parameter.lower() == "status" and value.strip()]
    if not own:
        return request.fault or appended_outcome(request.query) or Rejection(400, "missing field `status`")
    return _with_native_outcome(_read_check_in(ping_key, values, slug), own, pairs)


def _with_native_outcome(
    reading: ParsedPing | Rejection, own: list[tuple[str, Any]], pairs: Iterable[tuple[str, Any]]
) -> ParsedPing | Rejection:
    """At the address that people write themselves, an outcome in other words counts too."""
    others = [(name, value) for name, value in pairs if name.lower() not in _OWN]
    if isinstance(reading, Rejection) or (combined := read_beside(own, others)) is None:
        return reading
    ping = reading.ping._replace(signal=combined.ping.signal, exit_code=combined.ping.exit_code)
    return reading._replace(ping=ping, notes=(*reading.notes, *combined.notes))


def _read_payload(ping_key: str, payload: bytes, slug: str | None) -> ParsedPing | Rejection:
    if len(payload) > PAYLOAD_BYTES_MAX:
        return Rejection(413, f"check-in is larger than {PAYLOAD_BYTES_MAX} bytes")
    try:
        check_in = read_object(payload)
    except NotJson as error:
        return Rejection(400, f"check-in is not JSON: {error}")
    if not isinstance(check_in, dict):
        return Rejection(400, "check-in is not a JSON object")
    if any(name not in _OWN for name in check_in):  # as JavaScript writes them
        check_in = {
            name if name in _OWN or (own := snake_case(name)) in check_in else own: value
            for name, value in check_in.items()
        }
    reading = _read_check_in(ping_key, check_in, slug)
    if slug is None:
        return reading
    return _with_native_outcome(reading, [("status", check_in.get("status"))], check_in.items())


def _read_check_in(ping_key: str, check_in: dict[str, Any], slug: str | None) -> ParsedPing | Rejection:
    sent_slug = check_in.get("monitor_slug") if slug is None else slug
    base = slug_of(sent_slug) if isinstance(sent_slug, str) else None
    environment = check_in.get("environment")
    own_slug = slug_in(base, environment if isinstance(environment, str) else None) if base is not None else None
    if base is None or own_slug is None:
        return Rejection(400, "monitor_slug and environment must be letters, digits, _ and -, 100 characters in all")
    status = check_in.get("status")
    if not isinstance(status, str) or not status.strip():
        return Rejection(400, "status must be in_progress, ok or error")
    notes: list[PingNote] = []
    run = _run(check_in.get("check_in_id"), notes)
    duration = check_in.get("duration")
    seconds = _number(duration)
    if seconds is None and duration not in (None, ""):
        notes.append(PingNote("duration", "duration must be a number of seconds"))
    ping = Ping(_signal(status, notes), run=run, duration=seconds, dialect=name)
    config = read_config(check_in["monitor_config"]) if check_in.get("monitor_config") else NO_CONFIG
    definition = config.definition
    if config.problem and ping.signal != "fail":  # shown with the monitor's pings; a failure keeps its own words
        ping = ping._replace(message=f"{config.problem} (the monitor was not changed)")
    address = SlugAddress(
        ping_key,
        own_slug,
        create=definition is not None,
        definition=definition,
        defaults=DEFAULTS if definition is not None else None,
        like=base if own_slug != base and definition is None else None,
        sent=sent_slug if own_slug == base and sent_slug != base else None,
        problem=config.problem,
    )
    return ParsedPing(address, ping, named=True, notes=tuple(notes))


def _signal(status: str, notes: list[PingNote]) -> Signal:
    """The signal of a status; of one that Sentry does not have, what the word says, and `log` for an unknown word."""
    name = status.strip().lower()
    signal = _STATUSES.get(name) or read_word(name)
    if signal is None:
        notes.append(
            PingNote("status", f"status {shown(status)} is stored as log: use in_progress, ok or error", changed=True)
        )
        return "log"
    return signal


def _run(sent: object, notes: list[PingNote]) -> str | None:
    """Return the run id: a check-in's id without its dashes, or unchanged if it is no UUID."""
    if not sent:
        return None
    text = sent.lower() if isinstance(sent, str) else ""
    if _is_id(text):
        text = text.replace("-", "")
        return None if text == _LATEST else text
    run, _ = read_id("run", sent)
    notes.append(PingNote("run", "check_in_id is not a UUID", changed=True))
    return run


def _ping_key(request: Request, dsn: object, path_key: str | None = None) -> str | Rejection:
    """The one public key that a request brings. Two different ones are refused, as Relay does."""
    found = {path_key} if path_key else set()
    for header in ("x-sentry-auth", "authorization"):
        value = request.headers.get(header, "")
        if header == "authorization" and value[:6].lower() == "basic ":
            found.add(_basic_user(value[6:]))
        elif value[:7].lower() == "sentry ":
            key = _sentry_key(value)
            if key is None:
                return Rejection(401, "bad sentry authentication header")
            found.add(key[1])
    if "sentry_key=" in request.query:
        found.add(dict(read_pairs(request.query)).get("sentry_key", ""))
    if not found and isinstance(dsn, str) and (key := _dsn_key(dsn)) is not None:
        found.add(key[1])
    found.discard("")
    if len(found) > 1:
        return Rejection(401, "multiple authorization payloads detected")
    return found.pop() if found else Rejection(401, "missing authorization information")


def _basic_user(credentials: str) -> str:
    try:
        return b64decode(credentials.strip(), validate=True).decode("utf-8", "replace").partition(":")[0]
    except (Base64Error, ValueError):
        return ""


def _number(value: object) -> float | None:
    """A duration in seconds, or None: a wrong one does not cost the check-in."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number <= DURATION_MAX / SECOND else None
