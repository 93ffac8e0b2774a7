"""Runs whose pings may be lost in an outage of Offbeat: shown as unverified, and without an alert."""

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.support.engine import Scene
from tests.support.harness import HANG_S, Receiver, Server, eventually


@pytest.fixture
def scene() -> Scene:
    return Scene()


def fan_out(scene: Scene, outage: tuple[float, float], lost: set[int], **definition: Any) -> None:
    """Twenty tasks that end one a second; pings in `lost` are lost."""
    scene.monitor(**definition)
    scene.ping(0, "start", run="r", total=20)
    scene.outage(*outage)
    for task in range(1, 21):
        if task not in lost:
            scene.ping(task, "success", run="r", task=str(task))


def test_missing_tasks_that_may_have_ended_in_an_outage_raise_no_alert(scene: Scene) -> None:
    fan_out(scene, (7.5, 11.3), {8, 9, 10, 11}, tasks={"within": "1m"})
    scene.tick("2h")
    run = scene.runs()[1]
    assert run.verdict == "unverified" and not scene.incidents() and not scene.alerts()
    assert run.reason is not None and run.reason.startswith("unverified because of an outage of Offbeat: ")
    assert "16 of 20 tasks done" in run.reason and "8, 9, 10, 11" in run.reason


def test_without_an_outage_missing_tasks_are_alerted(scene: Scene) -> None:
    scene.monitor(tasks={"within": "1m"})
    scene.outage(1, 5)
    scene.ping(10, "start", run="r", total=2)
    scene.tick(71)
    assert scene.status() == "down"


def test_an_outage_after_the_deadline_explains_nothing(scene: Scene) -> None:
    scene.monitor(tasks={"within": "1m"})
    scene.ping(0, "start", run="r", total=2)
    scene.tick(61)
    scene.outage(62, 70)
    assert scene.runs()[1].verdict == "hung" and scene.status() == "down"


def test_the_run_whose_tasks_are_lost_is_not_hung_either(scene: Scene) -> None:
    fan_out(scene, (7.5, 11.3), {8, 9}, tasks={"within": "1m"}, max_runtime="1h", quiet_for="30m")
    scene.tick("5h")
    assert scene.runs()[1].verdict == "unverified" and not scene.incidents()


@pytest.mark.parametrize(("last", "verdict"), [("success", "succeeded"), ("fail", "failed")])
def test_its_own_end_says_what_became_of_it(scene: Scene, last: Any, verdict: str) -> None:
    fan_out(scene, (7.5, 11.3), {8, 9}, tasks={"within": "1m"})
    scene.tick(120)
    scene.ping(130, last, run="r")
    assert scene.runs()[1].verdict == verdict and (scene.status() == "down") == (last == "fail")


def test_the_missing_tasks_may_still_come(scene: Scene) -> None:
    fan_out(scene, (7.5, 11.3), {8, 9}, tasks={"within": "1m"})
    scene.tick(120)
    for task in ("8", "9"):
        scene.ping(130, "success", run="r", task=task)
    assert scene.runs()[1].verdict == "succeeded"


def test_a_task_that_fails_later_fails_it(scene: Scene) -> None:
    fan_out(scene, (7.5, 11.3), {8, 9}, tasks={"within": "1m"})
    scene.tick(120)
    scene.ping(130, "fail", run="r", task="8")
    assert scene.runs()[1].verdict == "failed" and scene.status() == "down"


