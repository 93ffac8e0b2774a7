"""The kept part of a message: both ends of a long one, never more than 10 kB, and only text that Postgres can store."""

from hypothesis import example, given
from hypothesis import strategies as st

from offbeat_server.ingest.protocols.parsing.message import (
    KEPT_HEAD_BYTES,
    KEPT_TAIL_BYTES,
    STORED_BYTES_MAX,
    WHOLE_BYTES_MAX,
    stored_message,
    stored_text,
)
from offbeat_server.ingest.protocols.parsing.urlencoded import decode, read_pairs


def test_short_messages_are_kept_as_they_are() -> None:
    assert stored_message(b"") is None
    assert stored_message(b"backup: 3 files\n") == "backup: 3 files\n"
    assert stored_message("Größe: 3 µs".encode()) == "Größe: 3 µs"
    assert stored_message(b"x" * WHOLE_BYTES_MAX) == "x" * 10_000
    assert stored_text("") is None
    assert stored_text("disk full") == "disk full"


def test_a_long_message_keeps_its_first_2_and_last_8_kB() -> None:
    body = bytes(65 + i % 26 for i in range(1_000_000))
    message = stored_message(body)
    assert message is not None
    assert message.startswith(body[:2_000].decode())
    assert message.endswith(body[-8_000:].decode())
    assert "1000000 bytes" in message
    assert len(message.encode()) <= STORED_BYTES_MAX


def test_no_cut_inside_a_character() -> None:
    for character in ("ä", "€", "😀"):
        for shift in range(4):
            message = stored_message(b"." * shift + character.encode() * 6_000)
            assert message is not None
            assert "�" not in message
            head, _, tail = message.partition("\n[…")
            assert 1_996 < len(head.encode()) <= 2_000
            assert 7_996 < len(tail.rpartition("…]\n")[2].encode()) <= 8_000


def test_nul_and_invalid_bytes_become_the_replacement_character() -> None:
    assert stored_message(b"a\0b\xffc") == "a�b�c"
    assert stored_text("a\0b\ud800") == "a�b?"


@given(st.one_of(st.binary(max_size=100), st.binary(min_size=1, max_size=40).map(lambda part: part * 700)))
@example(b"\xff" * 4_000)
@example(b"\x80" * 20_000)
@example(b"\0" * 10_000)
def test_any_bytes_give_storable_text(body: bytes) -> None:
    message = stored_message(body)
    if message is not None:
        assert "\0" not in message
        assert len(message.encode()) <= STORED_BYTES_MAX


def test_a_body_of_which_only_the_ends_were_kept() -> None:
    body = b"h" * KEPT_HEAD_BYTES + b"t" * KEPT_TAIL_BYTES
    message = stored_message(body, 123_456_789)
    assert message is not None
    assert message.startswith("h" * 2_000 + "\n[") and message.endswith("]\n" + "t" * 8_000)
    assert "123456789 bytes" in message


def test_pairs_of_a_query() -> None:
    assert dict(read_pairs("status=start&run=17")) == {"status": "start", "run": "17"}
    assert dict(read_pairs("a=1&a=2&b&=3&")) == {"a": "2", "b": ""}
    assert dict(read_pairs("m=disk+full%21&k%3d=%C3%A4")) == {"m": "disk full!", "k=": "ä"}
    assert read_pairs("metric=count:1&metric=duration:2") == [("metric", "count:1"), ("metric", "duration:2")]
    assert dict(read_pairs("m=%ff")) == {"m": "ÿ"}
    assert decode("a+b%20c") == "a+b c"


@given(st.text(alphabet=st.characters(codec=None), max_size=60))
def test_any_text_is_read_as_pairs(text: str) -> None:
    for name, value in read_pairs(text):
        (name + value).encode("utf-8", "surrogatepass")
