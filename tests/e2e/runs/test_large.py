"""One run of 10 000 tasks and one fleet of 100 000 members: killed in the middle, exact after it, and cheap."""

import asyncio
import contextlib
import json
from collections.abc import Iterable
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.support.harness import Server, eventually

LINES = 10_000
# Of WAL for one decision, with the whole pages that Postgres writes after a checkpoint of its own.
CHEAP_BYTES = 400_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def send(server: Server, pings: Iterable[dict[str, Any]]) -> None:
    """All of them, in requests of ten thousand."""
    lines = [json.dumps(ping) + "\n" for ping in pings]
    for first in range(0, len(lines), LINES):
        part = lines[first : first + LINES]
        async with server.session.post("/api/v1/heartbeats", data="".join(part)) as answer:
            assert (await answer.json())["accepted"] == len(part)


async def send_if_it_lives(server: Server, pings: Iterable[dict[str, Any]]) -> None:
    """Gives up if the server dies, or is dead (RuntimeError: its client is closed)."""
    with contextlib.suppress(aiohttp.ClientError, RuntimeError):
        await send(server, pings)


async def wal(database: asyncpg.Connection, since: str = "0/0") -> int:
    """Bytes written since then."""
    return int(await database.fetchval("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)", since))


async def test_a_run_of_ten_thousand_tasks_outlasts_a_kill(database_url: str, database: asyncpg.Connection) -> None:
    tasks = {"tasks": {"expected": 10_000, "within": "1h", "tolerate": 1}}
    async with Server(database_url) as server:
        url = (await server.api("PUT", "/api/v1/monitors/fan-out", tasks)).body["ping_url"]
        key, missing = url.rsplit("/", 1)[1], {17, 4_040, 9_999}
        task_pings = [{"key": key, "run": "r", "task": str(task)} for task in range(1, 10_001) if task not in missing]
        await send(server, [{**ping, "status": "start"} for ping in task_pings])
        await send(
            server, [{**task_pings[0], "status": "fail"}, {**task_pings[1], "status": "fail"}]
        )  # decided, and so written

        async def it_fails() -> bool:
            runs = (await server.api("GET", "/api/v1/monitors/fan-out/runs")).body["items"]
            return bool(runs) and runs[0]["verdict"] == "failed"

        await eventually(it_fails)
        working = asyncio.create_task(send_if_it_lives(server, task_pings))
        await asyncio.sleep(0.05)
        await server.kill()
        await working
        await server.start()
        await send(server, task_pings)  # pings without an answer are sent again

        async def three_are_missing() -> Any:
            (run,) = (await server.api("GET", "/api/v1/monitors/fan-out/runs")).body["items"]
            return run["tasks"] if run["tasks"]["done"] == 9_997 else None

        shown = await eventually(three_are_missing)
        assert (shown["missing"], shown["failed"]) == (["17", "4040", "9999"], 0)
        state = await database.fetchval("select length(state::text) from states")
        lsn = await database.fetchval("select pg_current_wal_insert_lsn()::text")
        await send(server, [{"key": key, "run": "r", "task": str(task)} for task in missing])

        async def it_is_over() -> bool:
            (run,) = (await server.api("GET", "/api/v1/monitors/fan-out/runs")).body["items"]
            return bool(run["verdict"] == "succeeded")

        await eventually(it_is_over)
        written = await wal(database, lsn)
        print(f"a state of {state:,} bytes; {written:,} bytes of WAL for the last decision")
        assert state < 200_000 and written < CHEAP_BYTES


async def test_a_fleet_of_a_hundred_thousand_outlasts_a_kill(database_url: str, database: asyncpg.Connection) -> None:
    members = {"members": {"every": "4s", "grace": "2s", "min_alive": 1}}
    async with Server(database_url) as server:
        url = (await server.api("PUT", "/api/v1/monitors/fleet", members)).body["ping_url"]
        key = url.rsplit("/", 1)[1]
        everybody = [{"key": key, "status": "progress", "task": f"worker-{n:06}"} for n in range(100_000)]
        living = everybody[::1_000]
        over = asyncio.Event()

        async def beat() -> None:
            while not over.is_set():
                await send_if_it_lives(server, living)
                await asyncio.sleep(0.5)  # sleep: the pace of the pings

        async def silent() -> int:
            return int(await database.fetchval("select count(silent_since) from members"))

        await send(server, everybody)
        beating = asyncio.create_task(beat())

        async def many_are_silent() -> bool:
            return await silent() > 10_000

        await eventually(many_are_silent)
        await server.kill()
        await server.start()

        async def all_others_are_silent() -> bool:
            return await silent() == 99_900

        await eventually(all_others_are_silent)
        alive = (await server.api("GET", "/api/v1/monitors/fleet/members?silent=false&limit=1000")).body["items"]
        assert [member["name"] for member in alive] == [ping["task"] for ping in living]

        async def fell_silent_at() -> Any:
            return await database.fetchval("select silent_since from members where name = $1", everybody[1]["task"])

        before = await fell_silent_at()
        transaction = await database.fetchval("select pg_current_xact_id()::text::bigint")
        await send(server, [everybody[1]])

        async def falls_silent_again() -> bool:
            return bool(await fell_silent_at() > before)

        await eventually(falls_silent_again)
        written = await database.fetchval("select count(*) from members where xmin::text::bigint > $1", transaction)
        state = await database.fetchval("select length(state::text) from states")
        over.set()
        await beating
        print(f"a state of {state:,} bytes; {written:,} rows written for one that came back and fell silent again")
        assert state < 2_000 and 1 <= written <= 1 + len(living)  # a living member may have been late on a busy machine
        assert (await server.api("GET", "/api/v1/monitors/fleet")).body["status"] == "up"
