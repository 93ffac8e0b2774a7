"""No request hides inside another: what two readers of HTTP could cut differently is refused, and the connection ends.

Every case is sent with two more requests: one hidden in what the case makes ambiguous, which must never be a ping, and
an honest one behind it, which is either answered (the case was read, whole) or never read (it was refused). Each runs
at the fast HTTP server, at aiohttp alone, and through worker processes that share a socket.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.support.clients.programs import make, pings
from tests.support.harness import HANG_S, Postgres, Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

HIDDEN = b"GET /api/v1/heartbeat/hidden HTTP/1.1\r\nHost: here\r\n\r\n"
BEHIND = b"GET /api/v1/heartbeat/behind HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
LENGTH = b"Content-Length: %d" % len(HIDDEN)
CHUNKED = b"Transfer-Encoding: chunked"
IN_ONE_CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)

# How a case must end: it is read whole, and so is the request behind it; it is refused, and nothing after it is read;
# it is answered, and nothing after it is read; its body is read, and it is still refused. CUT: it is
# refused, or stored if its path was read before the body turned out to be none; nothing after it is read.
REFUSED: list[int] = []
READ, LAST, UNMET, CUT = [200, 200], [200], [417, 200], [0]
REFUSALS = {400, 408, 431, 501, 505}


class Case(NamedTuple):
    """The bytes before the honest request, and how they must end."""

    what: str
    end: list[int]
    sent: bytes


def post(*headers: bytes, body: bytes = HIDDEN, line: bytes = b"POST /api/v1/heartbeat/case/log HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: here", *headers, b"", body])


def get(*headers: bytes, line: bytes = b"GET /api/v1/heartbeat/case HTTP/1.1") -> bytes:
    return post(*headers, body=b"", line=line)


CASES = [
    # A length and chunks: either could end the body.
    Case("length and chunks", REFUSED, post(LENGTH, CHUNKED, body=b"0\r\n\r\n" + HIDDEN)),
    Case("chunks and length", REFUSED, post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n" + HIDDEN)),
    Case("chunks and a length of nothing", REFUSED, post(CHUNKED, b"Content-Length: 0", body=IN_ONE_CHUNK)),
    # Lengths that some parsers read differently.
    Case("two lengths", REFUSED, post(b"Content-Length: 0", LENGTH)),
    Case("two lengths alike", REFUSED, post(LENGTH, LENGTH)),
    Case("a list of lengths", REFUSED, post(b"Content-Length: %d, %d" % (len(HIDDEN), len(HIDDEN)))),
    *(
        Case(f"the length {value!r}", REFUSED, post(b"Content-Length: " + value))
        for value in (b"+5", b"-5", b"0x5", b"5_0", b"5 0", b"5.0", b"\xd9\xa5", b"\xef\xbc\x95", b"", b"9" * 25)
    ),
    Case("white space around a length", READ, post(b"Content-Length:\t %d \t" % len(HIDDEN))),
    Case("a length by another case of letters", READ, post(b"cOnTeNt-LeNgTh: %d" % len(HIDDEN))),
    Case("a body of a GET", READ, post(LENGTH, line=b"GET /api/v1/heartbeat/case HTTP/1.1")),
    Case("a body of a HEAD", READ, post(LENGTH, line=b"HEAD /api/v1/heartbeat/case HTTP/1.1")),
    # Codings that some parsers take for `chunked`.
    *(
        Case(f"the coding {value!r}", REFUSED, post(b"Transfer-Encoding: " + value, body=IN_ONE_CHUNK))
        for value in (
            *(b"xchunked", b"chunkedx", b"identity", b"gzip, chunked, identity", b"chunked, identity", b'"chunked"'),
            *(b"chunked;q=1", b"\x0bchunked", b"chunked\x00", b"chunked\x0b", b"chun ked", b"", b"chunked, chunked"),
        )
    ),
    Case("codings in two headers", REFUSED, post(CHUNKED, b"Transfer-Encoding: identity", body=IN_ONE_CHUNK)),
    Case("chunked twice", REFUSED, post(CHUNKED, CHUNKED, body=IN_ONE_CHUNK)),
    Case("chunks in HTTP/1.0", REFUSED, post(CHUNKED, body=IN_ONE_CHUNK, line=b"POST /api/v1/heartbeat/case HTTP/1.0")),
    Case("CHUNKED", READ, post(b"Transfer-Encoding: CHUNKED", body=IN_ONE_CHUNK)),
    # Names that some parsers take for another.
    *(
        Case(f"the header {name!r}", REFUSED, post(name + b" chunked", body=IN_ONE_CHUNK))
        for name in (
            *(b"Transfer-Encoding :", b"Transfer-Encoding\t:", b" Transfer-Encoding:", b"Transfer-Encoding\x00:"),
            *(b"Transfer Encoding:", b"Transfer-Encoding\r:", b"X: y\nTransfer-Encoding:", b"X: y\rTransfer-Encoding:"),
            *(b"(Transfer-Encoding):", b"Transf\xc3\xa9r-Encoding:", b":Transfer-Encoding:"),
            b": x\r\nTransfer-Encoding:",
        )
    ),
    Case("a name with an underscore is another name", READ, post(b"Content_Length: 3", LENGTH)),
    # Chunks.
    Case("a chunk extension", READ, post(CHUNKED, body=b"%x;a=b;c\r\n%s\r\n0;d\r\n\r\n" % (len(HIDDEN), HIDDEN))),
    Case("a newline in a chunk extension", REFUSED, post(CHUNKED, body=b"2;\nxx\r\n%s\r\n0\r\n\r\n" % HIDDEN)),
    Case("a return in a chunk extension", REFUSED, post(CHUNKED, body=b"2;\rxx\r\nab\r\n0\r\n\r\n")),
    *(
        Case(f"the chunk size {size!r}", REFUSED, post(CHUNKED, body=size + b"\r\n" + HIDDEN + b"\r\n0\r\n\r\n"))
        for size in (b"-1", b"+5", b"0x5", b" 5", b"5 5", b"g", b"", b"\xd9\xa5", b"5_0")
    ),
    Case("an absurd chunk size", CUT, post(CHUNKED, body=b"1" * 30 + b"\r\n" + HIDDEN + b"\r\n0\r\n\r\n")),
    Case("chunks ended by newlines", REFUSED, post(CHUNKED, body=b"2\nab\n0\n\n")),
    Case("a chunk longer than it says", REFUSED, post(CHUNKED, body=b"2\r\nabc\r\n0\r\n\r\n")),
    Case("no end of a chunk", REFUSED, post(CHUNKED, body=b"2\r\nab0\r\n\r\n")),
    Case("a trailer", READ, post(CHUNKED, body=b"2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n")),
    Case("a length in a trailer", REFUSED, post(CHUNKED, body=b"2\r\nab\r\n0\r\nContent-Length: 100\r\n\r\n")),
    Case("a trailer that is none", REFUSED, post(CHUNKED, body=b"2\r\nab\r\n0\r\nX : 1\r\n\r\n")),
    Case("a newline ends a trailer", REFUSED, post(CHUNKED, body=b"2\r\nab\r\n0\r\nX: 1\n\n")),
    # Lines.
    Case("a folded header", REFUSED, get(b"A: b", b" folded")),
    Case("a folded length", REFUSED, post(b"Content-Length:", b" %d" % len(HIDDEN))),
    Case("newlines alone", REFUSED, get().replace(b"\r\n", b"\n")),
    Case("one newline alone", REFUSED, get(b"A: b\nC: d")),
    Case("an empty line of a newline alone", REFUSED, get(b"A: b\r\n\n" + HIDDEN)),
    Case("a return alone", REFUSED, get(b"A: b\rC: d")),
    Case("an empty line of two returns", REFUSED, get(b"A: b\r\r\n\r\n" + HIDDEN)),
    Case("NUL in a value", REFUSED, get(b"A: b\0c")),
    Case("a space before the first name", REFUSED, get().replace(b"Host:", b" Host:")),
    Case("an empty line before the request", READ, b"\r\n" + get()),
    Case("a header without a colon", REFUSED, get(b"no colon")),
    # Targets and hosts.
    Case("no host", REFUSED, get().replace(b"Host: here\r\n", b"")),
    Case("a host that is empty", READ, get().replace(b"Host: here", b"Host:")),
    Case("two hosts", REFUSED, get(b"Host: there")),
    Case("two hosts alike", REFUSED, get(b"Host: here")),
    Case("the form for proxies", READ, get(line=b"GET http://there/api/v1/heartbeat/case HTTP/1.1")),
    Case("the form for proxies, with TLS", READ, get(line=b"GET https://there/api/v1/heartbeat/case HTTP/1.1")),
    Case("a POST without a length", READ, get(line=b"POST /api/v1/heartbeat/case HTTP/1.1")),
    Case("a method in small letters", REFUSED, get(line=b"get /api/v1/heartbeat/case HTTP/1.1")),
    Case("a target with a space", REFUSED, get(line=b"GET /api/v1/heartbeat/case x HTTP/1.1")),
    Case("a target with a tab", REFUSED, get(line=b"GET /api/v1/heartbeat/case\tx HTTP/1.1")),
    Case("two spaces in the line", READ, get(line=b"GET  /api/v1/heartbeat/case HTTP/1.1")),
    Case("HTTP/0.9", REFUSED, b"GET /api/v1/heartbeat/case\r\n"),
    Case("HTTP/0.9 by name", REFUSED, get(line=b"GET /api/v1/heartbeat/case HTTP/0.9")),
    Case("HTTP/1.1 with more digits", REFUSED, get(line=b"GET /api/v1/heartbeat/case HTTP/1.10")),
    Case("http in small letters", REFUSED, get(line=b"GET /api/v1/heartbeat/case http/1.1")),
    Case("HTTP/2 without asking", REFUSED, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Case("TLS", REFUSED, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    Case("a method that is none", REFUSED, get(line=b"G{T /api/v1/heartbeat/case HTTP/1.1")),
    # Upgrades and continuations: the server speaks no other protocol afterwards.
    Case("an upgrade to h2c", LAST, get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: A")),
    Case("an upgrade to h2c with a body", LAST, post(LENGTH, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c")),
    Case("an upgrade to websockets", READ, get(b"Connection: Upgrade", b"Upgrade: websocket")),
    Case("an expectation nobody knows", UNMET, post(LENGTH, b"Expect: 200-ok")),
]  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["fast", "aiohttp", "workers"])
async def server(postgres: Postgres, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    flags = ["--workers", "2"] if request.param == "workers" else ["--http-server", request.param]
    flags += ["--body-timeout", "1", "--idle-timeout", "1"]
    async with postgres.fresh() as url, Server(url, *flags) as server:
        for key in ("hidden", "case", "behind"):
            await make(server, key, key=key)
        yield server
        assert await pings(server, "hidden") == []


async def statuses(server: Server, *parts: bytes) -> list[int]:
    """The final answers to what is sent, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0 if part is parts[-1] else 0.02)
        answer = await asyncio.wait_for(reader.read(), HANG_S)
    finally:
        writer.transport.abort()
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d\d\d) ", answer) if status != b"100"]


def ends_as_it_must(case: Case, answered: list[int]) -> bool:
    if case.end is CUT:
        return len(answered) == 1 and answered[0] in REFUSALS | {200}
    return answered == case.end or (case.end is REFUSED and len(answered) == 1 and answered[0] in REFUSALS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
async def test_nothing_hides_in_a_request(server: Server, case: Case) -> None:
    sent, half = case.sent + BEHIND, len(case.sent) // 2
    at_once, in_parts = await asyncio.gather(statuses(server, sent), statuses(server, sent[:half], sent[half:]))
    assert ends_as_it_must(case, at_once), at_once
    assert ends_as_it_must(case, in_parts), in_parts


@pytest.mark.parametrize("case", [c for c in CASES if c.end is REFUSED][::6], ids=lambda case: case.what)
async def test_a_bad_request_in_a_pipeline_ends_it_after_the_good_ones(server: Server, case: Case) -> None:
    answered = await statuses(server, get() + post(LENGTH) + get() + case.sent + BEHIND)
    # Read in one piece, aiohttp alone answers only the last of the good ones before it.
    assert answered[-1] in REFUSALS and set(answered[:-1]) <= {200} and len(answered) <= 4
