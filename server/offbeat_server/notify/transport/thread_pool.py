"""A few threads for libraries that block and have their own network code, inside the destination guard.

The interpreter reports every connection by its audit events (PEP 578). In a guarded context the final address of each
is checked, and a refused connection ends with an exception, in any library.
"""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

from offbeat_server.notify.transport.delivery import DeliveryError
from offbeat_server.notify.transport.destination_guard import BlockedDestinationError, Guard

THREADS_MAX = 4

# A context variable, not a thread-local: a library that has threads of its own often copies the context into them.
_guard: ContextVar[Guard | None] = ContextVar("guard", default=None)
_watching = False


class GuardedThreads:
    """Threads are made with the first use. One that hangs is left to itself and is missing until it returns."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._threads: ThreadPoolExecutor | None = None
        self._free = THREADS_MAX

    async def run(self, work: Callable[..., Any], *arguments: Any, timeout_s: float) -> Any:
        """Run `work` in a thread. Raises its exceptions, or DeliveryError if it takes too long or no thread is free."""
        if self._threads is None:
            _watch_connections()
            self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="guarded")
        if not self._free:
            raise DeliveryError("all threads for blocking services are taken by ones that hang")
        self._free -= 1
        guarded = partial(_guarded, self._guard, work, *arguments)
        future = asyncio.get_running_loop().run_in_executor(self._threads, guarded)
        future.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(future)
        except TimeoutError:
            raise DeliveryError(f"no answer within {timeout_s:g} s") from None

    def close(self) -> None:
        """Lets go of the threads; one that hangs ends by itself, or with the process."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _ended(self, future: "asyncio.Future[Any]") -> None:
        self._free += 1
        if not future.cancelled():
            future.exception()  # after a time-out no other code reads it


def is_guarded() -> bool:
    """Whether the caller runs in such a thread."""
    return _guard.get() is not None


def _guarded(guard: Guard, work: Callable[..., Any], *arguments: Any) -> Any:
    context = copy_context()
    context.run(_guard.set, guard)
    return context.run(work, *arguments)


def _watch_connections() -> None:
    """Check every connection of a guarded context from now on, in any library.

    A hook for the interpreter's own audit events cannot be removed again; outside of such a context it does nothing.
    """
    global _watching
    if not _watching:
        _watching = True
        sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("socket.connect", "socket.sendto"):
        return
    guard = _guard.get()
    if guard is None:
        return
    address = arguments[1]
    if not isinstance(address, tuple):
        raise BlockedDestinationError(f"{address!r} is not a network address")
    guard.check(str(address[0]))