def test_the_end_of_a_short_run_may_be_lost(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(0, "start", run="r")
    scene.outage(10, 14)
    scene.tick("1h")
    assert scene.runs()[1].verdict == "unverified" and not scene.incidents()


def test_a_long_run_that_dies_is_noticed_although_there_was_a_short_outage(scene: Scene) -> None:
    scene.monitor(max_runtime="8h")
    scene.ping(0, "start", run="r")
    scene.outage("3h", "3h4s")
    scene.tick("9h")
    assert scene.runs()[1].verdict == "hung" and scene.status() == "down"


def test_a_run_that_pinged_after_the_outage_has_not_ended_in_it(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(0, "start", run="r")
    scene.outage(10, 14)
    scene.ping(20, "log", run="r")
    scene.tick("1h")
    assert scene.runs()[1].verdict == "hung" and scene.status() == "down"


def test_a_ping_after_the_deadline_shows_that_it_runs_too_long(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(0, "start", run="r")
    scene.outage(10, 14)
    scene.tick(100)
    assert scene.runs()[1].verdict == "unverified"
    scene.ping(200, "log", run="r")
    scene.tick(201)
    assert scene.runs()[1].verdict == "hung" and scene.status() == "down"


def test_the_end_of_a_stage_was_lost_if_the_run_continued(scene: Scene) -> None:
    stages = [{"name": "extract", "within": "1h"}, {"name": "load", "within": "1h"}]
    scene.monitor(stages=stages, complete="trust")
    scene.ping(0, "start", run="r")
    scene.outage(1000, 1004)  # `extract` ends
    scene.ping(1005, "start", run="r", stage="load")
    scene.tick("3h")
    assert scene.runs()[1].verdict == "unverified" and not scene.incidents()
    scene.ping("4h", "success", run="r", stage="load")
    scene.ping("4h", "success", run="r")
    assert scene.runs()[1].verdict == "succeeded"


def test_moments_that_no_client_notices_are_no_outage(scene: Scene) -> None:
    fan_out(scene, (7.5, 8.4), {8, 9}, tasks={"within": "1m"})
    scene.tick(120)
    assert scene.status() == "down"


def test_strict_evaluates_it_despite_an_outage(scene: Scene) -> None:
    fan_out(scene, (7.5, 11.3), {8, 9}, tasks={"within": "1m"}, strict=True)
    scene.tick(120)
    assert scene.status() == "down"


@pytest.mark.parametrize("run", ["constant", None])
def test_the_next_run_overlaps_no_unverified_one(scene: Scene, run: str | None) -> None:
    scene.monitor(max_runtime="1m", overlap="alert")
    scene.ping(0, "start", run=run)
    scene.outage(10, 14)
    scene.tick(1000)
    scene.ping(1001, "start", run=run)
    scene.ping(1030, "success", run=run)
    assert not scene.incidents()
    assert [each.verdict for each in scene.runs().values()] == ["superseded", "succeeded"]


async def test_a_client_without_retries_and_a_restart_in_the_middle(database_url: str) -> None:
    async with Receiver() as receiver, Server(database_url) as server:
        hook = {"kind": "webhook", "url": receiver.url}
        assert (await server.api("PUT", "/api/v1/channels/hook", hook)).status == 201
        created = await server.api("PUT", "/api/v1/monitors/batch", {"tasks": {"within": "12s"}, "max_runtime": "15s"})
        assert created.status == 201, created
        address = f"/api/v1/heartbeat/{created.body['key']}"

        async def say(**parameters: Any) -> bool:
            """As a script does it whose pings have a timeout and no retry."""
            try:
                async with (
                    aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(HANG_S)) as session,
                    session.get(server.url + address, params=parameters) as response,
                ):
                    return response.status == 200
            except (aiohttp.ClientError, TimeoutError):
                return False

        assert await say(status="start", run="r", total="20")
        assert await say(status="success", run="r", task="1")
        await server.stop()
        lost = [task for task in ("2", "3", "4") if not await say(status="success", run="r", task=task)]
        await asyncio.sleep(2)  # sleep: the outage, longer than a moment
        await server.start()
        assert lost == ["2", "3", "4"]
        for task in range(5, 21):
            assert await say(status="success", run="r", task=str(task))

        async def run() -> Any:
            answer = await server.api("GET", "/api/v1/monitors/batch/runs")
            (row,) = answer.body["items"]
            return row if row["verdict"] is not None else None

        row = await eventually(run)
        assert row["verdict"] == "unverified" and "outage of Offbeat" in row["reason"], row
        assert "2, 3, 4" in row["reason"]
        # Three seconds later `max_runtime`, moved by the outage, passes too. Another monitor shows that it has.
        later = (await server.api("PUT", "/api/v1/monitors/later", {"every": "5s", "grace": "1s", "channels": []})).body
        async with server.session.get(later["ping_url"].removeprefix(server.url)) as response:
            assert response.status == 200

        async def is_later() -> bool:
            return bool((await server.api("GET", "/api/v1/monitors/later")).body["status"] == "down")

        await eventually(is_later)
        answer = await server.api("GET", "/api/v1/monitors/batch/incidents")
        assert answer.body["items"] == []
        assert (await server.api("GET", "/api/v1/monitors/batch/runs?verdict=incomplete")).body["items"]
        assert await say(status="success", run="r")
        done = await eventually(lambda: finished(server))
        assert done["verdict"] == "succeeded"
        assert not [each for each in receiver.requests if b'"opened"' in each.body and b"operator" not in each.body]


async def finished(server: Server) -> Any:
    """The run once it has ended."""
    (row,) = (await server.api("GET", "/api/v1/monitors/batch/runs")).body["items"]
    return row if row["finished_at"] is not None else None
