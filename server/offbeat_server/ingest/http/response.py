"""Responses as bytes of HTTP/1.1 (RFC 9112), for the fast HTTP server."""

from email.utils import formatdate
from http import HTTPStatus

from offbeat_server.common.clock import LogClock
from offbeat_server.common.instants import SECOND
from offbeat_server.ingest.protocols.base import HttpAnswer

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"  # only HTTP/1.0 needs it


def write_answer(answer: HttpAnswer, date: bytes, connection: bytes, *, head: bool) -> bytes:
    """The whole response; `date` and `connection` are header lines or nothing, `head` leaves out the body."""
    parts = [
        _STATUS_LINES.get(answer.status) or f"HTTP/1.1 {answer.status} \r\n".encode(),
        f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\n".encode("latin-1"),
        *(f"{name}: {value}\r\n".encode("latin-1") for name, value in answer.headers),
        date,
        connection,
        b"\r\n",
    ]
    if not head:
        parts.append(answer.body)
    return b"".join(parts)


class Rewriter:
    """Caches written responses: the same answer object with the same header lines is written once."""

    def __init__(self) -> None:
        self._written: dict[tuple[int, bytes, bytes, bool], tuple[HttpAnswer, bytes]] = {}

    def __call__(self, answer: HttpAnswer, date: bytes, connection: bytes, *, head: bool) -> bytes:
        """As `write_answer`."""
        key = (id(answer), date, connection, head)
        known = self._written.get(key)
        if known is None or known[0] is not answer:
            # A reference to the answer, so that no other object gets its id.
            known = self._written[key] = answer, write_answer(answer, date, connection, head=head)
        return known[1]

    def forget(self) -> None:
        """Empty the cache, because the date has changed."""
        self._written.clear()


def date_line(clock: LogClock) -> bytes:
    """The `Date` header by log time; none while the time is unknown, as RFC 9110 asks of a server without a clock."""
    return f"Date: {formatdate(clock.now() / SECOND, usegmt=True)}\r\n".encode() if clock.ready else b""
