"""`POST /api/v1/heartbeats`: many pings in one request, NDJSON or a JSON array, compressed or not.

Each value is an object with `key` and the native parameters (ingest/protocols/parsing/parameters.py). The body is read
while it arrives and never held whole: when the queue of pings is full, this request waits, and so does its client. The
answer comes when all accepted pings are committed: `{"accepted": n, "refused": m, "errors": [{"line": i, "reason":
…}]}`, with the first `ERRORS_MAX` errors, and under `ignored` parts of accepted lines that were left out. A request
that could not be carried to its end, or of which no line was accepted, is answered 400, 408, 413, 415, 429 or 503 and
the same counts, with `lines`: that many lines from the first were looked at, and those accepted of them stay accepted.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import orjson
from aiohttp import hdrs, web
from multidict import istr

from offbeat_server.common.errors import UnavailableError
from offbeat_server.common.plural import plural
from offbeat_server.config import Settings
from offbeat_server.ingest.http.client_address import ClientAddresses
from offbeat_server.ingest.http.content_codings import ACCEPTED, PIECE_BYTES, BadCoding, Unpacker
from offbeat_server.ingest.key_index import KeyTarget
from offbeat_server.ingest.log_writer.backlog import Backlog, unavailable
from offbeat_server.ingest.ndjson import BadBody, NdjsonReader
from offbeat_server.ingest.pipeline import PingPipeline
from offbeat_server.ingest.protocols.answers import note_headers
from offbeat_server.ingest.protocols.base import OK, KeyAddress, Outcome, PingNote, Rejection
from offbeat_server.ingest.protocols.parsing.parameters import ReadParameters, read_fields
from offbeat_server.observability.metrics import Metrics

PATH: Final = "/api/v1/heartbeats"
BODY_BYTES_MAX = 256_000_000  # after decompression
REQUEST_S_MAX = 300.0
ERRORS_MAX = 100
STRANGE_MAX = 1_000  # lines without a known key, before the first with one: to read 400 000 takes a second
LINES_AT_ONCE = 1_000  # then others get their turn: a piece may hold thirty times as many, of a byte each


class Bulk:
    """Handles the bulk route."""

    def __init__(
        self, settings: Settings, metrics: Metrics, pipeline: PingPipeline, backlog: Backlog, sources: ClientAddresses
    ) -> None:
        self._settings, self._metrics = settings, metrics
        self._pipeline, self._backlog, self._sources = pipeline, backlog, sources

    def add_to(self, application: web.Application) -> None:
        """The one route."""
        application.router.add_post(PATH, self.handle)

    async def handle(self, request: web.Request) -> web.Response:
        """One request."""
        peer = self._sources.peer(request.transport and request.transport.get_extra_info("peername"))
        forwarded_for = ", ".join(request.headers.getall(hdrs.X_FORWARDED_FOR, [])) or None
        tally = Tally(self._sources.client(peer, forwarded_for).source)
        status = 200
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                await self._take(request, tally)
        except BadBody as error:
            status = 413 if tally.bytes > BODY_BYTES_MAX else 400
            tally.error(None, str(error))
        except BadCoding as error:
            status = error.refusal.status
            tally.error(None, str(error))
        except web.RequestPayloadError:
            status = 400
            tally.error(None, "the body is not what its headers say")
        except TimeoutError:
            status = 408
            tally.error(None, "the body did not arrive in time")
        except UnavailableError as error:
            status = 503
            tally.error(None, str(error))
        await tally.settled()
        if status == 200 and tally.refused and not tally.accepted and not tally.unavailable:
            # A client that looks at the status alone must not take this for stored.
            status = 429 if tally.limited_s else 400
        if tally.unavailable:
            status = 503
            tally.error(None, f"{plural(tally.unavailable, 'ping')} may or may not be stored")
        return self._answer(status, tally)

    async def _take(self, request: web.Request, tally: "Tally") -> None:
        lines = NdjsonReader()
        async for piece in self._pieces(request):
            tally.bytes += len(piece)
            if tally.bytes > BODY_BYTES_MAX:
                raise BadBody(f"the body may have {BODY_BYTES_MAX} bytes at most")
            await self._take_values(lines.feed(piece), tally)
            await asyncio.sleep(0)  # a piece of pings is some 5 ms of work: others get their turn in between
        await self._take_values(lines.end(), tally)

    async def _pieces(self, request: web.Request) -> AsyncIterator[bytes]:
        """The body, unpacked. Raises BadCoding, TimeoutError."""
        unpacker = Unpacker(", ".join(request.headers.getall(hdrs.CONTENT_ENCODING, [])))
        while True:
            async with asyncio.timeout(self._settings.body_timeout):
                data = await request.content.readany()
            if not data:
                break
            for start in range(0, len(data), PIECE_BYTES):
                for piece in unpacker.pieces(data[start : start + PIECE_BYTES]):
                    yield piece
        for piece in unpacker.end():
            yield piece

    async def _take_values(self, values: Iterable[object], tally: "Tally") -> None:
        unknown: list[tuple[int, str, ReadParameters]] = []
        await self._backlog.wait_for_capacity()
        find = self._pipeline.find
        for value in values:
            tally.lines += 1
            if tally.lines % LINES_AT_ONCE == 0:
                await asyncio.sleep(0)
            read = _read(value)
            if isinstance(read, str):
                tally.error(tally.lines, read)
            else:
                key, parameters = read
                bound = find(key)
                if bound is not None:
                    if self._backlog.full:
                        await self._backlog.wait_for_capacity()
                    self._append(tally.lines, key, bound, parameters, tally)
                    continue
                unknown.append((tally.lines, key, parameters))
            if not tally.known and tally.refused + len(unknown) >= STRANGE_MAX:
                await self._take_unknown(unknown, tally)
                unknown = []
                if not tally.known:
                    raise BadBody(f"none of the first {tally.lines} lines has a key that is known: no more is read")
        await self._take_unknown(unknown, tally)

    async def _take_unknown(self, unknown: list[tuple[int, str, ReadParameters]], tally: "Tally") -> None:
        """Lines of keys that this process does not know: their monitors may have been created a moment ago."""
        for line, key, parameters in unknown:
            # The first one asks the database; what it did not bring no other one will.
            bound = (
                await self._pipeline.find_or_ask(KeyAddress(key)) if line == unknown[0][0] else self._pipeline.find(key)
            )
            if bound is None:
                tally.error(line, "unknown key")
                continue
            if self._backlog.full:
                await self._backlog.wait_for_capacity()
            self._append(line, key, bound, parameters, tally)

    def _append(self, line: int, key: str, bound: KeyTarget, parameters: ReadParameters, tally: "Tally") -> None:
        tally.known = True
        ping = self._pipeline.prepared(bound, parameters.ping, parameters.named, "POST")
        if (over := self._pipeline.check_rate_limit(KeyAddress(key), bound, ping)) is not None:
            tally.limited_s = max(tally.limited_s, over.retry_after_s)
            tally.error(line, "this key pings more often than --key-pings-per-minute-max allows")
            return
        self._backlog.append(bound, ping, tally.source, tally)
        tally.pending += 1
        if parameters.notes:
            self._backlog.count_notes(parameters.notes)
            tally.note(line, parameters.notes)

    def _answer(self, status: int, tally: "Tally") -> web.Response:
        body: dict[str, Any] = {"accepted": tally.accepted, "refused": tally.refused, "errors": tally.errors}
        headers = {istr(hdrs.CONTENT_TYPE): "application/json"}
        if tally.notes:
            body["ignored"] = tally.notes
            headers |= {istr(name): value for name, value in note_headers(tally.noted)}
        if status == 415:
            headers[hdrs.ACCEPT_ENCODING] = ACCEPTED
        if status != 200:
            self._metrics.failed(status)
            body["lines"] = tally.lines
            if status in (429, 503):
                headers[hdrs.RETRY_AFTER] = str(tally.limited_s if status == 429 else unavailable().retry_after_s)
        response = web.Response(status=status, body=orjson.dumps(body), headers=headers)
        if status != 200:
            response.force_close()
        return response


class Tally:
    """Counts what became of one request's lines, and waits for those that are pending."""

    def __init__(self, source: bytes | None) -> None:
        self.source = source
        self.bytes = self.lines = 0
        self.accepted = self.refused = self.unavailable = self.pending = 0
        self.limited_s = 0  # of a key that pings too often: when it may again
        self.errors: list[dict[str, object]] = []
        self.notes: list[dict[str, object]] = []
        self.noted: set[PingNote] = set()  # each field once
        self.known = False  # whether a line had a key that leads to a monitor
        self._settled: asyncio.Future[None] | None = None

    def settle(self, outcome: Outcome | Rejection) -> None:
        """One of the pending lines is committed, or not."""
        self.pending -= 1
        if outcome is OK:
            self.accepted += 1
        elif isinstance(outcome, Rejection):
            self.error(None, outcome.reason)
            self.refused += 1
        else:
            self.unavailable += 1
        if not self.pending and self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def error(self, line: int | None, reason: str) -> None:
        """A line is refused; None: the error is not that of one line."""
        self.refused += line is not None
        if len(self.errors) < ERRORS_MAX:
            self.errors.append({"line": line, "reason": reason})

    def note(self, line: int, notes: tuple[PingNote, ...]) -> None:
        """Parts of a line were left out."""
        self.noted |= {PingNote(note.field, "", note.changed) for note in notes}
        if len(self.notes) < ERRORS_MAX:
            self.notes += [{"line": line, "field": note.field, "reason": note.reason} for note in notes]

    async def settled(self) -> None:
        """All that was pending is known."""
        if self.pending:
            self._settled = asyncio.get_running_loop().create_future()
            await self._settled


def _read(value: object) -> tuple[str, ReadParameters] | str:
    """The key and what is said for it; or why a value is no ping."""
    if not isinstance(value, dict):
        return str(value) if isinstance(value, BadBody) else "not a JSON object"
    key = value.get("key")
    if not isinstance(key, str) or not key:
        return "key is missing"
    parameters = read_fields((name, each) for name, each in value.items() if name != "key")
    return parameters.reason if isinstance(parameters, Rejection) else (key, parameters)
