"""The management API on a real socket and a real Postgres, without the rest of the server: pings are put into the log
by hand, so a test decides what there is to read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import asyncpg
import orjson
from aiohttp import web

from offbeat_server.common.clock import LogClock, monotonic_ns
from offbeat_server.common.instants import Micros, to_micros
from offbeat_server.config import Settings
from offbeat_server.db.partitions import make_partitions
from offbeat_server.db.pool import open_pool
from offbeat_server.db.repositories.access import hash_key, load_secret
from offbeat_server.engine.model.ping import Ping
from offbeat_server.ingest.http.client_address import ClientAddresses
from offbeat_server.notify.channels.registry import Kinds
from offbeat_server.services.context import Context
from offbeat_server.web.api.routes import add_routes
from offbeat_server.web.framework.authorization import Access
from offbeat_server.web.framework.routing import Deps
from tests.support.harness import ADMIN_KEY, Answer


@dataclass
class Api:
    """A client of the API, and the database behind it."""

    session: aiohttp.ClientSession
    pool: asyncpg.Pool
    deps: Deps
    changed: list[None] = field(default_factory=list)
    pings: list[tuple[int, int, Ping]] = field(default_factory=list)
    _seq: int = 0

    async def __call__(
        self, method: str, path: str, json: Any = None, key: str | None = ADMIN_KEY, **more: Any
    ) -> Answer:
        """One request below /api/v1."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= more.pop("headers", {})
        async with self.session.request(method, "/api/v1" + path, json=json, headers=headers, **more) as response:
            text = await response.read()
            is_json = "json" in response.content_type and text
            return Answer(response.status, orjson.loads(text) if is_json else text.decode(), response.headers)

    async def ping(self, slug: str, signal: str = "success", at: datetime | None = None, **fields: Any) -> None:
        """A ping in the log, as the writer would leave it."""
        self._seq += 1
        row = await self.pool.fetchrow("select id, project_id from monitors where slug = $1", slug)
        assert row is not None
        if at is not None:  # just after midnight an hour ago is another day
            async with self.pool.acquire() as connection:
                await make_partitions(connection, at.date(), 0)
        columns = ["at", "seq", "writer", "monitor_id", "project_id", "signal", *fields]
        values = [at or datetime.now(UTC), self._seq, 1, row["id"], row["project_id"], signal, *fields.values()]
        marks = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        await self.pool.execute(f"insert into pings ({', '.join(columns)}) values ({marks})", *values)


@asynccontextmanager
async def serving(database_url: str, **settings: Any) -> AsyncIterator[Api]:
    """The API for as long as the block runs."""
    pool = await open_pool(database_url)
    clock = LogClock()
    before = monotonic_ns() // 1_000
    clock.sample(before, to_micros(await pool.fetchval("select clock_timestamp()")), monotonic_ns() // 1_000)
    await pool.execute("insert into writers (started_at, accepted_through, node) values (now(), now(), 'test')")
    changed: list[None] = []
    pings: list[tuple[int, int, Ping]] = []

    async def append(monitor_id: int, project_id: int, ping: Ping) -> None:
        pings.append((monitor_id, project_id, ping))

    def now() -> Micros:
        return clock.now()

    chosen = Settings(**settings)
    deps = Deps(
        Context(pool, now, lambda: changed.append(None), append, lambda: None, Kinds()),
        chosen,
        Access(pool, hash_key(await load_secret(pool), ADMIN_KEY), ClientAddresses(chosen.trusted_proxies)),
    )
    app = web.Application()
    add_routes(app, deps)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
            yield Api(session, pool, deps, changed, pings)
    finally:
        await runner.cleanup()
        await pool.close()
