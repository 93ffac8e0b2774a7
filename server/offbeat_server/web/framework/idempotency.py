"""Creation that may be repeated: the same Idempotency-Key within a day creates nothing more.

Kept in the transaction that creates, so there is no moment in which a thing exists and its key is not known. The
answer to the repetition is the object as it is now, with `Idempotency-Replayed: true`.
"""

from typing import Any

from offbeat_server.db.pool import Connection
from offbeat_server.db.repositories import access as stored
from offbeat_server.web.framework.params import idempotency_in
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.framework.routing import Call

REPLAYED = {"Idempotency-Replayed": "true"}


async def created_before(connection: Connection, call: Call[Any, Any], what: str) -> str | None:
    """Return the object that this request has created already. Raises ApiError if its key was used for another one."""
    given = idempotency_in(call, what)
    if given is None:
        return None
    scope, key, request = given
    row = await stored.find_creation(connection, scope, key)
    if row is None:
        return None
    if bytes(row["request"]) != request:
        raise ApiError(422, "This Idempotency-Key was used for another request.")
    return str(row["subject"])


async def remember(connection: Connection, call: Call[Any, Any], what: str, subject: str) -> None:
    """Keep what this request has created."""
    given = idempotency_in(call, what)
    if given is not None:
        scope, key, request = given
        await stored.remember_creation(connection, scope, key, request, subject)
