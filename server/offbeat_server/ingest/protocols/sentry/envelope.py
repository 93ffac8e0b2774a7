"""Sentry's envelope: one header line of JSON, then items, each a header line of JSON and its payload.

Only the items of the wanted type are kept; the others are skipped while they arrive, with any content: an SDK
adds the attachments of its scope to every check-in, and these may have any size.

Source: getsentry/sentry-python 064542dd, sentry_sdk/envelope.py, and getsentry/relay 005c0935,
relay-server/src/endpoints/common.rs. `length` is optional; without it a payload ends at the next newline. The sizes
that Relay allows are unverified here; ours are below.
"""

from typing import Any, Final

import orjson

from offbeat_server.ingest.http.bodies import Body
from offbeat_server.ingest.http.content_codings import PIECE_BYTES, BadCoding
from offbeat_server.ingest.protocols.base import Rejection

HEADER_BYTES_MAX: Final = 100_000
ITEMS_MAX: Final = 1_000
PAYLOAD_BYTES_MAX: Final = 100_000  # of an item that is kept
PAYLOADS_BYTES_MAX: Final = 400_000  # of one envelope: an SDK's have 1 kB each, and 4 MB of small objects take 0.1 s
GAP_BYTES_MAX: Final = 1_000  # of newlines between two items


class Envelope:
    """Takes an envelope apart while it arrives. `header` is empty until it is whole; `fault` is what ended it early."""

    def __init__(self, item_type: str) -> None:
        self._item_type = item_type
        self._rest = b""
        self._left = 0  # bytes of the payload under way; -1: it ends at the next newline
        self._in_payload = False
        self._keeps = False
        self._payload: list[bytes] = []
        self._items = 0
        self._line = b""  # the header as sent
        self._gap = 0
        self.header: dict[str, Any] | None = None
        self.payloads: list[bytes] = []
        self.fault: Rejection | None = None
        self.skipped: Rejection | None = None  # a wanted item was not kept; the rest was read
        self.kept_bytes = 0

    def feed(self, piece: bytes) -> None:
        """Some more of it. Raises BadCoding where the rest cannot be read."""
        data = self._rest + piece
        self._rest = b""
        while data and self.fault is None:
            if self._in_payload:
                data = self._take_payload(data)
                continue
            if self.header is not None and data.startswith(b"\n"):
                rest = data.lstrip(b"\n")
                self._gap += len(data) - len(rest)
                data = rest
                if self._gap > GAP_BYTES_MAX:
                    self.fault = Rejection(400, "item header is not a JSON object with a type")
                continue
            line, newline, rest = data.partition(b"\n")
            if not newline:
                if len(line) > HEADER_BYTES_MAX:
                    self._take_line(line)
                self._rest = line
                break
            self._take_line(line)
            data = rest
        if self.fault is not None:
            raise BadCoding(self.fault)

    def end(self) -> None:
        """Nothing more comes."""
        if self.fault is not None:
            return
        if self._in_payload and self._left <= 0:
            self._end_payload()
        elif self._in_payload:
            self.fault = Rejection(400, "item is not as long as its header says")
        elif self._rest.strip() or (self.header is None and self._rest):
            self._take_line(self._rest)
            if self._in_payload and self._left > 0 and self.fault is None:
                self.fault = Rejection(400, "item is not as long as its header says")
        if self.header is None and self.fault is None:
            self.fault = Rejection(400, "envelope is empty")

    def result(self) -> Body:
        """An envelope of the header and the kept items, as if nothing else had been sent."""
        self.end()
        items = (b'{"type":%b,"length":%d}\n%b\n' % (orjson.dumps(self._item_type), len(p), p) for p in self.payloads)
        kept = b"".join((self._line, b"\n", *items)) if self.header is not None else b""
        return Body(kept, fault=self.fault or self.skipped)

    def _take_line(self, line: bytes) -> None:
        read = _object(line)
        if self.header is None:
            if not line.strip():
                self.fault = Rejection(400, "envelope is empty")
            elif read is None:
                self.fault = Rejection(400, "envelope header is not a JSON object")
            self.header, self._line = read, line
            self.kept_bytes += len(line)
            return
        self._gap = 0
        self._items += 1
        length = None if read is None else read.get("length")
        if self._items > ITEMS_MAX:
            self.fault = Rejection(413, f"envelope has more than {ITEMS_MAX} items")
        elif read is None or not isinstance(read.get("type"), str):
            self.fault = Rejection(400, "item header is not a JSON object with a type")
        elif length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 0):
            self.fault = Rejection(400, "item is not as long as its header says")
        else:
            self._in_payload = True
            self._left = -1 if length is None else length
            self._keeps = _plain(read["type"]) == _plain(self._item_type)

    def _take_payload(self, data: bytes) -> bytes:
        if self._left == 0:
            self._end_payload()
            if not data.startswith(b"\n"):
                self.fault = Rejection(400, "item is not as long as its header says")
            return data[1:]
        if self._left > 0:
            piece, rest = data[: self._left], data[self._left :]
            self._left -= len(piece)
        else:
            piece, newline, rest = data.partition(b"\n")
            if newline:
                self._left = 0
                rest = newline + rest
        if self._keeps:
            self._payload.append(piece)
            self.kept_bytes += len(piece)
            if sum(map(len, self._payload)) > PAYLOAD_BYTES_MAX:
                self._keeps = False
                self.skipped = Rejection(413, f"check-in is larger than {PAYLOAD_BYTES_MAX} bytes")
        return rest

    def _end_payload(self) -> None:
        payload = b"".join(self._payload)
        if self._keeps:
            self.payloads.append(payload)
        elif payload:
            self.kept_bytes -= len(payload)
        if sum(map(len, self.payloads)) > PAYLOADS_BYTES_MAX:
            self.payloads.pop()
            self.fault = Rejection(413, f"check-ins of an envelope are larger than {PAYLOADS_BYTES_MAX} bytes in all")
        self._payload = []
        self._in_payload = False


def _plain(item_type: str) -> str:
    """A type however it is written: `check-in` is `check_in`."""
    return item_type[:40].lower().replace("_", "").replace("-", "")


def open_envelope(envelope: bytes, item_type: str) -> Envelope:
    """The header and the payloads of items of `item_type`, and the fault, if one ended it early."""
    opened = Envelope(item_type)
    try:
        for at in range(0, len(envelope), PIECE_BYTES):  # what is stepped over is copied as often as it holds items
            opened.feed(envelope[at : at + PIECE_BYTES])
    except BadCoding:
        return opened
    opened.end()
    return opened


def _object(line: bytes) -> dict[str, Any] | None:
    if len(line) > HEADER_BYTES_MAX:
        return None
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
