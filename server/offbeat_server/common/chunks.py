"""Long work in short parts, so that pings pass in between: nothing may hold the event loop for more than 20 ms."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_pausing = 0


async def chunked(items: Sequence[T], size: int) -> AsyncIterator[list[T]]:
    """The items, `size` at a time, with a breath after each part."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
        await asyncio.sleep(0)


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for cycles meanwhile.

    Ten thousand definitions are a million small objects that live for some seconds; a full collection walks through
    them all for 100 ms, twice or thrice, and finds nothing, since they go by their counts.
    """
    global _pausing
    _pausing += 1
    gc.disable()
    try:
        yield
    finally:
        _pausing -= 1
        if not _pausing:
            gc.enable()
