"""An event loop without waiting: when nothing is ready, time jumps to the next timer.

Every handle runs on behalf of a simulated process, found in its context. A frozen process keeps its handles until it
wakes, a dead one for ever: no `finally` of a killed process runs, as in life. (Were they dropped, the collector of
garbage would close what only they refer to, in the middle of the world, and begin those very `finally`.)
"""

import asyncio
import heapq
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any, TypeVarTuple

_Arguments = TypeVarTuple("_Arguments")
PROCESS: ContextVar["Process | None"] = ContextVar("process", default=None)


class Process:
    """An operating system's process, as far as its scheduling goes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = self.frozen = False
        self.parked: list[asyncio.Handle] = []
        self._fuse = 0
        self._on_fuse: Callable[[], None] | None = None

    def after_steps(self, steps: int, act: Callable[[], None]) -> None:
        """Call `act` between two of its steps, `steps` of them from now: at any await, that is."""
        self._fuse, self._on_fuse = steps, act

    def admits(self, handle: asyncio.Handle) -> bool:
        """Whether the handle may run now."""
        if self._on_fuse is not None and not self.dead:
            self._fuse -= 1
            if self._fuse <= 0:
                act, self._on_fuse = self._on_fuse, None
                act()
        if self.dead or self.frozen:
            self.parked.append(handle)
            return False
        return True


TURN_S = 1e-9  # a turn of the loop takes some time: who waits for less than a float can say must not wait for ever
STEPS_MAX = 100_000  # a world takes some 6 000; more is a loop in which no time passes


class Endless(Exception):
    """The world would never come to its end: it stands still, or moves without getting on."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Deterministic: ready handles in order, timers by time."""

    _now = 0.0
    _ready: Any
    _scheduled: Any
    steps = 0
    _timers = 0

    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self._now

    def thaw(self, process: Process) -> None:
        """Let a frozen process continue."""
        process.frozen = False
        self._ready.extend(process.parked)
        process.parked = []

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Arguments], object],
        *args: *_Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """In a heap of tuples: comparing handles takes a fifth of a world's time."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers += 1
        heapq.heappush(self._scheduled, (when, self._timers, timer))
        return timer

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """The coroutines of a dead process go no further; nor may anything depend on when garbage is collected."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    def _run_once(self) -> None:
        scheduled, ready = self._scheduled, self._ready
        while scheduled and scheduled[0][2]._cancelled:
            heapq.heappop(scheduled)
        if not ready:
            if not scheduled:
                raise Endless("nothing will ever happen again")
            self._now = max(self._now, scheduled[0][0])
        self._now += TURN_S
        while scheduled and scheduled[0][0] <= self._now:
            ready.append(heapq.heappop(scheduled)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process is None or process.admits(handle):
                self.steps += 1
                if self.steps > STEPS_MAX:
                    raise Endless("it goes round in circles")
                handle._run()

    def _check_closed(self) -> None:
        """The coroutines of the dead may end after the loop."""

    def _write_to_self(self) -> None:
        """No other thread exists."""

    def _process_events(self, event_list: Any) -> None:
        """There are none."""
