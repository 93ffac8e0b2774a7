"""Connections at aiohttp whose client is slow: it gets the whole answer, and only one that takes nothing is cut off."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from offbeat_server.ingest.http.client_address import Peer
from offbeat_server.ingest.http.handed_over import HandedOverConnections

STALLED_S_MAX = 75.0
LOOK_S = 10.0  # between two looks, on the clock of the test
SENT_BYTES_KEPT = 500_000  # by the server's kernel, which doubles it: it reports room when a third of that is free
RECEIVED_BYTES_KEPT = 16_384  # by the client's kernel
ANSWER = bytes(2_000_000)
PEER = Peer(b"\x7f\0\0\1", False)


@asynccontextmanager
async def answering(connections: HandedOverConnections) -> AsyncIterator[socket.socket]:
    """The socket of a client that has asked for a large answer, of which it has read nothing."""

    async def handle(_: web.BaseRequest) -> web.Response:
        return web.Response(body=ANSWER)

    server = web.Server(handle)

    def new_handler() -> web.RequestHandler:
        handler = server()
        connections.add(handler, PEER)
        return handler

    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_BYTES_KEPT)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED_BYTES_KEPT)
        client.setblocking(False)
        async with await loop.create_server(new_handler, sock=listening):
            await loop.sock_connect(client, listening.getsockname())
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            yield client
        await server.shutdown(0)


async def test_a_client_that_reads_slowly_gets_the_whole_answer() -> None:
    """It reads at each look, but the server's kernel reports no room for more during many looks."""
    connections = HandedOverConnections(STALLED_S_MAX)
    loop, now_s, taken = asyncio.get_running_loop(), 1_000.0, 0
    async with answering(connections) as client:
        while taken < len(ANSWER) // 2:
            taken += len(await loop.sock_recv(client, RECEIVED_BYTES_KEPT // 2))
            for _ in range(3):
                await asyncio.sleep(0)  # the server writes, if its kernel has room
            now_s += LOOK_S
            assert list(connections.sweep(now_s)) == [], taken
        while piece := await loop.sock_recv(client, 1_000_000):
            taken += len(piece)
        assert taken > len(ANSWER)


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    connections = HandedOverConnections(STALLED_S_MAX)
    loop, now_s, taken = asyncio.get_running_loop(), 1_000.0, 0
    async with answering(connections) as client:
        taken += len(await loop.sock_recv(client, 1))
        for _ in range(int(STALLED_S_MAX / LOOK_S) + 2):
            now_s += LOOK_S
            assert list(connections.sweep(now_s)) == []
        while piece := await loop.sock_recv(client, 1_000_000):
            taken += len(piece)
        assert taken < len(ANSWER)
        assert list(connections.sweep(now_s)) == [PEER]
