"""Long work beside pings: in short parts, and without the cyclic garbage collector.

Nothing may hold the event loop for more than 20 ms. `chunked` cuts work into parts, between which pings pass.

CPython runs a full collection after enough new objects and visits every one of them. While a million objects are built
that live on, or that go by their reference counts, it finds nothing and stops the event loop for 100 to 250 ms.

All pauses of a process are counted together: they may be nested, and tasks may hold them at the same time in any order.
The end of the last one restores what was before the first. Only the event loop's thread may use them.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

# After the start: new objects before a collection of the youngest generation; Python's default is 700. The decisions of
# the scheduler in a storm wait for Postgres, so a collection finds nothing; with 700 it takes a quarter of the time of
# a missed deadline. One collection of this number of objects takes less than a millisecond.
OBJECTS_BEFORE_COLLECTION = 10_000

_pauses = 0
_enabled_before = True


async def chunked(items: Sequence[T], size: int) -> AsyncIterator[list[T]]:
    """The items, `size` at a time. After each part other tasks of the event loop run."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
        await asyncio.sleep(0)


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
