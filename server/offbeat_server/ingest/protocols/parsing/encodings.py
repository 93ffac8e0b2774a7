"""Bytes as text: what a Content-Type or a byte order mark says, else UTF-8, else Windows' Western European code page.

Jobs on Windows send the bytes of their console or file. Of a text that is UTF-8 except for some bytes, only these are
read as Windows-1252; so one line of a log in another encoding costs no other line.
"""

import codecs
import re

from offbeat_server.ingest.protocols.base import Request

# https://encoding.spec.whatwg.org reads these names as Windows-1252, because that is what is sent under them.
_WESTERN = {"iso8859-1", "ascii"}
# Codecs of Python that are encodings of text and take time in proportion to their input.
_is_text_codec = re.compile(
    r"utf-(?:8|16|32)(?:-[lb]e|-sig)?|iso8859-\d+|cp\d+|koi8-[rut]|mac-\w+|shift_jis\w*|euc_\w+|gb\w*|big5\w*"
).fullmatch
_charset = re.compile(r"charset\s*=\s*[\"']?([\w.:+-]{1,40})", re.IGNORECASE).search
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# `surrogateescape` marks a byte that is not UTF-8 as one of these. Five bytes are nothing in Windows-1252.
_WESTERN_BYTES = {0xDC00 + byte: bytes([byte]).decode("cp1252", "replace") for byte in range(0x80, 0x100)}
_REPLACED = {0xDC00 + byte: "\ufffd" for byte in range(0x80, 0x100)}
# The rest of a character that `tail -c` or `head -c` cut in two.
_cut_edges = re.compile("\\A[\udc80-\udcbf]{1,3}|[\udcc2-\udcf4][\udc80-\udcbf]{0,2}\\Z").sub
_has_utf_8 = re.compile("[^\0-\x7f\udc80-\udcff]").search


def charset_of(content_type: str) -> str | None:
    """The codec that a Content-Type names; None: none that we read."""
    match = _charset(content_type)
    if match is None:
        return None
    try:
        codec = codecs.lookup(match[1]).name
    except LookupError:
        return None
    if codec in _WESTERN:
        return "cp1252"
    return codec if _is_text_codec(codec) else None


def text_of(data: bytes, charset: str | None = None) -> str:
    """The text; `charset` is what the client declares. A byte order mark outranks it and is no part of the text."""
    for mark, codec in _MARKS:
        if data.startswith(mark):
            return guessed(data[len(mark) :]) if codec == "utf-8" else data[len(mark) :].decode(codec, "replace")
    if charset is None or (charset.startswith("utf-") and b"\0" not in data):  # who declares UTF-16 may not send it
        charset = _utf_16_without_mark(data)
    return guessed(data) if charset in (None, "utf-8") else data.decode(charset, "replace")


def guessed(data: bytes) -> str:
    """UTF-8 where it is; other bytes as Windows-1252, and in binary data as U+FFFD."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        text = data.decode("utf-8", "surrogateescape")
    if "\0" in text:
        return text.translate(_REPLACED)
    if _has_utf_8(text):
        text = _cut_edges("\ufffd", text)
    return text.translate(_WESTERN_BYTES)


def utf_8_body(request: Request) -> bytes:
    """Return the body of a request as UTF-8, from the encoding that its Content-Type or its first bytes name."""
    body = request.body
    content_type = request.headers.get("content-type")
    charset = charset_of(content_type) if content_type else None
    if charset in (None, "utf-8") and body[:1].isascii() and b"\0" not in body[:4]:
        return body
    return text_of(body, charset).encode("utf-8", "replace")


def _utf_16_without_mark(data: bytes) -> str | None:
    """The byte order, where the first two characters are ASCII in UTF-16."""
    if len(data) < 4 or len(data) % 2:
        return None
    zeros = [not byte for byte in data[:4]]
    return (
        {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get((zeros[0], zeros[1]))
        if zeros[:2] == zeros[2:]
        else None
    )
