"""Runs that last, stages in any order, counts of tasks, and one pipeline reported in two ways."""

import asyncio
import os
from functools import partial
from typing import Any

import pytest

from offbeat_server.engine.engine import Engine
from offbeat_server.engine.model.monitor import Monitor
from tests.support.engine import Scene
from tests.support.harness import Server, eventually, needs

DAY = 86_400

# Five keys in five variables; and the same with one key and parameters.
BY_KEYS = """
ping() { curl -m 10 -fsS -o /dev/null -d "$2" "$BASE/$1?run=$RUN"; }
ping "$ETL_START_KEY" "" && ping "$EXTRACT_COMPLETE_KEY" "12 rows"
if [ "$RUN" = bad ]; then ping "$ETL_FAILURE_KEY" "no space left"; exit; fi
ping "$TRANSFORM_COMPLETE_KEY" "" && ping "$LOAD_COMPLETE_KEY" ""
"""
BY_PARAMETERS = """
ping() { curl -m 10 -fsS -o /dev/null -d "$2" "$URL/$1&run=$RUN"; }
ping "start?" "" && ping "success?stage=extract" "12 rows"
if [ "$RUN" = bad ]; then ping "fail?" "no space left"; exit; fi
ping "success?stage=transform" "" && ping "success?stage=load" ""
"""


@pytest.fixture
def scene() -> Scene:
    return Scene()


def restart(scene: Scene) -> None:
    """The memory is lost, and comes back from the written rows."""
    old, scene.engine = scene.engine, Engine()
    for m in old.monitors.values():
        again = Monitor(m.id, m.project_id, m.slug, m.name, m.definition, 0)
        again.load(m.status, m.since, m.position, m.dump())
        scene.engine.load(again)
    scene.engine.loaded(old.now)


def test_a_run_outlasts_days_and_restarts_and_is_watched_by_each_of_its_limits(scene: Scene) -> None:
    stages = [{"name": "copy", "within": "6d"}]
    scene.monitor(max_runtime="7d", quiet_for="30h", stall_for="3d", stages=stages, complete="trust")
    scene.ping(0, "start", run="archive")
    for day in range(1, 5):
        scene.ping(day * DAY, "progress", run="archive", stage="copy", done=min(day, 2), total=9)
        scene.tick(day * DAY + 1)
        restart(scene)
    assert scene.status() == "up"
    scene.tick(5.5 * DAY)
    (incident,) = scene.incidents().values()  # still two of nine since the second day; and silent since the fourth
    assert [scene.seconds(cause["opened_at"]) for cause in incident.causes] == [5 * DAY]
    restart(scene)
    scene.tick(8 * DAY)
    (incident,) = scene.incidents().values()
    assert {cause["kind"] for cause in incident.causes} == {"hung", "stage"}
    scene.ping(8 * DAY + 1, "success", run="archive")
    assert scene.runs()[1].reason == "finished late, after 8 d" and scene.status() == "up"


def test_stages_out_of_order_repeated_skipped_and_left_out(scene: Scene) -> None:
    stages = [{"name": n, "within": "1m", "optional": n == "lint"} for n in ("fetch", "lint", "build", "ship")]
    scene.monitor(stages=stages)
    scene.ping(0, "start", run="r")
    scene.ping(5, "success", run="r", stage="build")  # before its turn
    scene.ping(10, "fail", run="r", stage="fetch", message="timeout")
    scene.ping(20, "start", run="r", stage="fetch")  # again
    scene.ping(70, "success", run="r", stage="fetch")
    assert scene.status() == "up" and scene.alerts() == ["opened", "resolved"]
    scene.ping(120, "skip", run="r", stage="ship")
    run = scene.runs()[1]
    assert run.verdict == "succeeded" and scene.status() == "up"
    shown = {stage["name"]: stage["status"] for stage in run.detail["stages"]}
    assert shown == {"fetch": "done", "lint": "not started", "build": "done", "ship": "skipped"}


def test_counts_of_a_run_and_of_its_tasks_each_have_their_rate(scene: Scene) -> None:
    scene.monitor(tasks={"expected": 2}, stall_for="10m")
    scene.ping(0, "start", run="r")
    for second in (10, 20, 30):
        scene.ping(second, "progress", run="r", done=second, total=100)
        scene.ping(second, "progress", run="r", task="a", done=second * 2, total=200)
    scene.tick(700)
    detail = scene.runs()[1].detail
    assert (detail["progress"]["rate"], scene.seconds(detail["progress"]["eta"])) == (1.0, 100)
    (task,) = detail["tasks"]["progress"]
    assert (task["task"], task["rate"], scene.seconds(task["eta"])) == ("a", 2.0, 100)


@pytest.mark.slow
async def test_bound_keys_say_what_parameters_say(database_url: str) -> None:
    needs("curl")
    stages = {"stages": [{"name": name} for name in ("extract", "transform", "load")], "max_runtime": "1h"}
    bound = {
        "ETL_START_KEY": {"signal": "start"},
        "EXTRACT_COMPLETE_KEY": {"signal": "success", "stage": "extract"},
        "TRANSFORM_COMPLETE_KEY": {"signal": "success", "stage": "transform"},
        "LOAD_COMPLETE_KEY": {"signal": "success", "stage": "load"},
        "ETL_FAILURE_KEY": {"signal": "fail"},
    }
    async with Server(database_url) as server:
        by_keys = (await server.api("PUT", "/api/v1/monitors/keys", {**stages, "keys": list(bound.values())})).body
        url = (await server.api("PUT", "/api/v1/monitors/parameters", stages)).body["ping_url"]
        keys = {(key["signal"], key["stage"]): key["key"] for key in by_keys["keys"]}
        env = {name: keys[of["signal"], of.get("stage")] for name, of in bound.items()}
        env |= {"PATH": os.environ["PATH"], "BASE": f"{server.url}/api/v1/heartbeat", "URL": url}
        for run in ("good", "bad"):
            for script in (BY_KEYS, BY_PARAMETERS):
                job = await asyncio.create_subprocess_exec("/bin/sh", "-c", script, env={**env, "RUN": run})
                assert await job.wait() == 0

        async def runs(slug: str) -> list[dict[str, Any]]:
            items = (await server.api("GET", f"/api/v1/monitors/{slug}/runs")).body["items"]
            return items if [run["verdict"] for run in items] == ["failed", "succeeded"] else []

        recorded = {slug: await eventually(partial(runs, slug)) for slug in ("keys", "parameters")}
        plain = [
            [
                (run["run"], run["verdict"], run["reason"], [(s["name"], s["status"]) for s in run["stages"]])
                for run in each
            ]
            for each in recorded.values()
        ]
        assert plain[0] == plain[1]
        assert plain[0][0][:3] == ("bad", "failed", "run bad failed: no space left")
        for row in recorded["keys"]:
            assert {"id", "run", "verdict", "reason", "started_at", "finished_at", "stages", "progress"} <= row.keys()
            assert all({"name", "status", "started_at", "finished_at"} <= stage.keys() for stage in row["stages"])
        (incident,) = (await server.api("GET", "/api/v1/monitors/keys/incidents")).body["items"]
        wanted = {"cause": "failed", "reason": "run bad failed: no space left", "run": "bad", "stage": None}
        assert {name: incident[name] for name in wanted} == wanted
        assert incident["opened_at"] and incident["resolved_at"] is None
