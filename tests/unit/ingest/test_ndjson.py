"""Bulk bodies that arrive in any pieces: the same values, or one clear error, and never more memory."""

import gzip
import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offbeat_server.ingest.http.content_codings import Unpacker
from offbeat_server.ingest.ndjson import VALUE_BYTES_MAX, BadBody, NdjsonReader

TEXT = st.text(st.sampled_from('ab"\\,{}[]: \n\t\u00fc\U0001f600'), max_size=12)
INNER = st.lists(st.dictionaries(TEXT, TEXT, max_size=2), max_size=2)
VALUES = st.lists(st.dictionaries(TEXT, TEXT | st.integers(-9, 9) | st.none() | INNER, max_size=3), max_size=8)
STYLES = st.sampled_from(
    [
        lambda values: json.dumps(values).encode(),
        lambda values: json.dumps(values, indent=3).encode(),
        lambda values: json.dumps(values, separators=(" ,\n ", ":"), ensure_ascii=False).encode(),
        lambda values: b"\n".join(json.dumps(value).encode() for value in values),
        lambda values: b"".join(json.dumps(value).encode() + b"\r\n\n" for value in values),
    ]
)

Style = Callable[[list[object]], bytes]


def cut(body: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


def read(pieces: Iterable[bytes]) -> list[object]:
    lines = NdjsonReader()
    values = [value for piece in pieces for value in lines.feed(piece)]
    return values + list(lines.end())


@pytest.mark.slow
@given(VALUES, STYLES, st.lists(st.integers(0, 10_000), max_size=6))
@settings(max_examples=400, deadline=None)
def test_however_it_is_cut(values: list[object], style: Style, places: list[int]) -> None:
    body = style(values)
    assert read(cut(body, places)) == values
    assert read([b" \n" + body + b"\n "]) == values
    assert read([body[place : place + 1] for place in range(len(body))]) == values


@pytest.mark.parametrize("body", [b'{"a": 1}\r\n{"a": 2}', b'[{"a": 1}, {"a": 2}]', b' \n{"a": 1}\n\n{"a": 2}\n'])
def test_a_byte_order_mark_is_no_part_of_the_first_value(body: bytes) -> None:
    body = BOM_UTF8 + body
    assert read([body]) == read([body[place : place + 1] for place in range(len(body))]) == [{"a": 1}, {"a": 2}]


@given(VALUES, STYLES)
@settings(max_examples=100, deadline=None)
def test_gzip_in_pieces_and_members(values: list[object], style: Style) -> None:
    body = style(values)
    packed = gzip.compress(body[: len(body) // 2]) + gzip.compress(body[len(body) // 2 :])
    unpacker = Unpacker("gzip")
    pieces = [piece for start in range(0, len(packed), 7) for piece in unpacker.pieces(packed[start : start + 7])]
    assert not list(unpacker.end())
    assert b"".join(pieces) == body


@given(st.binary(max_size=60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_garbage_is_an_error_and_never_an_exception_of_another_kind(body: bytes, array: bool) -> None:
    with suppress(BadBody):
        read([b"[" * array + body])


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b'[{"a": 1}, {"a": 2}', [{"a": 1}]),
        (b'[{"a": 1}] more', [{"a": 1}]),
        (b'[{"a": 1}, oops, {"a": 2}]', [{"a": 1}]),
        (b"[oops]", []),
        (b'{"a": 1}\n' + b"x" * (VALUE_BYTES_MAX + 1), [{"a": 1}]),
    ],
)
def test_what_came_before_an_error_is_given(body: bytes, values: list[object]) -> None:
    lines = NdjsonReader()
    given: list[object] = []
    with pytest.raises(BadBody):
        for piece in (body[:20], body[20:]):
            given.extend(lines.feed(piece))
        given.extend(lines.end())
    assert given == values


def test_a_bad_line_is_one_value_among_others() -> None:
    first, bad, last = read([b'{"a": 1}\n{oops\n{"a": 2}'])
    assert (first, last) == ({"a": 1}, {"a": 2})
    assert isinstance(bad, BadBody)


def test_an_element_that_never_ends_is_not_kept_for_ever() -> None:
    lines = NdjsonReader()
    with pytest.raises(BadBody):
        for _ in range(10):
            list(lines.feed(b'[{"a": "' + b"x" * VALUE_BYTES_MAX))
