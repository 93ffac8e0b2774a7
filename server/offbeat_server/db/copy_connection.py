"""The connection class of all sessions: a cheap COPY, and no commit that the standby may not have.

asyncpg's `copy_to_table` builds its statement again on every call and finds out the kind of its source. With a time-out
around it and a translation of its errors that was a third of the CPU that a batch of 32 pings cost this process (162
µs, and 107 without). It finally calls a method of the protocol, the same in every release since 0.30; a connection
class of the application is asyncpg's own way to reach it.

A commit that waits for a synchronous standby can be cancelled (`pg_cancel_backend`). Postgres then reports success with
a warning: the transaction is committed on the primary, and the standby may not have it. asyncpg drops warnings. Here
this one becomes the error of the statement, so that no caller takes the commit for a safe one.
"""

from collections.abc import Mapping

import asyncpg

from offbeat_server.common.errors import DatabaseDownError

_WAIT_FOR_STANDBY = "SyncRepWaitForLSN"  # the function of Postgres that warns; the text is in the server's language


class CopyConnection(asyncpg.Connection):
    """A connection of asyncpg with `copy_in`, to which a commit without its standby is an error."""

    async def copy_in(self, statement: str, body: bytes) -> None:
        """`COPY … FROM STDIN` of a whole body, which goes out without waiting for Postgres' word that it may.

        Bounded by the connection's `command_timeout`; raises as every call of asyncpg.
        """
        await self._protocol.copy_in(statement, None, body, None, None, None)  # type: ignore[attr-defined]

    def _process_log_message(self, fields: Mapping[str, str], last_query: str | None) -> None:
        """Called by asyncpg for every notice. An exception raised here is raised by the statement under way."""
        if fields.get("R") == _WAIT_FOR_STANDBY:
            raise DatabaseDownError("Postgres: committed on the primary, and perhaps not on the synchronous standby")
        super()._process_log_message(fields, last_query)  # type: ignore[misc]
