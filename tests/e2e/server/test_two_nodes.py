"""Two real nodes on one Postgres: restarted one after the other, killed, frozen; and behind PgBouncer."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial

import aiohttp
import asyncpg
import pytest

from offbeat_server.db.pool import connect
from tests.support.harness import HANG_S, PgBouncer, Server, eventually, free_port

MONITORS = 12
CLIENTS = 6
PAUSE_S = 0.03
LONG_LEASE = "tests.support.servers.long_lease_process"


class Client:
    """Pings over one keep-alive connection, and goes to the other node where it is refused or cut off."""

    def __init__(self, name: int, ports: list[int], keys: list[str]) -> None:
        self._name, self._ports, self._keys = name, ports, keys
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self.answers: dict[str, int] = {}  # by the ping's own words; 0: cut off without a word
        self.stopped = False

    async def run(self) -> None:
        index, node = 0, self._name
        while not self.stopped:
            message, key = f"{self._name}-{index}", self._keys[index % len(self._keys)]
            index += 1
            try:
                self.answers[message] = 0
                self.answers[message] = await self._ping(self._ports[node % 2], key, message.encode())
            except (OSError, EOFError):
                self.close()
                node += 1
            await asyncio.sleep(PAUSE_S)
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _ping(self, port: int, key: str, message: bytes) -> int:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        self._writer.write(
            b"POST /api/v1/heartbeat/%s HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s"
            % (key.encode(), len(message), message)
        )
        async with asyncio.timeout(HANG_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            await self._reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ")[1])


async def monitors(server: Server, **definition: object) -> list[str]:
    keys = []
    for number in range(MONITORS):
        answer = await server.api("PUT", f"/api/v1/monitors/m{number}", definition)
        assert answer.status == 201, answer
        keys.append(answer.body["key"])
    return keys


async def is_scheduler(server: Server) -> bool:
    with contextlib.suppress(OSError):
        async with server.session.get("/metrics") as response:
            return "offbeat_scheduler_leader 1.0" in await response.text()
    return False


async def is_taken_over(connection: asyncpg.Connection, after_term: int) -> None:
    """Wait for a later term of the lease."""

    async def taken() -> bool:
        return bool(await connection.fetchval("select term > $1 from lease where name = 'keeper'", after_term))

    await eventually(taken)


async def more_answers(clients: list[Client], count: int) -> None:
    """Wait until the clients together have `count` more answers."""

    def total() -> int:
        return sum(len(client.answers) for client in clients)

    known = total()

    async def reached() -> bool:
        return total() >= known + count

    await eventually(reached)


async def term(connection: asyncpg.Connection) -> int:
    current: int = await connection.fetchval("select term from lease where name = 'keeper'")
    return current


@pytest.fixture
async def observer(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(database_url)
    yield connection
    await connection.close()


@pytest.mark.slow
async def test_restarted_one_after_the_other_under_load(database_url: str, observer: asyncpg.Connection) -> None:
    ports = [free_port(), free_port()]
    # Their leases end only when they are given up.
    async with (
        Server(database_url, port=ports[0], module=LONG_LEASE) as a,
        Server(database_url, port=ports[1], module=LONG_LEASE) as b,
    ):
        keys = await monitors(a, every="10s", grace="10s")
        clients = [Client(number, ports, keys) for number in range(CLIENTS)]
        running = [asyncio.ensure_future(client.run()) for client in clients]
        await eventually(lambda: is_scheduler(a))
        for node, other in ((a, b), (b, a)):
            before = await term(observer)
            await more_answers(clients, 100)
            stopping = asyncio.ensure_future(node.stop())
            await is_taken_over(observer, before)
            assert await stopping == 0
            await eventually(partial(is_scheduler, other))
            await node.start()
        await more_answers(clients, 400)
        for client in clients:
            client.stopped = True
        await asyncio.gather(*running)

        answers = {message: status for client in clients for message, status in client.answers.items()}
        counts = Counter(answers.values())
        assert set(counts) <= {200, 0}, f"a request that was read is answered with 200: {counts}"
        # The waits above have seen 600 answers; how many more there are depends on how long the restarts take.
        assert counts.total() >= 600 and counts[0] <= 8 * CLIENTS, counts
        stored = Counter(row["message"] for row in await observer.fetch("select message from pings"))
        lost = [message for message, status in answers.items() if status == 200 and stored[message] != 1]
        assert not lost, f"{len(lost)} pings answered 200 are not in the log exactly once: {lost[:5]}"
        unanswered = [message for message, status in answers.items() if status == 0 and stored[message]]
        assert not unanswered, f"read, stored and not answered: {unanswered[:5]}"
        assert not await observer.fetch("select * from incidents")
        for node in (a, b):
            async with node.session.get("/metrics") as response:
                assert "offbeat_self_check_mismatches_total 0.0" in await response.text() or not await is_scheduler(
                    node
                )


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pgbouncer"])
async def test_a_stopping_node_hands_over_at_once_and_closes_its_listener_after_it_was_seen_not_ready(
    database_url: str, observer: asyncpg.Connection, pooled: bool
) -> None:
    async with _two(database_url, pooled, "--drain-delay", "4", module=LONG_LEASE) as (a, b):
        keys = await monitors(a, every="1h")
        assert await _ping(b, f"{keys[0]}/start?run=before") == 200
        await eventually(lambda: _runs(observer, "before"))  # so a knows that there is another
        _, slow = await asyncio.open_connection("127.0.0.1", a.port)  # because of it the listener is open to the end
        slow.write(b"POST /api/v1/heartbeat/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhal" % keys[0].encode())
        before = await term(observer)
        stopping = asyncio.ensure_future(a.stop())
        await is_taken_over(observer, before)
        async with aiohttp.ClientSession(a.url) as newcomer, newcomer.get("/readyz") as response:
            assert response.status == 503 and "[-] running: stopping" in await response.text()
        assert await Client(0, [a.port], keys)._ping(a.port, f"{keys[0]}/start?run=after", b"") == 200
        assert not stopping.done()
        slow.close()
        assert await stopping == 0
        await eventually(lambda: _runs(observer, "after"))
        assert not await observer.fetch("select reason from deaf")  # a writer was there all the time


@pytest.mark.slow
async def test_a_killed_scheduler_is_followed_and_a_frozen_one_changes_nothing_when_it_wakes(
    database_url: str, observer: asyncpg.Connection
) -> None:
    async with PgBouncer(database_url) as pooled, Server(pooled, "--pgbouncer") as a:
        await eventually(lambda: is_scheduler(a))
        async with Server(pooled, "--pgbouncer") as b, Server(pooled, "--pgbouncer") as c:
            answer = await b.api("PUT", "/api/v1/monitors/job", {"every": "2s", "grace": "1s"})
            key = answer.body["key"]
            await b.session.get(f"/api/v1/heartbeat/{key}")
            before = await term(observer)
            await a.kill()
            began_s = time.monotonic()
            await is_taken_over(observer, before)
            take_overs_s = [time.monotonic() - began_s]

            scheduler, other = (b, c) if await _scheduler_of(b, c) is b else (c, b)
            before = await term(observer)
            os.kill(scheduler.pid, signal.SIGSTOP)
            began_s = time.monotonic()
            try:
                await is_taken_over(observer, before)
                take_overs_s.append(time.monotonic() - began_s)
                assert min(take_overs_s) < 10, take_overs_s  # documented; the lease and a try to take it are 7 s
                await eventually(lambda: is_scheduler(other))

                async def down() -> bool:
                    return bool(await observer.fetchval("select count(*) from incidents where resolved_at is null"))

                await eventually(down)
                recorded, now = await observer.fetch("select monitor_id, number from incidents"), await term(observer)
            finally:
                os.kill(scheduler.pid, signal.SIGCONT)
            assert (await scheduler.api("GET", "/api/v1/monitors/job")).body["status"] == "down"
            assert (await _ping(scheduler, key)) == 200  # with a new writer: the old one was fenced
            await eventually(lambda: _resolved(observer))
            assert await term(observer) == now and await is_scheduler(other) and not await is_scheduler(scheduler)
            assert await observer.fetch("select monitor_id, number from incidents") == recorded


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pgbouncer"])
async def test_what_is_changed_at_one_node_is_known_at_the_other(database_url: str, pooled: bool) -> None:
    async with _two(database_url, pooled) as (a, b):
        delays_s = []
        for _ in range(4):
            created = await a.api("PUT", "/api/v1/monitors/job", {"every": "1h"})
            assert await _ping(b, created.body["key"]) == 200  # asked for at once
            assert (await a.api("DELETE", "/api/v1/monitors/job")).status in (200, 204)
            began_s = time.monotonic()

            async def unknown(key: str = created.body["key"]) -> bool:
                return await _ping(b, key) == 404

            await eventually(unknown)
            delays_s.append(time.monotonic() - began_s)
        # Documented: within about a second. A node asks every second, and one round trip later it knows.
        assert min(delays_s) < 1.5, delays_s


@contextlib.asynccontextmanager
async def _two(
    database_url: str, pooled: bool, *flags: str, module: str = "offbeat"
) -> AsyncIterator[tuple[Server, Server]]:
    """Two nodes; the first is the scheduler, unless it was slow."""
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(PgBouncer(database_url)) if pooled else database_url
        flags = ("--pgbouncer", *flags) if pooled else flags
        a = await stack.enter_async_context(Server(url, *flags, module=module))
        b = await stack.enter_async_context(Server(url, *flags, module=module))
        yield a, b


async def _ping(server: Server, key: str) -> int:
    async with server.session.get(f"/api/v1/heartbeat/{key}") as response:
        if response.status == 503:
            await asyncio.sleep(0.2)  # sleep: the pause of a client after a 503
            return await _ping(server, key)
        return response.status


async def _scheduler_of(*servers: Server) -> Server:
    async def which() -> Server | None:
        for server in servers:
            if await is_scheduler(server):
                return server
        return None

    scheduler = await eventually(which)
    assert scheduler is not None
    return scheduler


async def _runs(connection: asyncpg.Connection, run: str) -> bool:
    """Whether its start was applied."""
    return bool(await connection.fetchval("select 1 from runs where run = $1", run))


async def _resolved(connection: asyncpg.Connection) -> bool:
    return not await connection.fetchval("select count(*) from incidents where resolved_at is null")
