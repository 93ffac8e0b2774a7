"""Slow clients in a process of their own: heads and bodies that drip, answers that the client does not read.

`python -m bench.slow HOST PORT COUNT` opens COUNT connections, a third of each kind, prints `ready`, and continues
until its standard input ends: a byte every three seconds each, and a new connection for each that the server closes.
Then it prints as JSON how often it had to connect. Its requests are no pings, so that they cost the server only their
slowness.
"""

import asyncio
import json
import random
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import uvloop

DRIP_S = 3.0
TOGETHER = 50  # connections that are opened at once
HEAD = b"GET /api/v1/heartbeat/nobody HTTP/1.1\r\nHost: here\r\nX-Slow: "
BODY = b"POST /api/v1/heartbeat/nobody/log HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\n\r\n"
LARGE = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: here\r\n\r\n" * 3


@dataclass
class Crowd:
    """The results of the slow clients."""

    connected: int = 0
    refused: int = 0


async def _client(host: str, port: int, kind: int, crowd: Crowd, ready: asyncio.Semaphore) -> None:
    """One slow client for ever."""
    loop = asyncio.get_running_loop()
    chance = random.Random(kind)
    while True:
        with socket.socket() as stream, suppress(OSError):
            if kind % 3 == 2:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stream.setblocking(False)
            async with ready:
                try:
                    await loop.sock_connect(stream, (host, port))
                except OSError:
                    crowd.refused += 1
                    raise
                crowd.connected += 1
                await loop.sock_sendall(stream, (HEAD, BODY, LARGE)[kind % 3])
            while True:
                await asyncio.sleep(DRIP_S * chance.uniform(0.5, 1.5))
                if kind % 3 == 2:
                    if not await loop.sock_recv(stream, 1):
                        break
                else:
                    await loop.sock_sendall(stream, b"x")
        await asyncio.sleep(DRIP_S)


async def _crowd(host: str, port: int, count: int) -> None:
    crowd, ready = Crowd(), asyncio.Semaphore(TOGETHER)
    clients = [asyncio.ensure_future(_client(host, port, kind, crowd, ready)) for kind in range(count)]
    while crowd.connected + crowd.refused < count:
        await asyncio.sleep(0.02)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for client in clients:
        client.cancel()
    print(json.dumps(vars(crowd)), flush=True)


@asynccontextmanager
async def slow_clients(host: str, port: int, count: int) -> AsyncIterator[Crowd]:
    """Run this number beside the block; their results are known after it."""
    crowd = Crowd()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.slow", host, str(port), str(count)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        if await process.stdout.readline() != b"ready\n":
            raise RuntimeError("the slow clients could not connect")
        yield crowd
        output, _ = await process.communicate(b"")  # the end of its input
        crowd.connected, crowd.refused = json.loads(output).values()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


if __name__ == "__main__":
    uvloop.run(_crowd(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
