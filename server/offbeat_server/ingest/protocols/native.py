"""Offbeat's own protocol: `/api/v1/heartbeat/{key}[/{signal or exit code}]` by GET, HEAD or POST.

The signal is in the path, in `status` (words and parameters: ingest/protocols/parsing/parameters.py), or in
the exit code; if nothing says it, it is success. Instead of an exit code, systemd's words for results and signals are
read (`timeout`, `KILL`).

If the path or the query names the signal, the body is the message in every case: it is the output of some job, and
`curl -d "$output"` declares every body a form. If neither does, the body is read by its Content-Type:
- JSON (also `text/json` and `…+json`): an object of parameters, else 400;
- none, or a form: an object of parameters if it is JSON, and a form if every name in it is a parameter. Other names may
  stand beside an outcome: `status=fail&host=db1` is no success. Anything else is the message;
- text, or data of another kind: the message, but 400 if it has parameters that say anything but a success;
- XML, YAML, multipart forms and other formats for structured data: 415, because their outcome is not read. So is
  a body that is packed with gzip or zstd without a Content-Encoding.
An object with none of our names is the message too, unless something in it says a failure, which is refused with 400.
So is text that looks like JSON, XML or `name: value` and says one outright; lines of a log, as in `[INFO] status: 200`
or `ok=2 changed=0 failed=0`, are the message.

If neither path nor query says the signal, or the body is declared as JSON, the body may also be a webhook of
Alertmanager (ingest/protocols/alertmanager.py).

A request that is repeated with the same `Idempotency-Key` is stored once (ingest/idempotency.py).

This is also the form of Better Stack's heartbeats (betterstack.com/docs/uptime/cron-and-heartbeat-monitor): token,
`/fail`, `/{exit code}` with the output as a raw body. Their answer to an unknown token and their limit of a body are
not documented; Offbeat answers 404 and cuts the body.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from offbeat_server.engine.model.ping import PLAIN, Ping, Signal
from offbeat_server.ingest.protocols import alertmanager, answers
from offbeat_server.ingest.protocols.base import (
    HttpAnswer,
    KeyAddress,
    Outcome,
    ParsedPing,
    PingNote,
    Rejection,
    Request,
)
from offbeat_server.ingest.protocols.parsing.encodings import utf_8_body
from offbeat_server.ingest.protocols.parsing.message import stored_message, with_mark
from offbeat_server.ingest.protocols.parsing.objects import NotJson, read_object
from offbeat_server.ingest.protocols.parsing.outcome import (
    ALLOWED,
    OUTCOMES,
    field_of,
    find_failure,
    is_denied,
    is_failure_word,
    read_exit,
    read_word,
    says_failure_in_text,
    unknown_signal,
)
from offbeat_server.ingest.protocols.parsing.parameters import (
    VALUES_LOOKED_AT_MAX,
    ReadParameters,
    appended_outcome,
    as_json,
    read_fields,
)
from offbeat_server.ingest.protocols.parsing.urlencoded import decode, decode_segment, read_pairs

name = "native"
PREFIX: Final = "/api/v1/heartbeat/"
METHODS = ("GET", "HEAD", "POST")
FORM_FIELDS_MAX: Final = 22  # what has more is some output; to read a megabyte of `&` takes 0.2 s
HINT_BYTES_MAX = 2_000
TEXT_LOOKED_AT_BYTES = 20_000  # of a text that may say a failure

# A ping that has only its exit code is one of these, made once.
COMMON_EXITS: Final = range(256)
_EXITS = [Ping("fail" if code else "success", exit_code=code) for code in COMMON_EXITS]
_is_json = re.compile(r"(?:application|text)/(?:x-)?json|[\w.-]+/[\w.-]+\+json").fullmatch
_is_unread = re.compile(
    r"(?:application|text)/(?:[\w.-]+\+)?(?:x-)?"
    r"(?:xml|yaml|toml|msgpack|messagepack|cbor|protobuf|ndjson|jsonl|jsonlines|json-seq|json5)|[\w.-]+/[\w.-]+\+(?:xml|yaml)"
    r"|multipart/.*"
).fullmatch
_is_name = re.compile(r"['\"]?[\w.%\[\]-]{1,60}").fullmatch
_FORM = "application/x-www-form-urlencoded"
_UNDECLARED = ("", _FORM)
_PACKED = ((b"\x1f\x8b\x08", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))
# A name and a value in something that looks like JSON, XML or a list of names and values.
_pairs_in = re.compile(
    r"([A-Za-z][\w-]{1,30})[\"']?\s{0,3}[:=>]\s{0,3}[\"']?([\w+-]{1,40}(?: (?i:ok|out|kill|killed)\b)?)"
).findall
# An object, a list of objects, lists or texts, or a tag; `[INFO]`, `[2026-11-30]`, `[x]` and `<6>` begin lines of logs.
_looks_structured = re.compile(r"\s*['\"]?(?:\{|\[\s*[\[{\"'\]]|<[A-Za-z?!])").match
_is_pair_line = re.compile(r"\s*[\w .-]{1,40}?\s*[:=]\s*\S").match
PAIR_LINES_MAX = 30  # what has more lines is a log


def read(request: Request) -> ParsedPing | Rejection:
    """The ping that a request under PREFIX describes."""
    method, path, query, _, body, _, fault = request
    if method not in METHODS:
        return Rejection(405, "ping by GET, HEAD or POST")
    key, _, suffix = path[len(PREFIX) :].partition("/")
    address = KeyAddress(decode_segment(key))
    signal: Signal | None = None
    exit_code: int | None = None
    pairs: list[tuple[str, Any]] = []
    if query:
        pairs = read_pairs(query)
        if not suffix and (refusal := appended_outcome(query)) is not None and not _says_otherwise(pairs, query):
            return refusal
    if suffix:
        suffix = decode_segment(suffix.removesuffix("/"))
        exit_status = read_exit(suffix)
        if exit_status is not None:  # also of a word that is both: as a result of systemd `timeout` is the reason too
            signal, exit_code = exit_status.signal, exit_status.code
            if exit_status.message is not None or exit_status.lost:
                pairs = [("exit_code", suffix), *pairs]
        elif (signal := read_word(suffix)) is None:
            return Rejection(400, f"{unknown_signal(suffix)}, or an exit code")
    if not pairs and not body and fault is None:
        if exit_code is None:
            return ParsedPing(address, PLAIN[signal or "success"], signal is not None)
        ping = _EXITS[exit_code] if exit_code in COMMON_EXITS else Ping(signal or "fail", exit_code=exit_code)
        return ParsedPing(address, ping, named=True)
    if not body and fault is None:
        return _reading(address, read_fields(pairs, signal, exit_code), signal)
    return _with_body(request, address, pairs, signal, exit_code)


def _says_otherwise(pairs: list[tuple[str, Any]], query: str) -> bool:
    """Whether a query that ends with `/fail` or the like has an outcome of its own, and no success beside a failure."""
    parameters = read_fields(pairs)
    if not isinstance(parameters, ReadParameters) or not parameters.named:
        return False
    return parameters.ping.signal != "success" or not query.lower().removesuffix("/").endswith("/fail")


def answer(outcome: Outcome | Rejection, request: Request) -> HttpAnswer:
    """200 `OK`, 404 `unknown key`, or the reason."""
    if isinstance(outcome, Rejection) and outcome.status == 405:
        return answers.text(outcome, "")._replace(headers=(("Allow", ", ".join(METHODS)),))
    return answers.text(outcome, "unknown key")


def _reading(
    address: KeyAddress, parameters: ReadParameters | Rejection, signal: Signal | None, *notes: PingNote
) -> ParsedPing | Rejection:
    if isinstance(parameters, Rejection):
        return parameters
    return ParsedPing(address, parameters.ping, signal is not None or parameters.named, (*parameters.notes, *notes))


def _with_body(
    request: Request, address: KeyAddress, pairs: list[tuple[str, Any]], signal: Signal | None, exit_code: int | None
) -> ParsedPing | Rejection:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = utf_8_body(request)
    says_signal = signal is not None
    if not says_signal and pairs:
        outright = read_fields(pairs)
        says_signal = isinstance(outright, ReadParameters) and outright.named
    if request.fault is None and not request.whole_bytes and (not says_signal or _is_json(kind)):
        webhook = alertmanager.read_webhook(body)
        if webhook is not None:
            reading = _reading(address, read_fields(pairs, signal, exit_code, webhook.message), signal)
            return reading if isinstance(reading, Rejection) else alertmanager.as_webhook(reading, webhook)
    message = stored_message(body, request.whole_bytes)
    if says_signal:
        notes = [PingNote("body", request.fault.reason)] if request.fault is not None else _misplaced(kind, body)
        return _reading(address, read_fields(pairs, signal, exit_code, message), signal, *notes)
    if request.fault is not None:
        return request.fault
    if packed := next((coding for mark, coding in _PACKED if request.body.startswith(mark)), None):
        return Rejection(415, f"the body is compressed: send Content-Encoding: {packed}, or the outcome in the path")
    sent = _parameters(kind, body, request.whole_bytes)
    if isinstance(sent, Rejection):
        return sent
    if sent is None:
        return _reading(address, read_fields(pairs, message=message), None)
    parameters = read_fields([*sent, *pairs])
    if request.whole_bytes and isinstance(parameters, ReadParameters) and not parameters.named:
        return Rejection(413, f"no outcome in the ends of a body of {request.whole_bytes} bytes: send it in the path")
    return _reading(address, parameters, None)


def _misplaced(kind: str, body: bytes) -> list[PingNote]:
    """A hint for a client that sends parameters where they are the message."""
    if len(body) > HINT_BYTES_MAX or not (_is_json(kind) or kind in _UNDECLARED):
        return []
    if not body.startswith(b"{") and field_of(body[:60].partition(b"=")[0].decode("latin-1")) is None:
        return []
    sent = _parameters(kind, body, 0)
    if sent is None or isinstance(sent, Rejection) or any(field_of(name) is None for name, _ in sent):
        return []
    return [PingNote("body", "this address says its signal, so the body is the message: parameters stand in the query")]


def _parameters(kind: str, body: bytes, whole_bytes: int) -> Iterable[tuple[str, Any]] | Rejection | None:
    """The parameters in a body; None: it is the message."""
    if _is_unread(kind):
        return Rejection(415, f"{kind} is not read: send JSON or name=value&name=value, or the outcome in the path")
    if whole_bytes:
        body = with_mark(body, whole_bytes)
    if _is_json(kind):
        return _declared(body)
    looks_like_json = body.lstrip()[:1] in (b"{", b"[")
    if kind in _UNDECLARED:
        if looks_like_json:
            return _undeclared(body)
        return _form(body)
    # The body is text or data, so it says nothing; but then it must not say anything but a success either.
    sent = _undeclared(body) if looks_like_json else _form(body)
    if sent is None or isinstance(sent, Rejection):
        return sent
    parameters = read_fields(sent)
    if isinstance(parameters, Rejection) or parameters.ping.signal != "success":
        declared = "application/json" if looks_like_json else _FORM
        return Rejection(400, f"the body is declared as {kind} and has parameters: declare it as {declared}")
    return None


def _declared(body: bytes) -> Iterable[tuple[str, Any]] | Rejection | None:
    try:
        sent = read_object(body)
    except NotJson as error:
        return Rejection(400, f"the body is not JSON: {error}")
    if not isinstance(sent, dict):
        return Rejection(400, "the body must be a JSON object of parameters")
    return _object(sent) if sent else ()


def _undeclared(body: bytes) -> Iterable[tuple[str, Any]] | Rejection | None:
    try:
        sent = read_object(body)
    except NotJson:
        return _text_refusal(body)
    return _object(sent if isinstance(sent, dict) else {"": sent})


def _object(sent: dict[str, Any]) -> Iterable[tuple[str, Any]] | Rejection | None:
    if any(field_of(name) is not None or is_denied(name, value) for name, value in sent.items()):
        return sent.items()
    try:
        found = find_failure(sent, VALUES_LOOKED_AT_MAX)
    except ValueError as error:
        return Rejection(400, f"{error}: send the outcome in the path or as status")
    return None if found is None else _looks_like_an_outcome(found)


def _form(body: bytes) -> list[tuple[str, Any]] | Rejection | None:
    text = body.decode("utf-8", "surrogateescape").rstrip("\r\n")  # a file's last line end is no part of a run's id
    if text[:1] in ("'", '"') and text[-1] == text[0]:  # cmd.exe leaves single quotes in place
        text = text[1:-1]
    text = text.strip("&")
    pieces = [piece.partition("=") for piece in text.split("&", FORM_FIELDS_MAX)]
    if len(pieces) > FORM_FIELDS_MAX or not all(equals and _is_name(name) for name, equals, _ in pieces):
        return _text_refusal(body)
    if len(pieces) == 1 and _is_list_of_pairs(*pieces[0]):
        return _text_refusal(body)
    pairs: list[tuple[str, Any]] = list(read_pairs(text))
    fields = [field_of(name) for name, _ in pairs]
    if None not in fields:
        return pairs
    if any(field in OUTCOMES for field in fields) or any(is_denied(name, value) for name, value in pairs):
        return [("message", text), *pairs]
    try:
        failing = find_failure({"": [{name: as_json(value)} for name, value in pairs]}, VALUES_LOOKED_AT_MAX)
    except ValueError as error:
        return Rejection(400, f"{error}: send the outcome in the path or as status")
    return None if failing is None else _looks_like_an_outcome(failing)


def _is_list_of_pairs(name: str, _: str, value: str) -> bool:
    """Whether this is a line of a log, as in `ok=2 changed=0 failed=0`, instead of the only parameter of a form."""
    parts = value.split(None, 1)
    if len(parts) < 2 or "=" not in value or field_of(name) == "message":
        return False
    # `status=start run=7` is meant for us: what is text counts as a success.
    return field_of(name) != "status" or read_word(parts[0]) in (None, "success")


def _text_refusal(body: bytes) -> Rejection | None:
    """Why a text is not taken for the message of a success: it is in no format that we read, and says a failure."""
    text = body[:TEXT_LOOKED_AT_BYTES].decode("utf-8", "replace")
    if "%" in text and not text.isspace() and len(text.split(None, 1)) == 1:  # as `--data-urlencode` sends all of it
        text = decode(text)
    if is_failure_word(text.strip(" '\"\r\n")):
        return Rejection(400, f"the body says {text.strip()[:20]}: send it as status={text.strip()[:20]}, or use /fail")
    lines = text.splitlines()
    if not _looks_structured(text) and (
        len(lines) > PAIR_LINES_MAX or not all(_is_pair_line(line) for line in lines if line.strip(" -"))
    ):
        return None
    for name, value in _pairs_in(text):
        if says_failure_in_text(name, value):
            return Rejection(
                400, f"the body is neither JSON nor a form, and says {name} {value}: send status=fail, or use /fail"
            )
    return None


def _looks_like_an_outcome(name: str) -> Rejection:
    return Rejection(400, f"{name[:100]!r} looks like the outcome of a job: send it as status ({ALLOWED})")
