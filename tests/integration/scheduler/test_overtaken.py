"""Pings of one job through two processes whose clocks differ by milliseconds, and pings that are sent again.

The ping that was sent first may stand second in the log. It must begin nothing: a run that never ends would hang, and
wake a person without a reason.
"""

import pytest

from tests.support.engine import Scene

HERE, THERE = b"\x7f\0\0\1", b"\x7f\0\0\2"


@pytest.fixture
def scene() -> Scene:
    return Scene()


def hangs(scene: Scene) -> bool:
    """Whether a day later anything is wrong."""
    scene.tick("1d")
    return scene.status() == "down" or any(run.verdict in (None, "hung") for run in scene.runs().values())


def test_the_start_of_a_run_that_has_ended_begins_none(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(10, "success", run="r", writer=2)
    scene.ping(10.003, "start", run="r")
    assert [(run.verdict, run.started_at) for run in scene.runs().values()] == [("succeeded", None)]
    assert not hangs(scene)


def test_without_ids_the_start_of_the_heartbeat_before_it_begins_none(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(10, "success", source=HERE, writer=2)
    scene.ping(10.003, "start", source=HERE)
    assert not scene.runs() and not hangs(scene)


@pytest.mark.parametrize(
    ("after_s", "source", "writer", "why"),
    [
        (0.003, HERE, 2, "one process knows the order"),
        (0.003, THERE, 1, "another machine has begun its own"),
        (0.003, None, 1, "nobody knows from where it came"),
        (1.0, HERE, 1, "no two clocks differ by so much"),
    ],
)
def test_a_start_that_was_not_overtaken_is_watched(
    scene: Scene, after_s: float, source: bytes | None, writer: int, why: str
) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(10, "success", source=HERE, writer=2)
    scene.ping(10 + after_s, "start", source=source, writer=writer)
    assert hangs(scene), why


def test_the_next_start_is_of_the_next_run(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(10, "success", source=HERE, writer=2)
    scene.ping(10.003, "start", source=HERE)
    scene.ping(10.5, "start", source=HERE)
    assert hangs(scene)


def test_the_start_and_the_end_of_a_stage_may_change_places(scene: Scene) -> None:
    scene.monitor(stages=[{"name": "copy"}, {"name": "check", "within": "1m"}], max_runtime="1h")
    scene.ping(0, "start", run="r")
    scene.ping(5, "success", run="r", stage="copy", writer=2)
    scene.ping(5.002, "start", run="r", stage="copy")
    (copy, check) = scene.runs()[1].detail["stages"]
    scene.ping(7, "fail", run="r", stage="check", writer=2)
    scene.ping(7.002, "start", run="r", stage="check")
    assert scene.runs()[1].verdict == "failed", "it is not tried again"
    scene.ping(8, "success", run="r", stage="check")
    copy, check = scene.runs()[1].detail["stages"]
    assert (copy["status"], scene.seconds(copy["started_at"]), scene.seconds(copy["finished_at"])) == ("done", 5, 5)
    assert check["status"] == "done" and scene.runs()[1].verdict == "succeeded"


def test_the_end_of_the_last_stage_after_the_end_of_its_run_begins_none(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(0, "start")
    scene.ping(9, "success", writer=2)
    scene.ping(9.004, "success", stage="load")
    assert len(scene.runs()) == 1 and not hangs(scene)


def test_the_start_of_a_task_after_its_end_changes_nothing(scene: Scene) -> None:
    scene.monitor(tasks={"expected": 2, "within": "1m"})
    scene.ping(0, "start", run="r")
    scene.ping(1, "success", run="r", task="a", writer=2)
    scene.ping(1.002, "start", run="r", task="a")
    scene.ping(2, "success", run="r", task="b")
    assert scene.runs()[1].verdict == "succeeded" and not hangs(scene)


@pytest.mark.parametrize("run", ["r", None])
def test_a_follower_of_start_counts_one_that_arrives_out_of_order(scene: Scene, run: str | None) -> None:
    scene.monitor()
    scene.monitor("next", after={"monitor": "job", "signal": "start", "within": "1m"}, grace="0s")
    scene.ping(10, "success", run=run, source=HERE, writer=2)
    scene.ping(10.003, "start", run=run, source=HERE)
    scene.tick(71)
    (incident,) = scene.incidents("next").values()
    assert incident.run == run and scene.seconds(incident.opened_at) == pytest.approx(70.003)


def test_a_start_whose_answer_was_lost_begins_one_run(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.monitor("next", after={"monitor": "job", "signal": "start", "within": "5m"}, grace="0s")
    scene.ping(0, "start", run="r")
    scene.ping(3, "start", run="r", writer=2)  # sent again while it runs
    scene.ping(5, "success", run="r")
    scene.ping(20, "start", source=HERE)
    scene.outage(20, 22)
    scene.ping(23, "start", source=HERE, writer=2)
    scene.ping(25, "success", source=HERE)
    scene.outage(24, 26)
    scene.ping(28, "success", source=HERE, writer=2)
    assert [run.verdict for run in scene.runs().values()] == ["succeeded", "succeeded"]
    assert not hangs(scene)
    assert len(scene.incidents("next")) == 1  # which was missed once for each run: both causes of one incident
    assert {cause["run"] for cause in scene.incidents("next")[1].causes if "run" in cause} == {"r"}


def test_what_is_remembered_of_it_survives_a_restart(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(5, "start", source=HERE)
    scene.ping(9, "success", source=HERE, writer=2)
    runs = scene.engine.monitors[1].runs
    assert runs is not None and type(runs).load(runs.dump()).finished == (scene.at(9), 2)
    scene.ping(20, "success", source=HERE, writer=2)
    assert scene.engine.monitors[1].dump()["counted_writer"] == 2
