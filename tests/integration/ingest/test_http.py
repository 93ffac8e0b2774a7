"""The same suite against both HTTP servers, over real sockets, down to what a hostile client may send."""

import asyncio
import gzip
import json
import socket
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import asyncpg
import brotli
import psutil
import pytest
import pytest_asyncio

from offbeat_server.common.instants import to_datetime
from offbeat_server.db.repositories.changes import changing
from offbeat_server.db.repositories.definitions import WantedKey, WantedMonitor, put_monitors
from offbeat_server.db.repositories.key_index_rows import KeyRow
from offbeat_server.db.repositories.projects import WantedProject, put_project
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.ingest.http.connection import PIPELINE_MAX
from offbeat_server.ingest.http.request_head import HEAD_BYTES_MAX, LINE_BYTES_MAX
from offbeat_server.ingest.key_index import KeyIndex
from offbeat_server.ingest.provisioning import Provisioning
from tests.support.cost import in_loops
from tests.support.harness import HANG_S, Postgres, eventually
from tests.support.postgres.link import Link
from tests.support.servers.ingest_server import (
    HTTP_SERVERS,
    KEY,
    LARGE_BYTES,
    PATH,
    Client,
    Served,
    ask,
    connected,
    get,
    serving,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(params=HTTP_SERVERS, scope="module")
def http_server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(postgres: Postgres, http_server: str) -> AsyncIterator[Served]:
    """One server for all tests that change only the log: a database for each would take longer than they do."""
    async with postgres.fresh() as url, serving(url, http_server=http_server) as served:
        yield served


@pytest_asyncio.fixture(loop_scope="module")
async def served(shared: Served) -> AsyncIterator[Served]:
    yield shared
    await shared.database.execute("truncate pings")


# ------------------------------------------------------------------------------------------------- what is a ping


async def test_a_ping_is_committed_when_it_is_answered(served: Served) -> None:
    for method, path in (("GET", PATH), ("POST", f"{PATH}/start"), ("HEAD", f"{PATH}/fail")):
        reply = await ask(served, get(path, method=method), head=method == "HEAD")
        assert (reply.status, reply.headers["content-length"]) == (200, "2")
        assert reply.headers["content-type"] == "text/plain; charset=utf-8"
        assert reply.body == (b"" if method == "HEAD" else b"OK")
        signal = {"GET": "success", "POST": "start", "HEAD": "fail"}[method]
        assert (await served.rows())[-1] == signal
    assert await served.rows("source::text, monitor_id > 0") == [("127.0.0.1/32", True)] * 3


async def test_the_date_is_log_time(served: Served) -> None:
    before = to_datetime(served.writer.backlog.clock.now())
    date = parsedate_to_datetime((await ask(served, get())).headers["date"])
    assert before - timedelta(seconds=2) < date <= to_datetime(served.writer.backlog.clock.now())


async def test_parameters_bodies_and_dialects(served: Served) -> None:
    body = json.dumps({"status": "fail", "message": "boom", "run": "r1"})
    requests = [
        get(f"{PATH}?status=start&run=a%20b"),
        get(PATH, "Content-Type: application/json", f"Content-Length: {len(body)}", method="POST") + body,
        get(f"/ping/{KEY}/7", "Content-Length: 5", method="POST") + "hello",
        get(f"/api/push/{KEY}?status=down&msg=no"),
    ]
    for request in requests:
        reply = await ask(served, request)
        assert reply.status == 200, reply
    assert await served.rows("signal, run, message, exit_code, dialect") == [
        ("start", "a b", None, None, None),
        ("fail", "r1", "boom", None, None),
        ("fail", None, "hello", 7, "healthchecks"),
        ("fail", None, "no", None, "uptime_kuma"),
    ]


async def test_what_is_no_ping_is_answered_by_the_application_also_in_between(served: Served) -> None:
    async with connected(served) as client:
        for _ in range(2):
            client.send(get())
            assert (await client.reply()).body == b"OK"
            client.send(get("/hello", "Content-Length: 3", method="POST") + "abc")
            assert (await client.reply()).body == b"hello 3"
        client.send(get("/nowhere"))
        assert (await client.reply()).status == 404
        client.send(get())
        assert (await client.reply()).body == b"OK"
    assert len(await served.rows()) == 3


async def test_refused_requests(served: Served) -> None:
    sample = served.metrics.registry.get_sample_value
    before = {code: sample("offbeat_http_errors_total", {"code": code}) or 0.0 for code in ("404", "400")}
    for path, status in (
        ("/api/v1/heartbeat/nobody", 404),
        (f"{PATH}/dance", 400),
        (f"{PATH}?status=strat", 400),
        (f"{PATH}?status=%ff", 400),
        ("/ping/nobody/slug", 404),
    ):
        assert (await ask(served, get(path))).status == status
    assert (await ask(served, get(method="DELETE"))).status == 405
    assert await served.rows() == []
    assert sample("offbeat_http_errors_total", {"code": "404"}) == before["404"] + 2
    assert sample("offbeat_http_errors_total", {"code": "400"}) == before["400"] + 3


async def test_nul_and_garbage_in_a_body_are_stored_clean(served: Served) -> None:
    body = b"a\0b\xff\xfe"
    reply = await ask(served, get(f"{PATH}/log", f"Content-Length: {len(body)}", method="POST").encode() + body)
    assert reply.status == 200
    assert await served.rows("message") == ["a\ufffdb\ufffd\ufffd"]


async def test_keys_bound_to_a_signal_and_a_stage(served: Served) -> None:
    await served.put("etl", None, WantedKey("begin", "start"), WantedKey("loaded", "success", "load"))
    for path in ("begin", "begin/fail", "begin?run=7", "loaded", "loaded?stage=other", "loaded/fail"):
        assert (await ask(served, get(f"/api/v1/heartbeat/{path}"))).status == 200
    assert await served.rows("signal, stage, run") == [
        ("start", None, None),
        ("fail", None, None),
        ("start", None, "7"),
        ("success", "load", None),
        ("success", "other", None),
        ("fail", "load", None),
    ]


async def test_a_monitors_own_rules(served: Served) -> None:
    await served.put("post-only", "only-post", methods="POST")
    await served.put("words", "by-words", keywords={"fail": ["ERROR"], "success": ["done"], "default": "ignore"})
    assert (await ask(served, get("/api/v1/heartbeat/only-post"))).status == 200
    assert (await ask(served, get("/api/v1/heartbeat/only-post", method="POST"))).status == 200
    for body in ("all done", "done with ERROR", "hm"):
        request = get("/api/v1/heartbeat/by-words", f"Content-Length: {len(body)}", method="POST") + body
        assert (await ask(served, request)).status == 200
    assert await served.rows() == ["log", "success", "success", "fail", "log"]


async def test_a_key_made_a_moment_ago_by_another_process_is_known(served: Served) -> None:
    async with changing(served.pool) as connection:
        await put_monitors(connection, [WantedMonitor(1, "new", read_definition({}), key="brand-new")], "test")
    assert (await ask(served, get("/api/v1/heartbeat/brand-new"))).status == 200


async def test_many_unknown_monitors_in_one_request_ask_the_database_once(served: Served) -> None:
    check_ins = "".join(
        f'{{"type":"check_in"}}\n{{"monitor_slug":"nobody-{number}","status":"ok"}}\n' for number in range(40)
    )
    body = f"{{}}\n{check_ins}"
    ping_key = await served.pool.fetchval("select ping_key from projects")
    path = f"/api/1/envelope/?sentry_key={ping_key}"
    before = served.key_index.refreshes
    reply = await ask(served, get(path, f"Content-Length: {len(body)}", method="POST") + body)
    assert reply.status == 404
    assert served.key_index.refreshes - before <= 2


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
async def test_a_first_ping_makes_its_monitor(database_url: str, http_server: str) -> None:
    def provisioning(pool: asyncpg.Pool, key_index: KeyIndex) -> Provisioning:
        return Provisioning(pool, key_index, True, monitors_max=2)

    async with serving(database_url, http_server=http_server, provisioning=provisioning) as served:
        ping_key = await served.pool.fetchval("select ping_key from projects")
        assert (await ask(served, get(f"/ping/{ping_key}/nightly"))).status == 404
        reply = await ask(served, get(f"/ping/{ping_key}/nightly?create=1"))
        assert (reply.status, reply.body) == (201, b"Created")
        reply = await ask(served, get(f"/ping/{ping_key}/nightly?create=1"))
        assert (reply.status, reply.body) == (200, b"OK")
        reply = await ask(served, get(f"/ping/{ping_key}/one-too-many?create=1"))
        assert reply.status == 429 and b"--provisioned-max" in reply.body
        assert len(await served.rows()) == 2


# ------------------------------------------------------------------------------------------------- the wire


async def test_pipelined_requests_are_answered_in_order_also_across_http_servers(served: Served) -> None:
    wanted = [b"OK", b"unknown key", b"OK", b"hello 0", b"OK", b"unknown key", b"OK"]
    paths = [PATH, "/api/v1/heartbeat/nobody", f"{PATH}/start", "/hello", PATH, "/api/v1/heartbeat/nobody", PATH]
    async with connected(served) as client:
        client.send("".join(get(path) for path in paths))
        assert [(await client.reply()).body for _ in wanted] == wanted
    assert await served.rows() == ["success", "start", "success", "success"]


async def test_a_pipeline_longer_than_the_bound_is_answered_whole(served: Served) -> None:
    count = PIPELINE_MAX * 5 + 3
    async with connected(served) as client:
        client.send(get() * count)
        for _ in range(count):
            assert (await client.reply()).body == b"OK"
    assert len(await served.rows()) == count


async def test_a_request_that_comes_byte_by_byte(served: Served) -> None:
    body = "status=start"
    request = get(
        PATH, "Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}", method="POST"
    )
    async with connected(served) as client:
        client.writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in (request + body + get()).encode():
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert [(await client.reply()).status for _ in range(2)] == [200, 200]
    assert await served.rows() == ["start", "success"]


async def test_connection_close_and_http_1_0(served: Served) -> None:
    async with connected(served) as client:
        client.send(get(PATH, "Connection: close"))
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"].lower()) == (200, "close")
        assert await client.is_closed()
    for request in (get(version="1.0"), f"GET {PATH} HTTP/1.0\r\n\r\n"):  # without a host, as old clients send it
        async with connected(served) as client:
            client.send(request)
            assert (await client.reply()).status == 200
            assert await client.is_closed()
    async with connected(served) as client:
        for _ in range(2):
            client.send(get(PATH, "Connection: keep-alive", version="1.0"))
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"].lower()) == (200, "keep-alive")


async def test_what_follows_a_connection_close_is_not_taken(served: Served) -> None:
    async with connected(served) as client:
        client.send(get(PATH, "Connection: close") + get())
        status = (await client.reply()).status
        assert await client.is_closed()
    # aiohttp refuses both, when they come together.
    assert (status, await served.rows()) in ((200, ["success"]), (400, []))


async def test_chunked_and_expect(served: Served) -> None:
    async with connected(served) as client:
        client.send(get(f"{PATH}/log", "Transfer-Encoding: chunked", method="POST"))
        for chunk in ("4\r\nhell\r\n", "1;x=y\r\no\r\n", "0\r\n\r\n"):
            client.send(chunk)
            await asyncio.sleep(0.01)
        assert (await client.reply()).status == 200
    async with connected(served) as client:
        client.send(get(f"{PATH}/log", "Expect: 100-continue", "Content-Length: 5", method="POST"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send("world")
        assert (await client.reply()).status == 200
    assert await served.rows("message") == ["hello", "world"]


BAD = {
    "two lengths": get(PATH, "Content-Length: 1", "Content-Length: 2", method="POST") + "ab",
    "two lengths alike": get(PATH, "Content-Length: 1", "Content-Length: 1", method="POST") + "a",
    "a list of lengths": get(PATH, "Content-Length: 1, 1", method="POST") + "a",
    "length and chunked": get(PATH, "Content-Length: 5", "Transfer-Encoding: chunked", method="POST") + "0\r\n\r\n",
    "a length that is none": get(PATH, "Content-Length: +1", method="POST") + "a",
    "a negative length": get(PATH, "Content-Length: -1", method="POST") + "a",
    "two hosts": get(PATH, "Host: there"),
    "bare newlines": get().replace("\r\n", "\n"),
    "one bare newline": get(PATH, "A: b\nC: d"),
    "a bare return": get(PATH, "A: b\rC: d"),
    "a NUL in a header": get(PATH, "A: b\0c"),
    "a space before the colon": get(PATH, "Content-Length : 0"),
    "a folded header": get(PATH, "A: b", " folded"),
    "no version": f"GET {PATH}\r\nHost: here\r\n\r\n",
    "another protocol": f"GET {PATH} HTTQ/1.1\r\nHost: here\r\n\r\n",
    "a space in the target": get(f"{PATH} x"),
    "an unknown coding": get(PATH, "Transfer-Encoding: gzip", method="POST") + "x",
    "chunked not last": get(PATH, "Transfer-Encoding: chunked, identity", method="POST") + "0\r\n\r\n",
    "no name": get(PATH, ": x"),
    "a long line": get(f"{PATH}?message={'x' * (LINE_BYTES_MAX + 10)}"),
    "a space in the path of a query": get(f"{PATH} x?message=a"),
    "a long header": get(PATH, f"A: {'x' * (HEAD_BYTES_MAX + 10)}"),
    "many headers": get(PATH, *(f"A{number}: x" for number in range(200))),
    "garbage": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


async def test_bad_requests_are_refused_and_the_connection_ends(served: Served) -> None:
    for what, request in BAD.items():
        async with connected(served) as client:
            client.send(request.encode("latin-1"))
            client.send(get())  # must never be read as a request of its own
            assert (await client.reply()).status in (400, 431), what
            assert await client.is_closed(), what
    assert await served.rows() == []


async def test_an_unknown_key_and_a_long_head_cost_the_same_connection_nothing(served: Served) -> None:
    async with connected(served) as client:
        client.send(get(PATH, f"A: {'x' * 5_000}", f"B: {'y' * 5_000}"))  # long as a whole, allowed line by line
        assert (await client.reply()).status == 200
        client.send(get())
        assert (await client.reply()).status == 200


async def test_a_body_over_the_limit(database_url: str, http_server: str) -> None:
    async with serving(database_url, http_server=http_server, body_bytes_max=10_000) as served:
        for more in (
            (f"Content-Length: {10_001}", "x" * 10_001),
            ("Transfer-Encoding: chunked", f"{10_001:x}\r\n{'x' * 10_001}\r\n0\r\n\r\n"),
        ):
            async with connected(served) as client:
                client.send(get(f"{PATH}/fail", more[0], method="POST") + more[1])
                assert (await client.reply()).status == 200
                client.send(get())  # the connection stays open
                assert (await client.reply()).status == 200
        body = "x" * 10_000
        assert (await ask(served, get(f"{PATH}/log", "Content-Length: 10000", method="POST") + body)).status == 200
        assert await served.rows("signal, length(message) >= 10000") == [
            ("fail", True), ("success", None), ("fail", True), ("success", None), ("log", True),
        ]  # fmt: skip


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_a_hundred_megabytes_costs_neither_the_failure_nor_memory(
    served: Served, chunked: bool
) -> None:
    piece, count = b"x" * 99_998 + b"\r\n", 1_050
    head = get(
        f"{PATH}/3", "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(piece) * count}", method="POST"
    )
    process = psutil.Process()
    async with connected(served) as client:
        client.send(head)
        before, most = process.memory_info().rss, 0
        for number in range(count):
            part = b"last words" + piece[10:] if number == count - 1 else piece
            client.send(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            await client.writer.drain()
            most = max(most, process.memory_info().rss)
        client.send(b"0\r\n\r\n" if chunked else b"")
        assert (await client.reply()).status == 200
        client.send(get())
        assert (await client.reply()).status == 200
    assert most - before < 30_000_000 and served.http_servers._bodies.bytes == 0
    rows = await served.rows("signal, exit_code, length(message), message")
    assert rows[0][:2] == ("fail", 3) and 10_000 < rows[0][2] < 10_200 and f"{len(piece) * count} bytes" in rows[0][3]


async def test_what_a_body_over_the_limit_may_cost(database_url: str, http_server: str) -> None:
    async with serving(database_url, http_server=http_server, body_bytes_max=100_000, body_timeout=1.0) as served:
        text, as_json = "y" * 150_000, "Content-Type: application/json"

        async def sent(path: str, body: str, *headers: str) -> int:
            return (await ask(served, get(path, f"Content-Length: {len(body)}", *headers, method="POST") + body)).status

        assert await sent(PATH, text, "Content-Type: text/plain") == 200
        assert await sent(PATH, json.dumps({"status": "fail", "message": text}), as_json) == 200
        assert await sent(PATH, json.dumps({"message": text, "status": "fail"}), as_json) == 200
        assert await sent(PATH, f"message={text}&status=fail", "Content-Type: application/x-www-form-urlencoded") == 200
        assert await sent(PATH, json.dumps({"message": text}), as_json) == 413  # the middle is unknown
        assert await sent(PATH, json.dumps([text] * 2), as_json) == 400
        huge = get(f"{PATH}/fail", "Content-Length: 200000000", method="POST")
        reply = await ask(served, huge + "z")
        assert (reply.status, reply.headers["offbeat-ignored"]) == (200, "body")
        assert (await ask(served, get(PATH, "Content-Length: 200000000", method="POST") + "z")).status == 413
        slow = await ask(served, get(f"{PATH}/fail", "Content-Length: 500", method="POST") + "begun")
        assert (slow.status, slow.headers["offbeat-ignored"]) == (200, "body")
        assert await served.rows() == ["success", "fail", "fail", "fail", "fail", "fail"]


async def test_content_encodings(served: Served) -> None:
    plain = b"status=fail&message=disk+full"
    form = "Content-Type: application/x-www-form-urlencoded"

    async def sent(path: str, encoding: str, body: bytes, *headers: str) -> Any:
        head = get(path, f"Content-Encoding: {encoding}", *headers, method="POST")
        length = head.replace("\r\n\r\n", f"\r\nContent-Length: {len(body)}\r\n\r\n").encode()
        chunks = head.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n").encode()
        replies = [
            await ask(served, length + body),
            await ask(served, chunks + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)),
        ]
        assert replies[0].status == replies[1].status
        return replies[0]

    packed = {
        "gzip": gzip.compress(plain), "x-gzip": gzip.compress(plain), "deflate": zlib.compress(plain),
        "br": brotli.compress(plain), "zstd": zstd.compress(plain), "identity": plain,
        "gzip, zstd": zstd.compress(gzip.compress(plain)),
    }  # fmt: skip
    for encoding, body in packed.items():
        for headers in ((form,), ()):
            assert (await sent(PATH, encoding, body, *headers)).status == 200, encoding
    assert await served.rows("signal, message") == [("fail", "disk full")] * 4 * len(packed)
    await served.database.execute("truncate pings")
    for path in (f"{PATH}/0", f"/ping/{KEY}/0"):
        assert (await sent(path, "gzip", gzip.compress(b"3 files"))).status == 200
    assert await served.rows("signal, message") == [("success", "3 files")] * 4
    for path in (PATH, f"/ping/{KEY}"):
        reply = await sent(path, "compress", plain)
        assert (reply.status, reply.headers["accept-encoding"]) == (415, "gzip, deflate, br, zstd")
        assert b"zstd" in reply.body
        assert (await sent(path, "gzip", plain)).status == 400
        assert (await sent(path, "gzip", gzip.compress(plain)[:-4])).status == 400
        assert (await sent(path, "gzip", gzip.compress(bytes(50_000_000)))).status == 413
    assert len(await served.rows()) == 4
    reply = await sent(f"{PATH}/fail", "compress", plain)
    assert (reply.status, reply.headers["offbeat-ignored"]) == (200, "body")
    assert b"ignored: the body is encoded as 'compress'" in reply.body
    assert (await sent(f"/api/push/{KEY}?status=down", "compress", plain)).status == 200


async def test_what_was_left_out_is_named(served: Served) -> None:
    sample = served.metrics.registry.get_sample_value
    reply = await ask(served, get(f"{PATH}/fail?duration=soon&exit_code=x&run={'r' * 300}"))
    assert (reply.status, reply.headers["offbeat-ignored"], reply.headers["offbeat-changed"]) == (
        200,
        "duration, exit_code",
        "run",
    )
    assert reply.body.startswith(b"OK\nignored: duration must be") and b"\nchanged: run is longer than" in reply.body
    for path, body in (
        (f"/ping/{KEY}/fail?rid={'r' * 300}", b"OK\nchanged: run"),
        (f"/api/push/{KEY}?status=down&ping=-1", b'{"ok":true,"ignored":{"duration":"Invalid ping'),
    ):
        reply = await ask(served, get(path))
        assert reply.status == 200 and reply.body.startswith(body), reply
    assert await served.rows() == ["fail"] * 3

    async def counted() -> bool:
        return bool(sample("offbeat_ping_details_ignored_total", {"field": "duration"}) == 2)

    await eventually(counted)


async def test_addresses_as_scripts_write_them(served: Served) -> None:
    for path, expected in (
        (f"/{PATH}/fail", ("fail", None, None)),
        (f"//ping/{KEY}", ("success", None, None)),
        (f"/ping/{KEY}//fail", ("fail", None, None)),
        (f"{PATH}/0%0D", ("success", None, None)),
        (f"{PATH}%0D/start%0D%0A?stage=extract%0D", ("start", "extract", None)),
        (f"{PATH}/fail?message=disk full on db1", ("fail", None, "disk full on db1")),
        (f"/ping/{KEY}?state=fail&msg=a b", ("fail", None, None)),
        (f"{PATH}/fail?message=Datenträger\tvoll", ("fail", None, "Datenträger\tvoll")),
        (f"{PATH}?stage=größe&status=fail", ("fail", "größe", None)),
        (get(f"{PATH}/fail?message=Datenträger voll").encode("latin-1"), ("fail", None, "Datenträger voll")),
        (f"/api/push/{KEY}?status=down&msg=日本", ("fail", None, "日本")),
    ):
        assert (await ask(served, path if isinstance(path, bytes) else get(path))).status == 200, path
        assert (await served.rows("signal, stage, message"))[-1] == expected, path
    async with connected(served) as client:
        client.send(get(f"{PATH}/fail?message=a b") + get(f"{PATH}/start"))
        assert [(await client.reply()).status for _ in range(2)] == [200, 200]
    assert (await served.rows())[-2:] == ["fail", "start"]


async def test_a_request_line_of_64_kB(served: Served) -> None:
    text = "x" * 60_000
    for path in (
        f"{PATH}/fail?message={text}",
        f"/api/push/{KEY}?status=down&msg={text}",
        f"/ping/{KEY}/fail?x={text}",
    ):
        assert (await ask(served, get(path))).status == 200
    assert await served.rows("signal, length(message) > 10000") == [("fail", True), ("fail", True), ("fail", None)]


async def test_exit_codes_keep_their_number(served: Served) -> None:
    codes = [256, -9, 3221225477, -1073741819, 2**31 - 1, 2**31, -(2**31), 2**32 - 1]
    for code in codes:
        assert (await ask(served, get(f"{PATH}/{code}"))).status == 200
    stored = await served.rows("coalesce(exit_code, wide_exit_code), signal, exit_code is null")
    assert stored == [(code, "fail", not -(2**31) <= code < 2**31) for code in codes]


async def test_memory_for_bodies_is_bounded(database_url: str, http_server: str) -> None:
    async with serving(
        database_url, http_server=http_server, bytes_pending_max=1_000_000, body_bytes_max=900_000
    ) as served:
        async with connected(served) as one, connected(served) as other:
            one.send(get(f"{PATH}/log", "Content-Length: 800000", method="POST") + "x" * 799_999)
            await eventually(lambda: _as(served.http_servers._bodies.bytes == 799_999))
            other.send(get(f"{PATH}/log", "Content-Length: 800000", method="POST") + "x" * 800_000)
            reply = await other.reply()
            assert reply.status == 503 and 1 <= int(reply.headers["retry-after"]) <= 5
            one.send("x")
            assert (await one.reply()).status == 200
        assert served.http_servers._bodies.bytes == 0


async def _as(value: object) -> object:
    return value


async def test_no_answer_names_what_it_is_made_with(served: Served) -> None:
    for request in (get(), get("/hello"), get("/nowhere"), "GARBAGE\r\n\r\n", get(PATH, "Transfer-Encoding: x")):
        reply = await ask(served, request)
        assert reply.headers.get("server", "offbeat") == "offbeat" and b"ython" not in reply.body


# ------------------------------------------------------------------------------------------------- time and number


NEVER_S = 2 * HANG_S  # a time limit that ends nothing before the test fails
PING_OF_NOBODY = get("/api/v1/heartbeat/nobody")


async def drip(client: Client, piece: str) -> None:
    """Send a little now and then, for ever: it must not help."""
    while True:
        client.send(piece)
        await asyncio.sleep(0.2)  # sleep: the pace of the drips


async def ends_slow_head(of: Served, first: str = "") -> None:
    """The connection is closed while a head comes in drips, as the first one or after another request."""
    async with connected(of) as client:
        if first:
            client.send(first)
            assert (await client.reply()).status in (200, 404)
        client.send("GET /hello HTTP/1.1\r\n")
        dripping = asyncio.create_task(drip(client, "A: b\r\n"))
        assert await client.is_closed()
        dripping.cancel()


async def ends_slow_body(of: Served, *headers: str, start: str) -> None:
    """A body that comes in drips is answered 408."""
    async with connected(of) as client:
        client.send(get(PATH, *headers, method="POST") + start)
        dripping = asyncio.create_task(drip(client, "x"))
        assert (await client.reply()).status == 408
        dripping.cancel()


async def ends_idle(of: Served, first: str) -> None:
    """The connection is closed while nothing comes, from the beginning or after a request."""
    async with connected(of) as client:
        if first:
            client.send(first)
            assert (await client.reply()).status == 200
        assert await client.is_closed()


async def test_slow_heads_and_bodies_end(database_url: str, http_server: str) -> None:
    async with serving(
        database_url, http_server=http_server, header_timeout=0.6, body_timeout=0.6, idle_timeout=NEVER_S
    ) as of:
        await asyncio.gather(
            ends_slow_head(of),
            ends_slow_body(of, "Content-Length: 5000", start="x"),
            ends_slow_body(of, "Transfer-Encoding: chunked", start="5000\r\n"),
            *([ends_slow_head(of, PING_OF_NOBODY)] if http_server == "fast" else []),  # aiohttp: as an idle one
        )
        assert await of.rows() == []


async def test_idle_connections_end(database_url: str, http_server: str) -> None:
    async with serving(
        database_url, http_server=http_server, header_timeout=NEVER_S, body_timeout=NEVER_S, idle_timeout=1.8
    ) as of:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(
            *(ends_idle(of, first) for first in ("", get(), get("/hello"))),
            ends_slow_head(of, get("/hello")),
            *([ends_slow_head(of, PING_OF_NOBODY)] if http_server != "fast" else []),
        )
        assert asyncio.get_running_loop().time() - began > 1.2
        assert await of.rows() == ["success"]


async def test_no_more_connections_than_allowed(database_url: str, http_server: str) -> None:
    async with serving(
        database_url, http_server=http_server, connections_max=10, connections_per_address_max=0
    ) as served:
        clients = [Client(*await asyncio.open_connection("127.0.0.1", served.port)) for _ in range(10)]
        for client in clients[:5]:
            client.send(get("/hello"))
            assert (await client.reply()).status == 200
        async with connected(served) as one_more:
            assert await one_more.is_closed()
        assert served.http_servers.connections == 10
        for client in clients:
            client.abort()
        await eventually(lambda: _as(served.http_servers.connections == 0))
        assert (await ask(served, get())).status == 200


async def test_clients_that_vanish_are_stored_and_forgotten(served: Served) -> None:
    async with connected(served) as client:
        client.send(get())
        await eventually(lambda: served.database.fetchval("select count(*) from pings"))
        client.abort()
    for data in (get()[:20], get(PATH, "Content-Length: 9", method="POST") + "half"):
        async with connected(served) as client:
            client.send(data)
    await eventually(lambda: _as(served.http_servers.connections == 0))
    assert served.http_servers._bodies.bytes == 0
    assert (await ask(served, get())).status == 200


async def test_a_reader_that_does_not_read_stops_being_read(database_url: str) -> None:
    """Only the fast HTTP server: its answers wait, so it stops reading requests, and in the end it closes."""
    async with serving(database_url, idle_timeout=1.5) as served:
        sender = socket.create_connection(("127.0.0.1", served.port))
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sender.setblocking(False)
        loop = asyncio.get_running_loop()
        request = (get(f"{PATH}/dance") * 200).encode()
        sent = 0
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(HANG_S):
                while True:
                    await loop.sock_sendall(sender, request)
                    sent += len(request)
        sender.close()
        assert sent < 40_000_000
        await eventually(lambda: _as(served.http_servers.connections == 0))


async def test_a_large_answer_waits_for_a_slow_reader_but_not_for_one_that_does_not_read(database_url: str) -> None:
    """aiohttp's answers too: it waits for ever."""
    async with serving(database_url, idle_timeout=1.5) as served:
        readers = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(2)]
        for reader in readers:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            reader.setblocking(False)
            reader.sendall(get("/large", "Connection: close").encode())
        loop = asyncio.get_running_loop()
        taken, began = 0, loop.time()
        while piece := await loop.sock_recv(readers[0], 300_000):
            taken += len(piece)
            await asyncio.sleep(0.03 if taken < 4_000_000 else 0)
        assert taken > LARGE_BYTES
        await eventually(lambda: _as(served.http_servers.connections == 0))
        assert loop.time() - began > 1.5
        left = 0
        with suppress(ConnectionError):
            while piece := await loop.sock_recv(readers[1], 1_000_000):
                left += len(piece)
        assert left < LARGE_BYTES, "what it had not taken is gone"
        for reader in readers:
            reader.close()


async def test_half_closed_clients_get_their_answers(database_url: str) -> None:
    """Only the fast HTTP server: aiohttp closes such a connection."""
    async with serving(database_url) as served, connected(served) as client:
        client.send(get() * 3)
        client.writer.write_eof()
        for _ in range(3):
            assert (await client.reply()).status == 200
        assert await client.is_closed()


# ------------------------------------------------------------------------------------------------- trouble and the end


async def test_503_while_postgres_is_away_and_200_again(database_url: str, http_server: str) -> None:
    async with (
        Link(database_url) as link,
        serving(database_url, log_url=link.url, http_server=http_server, commit_timeout=0.4) as served,
    ):
        assert (await ask(served, get())).status == 200
        link.cut(stay=True)
        for path in (PATH, f"/ping/{KEY}"):
            reply = await ask(served, get(path))
            assert reply.status == 503 and 1 <= int(reply.headers["retry-after"]) <= 5
        link.mend()
        await eventually(lambda: _as(served.writer.backlog.accepting))
        assert (await ask(served, get())).status == 200


async def test_a_stop_answers_every_request_that_was_read(database_url: str, http_server: str) -> None:
    async with Link(database_url) as link, serving(database_url, log_url=link.url, http_server=http_server) as served:
        link.hold_requests()
        async with connected(served) as asking, connected(served) as idle, connected(served) as talking:
            talking.send(get("/hello"))
            await talking.reply()
            asking.send(get() + get())
            await eventually(lambda: _as(served.writer.backlog.pings))
            stopping = asyncio.ensure_future(served.http_servers.stop())
            assert await idle.is_closed()
            await eventually(lambda: _refused(served.port))
            link.mend()
            assert (await asking.reply()).status == 200
            await stopping
            if http_server == "fast":
                reply = await asking.reply()
                assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await talking.is_closed()
        served.http_servers.stop = _nothing  # type: ignore[method-assign]


async def test_an_inherited_socket(database_url: str, http_server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with serving(database_url, http_server=http_server, listen_on=listening) as served:
            assert served.port == listening.getsockname()[1]
            assert (await ask(served, get())).status == 200


async def _nothing() -> None:
    pass


async def _refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.close()
    return False


# ------------------------------------------------------------------------------------------------- where it came from


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
async def test_the_client_behind_a_trusted_proxy(database_url: str, http_server: str) -> None:
    async with serving(database_url, http_server=http_server, trusted_proxies="127.0.0.0/8,10.0.0.0/8") as served:
        for value in (
            "203.0.113.9",
            "198.51.100.7, 203.0.113.9, 10.1.2.3",
            "junk, 203.0.113.9:4711",
            "[2001:db8::1]:80",
        ):
            assert (await ask(served, get(PATH, f"X-Forwarded-For: {value}"))).status == 200
        lines = ("X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 203.0.113.9")
        assert (await ask(served, get(PATH, *lines))).status == 200
        assert (await ask(served, get())).status == 200
        assert await served.rows("host(source)") == ["203.0.113.9"] * 3 + ["2001:db8::1", "203.0.113.9", "127.0.0.1"]


async def test_only_trusted_proxies_are_believed(served: Served) -> None:
    assert (await ask(served, get(PATH, "X-Forwarded-For: 203.0.113.9"))).status == 200
    assert await served.rows("host(source)") == ["127.0.0.1"]


# ------------------------------------------------------------------------------------------------- bulk


@asynccontextmanager
async def posting(served: Served) -> AsyncIterator[Callable[..., Awaitable[tuple[int, Any]]]]:
    async with aiohttp.ClientSession() as session:

        async def post(data: Any, **headers: str) -> tuple[int, Any]:
            url = f"http://127.0.0.1:{served.port}/api/v1/heartbeats"
            async with session.post(url, data=data, headers=headers) as response:
                return response.status, await response.json()

        yield post


def lines_of(*values: object) -> bytes:
    return b"\n".join(json.dumps(value).encode() for value in values)


async def test_bulk_lines_and_arrays(served: Served) -> None:
    values = [
        {"key": KEY, "status": "start", "run": "r1"},
        {"key": KEY, "signal": "progress", "run": "r1", "done": 5, "total": 10, "task": "t"},
        {"key": KEY, "exit_code": 3, "run": "r1", "duration": "1m", "message": "bad ü"},
        {"key": KEY},
    ]
    expected = [
        ("start", "r1", None, None, None, None),
        ("progress", "r1", 5, None, None, None),
        ("fail", "r1", None, 3, 60.0, "bad ü"),
        ("success", None, None, None, None, None),
    ]
    answer = {"accepted": 4, "refused": 0, "errors": []}
    bodies = [
        lines_of(*values),
        lines_of(*values) + b"\n\n",
        json.dumps(values).encode(),
        json.dumps(values, indent=4).encode(),
    ]
    async with posting(served) as post:
        for body in bodies:
            assert await post(body) == (200, answer)
            assert await post(gzip.compress(body), **{"Content-Encoding": "gzip"}) == (200, answer)
        for empty in (b"", b"[]", b" [ ] \n", b"\n\n"):
            assert await post(empty) == (200, {"accepted": 0, "refused": 0, "errors": []})
    rows = await served.rows("signal, run, done, exit_code, duration, message")
    assert rows == expected * 2 * len(bodies)
    assert set(await served.rows("host(source)")) == {"127.0.0.1"}


async def test_bulk_lines_as_programs_write_them(served: Served) -> None:
    key = KEY.encode()
    lines = [
        b'{"key": "%b", "status": "fail", "status": "ok"}' % key,
        b'{"key": "%b", "status": "fail", "duration": NaN}' % key,
        b'{"key": "%b", "status": "fail", "message": "Gr\xf6\xdfe"}' % key,
        b'{"key": "%b", "status": "fail", "message": "at 02:00:00"}' % key,
        b'{"key": "%b", "exit_code": 0, "at": "02:00:00", "x": {"a": 1}}' % key,
        b'{"key": "%b", "status": "ok", "status": "ok"}' % key,
    ]
    stored = [("fail", None), ("fail", "Größe"), ("fail", "at 02:00:00"), ("success", None), ("success", None)]
    async with posting(served) as post:
        status, answer = await post(b"\n".join(lines))
    assert (status, answer["accepted"], [error["line"] for error in answer["errors"]]) == (200, 5, [1])
    assert "stands twice" in answer["errors"][0]["reason"] and await served.rows("signal, message") == stored
    async with posting(served) as post:
        status, answer = await post(b"[" + b", ".join([lines[0], b'{"key": "nobody"}']) + b"]")
    assert (status, len(answer["errors"])) == (400, 2), "a field that is missing hides no other error"
    async with posting(served) as post:
        status, answer = await post(b"[" + b", ".join([lines[0], *lines[3:]]) + b"]")
    assert (status, answer["accepted"], [error["line"] for error in answer["errors"]]) == (200, 3, [1])
    assert (
        "stands twice" in answer["errors"][0]["reason"] and await served.rows("signal, message") == stored + stored[2:]
    )


async def test_bulk_names_each_line_that_failed_and_why(served: Served) -> None:
    await served.put("bound", None, WantedKey("bulk-begin", "start", "load"))
    body = b"\n".join(
        [
            lines_of({"key": "nobody"}),
            b"{broken",
            lines_of({"status": "start"}, [1], 7, {"key": KEY, "State": "dance"}, {"key": KEY, "status": "dance"}),
            lines_of({"key": "bulk-begin"}, {"key": "bulk-begin", "status": "fail"}),
        ]
    )
    async with posting(served) as post:
        status, answer = await post(body)
    assert (status, answer["accepted"], answer["refused"]) == (200, 2, 7)
    reasons = {error["line"]: error["reason"] for error in answer["errors"]}
    assert set(reasons) == set(range(1, 8))
    assert reasons[1] == "unknown key"
    assert reasons[2].startswith("not JSON")
    assert reasons[3] == "key is missing"
    assert reasons[4] == reasons[5] == "not a JSON object"
    assert "dance" in reasons[6] and "dance" in reasons[7]
    assert await served.rows("signal, stage") == [("start", "load"), ("fail", "load")]
    # If no line is stored, the status says so too.
    for body in (lines_of({"key": "nobody"}), b"{broken", lines_of({"key": KEY, "status": "dance"}, [1]), b"7"):
        async with posting(served) as post:
            status, answer = await post(body)
        assert (status, answer["accepted"]) == (400, 0) and answer["refused"] == answer["lines"] > 0, body
    async with posting(served) as post:
        assert (await post(b""))[0] == 200


async def test_bulk_lines_are_read_as_other_pings(served: Served) -> None:
    lines = [
        {"key": KEY, "Status": "Failed", "ExitCode": -1073741819},
        {"key": KEY, "ok": False, "error": "disk full"},
        {"key": KEY, "status": "fail", "duration": "soon", "done": -1},
        {"key": KEY, "run": "2026-11-29T02:00:00+01:00"},
        {"key": KEY, "run": "2026-11-29T02:00:00 01:00", "status": "start"},
        {"key": KEY, "result": "perhaps"},
        {"key": KEY, "job": {"status": "failed"}},
    ]
    packers = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstd.compress, "deflate": zlib.compress}
    for encoding, pack in packers.items():
        async with posting(served) as post:
            status, answer = await post(pack(lines_of(*lines)), **{"Content-Encoding": encoding})
        assert (status, answer["accepted"], answer["refused"]) == (200, 5, 2)
        assert [error["line"] for error in answer["errors"]] == [6, 7]
        assert [(each["line"], each["field"]) for each in answer["ignored"]] == [(3, "duration"), (3, "done")]
    run = "2026-11-29T02:00:00+01:00"
    assert await served.rows("signal, run, exit_code, message") == [
        ("fail", None, -1073741819, None),
        ("fail", None, None, "disk full"),
        ("fail", None, None, None),
        ("success", run, None, None),
        ("start", run, None, None),
    ] * len(packers)


@pytest.mark.parametrize(
    "body",
    [
        lines_of({"key": "nobody"}) + b"\n",
        b"{\n",
        b"[]\n",
        b"\n",
        b" ",
        lines_of({"key": KEY}) + b"\n" + b"\n" * 20_000,
    ],
)
async def test_a_body_without_a_known_key_costs_little(served: Served, body: bytes) -> None:
    packed = gzip.compress(body * (4_000_000 // len(body)))
    async with posting(served) as post:
        began_s = time.process_time()
        status, answer = await post(packed, **{"Content-Encoding": "gzip"})
        took_s = time.process_time() - began_s
    assert status == 400 and answer["lines"] <= 2_000, answer
    assert in_loops(took_s) < 10


async def test_bulk_bodies_that_cannot_be_read(served: Served) -> None:
    lines = lines_of({"key": KEY})
    array = json.dumps([{"key": KEY}] * 3).encode()
    cases: list[tuple[bytes, dict[str, str], int, int]] = [
        (array[:-1], {}, 400, 2),
        (array + b"x", {}, 400, 3),
        (b"[1, oh]", {}, 400, 0),
        (b'[{"key": 1} {"key": 2}]', {}, 400, 0),
        (gzip.compress(lines)[:-4], {"Content-Encoding": "gzip"}, 400, 0),
        (b"no gzip at all", {"Content-Encoding": "gzip"}, 400, 0),
        (lines, {"Content-Encoding": "br"}, 400, 0),
        (lines, {"Content-Encoding": "compress"}, 415, 0),
        (b'"' + b"x" * 70_000, {}, 400, 0),
    ]
    async with posting(served) as post:
        for body, headers, wanted, accepted_min in cases:
            status, answer = await post(body, **headers)
            assert status == wanted, (body[:50], answer)
            assert answer["accepted"] >= accepted_min - 1
            assert answer["errors"][-1]["line"] is None


async def test_bulk_waits_for_room_instead_of_refusing(database_url: str, http_server: str) -> None:
    async with serving(database_url, http_server=http_server, pings_pending_max=100, batch_pings_max=30) as served:
        async with posting(served) as post:
            body = lines_of(*({"key": KEY, "run": str(number)} for number in range(5_000)))
            single = asyncio.ensure_future(ask(served, get()))
            assert await post(body) == (200, {"accepted": 5_000, "refused": 0, "errors": []})
            await single
        assert await served.database.fetchval("select count(distinct run) from pings") == 5_000
        assert await served.database.fetchval("select count(*) from refusals where reason = 'database'") == 0


async def test_bulk_is_streamed_and_limited(
    database_url: str, http_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offbeat_server.ingest.bulk.BODY_BYTES_MAX", 3_000_000)
    async with serving(database_url, http_server=http_server) as served, posting(served) as post:
        line = lines_of({"key": KEY, "message": "m" * 100}) + b"\n"

        async def drip() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield line * 100 + line[:40]
                await asyncio.sleep(0.005)
                yield line[40:]

        assert (await post(drip()))[1]["accepted"] == 20 * 101
        bomb = gzip.compress(line * 40_000)
        status, answer = await post(bomb, **{"Content-Encoding": "gzip"})
        assert (status, answer["errors"][-1]["line"]) == (413, None)
        assert 0 < answer["accepted"] <= 3_000_000 // len(line)
        assert await served.database.fetchval("select count(*) from pings") == 20 * 101 + answer["accepted"]


async def test_bulk_while_postgres_is_away(database_url: str, http_server: str) -> None:
    async with (
        Link(database_url) as link,
        serving(database_url, log_url=link.url, http_server=http_server, commit_timeout=0.4) as served,
        posting(served) as post,
    ):
        link.cut(stay=True)
        status, answer = await post(lines_of({"key": KEY}, {"key": KEY}))
        assert (status, answer["accepted"]) == (503, 0)
        assert answer["lines"] == 2


async def test_a_ping_that_is_refused_while_keys_are_loaded_is_an_outage_and_never_unknown(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key may be known to the database. A wrong key, once all are loaded, proves nothing."""
    monkeypatch.setattr("offbeat_server.ingest.key_index.REFRESH_WAIT_S", 0.3)
    async with serving(database_url) as served:
        held, load = asyncio.Event(), served.key_index._source.all_keys

        async def slow_keys() -> AsyncIterator[Sequence[KeyRow]]:
            await held.wait()
            async for rows in load():
                yield rows

        monkeypatch.setattr(served.key_index._source, "all_keys", slow_keys)
        served.key_index.forget()
        other = KEY.replace("0f0f", "0e0e")
        assert (await ask(served, get())).status == 200
        assert (await ask(served, get(f"/ping/{other}"))).status == 503
        rows = "select reason, ended_at - started_at > interval '0.2 s' as whole from refusals"
        (row,) = await eventually(lambda: served.database.fetch(rows))
        assert tuple(row) == ("database", True)
        held.set()
        await eventually(lambda: _complete(served))
        assert (await ask(served, get(f"/ping/{other}"))).status == 404
        assert len(await served.database.fetch(rows)) == 1


async def _complete(served: Served) -> bool:
    return served.key_index.complete


@pytest.mark.parametrize("slug", ["watchdog", "start", "log", "7"])
@pytest.mark.parametrize("body", [b"", b"done"])
async def test_a_ping_key_that_is_a_uuid_leads_to_slugs_and_a_monitors_key_wins(
    database_url: str, slug: str, body: bytes
) -> None:
    """`/ping/{uuid}/{word}`: a signal to the monitor with this key; a slug if the UUID is a project's ping key."""
    ping_key = "11111111-2222-4333-8444-555555555555"

    def to(uuid: str, more: str = "") -> str:
        if not body:
            return get(f"/ping/{uuid}/{slug}{more}")
        head = get(f"/ping/{uuid}/{slug}{more}", f"Content-Length: {len(body)}", method="POST")
        return str(head + body.decode())

    async with serving(
        database_url, provisioning=lambda pool, key_index: Provisioning(pool, key_index, True)
    ) as served:
        assert (await ask(served, to(ping_key))).status == 404
        async with changing(served.pool) as connection:
            await put_project(connection, WantedProject("default", "Default", ping_key, {}), "test")
        assert (await ask(served, to(ping_key))).status == 404
        assert (await ask(served, to(ping_key, "?create=1"))).status == 201
        monitor = await served.pool.fetchval("select id from monitors where slug = $1", slug)
        assert (await ask(served, to(ping_key))).status == 200
        assert (await ask(served, get(f"/ping/{ping_key}/{slug}/fail"))).status == 200
        assert await served.rows("monitor_id, signal") == [
            (monitor, "success"), (monitor, "success"), (monitor, "fail")
        ]  # fmt: skip
        # The same word after a monitor's key is a signal, also if that key is the project's ping key too.
        assert (await ask(served, to(KEY))).status == 200
        await served.put("both", None, WantedKey(ping_key))
        assert (await ask(served, to(ping_key))).status == 200
        signal = {"watchdog": "fail", "7": "fail"}.get(slug, slug)
        rows = await served.rows("monitor_id, signal")
        assert [stored_signal for _, stored_signal in rows[3:]] == [signal, signal] and monitor not in [
            row[0] for row in rows[3:]
        ]
