"""A dispatcher at work on a real database, with rows as the scheduler writes them."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from offbeat_server.config import Settings
from offbeat_server.db.pool import open_pool
from offbeat_server.notify.dispatcher import Dispatcher
from offbeat_server.notify.transport.http_client import Transport
from tests.support.harness import HANG_S, Receiver

OPENED_AT = "2026-11-24T03:10:00Z"


def settings(**changes: Any) -> Settings:
    """Settings under which receivers on this machine may be sent to."""
    return Settings(**{"allow_private_destinations": True, "public_url": "https://beat.example.org", **changes})


class Scene:
    """A database with channels and alerts, and dispatchers on it."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool
        self.counted: Counter[tuple[str, str]] = Counter()

    async def channel(self, slug: str, kind: str, **definition: Any) -> int:
        """A channel of the default project."""
        id: int = await self.pool.fetchval(
            "insert into channels (project_id, slug, kind, definition) "
            "select id, $1, $2, $3::jsonb from projects where slug = 'default' returning id",
            slug,
            kind,
            definition,
        )
        return id

    async def alert(
        self, channel: int | None, monitor: int | None = 1, incident: int | None = 1, kind: str = "opened", **more: Any
    ) -> int:
        """One alert, as the scheduler writes it."""
        ordinal = more.pop("ordinal", {"opened": 0, "worse": 1, "resolved": 9}.get(kind, 0))
        facts = {
            "monitor": f"job-{monitor}",
            "name": f"Job {monitor}",
            "project": "default",
            "incident": incident,
            "kind": kind,
            "status": "up" if kind == "resolved" else "down",
            "cause": "missed",
            "reason": "no ping by 03:10:00: it was due at 03:00:00, with a grace period of 10 min",
            "opened_at": OPENED_AT,
            "decided_at": "2026-11-24T03:10:00.1Z",
            **({"resolved_at": "2026-11-24T04:00:00Z"} if kind == "resolved" else {}),
            **more.pop("facts", {}),
        }
        columns = {
            "project_id": 1,
            "channel_id": channel,
            "monitor_id": monitor,
            "incident": incident,
            "ordinal": ordinal,
            "kind": kind,
            "facts": facts,
            **more,
        }
        names = ", ".join(columns)
        places = ", ".join(f"${n}" + ("::jsonb" if name == "facts" else "") for n, name in enumerate(columns, 1))
        id: int = await self.pool.fetchval(
            f"insert into alerts ({names}) values ({places}) returning id", *columns.values()
        )
        return id

    async def alerts(self, channel: int, count: int, first: int = 1, kind: str = "opened", incident: int = 1) -> None:
        """Many at once: monitors `first` and following, each with one incident."""
        await self.pool.execute(
            "insert into alerts (project_id, channel_id, monitor_id, incident, ordinal, kind, facts) "
            "select 1, $1, n, $5, case when $4 = 'opened' then 0 else 9 end, $4, "
            "jsonb_build_object('monitor', 'job-' || n, 'name', 'Job ' || n, "
            "'project', 'default', 'incident', $5::int, 'kind', $4::text, 'reason', 'no ping', 'opened_at', $6::text, "
            "'decided_at', $6::text) from generate_series($3::int, $3::int + $2::int - 1) as n",
            channel,
            count,
            first,
            kind,
            incident,
            OPENED_AT,
        )

    async def incidents(self, *monitors: int, number: int = 1) -> None:
        """An open incident of each of these."""
        await self.pool.execute(
            "insert into incidents (monitor_id, number, project_id, opened_at, decided_at, cause, reason, causes) "
            "select monitor_id, $2, 1, now(), now(), 'missed', 'no ping', '[]' from unnest($1::integer[]) monitor_id",
            list(monitors),
            number,
        )

    async def row(self, id: int) -> asyncpg.Record:
        """An alert as it stands."""
        row = await self.pool.fetchrow("select * from alerts where id = $1", id)
        assert row is not None
        return row

    async def states(self) -> Counter[str]:
        """How many alerts there are in each state, except for reports of failing channels: these come at any time."""
        rows = await self.pool.fetch(
            "select state, count(*) as n from alerts where facts ->> 'cause' is distinct from 'channel' group by state"
        )
        return Counter({row["state"]: row["n"] for row in rows})

    async def settled(self) -> Counter[str]:
        """Wait until nothing is pending. Fails when nothing has become settled for long."""
        before: Counter[str] = Counter()
        deadline = 0.0
        while True:
            states = await self.states()
            if not states["pending"]:
                return states
            if states != before:
                before, deadline = states, time.monotonic() + HANG_S
            assert time.monotonic() < deadline, f"still pending: {states}\n{await self._pending()}"
            await asyncio.sleep(0.02)

    async def _pending(self) -> str:
        """The alerts that wait in each lane, and the reason."""
        rows = await self.pool.fetch(
            "select lane, digest_id, count(*), max(attempts) as attempts, max(lapses) as lapses, max(error) as error, "
            "min(next_attempt_at) - clock_timestamp() as next from alerts where state = 'pending' group by 1, 2 "
            "union all select lane, -id, alerts, attempts, lapses, error, next_attempt_at - clock_timestamp() "
            "from digests where state = 'pending' order by 1, 2"
        )
        return "\n".join(" ".join(f"{name}={value}" for name, value in row.items()) for row in rows)

    @contextlib.asynccontextmanager
    async def dispatcher(self, node: str = "here", start: bool = True, **changes: Any) -> AsyncIterator[Dispatcher]:
        """A dispatcher with a transport, at work."""
        out = Transport(settings(**changes), lambda: time.time_ns() // 1000)
        await out.start()
        dispatcher = Dispatcher(self.pool, out, settings(**changes), node, self._count, draw=lambda: 0.0)
        dispatcher.attempts.stop_s = 0.3
        if start:
            await dispatcher.start()
        try:
            yield dispatcher
        finally:
            await dispatcher.stop()
            await out.stop()

    def _count(self, kind: str, result: str, count: int) -> None:
        self.counted[(kind, result)] += count


@contextlib.asynccontextmanager
async def scene(database_url: str) -> AsyncIterator[Scene]:
    """On a fresh database."""
    pool = await open_pool(database_url, size_max=4)
    try:
        yield Scene(pool)
    finally:
        await pool.close()


async def end_leases(database: asyncpg.Connection | asyncpg.Pool) -> None:
    """Leases and claims of processes that were killed end at once."""
    await database.execute("update lease set expires_at = '-infinity'")
    for table in ("alerts", "digests"):
        await database.execute(
            f"update {table} set next_attempt_at = clock_timestamp() where state = 'pending' and claimed_by is not null"
        )


async def at_work(*dispatchers: Dispatcher) -> None:
    """One of them has begun."""
    async with asyncio.timeout(HANG_S):
        while not any(dispatcher.at_work for dispatcher in dispatchers):
            await asyncio.sleep(0.02)


def ids(receiver: Receiver) -> list[str]:
    """Of all messages that came, in their order."""
    return [request.headers["webhook-id"] for request in receiver.requests]


def types(receiver: Receiver) -> list[str]:
    """The same of their types."""
    return [request.json["type"] for request in receiver.requests]
