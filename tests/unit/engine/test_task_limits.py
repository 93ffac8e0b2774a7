"""Limits of single tasks: a dead worker among many, whose pings the others hide from every other limit."""

from typing import Any

import orjson
import pytest

from offbeat_server.common.errors import DefinitionError
from offbeat_server.engine.model.active_tasks import ActiveTasks
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.model.run import Run
from tests.support.engine import Scene


@pytest.fixture
def scene() -> Scene:
    return Scene()


def open_run(scene: Scene) -> Run:
    runs = scene.engine.monitors[1].runs
    assert runs is not None and runs.latest is not None
    return runs.latest


def active(scene: Scene, stage: str = "") -> ActiveTasks:
    work = open_run(scene).tasks[stage].active
    assert work is not None
    return work


def test_one_dead_worker_of_thirty_is_named(scene: Scene) -> None:
    scene.monitor(quiet_for="5m", stages=[{"name": "crawl", "tasks": {"quiet_for": "1m"}}])
    scene.ping(0, "start", run="r")
    for second in range(0, 300, 10):
        for worker in range(30):
            if worker != 17 or second < 60:
                scene.ping(second, "log" if second else "start", run="r", stage="crawl", task=f"w{worker}")
    (incident,) = scene.incidents().values()
    assert (incident.cause, incident.stage, scene.seconds(incident.opened_at)) == ("hung", "crawl", 110)
    assert incident.reason == (
        "task w17 has sent no ping for 1 min: its last was at 2026-01-05 00:00:50 UTC, in stage crawl (run r)"
    )
    assert scene.runs()[1].verdict == "hung" and scene.status() == "down"
    scene.ping(300, "log", run="r", stage="crawl", task="w17")
    assert scene.runs()[1].verdict is None and scene.status() == "up"
    assert scene.alerts() == ["opened", "resolved"]


def test_the_reason_follows_the_tasks_that_are_left(scene: Scene) -> None:
    scene.monitor(tasks={"each_within": "1m", "quiet_for": "30s"})
    for task in ("a", "b", "c"):
        scene.ping(0, "start", run="r", task=task)
    scene.tick(30)
    assert scene.incidents()[1].reason == "3 tasks have sent no ping for 30 s: a, b, c (run r)"
    scene.ping(40, "log", run="r", task="b")
    assert scene.incidents()[1].reason == "2 tasks have sent no ping for 30 s: a, c (run r)"
    scene.ping(41, "success", run="r", task="a")
    scene.tick(60)
    begin = "of their start: b, c"
    assert scene.incidents()[1].reason == (
        f"2 tasks have not ended within 1 min {begin}; "
        "task c has sent no ping for 30 s: its last was at 2026-01-05 00:00:00 UTC (run r)"
    )
    scene.ping(61, "success", run="r", task="c")
    assert scene.runs()[1].reason == (
        "task b has not ended within 1 min of its start at 2026-01-05 00:00:00 UTC (run r)"
    )
    scene.ping(62, "success", run="r", task="b")
    assert scene.status() == "up" and scene.runs()[1].verdict is None


def test_a_run_that_ends_with_a_silent_task_says_so(scene: Scene) -> None:
    scene.monitor(tasks={"quiet_for": "30s"})
    scene.ping(0, "start", run="r")
    scene.ping(0, "start", run="r", task="a")
    scene.ping(60, "success", run="r")
    assert scene.runs()[1].verdict == "succeeded"
    assert scene.runs()[1].reason == "finished in 1 min, after a task was silent or overdue"


def test_ten_thousand_silent_tasks_are_one_cause_and_one_row(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.monitor(tasks={"quiet_for": "1m"})
    for task in range(10_000):
        scene.ping(task / 1_000, "start", run="r", task=str(task))
    before = len(scene.decisions)
    shown = 0
    detail = Run.detail

    def counted(run: Run, *given: Any) -> Any:
        nonlocal shown
        shown += 1
        return detail(run, *given)

    monkeypatch.setattr(Run, "detail", counted)
    scene.tick(100)  # each has a deadline of its own
    assert shown < 5, "the names of all tasks are not listed again with each task"
    assert "10000 tasks have sent no ping for 1 min: 0, 1, 2" in scene.incidents()[1].reason
    assert len(active(scene).silent) == 10_000 and scene.alerts() == ["opened"]
    assert len(scene.decisions) - before == 1


@pytest.mark.parametrize("tasks", [10, 10_000])
def test_a_ping_of_a_task_looks_at_no_other(scene: Scene, monkeypatch: pytest.MonkeyPatch, tasks: int) -> None:
    scene.monitor(max_runtime="12h", tasks={"each_within": "10h", "quiet_for": "1h"})
    scene.ping(0, "start", run="r")
    looked = 0
    limits = Run.limits

    def counted(run: Run, *given: Any) -> Any:
        nonlocal looked
        looked += 1
        return limits(run, *given)

    monkeypatch.setattr(Run, "limits", counted)
    for second in range(3):
        for task in range(tasks):
            scene.ping(1 + second, "log" if second else "start", run="r", task=str(task))
    assert looked < 10, "the limits of a run are not looked at with each ping"
    assert list(active(scene).pinged) == [str(task) for task in range(tasks)]


def test_other_monitors_keep_no_instants(scene: Scene) -> None:
    scene.monitor(tasks={"within": "1h"}, stages=[{"name": "s", "tasks": {"quiet_for": "1m"}}, "t"])
    scene.ping(0, "start", run="r", task="1")
    scene.ping(0, "start", run="r", stage="t", task="1")
    assert all(group.active is None for group in open_run(scene).tasks.values())
    assert "w" not in open_run(scene).dump()


def test_the_stored_state_is_continued(scene: Scene) -> None:
    scene.monitor(tasks={"each_within": "10m", "quiet_for": "1m"})
    for second, task in enumerate(("a", "b", "c", "d")):
        scene.ping(second, "start", run="r", task=task)
    scene.ping(10, "log", run="r", task="a")
    scene.tick(62)
    state = open_run(scene).dump()
    loaded = Run.load(orjson.loads(orjson.dumps(state)))
    assert loaded.dump() == state
    work = loaded.tasks[""].active
    assert work is not None and (list(work.begun), list(work.pinged)) == (["a", "b", "c", "d"], ["d", "a"])
    assert list(work.silent) == ["b", "c"]
    limits = [(limit.kind, limit.task) for limit in loaded.limits(scene.engine.monitors[1].definition)]
    assert limits[-2:] == [("task overdue", "a"), ("task silent", "d")]


def test_a_state_of_an_older_version_is_read(scene: Scene) -> None:
    scene.monitor(tasks={"quiet_for": "1m"})
    scene.ping(0, "start", run="r", task="a")
    run = open_run(scene)
    state = run.dump()
    del state["w"]
    older = Run.load(state)
    assert older.tasks[""].active is None
    scene.engine.monitors[1].runs.open[run.number] = older  # type: ignore[union-attr]
    assert scene.engine.monitors[1].runs is not None
    scene.engine.monitors[1].runs.by_id["r"] = older
    scene.ping(30, "log", run="r", task="a")
    scene.tick(91)
    assert scene.status() == "down", "the task is active from its next ping"


@pytest.mark.parametrize("field", ["each_within", "quiet_for"])
def test_a_limit_is_at_least_a_second(field: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        read_definition({"stages": [{"name": "s", "tasks": {field: "0.5s"}}]})
    assert str(refused.value) == f"stages.0.tasks.{field}: must be at least 1s"
    assert read_definition({"tasks": {field: 1}}).watches
