"""Access keys at rest, and what was created under an idempotency key.

A key is random and long, so a keyed hash of it is enough and fast: HMAC-SHA256 with the secret of this installation. A
copy of the table alone opens nothing, and neither does the key of another installation.
"""

import hashlib
import hmac
import secrets
from typing import NamedTuple

import asyncpg

from offbeat_server.db import sql_loader
from offbeat_server.db.pool import Connection
from offbeat_server.db.repositories import changes
from offbeat_server.db.repositories.changes import Change

_SQL = sql_loader.load("access")
_PREFIXES = {"admin": "oba_", "read": "obr_", "ping": "obp_"}
PREFIX_CHARS = 10  # of a key: enough to know it again, too few to be it


class MadeKey(NamedTuple):
    """A new key; `key` is shown once and then forgotten."""

    id: int
    key: str


async def load_secret(pool: asyncpg.Pool) -> bytes:
    """The secret of this installation."""
    secret: bytes = await pool.fetchval(_SQL["secret"])
    return secret


def hash_key(secret: bytes, key: str) -> bytes:
    """The stored data of a key."""
    return hmac.digest(secret, key.encode(), hashlib.sha256)


async def find_key(pool: asyncpg.Pool, secret: bytes, key: str) -> asyncpg.Record | None:
    """The row of a valid key; None for an unknown or revoked one."""
    row = await pool.fetchrow(_SQL["find_key"], hash_key(secret, key))
    if row is not None:
        await pool.execute(_SQL["touch_key"], row["id"])
    return row


async def make_key(
    connection: Connection, secret: bytes, role: str, name: str, project: asyncpg.Record | None, actor: str
) -> MadeKey:
    """Make a key of a role, for one project or for all."""
    key = _PREFIXES[role] + secrets.token_urlsafe(24)
    prefix, project_id = key[:PREFIX_CHARS], project["id"] if project else None
    key_id: int = await connection.fetchval(_SQL["insert_key"], project_id, role, name, prefix, hash_key(secret, key))
    after = {"name": name, "role": role, "project": project["slug"] if project else None}
    await changes.record_one(connection, actor, Change("key", project_id, None, prefix, None, after))
    return MadeKey(key_id, key)


async def keys(pool: asyncpg.Pool, after: int, project_id: int | None, limit: int) -> list[asyncpg.Record]:
    """Keys by id, later than `after`."""
    return await pool.fetch(_SQL["keys"], after, project_id, limit)


async def key_row(pool: asyncpg.Pool | Connection, key_id: int) -> asyncpg.Record | None:
    """One key, also a revoked one."""
    return await pool.fetchrow(_SQL["key"], key_id)


async def revoke_key(connection: Connection, row: asyncpg.Record, actor: str) -> bool:
    """Revoke a key; False when it was already."""
    if await connection.fetchval(_SQL["revoke_key"], row["id"]) is None:
        return False
    before = {"name": row["name"], "role": row["role"], "project": row["project"]}
    await changes.record_one(connection, actor, Change("key", row["project_id"], None, row["prefix"], before, None))
    return True


async def find_creation(connection: Connection, scope: str, key: str) -> asyncpg.Record | None:
    """The request (a hash) and the subject that this idempotency key stands for."""
    return await connection.fetchrow(_SQL["find_creation"], scope, key)


async def remember_creation(connection: Connection, scope: str, key: str, request: bytes, subject: str) -> None:
    """Keep for a day what was created, in the transaction that creates it."""
    await connection.execute(_SQL["forget_creations"])
    await connection.execute(_SQL["remember_creation"], scope, key, request, subject)
