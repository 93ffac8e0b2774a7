"""Input of runs, stages, tasks and members that makes no sense, or too much of it: recorded or refused, as
docs/semantics.md says, bounded in memory, and never a crash or another monitor's verdict."""

import asyncio
import gc
import json
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from offbeat_server.engine.engine import Engine
from offbeat_server.engine.model.definition import TASKS_MAX, read_definition
from offbeat_server.engine.model.fleet import MEMBERS_MAX
from offbeat_server.engine.model.ping import Entry, Ping
from offbeat_server.engine.model.run import STAGES_SEEN_MAX
from offbeat_server.engine.model.runs import RUNS_OPEN_MAX, TASK_NAMES_MAX
from tests.support.engine import PROJECT, Scene
from tests.support.harness import Server, eventually

STRANGE = [
    "日本語 🚀 ключ",
    "‮right to left‬",
    "a/b?c=d&e#f%00g",
    "'; drop table runs; --",
    '"quoted" \\back\\slash',
    "<script>alert(1)</script>",
    "  spaces  and\ttabs ",
    "line\nfeed\r\n",
    "e\u0301 as two characters",
    "\u200b\ufeff\u0007",
    "..",
    "0",
    "null",
]


@pytest.fixture
def scene() -> Scene:
    return Scene()


# ------------------------------------------------------------------------------- what makes no sense


def test_an_unknown_stage_is_shown_can_fail_and_is_waited_for_by_nothing(scene: Scene) -> None:
    scene.monitor(stages=[{"name": "extract"}, {"name": "load"}], max_runtime="1h")
    scene.ping(0, "start", run="r")
    scene.ping(1, "start", run="r", stage="vacuum")
    scene.ping(2, "fail", run="r", stage="lint", message="E501")
    assert scene.incidents()[1].reason == "stage lint failed (run r): E501"
    for stage in ("extract", "load"):
        scene.ping(3, "success", run="r", stage=stage)
    run = scene.runs()[1]
    shown = {stage["name"]: stage["status"] for stage in run.detail["stages"]}
    assert shown == {"extract": "done", "load": "done", "vacuum": "unfinished", "lint": "failed"}
    assert run.verdict == "succeeded" and scene.status() == "up"


def test_an_unknown_task_is_one_more_and_undefined_tasks_are_shown(scene: Scene) -> None:
    scene.monitor(tasks={"expected": 2})
    for task in ("1", "2 of another kind"):
        scene.ping(1, "success", run="r", task=task)
    assert scene.runs()[1].verdict == "succeeded"
    scene.monitor("loose")
    scene.ping(2, "fail", "loose", run="r", task="x")
    scene.ping(3, "success", "loose", run="r")
    assert scene.runs("loose")[1].verdict == "failed"  # none is tolerated by default


def test_more_done_than_there_is(scene: Scene) -> None:
    scene.monitor(stall_for="1m")
    scene.ping(0, "start", run="r")
    scene.ping(1, "progress", run="r", done=5, total=10)
    scene.ping(2, "progress", run="r", done=15, total=10)
    scene.ping(3, "progress", run="r", done=2**63 - 1, total=0)
    scene.tick(63)
    progress = scene.runs()[1].detail["progress"]
    assert (progress["done"], progress["total"], progress["eta"]) == (2**63 - 1, 0, None)
    assert scene.incidents()[1].reason.startswith("run r, started 00:00:00, has made no progress for ")


def test_a_stage_or_task_of_a_closed_run_opens_no_other_one(scene: Scene) -> None:
    scene.monitor(stages=[{"name": "a"}, {"name": "b"}], max_runtime="1m", complete="trust")
    scene.ping(0, "start", run="r")
    scene.ping(1, "success", run="r")
    (before,) = scene.runs().values()
    for signal in ("start", "progress", "log", "success", "fail", "skip", "leave"):
        scene.ping(30, signal, run="r", stage="a")
        scene.ping(31, signal, run="r", task="7", done=3)
    scene.tick("1h")
    (run,) = scene.runs().values()
    assert (run.finished_at, run.duration, run.verdict) == (before.finished_at, before.duration, "succeeded")
    assert scene.status() == "up" and scene.alerts() == ["opened", "resolved"]  # the failed task and its end


def test_runs_stages_and_tasks_are_nothing_to_a_fleet_and_members_nothing_to_a_job(scene: Scene) -> None:
    scene.monitor("fleet", members={"every": "1m"})
    scene.monitor("job", every="1h")
    for signal in ("start", "progress", "log", "success", "skip", "leave", "fail"):
        scene.ping(1, signal, "fleet", run="r", stage="s", done=1, total=0)
        scene.ping(1, signal, "job", task="w")
    assert not scene.runs("fleet") and set(scene.engine.monitors[1].fleet.members) == {"r"}  # type: ignore[union-attr]
    assert scene.engine.monitors[2].fleet is None


