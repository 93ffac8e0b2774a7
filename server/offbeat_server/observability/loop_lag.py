"""Measures how late the event loop comes back, because everything else is late by that much too.

A timer requests a call in a quarter of a second and reports how late the call was. It costs four calls a second.
"""

import asyncio
from collections.abc import Callable

from offbeat_server.common.clock import monotonic
from offbeat_server.common.service import Service

EVERY_S = 0.25


class LoopLag(Service):
    """Calls `observe` with the lag in seconds, four times a second."""

    name = "loop_lag"

    def __init__(self, observe: Callable[[float], None]) -> None:
        super().__init__()
        self._observe = observe
        self._timer: asyncio.TimerHandle | None = None
        self.worst_s = 0.0

    async def start(self) -> None:
        self._arm()

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._tick, monotonic() + EVERY_S)

    def _tick(self, asked_for: float) -> None:
        lag_s = max(0.0, monotonic() - asked_for)
        self.worst_s = max(self.worst_s, lag_s)
        self._observe(lag_s)
        self._arm()
