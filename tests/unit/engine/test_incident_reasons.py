"""The texts of records and alerts about a failed run, a fleet that came back, and a run without progress."""

from typing import Any

import orjson
import pytest

from offbeat_server.common.instants import SECOND
from offbeat_server.engine.decisions import Alert
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.model.monitor import RUNS_COUNTED_MAX, Incident
from offbeat_server.engine.model.ping import Signal
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.rules.notifications import RUNS_NAMED_MAX
from tests.support.engine import Scene

ETL = [{"name": "extract"}, {"name": "transform"}, {"name": "load"}]
OUTPUT = "\n".join(f"line {number}" for number in range(66)) + "\npsycopg.errors.UniqueViolation: duplicate key"


@pytest.fixture
def scene() -> Scene:
    return Scene()


def alert(scene: Scene, kind: str = "opened", slug: str = "job") -> Alert:
    """The last alert of this kind."""
    alerts: list[Alert] = [each for each in scene.effects(Alert, slug) if each.kind == kind]
    return alerts[-1]


def shown(scene: Scene) -> dict[str, str]:
    """The stages of the first run."""
    return {stage["name"]: stage["status"] for stage in scene.runs()[1].detail["stages"]}


# ------------------------------------------------------------------------------- what an alert says of an ended run


def test_the_alert_of_a_failed_run_has_its_output_stages_and_start(scene: Scene) -> None:
    scene.monitor(stages=ETL, tasks={"expected": 3})
    scene.ping(0, "start", run="t1")
    for second, stage in enumerate(("extract", "transform"), 1):
        scene.ping(second, "start", run="t1", stage=stage)
        if stage == "extract":
            scene.ping(second + 0.5, "success", run="t1", stage=stage)
    scene.ping(3, "success", run="t1", task="1")
    scene.ping(4, "fail", run="t1", exit_code=1, message=OUTPUT)
    facts = alert(scene).facts
    assert facts["last_message"] == OUTPUT
    assert (facts["run_started_at"], facts["run_finished_at"]) == (scene.at(0), scene.at(4))
    assert facts["stage"] == "transform"
    stages = {each["name"]: each["status"] for each in facts["detail"]["stages"]}
    assert stages == {"extract": "done", "transform": "failed", "load": "not started"}
    assert facts["detail"]["tasks"]["done"] == 1
    assert facts["reason"].startswith("run t1 failed in stage transform with exit code 1: … line ")
    assert facts["reason"].endswith("psycopg.errors.UniqueViolation: duplicate key")


@pytest.mark.parametrize("run", [None, "r"])
def test_a_failure_without_a_start_has_its_output(scene: Scene, run: str | None) -> None:
    scene.monitor()
    scene.ping(0, "fail", run=run, message=OUTPUT)
    assert alert(scene).facts["last_message"] == OUTPUT


def test_a_member_that_fails_has_its_output(scene: Scene) -> None:
    scene.monitor(members={"every": "1m"})
    scene.ping(0, "fail", task="w-1", message=OUTPUT)
    assert alert(scene).facts["last_message"] == OUTPUT


def test_a_run_that_is_revised_to_failed_has_its_output_and_its_stages(scene: Scene) -> None:
    scene.monitor(stages=ETL, complete="trust")
    scene.ping(0, "start", run="r")
    scene.ping(1, "success", run="r", stage="extract")
    scene.ping(2, "success", run="r")
    scene.ping(3, "fail", run="r", message=OUTPUT)
    facts = alert(scene).facts
    assert facts["last_message"] == OUTPUT
    assert [stage["status"] for stage in facts["detail"]["stages"]] == ["done", "not started", "not started"]


@pytest.mark.parametrize("why", ["too early", "tasks"])
def test_a_success_that_counts_as_failure_has_its_output(scene: Scene, why: str) -> None:
    scene.monitor(min_runtime="1m", tasks={"tolerate": 0})
    scene.ping(0, "start", run="r")
    if why == "tasks":
        scene.ping(1, "start", run="r", task="1")
        scene.monitor(when=2, min_runtime="1m", snoozed_until=5)
        scene.ping(3, "fail", run="r", task="1")
    scene.ping(4, "success", run="r", message=OUTPUT)
    scene.tick(10)
    assert alert(scene).facts["last_message"] == OUTPUT and alert(scene).facts["run_started_at"] == scene.at(0)


