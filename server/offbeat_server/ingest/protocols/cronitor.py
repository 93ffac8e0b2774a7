"""Cronitor's telemetry: `/p/{api key}/{monitor}?state=…`, and the same under `/ping/` from its command line.

Sources: cronitorio/cronitor-python de0c73c4, cronitor/monitor.py and cronitor/__init__.py; cronitorio/cronitor-cli
6b917bb3 (33.4), cmd/root.go, cmd/ping.go, cmd/exec.go; cronitor for Node 2.6.1, lib/cronitor.js (under `/ping/`, with a
`stamp` and not always a `state`); cronitorio/cronitor-kubernetes c7a4fca2, pkg/api/telemetry.go, and older clients for
Python (the state as a third part of the path); cronitor.io/docs/telemetry-api. The server is closed source. Tools that
append the state to an address of the user's write `/p/{api key}/{monitor}/{state}` too.

The API key is the ping key of a project, the monitor's key its slug (mapped: engine/model/slugs.py); an unknown
monitor is made, as there. GET, POST and HEAD; a body is ignored.

| parameter | becomes |
| --- | --- |
| `state` | run: start · complete, ok, tick and none: success · fail: fail · logs: log |
| `series` | the run id, any text |
| `message`, `msg` | the message |
| `metric` (repeated) | `count:N` is done, `duration:S` the duration; error_count, length and named counts are ignored |
| `duration` | the duration in seconds |
| `status_code`, `exit_code` | the exit code; it decides the signal only if there is no state |
| `env` | a monitor of its own, `slug.env`, except production; made like `slug` where that exists |
| `try`, `stamp`, `host`, `schedule` | ignored: a repeated event has the same series and state, and counts once |

Names and states are read in any case, and so are the native words for a state (`state=failed`). An outcome under
another name (`status=failed`) is understood, and a failure outranks the state; one that cannot be read is refused with
400 if there is no state.

Unverified, and what we chose: the body of an answer is `OK` (their own samples look for `ok`), an unknown state is
refused with 400, an unknown API key with 404; their clients give up on any 4xx, and try again after 503. The command
line's form without an API key, `/{code}/{state}` at the root, is not served, nor is the monitor API, to which the agent
for Kubernetes says which monitors it has before it begins.
"""

import re
from typing import Any, Final

from offbeat_server.engine.model.ping import Ping, Signal
from offbeat_server.engine.model.slugs import slug_in, slug_of
from offbeat_server.ingest.protocols import answers
from offbeat_server.ingest.protocols.base import (
    HttpAnswer,
    Outcome,
    ParsedPing,
    PingNote,
    Rejection,
    Request,
    SlugAddress,
)
from offbeat_server.ingest.protocols.parsing.details import read_count, read_seconds
from offbeat_server.ingest.protocols.parsing.ids import read_id
from offbeat_server.ingest.protocols.parsing.message import stored_text
from offbeat_server.ingest.protocols.parsing.outcome import read_exit, read_word, shown
from offbeat_server.ingest.protocols.parsing.parameters import appended_outcome, read_beside, read_outcome
from offbeat_server.ingest.protocols.parsing.urlencoded import decode_segment, read_pairs

name = "cronitor"
PREFIX: Final = "/p/"
METHODS = ("GET", "HEAD", "POST")

_PLAIN: Final[dict[Signal, Ping]] = {
    "start": Ping("start", dialect=name),
    "success": Ping("success", dialect=name),
    "fail": Ping("fail", dialect=name),
    "log": Ping("log", dialect=name),
}
_STATES: Final[dict[str, Signal]] = {
    "run": "start",
    "complete": "success",
    "fail": "fail",
    "ok": "success",
    "tick": "success",
    "logs": "log",
}
_OWN: Final = frozenset(
    ["state", "series", "message", "msg", "metric", "duration", "env", "try", "stamp", "host", "schedule"]
)
_OWN_STATES: Final = frozenset(_STATES) - {"fail"}  # which Healthchecks' addresses do not end with
# An address of Healthchecks to which something appended a query.
_is_suffixed_uuid = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/(?:start|fail|log|\d+)", re.IGNORECASE
).fullmatch
_is_telemetry = re.compile(r"(?:^|&)(?:state|stamp)=").search
# Most pings have the state alone.
_BY_QUERY: Final[dict[str, Ping]] = {
    "": _PLAIN["success"],
    **{f"state={state}": _PLAIN[signal] for state, signal in _STATES.items()},
}
_NOT_FOUND = Rejection(404, "not found")
_WRONG_SLUG = Rejection(400, "the monitor's key and env must be letters, digits, _, . and -, 100 characters in all")


