"""From the bytes a client sent along to the message that is stored: at most 10 kB of clean text.

A job's output says what it was about in its first lines and why it failed in its last, so a long one keeps both ends
(https://github.com/healthchecks/healthchecks keeps only the head, and its client runitor only the tail). Nothing that
Postgres would refuse passes: NUL becomes U+FFFD, and bytes that are not UTF-8 are read by protocols/encodings.py.
No cut is made inside a character.
"""

from offbeat_server.engine.model.ping import MESSAGE_HEAD_BYTES, MESSAGE_TAIL_BYTES
from offbeat_server.ingest.protocols.parsing.encodings import guessed

WHOLE_BYTES_MAX = MESSAGE_HEAD_BYTES + MESSAGE_TAIL_BYTES  # kept as it is up to here; what Ping-Body-Limit announces
STORED_BYTES_MAX = 10_240  # both ends and the mark between them
# The kept ends of a body that is too long to be kept whole, with room for escapes of JSON and of forms.
KEPT_HEAD_BYTES, KEPT_TAIL_BYTES = 8_000, 32_000
_CHARACTER_BYTES_MAX = 4
_CUT = "\n[… cut here: the whole had "


def stored_message(body: bytes, whole_bytes: int = 0) -> str | None:
    """Return the message of a body; None for an empty one. `whole_bytes`: its length, if `body` is only its ends."""
    if len(body) <= WHOLE_BYTES_MAX and not whole_bytes:
        return _fit(_clean(body), len(body)) if body else None
    # One character more than is kept at each inner edge, so that a character cut in two lies outside what is kept.
    head = _clean(body[: MESSAGE_HEAD_BYTES + _CHARACTER_BYTES_MAX]).encode()
    tail = _clean(body[-MESSAGE_TAIL_BYTES - _CHARACTER_BYTES_MAX :]).encode()
    return _join(head, tail, whole_bytes or len(body))


def with_mark(body: bytes, whole_bytes: int) -> bytes:
    """The kept ends of a body with a mark between them, so that a long text within JSON or a form reads as cut."""
    return b"%b ... (%d bytes in all) ... %b" % (body[:KEPT_HEAD_BYTES], whole_bytes, body[-KEPT_TAIL_BYTES:])


def stored_text(text: str) -> str | None:
    """The message of a parameter; None for an empty one."""
    if len(text) <= WHOLE_BYTES_MAX and text.isascii() and "\0" not in text:
        return text or None
    return stored_message(text.encode("utf-8", "replace"))


def is_cut(message: str) -> bool:
    """Whether this stored message is only both ends of what was sent."""
    return _CUT in message


def _clean(body: bytes) -> str:
    return guessed(body).replace("\0", "�")


def _fit(text: str, sent_bytes: int) -> str:
    if text.isascii():
        return text
    encoded = text.encode()
    # An invalid byte grows to the three of U+FFFD, so a short body of garbage may still be too long.
    return text if len(encoded) <= WHOLE_BYTES_MAX else _join(encoded, encoded, sent_bytes)


def _join(head: bytes, tail: bytes, sent_bytes: int) -> str:
    end = MESSAGE_HEAD_BYTES
    while _continues(head[end]):
        end -= 1
    start = len(tail) - MESSAGE_TAIL_BYTES
    while _continues(tail[start]):
        start += 1
    return f"{head[:end].decode()}{_CUT}{sent_bytes} bytes …]\n{tail[start:].decode()}"


def _continues(byte: int) -> bool:
    return byte & 0xC0 == 0x80
