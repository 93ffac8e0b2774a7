"""A cable that a test can hold, slow down or cut: a TCP proxy in front of Postgres, a pooler or a receiver."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit


class Link:
    """`async with Link(url) as link`: connect to `link.url` instead. The other end is a socket or an address."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        self._scheme, self._path = parts.scheme, parts.path
        self._role = f"{parts.username}@" if parts.username else ""
        self._there: str | tuple[str, int]
        if "host" in query:
            self._there = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        else:
            assert parts.hostname is not None and parts.port is not None, url
            self._there = parts.hostname, parts.port
        self._replies, self._requests, self._open = asyncio.Event(), asyncio.Event(), asyncio.Event()
        for gate in (self._replies, self._requests, self._open):
            gate.set()
        self._withheld = asyncio.Event()
        self._hold_after = b""
        self._writers: set[asyncio.StreamWriter] = set()
        self.delay_s = 0.0  # of every reply

    @property
    def url(self) -> str:
        """For a client of the link."""
        port = self._server.sockets[0].getsockname()[1]
        query = "?sslmode=disable" if self._scheme == "postgresql" else ""
        return f"{self._scheme}://{self._role}127.0.0.1:{port}{self._path}{query}"

    def hold_replies(self, after: bytes = b"") -> None:
        """Drop the bytes of the other end; with `after`, from the moment in which a client has sent that."""
        self._hold_after = after
        if not after:
            self._replies.clear()

    def hold_requests(self) -> None:
        """Drop the bytes to the other end."""
        self._requests.clear()

    async def withheld(self) -> None:
        """Until a reply is held back: what it answers has happened."""
        self._withheld.clear()
        await self._withheld.wait()

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
        self._hold_after = b""
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
        try:
            if isinstance(self._there, str):
                far_reader, far_writer = await asyncio.open_unix_connection(self._there)
            else:
                far_reader, far_writer = await asyncio.open_connection(*self._there)
        except OSError:  # no server is there at this moment: as without the cable
            writer.transport.abort()
            return
        mine = {writer, far_writer}
        self._writers |= mine
        with contextlib.suppress(OSError):
            await asyncio.gather(
                self._pump(reader, far_writer, self._requests),
                self._pump(far_reader, writer, self._replies),
            )
        for each in mine:
            each.transport.abort()
        self._writers -= mine

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        replies = gate is self._replies
        while data := await reader.read(65536):
            if not replies and self._hold_after and self._hold_after in data:
                self.hold_replies()
            if replies and not gate.is_set():
                self._withheld.set()
            await gate.wait()
            if replies and self.delay_s:
                await asyncio.sleep(self.delay_s)
            if writer.transport.is_closing():
                return
            writer.write(data)
        writer.transport.abort()
