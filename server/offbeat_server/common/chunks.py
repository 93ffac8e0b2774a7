"""Long work in short parts, so that pings pass in between: nothing may hold the event loop for more than 20 ms."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")


async def chunked(items: Sequence[T], size: int) -> AsyncIterator[list[T]]:
    """The items, `size` at a time, with a breath after each part."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
        await asyncio.sleep(0)
