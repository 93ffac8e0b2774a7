"""Content-Encoding (RFC 9110, 8.4): bodies that clients compress, unpacked piece by piece.

A few kilobytes can hold gigabytes. So no step gives more than it is asked for, and a body that grows beyond all measure
is cut off: FREE_BYTES it may become in any case, and beyond that RATIO_MAX times what was sent.
"""

import sys
import zlib
from collections.abc import Iterator
from typing import Protocol

import brotli

from offbeat_server.ingest.protocols.base import Rejection

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

ACCEPTED = "gzip, deflate, br, zstd"
CODINGS_MAX = 3  # one within the other
PIECE_BYTES = 65_536
FREE_BYTES = 4_000_000
RATIO_MAX = 100  # logs of real jobs come to some 20
# A gzip body may have several members, and zstd several frames. Each costs a decompressor, also if it holds nothing.
MEMBERS_FREE = 100
MEMBER_BYTES_MIN = 1_000  # beyond that many, they must be this long on average
ZSTD_WINDOW_LOG_MAX = 23  # 8 MB, which RFC 9659 allows on the web
_ZLIB_HEAD_BYTES = 2
_GZIP, _ZLIB, _RAW = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS


class BadCoding(Exception):
    """The body is not what its Content-Encoding says, or too much."""

    def __init__(self, refusal: Rejection) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class Decoder(Protocol):
    """One coding. `pieces` unpacks, into pieces of at most PIECE_BYTES; `end` raises if the stream is not complete."""

    def pieces(self, data: bytes) -> Iterator[bytes]: ...

    def end(self) -> None: ...


class Unpacker:
    """Takes off all codings that a Content-Encoding lists. Raises BadCoding with a 415 for one that we do not know."""

    def __init__(self, encoding: str) -> None:
        names = [name.strip().lower() for name in encoding.split(",") if name.strip()]
        self._decoders: list[Decoder] = [_decoder(name) for name in reversed(names) if name != "identity"]
        if len(self._decoders) > CODINGS_MAX:
            raise BadCoding(Rejection(415, f"a body may have {CODINGS_MAX} codings at most"))
        self._sent = self._unpacked = 0

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Return the decoded `data`. Raises BadCoding."""
        self._sent += len(data)
        yield from self._through(0, data)

    def end(self) -> Iterator[bytes]:
        """Nothing more comes; what the last step still holds. Raises BadCoding where the body breaks off."""
        for decoder in self._decoders:
            decoder.end()
        return iter(())

    def _through(self, step: int, data: bytes) -> Iterator[bytes]:
        if step == len(self._decoders):
            yield data
            return
        for piece in self._decoders[step].pieces(data):
            self._unpacked += len(piece)
            if self._unpacked > max(FREE_BYTES, RATIO_MAX * self._sent):
                raise BadCoding(Rejection(413, f"the body unpacks to more than {RATIO_MAX} times its size"))
            yield from self._through(step + 1, piece)


class _MemberCounter:
    """Counts the members of one body."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bytes = self._members = 0

    def take(self, data: bytes) -> None:
        """Count this number of further bytes."""
        self._bytes += len(data)

    def begin(self) -> None:
        """Count the beginning of another member. Raises BadCoding if there are too many for the bytes so far."""
        self._members += 1
        if self._members > MEMBERS_FREE + self._bytes // MEMBER_BYTES_MIN:
            raise BadCoding(Rejection(413, f"the body has too many small {self._name} members: send it in one"))


class _Zlib:
    """gzip, of which several may follow each other, and deflate, which half of all clients send without its head."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bits = _GZIP if name == "gzip" else 0  # 0: not known yet
        self._stream = zlib.decompressobj(_GZIP)
        self._head = b""
        self._members = _MemberCounter(name)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        self._members.take(data)
        if not self._bits:
            data = self._head = self._head + data
            if len(data) < _ZLIB_HEAD_BYTES:
                return
            self._bits = _ZLIB if data[0] & 15 == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0 else _RAW
            self._stream = zlib.decompressobj(self._bits)
        piece = b""
        # A full piece may leave more behind even where no input is left.
        while data or len(piece) == PIECE_BYTES:
            if self._stream.eof:
                if not (data := data.lstrip(b"\0")):  # padding, as gzip(1) allows
                    return
                self._members.begin()
                self._stream = zlib.decompressobj(self._bits)
            try:
                piece = self._stream.decompress(data, PIECE_BYTES)
            except zlib.error:
                raise _not(self._name) from None
            data = self._stream.unconsumed_tail or self._stream.unused_data
            if piece:
                yield piece

    def end(self) -> None:
        if not self._stream.eof:
            raise _breaks_off(self._name)


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    def pieces(self, data: bytes) -> Iterator[bytes]:
        try:
            piece = self._stream.process(data, output_buffer_limit=PIECE_BYTES)
            while piece:
                yield from (piece[at : at + PIECE_BYTES] for at in range(0, len(piece), PIECE_BYTES))
                piece = self._stream.process(b"", output_buffer_limit=PIECE_BYTES)
        except brotli.error:
            raise _not("br") from None

    def end(self) -> None:
        if not self._stream.is_finished():
            raise _breaks_off("br")


class _Zstd:
    """Several frames may follow each other."""

    def __init__(self) -> None:
        self._stream = self._new()
        self._members = _MemberCounter("zstd")

    def pieces(self, data: bytes) -> Iterator[bytes]:
        self._members.take(data)
        try:
            while data or not (self._stream.needs_input or self._stream.eof):
                if self._stream.eof:
                    self._members.begin()
                    self._stream = self._new()
                piece = self._stream.decompress(data, max_length=PIECE_BYTES)
                data = self._stream.unused_data if self._stream.eof else b""
                if piece:
                    yield piece
        except ZstdError:
            raise _not("zstd") from None

    def end(self) -> None:
        if not self._stream.eof:
            raise _breaks_off("zstd")

    @staticmethod
    def _new() -> ZstdDecompressor:
        return ZstdDecompressor(options={DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX})


def _decoder(name: str) -> Decoder:
    if name in ("gzip", "x-gzip"):
        return _Zlib("gzip")
    if name == "deflate":
        return _Zlib("deflate")
    if name == "br":
        return _Brotli()
    if name == "zstd":
        return _Zstd()
    raise BadCoding(Rejection(415, f"the body is encoded as {name[:40]!r}: send it as it is, or as {ACCEPTED}"))


def _not(name: str) -> BadCoding:
    return BadCoding(Rejection(400, f"the body is not {name}"))


def _breaks_off(name: str) -> BadCoding:
    return BadCoding(Rejection(400, f"the body ends inside its {name} stream"))
