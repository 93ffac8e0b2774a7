"""Offbeat's own protocol: `/api/v1/heartbeat/{key}[/{signal or exit code}]` by GET, HEAD or POST.

The signal is in the path, in `status` (words and parameters: server/ingest/fields.py), or in the exit code; where
nothing says it, it is success. Parameters stand in the query or in the body, and the query wins.

A body is read like this:
- JSON by its Content-Type: an object of parameters, else 400;
- an undeclared JSON object with one of our names: parameters too, as `curl -d '{"status": "fail"}'` declares a form;
- a form: parameters, but only when every name in it is one of ours. `curl -d "$output"` declares every body a form, and
  Better Stack's documented `curl -d "$output" …/{token}/$?` sends the output of a job that way. Where the path does not
  name the signal, other names may stand beside a `status` that is a word of ours: `status=fail&host=db1` is no success;
- anything else is the message, and so is a JSON object with none of our names.
A byte order mark is no part of it, and after that of UTF-16 it is read as UTF-16: Windows writes such files.
A body that nobody declared as JSON and whose parameters do not fit is the message where the path has already named the
signal: then it is some job's output. Where the path has not, it is refused with 400, since a misspelt status would
otherwise count as success. For the same reason multipart forms, which are not read, are refused there.
The body may also be a webhook of Alertmanager (server/ingest/alertmanager.py).

A request that is repeated with the same `Idempotency-Key` is stored once (server/ingest/once.py).

This is also the form of Better Stack's heartbeats (betterstack.com/docs/uptime/cron-and-heartbeat-monitor): token,
`/fail`, `/{exit code}` with the output as a raw body. What they answer to an unknown token, and how large a body may
be, is not documented; we answer 404 and cut.
"""

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from contextlib import suppress
from typing import Any, Final

import orjson

from server.engine.ping import EXIT_CODE_MAX, PLAIN, Ping, Signal
from server.ingest import alertmanager, answers
from server.ingest.fields import FIELD_NAMES, names_signal, read_fields, read_word, unknown_signal
from server.ingest.message import stored_message
from server.ingest.reading import Answer, Key, Outcome, Reading, Refusal, Request
from server.ingest.urlencoded import decode, read_values

name = "native"
PREFIX: Final = "/api/v1/heartbeat/"
METHODS = ("GET", "HEAD", "POST")
FORM_FIELDS_MAX: Final = 2 * len(FIELD_NAMES)  # what has more is some output; to read a megabyte of `&` takes 0.2 s

# A ping that says nothing but its exit code is one of these, made once.
_EXITS = [Ping("fail" if code else "success", exit_code=code) for code in range(EXIT_CODE_MAX + 1)]
_NOT_UTF8 = Refusal(400, "the parameters are not UTF-8")


def read(request: Request) -> Reading | Refusal:
    """The ping that a request under PREFIX describes."""
    method, path, query, headers, body = request
    if method not in METHODS:
        return Refusal(405, "ping by GET, HEAD or POST")
    key, _, word = path[len(PREFIX) :].partition("/")
    address = Key(decode(key))
    signal: Signal | None = None
    exit_code: int | None = None
    if word:
        word = decode(word.removesuffix("/"))
        signal = read_word(word)
        if signal is None:
            exit_code = _exit_code(word)
            if exit_code is None:
                return Refusal(400, f"{unknown_signal(word)}, or an exit code from 0 to {EXIT_CODE_MAX}")
            signal = _EXITS[exit_code].signal
    if not query and not body:
        ping = PLAIN[signal or "success"] if exit_code is None else _EXITS[exit_code]
        return Reading(address, ping, signal is not None)
    try:
        fields: dict[str, Any] = dict(read_values(query, "strict")) if query else {}
    except UnicodeDecodeError:
        return _NOT_UTF8
    if not body:
        return _reading(address, fields, signal, exit_code)
    return _with_body(address, fields, signal, exit_code, headers.get("content-type", ""), body)


