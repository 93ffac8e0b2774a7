"""Flow control of one connection: what is paused, and whether the client takes what was sent to it.

A client takes bytes when its kernel acknowledges them. A client that reads makes room in its kernel's receive buffer,
and its kernel reports this room in steps of up to the size of that buffer, not for each byte. So a client that reads
less than one such step within a time limit looks like one that does not read. There is no limit on the whole time: a
client that acknowledges a little within each limit keeps its connection. The limits on open connections bound this.
"""

import asyncio
import socket
import sys
from typing import NamedTuple, cast

# Linux's `struct tcp_info` (include/uapi/linux/tcp.h), up to `tcpi_notsent_bytes`.
_TCP_INFO_BYTES = 148
_UNACKED_AT = 24  # `tcpi_unacked`: segments that were sent and not acknowledged
_BYTES_ACKED_AT = 120  # `tcpi_bytes_acked`
_NOTSENT_BYTES_AT = 144  # `tcpi_notsent_bytes`


class Unsent:
    """The bytes that a client has not taken, and since when it has taken none.

    The number of bytes that the transport holds is not enough. The kernel reports room only when a third of its send
    buffer is free, which can be more than a megabyte: until then that number is the same, though the client reads. And
    a program that writes as fast as the client reads keeps it the same for ever. So the bytes that the client has
    acknowledged count too, if the kernel reports them (Linux). They grow in steps, too.
    """

    __slots__ = ("_progress", "_since_s")

    def __init__(self) -> None:
        self._progress = (0, 0)  # bytes that the transport holds, bytes that were acknowledged
        self._since_s = 0.0

    def stalled_s(self, transport: asyncio.WriteTransport, now_s: float) -> float:
        """Return for how many seconds the client has taken nothing although bytes wait, as far as the calls show."""
        held = transport.get_write_buffer_size()
        progress = (held, _kernel_bytes(transport).acknowledged) if held else (0, 0)
        if progress != self._progress or not held:
            self._progress, self._since_s = progress, now_s
        return now_s - self._since_s


class FlowControl:
    """Pauses of one connection: of reading, which we ask for, and of writing, which the transport asks for."""

    __slots__ = ("_acknowledged", "_transport", "_unsent", "reading_paused", "writing_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._unsent: Unsent | None = None
        self._acknowledged = 0  # at the last call of `takes_answers`
        self.reading_paused = False
        self.writing_paused = False

    def pause_reading(self) -> None:
        """Let the client wait: the kernel keeps what it sends."""
        if not self.reading_paused:
            self.reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self.reading_paused:
            self.reading_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Answers wait in the transport: read no further requests until they are sent."""
        self.writing_paused = True
        self._unsent = None
        self.pause_reading()

    def resume_writing(self) -> None:
        """There is room for answers again. Reading is still paused."""
        self.writing_paused = False
        self._unsent = None

    def abort(self) -> None:
        """Close the connection now; bytes that the kernel does not have yet are lost."""
        self._transport.abort()

    def stalled_s(self, now_s: float) -> float:
        """Return for how many seconds the client has taken nothing although bytes wait: call it at each tick."""
        if self._unsent is None:
            self._unsent = Unsent()
        return self._unsent.stalled_s(self._transport, now_s)

    def takes_answers(self) -> bool:
        """Whether answers are still on their way, and the client has acknowledged bytes since the last call.

        At the first call: since the connection began. False if the kernel does not report it. Costs a system call.
        """
        waiting, acknowledged = _kernel_bytes(self._transport)
        before, self._acknowledged = self._acknowledged, acknowledged
        return acknowledged != before and (waiting or self._transport.get_write_buffer_size() > 0)


class _KernelBytes(NamedTuple):
    """Whether the kernel holds bytes that the other side has not acknowledged, and the bytes that it has, in total."""

    waiting: bool
    acknowledged: int


def _kernel_bytes(transport: asyncio.BaseTransport) -> _KernelBytes:
    """Return what the kernel reports; nothing on a system without TCP_INFO, or of a socket that is not TCP."""
    connection = cast(socket.socket, transport.get_extra_info("socket"))
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except (AttributeError, OSError):
        return _KernelBytes(False, 0)

    def number(start: int, size: int) -> int:
        return int.from_bytes(info[start : start + size], sys.byteorder)

    return _KernelBytes(number(_UNACKED_AT, 4) + number(_NOTSENT_BYTES_AT, 4) > 0, number(_BYTES_ACKED_AT, 8))
