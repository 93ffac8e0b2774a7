"""A run whose job has died is closed by hand: in the API, on its page, at the command line."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from offbeat_server.services.runs import NO_LONGER_KNOWN
from tests.support.clients.command import offbeat
from tests.support.clients.pages import signed_in
from tests.support.harness import Server, eventually


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    """A server with a monitor whose runs must not overlap."""
    async with Server(database_url) as running:
        await running.api("PUT", "/api/v1/monitors/job", {"max_runtime": "1h", "overlap": "alert"})
        yield running


async def _ping(server: Server, *targets: str) -> None:
    url = (await server.api("GET", "/api/v1/monitors/job")).body["ping_url"].removeprefix(server.url)
    for target in targets:
        async with server.session.get(f"{url}/{target}") as answer:
            assert answer.status == 200


async def _run(server: Server, run: str, **expected: Any) -> dict[str, Any]:
    """The run with this id, when it shows these values."""

    async def fits() -> list[dict[str, Any]]:
        items = (await server.api("GET", f"/api/v1/monitors/job/runs?run={run}")).body["items"]
        return [each for each in items if expected.items() <= each.items()]

    return (await eventually(fits))[0]


async def _close(server: Server, id: str, verdict: str, reason: str | None = None) -> tuple[int, str]:
    answer = await server.api("POST", f"/api/v1/runs/{id}/close", {"verdict": verdict, "reason": reason})
    return answer.status, answer.body.get("detail", "")


async def test_a_dead_run_is_closed_without_an_alert_and_the_next_one_overlaps_nothing(server: Server) -> None:
    await _ping(server, "start?run=dead")
    run = await _run(server, "dead", verdict=None)
    assert await _close(server, run["id"], "failed", "the host was lost") == (202, "")
    closed = await _run(server, "dead", verdict="failed")
    assert closed["reason"] == "closed as failed by admin: the host was lost"
    assert closed["finished_at"] is not None and closed["last_ping_at"] == run["last_ping_at"]
    (incident,) = (await server.api("GET", "/api/v1/monitors/job/incidents")).body["items"]
    assert incident["cause"] == "failed" and incident["resolved_at"] is None
    await _ping(server, "start?run=next", "success?run=next")
    await _run(server, "next", verdict="succeeded")
    (incident,) = (await server.api("GET", "/api/v1/monitors/job/incidents")).body["items"]
    assert incident["resolved_at"] is not None
    assert (await server.api("GET", "/api/v1/alerts")).body["items"] == []
    change = (await server.api("GET", "/api/v1/changes?kind=close")).body["items"][0]
    assert (change["actor"], change["subject"], change["action"]) == ("admin", "job", "change")
    assert {"verdict", "reason"} <= {field["field"] for field in change["fields"]}


async def test_a_verdict_can_be_changed_for_a_while_and_keeps_what_the_run_sent(server: Server) -> None:
    await _ping(server, "start?run=a", "3?run=a")
    run = await _run(server, "a", verdict="failed")
    assert await _close(server, run["id"], "ignored") == (202, "")
    ignored = await _run(server, "a", verdict="ignored")
    same = ("started_at", "finished_at", "last_ping_at", "duration", "exit_code", "stages")
    assert {name: ignored[name] for name in same} == {name: run[name] for name in same}
    assert ignored["exit_code"] == 3
    assert (await server.api("GET", "/api/v1/monitors/job/durations")).body["runs"]["count"] == 0
    assert await _close(server, run["id"], "succeeded", "it was a test") == (202, "")
    await _run(server, "a", verdict="succeeded", reason="closed as succeeded by admin: it was a test")
    assert (await server.api("GET", "/api/v1/monitors/job")).body["status"] == "up"


async def test_a_close_that_cannot_be_is_refused(server: Server) -> None:
    assert (await _close(server, "1-7", "failed"))[0] == 404
    assert (await _close(server, "x", "failed"))[0] == 404
    await _ping(server, "start?run=a", "start?run=b", "start", "success")
    run = await _run(server, "a", verdict=None)
    for fields in ({"verdict": "hung"}, {"verdict": "succeeded"}, {"verdict": "succeeded", "reason": " "}):
        assert (await server.api("POST", f"/api/v1/runs/{run['id']}/close", fields)).status == 422, fields
    assert (await _close(server, run["id"], "failed", "x" * 501))[0] == 422
    assert (await _close(server, run["id"], "failed"))[0] == 202
    await _run(server, "a", verdict="failed")
    assert await _close(server, run["id"], "failed") == (409, "The run has ended as failed already.")
    monitor = run["id"].partition("-")[0]
    assert await _close(server, f"{monitor}-3", "failed") == (409, NO_LONGER_KNOWN), "it has no run id"
    await server.api("POST", "/api/v1/monitors/job/pause")
    other = await _run(server, "b", verdict=None)
    assert (await _close(server, other["id"], "ignored"))[0] == 202
    await _run(server, "b", verdict="ignored")
    await server.api("PUT", "/api/v1/monitors/job", {"members": {"every": "1h"}})
    status, detail = await _close(server, run["id"], "ignored")
    assert status == 409 and "fleet" in detail


async def test_a_run_is_closed_on_its_page(server: Server) -> None:
    await _ping(server, "start?run=a")
    run = await _run(server, "a", verdict=None)
    async with signed_in(server) as pages:
        page, action = f"/runs/{run['id']}", f"/runs/{run['id']}/close"
        assert (await pages.get(page)).count('name="verdict"') == 3
        status, _ = await pages.send(action, await pages.form(page, action, verdict="succeeded"))
        assert status == 422, "it needs a reason"
        status, _ = await pages.send(action, await pages.form(page, action, verdict="ignored"))
        assert status == 303
        await _run(server, "a", verdict="ignored")
        text = await pages.get(f"/runs/{run['id']}")
        assert "closed as ignored by admin" in text and "Change the verdict" in text
        assert text.count('name="verdict"') == 2


async def test_a_run_is_closed_at_the_command_line(server: Server) -> None:
    await _ping(server, "start?run=a")
    run = await _run(server, "a", verdict=None)
    refused = await offbeat("runs", "close", run["id"], "--as", "succeeded", url=server.url)
    assert refused.code == 1 and "reason: required if the verdict is succeeded" in refused.err
    done = await offbeat("runs", "close", run["id"], "--as", "failed", "--reason", "reboot", url=server.url)
    assert done.out == f"run {run['id']} of job: closed as failed\n"
    await _run(server, "a", verdict="failed", reason="closed as failed by admin: reboot")
    assert "closed as failed" in (await offbeat("runs", "job", url=server.url)).out