def test_a_later_alert_still_has_the_output_also_after_a_restart(scene: Scene) -> None:
    scene.monitor(snoozed_until="1h", stages=ETL)
    scene.ping(0, "start", run="t1")
    scene.ping(1, "start", run="t1", stage="extract")
    scene.ping(2, "fail", run="t1", message=OUTPUT)
    scene.ping(3, "start", run="t2")
    scene.ping(4, "fail", run="t2", message="another one")
    m = scene.engine.monitors[scene.ids["job"]]
    assert m.incident is not None
    m.incident = Incident.load(orjson.loads(orjson.dumps(m.incident.dump())))
    scene.tick("2h")
    facts = alert(scene).facts
    assert (facts["run"], facts["last_message"], facts["run_started_at"]) == ("t1", OUTPUT, scene.at(0))


def test_the_end_of_an_incident_names_its_runs_also_after_a_restart(scene: Scene) -> None:
    scene.monitor()
    for number in range(RUNS_COUNTED_MAX + 2):
        scene.ping(0, "fail", run=f"r{number}")
    m = scene.engine.monitors[scene.ids["job"]]
    assert m.incident is not None
    m.incident = Incident.load(orjson.loads(orjson.dumps(m.incident.dump())))
    scene.ping(1, "success")
    facts = alert(scene, "resolved").facts
    assert facts["runs_count"] == RUNS_COUNTED_MAX
    assert facts["runs"] == [{"run": f"r{number}", "number": number + 1} for number in range(RUNS_NAMED_MAX)]


def test_members_of_a_fleet_are_no_runs_of_its_incident(scene: Scene) -> None:
    scene.monitor(members={"every": "1m"})
    scene.ping(0, "fail", run="worker")
    scene.ping(1, "success", run="worker")
    assert "runs" not in alert(scene, "resolved").facts


def test_the_output_of_a_sent_alert_is_not_kept(scene: Scene) -> None:
    scene.monitor()
    for second in range(4):
        scene.ping(second * 60, "fail", run=f"r{second}", message=OUTPUT)
    scene.tick("1h")
    m = scene.engine.monitors[scene.ids["job"]]
    assert m.incident is not None and OUTPUT not in str(m.incident.dump())
    assert [each.facts["last_message"] for each in scene.effects(Alert)] == [OUTPUT] * 2


def test_the_second_alert_of_an_incident_has_the_output_of_its_own_run(scene: Scene) -> None:
    scene.monitor()
    scene.ping(0, "fail", run="a", message="first")
    scene.ping("30m", "start", run="b")
    scene.ping("31m", "fail", run="b", message="second")
    facts = alert(scene, "worse").facts
    assert (facts["run"], facts["last_message"], facts["run_started_at"]) == ("b", "second", scene.at("30m"))


# ------------------------------------------------------------------------------- words of a long message


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("x " * 50, ("x " * 50).strip()),
        ("a\n\n  b\tc \n", "a b c"),
        ("lost\n" + "y" * 150 + "\nthe end", "lost " + "y" * 150 + " the end"),
        ("first\n" + "y" * 190 + "\nthe end", "… " + "y" * 190 + " the end"),
        ("first\nValueError: " + "long words " * 40, None),
        ("z" * 500, "z" * 199 + "…"),
    ],
)
def test_the_tail_is_whole_lines(message: str, expected: str | None) -> None:
    tail = reasons.tail(message)
    assert len(tail) <= reasons.MESSAGE_SHOWN_CHARS + 2
    if expected is None:
        assert tail.startswith("ValueError: long words") and tail.endswith(("long…", "words…"))
    else:
        assert tail == expected


# ------------------------------------------------------------------------------- a run that has ended


def test_no_stage_of_an_ended_run_runs_or_waits(scene: Scene) -> None:
    scene.monitor(stages=ETL)
    scene.ping(0, "start", run="r")
    scene.ping(1, "success", run="r", stage="extract")
    scene.ping(2, "start", run="r", stage="transform")
    assert shown(scene)["extract"] == "waiting"  # as of its start
    scene.ping(5, "fail", run="r")
    assert shown(scene) == {"extract": "done", "transform": "failed", "load": "not started"}
    transform = scene.runs()[1].detail["stages"][1]
    assert (transform["started_at"], transform["finished_at"]) == (scene.at(2), scene.at(5))


