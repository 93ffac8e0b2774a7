"""Ends the sessions of processes that froze or vanished within a transaction, for the sake of who waits for their lock.

Whoever waits for the lease does so too, for itself (repositories/lease.py). But where the keeper is well, nobody may be
waiting for the lease, and a worker that was frozen in a change of definitions, or a courier in the midst of a digest,
would keep all others from theirs.
"""

import asyncio

import structlog

from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.common.service import Service
from offbeat_server.config import Settings
from offbeat_server.db.pool import Connection, connect
from offbeat_server.db.repositories.lease import end_stuck_sessions

EVERY_S = 2.0

log = structlog.get_logger("stuck_sessions")


class StuckSessionReaper(Service):
    """Looks every two seconds, on a connection of its own: those of the pool may all be waiting for that very lock."""

    name = "stuck_sessions"

    def __init__(self, url: str, settings: Settings) -> None:
        super().__init__()
        self._url, self._settings = url, settings

    async def start(self) -> None:
        """Begin; needs no database yet."""
        self.spawn(self._run(), "look")

    async def _run(self) -> None:
        connection: Connection | None = None
        while True:
            try:
                if connection is None:
                    connection = await connect(
                        self._url, pgbouncer=self._settings.pgbouncer, application_name="offbeat stuck sessions"
                    )
                if ended := await end_stuck_sessions(connection):
                    log.warning("stuck_sessions.sessions_ended", sessions=ended)
            except DatabaseDownError as error:
                log.debug("stuck_sessions.check_failed", error=str(error))
                if connection is not None:
                    connection.terminate()
                    connection = None
            await asyncio.sleep(EVERY_S)
