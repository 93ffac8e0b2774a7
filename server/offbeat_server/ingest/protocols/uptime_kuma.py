"""Uptime Kuma's push monitors: `/api/push/{token}?status=up&msg=OK&ping=`, by any method.

Source: louislam/uptime-kuma 6398a958 (2.5.3), server/routers/api-router.js; the URL that its pages show is made in
src/pages/EditMonitor.vue. Exactly `up` (or no status) is success, everything else is fail, as there. `msg` is the
message, `ping` the run's duration in milliseconds. The body is ignored. Answers are JSON; every error of the address is
404 with `ok: false`, because the scripts that people have look at nothing else.

Differences: a wrong `ping` is left out and named in the answer, where the original refuses the push. Names are read in
any case. An outcome under another name (`state=down`) is understood, and a failure outranks the status; one that cannot
be read is refused with 400 where there is no status. A push that may not have been stored is answered 503, so that
`curl --retry` sends it again.
"""

import re
from typing import Final

import orjson

from offbeat_server.engine.model.ping import Ping
from offbeat_server.ingest.protocols.answers import reason_of, status_of, waiting
from offbeat_server.ingest.protocols.base import (
    HttpAnswer,
    KeyAddress,
    Outcome,
    ParsedPing,
    PingNote,
    Rejection,
    Request,
)
from offbeat_server.ingest.protocols.parsing.message import stored_text
from offbeat_server.ingest.protocols.parsing.parameters import appended_outcome, read_beside, read_outcome
from offbeat_server.ingest.protocols.parsing.urlencoded import decode_segment, read_pairs

name = "uptime_kuma"
PREFIX: Final = "/api/push/"

_PING_MS_MAX = 100_000_000_000
_SUCCESS = Ping("success", dialect=name)
_FAIL = Ping("fail", dialect=name)
# Most scripts send nothing, or the address as its pages show it.
_BY_QUERY: Final = {"": _SUCCESS, "status=up&msg=OK&ping=": _SUCCESS._replace(message="OK")}
_UNKNOWN = "Monitor not found or not active."
_WRONG_PING = PingNote("duration", f"Invalid ping value. Must be between 0 and {_PING_MS_MAX} ms.")
_OWN: Final = ("status", "msg", "ping")
_JSON = "application/json; charset=utf-8"
_OK = HttpAnswer(200, b'{"ok":true}', _JSON)
_leading_number = re.compile(r"\s*([+-]?(?:Infinity|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))", re.ASCII).match


def read(request: Request) -> ParsedPing | Rejection:
    """The ping that a request under PREFIX describes."""
    token = request.path[len(PREFIX) :].removesuffix("/")
    if not token or "/" in token:
        return Rejection(404, _UNKNOWN)
    address = KeyAddress(decode_segment(token))
    ping = _BY_QUERY.get(request.query)
    if ping is not None:
        return ParsedPing(address, ping, request.query != "")
    pairs = read_pairs(request.query)
    values = {parameter.lower(): value for parameter, value in pairs}
    states = [value.rstrip("\r\n") for parameter, value in pairs if parameter.lower() == "status"]
    own = [("status", "up" if each == "up" else "fail") for each in states if each]
    others = [(parameter, value) for parameter, value in pairs if parameter.lower() not in _OWN]
    status = own[-1][1] if own else ""
    ping = _SUCCESS if status in ("", "up") else _FAIL
    notes: tuple[PingNote, ...] = ()
    if own:
        if (beside := read_beside(own, others)) is not None:
            ping = Ping(beside.ping.signal, exit_code=beside.ping.exit_code, dialect=name)
            notes = beside.notes
    else:
        outcome = read_outcome(others) or appended_outcome(request.query)
        if isinstance(outcome, Rejection):
            return outcome
        if outcome is not None:
            ping = Ping(outcome.ping.signal, exit_code=outcome.ping.exit_code, dialect=name)
            status, notes = outcome.ping.signal, outcome.notes
    milliseconds = _parse_float(values.get("ping", ""))
    if not 0 <= milliseconds <= _PING_MS_MAX:
        milliseconds = 0.0
        notes += (_WRONG_PING,)
    message = stored_text(values.get("msg", ""))
    if milliseconds or message is not None:
        ping = ping._replace(duration=milliseconds / 1000 if milliseconds else None, message=message)
    return ParsedPing(address, ping, bool(status), notes)


def answer(outcome: Outcome | Rejection, request: Request) -> HttpAnswer:
    """200 `{"ok":true}`, or 404 `{"ok":false,"msg":"…"}`."""
    status = status_of(outcome)
    if status == 200:
        return _OK
    return HttpAnswer(status, orjson.dumps({"ok": False, "msg": reason_of(outcome, _UNKNOWN)}), _JSON, waiting(outcome))


def _parse_float(text: str) -> float:
    """As JavaScript's parseFloat: the number at the beginning. Without one 0, which Uptime Kuma takes for none."""
    match = _leading_number(text) if text else None
    return float(match[1]) if match else 0.0
