"""Pings an outside watchdog (`--watchdog-url`), because a dead server cannot report its own death.

A ping to it means "missed pings are noticed and alerts are sent", not "a process exists". Only the scheduler sends it,
only while the watermark moves, and only while dispatchers take alerts. In doubt no ping is sent, and the watchdog
raises the alarm. It knows only callables.
"""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import structlog

from offbeat_server.common.instants import Micros
from offbeat_server.common.service import Service

TIMEOUT_S = 10.0
UNTAKEN_S_MAX = 120.0  # an alert may wait that long for a dispatcher; one that is retried later does not wait

log = structlog.get_logger("watchdog")


class OutboundWatchdog(Service):
    """Gets `url` every `every_s` seconds while the server is healthy.

    `watermark` is None in a process that is not the scheduler. `untaken_s` is how long the alert that waits longest
    could have been sent already (0 without one); it may raise, which counts as doubt.
    """

    name = "watchdog"

    def __init__(
        self,
        url: str,
        every_s: float,
        watermark: Callable[[], Micros | None],
        untaken_s: Callable[[], Awaitable[float]],
    ) -> None:
        super().__init__()
        self._url, self._every_s = url, every_s
        self._watermark, self._untaken_s = watermark, untaken_s
        self._last: Micros | None = None
        self._session: aiohttp.ClientSession | None = None
        self.sent = 0
        self.failed = 0
        self.withheld = 0

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), headers={"User-Agent": "Offbeat"}
        )
        self.spawn(self._run(), "send")

    async def stop(self) -> None:
        await self.cancel_tasks()
        if self._session is not None:
            await self._session.close()

    async def _run(self) -> None:
        self._last = self._watermark()
        while True:
            await asyncio.sleep(self._every_s)  # first, so that a server that dies at each start sends none
            reason = await self._reason_to_withhold()
            if reason is None:
                await self._send()
            elif self._watermark() is not None:
                self.withheld += 1
                log.warning("watchdog.ping_withheld", reason=reason)

    async def _reason_to_withhold(self) -> str | None:
        watermark, before = self._watermark(), self._last
        self._last = watermark
        if watermark is None:
            return "not the scheduler"
        if before is None:
            return "the scheduler since a moment ago"
        if watermark <= before:
            return "the watermark stands still"
        try:
            async with asyncio.timeout(TIMEOUT_S):
                untaken_s = await self._untaken_s()
        except Exception as error:
            return f"the outbox cannot be read: {error!r}"
        if untaken_s > UNTAKEN_S_MAX:
            return f"an alert has waited {untaken_s:.0f} s for a dispatcher"
        return None

    async def _send(self) -> None:
        assert self._session is not None
        try:
            async with self._session.get(self._url) as answer:
                if answer.status >= 400:
                    self.failed += 1
                    log.warning("watchdog.ping_rejected", status=answer.status)
                    return
                self.sent += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failed += 1
            log.warning("watchdog.ping_failed", error=repr(error))
