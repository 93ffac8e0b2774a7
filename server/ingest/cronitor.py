"""Cronitor's telemetry: `/p/{api key}/{monitor}?state=…`, and the same under `/ping/` from its command line.

Sources: cronitorio/cronitor-python de0c73c4, cronitor/monitor.py and cronitor/__init__.py; cronitorio/cronitor-cli
6b917bb3 (33.4), cmd/root.go, cmd/ping.go, cmd/exec.go; cronitor for Node 2.6.1, lib/cronitor.js (under `/ping/`, with a
`stamp` and not always a `state`); cronitorio/cronitor-kubernetes c7a4fca2, pkg/api/telemetry.go, and older clients for
Python (the state as a third part of the path); cronitor.io/docs/telemetry-api. The server is closed source. Tools that
append the state to an address of the user's write `/p/{api key}/{monitor}/{state}` too.

The API key is the ping key of a project, the monitor's key its slug (mapped: server/ingest/slugs.py); an unknown
monitor is made, as there. GET, POST and HEAD; a body is ignored.

| parameter | becomes |
| --- | --- |
| `state` | run: start · complete, ok, tick and none: success · fail: fail · logs: log |
| `series` | the run id, any text |
| `message`, `msg` | the message |
| `metric` (repeated) | `count:N` is done, `duration:S` the duration; error_count, length and named counts are ignored |
| `duration` | the duration in seconds |
| `status_code`, `exit_code` | the exit code, where it is one; it does not decide the signal |
| `env` | a monitor of its own, `slug.env`, except production; made like `slug` where that exists |
| `try`, `stamp`, `host`, `schedule` | ignored: a repeated event has the same series and state, and counts once |

Unverified, and what we chose: the body of an answer is `OK` (their own samples look for `ok`), an unknown state is
refused with 400, an unknown API key with 404; their clients give up on any 4xx, and try again after 503. The command
line's form without an API key, `/{code}/{state}` at the root, is not served, nor is the monitor API, to which the agent
for Kubernetes says which monitors it has before it begins.
"""

import re
from typing import Any, Final

from server.engine.durations import DURATION_MAX
from server.engine.ping import COUNT_MAX, EXIT_CODE_MAX, RUN_CHARS_MAX, SECOND, Ping, Signal
from server.ingest import answers
from server.ingest.message import stored_text
from server.ingest.reading import Answer, Outcome, Reading, Refusal, Request, Slug
from server.ingest.slugs import slug_in, slug_of
from server.ingest.urlencoded import decode, read_pairs

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
_OWN_STATES: Final = frozenset(_STATES) - {"fail"}  # which Healthchecks' addresses do not end with
_is_telemetry = re.compile(r"(?:^|&)(?:state|stamp)=").search
# What most pings say: the state alone.
_BY_QUERY: Final[dict[str, Ping]] = {
    "": _PLAIN["success"],
    **{f"state={state}": _PLAIN[signal] for state, signal in _STATES.items()},
}
_NOT_FOUND = Refusal(404, "not found")
_WRONG_SLUG = Refusal(400, "the monitor's key and env must be letters, digits, _, . and -, 100 characters in all")


def speaks(rest: str, query: str) -> bool:
    """Whether what follows `/ping/` is Cronitor's: two parts, and a `state` or the `stamp` that its clients send, or a
    third part that is a state of its own.
    """
    slashes = rest.count("/")
    if slashes < 2:  # most of all: decided first
        return bool(slashes and query) and _is_telemetry(query) is not None and not rest.endswith("/")
    state = rest.split("/", 2)[2].removesuffix("/")
    return state in _OWN_STATES or (state in ("", "fail") and _is_telemetry(query) is not None)


def read(request: Request) -> Reading | Refusal:
    """The ping that a request under PREFIX or `/ping/` describes."""
    method, path, query, _, _ = request
    if method not in METHODS:
        return Refusal(405, "ping by GET, HEAD or POST")
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
    sent = decode(monitor)
    slug = slug_of(sent)
    if slug is None:
        return _WRONG_SLUG
    ping = _BY_QUERY.get(query)
    if ping is None:
        return _with_parameters(decode(api_key), slug, sent, query)
    return Reading(_address(decode(api_key), slug, sent), ping, query != "")


def answer(outcome: Outcome | Refusal, request: Request) -> Answer:
    """200 `OK`, or the reason."""
    if isinstance(outcome, Refusal) and outcome.status == 405:
        return answers.text(outcome, "")._replace(headers=(("Allow", ", ".join(METHODS)),))
    return answers.text(outcome, "not found")


def _address(api_key: str, slug: str, sent: str) -> Slug:
    return Slug(api_key, slug, True) if sent == slug else Slug(api_key, slug, create=True, sent=sent)


def _with_parameters(api_key: str, slug: str, sent: str, query: str) -> Reading | Refusal:
    values: dict[str, str] = {}
    metrics: list[str] = []
    for parameter, value in read_pairs(query):
        if parameter == "metric":
            metrics.append(value)
        else:
            values[parameter] = value
    state = values.get("state", "")
    signal = _STATES.get(state.lower()) if state else "success"
    if signal is None:
        return Refusal(400, "unknown state: use run, complete, fail, ok, tick or logs")
    run = values.get("series") or None
    if run is not None and (len(run) > RUN_CHARS_MAX or "\0" in run):
        return Refusal(400, f"series must be at most {RUN_CHARS_MAX} characters without NUL")
    there = slug_in(slug, values.get("env"))
    if there is None:
        return _WRONG_SLUG
    said = _details(values, metrics)
    if run is not None:
        said["run"] = run
    address = _address(api_key, slug, sent) if there == slug else Slug(api_key, there, create=True, like=slug)
    return Reading(address, _PLAIN[signal]._replace(**said) if said else _PLAIN[signal], named=bool(state))


def _details(values: dict[str, str], metrics: list[str]) -> dict[str, Any]:
    """What else was said. Numbers that are none are left out: no client looks at an answer that says so."""
    count, duration = "", values.get("duration", "")
    for metric in metrics:
        kind, _, value = metric.partition(":")
        if kind == "count" and ":" not in value:
            count = value
        elif kind == "duration":
            duration = value
    said = {
        "done": _number(count, COUNT_MAX, whole=True),
        "duration": _number(duration, DURATION_MAX / SECOND),
        "exit_code": _number(values.get("status_code") or values.get("exit_code", ""), EXIT_CODE_MAX, whole=True),
        "message": stored_text(values.get("message") or values.get("msg") or ""),
    }
    return {field: value for field, value in said.items() if value is not None}


def _number(text: str, number_max: float, whole: bool = False) -> float | None:
    if not text or len(text) > 40:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    if not 0 <= number <= number_max or (whole and not number.is_integer()):
        return None
    return int(number) if whole else number
