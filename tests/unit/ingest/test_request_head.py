"""Every request that the fast HTTP server takes, aiohttp would have taken too, and read as the same request."""

import asyncio
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

from offbeat_server.ingest.http import response
from offbeat_server.ingest.http.connection import HttpConnection
from offbeat_server.ingest.http.request_head import (
    ENDING_BYTES_MAX,
    ENDINGS_MAX,
    HEADERS_MAX,
    LINE_BYTES_MAX,
    HeaderCache,
    Headers,
    RequestHead,
)
from tests.support.cost import loops

LINES = [
    b"GET /api/v1/heartbeat/k HTTP/1.1",
    b"POST /api/v1/heartbeat/k?a=b HTTP/1.1",
    b"HEAD / HTTP/1.0",
    b"PUT /\xc3\xbc HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT here:80 HTTP/1.1",
    b"GET http://here/x HTTP/1.1",
    b"GET /x#y HTTP/1.1",
    b"GET / HTTP/0.9",
    b"GET / HTTP/2.0",
    b"GET /",
    b"get / HTTP/1.1",
    b"",
]
HEADERS = [
    b"Host: here",
    b"host:there",
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"content-length: 05",
    b"Content-Length: 5, 5",
    b"Content-Length: -5",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: \xd9\xa5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: Upgrade",
    b"Connection: close, keep-alive",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"X-Forwarded-For: 1.2.3.4",
    b"Content-Type: application/json",
    b"A: b\tc",
    b"A: \xff\xfe",
    b" folded",
    b"no colon",
    b"Bad Name: x",
    b": x",
    b"A:",
]
ENDS = [b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r\n"]


WHAT_IT_SAYS = ("method", "url", "headers", "keep", "complete", "body_left")
known = HeaderCache()  # for all examples: a head may end like any of those before


class Beside(BaseProtocol):
    """aiohttp's parser needs a protocol beside it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, None)


def by_aiohttp(raw: bytes) -> list[Any]:
    """The messages that aiohttp reads; none where it refuses or waits."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(Beside(loop), loop, 65536, auto_decompress=False)
        messages, _, _ = parser.feed_data(raw)
        return [message for message, _ in messages]
    except HttpProcessingError:
        return []
    finally:
        loop.close()


def check(raw: bytes) -> None:
    end = raw.find(b"\r\n\r\n")
    if end < 0:
        return
    raw = raw[: end + 4]  # as the connection cuts it
    head = RequestHead(HeaderCache())
    taken = head.read(raw)
    again = RequestHead(known)
    target = again.match_cached(raw)
    assert (again.read(raw) if target is None else again.set_target(target) or again.read(raw)) is taken
    if not taken:
        return
    assert [getattr(again, name) for name in WHAT_IT_SAYS] == [getattr(head, name) for name in WHAT_IT_SAYS]
    messages = by_aiohttp(raw)
    assert len(messages) == 1, raw
    (message,) = messages
    assert message.method.encode() == head.method
    assert message.path.encode("utf-8", "surrogateescape") == head.url
    assert not message.chunked and not message.upgrade
    assert message.should_close is (head.keep == response.CLOSE)
    assert dict(Headers(head.headers)) == {
        name.decode("latin-1").lower(): value.decode("utf-8", "surrogateescape") for name, value in message.raw_headers
    }
    assert int(message.headers.get("content-length", "0")) == head.body_left


@given(
    st.sampled_from(LINES),
    st.lists(st.sampled_from(HEADERS), max_size=5),
    st.lists(st.sampled_from(ENDS), min_size=7, max_size=7),
    st.booleans(),
)
@settings(max_examples=500, deadline=None)
def test_a_head_that_is_taken_reads_the_same_everywhere(
    line: bytes, headers: list[bytes], ends: list[bytes], with_host: bool
) -> None:
    lines = [line, *([b"Host: here"] if with_host else []), *headers]
    check(b"".join(each + end for each, end in zip(lines, ends, strict=False)) + b"\r\n")


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_also_with_any_byte_changed(data: st.DataObject) -> None:
    raw = b"POST /api/v1/heartbeat/k?a=b HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nA: b\r\n\r\n"
    place = data.draw(st.integers(0, len(raw) - 1))
    check(raw[:place] + data.draw(st.binary(max_size=3)) + raw[place + data.draw(st.integers(0, 2)) :])


@pytest.mark.parametrize(
    ("raw", "taken"),
    [
        (b"GET /k HTTP/1.1\r\nHost: here\r\n\r\n", True),
        (b"POST /k HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\n", True),
        (b"GET /k HTTP/1.0\r\nHost: here\r\n\r\n", True),
        (b"GET /k HTTP/1.1\r\n\r\n", False),
        (b"GET /k HTTP/1.1\r\nHost: here\r\nHOST: here\r\n\r\n", False),
        (b"GET /k HTTP/1.1\r\nHost: here\r\nA: 1\r\nA: 2\r\n\r\n", False),
        (b"POST /k HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n", False),
        (b"POST /k HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", False),
        (b"GET /k HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", False),
        (b"GET /k HTTP/1.1\r\nHost: h\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(HEADERS_MAX)) + b"\r\n", False),
    ],
)
def test_taken_or_not(raw: bytes, taken: bool) -> None:
    assert RequestHead(HeaderCache()).read(raw) is taken


def test_one_reader_for_all_requests_of_a_connection() -> None:
    head = RequestHead(HeaderCache())
    assert head.read(b"GET /a HTTP/1.1\r\nHost: here\r\nA: b\r\n\r\n") and head.complete
    assert head.read(b"POST /b HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\n\r\n") and not head.complete
    head.feed_body(b"ab")
    assert (head.body_left, head.complete) == (1, False)
    head.feed_body(b"c")
    assert (head.body_left, head.complete) == (0, True)
    assert head.read(b"HEAD /c HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    assert (head.method, head.url, head.keep, set(head.headers)) == (
        b"HEAD",
        b"/c",
        response.CLOSE,
        {b"host", b"connection"},
    )


def test_a_head_that_ends_like_one_before_is_not_read_again() -> None:
    endings = HeaderCache()
    first, other = RequestHead(endings), RequestHead(endings)
    end = b" HTTP/1.1\r\nHost: here\r\n\r\n"
    assert first.match_cached(b"GET /a" + end) is None and first.read(b"GET /a" + end)
    for head in (first, other):
        assert head.match_cached(b"GET /b" + end) == b"/b" and head.set_target(b"/b")
        assert (head.method, head.url, head.keep, dict(head.headers)) == (b"GET", b"/b", b"", {b"host": b"here"})
        assert head.match_cached(b"POST /b" + end) is None and head.match_cached(b"GET /b" + end[:-2]) is None
        assert not any(map(head.set_target, (b"/a#b", b"/\xff", b"/\r\n", b"http://here/", b"*", b"")))
    assert first.read(b"POST /b HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\n\r\n")
    first.feed_body(b"x")
    assert first.match_cached(b"POST /b HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\n\r\n") is None
    assert first.match_cached(b"GET /b" + end) == b"/b" and first.complete


def test_what_is_remembered_of_heads_is_bounded() -> None:
    endings = HeaderCache()
    for n in range(ENDINGS_MAX + 10):
        assert RequestHead(endings).read(b"GET / HTTP/1.1\r\nHost: h%d\r\n\r\n" % n)
    assert sum(map(len, endings._known.values())) == 10
    long = b"GET / HTTP/1.1\r\nHost: here\r\nA: " + b"a" * ENDING_BYTES_MAX + b"\r\n\r\n"
    assert RequestHead(endings).read(long) and RequestHead(endings).match_cached(long) is None


@pytest.mark.parametrize("ending", [b"x", b" HTTP/1.1x", b"\x01 HTTP/1.1", b"#  HTTP/1.1"])
def test_a_request_line_full_of_spaces_costs_no_time(ending: bytes) -> None:
    raw = b"GET /ping/x?" + b" " * (LINE_BYTES_MAX - 100) + ending + b"\r\nHost: a\r\n\r\n"
    connection = HttpConnection.__new__(HttpConnection)
    assert connection._mended(raw) == raw
    assert loops(lambda: connection._mended(raw)) < 4
