"""A cache for public values: every few seconds one request computes the value for all, at a cost that does not grow."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from offbeat_server.common.clock import monotonic

FRESH_S = 5.0
KEPT_MAX = 200
T = TypeVar("T")


@dataclass(slots=True)
class _Kept:
    """One answer, and the place in which those wait who ask while it is being found out."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    at: float = float("-inf")
    value: Any = None


class TtlCache(Generic[T]):
    """Answers by key, in this process."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, _Kept] = {}

    async def get(self, key: Hashable, find_out: Callable[[], Awaitable[T]]) -> T:
        """The answer to this key, at most FRESH_S old. Raises what `find_out` raises, which is not kept."""
        kept = self._kept[key] = self._kept.pop(key, _Kept())  # the last of the line, whose first goes
        if len(self._kept) > KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        async with kept.turn:
            if monotonic() - kept.at > FRESH_S:
                kept.value = await find_out()
                kept.at = monotonic()
        value: T = kept.value
        return value
