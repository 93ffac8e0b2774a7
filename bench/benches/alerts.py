"""From a failure to the receiver: beside channels that hang, and with alerts for ten thousand channels at once.

The receivers are servers in the bench's own process, which does little else. A delivery is measured from the instant at
which its ping is sent, or from the deadline that passes, to the arrival of the request.
"""

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from aiohttp import web

from bench.benches.storm import bulk_ping, next_slot, until_after_a_slot
from bench.measure import Goal, Line, Result, ratio
from bench.stage import ADMIN_KEY, Stage

STUCK_EACH = 4  # alerts that wait for each channel that hangs
WAIT_S = 180.0

# A channel for each monitor, and for nothing else: default ones also get the alerts about the server itself.
_CHANNELS = """
with made as (
  insert into channels (project_id, slug, kind, is_default, definition)
  select 1, slug, 'webhook', false, jsonb_build_object('url', $1::text || slug) from monitors
  returning slug
), defined as (
  update monitors m set definition = m.definition || jsonb_build_object('channels', jsonb_build_array(m.slug))
    from made where m.slug = made.slug
)
update changes c
   set after = jsonb_set(c.after, '{definition,channels}', jsonb_build_array(c.subject))
"""
_DELIVERED = "select count(*) from alerts where state = 'delivered' and kind = 'opened'"


class Receiver:
    """Counts requests by path; those below /stuck/ are never answered."""

    def __init__(self) -> None:
        self.url = ""
        self.counts: Counter[str] = Counter()
        self.last_at = 0.0
        self.closing = asyncio.Event()
        self._arrived = asyncio.Event()

    async def until(self, total: int) -> None:
        """Wait for this number of requests. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_S):
            while self.counts.total() < total:
                self._arrived.clear()
                await self._arrived.wait()

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """The answer to every request."""
        self.counts[request.path] += 1
        self.last_at = time.time()
        self._arrived.set()
        if request.path.startswith("/stuck/"):
            await self.closing.wait()
        return web.Response()


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on this machine."""
    receiver = Receiver()
    runner = web.ServerRunner(web.Server(receiver.answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        receiver.closing.set()
        await runner.cleanup()


async def run(stage: Stage) -> Result:
    """A healthy channel alone and beside hanging ones, in turn; then the storm."""
    monitors, stuck = (20, 5) if stage.quick else (100, 200)
    count, period_s = (300, 5) if stage.quick else (10_000, 20)
    result = Result(
        "alerts", f"delivery beside {stuck} channels that hang, and {count:,} incidents into {count:,} channels"
    )
    alone = Line("from the ping to the receiver, p95, alone", "ms")
    beside = Line(f"the same beside {stuck} channels that hang", "ms")
    delivered = Line(f"{count:,} incidents into {count:,} channels: until all are delivered", "s")
    twice = Line("of these delivered twice", "alerts")
    for _ in range(stage.rounds):
        alone.values.append(await _p95_ms(stage, monitors, 0))
        beside.values.append(await _p95_ms(stage, monitors, stuck))
        took_s, again = await _storm(stage, count, period_s)
        delivered.values.append(took_s)
        twice.values.append(again)
    result.lines = [alone, beside, delivered, twice]
    result.goals = [
        Goal("p95 beside channels that hang, × alone", ratio(beside, alone), at_most=1.5),
        Goal("all delivered", delivered.median, at_most=30.0, unit=" s"),
        Goal("delivered twice", twice.high, at_most=0, unit=" alerts"),
    ]
    return result


async def _p95_ms(stage: Stage, count: int, stuck: int) -> float:
    """One failure after the other, each of another monitor, all with one channel."""
    async with (
        stage.database() as database,
        receiving() as receiver,
        stage.offbeat(database, "--allow-private-destinations") as offbeat,
        aiohttp.ClientSession(offbeat.url, headers={"X-Api-Key": ADMIN_KEY}) as session,
    ):
        hook = {"kind": "webhook", "digest": False, "per_minute": 60_000, "default": False}
        channels = {"healthy": {**hook, "url": f"{receiver.url}/healthy"}}
        channels |= {f"stuck-{n}": {**hook, "url": f"{receiver.url}/stuck/{n}"} for n in range(stuck)}
        monitors = {f"job-{n}": {"channels": ["healthy"]} for n in range(count)}
        monitors |= {f"stuck-{n}-{m}": {"channels": [f"stuck-{n}"]} for n in range(stuck) for m in range(STUCK_EACH)}
        keys = await _apply(session, {"channels": channels, "monitors": monitors})
        if stuck:
            await _fail(session, *(key for slug, key in keys.items() if slug.startswith("stuck-")))
            await receiver.until(stuck)
        return await _one_by_one(session, receiver, [keys[f"job-{n}"] for n in range(count)])


async def _one_by_one(session: aiohttp.ClientSession, receiver: Receiver, keys: list[str]) -> float:
    latencies_s = []
    for n, key in enumerate(keys, 1):
        began = time.monotonic()
        await _fail(session, key)
        async with asyncio.timeout(WAIT_S):
            while receiver.counts["/healthy"] < n:
                await receiver.until(receiver.counts.total() + 1)
        latencies_s.append(time.monotonic() - began)
    return statistics.quantiles(latencies_s, n=20)[-1] * 1000


async def _apply(session: aiohttp.ClientSession, config: dict[str, Any]) -> dict[str, str]:
    async with session.post("/api/v1/apply", json=config) as answer:
        if answer.status != 200:
            raise RuntimeError(f"apply: {answer.status} {await answer.text()}")
    keys: dict[str, str] = {}
    cursor: str | None = ""
    while cursor is not None:
        async with session.get(
            "/api/v1/monitors", params={"limit": "100", "cursor": cursor} if cursor else {}
        ) as answer:
            page = await answer.json()
        keys |= {each["slug"]: each["key"] for each in page["items"]}
        cursor = page["next_cursor"]
    return keys


async def _fail(session: aiohttp.ClientSession, *keys: str) -> None:
    lines = "".join(f'{{"key":"{key}","status":"fail"}}\n' for key in keys)
    async with session.post("/api/v1/heartbeats", data=lines.encode()) as answer:
        if answer.status != 200:
            raise RuntimeError(f"ping: {answer.status} {await answer.text()}")


async def _storm(stage: Stage, count: int, period_s: int) -> tuple[float, int]:
    """Seconds from the one deadline of all monitors to the last arrival, and how many came twice."""
    grace_s = 1 if stage.quick else 5
    async with stage.database() as database, receiving() as receiver:
        keys = await database.populate(count, {"oncalendar": f"*:*:0/{period_s}", "grace": f"{grace_s}s"})
        await database.connection.execute(_CHANNELS, f"{receiver.url}/", timeout=600)
        async with stage.offbeat(database, "--allow-private-destinations") as offbeat:
            await until_after_a_slot(period_s)
            await bulk_ping(offbeat, keys)
            deadline = next_slot(period_s) + grace_s
            await receiver.until(count)
            took_s = receiver.last_at - deadline
            while await database.value(_DELIVERED) < count:  # a second copy would come until all are settled
                await asyncio.sleep(0.1)
        return took_s, receiver.counts.total() - count
