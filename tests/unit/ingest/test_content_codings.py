"""Content-Encoding: every coding that clients use, in pieces of any size, and never more than it may become."""

import gzip
import os
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest

from offbeat_server.ingest.http.content_codings import FREE_BYTES, PIECE_BYTES, RATIO_MAX, BadCoding, Unpacker

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = b"status=fail&message=disk+full " * 9_000


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("X-GZIP", lambda body: gzip.compress(body[:99]) + gzip.compress(body[99:]) + b"\0" * 20),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("br", brotli.compress),
    ("zstd", zstd.compress),
    ("zstd", lambda body: zstd.compress(body[:99]) + zstd.compress(body[99:])),
    ("identity", bytes),
    ("", bytes),
    ("gzip, br", lambda body: brotli.compress(gzip.compress(body))),
    (" Gzip , identity ,zstd", lambda body: zstd.compress(gzip.compress(body))),
]


def unpacked(body: bytes, encoding: str, size: int = PIECE_BYTES) -> bytes:
    unpacker = Unpacker(encoding)
    pieces = [piece for at in range(0, len(body), size) for piece in unpacker.pieces(body[at : at + size])]
    pieces += unpacker.end()
    return b"".join(pieces)


def refused(body: bytes, encoding: str) -> int:
    with pytest.raises(BadCoding) as caught:
        unpacked(body, encoding)
    return caught.value.refusal.status


@pytest.mark.parametrize("size", [1, 7, PIECE_BYTES])
@pytest.mark.parametrize(("encoding", "pack"), PACKERS)
def test_every_coding_in_pieces_of_any_size(encoding: str, pack: Callable[[bytes], bytes], size: int) -> None:
    assert unpacked(pack(TEXT), encoding, size) == TEXT


@pytest.mark.parametrize(("encoding", "pack"), [pair for pair in PACKERS if pair[0] not in ("", "identity")])
def test_what_is_not_whole_or_not_that_coding_is_refused(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    assert refused(b"", encoding) == refused(b"not compressed at all", encoding) == 400
    assert refused(pack(os.urandom(999)).rstrip(b"\0")[:-9], encoding) == 400


@pytest.mark.parametrize("encoding", ["compress", "lzma", "gzip, x", "utf-8", ", ".join(["gzip"] * 4)])
def test_another_coding_is_refused_with_those_there_are(encoding: str) -> None:
    assert refused(b"", encoding) == 415


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", lambda body: gzip.compress(body)), ("br", lambda body: brotli.compress(body, quality=1)),
     ("zstd", zstd.compress), ("gzip, gzip", lambda body: gzip.compress(gzip.compress(body)))],
)  # fmt: skip
def test_a_bomb_is_refused_in_flat_memory(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(100_000_000))
    unpacker = Unpacker(encoding)
    grown = 0
    tracemalloc.start()
    try:
        with pytest.raises(BadCoding):
            for at in range(0, len(bomb), PIECE_BYTES):
                for piece in unpacker.pieces(bomb[at : at + PIECE_BYTES]):
                    assert len(piece) <= PIECE_BYTES
                    grown += len(piece)
        assert grown <= max(FREE_BYTES, RATIO_MAX * len(bomb))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("encoding", "member"),
    [
        ("gzip", gzip.compress(b"")),
        ("gzip", gzip.compress(b"x")),
        ("zstd", zstd.compress(b"")),
        ("zstd", b"\x50\x2a\x4d\x18" + bytes(4)),  # a frame to skip
    ],
    ids=["empty gzip", "one byte of gzip", "empty zstd", "a frame to skip"],
)
def test_many_small_members_are_refused_before_they_cost_much(encoding: str, member: bytes) -> None:
    assert refused(member * (PIECE_BYTES // len(member)), encoding) == 413


def test_members_as_logs_have_them_are_unpacked() -> None:
    members = [gzip.compress(os.urandom(2_000)) for _ in range(500)]
    assert len(unpacked(b"".join(members), "gzip")) == 1_000_000