@pytest.mark.parametrize(
    ("last", "total", "status"),
    [
        ("success", None, "done"),
        ("success", 3, "unfinished"),
        ("fail", None, "failed"),
        ("start", None, "unfinished"),
    ],
)
def test_a_stage_of_a_good_run_whose_tasks_all_ended_well_is_done(
    scene: Scene, last: Signal, total: int | None, status: str
) -> None:
    """An orchestrator reports the tasks of a stage, whose number it does not know, and the end of the run."""
    scene.monitor(stages=ETL, complete="trust")
    scene.ping(0, "start", run="r")
    scene.ping(1, "success", run="r", stage="extract", task="1", total=total)
    scene.ping(2, last, run="r", stage="extract", task="2")
    scene.ping(5, "success", run="r")
    assert shown(scene)["extract"] == status


ENDS: dict[str, Signal] = {"success": "success", "skip": "skip", "two at once": "fail"}


@pytest.mark.parametrize("how", ["success", "skip", "superseded", "two at once", "deleted"])
def test_a_stage_whose_end_was_not_received_is_unfinished(scene: Scene, how: str) -> None:
    run = None if how == "superseded" else "r"
    scene.monitor(stages=ETL, complete="trust")
    scene.ping(0, "start", run=run)
    scene.ping(1, "start", run=run, stage="extract")
    if how == "two at once":
        scene.ping(1, "start", run=run, stage="load")
    if how == "superseded":
        scene.ping(30, "start", source=b"another")
    elif how == "deleted":
        scene.engine.remove(scene.ids["job"], at=scene.at(5))
        scene._take()
    else:
        scene.ping(5, ENDS[how], run=run)
    assert scene.runs()[1].finished_at is not None
    assert shown(scene)["extract"] == "unfinished" and shown(scene)["transform"] == "not started"


def test_an_ended_run_has_no_estimate_of_its_end(scene: Scene) -> None:
    scene.monitor(stall_for="1h")
    scene.ping(0, "start", run="r")
    scene.ping(1, "progress", run="r", done=1, total=10)
    scene.ping(2, "progress", run="r", done=2, total=10)
    scene.ping(3, "fail", run="r")
    progress = scene.runs()[1].detail["progress"]
    assert progress["rate"] == 1.0 and progress["eta"] is None


# ------------------------------------------------------------------------------- the reason of a run that continues


def test_the_reason_of_a_run_counts_every_failed_task(scene: Scene) -> None:
    scene.monitor(tasks={"expected": 200, "tolerate": 3})
    scene.ping(0, "start", run="r")
    for task in range(1, 6):
        scene.ping(task, "fail", run="r", task=str(task))
        if task > 3:
            assert (scene.runs()[1].reason or "").startswith(f"{task} tasks failed: 1, 2, 3")
            assert scene.incidents()[1].reason == scene.runs()[1].reason
    scene.ping(10, "success", run="r", task="2")
    assert (scene.runs()[1].reason or "").startswith("4 tasks failed: 1, 3, 4, 5")
    assert scene.incidents()[1].reason == scene.runs()[1].reason


def test_the_reason_of_a_run_is_of_what_still_fails(scene: Scene) -> None:
    scene.monitor(stages=ETL)
    scene.ping(0, "start", run="r")
    scene.ping(1, "fail", run="r", stage="extract", message="one")
    scene.ping(2, "fail", run="r", stage="load", message="two")
    assert scene.runs()[1].reason == "stage load failed (run r): two"
    scene.ping(3, "success", run="r", stage="load")
    assert scene.runs()[1].reason == "stage extract failed (run r): one"
    scene.ping(4, "success", run="r", stage="extract")
    assert (scene.runs()[1].verdict, scene.runs()[1].reason) == (None, None)


# ------------------------------------------------------------------------------- a fleet


def dying_fleet(scene: Scene) -> list[str]:
    """Fifty workers; nine die within seconds."""
    scene.monitor(members={"every": "10s", "grace": "5s"})
    names = [f"render-{number:02}" for number in range(50)]
    for name in names:
        scene.ping(0, task=name)
    for name in names[9:]:
        scene.ping(10, task=name)
    scene.tick(16)
    return names


def test_the_record_of_a_fleet_is_of_its_worst_moment(scene: Scene) -> None:
    names = dying_fleet(scene)
    assert scene.incidents()[1].reason.startswith("41 of 50 members alive, 50 required; silent: render-00")
    for number in range(9):  # they come back one by one
        for each in [*names[9:], *names[: number + 1]]:
            scene.ping(20 + number, task=each)
        if number == 5:
            reason = scene.incidents()[1].reason
            assert reason.startswith("47 of 50 members alive, 50 required; silent: render-06, render-07, render-08")
            assert reason.endswith("; 9 of 50 were missing at the worst")
    incident = scene.incidents()[1]
    assert incident.resolved_at == scene.at(28)
    expected = "9 of 50 were missing at the worst, at 2026-01-05 00:00:15 UTC: " + ", ".join(names[:9])
    assert incident.reason == expected and incident.causes[0]["reason"] == expected
    assert alert(scene, "resolved").facts["reason"] == expected


