"""Use cases of access keys: create and revoke."""

from typing import Literal, NamedTuple

from offbeat_server.common.errors import NotFoundError
from offbeat_server.db.repositories import access as stored
from offbeat_server.db.repositories import projects
from offbeat_server.db.repositories.changes import changing
from offbeat_server.services.context import Context
from offbeat_server.services.repeatable_creation import Repeatable, created_before, remember

ID_MAX = 2**31 - 1


class CreateKey(NamedTuple):
    """Create an access key for one project, given by its slug, or for all with None."""

    name: str
    role: Literal["admin", "read", "ping"]
    project: str | None
    repeatable: Repeatable | None = None


class KeyCreated(NamedTuple):
    """The id of a key, and the key itself, which is shown once; None if an earlier request has created it."""

    id: int
    key: str | None


class RevokeKey(NamedTuple):
    """Revoke an access key. `project_id`: the only project whose keys may be revoked; None: any."""

    id: int
    project_id: int | None


async def create_key(context: Context, command: CreateKey, actor: str) -> KeyCreated:
    """Create an access key. Raises CommandError if the idempotency key was used for another request."""
    project = None if command.project is None else await projects.find_project(context.pool, command.project)
    if command.project is not None and project is None:
        raise NotFoundError(f"project {command.project}")
    secret = await stored.load_secret(context.pool)
    async with changing(context.pool) as connection:
        earlier = await created_before(connection, command.repeatable)
        if earlier is not None:
            return KeyCreated(int(earlier), None)
        created = await stored.make_key(connection, secret, command.role, command.name, project, actor)
        await remember(connection, command.repeatable, str(created.id))
    return KeyCreated(created.id, created.key)


async def revoke_key(context: Context, command: RevokeKey, actor: str) -> None:
    """Revoke an access key, immediately and permanently. Raises NotFoundError."""
    async with changing(context.pool) as connection:
        row = await stored.key_row(connection, command.id) if command.id <= ID_MAX else None
        if row is None or command.project_id not in (None, row["project_id"]):
            raise NotFoundError(f"key {command.id}")
        await stored.revoke_key(connection, row, actor)
