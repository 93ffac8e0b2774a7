"""The limits of one client in a process: connections by address, pings by key. Other clients notice nothing."""

import asyncio
import ipaddress
import subprocess
import sys
from contextlib import AsyncExitStack
from typing import Any

import pytest

from offbeat_server.ingest.http.client_address import ClientAddresses
from offbeat_server.ingest.http.connection_limits import ConnectionLimiter
from offbeat_server.ingest.protocols.base import Outcome, Request
from offbeat_server.ingest.protocols.registry import DIALECTS
from offbeat_server.runtime.fd_limit import RESERVE, DescriptorLimit
from tests.support.harness import Server, eventually
from tests.support.servers.ingest_server import HTTP_SERVERS, KEY, PATH, Client, Served, ask, connected, get, serving

# ------------------------------------------------------------------------------------------------- connections


def test_connections_are_limited_by_address() -> None:
    peer = ClientAddresses([ipaddress.ip_network("10.0.0.0/8")]).peer
    connection_limiter = ConnectionLimiter(7, 2)
    one, other, proxy = peer(("192.0.2.1", 1)), peer(("192.0.2.2", 1)), peer(("10.1.2.3", 1))
    assert [connection_limiter.open(one) for _ in range(3)] == [True, True, False]
    assert connection_limiter.open(other)
    assert [connection_limiter.open(proxy) for _ in range(4)] == [True] * 4, "a proxy speaks for many"
    assert not connection_limiter.open(other), "no room for anybody"
    assert (connection_limiter.open_count, connection_limiter.refused) == (7, {"address": 1, "full": 1})
    connection_limiter.release([one, proxy, proxy])
    assert connection_limiter.open(one) and not connection_limiter.open(one)
    connection_limiter.release([one, one, other, proxy, proxy])
    assert (connection_limiter.open_count, connection_limiter.addresses) == (0, 0), (
        "nothing is kept of those who are gone"
    )


def test_an_ipv6_client_is_its_network() -> None:
    peer = ClientAddresses([]).peer
    connection_limiter = ConnectionLimiter(10, 2)
    assert [connection_limiter.open(peer((f"2001:db8::{n}", 1, 0, 0))) for n in range(1, 4)] == [True, True, False]
    assert connection_limiter.open(peer(("2001:db8:0:1::1", 1, 0, 0)))
    assert [connection_limiter.open(peer((f"::ffff:192.0.2.{n}", 1, 0, 0))) for n in range(1, 4)] == [True] * 3
    assert connection_limiter.open(peer("/a/socket")) and connection_limiter.addresses == 5


def test_by_default_one_address_never_takes_everything() -> None:
    peer = ClientAddresses([]).peer(("192.0.2.1", 1))
    for per_address_max, expected in ((None, 15), (0, 20), (3, 3)):
        connection_limiter = ConnectionLimiter(20, per_address_max)
        assert sum(connection_limiter.open(peer) for _ in range(30)) == expected


async def from_address(address: str, served: Served) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", served.port, local_addr=(address, 0)))


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
async def test_one_address_cannot_take_all_connections(database_url: str, http_server: str) -> None:
    async with serving(
        database_url, http_server=http_server, connections_max=10, connections_per_address_max=4
    ) as served:
        clients = [await from_address("127.0.0.2", served) for _ in range(4)]
        for client in clients[:2]:  # these are aiohttp's now, and still count
            client.send(get("/hello"))
            assert (await client.reply()).status == 200
        assert await (await from_address("127.0.0.2", served)).is_closed()
        assert (await ask(served, get())).status == 200
        for client in clients:
            client.abort()

        async def is_free() -> bool:
            again = await from_address("127.0.0.2", served)
            again.send(get())
            try:
                return (await again.reply()).status == 200
            except (asyncio.IncompleteReadError, ConnectionError):
                return False
            finally:
                again.abort()

        await eventually(is_free)
        assert served.http_servers.connections_refused["address"] >= 1


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
async def test_a_trusted_proxy_may_have_them_all(database_url: str, http_server: str) -> None:
    settings: Any = {"connections_max": 10, "connections_per_address_max": 1, "trusted_proxies": "127.0.0.1/32"}
    async with serving(database_url, http_server=http_server, **settings) as served, AsyncExitStack() as stack:
        for _ in range(10):
            client = await stack.enter_async_context(connected(served))
            client.send(get())
            assert (await client.reply()).status == 200
        assert await (await from_address("127.0.0.1", served)).is_closed()
        assert served.http_servers.connections_refused == {"full": 1}


