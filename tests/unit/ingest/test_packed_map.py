"""The packed dictionary does what a dictionary does."""

from functools import partial
from operator import eq
from random import Random

import pytest

from offbeat_server.common.packed_map import SHELVES, PackedStringMap


def test_like_a_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offbeat_server.common.packed_map.SHELVES", 4)  # many on each
    random = Random(1)
    texts = ["5", "55", "a", "a5", "m-1", "m-12", "1/m", "é€", "x" * 300, "0"]
    names, expected = PackedStringMap(), dict[str, int]()
    places: dict[str, int] = {}
    for _ in range(5_000):
        text, number = random.choice(texts), random.choice([0, 5, 55, 555, 1 << 40])
        if random.random() < 0.6:
            places[text] = names.put(text, number)
            expected[text] = number
        elif text in places:
            names.drop(places[text], partial(eq, number))
            for other, place in places.items():
                if place == places[text] and expected.get(other) == number:
                    del expected[other]
        assert len(names) == len(expected)
        assert {text: value for text in texts if (value := names.get(text)) is not None} == expected


@pytest.mark.parametrize("text", ["", "\0", "a\0", "5\0\0b", "\0\0b", "b\0" + "7", "\ud800"])
def test_what_cannot_be_a_text_leads_nowhere(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("offbeat_server.common.packed_map.SHELVES", 1)
    names = PackedStringMap()
    names.put("a", 5)
    names.put("b", 7)
    assert names.get(text) is None


def test_shelves_are_chosen_by_bits() -> None:
    assert SHELVES & (SHELVES - 1) == 0
