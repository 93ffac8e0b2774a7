"""One process from start to stop: signals, the order of the stop, the exit code.

`builders.py` says what a process of each role is made of. If other processes wait to become the scheduler, a stop gives
up the lease first.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence

import structlog
import uvloop

from offbeat_server.common.service import Service
from offbeat_server.config import Settings
from offbeat_server.db import embedded
from offbeat_server.observability import logging
from offbeat_server.runtime.builders import build_all, build_main
from offbeat_server.runtime.parts import Parts, Role

HANDOVER_S_MAX = 2.0  # to write the last decisions and give up the lease, if other processes wait for it

log = structlog.get_logger("app")


def serve(settings: Settings, warnings: Sequence[str] = ()) -> int:
    """Run until a stop is requested; the exit code. `warnings` are logged first.

    Raises OffbeatError if settings or database are wrong.
    """
    logging.set_up(settings.log_format, settings.log_level)
    for warning in warnings:
        log.warning("app.settings_warning", detail=warning)
    if settings.database_url is None:
        embedded.require()
    app = App(settings, Role.ALL, build_all) if settings.workers == 1 else App(settings, Role.MAIN, build_main)
    return run(app)


def run(app: "App") -> int:
    """Run one process from start to stop; the exit code."""
    logging.set_up(app.parts.settings.log_format, app.parts.settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(app.run())


class App(Service):
    """One process. `build` starts its parts."""

    name = "app"

    def __init__(self, settings: Settings, role: Role, build: Callable[[Parts], Awaitable[None]]) -> None:
        super().__init__()
        self.parts = Parts(settings, role, self._part_died, self.request_stop)
        self._build = build
        self._over: asyncio.Future[str | None]  # None: a stop was requested; else the part that has died

    async def run(self) -> int:
        """From start to stop; the exit code. Raises what the start raises."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self.request_stop)
        starting = self.errand(self._start(), "start")
        starting.add_done_callback(self._started)
        try:
            cause = await self._over
        finally:
            self.parts.stopping = True
            self.parts.systemd.stopping()
            await self.cancel_tasks()
            await self.parts.cancel_tasks()
            await self._stop()
        if cause is not None:
            log.error("app.stopped_after_failure", cause=cause)
        return 0 if cause is None else 1

    def request_stop(self) -> None:
        """Stop; a second call ends the process immediately."""
        if not self._over.done():
            self._over.set_result(None)
        elif self.parts.stopping:
            log.warning("app.exiting_now", reason="second stop signal", detail="committed pings are safe")
            signal.raise_signal(signal.SIGKILL)

    async def _start(self) -> None:
        await self.parts.stack.start(self.parts.systemd)
        await self._build(self.parts)

    async def _stop(self) -> None:
        """`/readyz` answers 503 from here on, so a load balancer can leave before the listeners close."""
        parts, settings = self.parts, self.parts.settings
        delay_s, bound_s = settings.drain_delay, settings.stop_timeout
        parts.systemd.extend(HANDOVER_S_MAX + delay_s + bound_s, "stopping")
        if parts.scheduler is not None and parts.scheduler.others_wait:
            # Otherwise they would wait for the slowest client: listeners and writer have seconds for their stop. The
            # next scheduler reads later commits of this process from the log.
            await parts.stack.stop_early(parts.scheduler, HANDOVER_S_MAX)
        if parts.role is Role.MAIN:
            bound_s += delay_s  # its workers wait for the delay
        else:
            await asyncio.sleep(delay_s)
        await parts.stack.stop(bound_s)

    def _part_died(self, cause: str) -> None:
        if not self._over.done():
            self._over.set_result(cause)

    def _started(self, starting: "asyncio.Task[None]") -> None:
        if not starting.cancelled() and (error := starting.exception()) is not None and not self._over.done():
            self._over.set_exception(error)
