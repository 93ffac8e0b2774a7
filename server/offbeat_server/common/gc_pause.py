"""Pauses of the cyclic garbage collector while many objects are made that are not garbage.

CPython runs a full collection after enough new objects and visits every one of them. While a million objects are built
that live on, or that go by their reference counts, it finds nothing and stops the event loop for 100 to 250 ms.

All pauses of a process are counted together: they may be nested, and tasks may hold them at the same time in any order.
The end of the last one restores what was before the first. Only the event loop's thread may use them.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# After the start: new objects before a collection of the youngest generation; Python's default is 700. The decisions of
# the scheduler in a storm wait for Postgres, so a collection finds nothing; with 700 it takes a quarter of the time of
# a missed deadline. One collection of this number of objects takes less than a millisecond.
OBJECTS_BEFORE_COLLECTION = 10_000

_pauses = 0
_enabled_before = True


@contextmanager
def gc_paused() -> Iterator[None]:
    """Run no collection inside the block."""
    global _pauses, _enabled_before
    if not _pauses:
        _enabled_before = gc.isenabled()
        gc.disable()
    _pauses += 1
    try:
        yield
    finally:
        _pauses -= 1
        if not _pauses and _enabled_before:
            gc.enable()


@contextmanager
def gc_frozen() -> Iterator[None]:
    """Run no collection inside the block, and exclude all objects that exist at its end from later ones.

    For objects that are loaded at a start and stay: otherwise each later full collection over a million monitors stops
    the event loop for 250 ms. After an error, nothing is excluded.
    """
    with gc_paused():
        yield
        gc.freeze()
        gc.set_threshold(OBJECTS_BEFORE_COLLECTION)
