"""Names and values as they stand in a query string or a form: `name=value&name=value`, percent-encoded.

The standard library's parser costs 6 µs for `status=start&run=17`, more than the rest of reading such a ping; most
queries hold neither `%` nor `+`, and then two `str` methods are enough. Bytes that are not UTF-8 are read as
Windows-1252 (ingest/protocols/parsing/encodings.py).
"""

from typing import Final
from urllib.parse import unquote_to_bytes

from offbeat_server.ingest.protocols.parsing.encodings import guessed


class _NoValue(str):
    __slots__ = ()


NO_VALUE: Final[str] = _NoValue()  # equal to "", but only a name without `=` has this very object


def read_pairs(text: str) -> list[tuple[str, str]]:
    """All pairs in their order; a name without `=` has the value NO_VALUE."""
    if "%" in text or "+" in text or not text.isascii():
        return [
            (decode(name.replace("+", " ")), decode(value.replace("+", " ")) if equals else NO_VALUE)
            for name, equals, value in (piece.partition("=") for piece in text.split("&"))
            if name
        ]
    return [
        (name, value if equals else NO_VALUE)
        for name, equals, value in [piece.partition("=") for piece in text.split("&")]
        if name
    ]


def decode(text: str) -> str:
    """A percent-encoded text. `+` stands for itself."""
    if "%" not in text and text.isascii():
        return text
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "replace")
    return guessed(unquote_to_bytes(raw))


def decode_segment(text: str) -> str:
    """A percent-encoded part of a path, without the line end that a file or a shell variable may have left there."""
    return decode(text).rstrip("\r\n") if "%" in text or not text.isascii() else text
