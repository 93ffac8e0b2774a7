"""Clients that keep their connection: after the server stood still or did not read, and while they send or read."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import pytest
import uvloop

from offbeat_server.ingest.http import connection, listener
from offbeat_server.ingest.http.connection import ConnectionContext
from offbeat_server.ingest.http.connection_state import ConnectionState
from offbeat_server.ingest.http.flow_control import _kernel_bytes
from tests.support.harness import Postgres, eventually
from tests.support.servers.ingest_server import LARGE_BYTES, PATH, Served, connected, get, serving

TICK_S = 0.05
TIMEOUT_S = 0.5
HELD_UP_S = 2.0
PINGS_THAT_PAUSE = 24


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
    still too, as on a machine that was suspended: they continue when the listener has looked at its connections again.
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


class Reader:
    """A client whose kernel keeps little, of a server whose kernel keeps little: so answers soon wait at the server.

    The server's clock stands still, and the server looks at the connection only in `look`.
    """

    def __init__(self, client: socket.socket, served: Served, context: ConnectionContext) -> None:
        self.served, self.context, self._client = served, context, client
        listener = served.http_servers._listener
        assert listener is not None
        (self.connection,) = listener._open
        assert self.connection.transport is not None
        self.transport = self.connection.transport
        self._sent, self._received = "", b""

    def look(self, passed_s: float) -> ConnectionState:
        """Let the server look at the connection after this time; the state after that."""
        self.context.now_s += passed_s
        self.connection.expire()
        return self.connection.state

    @property
    def acknowledged(self) -> int:
        return _kernel_bytes(self.transport).acknowledged

    async def send(self, *requests: str) -> None:
        """Send them at once, so that the server reads them at once."""
        self._sent += "".join(requests)
        await asyncio.get_running_loop().sock_sendall(self._client, "".join(requests).encode())

    async def fill_kernels(self) -> None:
        """Ping until the kernels keep no more answers. The server then keeps too little to pause writing."""
        while not self.transport.get_write_buffer_size():
            self.context.now_s += 0.001
            await self.send(get())
            await eventually(lambda: is_true(self._is_answered()), every_s=0)
            await asyncio.sleep(0)  # the transport has written
        assert not self.connection._flow.writing_paused

    def _is_answered(self) -> bool:
        return not self.connection.pending and self.connection.since_s == self.context.now_s

    async def pause_writing(self, last: str = "") -> None:
        """Make answers wait, so that the server reads no more. `last` is sent with the pings whose answers wait."""
        await self.fill_kernels()
        await self.send(get() * PINGS_THAT_PAUSE, last)
        await eventually(lambda: is_true(self.connection._flow.writing_paused), every_s=0.001)
        await eventually(lambda: is_true(not self.connection.pending), every_s=0.001)

    async def read(self) -> None:
        """Read what is there; wait if it is nothing."""
        self._received += await asyncio.get_running_loop().sock_recv(self._client, 1_000_000)

    async def read_all(self) -> None:
        """Read every answer that the server has written, until its kernel knows."""

        async def read() -> bool:
            with suppress(BlockingIOError):
                self._received += self._client.recv(1_000_000)
            return not (self.transport.get_write_buffer_size() or _kernel_bytes(self.transport).waiting)

        await eventually(read, every_s=0.001)

    async def resume_writing(self) -> None:
        """Read until the server reads again."""
        while self.connection._flow.writing_paused:
            await self.read()
        assert not self.connection._flow.reading_paused

    async def status(self) -> str:
        """The status of the answer to the last request."""
        while self._received.count(b"HTTP/1.1 ") < self._sent.count("HTTP/1.1\r\n"):
            await self.read()
        return self._received.rpartition(b"HTTP/1.1 ")[2][:3].decode()


@asynccontextmanager
async def reading(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, kept_bytes: int = 4_608
) -> AsyncIterator[Reader]:
    """A client that has connected; `kept_bytes` is the send buffer of the server's kernel."""
    monkeypatch.setattr(listener, "TICK_S", 3_600.0)
    monkeypatch.setattr(connection, "WRITE_BUFFER_BYTES", 1_000)
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kept_bytes)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        async with postgres.fresh() as url, serving(url, listen_on=listening) as served:
            seen = served.http_servers._listener
            assert seen is not None
            await asyncio.get_running_loop().sock_connect(client, listening.getsockname())
            await eventually(lambda: is_true(seen._open), every_s=0.001)
            yield Reader(client, served, seen._context)


class Waiting(NamedTuple):
    """A request that a pause interrupts: `last` is sent before the pause, and the server waits for `rest`."""

    last: str
    rest: str
    state: ConnectionState
    timeout_s: float
    after: ConnectionState  # when the time is over


_BODY = get(PATH, "Content-Length: 10", method="POST") + "half "
WAITING = {
    "idle": Waiting("", get(), ConnectionState.READING_HEADS, 75.0, ConnectionState.CLOSING),
    "head": Waiting(get()[:20], get()[20:], ConnectionState.READING_HEADS, 10.0, ConnectionState.CLOSING),
    "body": Waiting(_BODY, "whole", ConnectionState.READING_BODY, 10.0, ConnectionState.LINGERING),
    "lingering": Waiting(_BODY, "whole", ConnectionState.LINGERING, 10.0, ConnectionState.CLOSING),
}


@pytest.mark.parametrize("waiting", WAITING.values(), ids=WAITING.keys())
def test_the_time_of_a_client_begins_again_when_writing_resumes(
    runner: asyncio.Runner, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, waiting: Waiting
) -> None:
    """During the pause the server did not read what the client sent. After it the whole time-out counts."""

    async def pause(*, in_time: bool) -> None:
        async with reading(postgres, monkeypatch) as client:
            lingering = waiting.state is ConnectionState.LINGERING
            if lingering:  # its body is refused, because there is no room
                assert client.served.http_servers._bodies.grow(client.context.settings.bytes_pending_max)
            await client.pause_writing(waiting.last)
            client.context.now_s += 1_000.0
            await client.resume_writing()
            await client.read_all()
            assert client.look(0.0) is waiting.state
            assert client.look(waiting.timeout_s - 0.1) is waiting.state
            if not in_time:
                assert client.look(0.2) is waiting.after
                return
            await client.send(waiting.rest)
            if lingering:
                await eventually(lambda: is_true(client.connection.state is ConnectionState.CLOSED), every_s=0.001)
            else:
                assert await client.status() == "200"

    async def pause_twice() -> None:
        await pause(in_time=True)
        await pause(in_time=False)

    runner.run(pause_twice())


def test_a_connection_is_not_idle_while_its_client_takes_answers_from_the_kernel(
    runner: asyncio.Runner, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has written everything, or nearly: it does not pause. A client that stops reading is closed."""

    async def read_slowly() -> None:
        async with reading(postgres, monkeypatch, kept_bytes=65_536) as client:
            await client.fill_kernels()
            for _ in range(4):
                before = client.acknowledged
                await client.read()
                await eventually(lambda before=before: is_true(client.acknowledged > before), every_s=0.001)  # type: ignore[misc]
                assert client.look(76.0) is ConnectionState.READING_HEADS
            client.look(76.0)  # bytes may have been acknowledged since
            assert client.look(76.0) is ConnectionState.CLOSING

    runner.run(read_slowly())
