"""A cable to Postgres that a test can hold or cut: a TCP proxy in front of the cluster's socket."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit


class Link:
    """`async with Link(database_url) as link`: connect to `link.url` instead."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        query = parse_qs(parts.query)
        self._socket = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        self._role, self._database = parts.netloc.partition("@")[0], parts.path
        self._replies, self._requests, self._open = asyncio.Event(), asyncio.Event(), asyncio.Event()
        for gate in (self._replies, self._requests, self._open):
            gate.set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """For a client of the link."""
        port = self._server.sockets[0].getsockname()[1]
        return f"postgresql://{self._role}@127.0.0.1:{port}{self._database}?sslmode=disable"

    def hold_replies(self) -> None:
        """What Postgres says no longer arrives."""
        self._replies.clear()

    def hold_requests(self) -> None:
        """What is said to Postgres no longer arrives."""
        self._requests.clear()

    def cut(self, *, stay: bool = False) -> None:
        """Every connection breaks; new ones work again, or are refused with `stay` until `mend`."""
        if stay:
            self._open.clear()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self._replies.set()
        self._requests.set()

    def mend(self) -> None:
        """New connections work, and what was held flows."""
        for gate in (self._replies, self._requests, self._open):
            gate.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut(stay=True)
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open.is_set():
            writer.transport.abort()
            return
        database_reader, database_writer = await asyncio.open_unix_connection(self._socket)
        mine = {writer, database_writer}
        self._writers |= mine
        with contextlib.suppress(OSError):
            await asyncio.gather(
                self._pump(reader, database_writer, self._requests),
                self._pump(database_reader, writer, self._replies),
            )
        for each in mine:
            each.transport.abort()
        self._writers -= mine

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        while data := await reader.read(65536):
            await gate.wait()
            if writer.transport.is_closing():
                return
            writer.write(data)
        writer.transport.abort()
