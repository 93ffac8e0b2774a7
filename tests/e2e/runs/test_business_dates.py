"""Runs for business dates, on the real server: from the ping to the API, the pages and the receiver of alerts."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.web.test_pages_http import Visitor
from tests.support.clients.command import offbeat
from tests.support.harness import Receiver, Server, eventually

TODAY = datetime.now(UTC).date()
FAILED, BACKFILL, LATER = (str(TODAY - timedelta(days)) for days in (2, 9, 1))


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url, "--allow-private-destinations") as server:
        yield server


async def ping(server: Server, monitor: dict[str, Any], path: str) -> str:
    """Send one ping; the header that names what was ignored or changed."""
    async with server.session.get(f"/api/v1/heartbeat/{monitor['key']}{path}") as answer:
        assert answer.status == 200, await answer.text()
        return answer.headers.get("Offbeat-Ignored", "")


async def test_a_failed_night_is_resolved_by_its_own_date_alone(server: Server) -> None:
    async with Receiver() as receiver:
        await server.put("channels/hook", {"kind": "webhook", "url": f"{receiver.url}/hook", "default": True})
        job = await server.put("monitors/job", {"cron": "0 2 * * *", "grace": "1h"})
        await ping(server, job, f"/start?run=etl-{FAILED}")
        await ping(server, job, f"/fail?run=etl-{FAILED}")
        await receiver.wait_count(1)
        for run in (BACKFILL, LATER):  # a redelivered success, and the good night after
            await ping(server, job, f"/success?run=etl-{run}")
        await ping(server, job, f"/start?run=again&for={FAILED}&attempt=7&execution=pod-1")
        await ping(server, job, "/success?run=again")
        await receiver.wait_count(2)
        opened, resolved = (request.json["data"] for request in receiver.requests)
        assert (opened["business_date"], opened["kind"]) == (FAILED, "opened")
        assert (resolved["business_date"], resolved["kind"]) == (FAILED, "resolved")
        assert resolved["recovered_by"] == f"run again for {FAILED}"
    runs = (await server.api("GET", "/api/v1/monitors/job/runs")).body["items"]
    assert [(r["number"], r["business_date"], r["attempt"], r["verdict"]) for r in reversed(runs)] == [
        (1, FAILED, 1, "failed"),
        (2, BACKFILL, 1, "succeeded"),
        (3, LATER, 1, "succeeded"),
        (4, FAILED, 7, "succeeded"),
    ]
    assert [(r["execution"], r["backfill"]) for r in runs[:1]] == [("pod-1", True)]
    only = (await server.api("GET", f"/api/v1/monitors/job/runs?business_date={FAILED}")).body["items"]
    assert [r["number"] for r in only] == [4, 1]
    (incident,) = (await server.api("GET", "/api/v1/monitors/job/incidents")).body["items"]
    assert [cause["business_date"] for cause in incident["causes"]] == [FAILED]
    async with Visitor(server) as visitor:
        assert await visitor.sign_in() == 303
        run_page = (await visitor.get(f"/runs/{runs[0]['id']}"))[1]
        incident_page = (await visitor.get(f"/incidents/{incident['id']}"))[1]
    assert f"<dt>Business date</dt><dd>{FAILED} (backfill)</dd>" in run_page
    assert f"<dt>Business date</dt><dd>{FAILED}</dd>" in incident_page


async def test_the_client_names_the_date(server: Server) -> None:
    job = await server.put("monitors/job", {"cron": "0 2 * * *"})
    options = ("--for", BACKFILL, "--backfill", "--attempt", "3", "--execution", "pod-7")
    done = await offbeat("exec", *options, job["key"], "--", "true", url=server.url)
    assert done.code == 0, done.err

    async def is_there() -> bool:
        runs = (await server.api("GET", "/api/v1/monitors/job/runs")).body["items"]
        shown = [(r["business_date"], r["backfill"], r["attempt"], r["execution"], r["verdict"]) for r in runs]
        return shown == [(BACKFILL, True, 3, "pod-7", "succeeded")]

    assert await eventually(is_there)
    (monitor,) = (await server.api("GET", "/api/v1/monitors")).body["items"]
    assert monitor["status"] == "new", "a backfill is no ping of the schedule"
    pings = (await server.api("GET", "/api/v1/monitors/job/pings")).body["items"]
    assert [(p["business_date"], p["backfill"], p["attempt"], p["execution"]) for p in pings] == [
        (BACKFILL, True, 3, "pod-7")
    ] * 2


@pytest.mark.parametrize(
    ("query", "ignored"),
    [
        ("attempt=-1", "attempt"),
        ("attempt=1.5", "attempt"),
        ("backfill=perhaps", "backfill"),
        ("for=", ""),
        ("backfill=0", ""),
    ],
)
async def test_what_cannot_be_read_is_left_out_and_named(server: Server, query: str, ignored: str) -> None:
    job = await server.put("monitors/job", {})
    assert await ping(server, job, f"?{query}") == ignored
    (stored,) = (await server.api("GET", "/api/v1/monitors/job/pings")).body["items"]
    assert (stored["business_date"], stored["backfill"], stored["attempt"]) == (None, False, None)


async def test_dates_that_no_schedule_has_are_runs_of_their_own(server: Server) -> None:
    """Ten years ahead, no date at all, and many dates at once: no other night is touched."""
    job = await server.put("monitors/job", {"cron": "0 2 * * *", "grace": "1h"})
    await ping(server, job, f"/fail?run={FAILED}")
    labels = [f"{TODAY.year + 9}-01-01", "batch-17", *(str(TODAY - timedelta(days)) for days in range(10, 110))]
    lines = "".join(
        f'{{"key":"{job["key"]}","status":"success","run":"r{n}","for":"{each}"}}\n' for n, each in enumerate(labels)
    )
    async with server.session.post("/api/v1/heartbeats", data=lines) as answer:
        assert answer.status == 200

    async def are_there() -> bool:
        runs = (await server.api("GET", "/api/v1/monitors/job/runs?limit=1000")).body["items"]
        return [r["business_date"] for r in reversed(runs)] == [FAILED, *labels]

    assert await eventually(are_there)
    (incident,) = (await server.api("GET", "/api/v1/monitors/job/incidents")).body["items"]
    assert incident["resolved_at"] is None