def stored(run: str) -> str:
    """Of a run id, what is kept: a line end is what a file or a shell left behind it."""
    return run.strip("\r\n")


async def test_refusals_have_a_reason_and_other_requests_are_served(database_url: str) -> None:
    wrong = {
        "status=exploded": "exploded",
        "success=perhaps": "success",
        "exit_code=x": "exit_code",
        "phase=failed": "phase",
    }
    left_out = {
        "done=-1": "done",
        "total=-5": "total",
        f"done={2**63}": "done",
        "done=many": "done",
        "duration=-1": "duration",
        f"task={'t' * 256}": "task",
        "task=a%00b": "task",
    }
    async with Server(database_url) as server:
        url = (await server.api("PUT", "/api/v1/monitors/job", {"max_runtime": "1h"})).body["ping_url"]
        for query, reason in wrong.items():
            async with server.session.get(f"{url}?{query}") as answer:
                assert answer.status == 400 and reason in await answer.text(), query
        for query, field in left_out.items():
            async with server.session.get(f"{url}/log?{query}") as answer:
                named = answer.headers.get("Offbeat-Ignored") or answer.headers.get("Offbeat-Changed")
                assert answer.status == 200 and named == field and field in await answer.text(), query
        for run in [*STRANGE, "ж" * 255]:
            async with server.session.get(f"{url}/start?run={quote(run, safe='')}") as answer:
                assert answer.status == 200, run

        async def shown() -> list[Any]:
            runs: list[Any] = (await server.api("GET", "/api/v1/monitors/job/runs?limit=100")).body["items"]
            return runs if len(runs) == len(STRANGE) + 1 else []

        runs = await eventually(shown)
        assert {run["run"] for run in runs} == {*map(stored, STRANGE), "ж" * 255}
        for run in runs:
            assert (await server.api("GET", f"/api/v1/runs/{run['id']}")).body["run"] == run["run"]
        for run in [*STRANGE, "ж" * 255]:
            async with server.session.post(url, json={"status": "fail", "run": run, "message": run}) as answer:
                assert answer.status == 200, run

        async def all_failed() -> bool:
            return all(run["verdict"] == "failed" for run in await shown() or [{"verdict": None}])

        await eventually(all_failed)
        assert (await server.api("GET", "/api/v1/monitors/job")).body["status"] == "down"


# ------------------------------------------------------------------------------- too much of it


def test_what_is_kept_of_a_monitor_has_an_end(scene: Scene) -> None:
    scene.monitor(tasks={"expected": TASKS_MAX}, max_runtime="1d")
    for n in range(STAGES_SEEN_MAX + 5):
        scene.ping(1, "start", run="r0", stage=f"s{n}")
    (run,) = scene.engine.monitors[1].runs.open.values()  # type: ignore[union-attr]
    assert len(run.stages) == STAGES_SEEN_MAX
    entries = [
        Entry(scene.at(2), 1, 1_000 + n, 1, PROJECT, None, Ping("start", f"r{n // 21_000}", task=str(n)))
        for n in range(106_000)
    ]
    assert scene.engine.apply(entries, 0, 1 << 30) == len(entries)
    runs = scene.engine.monitors[1].runs
    assert runs is not None
    names = [each.task_names for each in runs.open.values()]
    assert max(names) <= TASKS_MAX and sum(names) == runs.task_names == TASK_NAMES_MAX
    assert all(each.tasks[""].more for each in runs.open.values())  # the missing ones are no longer known


def test_members_have_an_end_too(scene: Scene) -> None:
    scene.monitor(members={"every": "1h"})
    entries = [
        Entry(scene.at(1), 1, n + 1, 1, PROJECT, None, Ping("progress", task=str(n)))
        for n in range(MEMBERS_MAX + 1_000)
    ]
    scene.engine.apply(entries, 0, 1 << 30)
    fleet = scene.engine.monitors[1].fleet
    assert fleet is not None and len(fleet.members) == MEMBERS_MAX


def test_members_that_come_and_go_under_new_names_leave_nothing_behind(scene: Scene) -> None:
    scene.monitor(members={"every": "1h"})
    for n in range(8_000):
        scene.ping(1 + n / 1_000, "progress", task=f"pod-{n}")
        scene.ping(1 + n / 1_000, "leave", task=f"pod-{n}")
    fleet = scene.engine.monitors[1].fleet
    assert fleet is not None and not fleet.members and not fleet.changed and len(fleet.deadlines) < 5_000


