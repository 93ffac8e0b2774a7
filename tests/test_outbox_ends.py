"""Whoever was told of an incident is told of its end: also where the monitor has other channels by then.

On the real server, from the ping to the receiver.
"""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.harness import Receiver, Server, eventually


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url, "--allow-private-destinations") as server:
        yield server


async def put(server: Server, path: str, body: dict[str, Any]) -> Any:
    answer = await server.api("PUT", f"/api/v1/{path}", body)
    assert answer.status in (200, 201), answer.body
    return answer.body


async def ping(server: Server, monitor: dict[str, Any], *signals: str) -> None:
    lines = "".join(f'{{"key":"{monitor["key"]}","status":"{signal}"}}\n' for signal in signals)
    async with server.session.post("/api/v1/heartbeats", data=lines) as answer:
        assert answer.status == 200


def heard(receiver: Receiver) -> list[tuple[str, str]]:
    return sorted((request.path[1:], request.json["type"]) for request in receiver.requests)


async def nothing_waits(database: asyncpg.Connection) -> bool:
    return not await database.fetchval("select count(*) from alerts where state = 'pending'")


async def test_an_end_goes_to_whoever_was_told_and_to_nobody_else(server: Server, database: asyncpg.Connection) -> None:
    async with Receiver() as receiver:
        for name in ("kept", "removed", "added"):
            await put(server, f"channels/{name}", {"kind": "webhook", "url": f"{receiver.url}/{name}"})
        job = await put(server, "monitors/job", {"channels": ["kept", "removed"]})
        await ping(server, job, "fail")
        await receiver.wait_count(2)
        await put(server, "monitors/job", {"channels": ["kept", "added"]})
        await ping(server, job, "success")
        await receiver.wait_count(4)
        assert await eventually(lambda: nothing_waits(database))
        assert heard(receiver) == [
            ("kept", "incident.opened"),
            ("kept", "incident.resolved"),
            ("removed", "incident.opened"),
            ("removed", "incident.resolved"),
        ]


async def test_a_deleted_channel_is_told_nothing_and_nothing_waits_for_it(
    server: Server, database: asyncpg.Connection
) -> None:
    async with Receiver() as receiver:
        for name in ("kept", "gone"):
            await put(server, f"channels/{name}", {"kind": "webhook", "url": f"{receiver.url}/{name}", "default": True})
        job = await put(server, "monitors/job", {})
        await ping(server, job, "fail")
        await receiver.wait_count(2)
        assert (await server.api("DELETE", "/api/v1/channels/gone")).status == 204
        await ping(server, job, "success")
        await receiver.wait_for(lambda request: request.json["type"] == "incident.resolved")
        assert await eventually(lambda: nothing_waits(database))
        assert [name for name, type in heard(receiver) if type == "incident.resolved"] == ["kept"]


async def test_an_incident_within_one_transaction_has_both_its_ends(
    server: Server, database: asyncpg.Connection
) -> None:
    job = await put(server, "monitors/job", {})
    await ping(server, job, "success", "fail", "success")

    async def kinds() -> list[str]:
        return [row["kind"] for row in await database.fetch("select kind from alerts order by lane, ordinal")]

    assert await eventually(kinds) == ["opened", "resolved"]
