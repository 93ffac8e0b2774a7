"""Pauses of the garbage collector: nested, interleaved, after errors; and what is frozen at the end of a start."""

import gc
import itertools
import weakref
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from offbeat_server.common.long_work import OBJECTS_BEFORE_COLLECTION, gc_frozen, gc_paused


class Node:
    """An object that refers to itself: only a collection frees it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    threshold, enabled = gc.get_threshold(), gc.isenabled()
    gc.enable()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)
    (gc.enable if enabled else gc.disable)()


def test_no_collection_during_a_pause() -> None:
    gc.collect()
    gc.set_threshold(100, 2, 2)
    with gc_paused():
        first = weakref.ref(Node())
        kept = [Node() for _ in range(10_000)]
        assert first() is not None
    del kept
    assert gc.isenabled()
    many = [Node() for _ in range(1_000)]
    assert many and first() is None


@pytest.mark.parametrize("kinds", list(itertools.product([gc_paused, gc_frozen], repeat=3)))
def test_nested_pauses_end_with_the_outermost(kinds: tuple[object, ...]) -> None:
    with ExitStack() as outer:
        for kind in kinds:
            outer.enter_context(kind())  # type: ignore[operator]
        with gc_paused():
            assert not gc.isenabled()
        with gc_frozen():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_pauses_of_several_tasks_end_in_any_order(order: tuple[int, ...]) -> None:
    pauses = [gc_paused(), gc_frozen(), gc_paused()]
    for pause in pauses:
        pause.__enter__()
    for left, each in enumerate(order):
        assert not gc.isenabled(), f"{len(order) - left} pauses are left"
        pauses[each].__exit__(None, None, None)
    assert gc.isenabled()


def test_an_error_ends_the_pause_and_freezes_nothing() -> None:
    frozen, threshold = gc.get_freeze_count(), gc.get_threshold()
    for pause in (gc_paused, gc_frozen):
        with pytest.raises(ValueError), pause():
            raise ValueError
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen and gc.get_threshold() == threshold


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with gc_frozen(), gc_paused():
        pass
    assert not gc.isenabled()


def test_what_a_start_made_is_not_visited_again() -> None:
    gc.collect()
    with gc_frozen():
        kept = [Node() for _ in range(1_000)]
    assert gc.get_freeze_count() >= len(kept)
    assert gc.get_threshold()[0] == OBJECTS_BEFORE_COLLECTION
    node = weakref.ref(kept[0])
    del kept
    gc.collect()
    assert node() is not None, "frozen objects are in no collection"
    gc.unfreeze()
    gc.collect()
    assert node() is None
