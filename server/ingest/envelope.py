"""Sentry's envelope: one header line of JSON, then items, each a header line of JSON and its payload.

Only the items of the wanted type are looked into; the others are stepped over, whatever they hold. Everything has a
bound, the decompressed size above all: a few kilobytes can hold gigabytes.

Source: getsentry/sentry-python 064542dd, sentry_sdk/envelope.py, and getsentry/relay 005c0935,
relay-server/src/endpoints/common.rs. `length` is optional; without it a payload ends at the next newline. The sizes
that Relay allows are unverified here; ours are below.
"""

import re
import zlib
from typing import Any, Final

import brotli
import orjson

from server.ingest.reading import Refusal

ENVELOPE_BYTES_MAX: Final = 4_000_000  # decompressed: 10 ms of work
HEADER_BYTES_MAX: Final = 100_000
ITEMS_MAX: Final = 1_000
_TOO_LARGE = Refusal(413, f"envelope is larger than {ENVELOPE_BYTES_MAX} bytes")
# Between two items. Four million of them, sent as 4 kB of gzip, would stop everybody for 0.3 s, were they stepped over.
_newlines = re.compile(rb"\n{1,100}").match
_WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class Envelope:
    """An envelope's header and the payloads of its items of one type."""

    __slots__ = ("header", "payloads")

    def __init__(self, header: dict[str, Any], payloads: list[bytes]) -> None:
        self.header, self.payloads = header, payloads


def unpack(body: bytes, encoding: str) -> bytes | Refusal:
    """The body decompressed as its Content-Encoding says, ENVELOPE_BYTES_MAX at most."""
    encoding = encoding.strip().lower()
    try:
        if encoding in ("", "identity"):
            plain = body
        elif encoding in _WBITS:
            stream = zlib.decompressobj(_WBITS[encoding])
            plain = stream.decompress(body, ENVELOPE_BYTES_MAX + 1)
            if len(plain) <= ENVELOPE_BYTES_MAX and not stream.eof:
                return Refusal(400, f"the body ends inside its {encoding} stream")
        elif encoding == "br":
            plain = _unpack_brotli(body)
        else:
            return Refusal(415, "use a Content-Encoding of gzip, deflate or br")
    except (zlib.error, brotli.error):
        return Refusal(400, f"the body is not {encoding}")
    return plain if len(plain) <= ENVELOPE_BYTES_MAX else _TOO_LARGE


def open_envelope(envelope: bytes, item_type: str) -> Envelope | Refusal:
    """The header and the payloads of items of `item_type`."""
    if not envelope.strip():
        return Refusal(400, "envelope is empty")
    line, at = _line(envelope, 0)
    header = _header(line)
    if header is None:
        return Refusal(400, "envelope header is not a JSON object")
    payloads: list[bytes] = []
    for _ in range(ITEMS_MAX):
        if (newlines := _newlines(envelope, at)) is not None:
            at = newlines.end()
        if at >= len(envelope):
            return Envelope(header, payloads)
        line, at = _line(envelope, at)
        item = _header(line)
        if item is None or not isinstance(item.get("type"), str):
            return Refusal(400, "item header is not a JSON object with a type")
        payload, at = _payload(envelope, at, item.get("length"))
        if at < 0:
            return Refusal(400, "item is not as long as its header says")
        if item["type"] == item_type:
            payloads.append(payload)
    return Refusal(413, f"envelope has more than {ITEMS_MAX} items")


def _unpack_brotli(body: bytes) -> bytes:
    stream = brotli.Decompressor()
    plain = bytearray(stream.process(body, output_buffer_limit=ENVELOPE_BYTES_MAX + 1))
    while len(plain) <= ENVELOPE_BYTES_MAX and not stream.is_finished():
        more = stream.process(b"", output_buffer_limit=ENVELOPE_BYTES_MAX + 1)
        if not more:
            raise brotli.error("truncated")
        plain += more
    return bytes(plain)


def _line(envelope: bytes, start: int) -> tuple[bytes, int]:
    end = envelope.find(b"\n", start)
    if end < 0:
        return envelope[start:], len(envelope)
    return envelope[start:end], end + 1


def _header(line: bytes) -> dict[str, Any] | None:
    if len(line) > HEADER_BYTES_MAX:
        return None
    try:
        header = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return header if isinstance(header, dict) else None


def _payload(envelope: bytes, start: int, length: object) -> tuple[bytes, int]:
    """A payload and where the next item begins; -1 where the length is wrong."""
    if length is None:
        return _line(envelope, start)
    if isinstance(length, bool) or not isinstance(length, int) or length < 0:
        return b"", -1
    end = start + length
    if end > len(envelope) or envelope[end : end + 1] not in (b"", b"\n"):
        return b"", -1
    return envelope[start:end], end + 1
