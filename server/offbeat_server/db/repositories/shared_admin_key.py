"""One database, one admin key: nodes with directories of their own agree on the key that the first of them made.

The database has only its hash, and where it was shown; the key itself stays in the directory of that node. A node that
was given a key (--admin-key) uses that one, for itself alone.
"""

from pathlib import Path
from typing import NamedTuple

import asyncpg

from offbeat import admin_key
from offbeat_server.common.errors import SchemaError
from offbeat_server.db.pool import database_trouble
from offbeat_server.db.repositories.access import hash_key
from offbeat_server.db.sql_loader import load

_SQL = load("access")


class AdminKey(NamedTuple):
    """The admin key as a process knows it: its hash; the key itself, if this node has it; and its place."""

    hash: bytes
    key: str | None
    home: str
    is_new: bool = False


async def agreed(pool: asyncpg.Pool, given: str | None, data_dir: Path, node: str) -> AdminKey:
    """The admin key of this process. Made where the database knows of none.

    Raises DatabaseDownError, and SettingsError where it cannot be kept.
    """
    with database_trouble():
        secret: bytes = await pool.fetchval(_SQL["secret"])
        if given:
            return AdminKey(hash_key(secret, given), given, "--admin-key")
        hash, home = await _known(pool)
        key, is_new = admin_key.stored(data_dir), False
        if hash is None:
            key, is_new = admin_key.stored_or_made(data_dir)
            home = f"{admin_key.path_in(data_dir)} of {node}"
            await pool.execute(_SQL["claim_admin_key"], hash_key(secret, key), home)
            hash, home = await _known(pool)  # another node may have been first
    if hash is None:
        raise SchemaError("the table `meta` has no row; this is no database of Offbeat's")
    if key is not None and hash_key(secret, key) == hash:
        return AdminKey(hash, key, home, is_new)
    if is_new:
        admin_key.path_in(data_dir).unlink(missing_ok=True)
    return AdminKey(hash, None, home)


async def _known(pool: asyncpg.Pool) -> tuple[bytes | None, str]:
    row = await pool.fetchrow(_SQL["admin_key"])
    return (None, "") if row is None else (row["admin_key_hash"], row["admin_key_home"] or "")
