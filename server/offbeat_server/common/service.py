"""Long-lived parts: started in order, stopped in reverse, and never an orphan task.

Every task that outlives a call belongs to a `Service`, has a name, and is watched: should one die, the server stops,
because a server without its scheduler or its writer looks healthy and is not. This is the only module that creates
tasks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import OffbeatError

CANCEL_AGAIN_S = 0.5

log = structlog.get_logger("service")


class Service:
    """Something that runs for the life of the server. Override `start` and `stop`; both may be called only once."""

    name = "service"

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()
        self.on_death: Callable[[str, BaseException | None], None] | None = None

    async def start(self) -> None:
        """Become useful. When this returns the service works."""

    async def stop(self) -> None:
        """Finish what was begun, then end the tasks. Tolerates a service that never started."""
        await self.cancel_tasks()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task for as long as the service lives; when it ends without being cancelled, the server stops."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self.name}: {name}")
        self.tasks.add(task)
        task.add_done_callback(self._watch)
        return task

    def errand(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a short task that may end; only an unexpected failure is logged as an error."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self.name}: {name}")
        self.tasks.add(task)
        task.add_done_callback(self._watch_errand)
        return task

    async def cancel_tasks(self) -> None:
        """End every task of this service and wait for them."""
        pending = set(self.tasks)
        while pending:
            for task in pending:
                task.cancel()
            # Again and again: where a connection is lost while a transaction is undone, that error takes the place of
            # the cancellation, and the task continues.
            _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)

    def _watch(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        log.error("service.task_ended", task=task.get_name(), exc_info=error)
        if self.on_death is not None:
            self.on_death(task.get_name(), error)

    def _watch_errand(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if (
            not task.cancelled()
            and isinstance(task.exception(), Exception)
            and not isinstance(task.exception(), OffbeatError)
        ):
            log.error("service.task_failed", task=task.get_name(), exc_info=task.exception())


class Stack:
    """Services in the order of their start; stopping is the list read backwards, under one bound."""

    def __init__(self, on_death: Callable[[str], None]) -> None:
        self._on_death = on_death
        self.running: list[Service] = []

    async def start(self, service: Service) -> None:
        """Start one more; it is stopped before all that started earlier."""
        service.on_death = lambda name, error: self._on_death(f"{name}: {error!r}")
        self.running.append(service)
        await service.start()

    async def stop(self, bound_s: float) -> None:
        """Stop all, the last first. A service that does not stop in time is cancelled and named in the log."""
        deadline = monotonic() + bound_s
        for service in reversed(self.running):
            await self._stop(service, deadline - monotonic())
        self.running.clear()

    async def stop_early(self, service: Service, bound_s: float) -> None:
        """Stop one before its turn, if it was started."""
        if service in self.running:
            self.running.remove(service)
            await self._stop(service, bound_s)

    async def _stop(self, service: Service, bound_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.1, bound_s)):
                await service.stop()
        except TimeoutError:
            log.warning("service.stop_timed_out", service=service.name)
            await service.cancel_tasks()
        except Exception:
            log.exception("service.stop_failed", service=service.name)


async def forever(step: Callable[[], Awaitable[object]], every_s: float) -> None:
    """Call `step` again and again with a pause between; a failure is logged and does not end it."""
    while True:
        try:
            await step()
        except Exception:
            log.exception("service.step_failed", step=getattr(step, "__qualname__", repr(step)), every_s=every_s)
        await asyncio.sleep(every_s)
