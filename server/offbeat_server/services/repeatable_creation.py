"""Creation that may be repeated: the same Idempotency-Key within a day creates nothing more.

Kept in the transaction that creates, so there is no moment in which a thing exists and its key is not known.
"""

from typing import NamedTuple

from offbeat_server.common.errors import CommandError
from offbeat_server.db.pool import Connection
from offbeat_server.db.repositories import access as stored


class Repeatable(NamedTuple):
    """A request that its client may repeat: who creates what (`scope`), the client's key, a hash of the request."""

    scope: str
    key: str
    request: bytes


async def created_before(connection: Connection, repeatable: Repeatable | None) -> str | None:
    """The subject that this request has created already. Raises CommandError if its key stands for another request."""
    if repeatable is None:
        return None
    row = await stored.find_creation(connection, repeatable.scope, repeatable.key)
    if row is None:
        return None
    if bytes(row["request"]) != repeatable.request:
        raise CommandError("This Idempotency-Key was used for another request.")
    return str(row["subject"])


async def remember(connection: Connection, repeatable: Repeatable | None, subject: str) -> None:
    """Keep what this request has created."""
    if repeatable is not None:
        await stored.remember_creation(connection, repeatable.scope, repeatable.key, repeatable.request, subject)
