"""The channels that get the beginning and the end of an incident, also if channels are added, removed, broken and
repaired.

On the real server, from the ping to the receiver.
"""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.e2e.web.test_pages_http import Visitor
from tests.support.channels import assert_published
from tests.support.harness import Behaviour, Receiver, Server, eventually


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url, "--allow-private-destinations") as server:
        yield server


async def ping(server: Server, monitor: dict[str, Any], *signals: str) -> None:
    lines = "".join(f'{{"key":"{monitor["key"]}","status":"{signal}"}}\n' for signal in signals)
    async with server.session.post("/api/v1/heartbeats", data=lines) as answer:
        assert answer.status == 200


async def ping_run(server: Server, monitor: dict[str, Any], *signals: str) -> None:
    lines = ""
    for each in signals:
        signal, run = each.split()
        lines += f'{{"key":"{monitor["key"]}","status":"{signal}","run":"{run}"}}\n'
    async with server.session.post("/api/v1/heartbeats", data=lines) as answer:
        assert answer.status == 200


def received(receiver: Receiver) -> list[tuple[str, str]]:
    return sorted((request.path[1:], request.json["type"]) for request in receiver.requests)


async def is_alarming(server: Server, *paths: str) -> list[bool]:
    """Whether each page says in red that alerts do not arrive."""
    async with Visitor(server) as visitor:
        assert await visitor.sign_in() == 303
        return ['class="alarm"' in (await visitor.get(path))[1] for path in paths]


async def nothing_waits(database: asyncpg.Connection) -> bool:
    return not await database.fetchval("select count(*) from alerts where state = 'pending'")


async def test_an_added_channel_gets_open_incidents_and_every_notified_channel_gets_the_recovery(
    server: Server, database: asyncpg.Connection
) -> None:
    async with Receiver() as receiver:
        for name in ("kept", "removed", "added", "other"):
            await server.put(f"channels/{name}", {"kind": "webhook", "url": f"{receiver.url}/{name}", "default": False})
        job = await server.put("monitors/job", {"channels": ["kept", "removed"]})
        await ping(server, job, "fail")
        await receiver.wait_count(2)
        await server.put("monitors/job", {"channels": ["kept", "added"]})
        await receiver.wait_count(3)
        await ping(server, job, "success")
        await receiver.wait_count(6)
        assert await eventually(lambda: nothing_waits(database))
        names = ("added", "kept", "removed")
        ends = ("incident.opened", "incident.resolved")
        assert received(receiver) == [(name, end) for name in names for end in ends]
        opened = next(r.json["data"] for r in receiver.requests if r.path == "/added")
        assert opened["monitor"] == "job" and opened["cause"] == "failed" and opened["reason"]


async def test_the_recovery_names_all_runs_who_acknowledged_and_the_last_comments(server: Server) -> None:
    async with Receiver() as receiver:
        await server.put("channels/hook", {"kind": "webhook", "url": receiver.url})
        job = await server.put("monitors/job", {})
        await ping_run(server, job, "start monday", "start tuesday", "fail monday", "fail tuesday")
        await receiver.wait_for(lambda r: r.json["type"] == "incident.opened")
        (listed,) = (await server.api("GET", "/api/v1/incidents")).body["items"]
        incident = f"/api/v1/incidents/{listed['id']}"
        assert (await server.api("POST", f"{incident}/acknowledge", {"comment": "looking"})).status == 200
        for text in ("first", f"the key is {job['key']}", "disk replaced"):
            assert (await server.api("POST", f"{incident}/comments", {"comment": text})).status == 200
        await ping_run(server, job, "success monday", "success tuesday")
        resolved = (await receiver.wait_for(lambda r: r.json["type"] == "incident.resolved")).json["data"]
    assert [run["run"] for run in resolved["runs"]] == ["monday", "tuesday"] and resolved["runs_count"] == 2
    assert resolved["acknowledged_by"] == "admin" and resolved["acknowledged_at"]
    assert resolved["comments_count"] == 4
    assert [each["text"] for each in resolved["comments"]] == ["first", "the key is •••", "disk replaced"]
    assert "Runs: monday, tuesday" in resolved["text"] and "admin: disk replaced" in resolved["text"]
    assert_published({"type": "incident.resolved", "timestamp": resolved["decided_at"], "data": resolved})