@pytest.mark.slow
@pytest.mark.parametrize("ids", [150_000, pytest.param(1_000_000, marks=(pytest.mark.long, pytest.mark.timeout(600)))])
def test_a_flood_of_run_ids_in_a_minute_on_one_key_stays_within_bounds(ids: int) -> None:
    engine = Engine()
    engine.loaded(1)
    engine.put(1, 1, "flood", read_definition({"max_runtime": "1h"}), at=10)
    engine.put(2, 1, "neighbour", read_definition({"every": "1s", "grace": "1s"}), at=10)
    process = psutil.Process()
    opened, resident = 0, [0, 0]
    for batch in range(ids // 5_000):
        entries = []
        for n in range(batch * 5_000, batch * 5_000 + 5_000):
            entries.append(Entry(20 + n * 60, 1, n + 1, 1, 1, None, Ping("start", f"{n:0255}")))
            if n % 10_000 == 0:
                entries.append(Entry(20 + n * 60, 2, n + 1, 2, 1, None, Ping()))
        index = 0
        while index < len(entries):
            index = engine.apply(entries, index, 500)
            if engine.pending_count > 5_000:  # as the scheduler does it
                opened += sum(effect.finished_at is None for d in engine.drain(500) for effect in d.effects)  # type: ignore[union-attr]
        while engine.pending_count:  # at the end of each cycle all is written
            opened += sum(effect.finished_at is None for d in engine.drain(500) for effect in d.effects)  # type: ignore[union-attr]
        engine.forget_recalled()
        runs = engine.monitors[1].runs
        assert runs is not None and len(runs.open) <= RUNS_OPEN_MAX and len(runs.limits) <= 6 * RUNS_OPEN_MAX
        if batch in (9, ids // 5_000 - 1):
            gc.collect()
            resident[batch > 9] = process.memory_info().rss
    print(f"from 50 000 to {ids} ids: {(resident[1] - resident[0]) / 1e6:.1f} MB more")
    assert resident[1] - resident[0] < 20e6  # the ids alone would be 30 MB
    assert engine.monitors[1].runs.count == ids  # type: ignore[union-attr]
    assert engine.monitors[2].status == "up" and engine.monitors[2].incidents == 0


@pytest.mark.slow
async def test_a_flood_of_run_ids_through_bulk_harms_no_neighbour(database_url: str) -> None:
    async with Server(database_url) as server:
        flood = (await server.api("PUT", "/api/v1/monitors/flood", {"max_runtime": "1h"})).body["ping_url"]
        neighbour = (await server.api("PUT", "/api/v1/monitors/neighbour", {"every": "2s", "grace": "10s"})).body
        key, slowest_s = flood.rsplit("/", 1)[1], 0.0
        over = asyncio.Event()

        async def beat() -> None:
            nonlocal slowest_s
            clock = asyncio.get_running_loop().time
            while not over.is_set():
                began = clock()
                async with server.session.get(neighbour["ping_url"]) as answer:
                    assert answer.status == 200
                slowest_s = max(slowest_s, clock() - began)
                await asyncio.sleep(0.2)  # sleep: the pace of the neighbour's pings

        beating = asyncio.create_task(beat())
        before = psutil.Process(server.pid).memory_info().rss
        began_s = asyncio.get_running_loop().time()
        for part in range(10):
            ids = range(part * 10_000, part * 10_000 + 10_000)
            lines = "".join(json.dumps({"key": key, "status": "start", "run": f"run {n}"}) + "\n" for n in ids)
            async with server.session.post("/api/v1/heartbeats", data=lines) as answer:
                assert (await answer.json())["accepted"] == 10_000

        async def all_but_a_thousand_are_closed() -> bool:
            runs = (await server.api("GET", "/api/v1/monitors/flood/runs?limit=1")).body["items"]
            return bool(runs) and runs[0]["run"] == "run 99999"

        await eventually(all_but_a_thousand_are_closed)
        flood_s = asyncio.get_running_loop().time() - began_s
        over.set()
        await beating
        grown = psutil.Process(server.pid).memory_info().rss - before
        print(f"{grown / 1e6:.0f} MB more, the slowest ping of the neighbour took {slowest_s * 1000:.0f} ms")
        assert grown < 300e6 and slowest_s < flood_s / 2, "it does not wait for all of them"
        still_open = await server.api("GET", "/api/v1/monitors/flood/runs?open=true&limit=1000")
        assert len(still_open.body["items"]) <= RUNS_OPEN_MAX
        closed = (await server.api("GET", "/api/v1/monitors/flood/runs?open=false&limit=1")).body["items"][0]
        assert (closed["verdict"], closed["reason"]) == ("unknown", "more than 1000 runs were open")
        assert (await server.api("GET", "/api/v1/monitors/neighbour")).body["status"] == "up"
        assert not (await server.api("GET", "/api/v1/monitors/neighbour/incidents")).body["items"]