def speaks(rest: str, query: str) -> bool:
    """Whether what follows `/ping/` is Cronitor's: two parts, and a `state` or the `stamp` that its clients send, or a
    third part that is a state of its own.
    """
    slashes = rest.count("/")
    if slashes < 2:  # most of all: decided first
        if not slashes or not query or _is_telemetry(query) is None or rest.endswith("/"):
            return False
        return _is_suffixed_uuid(rest) is None
    state = rest.split("/", 2)[2].removesuffix("/")
    return state in _OWN_STATES or (state in ("", "fail") and _is_telemetry(query) is not None)


def read(request: Request) -> ParsedPing | Rejection:
    """The ping that a request under PREFIX or `/ping/` describes."""
    method, path, query, *_ = request
    if method not in METHODS:
        return Rejection(405, "ping by GET, HEAD or POST")
    _, _, rest = path[1:].partition("/")
    api_key, _, monitor = rest.partition("/")
    if "/" in monitor:
        monitor, _, state = monitor.removesuffix("/").partition("/")
        if "/" in state:
            return _NOT_FOUND
        if state:
            query = f"{query}&state={state}" if query else f"state={state}"
    if not api_key or not monitor:
        return _NOT_FOUND
    sent = decode_segment(monitor)
    slug = slug_of(sent)
    if slug is None:
        return _WRONG_SLUG
    ping = _BY_QUERY.get(query)
    if ping is None:
        return _with_parameters(decode_segment(api_key), slug, sent, query)
    return ParsedPing(_address(decode_segment(api_key), slug, sent), ping, query != "")


def answer(outcome: Outcome | Rejection, request: Request) -> HttpAnswer:
    """200 `OK`, or the reason."""
    if isinstance(outcome, Rejection) and outcome.status == 405:
        return answers.text(outcome, "")._replace(headers=(("Allow", ", ".join(METHODS)),))
    return answers.text(outcome, "not found")


def _address(api_key: str, slug: str, sent: str) -> SlugAddress:
    return SlugAddress(api_key, slug, True) if sent == slug else SlugAddress(api_key, slug, create=True, sent=sent)


def _with_parameters(api_key: str, slug: str, sent: str, query: str) -> ParsedPing | Rejection:
    values: dict[str, str] = {}
    metrics: list[str] = []
    for parameter, value in (pairs := read_pairs(query)):
        if parameter.lower() == "metric":
            metrics.append(value)
        else:
            values[parameter.lower()] = value
    states = [value.strip() for parameter, value in pairs if parameter.lower() == "state" and value.strip()]
    signals = [_STATES.get(state.lower()) or read_word(state) for state in states]
    signal = signals[-1] if signals else "success"
    if signal is None:
        return Rejection(400, "unknown state: use run, complete, fail, ok, tick or logs")
    own_slug = slug_in(slug, values.get("env"))
    if own_slug is None:
        return _WRONG_SLUG
    notes: list[PingNote] = []
    details = _details(values, metrics, notes)
    others = [(each, value) for each, value in pairs if each.lower() not in (*_OWN, "status_code", "exit_code")]
    if states:
        exits = [("exit_code", details["exit_code"])] if details.get("exit_code") else []
        beside = read_beside([("state", each) for each in signals if each is not None], [*others, *exits])
        if beside is not None:
            signal = beside.ping.signal
            notes += beside.notes
    else:
        # Without a state an exit code decides, and so does an outcome in native words.
        other = read_outcome(others) or appended_outcome(query)
        if isinstance(other, Rejection):
            return other
        if other is not None:
            signal = other.ping.signal
            notes += other.notes
        elif details.get("exit_code"):
            signal = "fail"
    address = (
        _address(api_key, slug, sent) if own_slug == slug else SlugAddress(api_key, own_slug, create=True, like=slug)
    )
    ping = _PLAIN.get(signal) or Ping(signal, dialect=name)
    return ParsedPing(address, ping._replace(**details) if details else ping, named=bool(states), notes=tuple(notes))


def _details(values: dict[str, str], metrics: list[str], notes: list[PingNote]) -> dict[str, Any]:
    """Read the other parameters; those that cannot be read are noted."""
    count, duration = "", values.get("duration", "")
    for metric in metrics:
        kind, _, value = metric.partition(":")
        if kind == "count" and ":" not in value:
            count = value
        elif kind == "duration":
            duration = value
    run, changed = read_id("run", values.get("series", ""))
    if changed is not None:
        notes.append(PingNote("run", changed, changed=True))
    details: dict[str, Any] = {"run": run, "message": stored_text(values.get("message") or values.get("msg") or "")}
    for field, reader, value in (("done", read_count, count), ("duration", read_seconds, duration)):
        try:
            details[field] = reader(field, value)
        except ValueError as error:
            notes.append(PingNote(field, str(error)))
    code = (values.get("status_code") or values.get("exit_code") or "").strip()
    exit_code = read_exit(code) if code else None
    if exit_code is not None and not exit_code.lost:
        details["exit_code"] = exit_code.code
    elif code:
        notes.append(PingNote("exit_code", f"exit_code must be a number, not {shown(code)}"))
    return {field: value for field, value in details.items() if value is not None}
