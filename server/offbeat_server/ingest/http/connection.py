"""One client connection of the fast HTTP server: requests in, answers out in the same order, with bounded memory.

Only a ping with a plain head (ingest/http/request_head.py) of at most 8190 bytes is answered here. Every other request
is handed, with its bytes, to aiohttp's protocol, which answers or refuses it, and the connection stays there. So this
server is as strict as aiohttp by construction, and has no cost that a ping does not need.

    head ──→ (body) ──→ ticket ──→ answer          while tickets wait: at most PIPELINE_MAX, then reading pauses
      └─ not ours: wait for the tickets, hand over
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

from aiohttp import web

from offbeat_server.common.clock import monotonic
from offbeat_server.config import Settings
from offbeat_server.ingest.http import response
from offbeat_server.ingest.http.bodies import BYTES_PER_S_MIN, BodyBudget
from offbeat_server.ingest.http.client_address import ClientAddresses
from offbeat_server.ingest.http.request_head import HEAD_BYTES_MAX, LINE_BYTES_MAX, HeaderCache, Headers, RequestHead
from offbeat_server.ingest.http.target_cache import METHODS, lookup_target
from offbeat_server.ingest.idempotency import IDEMPOTENCY_HEADER
from offbeat_server.ingest.log_writer.backlog import unavailable
from offbeat_server.ingest.pipeline import PingPipeline
from offbeat_server.ingest.protocols.answers import answer_of
from offbeat_server.ingest.protocols.base import OK, Dialect, Outcome, Rejection, Request
from offbeat_server.ingest.protocols.registry import one_slash
from offbeat_server.observability.metrics import Metrics

PIPELINE_MAX = 32
WRITE_BUFFER_BYTES = 16_384
_END = b"\r\n\r\n"
_IDEMPOTENCY = IDEMPOTENCY_HEADER.encode()
NO_REQUEST = Request("GET", "", "", {}, b"")  # of a plain ping: its answer depends on nothing in it
_unencoded_target = re.compile(rb"/[!-\"$->@-~\x80-\xff]*(?:\?[\t -\"$-~\x80-\xff]*)?").fullmatch
_unencoded = re.compile(rb"[\t \x80-\xff]").search
_encode = partial(re.compile(rb"[\t \x80-\xff]").sub, lambda found: b"%%%02X" % ord(found[0]))
_bare_newline = re.compile(rb"(?<!\r)\n").search


class ConnectionContext:
    """All that connections share: the parts of the server that they use, and the state of the listener.

    `admit`, `release` and `hand_over` are the listener's: whether there is room for a connection, that it has closed,
    and a protocol of aiohttp for it. The listener updates `now_s` (a coarse clock), `date` (the header line), `ok` (of
    the dialects that answer every committed ping alike) and `draining`.
    """

    __slots__ = (
        "admit",
        "bodies",
        "date",
        "draining",
        "endings",
        "fast",
        "hand_over",
        "metrics",
        "now_s",
        "ok",
        "pipeline",
        "release",
        "route",
        "settings",
        "sources",
        "write_again",
    )

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        pipeline: PingPipeline,
        sources: ClientAddresses,
        bodies: BodyBudget,
        route: Callable[[str, str], Dialect | None],
        *,
        admit: "Callable[[Connection], bool]",
        release: "Callable[[Connection], None]",
        hand_over: "Callable[[Connection], web.RequestHandler]",
    ) -> None:
        self.settings, self.metrics, self.pipeline = settings, metrics, pipeline
        self.sources, self.bodies, self.route = sources, bodies, route
        self.admit, self.release, self.hand_over = admit, release, hand_over
        self.fast = settings.http_server == "fast"
        self.draining = False
        self.now_s = monotonic()
        self.date = b""
        self.ok: dict[Dialect, bytes] = {}
        self.endings = HeaderCache()
        self.write_again = response.Rewriter()


class PendingResponse:
    """A place in the order of answers of one connection."""

    __slots__ = ("answer", "connection", "dialect", "head", "keep", "request")

    def __init__(
        self, connection: "Connection", dialect: Dialect, request: Request | None, head: bool, keep: bytes
    ) -> None:
        self.connection = connection
        self.dialect = dialect
        self.request = request
        self.head = head
        self.keep = keep  # the answer's Connection header
        self.answer: bytes | None = None

    def settle(self, outcome: Outcome | Rejection) -> None:
        """The answer is known; it goes out when it is its turn."""
        connection = self.connection
        context = connection.context
        if connection.transport is None or connection.closing:
            return
        if context.draining and connection.tickets[-1] is self:
            self.keep = response.CLOSE
        ok = context.ok.get(self.dialect) if outcome is OK and not (self.keep or self.head) else None
        if ok is not None:
            self.answer = ok
        else:
            request = self.request or NO_REQUEST
            answer = answer_of(self.dialect, outcome, request)
            if answer.status >= 400:
                context.metrics.failed(answer.status)
            write = context.write_again if outcome is OK else response.write_answer
            self.answer = write(answer, context.date, self.keep, head=self.head)
        if connection.tickets[0] is self:
            connection.flush()


class Connection(asyncio.Protocol):
    """One client connection. `since_s` is when its present state began, by the coarse clock of the context."""

    __slots__ = (
        "_body",
        "_dialect",
        "_eof",
        "_handing_over",
        "_head",
        "_last",
        "_paused",
        "_request",
        "_rest",
        "closing",
        "context",
        "peer",
        "since_s",
        "tickets",
        "transport",
        "writing_paused",
    )

    def __init__(self, context: ConnectionContext) -> None:
        self.context = context
        self.transport: asyncio.Transport | None = None
        self.tickets: deque[PendingResponse] = deque()
        self.closing = False
        self.writing_paused = False
        self.since_s = context.now_s
        self._head = RequestHead(context.endings)
        self._rest = b""  # bytes of a head that is not whole yet, or what waits while reading is paused
        self._body: list[bytes] = []
        self._last = False  # nothing is read after the present request
        self._paused = False
        self._handing_over = False
        self._eof = False

    # ---------------------------------------------------------------- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer = self.context.sources.peer(transport.get_extra_info("peername"))
        if not self.context.admit(self):
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.context.release(self)
        self._free_body()
        self._rest = b""
        self.tickets.clear()

    def data_received(self, data: bytes) -> None:
        if self._last:
            return
        if self._rest:
            data = self._rest + data
            self._rest = b""
        elif not (self.tickets or self._head.body_left):
            self.since_s = self.context.now_s
        if self._paused:
            self._rest = data
        else:
            self._read(data)

    def eof_received(self) -> bool:
        # Half closed: a client that has sent its requests, and sends no more, still gets the answers.
        self._eof = True
        return bool(self.tickets) and not self.closing

    def pause_writing(self) -> None:
        self.writing_paused = True
        self.since_s = self.context.now_s
        self._pause()

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._go_on()

    # ---------------------------------------------------------------- reading

    def _read(self, data: bytes) -> None:
        start = 0
        while start < len(data) and not self._last:
            if self._head.body_left:
                start = self._read_body(data, start)
                continue
            if len(self.tickets) >= PIPELINE_MAX or self.writing_paused:
                self._rest = data[start:]
                self._pause()
                return
            end = data.find(_END, start) + len(_END)
            if end < len(_END):
                if len(data) - start > HEAD_BYTES_MAX or _bare_newline(data, start):
                    self._hand_over(data[start:])
                else:
                    self._rest = data[start:]
                return
            if end - start > HEAD_BYTES_MAX or not self._read_head(data[start:end]):
                self._hand_over(self._mended(data[start:end]) + data[end:])
                return
            start = end

    def _read_head(self, raw: bytes) -> bool:
        """Whether it is for us; then its ticket is made, or its body awaited."""
        context, head = self.context, self._head
        if not context.fast:
            return False
        target = head.match_cached(raw)
        if target is None and not head.read(raw):
            return False
        method = METHODS.get(head.method)
        if (
            head.complete
            and method is not None
            and (plain := lookup_target(target or head.url)) is not None
            and _IDEMPOTENCY not in head.headers
        ):
            said, key, slug = plain
            source, trusted = self.peer
            if trusted:
                source = self._client(Headers(head.headers))
            ticket = self._ticket(said.dialect, None, method)
            context.pipeline.accept_plain(said, key, slug, method, source, ticket)
            return True
        if target is not None and not (head.set_target(target) or head.read(raw)):
            return False
        if head.body_left and (head.body_left > context.settings.body_bytes_max or b"content-encoding" in head.headers):
            return False
        return self._take_head()

    def _mended(self, raw: bytes) -> bytes:
        """The head; where its target is a ping with bytes that should be encoded, these as `%20` or `%C3`.

        curl, small HTTP clients and scripts send a message as it is, and other readers of HTTP refuse such a request
        line. White space is encoded only in the query, so that nobody can make another path of it.
        """
        line, end, rest = raw.partition(b"\r\n")
        start, _, version = line.rpartition(b" ")  # no search for where the target ends: that could cost its square
        method, _, target = start.partition(b" ")
        if (
            len(line) > LINE_BYTES_MAX
            or version not in (b"HTTP/1.1", b"HTTP/1.0")
            or method not in (b"GET", b"HEAD", b"POST")
            or _unencoded(target) is None
            or _unencoded_target(target) is None
        ):
            return raw
        path, _, query = target.decode("utf-8", "surrogateescape").partition("?")
        if self.context.route(one_slash(path), query) is None:
            return raw
        return b"%b %b %b%b%b" % (method, _encode(target), version, end, rest)

    def _take_head(self) -> bool:
        head = self._head
        target = head.url.decode("utf-8", "surrogateescape")
        path, _, query = target.partition("?")
        if "//" in path:
            path = one_slash(path)
        dialect = self.context.route(path, query)
        if dialect is None:
            return False
        self._request = Request(head.method.decode(), path, query, Headers(head.headers), b"")
        self._dialect = dialect
        if head.body_left:
            self.since_s = self.context.now_s
        else:
            self._take(b"")
        return True

    def _read_body(self, data: bytes, start: int) -> int:
        """Keep what belongs to the body; gives back where the rest begins."""
        piece = data[start : start + self._head.body_left]
        if len(piece) == self._head.body_left and not self._body:  # came at once, as most do: nothing is kept
            self._head.feed_body(piece)
            self._take(piece)
            return start + len(piece)
        if not self.context.bodies.grow(len(piece)):
            self._refuse(unavailable())
            return len(data)
        self._head.feed_body(piece)
        self._body.append(piece)
        if not self._head.body_left:
            body = b"".join(self._body)
            self._free_body()
            self._take(body)
        return start + len(piece)

    def _take(self, body: bytes) -> None:
        method, path, query, headers, _, _, fault = self._request
        request = Request(method, path, query, headers, body, 0, fault) if body else self._request  # half of `_replace`
        ticket = self._ticket(self._dialect, request, request.method)
        source = self._client(request.headers) if self.peer.trusted else self.peer.source
        self.context.pipeline.accept(self._dialect, request, source, ticket)

    def _client(self, headers: Mapping[str, str]) -> bytes | None:
        """The client address, also behind a proxy."""
        return self.context.sources.client(self.peer, headers.get("x-forwarded-for")).source

    def _ticket(self, dialect: Dialect, request: Request | None, method: str) -> PendingResponse:
        """The place of this request's answer; after one that closes nothing more is read."""
        keep = self._head.keep
        self._last = keep is response.CLOSE
        ticket = PendingResponse(self, dialect, request, method == "HEAD", keep)
        self.tickets.append(ticket)
        return ticket

    # ---------------------------------------------------------------- answering

    def flush(self) -> None:
        """Write every answer whose turn has come."""
        transport, tickets = self.transport, self.tickets
        if transport is None or self.closing:
            return
        answers, last = b"", False
        while tickets and not last and (answer := tickets[0].answer) is not None:
            answers = answers + answer if answers else answer
            last = tickets.popleft().keep is response.CLOSE
        transport.write(answers)
        if last:
            self._close()
            return
        if not tickets:
            self.since_s = self.context.now_s
        if self._paused:
            self._go_on()
        if self._eof and not tickets:
            self._close()

    def expire(self) -> None:
        """Called periodically by the listener: close the connection if its present state has lasted too long."""
        transport, settings = self.transport, self.context.settings
        if transport is None:
            return
        waited_s = self.context.now_s - self.since_s
        if self.closing or self.writing_paused:
            if waited_s > settings.idle_timeout:
                transport.abort()  # it does not take its answers
        elif self._head.body_left:
            if waited_s > settings.body_timeout + sum(map(len, self._body)) / BYTES_PER_S_MIN:
                self._break_off(Rejection(408, "the body did not come in time"))
        elif self.tickets:
            return  # it is for us to answer, and bounded by `commit_timeout`
        elif waited_s > (settings.header_timeout if self._rest else settings.idle_timeout):
            self._close()

    def drain(self) -> None:
        """The server stops: an idle connection closes now, any other after its answers."""
        if not (self.tickets or self._rest or self._head.body_left):
            self._close()

    def _close(self) -> None:
        """After what is written has gone out."""
        if self.transport is None or self.closing:
            return
        self.closing = self._last = True
        self.since_s = self.context.now_s
        self.tickets.clear()
        self.transport.close()

    def _refuse(self, outcome: Outcome | Rejection) -> None:
        """Answer the request under way before its body is there, and read no more."""
        self._head.body_left = 0
        self._head.keep = response.CLOSE
        self._free_body()
        self._ticket(self._dialect, self._request, self._request.method).settle(outcome)

    def _break_off(self, fault: Rejection) -> None:
        """Take the request under way with what there is of its body, and read no more."""
        self._request = self._request._replace(fault=fault)
        body = b"".join(self._body)
        self._head.body_left = 0
        self._head.keep = response.CLOSE
        self._free_body()
        self._take(body)

    def _free_body(self) -> None:
        self.context.bodies.shrink(sum(map(len, self._body)))
        self._body = []

    def _pause(self) -> None:
        if not self._paused and self.transport is not None and not self.closing:
            self._paused = True
            self.transport.pause_reading()

    def _go_on(self) -> None:
        """Read on, or hand over, as soon as what it waited for is there."""
        if self.transport is None or self.closing or not self._paused or self.writing_paused:
            return
        if self._handing_over:
            if not self.tickets:
                self._hand_over(self._rest)
        elif len(self.tickets) <= PIPELINE_MAX // 2:
            self._paused = False
            self.transport.resume_reading()
            rest, self._rest = self._rest, b""
            self._read(rest)

    def _hand_over(self, data: bytes) -> None:
        """Give the connection, from this request on, to aiohttp; after the answers that are still to come."""
        transport = self.transport
        if transport is None or self.closing:
            return
        self._head.body_left = 0
        if self.tickets or self.writing_paused:
            self._handing_over = True
            self._rest = data
            self._pause()
            return
        if self.context.draining:
            self._close()  # aiohttp is closing too
            return
        paused, self.transport, self._rest, self._last = self._paused, None, b"", True
        handler = self.context.hand_over(self)
        transport.set_write_buffer_limits()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(data)
        if paused:
            transport.resume_reading()
