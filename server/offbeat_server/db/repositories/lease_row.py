"""Leases: rows that say which process is the scheduler, and which one the dispatcher, by the database's clock.

No session advisory lock: it would break behind a pooler in transaction mode. The
caller must stop its work before its lease expires (scheduler/lease.py, notify/dispatcher.py). Both leases are taken
by the same rule; docs/development/decisions/0010-two-leases.md says in what they differ.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from offbeat_server.common.errors import LeaseLostError
from offbeat_server.db.pool import Connection, database_trouble
from offbeat_server.db.sql_loader import load

SCHEDULER, DISPATCHER = "keeper", "courier"  # their rows
NOT_RELEASED = "Another process can take the lease only when it expires."  # for the log
_SQL = load("lease")


class Held(NamedTuple):
    """A lease that this process holds: its row, its term and the holder's id."""

    name: str
    term: int
    holder: str


async def take(
    connection: Connection, name: str, holder: str, node: str, life_s: float, metrics_address: str | None = None
) -> Held | None:
    """Take a lease in a new term; None while another process holds it. Raises DatabaseDownError."""
    with database_trouble():
        await connection.execute(_SQL["end_stuck_sessions"])  # it may hold the lease's row
        term = await connection.fetchval(_SQL["take"], name, holder, node, life_s, metrics_address)
    return None if term is None else Held(name, term, holder)


async def take_or_renew(connection: Connection, name: str, holder: str, node: str, life_s: float) -> bool:
    """Take a lease, or renew it in its term; False while another process holds it. Raises DatabaseDownError."""
    with database_trouble():
        return await connection.fetchval(_SQL["take_or_renew"], name, holder, node, life_s) is not None


async def end_stuck_sessions(connection: Connection) -> int:
    """End the sessions that hold locks for a process that says nothing; how many. Raises DatabaseDownError."""
    with database_trouble():
        return len(await connection.fetch(_SQL["end_stuck_sessions"]))


async def renew(connection: Connection, held: Held, life_s: float) -> bool:
    """Extend the lease; False if this process no longer holds it. Raises DatabaseDownError."""
    with database_trouble():
        return await connection.fetchval(_SQL["renew"], *held, life_s) is not None


async def release(connection: Connection, held: Held) -> None:
    """Release the lease, so that another process can take it at once. Raises DatabaseDownError."""
    with database_trouble():
        await connection.execute(_SQL["release"], held.name, held.holder, held.term)


async def release_in_any_term(connection: Connection, name: str, holder: str) -> None:
    """Give up the lease if this holder has it, in any term. Raises DatabaseDownError."""
    with database_trouble():
        await connection.execute(_SQL["release_in_any_term"], name, holder)


async def outlast(connection: Connection, held: Held) -> None:
    """Wait for the end of every transaction of `held_by` that a lost connection has left behind.

    Raises LeaseLostError, DatabaseDownError.
    """
    with database_trouble():
        if await connection.fetchval(_SQL["outlast"], *held) is None:
            raise _lost(held)


@asynccontextmanager
async def held_by(connection: Connection, held: Held) -> AsyncIterator[None]:
    """A transaction that commits only while this process holds the lease. Raises LeaseLostError, DatabaseDownError."""
    with database_trouble():
        async with connection.transaction():
            await connection.execute(_SQL["bound_idle"])
            if await connection.fetchval(_SQL["hold"], *held) is None:
                raise _lost(held)
            yield


def _lost(held: Held) -> LeaseLostError:
    return LeaseLostError(f"the lease {held.name} is no longer held in term {held.term}")