async def test_a_connection_refused_at_the_limit_may_have_been_a_ping(database_url: str) -> None:
    """One address over its own limit proves nothing; a process without room for any client records an outage."""
    limits: Any = {"connections_max": 10, "connections_per_address_max": 8}
    async with serving(database_url, **limits) as served, AsyncExitStack() as stack:
        kept = [await from_address("127.0.0.2", served) for _ in range(8)]
        assert await (await from_address("127.0.0.2", served)).is_closed()
        kept += [await from_address("127.0.0.3", served) for _ in range(2)]
        for client in kept:
            stack.callback(client.abort)
        assert await (await from_address("127.0.0.4", served)).is_closed()
        rows = (
            "select reason, pings, ended_at - started_at < interval '2 s' as short from refusals where reason = 'full'"
        )
        (row,) = await eventually(lambda: served.database.fetch(rows))
        assert tuple(row) == ("full", 0, True)
        assert served.http_servers.connections_refused == {"address": 1, "full": 1}


# ------------------------------------------------------------------------------------------------- pings of a key


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
async def test_a_key_over_its_rate_limit_gets_429_and_other_keys_do_not(database_url: str, http_server: str) -> None:
    async with serving(database_url, http_server=http_server, key_pings_per_minute_max=3) as served:
        await served.put("neighbour", "neighbour-key")
        async with connected(served) as client:
            client.send("".join(get(path) for path in (PATH, f"{PATH}/start", f"{PATH}?run=1", PATH, f"/ping/{KEY}")))
            replies = [await client.reply() for _ in range(5)]
            assert [reply.status for reply in replies] == [200, 200, 200, 429, 429]
            for reply in replies[3:]:
                assert 1 <= int(reply.headers["retry-after"]) <= 25
                assert b"--key-pings-per-minute-max" in reply.body
            client.send(get("/api/v1/heartbeat/neighbour-key"))
            assert (await client.reply()).status == 200, "the same connection, another key"
        lines = b"".join(b'{"key": "%s"}\n' % key for key in [KEY.encode(), *[b"neighbour-key"] * 3])
        head = f"POST /api/v1/heartbeats HTTP/1.1\r\nHost: here\r\nContent-Length: {len(lines)}\r\n\r\n"
        bulk = await ask(served, head.encode() + lines)
        assert bulk.status == 200 and b'"accepted":2,"refused":2' in bulk.body, bulk
        assert bulk.body.count(b"pings more often") == 2
        assert len(await served.rows()) == 6
        assert await served.database.fetchval("select count(*) from refusals where reason = 'limited'") == 0
        served.writer.refused_pings.publish()
        sample = served.metrics.registry.get_sample_value
        assert sample("offbeat_ping_refusals_total", {"reason": "limited"}) == 4


async def test_without_a_limit_a_key_may_ping_without_end(database_url: str) -> None:
    async with serving(database_url) as served, connected(served) as client:
        client.send(get() * 200)
        assert {(await client.reply()).status for _ in range(200)} == {200}


def test_every_dialect_has_an_answer_for_the_rate_limit() -> None:
    for dialect in DIALECTS:
        answer = dialect.answer(Outcome("limited", 7), Request("POST", "/x", "", {}, b""))
        assert answer.status == (503 if dialect.name == "sentry" else 429)
        assert ("Retry-After", "7") in answer.headers and b"was not stored" in answer.body


# ------------------------------------------------------------------------------------------------- file descriptors


def limited_to(soft: int, hard: int, connections_max: int) -> DescriptorLimit:
    """The settings of a process with these limits. In a process of its own: a hard limit cannot be raised again."""
    program = (
        "import resource, sys; from offbeat_server.runtime.fd_limit import make_room\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        f"room = make_room({connections_max}); assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == room.limit\n"
        "print(*room)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    return DescriptorLimit(*map(int, output.split()))


def test_the_soft_limit_is_raised_as_far_as_needed_and_connections_fit_below_it() -> None:
    assert limited_to(1024, 4096, 2000) == (2000 + RESERVE, 2000)
    assert limited_to(1024, 4096, 20_000) == (4096, 4096 - RESERVE)
    assert limited_to(4096, 4096, 100) == (4096, 100), "never lowered"
    assert limited_to(300, 300, 1000) == (300, 150)


async def test_a_server_with_too_few_descriptors_says_so_and_takes_fewer_connections(database_url: str) -> None:
    async with Server(database_url, "--connections-max", "3000", descriptors_max=1000) as server:
        wanted = 3000 + RESERVE
        assert any(f"LimitNOFILE={wanted}" in line and "warning" in line for line in server.output), server.output
        async with server.session.get("/readyz?verbose") as response:  # where `offbeat doctor` looks
            report = await response.text()
        assert "[-] descriptors: ulimit -n is 1000, too few" in report
        async with server.session.get("/metrics") as response:
            assert f"\noffbeat_connections_max {1000 - RESERVE}.0\n" in await response.text()
