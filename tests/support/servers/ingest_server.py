"""Both HTTP servers with a key index and a writer in this process, and a client that sends raw bytes."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
from aiohttp import web

from offbeat_server.committed_batches import CommittedBatches
from offbeat_server.common.clock import LogClock
from offbeat_server.config import Settings
from offbeat_server.db.pool import open_pool
from offbeat_server.db.repositories.changes import changing
from offbeat_server.db.repositories.definitions import WantedKey, WantedMonitor, put_monitors
from offbeat_server.db.repositories.key_index_rows import KeyIndexRows
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.ingest.http.http_servers import HttpServers
from offbeat_server.ingest.key_index import KeyIndex
from offbeat_server.ingest.log_writer.writer import LogWriter
from offbeat_server.ingest.pipeline import MonitorProvider
from offbeat_server.observability.metrics import Metrics
from tests.support.harness import HANG_S

KEY = "0f0f0f0f-b7c4-4e1f-9d55-0123456789ab"
PATH = f"/api/v1/heartbeat/{KEY}"
HTTP_SERVERS = ("fast", "aiohttp")


class Served:
    """A process's worth of ingest, in this one."""

    def __init__(
        self,
        database: asyncpg.Connection,
        pool: asyncpg.Pool,
        http_servers: HttpServers,
        writer: LogWriter,
        key_index: KeyIndex,
    ):
        self.database, self.pool, self.http_servers, self.writer, self.key_index = (
            database,
            pool,
            http_servers,
            writer,
            key_index,
        )
        self.metrics = http_servers._metrics

    @property
    def port(self) -> int:
        return self.http_servers.port

    async def rows(self, columns: str = "signal") -> list[Any]:
        rows = await self.database.fetch(f"select {columns} from pings order by at")
        return [row[0] if len(row) == 1 else tuple(row) for row in rows]

    async def put(self, slug: str, key: str | None = None, *keys: WantedKey, **definition: object) -> int:
        wanted = WantedMonitor(1, slug, read_definition(definition), key=key, keys=keys or None)
        async with changing(self.pool) as connection:
            await put_monitors(connection, [wanted], "test")
        await self.key_index.refresh()
        return int(await self.pool.fetchval("select id from monitors where slug = $1", slug))


@asynccontextmanager
async def serving(
    database_url: str,
    *,
    log_url: str | None = None,
    provisioning: Callable[[asyncpg.Pool, KeyIndex], MonitorProvider] | None = None,
    listen_on: socket.socket | None = None,
    **settings: object,
) -> AsyncIterator[Served]:
    chosen = Settings(**{"host": "127.0.0.1", "port": 0, "stop_timeout": 5, **settings})  # type: ignore[arg-type]
    clock, metrics = LogClock(), Metrics("test")
    pool = await open_pool(database_url)
    database = await asyncpg.connect(database_url)
    key_index = KeyIndex(KeyIndexRows(pool))
    await key_index.start()
    writer = LogWriter(
        log_url or database_url,
        chosen,
        clock,
        metrics,
        node="node",
        metrics_address=None,
        committed=CommittedBatches(),
    )
    await writer.start()
    application = web.Application()
    application.router.add_route("*", "/hello", hello)
    application.router.add_get("/large", large)
    maker = provisioning(pool, key_index) if provisioning is not None else None
    http_servers = HttpServers(chosen, key_index, writer.backlog, metrics, application, maker, listen_on=listen_on)
    served = Served(database, pool, http_servers, writer, key_index)
    await served.put("job", KEY)
    await http_servers.start()
    try:
        yield served
    finally:
        await http_servers.stop()
        await writer.stop()
        await key_index.stop()
        await database.close()
        pool.terminate()


LARGE_BYTES = 8_000_000  # more than the kernel takes from us at once


async def large(request: web.Request) -> web.Response:
    return web.Response(body=bytes(LARGE_BYTES))


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"hello {len(await request.read())}")


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    version: str


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)

    async def reply(self, *, head: bool = False, timeout_s: float = HANG_S) -> Reply:
        async with asyncio.timeout(timeout_s):
            while True:
                first = (await self.reader.readuntil(b"\r\n")).decode().split(" ", 2)
                headers = {}
                while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                    name, _, value = line.decode().rstrip("\r\n").partition(": ")
                    headers[name.lower()] = value
                if first[1] != "100":
                    break
            body = b"" if head else await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Reply(int(first[1]), headers, body, first[0])

    async def is_closed(self, timeout_s: float = HANG_S) -> bool:
        """Whether the other side closes, and says nothing more."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.reader.read(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    def abort(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def connected(served: Served) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", served.port))
    try:
        yield client
    finally:
        client.abort()


def get(path: str = PATH, *lines: str, version: str = "1.1", method: str = "GET") -> str:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: here", *lines, "", ""])


async def ask(served: Served, request: str | bytes, *, head: bool = False) -> Reply:
    async with connected(served) as client:
        client.send(request)
        return await client.reply(head=head)
