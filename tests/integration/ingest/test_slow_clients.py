"""Clients that keep their connection: when the server's event loop stood still, and while they still send a body."""

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from offbeat_server.ingest.http import listener
from offbeat_server.ingest.http.connection import ConnectionContext
from tests.support.harness import Postgres, eventually
from tests.support.ingest_server import LARGE_BYTES, PATH, connected, get, serving

TICK_S = 0.05
TIMEOUT_S = 0.5
HELD_UP_S = 2.0


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


def stand_still() -> None:
    time.sleep(HELD_UP_S)  # sleep: in which the loop does nothing, for longer than any time-out


async def is_true(value: object) -> object:
    return value


def test_time_in_which_the_loop_stood_still_is_not_held_against_clients(
    runner: asyncio.Runner, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is taking a large answer, one has sent half of a head, one half of a body, and one is idle. All of them stood
    still too, as on a machine that was suspended: they go on when the listener has looked at its connections again.
    """
    monkeypatch.setattr(listener, "TICK_S", TICK_S)
    monkeypatch.setattr(listener, "TICK_S_MAX", 2 * TICK_S)
    timeouts: dict[str, Any] = {f"{name}_timeout": TIMEOUT_S for name in ("idle", "header", "body")}

    async def hold_up() -> None:
        async with (
            postgres.fresh() as url,
            serving(url, **timeouts) as served,
            connected(served) as large,
            connected(served) as head,
            connected(served) as body,
            connected(served) as idle,
        ):
            large.writer.transport.pause_reading()  # type: ignore[attr-defined]
            large.send(get("/large", "Connection: close"))
            head.send(get()[:20])
            body.send(get(f"{PATH}/log", "Content-Length: 8", method="POST") + "half")
            seen = served.http_servers._listener
            assert seen is not None

            async def tick(context: ConnectionContext = seen._context) -> None:
                now_s = context.now_s
                await eventually(lambda: is_true(context.now_s > now_s), every_s=0.001)

            await eventually(lambda: is_true(served.http_servers._bodies.bytes == 4), every_s=0.001)
            await eventually(lambda: is_true(seen._handed_over._connections), every_s=0.001)
            await tick()
            stand_still()
            await tick()
            head.send(get()[20:])
            body.send("half")
            idle.send(get())
            large.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert [(await client.reply()).status for client in (head, body, idle)] == [200] * 3
            assert len((await large.reply()).body) == LARGE_BYTES

    runner.run(hold_up())


def test_a_client_that_still_sends_a_body_gets_the_answer(runner: asyncio.Runner, postgres: Postgres) -> None:
    """Many clients read no answer before the whole body is sent. A closed connection would be reset by their bytes."""
    size, step = 900_000, 10_000
    head = get(f"{PATH}/log", f"Content-Length: {size}", method="POST")

    async def send_on() -> None:
        loop = asyncio.get_running_loop()
        async with (
            postgres.fresh() as url,
            serving(url, bytes_pending_max=1_000_000, body_bytes_max=size) as served,
            connected(served) as other,
        ):
            other.send(head + "x" * (size - 1))
            await eventually(lambda: is_true(served.http_servers._bodies.bytes == size - 1))
            with socket.create_connection(("127.0.0.1", served.port)) as client:
                client.setblocking(False)
                sent = 200_000  # together more than there is room for
                await loop.sock_sendall(client, head.encode() + bytes(sent))
                await eventually(lambda: is_true(answered(client)))
                while sent < size:
                    await loop.sock_sendall(client, bytes(step))
                    sent += step
                    await asyncio.sleep(0)
                reply = b""
                while piece := await loop.sock_recv(client, 1_000):
                    reply += piece
                assert reply.startswith(b"HTTP/1.1 503 ") and b"Connection: close" in reply
                await eventually(lambda: is_true(served.http_servers.connections == 1))

    runner.run(send_on())


def test_a_client_that_sends_no_more_of_a_body_is_closed(runner: asyncio.Runner, postgres: Postgres) -> None:
    """It has its answer, and leaves its side of the connection open."""

    async def stop_sending() -> None:
        async with (
            postgres.fresh() as url,
            serving(url, body_timeout=TIMEOUT_S) as served,
            connected(served) as client,
        ):
            client.send(get(PATH, "Content-Length: 8", method="POST") + "half")
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (408, "close")
            assert served.http_servers.connections == 1
            await eventually(lambda: is_true(served.http_servers.connections == 0))

    runner.run(stop_sending())


def answered(client: socket.socket) -> bool:
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
