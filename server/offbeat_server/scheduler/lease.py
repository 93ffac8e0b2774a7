"""Whether this process may be the scheduler: the lease in Postgres, and how long this process trusts to have it.

The trust is local and monotonic, anchored at the *start* of a renewal: an answer that took long does not stretch it, a
process that was frozen finds it expired when it wakes. It ends before another process can take the lease.
"""

import asyncio

import structlog

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import LeaseLostError, OffbeatError
from offbeat_server.config import Settings
from offbeat_server.db.pool import KeptConnection
from offbeat_server.db.repositories import lease_row
from offbeat_server.db.repositories.lease_row import SCHEDULER, Held

LIFE_S = 6.0  # a crashed scheduler is replaced after this and `TAKE_EVERY_S`
RENEW_EVERY_S = LIFE_S / 3
TRUST_S = LIFE_S - 1.0
TAKE_EVERY_S = 1.0

log = structlog.get_logger("lease")


class Lease:
    """Taken and renewed on a connection of its own, so that no long decision delays it.

    `metrics_address` is where the holder's /metrics is; None where it is found at the address of its writer.
    """

    def __init__(
        self,
        url: str,
        settings: Settings,
        holder: str,
        node: str,
        metrics_address: str | None,
        name: str = SCHEDULER,
    ) -> None:
        self._holder, self._node, self._metrics_address, self._name = holder, node, metrics_address, name
        self._connection = KeptConnection(
            url,
            pgbouncer=settings.pgbouncer,
            application_name="offbeat lease",
            command_timeout_s=RENEW_EVERY_S,
        )
        self._trusted_until_s = 0.0
        self.held: Held | None = None
        self.lost = asyncio.Event()

    def check(self) -> Held:
        """The lease. Raises LeaseLostError if another process may have it by now."""
        if self.held is None or monotonic() >= self._trusted_until_s:
            raise LeaseLostError(f"the lease {self._name} could not be renewed in time")
        return self.held

    async def take(self) -> Held:
        """Wait until it is ours; trouble with Postgres is waited out."""
        while True:
            started_s = monotonic()
            try:
                connection = await self._connection.get()
                held = await lease_row.take(
                    connection, self._name, self._holder, self._node, LIFE_S, self._metrics_address
                )
            except OffbeatError as error:
                log.warning("lease.request_failed", error=str(error))
                self._connection.drop()
                held = None
            if held is not None:
                self.held, self._trusted_until_s = held, started_s + TRUST_S
                self.lost.clear()
                log.info("lease.taken", term=held.term)
                return held
            await asyncio.sleep(TAKE_EVERY_S)

    async def keep(self) -> None:
        """Renew it until it is lost; then say so by `lost` and return."""
        while self.held is not None:
            await asyncio.sleep(RENEW_EVERY_S if self._connection.is_open else 0.25)
            started_s = monotonic()
            try:
                renewed = await lease_row.renew(await self._connection.get(), self.held, LIFE_S)
            except OffbeatError as error:
                log.warning("lease.renewal_failed", error=str(error))
                self._connection.drop()
                renewed = monotonic() < self._trusted_until_s
                started_s = self._trusted_until_s - TRUST_S
            if not renewed:
                break
            self._trusted_until_s = started_s + TRUST_S
        self.held = None
        self.lost.set()

    async def release(self) -> None:
        """Give it up, so that the next scheduler need not wait for its end."""
        held, self.held = self.held, None
        try:
            if held is not None:
                await lease_row.release(await self._connection.get(), held)
        except OffbeatError as error:
            log.warning("lease.not_released", detail=lease_row.NOT_RELEASED, expires_in_s=LIFE_S, error=str(error))
        self._connection.drop()
