"""Bad input at both HTTP servers: the protocol's own refusal, no 5xx, flat memory, no other monitor pinged."""

import asyncio
import random
import re
import zlib
from collections.abc import AsyncIterator

import aiohttp
import brotli
import psutil
import pytest
import pytest_asyncio

from bench.slow import slow_clients
from tests.support.clients.programs import make, ping_key, pings
from tests.support.harness import HANG_S, Postgres, Server, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

GROWTH_BYTES_MAX = 60_000_000  # the arenas of three threads and Postgres' buffers stay; a bomb is 100 MB


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["fast", "aiohttp"])
async def server(postgres: Postgres, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with postgres.fresh() as url, Server(url, "--http-server", request.param) as server:
        yield server


async def send(server: Server, path: str, body: bytes, **headers: str) -> tuple[int, str]:
    """Status and text; 0 where the server has closed before it took the whole body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        async with server.session.post(path, data=body, headers=named) as response:
            return response.status, await response.text()
    except aiohttp.ClientConnectionError:
        return 0, ""


async def test_bombs_are_refused_and_memory_stays_flat(server: Server) -> None:
    auth = f"Sentry sentry_key={await ping_key(server)}, sentry_version=7"
    bombs = []
    for plain, refusal in (
        (b"\n" * 100_000_000, (400, "envelope is empty")),
        (b'{}\n{"type":"check_in"}\n' + b"x" * 100_000_000, (413, "more than 100 times")),
    ):
        bombs.append(("gzip", zlib.compress(plain, 9, wbits=31), refusal))
        bombs.append(("br", brotli.compress(plain, quality=1), refusal))
    del plain
    process = psutil.Process(server.pid)
    await send(server, "/api/1/envelope/", b"{}\n", x_sentry_auth=auth)
    before = process.memory_info().rss
    for _ in range(3):
        for encoding, bomb, (refused, reason) in bombs:
            status, text = await send(server, "/api/1/envelope/", bomb, content_encoding=encoding, x_sentry_auth=auth)
            assert (status, reason in text) == (refused, True), text
        check_in = b'{}\n{"type":"check_in"}\n' + b"x" * 10_000_000
        status, text = await send(server, "/api/1/envelope/", check_in, x_sentry_auth=auth)
        assert (status, "check-in is larger than" in text) == (413, True), text
        # Other items than check-ins are skipped, with any size.
        large = b"{}\n" + b'{"type":"event","length":10000000}\n' + b"x" * 10_000_000
        assert (await send(server, "/api/1/envelope/", large, x_sentry_auth=auth)) == (200, "{}")
    assert process.memory_info().rss - before < GROWTH_BYTES_MAX
    assert (await send(server, "/api/1/envelope/", b"{}\n", x_sentry_auth=auth)) == (200, "{}")


async def test_bad_bodies_get_the_dialects_own_refusal(server: Server) -> None:
    key = await make(server, "bodies", every="1h")
    project = await ping_key(server)
    deep = b'{"message":' + b"[" * 90_000
    json = {"content_type": "application/json"}
    native = f"/api/v1/heartbeat/{key}"
    for body in (deep, b"\xff\xfe", b"[]", b'{"status": 5}', b'{"job": {"status": "sideways"}}'):
        status, text = await send(server, native, body, **json)
        assert (status, bool(text)) == (400, True), body[:20]
    auth = {"x_sentry_auth": f"Sentry sentry_key={project}"}
    for body in (deep, b"\xff\xfe\n", b"", b'{}\n{"type":"check_in"}\n' + deep):
        status, text = await send(server, "/api/1/envelope/", body, **auth)
        assert (status, text.startswith('{"detail":')) == (400, True), body[:20]
    assert (await send(server, "/api/1/envelope/", b"{}", content_encoding="compress", **auth))[0] == 415
    assert (await send(server, f"/api/1/cron/bodies/{project}/", deep, **json))[0] == 400
    # A job's output may be anything where the path says what happened.
    for body in (deep, b"\xff\xfe\0", b'{"groupKey"'):
        assert (await send(server, f"/ping/{key}/fail", body, **json))[0] == 200
    # An id that is too long is made to fit.
    assert (await send(server, native, b'{"status": "start", "run": "' + b"x" * 300 + b'"}', **json))[0] == 200
    stored = await pings(server, "bodies")
    assert [ping["signal"] for ping in stored] == ["fail"] * 3 + ["start"]
    assert stored[-1]["run"].startswith("xxx") and len(stored[-1]["run"]) < 300


async def test_arbitrary_requests_never_get_5xx_and_never_ping_a_monitor_that_they_do_not_name(server: Server) -> None:
    await make(server, "bystander", every="1h")
    chance = random.Random(server.port)
    project = await ping_key(server)
    prefixes = [
        "/api/v1/heartbeat/",
        "/ping/",
        "/p/",
        "/api/push/",
        "/api/v1/endpoints/",
        "/api/1/envelope/",
        "/api/1/cron/",
    ]
    segments = [
        project,
        "bystander-not",
        "start",
        "fail",
        "0",
        "999",
        "external",
        "%ff",
        "%00",
        "%2F",
        "..",
        ".",
        "é",
        "x" * 300,
    ]
    queries = [
        "",
        "status=up",
        "state=run",
        "create=1&rid=x",
        "status=%ff",
        "success=true",
        "&&&===",
        "stamp=1",
        "m=%00",
    ]
    bodies = [b"", b"{}", b'{"status":', b"\xff" * 50, b"status=fail&run=%ff", b"{}\n{}\n", bytes(range(256)) * 4]
    kinds = ["application/json", "application/x-www-form-urlencoded", "multipart/form-data", "\xff", ""]
    encodings = ["gzip", "br", "zstd", "identity", ""]

    async def one(address: tuple[str, int]) -> int:
        path = chance.choice(prefixes) + "/".join(chance.choices(segments, k=chance.randrange(4)))
        query, body = chance.choice(queries), chance.choice(bodies)
        head = [
            f"{chance.choice(['GET', 'POST', 'HEAD', 'PUT', 'OPTIONS'])} {path}{'?' + query if query else ''} HTTP/1.1",
            "Host: x",
            "Connection: close",
            f"Content-Length: {len(body)}",
            f"Content-Type: {chance.choice(kinds)}",
            f"Content-Encoding: {chance.choice(encodings)}",
            f"Authorization: {chance.choice(['Bearer x', 'Basic !', 'Sentry', f'Bearer {project}'])}",
        ]
        reader, writer = await asyncio.open_connection(*address)
        writer.write("\r\n".join(head).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body)
        answer = await asyncio.wait_for(reader.read(), HANG_S)
        writer.close()
        status = int(answer.split(b" ", 2)[1])
        assert status < 500, (head, body, answer)
        return status

    for _ in range(10):
        statuses = await asyncio.gather(*(one(("127.0.0.1", server.port)) for _ in range(20)))
    assert set(statuses) & {200, 400, 404}
    assert await pings(server, "bystander") == []


async def test_an_honest_client_waits_for_no_slow_one(database_url: str) -> None:
    """No slow client ends before the test fails, so an answer that waits for one of them does not come."""
    never_s = str(2 * HANG_S)
    times = ["--header-timeout", never_s, "--body-timeout", never_s, "--idle-timeout", never_s]
    async with Server(database_url, *times) as server:
        key = await make(server, "honest", every="1h")
        async with slow_clients("127.0.0.1", server.port, 300):
            for _ in range(400):
                async with server.session.get(f"/api/v1/heartbeat/{key}") as answer:
                    assert answer.status == 200
            assert not await _connections(server, 250)


async def test_slow_clients_are_closed_and_cost_little_memory(database_url: str) -> None:
    """The bench `hostile` in small, with time-outs so short that every slow client is closed and comes again."""
    times = ["--header-timeout", "1", "--body-timeout", "1", "--idle-timeout", "1"]
    async with Server(database_url, *times) as server:
        process = psutil.Process(server.pid)
        await _connections(server, 0)
        before = process.memory_info().rss
        async with slow_clients("127.0.0.1", server.port, 300):
            await eventually(lambda: _connections(server, 150))  # they are closed, and come again some seconds later
            assert process.memory_info().rss - before < GROWTH_BYTES_MAX
        await eventually(lambda: _connections(server, 2))


async def _connections(server: Server, connections_max: int) -> bool:
    async with server.session.get("/metrics") as answer:
        match = re.search(r"^offbeat_connections (\S+)$", await answer.text(), re.MULTILINE)
    return match is not None and float(match[1]) <= connections_max
