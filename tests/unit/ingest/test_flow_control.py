"""How long a client has taken nothing, measured on real sockets; the clock is the test's."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from offbeat_server.ingest.http.flow_control import FlowControl

LOOK_S = 10.0  # between two looks
SENT_BYTES_KEPT = 500_000  # by the sender's kernel, which doubles it
RECEIVED_BYTES_KEPT = 16_384  # by the receiver's kernel
DATA = bytes(2_000_000)


class Sender(asyncio.Protocol):
    """Keeps its flow control as the callbacks of the transport say."""

    def __init__(self) -> None:
        self.ready: asyncio.Future[FlowControl] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.flow = FlowControl(transport)
        self.transport = transport
        self.ready.set_result(self.flow)

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Sender, socket.socket]]:
    loop = asyncio.get_running_loop()
    sender = Sender()
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_BYTES_KEPT)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED_BYTES_KEPT)
        client.setblocking(False)
        async with await loop.create_server(lambda: sender, sock=listening):
            await loop.sock_connect(client, listening.getsockname())
            await sender.ready
            yield sender, client
            sender.transport.abort()


async def test_a_slow_reader_is_not_stalled_and_one_that_stops_is() -> None:
    loop, now_s = asyncio.get_running_loop(), 1_000.0
    async with connected() as (sender, client):
        flow = sender.flow
        sender.transport.write(DATA)
        assert flow.writing_paused and flow.reading_paused
        stalled_s, held, same_s, longest_same_s = 0.0, 0, 0.0, 0.0
        for _ in range(60):
            await loop.sock_recv(client, RECEIVED_BYTES_KEPT // 2)
            for _ in range(3):
                await asyncio.sleep(0)  # the sender writes, if its kernel has room
            now_s += LOOK_S
            stalled_s = max(stalled_s, flow.stalled_s(now_s))
            same_s = same_s + LOOK_S if sender.transport.get_write_buffer_size() == held else 0.0
            longest_same_s, held = max(longest_same_s, same_s), sender.transport.get_write_buffer_size()
        assert stalled_s <= 4 * LOOK_S < longest_same_s, "what the transport holds says less"
        before_s = flow.stalled_s(now_s)
        assert flow.stalled_s(now_s + 500.0) == before_s + 500.0


async def test_what_was_measured_before_a_resume_does_not_count() -> None:
    loop, now_s, taken = asyncio.get_running_loop(), 1_000.0, 0
    async with connected() as (sender, client):
        sender.transport.write(DATA)
        assert sender.flow.stalled_s(now_s) == 0.0
        while taken < len(DATA):
            taken += len(await loop.sock_recv(client, len(DATA)))
        assert not sender.flow.writing_paused and sender.flow.reading_paused
        sender.transport.write(DATA)
        assert sender.flow.writing_paused and sender.flow.stalled_s(now_s + 500.0) == 0.0
        sender.flow.resume_reading()
        assert not sender.flow.reading_paused and sender.transport.is_reading()
