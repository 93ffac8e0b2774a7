"""Flow control of one connection: what is paused, and whether the client takes what was sent to it."""

import asyncio
import socket
import sys
from typing import cast

_TCP_INFO_BYTES = 128
_BYTES_ACKED_AT = 120  # of `tcpi_bytes_acked`, eight bytes, in Linux's `struct tcp_info` (include/uapi/linux/tcp.h)


class Unsent:
    """The bytes that a client has not taken, and since when it has taken none.

    The number of bytes that the transport holds is not enough. The kernel reports room only when a third of its send
    buffer is free, which can be more than a megabyte: until then that number is the same, though the client reads. And
    a program that writes as fast as the client reads keeps it the same for ever. So the bytes that the client has
    acknowledged count too, if the kernel reports them (Linux).
    """

    __slots__ = ("_progress", "_since_s")

    def __init__(self) -> None:
        self._progress = (0, 0)  # bytes that the transport holds, bytes that were acknowledged
        self._since_s = 0.0

    def stalled_s(self, transport: asyncio.WriteTransport, now_s: float) -> float:
        """Return for how many seconds the client has taken nothing although bytes wait, as far as the calls show."""
        held = transport.get_write_buffer_size()
        progress = (held, _bytes_acknowledged(transport)) if held else (0, 0)
        if progress != self._progress or not held:
            self._progress, self._since_s = progress, now_s
        return now_s - self._since_s


class FlowControl:
    """Pauses of one connection: of reading, which we ask for, and of writing, which the transport asks for."""

    __slots__ = ("_transport", "_unsent", "reading_paused", "writing_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._unsent: Unsent | None = None
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


def _bytes_acknowledged(transport: asyncio.BaseTransport) -> int:
    """Return the bytes that the other side has acknowledged since the connection began; 0: the kernel does not say."""
    connection = cast(socket.socket, transport.get_extra_info("socket"))
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except (AttributeError, OSError):  # a system without TCP_INFO, or a socket that is not TCP
        return 0
    return int.from_bytes(info[_BYTES_ACKED_AT : _BYTES_ACKED_AT + 8], sys.byteorder)
