"""The scheduler's connection to Postgres, on which it reads the log and writes its decisions."""

from offbeat_server.db.pool import Connection, connect


class SchedulerConnection:
    """Opened when it is first needed, and again after `drop`."""

    def __init__(self, url: str, *, pgbouncer: bool) -> None:
        self._url, self._pgbouncer = url, pgbouncer
        self._connection: Connection | None = None

    async def get(self) -> Connection:
        """Return the open connection. Raises DatabaseDownError."""
        if self._connection is None:
            self._connection = await connect(self._url, pgbouncer=self._pgbouncer, application_name="offbeat scheduler")
        return self._connection

    def drop(self) -> None:
        """Close it at once, without waiting for Postgres."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
