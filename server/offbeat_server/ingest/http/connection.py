"""One client connection of the fast HTTP server: requests in, answers out in the same order, with bounded memory.

Only a ping with a plain head (ingest/http/request_head.py) of at most 8190 bytes is answered here. Every other request
is handed, with its bytes, to aiohttp's protocol, which answers or refuses it, and the connection stays there. So this
server is as strict as aiohttp by construction, and has no cost that a ping does not need.

The states of a connection and their transitions are a table in `connection_state.py`. A plain ping changes no state: it
is read in `READING_HEADS`, waits in `pending` for its commit, and its answer is written when it is the first there. At
most `PIPELINE_MAX` requests wait; then reading pauses (`flow_control.py`).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import cast

from aiohttp import web

from offbeat_server.common.clock import monotonic
from offbeat_server.config import Settings
from offbeat_server.ingest.http import response
from offbeat_server.ingest.http.bodies import BYTES_PER_S_MIN, BodyBudget
from offbeat_server.ingest.http.client_address import ClientAddresses
from offbeat_server.ingest.http.connection_state import ConnectionEvent, ConnectionState, next_state
from offbeat_server.ingest.http.flow_control import FlowControl
from offbeat_server.ingest.http.request_head import (
    HEAD_BYTES_MAX,
    HeaderCache,
    Headers,
    RequestHead,
    encode_target,
    has_bare_newline,
)
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
# Names of the module, because `ConnectionState.X` costs ten times as much: see connection_state.py.
_READING_HEADS, _READING_BODY = ConnectionState.READING_HEADS, ConnectionState.READING_BODY
_FINISHING, _LINGERING = ConnectionState.FINISHING, ConnectionState.LINGERING
_HANDING_OVER, _CLOSING = ConnectionState.HANDING_OVER, ConnectionState.CLOSING


class ConnectionContext:
    """All that connections share: the parts of the server that they use, and the state of the listener.

    `admit`, `release` and `hand_over` are the listener's: whether there is room for a connection, that it has closed,
    and a protocol of aiohttp for it. The listener updates `now_s`, `date` (the header line), `ok` (of the dialects that
    answer every committed ping alike) and `draining`. `now_s` is a coarse clock that stands still while the loop does:
    bytes that wait to be read or sent are not held against the client.
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
        admit: "Callable[[HttpConnection], bool]",
        release: "Callable[[HttpConnection], None]",
        hand_over: "Callable[[HttpConnection], web.RequestHandler]",
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
        self, connection: "HttpConnection", dialect: Dialect, request: Request | None, head: bool, keep: bytes
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
        if connection.transport is None:
            return
        context = connection.context
        if context.draining and connection.pending[-1] is self:
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
        if connection.pending[0] is self:
            connection.flush()


