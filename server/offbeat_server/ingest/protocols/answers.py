"""Answers in plain text, for the dialects whose clients read only the status."""

from collections.abc import Iterable

import orjson

from offbeat_server.ingest.http.content_codings import ACCEPTED
from offbeat_server.ingest.protocols.base import Dialect, HttpAnswer, Outcome, PingNote, Rejection, Request

OK = HttpAnswer(200, b"OK")
_STATUS = {"unknown": 404, "ambiguous": 409, "full": 429, "crowded": 429, "limited": 429, "unavailable": 503}
_TEXT = {
    "ambiguous": "more than one monitor has this address",
    "full": "too many new monitors at once: this one was not created, and the ping was not stored",
    "crowded": "pings may create no more monitors in this project (--provisioned-max): this one was not created, and "
    "the ping was not stored; delete monitors, create this one by the API, or raise the limit",
    "limited": "this key pings more often than --key-pings-per-minute-max allows: the ping was not stored",
    "unavailable": "may or may not be stored: send it again",
}


IGNORED, CHANGED = "Offbeat-Ignored", "Offbeat-Changed"


def answer_of(dialect: Dialect, outcome: Outcome | Rejection, request: Request) -> HttpAnswer:
    """Add to a protocol's answer the details that were left out: in headers, and in the body for people."""
    answer = dialect.answer(outcome, request)
    if isinstance(outcome, Rejection):
        if outcome.status == 415:
            return answer._replace(headers=(*answer.headers, ("Accept-Encoding", ACCEPTED)))
        return answer
    return answer if not outcome.notes or answer.status >= 400 else _noted(answer, outcome.notes)


def note_headers(notes: Iterable[PingNote]) -> tuple[tuple[str, str], ...]:
    """The headers that name what was left out, and what was changed."""
    ignored = dict.fromkeys(note.field for note in notes if not note.changed)
    changed = dict.fromkeys(note.field for note in notes if note.changed)
    return tuple((name, ", ".join(fields)) for name, fields in ((IGNORED, ignored), (CHANGED, changed)) if fields)


def _noted(answer: HttpAnswer, notes: tuple[PingNote, ...]) -> HttpAnswer:
    body = answer.body
    if answer.content_type.startswith("application/json"):
        document = orjson.loads(body)
        document |= {"ignored": {note.field: note.reason.encode("utf-8", "replace").decode() for note in notes}}
        body = orjson.dumps(document)
    else:
        lines = [f"{'changed' if note.changed else 'ignored'}: {note.reason}" for note in notes]
        body = b"\n".join([*([body] if body else []), *(line.encode("utf-8", "replace") for line in lines)])
    return answer._replace(body=body, headers=(*answer.headers, *note_headers(notes)))


def status_of(outcome: Outcome | Rejection, done: int = 200) -> int:
    """The HTTP status of an outcome; `done` for one that is committed."""
    return outcome.status if isinstance(outcome, Rejection) else _STATUS.get(outcome.kind, done)


def reason_of(outcome: Outcome | Rejection, unknown: str) -> str:
    """The sentence for an outcome that is not committed; `unknown` is the dialect's word for an unknown address."""
    return outcome.reason if isinstance(outcome, Rejection) else _TEXT.get(outcome.kind, unknown)


def waiting(outcome: Outcome | Rejection) -> tuple[tuple[str, str], ...]:
    """The Retry-After of an outcome that may change."""
    if isinstance(outcome, Rejection) or not outcome.retry_after_s:
        return ()
    return (("Retry-After", str(outcome.retry_after_s)),)


def text(outcome: Outcome | Rejection, unknown: str) -> HttpAnswer:
    """`OK`, or the reason why not."""
    status = status_of(outcome)
    if status == 200:
        return OK
    return HttpAnswer(status, reason_of(outcome, unknown).encode("utf-8", "replace"), headers=waiting(outcome))