async def test_a_broken_channel_is_reported_on_the_others_and_a_repaired_one_gets_open_incidents(
    server: Server, database: asyncpg.Connection
) -> None:
    gone = Behaviour(status=410)
    async with Receiver() as receiver, Receiver(gone) as broken:
        await server.put("channels/good", {"kind": "webhook", "url": f"{receiver.url}/good"})
        await server.put("channels/bad", {"kind": "webhook", "url": f"{broken.url}/bad", "default": False})
        job = await server.put("monitors/job", {"channels": ["bad"]})
        short = await server.put("monitors/short", {"channels": ["bad"]})
        await ping(server, job, "fail")
        await ping(server, short, "fail")
        alert = await receiver.wait_for(lambda r: r.json["type"] == "offbeat.operator")
        assert alert.path == "/good" and "Alerts do not arrive at bad" in alert.json["data"]["reason"]
        assert "410" in alert.json["data"]["reason"]
        shown = (await server.api("GET", "/api/v1/channels/bad")).body
        assert shown["failing_since"] and "410" in shown["failing_reason"]
        assert shown["failing_why"] == shown["failing_reason"]
        assert await is_alarming(server, "/channels", "/channels/bad", "/channels/good") == [True, True, False]
        await broken.wait_count(2)
        await ping(server, short, "success")  # while nothing of it has arrived: its end must not be sent there
        await server.put("channels/bad", {"kind": "webhook", "url": f"{receiver.url}/bad", "default": False})
        first = await receiver.wait_for(lambda r: r.path == "/bad")
        assert (first.json["type"], first.json["data"]["monitor"]) == ("incident.opened", "job")
        await ping(server, job, "success")
        await receiver.wait_for(lambda r: r.json["type"] == "incident.resolved")
        assert await eventually(lambda: nothing_waits(database))
        assert [(r.json["type"], r.json["data"]["monitor"]) for r in receiver.requests if r.path == "/bad"] == [
            ("incident.opened", "job"),
            ("incident.resolved", "job"),
        ]

        async def works_again() -> bool:
            return (await server.api("GET", "/api/v1/channels/bad")).body["failing_since"] is None

        assert await eventually(works_again)
        assert await is_alarming(server, "/channels", "/channels/bad") == [False, False]
        assert sum(r.json["type"] == "offbeat.operator" for r in receiver.requests) == 1


async def test_an_incident_shows_that_a_digest_reported_it(server: Server, database: asyncpg.Connection) -> None:
    async with Receiver() as receiver:
        await server.put("channels/hook", {"kind": "webhook", "url": receiver.url, "default": True})
        jobs = [await server.put(f"monitors/job-{number}", {}) for number in range(12)]
        lines = "".join(f'{{"key":"{job["key"]}","status":"{end}"}}\n' for job in jobs for end in ("fail", "success"))
        async with server.session.post("/api/v1/heartbeats", data=lines) as answer:
            assert answer.status == 200

        async def recovered() -> bool:
            digests = [request.json["data"] for request in receiver.requests]
            return sum(each.get("recovered", 0) for each in digests) == 12 and await nothing_waits(database)

        assert await eventually(recovered)
        alerts = (await server.api("GET", "/api/v1/alerts?limit=100")).body["items"]
        wanted = ("hook", "job-7", "opened")
        (opened,) = [each for each in alerts if (each["channel"], each["monitor"], each["kind"]) == wanted]
        assert opened["digest_alerts"] >= 2 and opened["recovered_unsent"]
        incident = (await server.api("GET", "/api/v1/monitors/job-7/incidents")).body["items"][0]["id"]
        async with Visitor(server) as visitor:
            assert await visitor.sign_in() == 303
            _, page, _ = await visitor.get(f"/incidents/{incident}")
        assert f"in a digest of {opened['digest_alerts']} alerts; recovered before it was sent" in page


async def test_a_deleted_channel_gets_no_alert_and_nothing_waits_for_it(
    server: Server, database: asyncpg.Connection
) -> None:
    async with Receiver() as receiver:
        for name in ("kept", "gone"):
            await server.put(f"channels/{name}", {"kind": "webhook", "url": f"{receiver.url}/{name}", "default": True})
        job = await server.put("monitors/job", {})
        await ping(server, job, "fail")
        await receiver.wait_count(2)
        assert (await server.api("DELETE", "/api/v1/channels/gone")).status == 204
        await ping(server, job, "success")
        await receiver.wait_for(lambda request: request.json["type"] == "incident.resolved")
        assert await eventually(lambda: nothing_waits(database))
        assert [name for name, type in received(receiver) if type == "incident.resolved"] == ["kept"]


async def test_an_incident_within_one_transaction_has_both_its_ends(
    server: Server, database: asyncpg.Connection
) -> None:
    job = await server.put("monitors/job", {})
    await ping(server, job, "success", "fail", "success")

    async def kinds() -> list[str]:
        return [row["kind"] for row in await database.fetch("select kind from alerts order by lane, ordinal")]

    assert await eventually(kinds) == ["opened", "resolved"]