class HttpConnection(asyncio.Protocol):
    """One client connection: the callbacks of its transport, and the way from bytes to a ping and back.

    `transport` is None when nothing can be written: before the connection is made, and from `CLOSING` on. `pending` are
    the answers that are to be written, in order. `since_s` is when the connection began to wait for what it waits for,
    by the coarse clock of the context.
    """

    __slots__ = (
        "_body",
        "_dialect",
        "_flow",
        "_head",
        "_request",
        "_unread",
        "context",
        "peer",
        "pending",
        "since_s",
        "state",
        "transport",
    )

    def __init__(self, context: ConnectionContext) -> None:
        self.context = context
        self.state = ConnectionState.NEW
        self.transport: asyncio.Transport | None = None
        self.pending: deque[PendingResponse] = deque()
        self.since_s = context.now_s
        self._head = RequestHead(context.endings)
        self._unread = b""  # part of a head, or what arrived before reading paused
        self._body: list[bytes] = []  # what has arrived of a body, in READING_BODY

    # ---------------------------------------------------------------- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tcp = cast(asyncio.Transport, transport)
        self._flow = FlowControl(tcp)
        self.peer = self.context.sources.peer(tcp.get_extra_info("peername"))
        if not self.context.admit(self):
            self._enter(ConnectionEvent.TURNED_AWAY)
            tcp.abort()
            return
        self._enter(ConnectionEvent.ADMITTED)
        self.transport = tcp
        tcp.set_write_buffer_limits(WRITE_BUFFER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self._enter(ConnectionEvent.LOST)
        self.transport = None
        self.context.release(self)
        self._drop_input()
        self.pending.clear()

    def data_received(self, data: bytes) -> None:
        if self.state is not _READING_HEADS:
            self._receive_more(data)
            return
        if self._unread:
            data = self._unread + data
            self._unread = b""
        elif not self.pending:
            self.since_s = self.context.now_s
        self._read(data)

    def eof_received(self) -> bool:
        # Half closed: a client that has sent its requests, and sends no more, still gets the answers.
        if self.transport is None or not self.pending:
            self._close()
            return False
        self._enter(ConnectionEvent.INPUT_ENDS)
        self._drop_input()
        return True

    def pause_writing(self) -> None:
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        self._flow.resume_writing()
        self._continue()

    # ---------------------------------------------------------------- called by the listener

    def expire(self) -> None:
        """Close the connection if it has waited too long for what it waits for. Called at each tick."""
        context, settings = self.context, self.context.settings
        waited_s = context.now_s - self.since_s
        if self.state is _CLOSING or self._flow.writing_paused:
            if self._flow.stalled_s(context.now_s) > settings.idle_timeout:
                self.abort()
        elif self._flow.reading_paused:
            return  # `pending` is too long; the time of the client begins when it is read again
        elif self.state is _READING_BODY:
            if waited_s > settings.body_timeout + sum(map(len, self._body)) / BYTES_PER_S_MIN:
                self._break_off(Rejection(408, "the body did not arrive in time"))
        elif self.state is _LINGERING:
            if waited_s > settings.body_timeout:
                self._close()
        elif self.pending:
            return  # it is for us to answer, and bounded by `commit_timeout`
        elif self._unread:
            if waited_s > settings.header_timeout:
                self._close()
        elif waited_s > settings.idle_timeout:
            if self._flow.takes_answers():
                self.since_s = context.now_s
            else:
                self._close()

    def drain(self) -> None:
        """The server stops: an idle connection closes now, any other after its answers."""
        if self.state is _LINGERING or (self.state is _READING_HEADS and not (self.pending or self._unread)):
            self._close()

    def abort(self) -> None:
        """Close now; bytes that the kernel does not have yet are lost."""
        self._flow.abort()

    # ---------------------------------------------------------------- reading

    def _read(self, data: bytes, start: int = 0) -> None:
        """Read requests, in READING_HEADS; keep the bytes of one that has to wait or is not whole."""
        head, pending, flow, size = self._head, self.pending, self._flow, len(data)
        while start < size and self.state is _READING_HEADS:
            if len(pending) >= PIPELINE_MAX or flow.reading_paused:
                self._unread = data[start:]
                flow.pause_reading()
                return
            end = data.find(_END, start) + len(_END)
            if end < len(_END):
                if size - start > HEAD_BYTES_MAX or has_bare_newline(data, start):
                    self._hand_over(data[start:])
                else:
                    self._unread = data[start:]
                return
            if end - start > HEAD_BYTES_MAX or not self._read_head(data[start:end]):
                self._hand_over(self._mended(data[start:end]) + data[end:])
                return
            start = self._read_body(data, end) if head.body_left else end

    def _receive_more(self, data: bytes) -> None:
        """Read bytes that do not begin a request."""
        if self.state is _READING_BODY:
            self._read(data, self._read_body(data, 0))
        elif self.state is _HANDING_OVER:
            self._unread += data
        elif self._head.body_left:  # of the last request
            self._head.body_left = max(0, self._head.body_left - len(data))
            if self.state is _LINGERING and not self._head.body_left:
                self._close()

    def _read_head(self, raw: bytes) -> bool:
        """Whether it is for us; then its answer is pending, or its body awaited."""
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
            cached, key, slug = plain
            source, trusted = self.peer
            if trusted:
                source = self._client(Headers(head.headers))
            waiter = self._expect_answer(cached.dialect, None, method)
            context.pipeline.accept_plain(cached, key, slug, method, source, waiter)
            return True
        if target is not None and not (head.set_target(target) or head.read(raw)):
            return False
        if head.body_left and (head.body_left > context.settings.body_bytes_max or b"content-encoding" in head.headers):
            return False
        return self._take_head()

    def _take_head(self) -> bool:
        """Whether a protocol reads the address of this head."""
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
        """Read what belongs to the body; gives back where the rest begins."""
        head = self._head
        piece = data[start : start + head.body_left]
        if self.state is _READING_HEADS:
            if len(piece) == head.body_left:  # came at once, as most do: nothing is kept
                head.feed_body(piece)
                self._take(piece)
                return start + len(piece)
            self._enter(ConnectionEvent.BODY_BEGINS)
        if not self.context.bodies.grow(len(piece)):
            head.body_left -= len(piece)
            self._refuse(unavailable())
            return len(data)
        head.feed_body(piece)
        self._body.append(piece)
        if not head.body_left:
            self._end_body()
        return start + len(piece)

    def _end_body(self) -> None:
        """Take the request whose body was read in pieces."""
        body = b"".join(self._body)
        self._drop_body()
        self._enter(ConnectionEvent.BODY_ENDS)
        self._take(body)

    def _take(self, body: bytes) -> None:
        method, path, query, headers, _, _, fault = self._request
        request = Request(method, path, query, headers, body, 0, fault) if body else self._request  # half of `_replace`
        waiter = self._expect_answer(self._dialect, request, request.method)
        source = self._client(request.headers) if self.peer.trusted else self.peer.source
        self.context.pipeline.accept(self._dialect, request, source, waiter)

    def _client(self, headers: Mapping[str, str]) -> bytes | None:
        """The client address, also behind a proxy."""
        return self.context.sources.client(self.peer, headers.get("x-forwarded-for")).source

    def _expect_answer(self, dialect: Dialect, request: Request | None, method: str) -> PendingResponse:
        """The place of this request's answer; after one that closes nothing more is read."""
        keep = self._head.keep
        if keep is response.CLOSE:
            self._enter(ConnectionEvent.LAST_REQUEST)
        waiter = PendingResponse(self, dialect, request, method == "HEAD", keep)
        self.pending.append(waiter)
        return waiter

    # ---------------------------------------------------------------- answering

    def flush(self) -> None:
        """Write every answer whose turn has come."""
        transport, pending = self.transport, self.pending
        if transport is None:
            return
        answers, last = b"", False
        while pending and not last and (answer := pending[0].answer) is not None:
            answers = answers + answer if answers else answer
            last = pending.popleft().keep is response.CLOSE
        transport.write(answers)
        if not pending:
            self.since_s = self.context.now_s
            last = last or self.state is _FINISHING
        if last:
            self._finish(transport)
        elif self._flow.reading_paused:
            self._continue()

    # ---------------------------------------------------------------- changes of state, and of pauses

    def _enter(self, event: ConnectionEvent) -> None:
        self.state = next_state(self.state, event)

    def _continue(self) -> None:
        """Read on, or hand over, as soon as what it waited for is there."""
        flow = self._flow
        if self.transport is None or not flow.reading_paused or flow.writing_paused:
            return
        if self.state is _HANDING_OVER:
            if not self.pending:
                self._give_to_aiohttp()
        elif len(self.pending) <= PIPELINE_MAX // 2:
            self.since_s = self.context.now_s  # what the client sent during the pause was not read
            flow.resume_reading()
            unread, self._unread = self._unread, b""
            if unread:
                self._read(unread)

    def _finish(self, transport: asyncio.Transport) -> None:
        """The last answer is written: close, or first read what the client still sends of the last request."""
        if self.state is _FINISHING and self._head.body_left and not self.context.draining:
            self._enter(ConnectionEvent.LINGER)
            self.since_s = self.context.now_s
            transport.write_eof()
        else:
            self._close()

    def _close(self) -> None:
        """Close after what is written has gone out."""
        if self.transport is None:
            return
        transport, self.transport = self.transport, None
        self._enter(ConnectionEvent.CLOSE)
        self.since_s = self.context.now_s
        self.pending.clear()
        transport.close()

    def _refuse(self, outcome: Outcome | Rejection) -> None:
        """Answer the request under way before its body is there, and read no more."""
        self._drop_body()
        self._head.keep = response.CLOSE
        self._expect_answer(self._dialect, self._request, self._request.method).settle(outcome)

    def _break_off(self, fault: Rejection) -> None:
        """Take the request under way with what there is of its body, and read no more."""
        self._request = self._request._replace(fault=fault)
        self._head.keep = response.CLOSE
        self._end_body()

    def _drop_input(self) -> None:
        """Forget a request that is not whole."""
        self._drop_body()
        self._unread = b""
        self._head.body_left = 0

    def _drop_body(self) -> None:
        self.context.bodies.shrink(sum(map(len, self._body)))
        self._body = []

    def _mended(self, raw: bytes) -> bytes:
        """The head; if its target is a ping with bytes that should be encoded, with these encoded."""
        return encode_target(raw, self._is_ping)

    def _is_ping(self, path: str, query: str) -> bool:
        return self.context.route(one_slash(path), query) is not None

    def _hand_over(self, data: bytes) -> None:
        """Give the connection, from this request on, to aiohttp; after the answers that are still to come."""
        self._head.body_left = 0
        self._unread = data
        self._enter(ConnectionEvent.FOREIGN_REQUEST)
        if self.pending or self._flow.writing_paused:
            self._flow.pause_reading()
        else:
            self._give_to_aiohttp()

    def _give_to_aiohttp(self) -> None:
        transport = self.transport
        assert transport is not None
        if self.context.draining:
            self._close()  # aiohttp is closing too
            return
        self._enter(ConnectionEvent.HAND_OVER)
        data, self._unread, self.transport = self._unread, b"", None
        handler = self.context.hand_over(self)
        self._flow.resume_reading()  # before aiohttp has bytes: it may pause reading by itself
        transport.set_write_buffer_limits()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(data)