def answer(outcome: Outcome | Refusal, request: Request) -> Answer:
    """200 `OK`, 404 `unknown key`, or the reason."""
    if isinstance(outcome, Refusal) and outcome.status == 405:
        return answers.text(outcome, "")._replace(headers=(("Allow", ", ".join(METHODS)),))
    return answers.text(outcome, "unknown key")


def _reading(
    address: Key, fields: dict[str, Any], signal: Signal | None, exit_code: int | None, message: str | None = None
) -> Reading | Refusal:
    ping = read_fields(fields, signal, exit_code, message)
    if isinstance(ping, Refusal):
        return ping
    return Reading(address, ping, signal is not None or names_signal(fields))


def _with_body(
    address: Key, fields: dict[str, Any], signal: Signal | None, exit_code: int | None, content_type: str, body: bytes
) -> Reading | Refusal:
    body = _without_mark(body)
    webhook = alertmanager.read_webhook(body)
    if webhook is not None:
        reading = _reading(address, fields, signal, exit_code, webhook.message)
        return reading if isinstance(reading, Refusal) else alertmanager.as_webhook(reading, webhook)
    kind = content_type.partition(";")[0].strip().lower()
    declared = kind == "application/json" or kind.endswith("+json")
    sent = _parameters(kind, declared, body, named=signal is not None)
    if isinstance(sent, dict):
        reading = _reading(address, {**sent, **fields}, signal, exit_code)
        if declared or not isinstance(reading, Refusal):
            return reading
        sent = reading
    if isinstance(sent, Refusal) and (declared or signal is None):
        return sent
    # With the path's word for the signal, a body that does not fit is the output of a job.
    return _reading(address, fields, signal, exit_code, stored_message(body))


def _parameters(kind: str, declared: bool, body: bytes, *, named: bool) -> dict[str, Any] | Refusal | None:
    """The parameters in a body; None: it is the message."""
    if declared:
        try:
            sent = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            return Refusal(400, f"the body is not JSON: {error}")
        if not isinstance(sent, dict):
            return Refusal(400, "the body must be a JSON object of parameters")
        return sent if not sent or not FIELD_NAMES.isdisjoint(sent) else None
    if body.lstrip()[:1] == b"{":
        sent = _undeclared(body)
        return sent if isinstance(sent, dict) and not FIELD_NAMES.isdisjoint(sent) else None
    if kind == "multipart/form-data":
        return Refusal(400, "a multipart form is not read: send name=value&name=value or JSON")
    if kind == "application/x-www-form-urlencoded":
        return _form(body, named=named)
    return None


def _undeclared(body: bytes) -> object:
    """What the body says if it is JSON, else None. PowerShell 5 sends text as Latin-1."""
    for text in (body, body.decode("latin-1").encode()):
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(text)
    return None


def _without_mark(body: bytes) -> bytes:
    """The body as UTF-8, where its byte order mark says what it is."""
    if body.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return body.decode("utf-16", "replace").encode("utf-8", "replace")
    return body.removeprefix(BOM_UTF8)


def _form(body: bytes, *, named: bool) -> dict[str, Any] | Refusal | None:
    text = body.decode("utf-8", "surrogateescape").rstrip("\r\n")  # a file's last line end is no part of a run's id
    names = [piece.partition("=") for piece in text.split("&", FORM_FIELDS_MAX)]
    if len(names) > FORM_FIELDS_MAX or not all(equals and name.isidentifier() for name, equals, _ in names):
        return None
    ours = all(name in FIELD_NAMES for name, _, _ in names)
    try:
        sent = read_values(text, "strict")
    except UnicodeDecodeError:
        return _NOT_UTF8 if ours else None
    if ours:
        return dict(sent)
    word = None if named else sent.get("status", sent.get("signal"))
    return None if word is None or read_word(word) is None else {"message": text, **sent}


def _exit_code(word: str) -> int | None:
    if word.isascii() and word.isdigit() and len(word) <= 10:
        code = int(word)
        return code if code <= EXIT_CODE_MAX else None
    return None
