"""Ends the sessions of processes that froze or vanished within a transaction, because other sessions wait for their
lock.

A process that waits for the lease does so too, for itself (db/repositories/lease_row.py). But if the scheduler is
healthy, perhaps no process waits for the lease. Then a worker that was frozen in a change of definitions, or a
dispatcher in the middle of a digest, would block all others.
"""

import asyncio

import structlog

from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.common.service import Service
from offbeat_server.config import Settings
from offbeat_server.db.pool import KeptConnection
from offbeat_server.db.repositories.lease_row import end_stuck_sessions

EVERY_S = 2.0

log = structlog.get_logger("stuck_sessions")


class StuckSessionReaper(Service):
    """Looks every two seconds, on a connection of its own: those of the pool may all be waiting for that very lock."""

    name = "stuck_sessions"

    def __init__(self, url: str, settings: Settings) -> None:
        super().__init__()
        self._connection = KeptConnection(url, pgbouncer=settings.pgbouncer, application_name="offbeat stuck sessions")

    async def start(self) -> None:
        """Begin; needs no database yet."""
        self.spawn(self._run(), "look")

    async def _run(self) -> None:
        while True:
            try:
                if ended := await end_stuck_sessions(await self._connection.get()):
                    log.warning("stuck_sessions.sessions_ended", sessions=ended)
            except DatabaseDownError as error:
                log.debug("stuck_sessions.check_failed", error=str(error))
                self._connection.drop()
            await asyncio.sleep(EVERY_S)