def test_the_worst_of_a_fleet_is_known_after_a_restart_and_at_an_end_by_hand(scene: Scene) -> None:
    names = dying_fleet(scene)
    for each in names[3:]:
        scene.ping(21, task=each)
    m = scene.engine.monitors[scene.ids["job"]]
    assert m.incident is not None
    m.incident = Incident.load(orjson.loads(orjson.dumps(m.incident.dump())))
    scene.engine.resolve_by_hand(scene.ids["job"], 1, 99, scene.at(22))
    scene._take()
    assert scene.incidents()[1].reason.startswith("9 of 50 were missing at the worst")
    assert "render-08" in scene.incidents()[1].reason


def test_a_fleet_that_was_never_whole_counts_those_it_should_have(scene: Scene) -> None:
    scene.monitor(members={"every": "10s", "grace": "1s", "expected": 4})
    for name in ("a", "b"):
        scene.ping(0, task=name)
    scene.ping(5, task="a")
    scene.tick(12)
    scene.engine.resolve_by_hand(scene.ids["job"], 1, 99, scene.at(13))
    scene._take()
    assert scene.incidents()[1].reason.startswith("3 of 4 were missing at the worst")


# ------------------------------------------------------------------------------- finished after it hung


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ({"stall_for": "30s", "max_runtime": "30m"}, "finished in 3 min, after a stall of more than 30 s"),
        ({"quiet_for": "40s", "max_runtime": "30m"}, "finished in 3 min, after a silence of more than 40 s"),
        ({"stall_for": "30s", "max_runtime": "2m"}, "finished late, after 3 min"),
        ({"max_runtime": "2m"}, "finished late, after 3 min"),
        ({"stages": [{"name": "a", "within": "1m"}], "stall_for": "30s"}, "finished late, after 3 min"),
        ({"tasks": {"expected": 2, "within": "1m"}}, "finished late, after 3 min"),
    ],
)
def test_a_run_is_late_only_when_a_deadline_has_passed(scene: Scene, definition: dict[str, Any], reason: str) -> None:
    scene.monitor(**definition)
    scene.ping(0, "start", run="r")
    scene.ping(1, "progress", run="r", done=2200, total=6000)
    scene.tick("2m30s")
    scene.ping("2m40s", "progress", run="r", done=2300, total=6000)
    scene.tick("2m50s")
    scene.ping("3m", "success", run="r")
    assert (scene.runs()[1].verdict, scene.runs()[1].reason) == ("succeeded", reason)


def test_a_task_that_stood_still_makes_no_run_late(scene: Scene) -> None:
    scene.monitor(stall_for="30s")
    scene.ping(0, "start", run="r")
    scene.ping(1, "progress", run="r", task="1", done=1, total=9)
    scene.tick("1m")
    scene.ping("1m10s", "success", run="r")
    assert scene.runs()[1].reason == "finished in 1 min 10 s, after a stall of more than 30 s"


def test_what_is_expected_names_the_rules_on_frequency_and_overlap(scene: Scene) -> None:
    scene.monitor(at_most={"count": 1, "per": "1m"}, overlap="alert")
    scene.ping(0, "success")
    scene.ping(1, "success")
    (alert,) = scene.effects(Alert)
    assert alert.facts["reason"] == "more than 1 run or heartbeat within the 1 min before 2026-01-05 00:00:01 UTC"
    assert alert.facts["expected"] == "at most 1 run or heartbeat in 1 min, no overlapping runs"


def test_a_count_of_one_has_no_plural() -> None:
    assert reasons.usual(60 * SECOND, 90 * SECOND, 1).endswith("(1 run)")
    assert reasons.usual(60 * SECOND, 90 * SECOND, 2).endswith("(2 runs)")
    one, two = ({"tasks": {"expected": count}, "at_most": {"count": count, "per": "1m"}} for count in (1, 2))
    assert reasons.expected(read_definition(one)) == "at most 1 run or heartbeat in 1 min, 1 task"
    assert reasons.expected(read_definition(two)) == "at most 2 runs or heartbeats in 1 min, 2 tasks"
