"""Dead Man's Snitch: `/{token}?m=message&s=status` at the root, only with `--root-protocol snitch`.

Source: deadmanssnitch/snitcher 1a84ab46, lib/snitcher.rb (`m` and `s`; its `:uri` option changes the host); the answer,
202 `Got it, thanks!`, is in deadmanssnitch.com/docs, and PremiereGlobal/go-deadmanssnitch takes only 202. The
parameters may also come as a form, which public scripts do (`curl -d "m=…"`).

`s` absent, empty or 0 is success; another number is an exit code; anything else is a failure too. Names are read in any
case. An outcome under another name (`status=failed`) is understood, and a failure outranks `s`; one that cannot be read
is refused with 400 where there is no `s`.

Unverified, and what we chose: an unknown token is answered 404. A token is 8 to 40 hexadecimal digits (in all samples
they are 10) or one of our own UUID keys; other words at the root belong to Offbeat's pages.
"""

import re
from typing import Final

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
from offbeat_server.ingest.protocols.parsing.outcome import read_exit
from offbeat_server.ingest.protocols.parsing.parameters import (
    ReadParameters,
    appended_outcome,
    read_beside,
    read_fields,
    read_outcome,
)
from offbeat_server.ingest.protocols.parsing.urlencoded import read_pairs

name = "snitch"
is_token: Final = re.compile(r"[0-9a-f]{8,40}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
METHODS = ("GET", "HEAD", "POST")
FORM_BYTES_MAX: Final = 40_000  # the whole of a message that is kept; to read a megabyte of `&` takes 0.25 s
_OK = HttpAnswer(202, b"Got it, thanks!")


def read(request: Request) -> ParsedPing | Rejection:
    """The ping that a request to the root describes."""
    token = request.path[1:].removesuffix("/")
    if not is_token(token):
        return Rejection(404, "not found")
    if request.method not in METHODS:
        return Rejection(405, "check in by GET, HEAD or POST")
    sent = read_pairs(request.query)
    if request.body and request.headers.get("content-type", "").lower().startswith("application/x-www-form-urlencoded"):
        sent = [*read_pairs(request.body[:FORM_BYTES_MAX].decode("utf-8", "surrogateescape").rstrip("\r\n")), *sent]
    values = {parameter.lower(): value for parameter, value in sent}
    own = [_own(value.strip()) for parameter, value in sent if parameter.lower() == "s" and value.strip()]
    others = [(parameter, value) for parameter, value in sent if parameter.lower() not in ("s", "m")]
    message = stored_text(values.get("m", ""))
    if not own:
        outcome = read_outcome(others) or appended_outcome(request.query)
        if outcome is None:
            unread = request.fault
            if unread is None and request.whole_bytes:
                unread = Rejection(413, f"no s in the ends of a body of {request.whole_bytes} bytes")
            return unread or ParsedPing(
                KeyAddress(token), Ping("success", message=message, dialect=name), named="s" in values
            )
        if isinstance(outcome, Rejection):
            return outcome
        ping = Ping(outcome.ping.signal, exit_code=outcome.ping.exit_code, message=message, dialect=name)
        return ParsedPing(KeyAddress(token), ping, named=True, notes=outcome.notes)
    outcome, beside = read_fields([own[-1]]), read_beside(own, others)
    assert isinstance(outcome, ReadParameters), own
    notes = () if beside is None else beside.notes
    if beside is not None and beside.ping.signal == "fail":  # only a failure outranks `s`
        outcome = beside
    ping = Ping(outcome.ping.signal, exit_code=outcome.ping.exit_code, message=message, dialect=name)
    if request.fault is not None:
        notes = (*notes, PingNote("body", request.fault.reason))
    return ParsedPing(KeyAddress(token), ping, named=True, notes=notes)


def _own(status: str) -> tuple[str, str]:
    """Return `s` as a native parameter."""
    exit_code = read_exit(status)
    if exit_code is None or (exit_code.code is None and exit_code.signal != "success"):
        return "status", "fail"
    return "exit_code", status


def answer(outcome: Outcome | Rejection, request: Request) -> HttpAnswer:
    """202 `Got it, thanks!`, or the reason."""
    status = status_of(outcome)
    if status == 200:
        return _OK
    headers = (("Allow", ", ".join(METHODS)),) if status == 405 else waiting(outcome)
    return HttpAnswer(status, reason_of(outcome, "not found").encode("utf-8", "replace"), headers=headers)
