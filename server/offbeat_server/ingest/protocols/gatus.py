"""Gatus' external endpoints: `POST /api/v1/endpoints/{key}/external?success=true|false&error=…&duration=…`.

Source: TwiN/gatus 08c46354, api/external_endpoint.go and config/key/key.go; its client gatus-cli takes `--url`. The
order of the checks and the sentences are those of Gatus.

Two things name a monitor there: the key in the path, `group_name` in lower case, and the endpoint's bearer token. Here
the key is the monitor's slug and the token is the ping key of its project. So that only the host name has to
change, the pair can also be added to a monitor as a key written `token/key`; and the monitor's own key is accepted as
the token. The key of an endpoint without a group, `_name`, is read as `name`.

Differences: an unknown key and a wrong token get the same answer, 404, so that a client cannot find out which keys
exist; Gatus answers 401 to the second. A wrong or negative duration is left out and named in the answer; Gatus refuses
the result. `success` is read in any case, and a failure in other words outranks it. The body is ignored, as by Gatus.
"""

import re
from typing import Final

from offbeat_server.common.instants import SECOND
from offbeat_server.engine.model.ping import Ping
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
from offbeat_server.ingest.protocols.parsing.message import stored_text
from offbeat_server.ingest.protocols.parsing.parameters import read_beside
from offbeat_server.ingest.protocols.parsing.urlencoded import decode_segment, read_pairs

name = "gatus"
PREFIX: Final = "/api/v1/endpoints/"
SUFFIX: Final = "/external"

_UNKNOWN = "not found"
_OK = HttpAnswer(200, b"")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_PART = r"(\d{1,20}\.?\d{0,20}|\.\d{1,20})(h|ms|m|s|us|µs|μs|ns)"
_is_go_duration = re.compile(rf"\+?(?:0|(?:{_PART})+)", re.ASCII).fullmatch
_parts = re.compile(_PART, re.ASCII).findall


def read(request: Request) -> ParsedPing | Rejection:
    """The ping that a request under PREFIX, ending in SUFFIX, describes."""
    key = request.path[len(PREFIX) :].removesuffix("/").removesuffix(SUFFIX)
    if not key or "/" in key:
        return Rejection(404, _UNKNOWN)
    if request.method != "POST":
        return Rejection(405, "Method Not Allowed")
    pairs = read_pairs(request.query)
    values = {parameter.lower(): value for parameter, value in pairs}
    own = [("success", value.strip().lower()) for parameter, value in pairs if parameter.lower() == "success"]
    if not own or any(success not in ("true", "false") for _, success in own):
        return Rejection(400, "missing or invalid success query parameter")
    authorization = request.headers.get("authorization", "")
    if not authorization.startswith("Bearer "):
        return Rejection(401, "invalid Authorization header")
    token = authorization.removeprefix("Bearer ").strip()
    if not token:
        return Rejection(401, "bearer token must not be empty")
    seconds = _seconds(values.get("duration", ""))
    notes = [seconds] if isinstance(seconds, PingNote) else []
    duration = None if isinstance(seconds, PingNote) else seconds
    combined = read_beside(own, [pair for pair in pairs if pair[0].lower() not in ("success", "error", "duration")])
    signal = combined.ping.signal if combined is not None else "success" if own[0][1] == "true" else "fail"
    notes += combined.notes if combined is not None else ()
    message = stored_text(values.get("error", ""))
    if message is not None and signal != "fail":
        notes.append(PingNote("error", "error is kept only with success=false"))
        message = None
    ping = Ping(signal, duration=duration, message=message, dialect=name)
    sent = decode_segment(key)
    slug = sent.lstrip("_")
    return ParsedPing(
        SlugAddress(token, slug, sent=None if sent == slug else sent), ping, named=True, notes=tuple(notes)
    )


def answer(outcome: Outcome | Rejection, request: Request) -> HttpAnswer:
    """200 and an empty body, or the reason."""
    status = status_of(outcome)
    if status == 200:
        return _OK
    headers = (("Allow", "POST"),) if status == 405 else waiting(outcome)
    return HttpAnswer(status, reason_of(outcome, _UNKNOWN).encode("utf-8", "replace"), headers=headers)


def _seconds(text: str) -> float | PingNote | None:
    """A duration as Go writes it (`10s`, `1h2m3.5s`, `150ms`); None where none was sent, a note where it is none."""
    if not text:
        return None
    length = 0.0
    if len(text) <= 60 and _is_go_duration(text):
        length = sum(float(number) * _UNIT_S[unit] for number, unit in _parts(text))
        if length <= DURATION_MAX / SECOND:
            return length
    return PingNote("duration", f"invalid duration: {text[:60]!r}")
