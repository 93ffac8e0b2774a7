"""Dead Man's Snitch: `/{token}?m=message&s=status` at the root, only with `--root-dialect snitch`.

Source: deadmanssnitch/snitcher 1a84ab46, lib/snitcher.rb (`m` and `s`; its `:uri` option changes the host); the answer,
202 `Got it, thanks!`, is in deadmanssnitch.com/docs, and PremiereGlobal/go-deadmanssnitch takes nothing but 202. The
parameters may also come as a form, which public scripts do (`curl -d "m=…"`).

`s` absent, empty or 0 is success; a number to 255 is an exit code; anything else is a failure too.

Unverified, and what we chose: an unknown token is answered 404. A token is 8 to 40 hexadecimal digits (in all samples
they are 10) or one of our own UUID keys; other words at the root belong to Offbeat's pages.
"""

import re
from typing import Final

from server.engine.ping import EXIT_CODE_MAX, Ping
from server.ingest.answers import reason_of, status_of, waiting
from server.ingest.message import stored_text
from server.ingest.reading import Answer, Key, Outcome, Reading, Refusal, Request
from server.ingest.urlencoded import read_values

name = "snitch"
is_token: Final = re.compile(r"[0-9a-f]{8,40}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
METHODS = ("GET", "HEAD", "POST")
FORM_BYTES_MAX: Final = 40_000  # the whole of a message that is kept; to read a megabyte of `&` takes 0.25 s
_OK = Answer(202, b"Got it, thanks!")


def read(request: Request) -> Reading | Refusal:
    """The ping that a request to the root describes."""
    token = request.path[1:].removesuffix("/")
    if not is_token(token):
        return Refusal(404, "not found")
    if request.method not in METHODS:
        return Refusal(405, "check in by GET, HEAD or POST")
    values = read_values(request.query)
    if request.body and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        values = {**read_values(request.body[:FORM_BYTES_MAX].decode("utf-8", "surrogateescape")), **values}
    status = values.get("s", "").strip()
    exit_code = int(status) if status.isascii() and status.isdigit() and len(status) <= 3 else None
    if exit_code is not None and exit_code > EXIT_CODE_MAX:
        exit_code = None
    signal: Final = "success" if not status or exit_code == 0 else "fail"
    ping = Ping(signal, exit_code=exit_code, message=stored_text(values.get("m", "")), dialect=name)
    return Reading(Key(token), ping, named="s" in values)


def answer(outcome: Outcome | Refusal, request: Request) -> Answer:
    """202 `Got it, thanks!`, or the reason."""
    status = status_of(outcome)
    if status == 200:
        return _OK
    headers = (("Allow", ", ".join(METHODS)),) if status == 405 else waiting(outcome)
    return Answer(status, reason_of(outcome, "not found").encode("utf-8", "replace"), headers=headers)
