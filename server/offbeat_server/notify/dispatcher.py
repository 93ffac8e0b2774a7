"""The dispatcher: takes alerts from the outbox and sends them, so that each arrives, once, and in order.

Only one dispatcher is active (a lease; the others wait), so a channel's rate, its circuit and its digests are
decided in one place; claims are by row anyway, so two active ones for a moment do no harm. Each round
(delivery_round.py) asks which channels have something to send, decides for each (channel_queue.py), claims, and starts
one task an attempt (attempts.py).

    pending ── claim, commit ──> ours for `lease_s` ── send ──> settled
       ^                              │ we die: the lease runs out
       └──────────────────────────────┘
"""

import asyncio
import random
import secrets
from collections.abc import Callable

import structlog

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.common.service import Service
from offbeat_server.config import Settings
from offbeat_server.db.pool import Pool
from offbeat_server.db.repositories import lease_row
from offbeat_server.db.repositories.outbox import Outbox
from offbeat_server.notify.attempts import DeliveryAttempts
from offbeat_server.notify.channel_queues import ChannelQueues
from offbeat_server.notify.delivery_round import DeliveryRound
from offbeat_server.notify.flapping import Flapping
from offbeat_server.notify.messages.message_builder import MessageBuilder
from offbeat_server.notify.periodic import PeriodicAlerts
from offbeat_server.notify.transport.http_client import Transport

log = structlog.get_logger("dispatcher")

POLL_S = 0.5  # the truth, when a wake-up is lost
ROUND_S_MIN = 0.02  # attempts that end in one moment share a round
AGAIN_S = 1.0  # after a round that failed


class Dispatcher(Service):
    """Delivers. `count` gets (channel kind, result, how many); the results are those of observability/metrics.py."""

    name = "dispatcher"

    def __init__(
        self,
        pool: Pool,
        out: Transport,
        settings: Settings,
        node: str,
        count: Callable[[str, str, int], None] = lambda kind, result, count: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        super().__init__()
        self.outbox = Outbox(pool, f"{node}/{secrets.token_hex(6)}", node)
        self.message_builder: MessageBuilder | None = None  # needs the database to know its own name
        self.queues = ChannelQueues(draw)
        self.attempts = DeliveryAttempts(self.outbox, out, count, draw, self.queues.attempt_ended, self.wake)
        self.flapping = Flapping(self.outbox)
        self._round = DeliveryRound(
            self.outbox, self.queues, self.attempts, self.flapping, count, self.wake, lambda: self.lease_s
        )
        self.periodic = PeriodicAlerts(
            self.outbox, out, settings, self.wake, lambda: self.message_builder if self.at_work else None, count
        )
        # Times that tests shrink. A claim outlives a dispatcher by `lease_s`, its lease by `life_s`.
        self.lease_s = 10.0
        self.life_s = 6.0
        self.pulse_s = 2.0
        self._public_url = settings.public_url
        self._woken = asyncio.Event()
        self._trusted_until = 0.0

    async def start(self) -> None:
        """Begins to work as soon as the lease is ours. Needs no database yet."""
        self.attempts.on_death = self.on_death
        await self.attempts.start()
        self.periodic.on_death = self.on_death
        await self.periodic.start()
        self.spawn(self._renew_lease(), "renew the lease")
        self.spawn(self._deliver(), "deliver")

    async def stop(self) -> None:
        """No new attempts; those under way are finished or given back, and the next dispatcher may begin."""
        self._trusted_until = 0.0
        await self.cancel_tasks()
        await self.periodic.stop()
        await self.attempts.stop()
        try:
            await self.outbox.give_up()
        except DatabaseDownError as error:
            log.warning(
                "dispatcher.lease_not_released",
                detail=lease_row.NOT_RELEASED,
                expires_in_s=self.life_s,
                error=str(error),
            )

    def wake(self) -> None:
        """There is something new in the outbox."""
        self._woken.set()

    @property
    def at_work(self) -> bool:
        """Whether this is the active dispatcher, as far as its lease allows to assume."""
        return monotonic() < self._trusted_until

    async def _renew_lease(self) -> None:
        """Renews the lease and all claims under way; stands by to take over from another dispatcher."""
        while True:
            began = monotonic()
            try:
                if self.message_builder is None:
                    self.message_builder = MessageBuilder(await self.outbox.identity(), self._public_url)
                before = self.at_work
                # Trusted only from the start of the question on: a slow answer must not stretch it.
                self._trusted_until = began + self.life_s if await self.outbox.take_over(self.life_s) else 0.0
                if self.at_work and not before:
                    log.info("dispatcher.lease_taken", holder=self.outbox.holder)
                    self.wake()
                await self.attempts.renew(self.lease_s)
            except DatabaseDownError as error:
                log.warning("dispatcher.lease_renewal_failed", error=str(error))
            except Exception:
                log.exception("dispatcher.lease_renewal_failed")
            await asyncio.sleep(max(0.05, self.pulse_s - (monotonic() - began)))

    async def _deliver(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.queues.ready_in_s(POLL_S)):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            if self.at_work and self.message_builder is not None:
                try:
                    await self._round.run(self.message_builder)
                except DatabaseDownError as error:
                    log.warning("dispatcher.round_failed", error=str(error))
                    await asyncio.sleep(AGAIN_S)
                except Exception:
                    log.exception("dispatcher.round_failed")
                    await asyncio.sleep(AGAIN_S)
            await asyncio.sleep(ROUND_S_MIN)
