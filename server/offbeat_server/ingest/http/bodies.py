"""Reads the body of a ping in constant memory, however long it is: kept whole up to a limit, beyond that its two ends.

The signal is in the address of most pings with a long body, and a job that fails has the longest log. So a body that
cannot be read to its end (too long, too slow, not what its Content-Encoding says) is a fault. The protocol decides
whether the ping is accepted.
"""

import asyncio
from typing import NamedTuple, Protocol

from aiohttp import web

from offbeat_server.common.clock import monotonic
from offbeat_server.ingest.http.content_codings import BadCoding, Unpacker
from offbeat_server.ingest.log_writer.backlog import unavailable
from offbeat_server.ingest.protocols.base import Outcome, Rejection
from offbeat_server.ingest.protocols.parsing.message import KEPT_HEAD_BYTES, KEPT_TAIL_BYTES

READ_BYTES_MAX = 128_000_000  # of one body, as sent and as unpacked; beyond: 413
READ_S_MAX = 300.0
BYTES_PER_S_MIN = 100_000  # a body that arrives this fast may take longer than `body_timeout`
TURN_BYTES = 262_144  # then other requests get their turn: unpacking this amount takes up to a millisecond
_UNIT_BYTES = 4  # of UTF-32: the kept end begins at a whole character


class BodyBudget:
    """Bytes of all request bodies that are not whole yet: a thousand slow uploads must not fill the memory."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.bytes = 0

    def grow(self, size: int) -> bool:
        """Whether there is room for this number of further bytes."""
        if self.bytes + size > self._bytes_max:
            return False
        self.bytes += size
        return True

    def shrink(self, size: int) -> None:
        """Release this number of bytes."""
        self.bytes -= size


class Body(NamedTuple):
    """The part of a body that was read, as in `Request`. `ended`: complete, so another request can follow."""

    body: bytes = b""
    whole_bytes: int = 0
    fault: Rejection | None = None
    ended: bool = True


class Sink(Protocol):
    """Keeps the parts of a body that its protocol needs. `kept_bytes` is their size in memory."""

    kept_bytes: int

    def feed(self, piece: bytes) -> None:
        """Some more of it. Raises BadCoding where nothing of the rest can be used."""

    def result(self) -> Body:
        """All that is kept."""


class HeadAndTail:
    """Keeps a body whole up to `whole_bytes_max`, and of a longer one both ends."""

    def __init__(self, whole_bytes_max: int) -> None:
        self._whole_bytes_max = whole_bytes_max
        self._bytes = 0
        self._head = b""
        self._pieces: list[bytes] = []  # all of it, or what may be its tail
        self.kept_bytes = 0

    def feed(self, piece: bytes) -> None:
        """Some more of it."""
        self._bytes += len(piece)
        self._pieces.append(piece)
        self.kept_bytes += len(piece)
        if self._bytes <= self._whole_bytes_max:
            return
        if not self._head or self.kept_bytes > KEPT_HEAD_BYTES + 4 * KEPT_TAIL_BYTES:
            kept = b"".join(self._pieces)
            if not self._head:
                self._head = kept[:KEPT_HEAD_BYTES]
                kept = kept[KEPT_HEAD_BYTES:]
            self._pieces = [kept[-KEPT_TAIL_BYTES:]]
            self.kept_bytes = len(self._head) + len(self._pieces[0])

    def result(self) -> Body:
        """The body, or its ends."""
        kept = b"".join(self._pieces)
        if not self._head:
            return Body(kept)
        tail = kept[-KEPT_TAIL_BYTES:]
        return Body(self._head + tail[-(self._bytes - len(tail)) % _UNIT_BYTES :], self._bytes)


async def read_body(
    request: web.Request, sink: Sink, bodies: BodyBudget, timeout_s: float, bytes_max: int = READ_BYTES_MAX
) -> Body | Outcome:
    """The body of a request, read through `sink`; an Outcome where there is no room for it.

    Raises web.RequestPayloadError where it is not framed as its headers say.
    """
    if not request.body_exists:
        return Body()
    if (request.content_length or 0) > bytes_max:
        return Body(fault=_too_large(bytes_max), ended=False)
    held = 0
    try:
        unpacker = Unpacker(request.headers.get("Content-Encoding", ""))
        began_s, sent = monotonic(), 0
        unpacked = 0
        while True:
            allowed_s = min(timeout_s + sent / BYTES_PER_S_MIN, max(timeout_s, READ_S_MAX))
            async with asyncio.timeout(began_s + allowed_s - monotonic()):
                data = await request.content.readany()
            if not data:
                break
            sent += len(data)
            for piece in unpacker.pieces(data):
                unpacked += len(piece)
                if max(sent, unpacked) > bytes_max:
                    raise BadCoding(_too_large(bytes_max))
                sink.feed(piece)
                if sink.kept_bytes > held and not bodies.grow(sink.kept_bytes - held):
                    return unavailable()
                if sink.kept_bytes < held:
                    bodies.shrink(held - sink.kept_bytes)
                held = sink.kept_bytes
                if unpacked % TURN_BYTES < len(piece):
                    await asyncio.sleep(0)
        for piece in unpacker.end():
            sink.feed(piece)
        return sink.result()
    except TimeoutError:
        return sink.result()._replace(fault=Rejection(408, "the body did not arrive in time"), ended=False)
    except BadCoding as error:
        return sink.result()._replace(fault=error.refusal, ended=False)
    finally:
        bodies.shrink(held)


def _too_large(bytes_max: int) -> Rejection:
    return Rejection(413, f"a body may have {bytes_max} bytes at most")
