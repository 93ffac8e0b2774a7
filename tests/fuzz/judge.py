"""Invariants of every reader: Postgres stores the result, it belongs to the address sent, and it has an answer."""

from collections.abc import Iterator
from urllib.parse import unquote

from offbeat_server.common.instants import SECOND
from offbeat_server.engine.model.ping import (
    COUNT_MAX,
    EXIT_CODE_MAX,
    EXIT_CODE_MIN,
    RUN_CHARS_MAX,
    SIGNALS,
    STAGE_CHARS_MAX,
    TASK_CHARS_MAX,
    Ping,
)
from offbeat_server.engine.model.slugs import is_slug, slug_of
from offbeat_server.engine.schedule.durations import DURATION_MAX
from offbeat_server.ingest.protocols.answers import answer_of
from offbeat_server.ingest.protocols.base import (
    Dialect,
    HttpAnswer,
    KeyAddress,
    Outcome,
    ParsedPing,
    Rejection,
    Request,
    SlugAddress,
)
from offbeat_server.ingest.protocols.parsing.message import STORED_BYTES_MAX
from offbeat_server.ingest.protocols.parsing.urlencoded import decode, decode_segment
from offbeat_server.ingest.protocols.sentry import check_ins
from offbeat_server.observability.metrics import DETAILS

OUTCOMES = [
    Outcome(kind, wait)
    for kind, wait in (
        *(("ok", 0), ("created", 0), ("unknown", 0), ("ambiguous", 0)),
        *(("full", 60), ("limited", 7), ("unavailable", 3)),
    )
]


def judge_request(dialect: Dialect, request: Request) -> None:
    """All of it, for a request at an address of this dialect."""
    result = dialect.read(request)
    for reading in readings(result):
        is_storable(reading.ping)
        is_addressed(reading.address, request, dialect)
        assert all(note.field in DETAILS for note in reading.notes)
        is_an_answer(answer_of(dialect, Outcome("ok", notes=reading.notes), request))
    if isinstance(result, Rejection):
        assert 400 <= result.status < 500
        assert dialect.answer(result, request).status == result.status
    for outcome in OUTCOMES:
        is_an_answer(dialect.answer(outcome, request))
        assert (dialect.answer(outcome, request).status == 503) == (
            outcome.kind == "unavailable" or (outcome.kind in ("full", "limited") and dialect is check_ins)
        )


def readings(result: ParsedPing | list[ParsedPing] | Rejection) -> Iterator[ParsedPing]:
    """The pings of what a dialect gave."""
    if isinstance(result, ParsedPing):
        yield result
    elif isinstance(result, list):
        yield from result


def is_storable(ping: Ping) -> None:
    """Postgres takes it."""
    assert ping.signal in SIGNALS
    for text, chars_max in ((ping.run, RUN_CHARS_MAX), (ping.stage, STAGE_CHARS_MAX), (ping.task, TASK_CHARS_MAX)):
        if text is not None:
            assert 0 < len(text) <= chars_max
            assert "\0" not in text
            text.encode()
    if ping.message is not None:
        assert ping.message
        assert "\0" not in ping.message
        assert len(ping.message.encode()) <= STORED_BYTES_MAX
    for count, count_max in ((ping.done, COUNT_MAX), (ping.total, COUNT_MAX)):
        assert count is None or (type(count) is int and 0 <= count <= count_max)
    assert ping.exit_code is None or EXIT_CODE_MIN <= ping.exit_code <= EXIT_CODE_MAX
    assert ping.duration is None or (type(ping.duration) is float and 0 <= ping.duration <= DURATION_MAX / SECOND)


def is_addressed(address: KeyAddress | SlugAddress, request: Request, dialect: Dialect) -> None:
    """The key, or ping key and slug, stand in the request where this dialect keeps them."""
    # Bytes that are no UTF-8 are read as U+FFFD, which is in no key, or as Windows-1252. Which of them depends on the
    # bytes around: Healthchecks decodes all after the prefix at once, the others decode each part.
    segments = [read(part) for part in request.path.split("/") for read in (unquote, decode, decode_segment)]
    segments += [part.rstrip("\r\n") for part in decode(request.path.removeprefix("/ping/")).split("/")]
    if isinstance(address, KeyAddress):
        assert address.key in segments
        return
    unpacked = request.body
    if address.create:
        assert is_slug(address.slug)
    if dialect.name in ("sentry", "gatus"):
        sent = [*request.headers.values(), *segments, unquote(request.query), decode(request.query)]
        body = unpacked.decode("utf-8", "replace")
        sent += [body, unquote(body)]
        is_written_otherwise = "basic" in request.headers.get("authorization", "").lower() or b"\\u" in unpacked
        assert any(address.ping_key in text for text in sent) or is_written_otherwise
    else:
        assert address.ping_key in segments
    if dialect.name == "sentry":
        return  # its slugs are in the body
    slugs = {slug_of(part) or part for part in segments} | {part.strip("-_") for part in segments} | set(segments)
    slugs |= {part.lstrip("_") for part in segments}
    assert address.slug in slugs or address.slug.rpartition(".")[0] in slugs or address.like in slugs


def is_an_answer(answer: HttpAnswer) -> None:
    """A status, and headers that are lines."""
    assert 200 <= answer.status < 600
    for name, value in (*answer.headers, ("content-type", answer.content_type)):
        assert "\r" not in name + value
        assert "\n" not in name + value
