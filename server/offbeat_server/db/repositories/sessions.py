"""The table of sessions: open one, find it by its cookie, close it.

The table has only hashes of the cookie's id and of the key that opened the session, so that a copy of the table does
not let anyone sign in.
"""

import hashlib
import secrets
from collections.abc import Collection

import asyncpg

from offbeat_server.db import sql_loader

_SQL = sql_loader.load("sessions")
IDLE_S = 12 * 3_600.0  # without a page or an open stream
LIFE_S = 7 * 86_400.0  # in every case


def _hash(session_id: str) -> bytes:
    # The id has 256 random bits: a plain hash cannot be turned back.
    return hashlib.sha256(session_id.encode()).digest()


async def open_session(pool: asyncpg.Pool, key_hash: bytes) -> str:
    """A new session that stands on this key; the id for the cookie."""
    session_id = secrets.token_urlsafe(32)
    await pool.execute(_SQL["sweep"], LIFE_S)
    await pool.execute(_SQL["open"], _hash(session_id), key_hash)
    return session_id


async def find_session(pool: asyncpg.Pool, session_id: str) -> asyncpg.Record | None:
    """The session with its key (`role` is None if the key no longer exists); None: unknown or too old."""
    id_hash = _hash(session_id)
    row = await pool.fetchrow(_SQL["find"], id_hash, IDLE_S, LIFE_S)
    if row is not None:
        await pool.execute(_SQL["touch"], id_hash)
    return row


async def living_sessions(pool: asyncpg.Pool, session_ids: Collection[str], admin_key_hash: bytes) -> set[str]:
    """Those of them that are not over: not closed, not too old, and their key is still valid."""
    by_hash = {_hash(each): each for each in session_ids}
    rows = await pool.fetch(_SQL["living"], list(by_hash), IDLE_S, LIFE_S, admin_key_hash)
    return {by_hash[row["id"]] for row in rows}


async def close_session(pool: asyncpg.Pool, session_id: str) -> None:
    """Sign out."""
    await pool.execute(_SQL["close"], _hash(session_id))
