"""The engine on a virtual clock: schedules, statuses, runs, incidents, outages."""

from typing import Any

import orjson
import pytest

from offbeat_server.common.errors import DefinitionError
from offbeat_server.common.instants import SECOND
from offbeat_server.engine.decisions import Alert
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.model.enums import Status
from offbeat_server.engine.schedule.due_times import MonitorStatus, status_at
from tests.support.engine import Scene


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_new_monitor_is_silent_and_raises_nothing(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s")
    scene.tick("1d")
    assert scene.status() == "new"
    assert not scene.incidents()


def test_first_within_is_a_deadline_for_the_first_ping(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s", first_within="1h")
    scene.tick(3599)
    assert scene.status() == "new"
    scene.tick(3600)
    assert scene.status() == "down"
    assert scene.incidents()[1].cause == "missed"
    scene.ping(4000)
    assert scene.status() == "up"


def test_silence_opens_at_the_deadline_and_a_ping_resolves(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s")
    scene.ping(5)
    scene.tick(74.9)
    assert scene.status() == "up"
    scene.tick(500)
    (incident,) = scene.incidents().values()
    assert scene.seconds(incident.opened_at) == 75
    assert scene.status() == "down"
    scene.ping(600)
    assert scene.status() == "up"
    assert scene.seconds(scene.incidents()[1].resolved_at) == 600
    assert scene.alerts() == ["opened", "resolved"]


def test_a_ping_exactly_at_its_deadline_is_in_time(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s")
    scene.ping(0)
    scene.ping(70)
    scene.tick(100)
    assert not scene.incidents()


def test_cron_in_a_time_zone(scene: Scene) -> None:
    scene.monitor(cron="0 2 * * *", timezone="Europe/Berlin", grace="1h")
    scene.ping("1h")  # 02:00 in Berlin
    scene.tick("25h")
    assert scene.status() == "up"
    scene.tick("26h1s")
    (incident,) = scene.incidents().values()
    assert scene.seconds(incident.opened_at) == 26 * 3600
    assert "02:00:00" in incident.reason


def test_an_early_ping_serves_the_nearest_slot_once(scene: Scene) -> None:
    scene.monitor(cron="0 * * * *", grace="10m")
    scene.ping("55m")  # for 01:00
    scene.tick("1h30m")
    assert not scene.incidents()
    scene.tick("2h11m")  # no ping satisfied 02:00
    assert scene.seconds(scene.incidents()[1].opened_at) == 2 * 3600 + 600


def test_a_client_whose_clock_is_a_minute_ahead_is_in_time(scene: Scene) -> None:
    scene.monitor(cron="0 1 * * *", grace="10m")
    for day in range(4):
        scene.ping(f"{day}d59m", "start")
        scene.ping(f"{day}d59m30s")
        scene.tick(f"{day}d2h")
    assert scene.status() == "up" and not scene.incidents()
    scene.tick("4d1h11m")
    assert scene.incidents()[1].cause == "missed"


def test_a_job_that_runs_twice_in_the_hour_that_is_repeated(scene: Scene) -> None:
    """Berlin, 2026-10-25, with a scheduler that starts the job at both 02:30."""
    more: Any
    for slug, more in (("job", {}), ("once", {"at_most": {"count": 1, "per": "12h"}})):
        scene.monitor(slug, cron="30 2 * * *", timezone="Europe/Berlin", grace="10m", **more)
    for when in ("292d30m", "293d30m", "293d1h30m", "294d1h30m"):  # UTC
        for slug in ("job", "once"):
            scene.ping(when, slug=slug)
    scene.tick("294d12h")
    assert not scene.incidents() and scene.incidents("once")[1].cause == "too_often"


def test_a_start_serves_the_schedule_and_its_finish_no_second_slot(scene: Scene) -> None:
    scene.monitor(cron="0 * * * *", grace="10m", max_runtime="2h")
    scene.ping("1h", "start")
    scene.ping("1h55m", "success")
    scene.tick("2h11m")
    assert scene.incidents()[1].cause == "missed"


def test_fail_after_opens_at_the_third_and_since_is_the_first(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s", fail_after=3)
    for second in (10, 40, 70):
        assert not scene.incidents()
        scene.ping(second, "fail", exit_code=3, message="no space left")
    (incident,) = scene.incidents().values()
    assert scene.seconds(incident.opened_at) == 10
    assert "exit code 3" in incident.reason and "no space left" in incident.reason
    scene.ping(80)
    assert scene.status() == "up"


def test_a_retry_of_a_failure_counts_once(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s", fail_after=2)
    scene.ping(10, "fail", source=b"\x7f\0\0\1")
    scene.outage(10, 18)  # it was answered 503
    scene.ping(20, "fail", source=b"\x7f\0\0\1")
    assert scene.status() != "down"
    scene.ping(60, "fail", source=b"\x7f\0\0\1")
    assert scene.status() == "down"


def test_every_open_run_is_watched(scene: Scene) -> None:
    scene.monitor(max_runtime="10m")
    scene.ping(0, "start", run="a")
    scene.ping(300, "start", run="b")
    scene.ping(500, "success", run="b")
    scene.tick(601)
    (incident,) = scene.incidents().values()
    assert incident.cause == "hung" and incident.run == "a" and scene.seconds(incident.opened_at) == 600
    assert "run a" in incident.reason
    assert scene.runs()[1].verdict == "hung" and scene.runs()[2].verdict == "succeeded"
    scene.ping(700, "success", run="a")
    run = scene.runs()[1]
    assert run.verdict == "succeeded" and run.reason is not None and "late" in run.reason
    assert scene.status() == "up"
    assert scene.alerts() == ["opened", "resolved"]


def test_a_hung_run_is_forgiven_when_a_later_one_succeeds(scene: Scene) -> None:
    scene.monitor(max_runtime="10m")
    scene.ping(0, "start")
    scene.tick(601)
    assert scene.status() == "down"
    scene.ping(86400, "start")
    scene.ping(86500, "success")
    assert scene.status() == "up"
    assert scene.runs()[1].verdict == "superseded"


def test_a_finish_never_started_counts(scene: Scene) -> None:
    scene.monitor(every="1h")
    scene.ping(10, "fail", run="x", exit_code=2)
    run = scene.runs()[1]
    assert run.started_at is None and run.verdict == "failed" and run.exit_code == 2
    scene.ping(11, "fail", run="x", exit_code=2)  # the retry
    assert len(scene.runs()) == 1 and scene.alerts() == ["opened"]
    scene.ping(20, "success", run="y")
    assert scene.status() == "up"


def test_a_failed_stage_names_itself_and_carries_the_message(scene: Scene) -> None:
    scene.monitor(stages=[{"name": "extract"}, {"name": "transform", "within": "1h"}, {"name": "load"}])
    scene.ping(0, "start")
    scene.ping(1, "start", stage="extract")
    scene.ping(700, "success", stage="extract")
    scene.ping(701, "start", stage="transform")
    scene.ping(800, "fail", stage="transform", message="KeyError: 'id'")
    (incident,) = scene.incidents().values()
    assert incident.stage == "transform" and "KeyError" in incident.reason
    scene.ping(900, "start", stage="transform")
    scene.ping(950, "success", stage="transform")
    assert scene.status() == "up"
    scene.ping(999, "success", stage="load")
    assert scene.runs()[1].verdict == "succeeded"


def test_an_overdue_stage_says_where_the_batch_hangs(scene: Scene) -> None:
    scene.monitor(stages=[{"name": "extract"}, {"name": "transform", "within": "1h"}, {"name": "load"}])
    scene.ping(0, "start")
    scene.ping(1, "start", stage="extract")
    scene.ping(720, "success", stage="extract")
    scene.ping(840, "start", stage="transform")
    scene.tick(720 + 3601)
    (incident,) = scene.incidents().values()
    assert incident.cause == "stage" and incident.stage == "transform"
    assert "1 h after the end of stage extract at 00:12:00; it started 00:14:00" in incident.reason
    assert "extract took 11 min 59 s" in incident.reason and "load waiting" in incident.reason


def test_fan_in_lists_what_is_missing(scene: Scene) -> None:
    scene.monitor(tasks={"expected": 10, "within": "10m", "tolerate": 1})
    scene.ping(0, "start", run="n")
    for task in range(1, 8):
        scene.ping(task, "success", run="n", task=str(task))
    scene.ping(20, "fail", run="n", task="8")
    scene.tick(601)
    (incident,) = scene.incidents().values()
    assert incident.cause == "tasks" and "9" in incident.reason and "10" in incident.reason
    detail = scene.runs()[1].detail["tasks"]
    assert detail["done"] == 7 and detail["failed"] == 1 and detail["failed_names"] == ["8"]
    assert detail["missing"] == ["9", "10"] and detail["missing_count"] == 2
    scene.ping(700, "success", run="n", task="9")
    scene.ping(701, "success", run="n", task="10")
    assert scene.runs()[1].verdict == "succeeded" and scene.status() == "up"


def test_expected_names_are_listed_exactly(scene: Scene) -> None:
    scene.monitor(tasks={"expected": ["eu-north", "eu-south", "us"], "within": "10m", "tolerate": 1})
    scene.ping(0, "start", run="n", total=1)
    scene.ping(1, "success", run="n", task="eu-north")
    scene.ping(2, "success", run="n", task="eu-west")
    scene.ping(3, "fail", run="n", task="asia")
    scene.ping(4, "start", run="n", task="us")
    scene.ping(5, "start", run="n", task="africa")
    scene.tick(601)
    (incident,) = scene.incidents().values()
    assert "1 of 3 tasks done" in incident.reason and "1 failed (1 tolerated)" in incident.reason
    assert "2 missing (1 of them started): us, eu-south; 3 unexpected: eu-west, asia, africa" in incident.reason
    assert scene.runs()[1].detail["tasks"] == {
        "expected": 3,
        "started": 2,
        "done": 1,
        "failed": 1,
        "failed_names": ["asia"],
        "missing_count": 2,
        "missing": ["us", "eu-south"],
        "unexpected": 3,
        "unexpected_names": ["eu-west", "asia", "africa"],
    }
    scene.ping(700, "success", run="n", task="us")
    scene.ping(701, "success", run="n", task="eu-south")
    assert scene.runs()[1].verdict == "succeeded" and scene.status() == "up"


def test_expected_names_are_one_set_for_all_runs(scene: Scene) -> None:
    names = [f"part-{number}" for number in range(1_000)]
    scene.monitor(tasks={"expected": names})
    for run in ("a", "b"):
        scene.ping(0, "start", run=run)
        scene.ping(1, "success", run=run, task="part-0")
        scene.ping(1, "success", run=run, task="other")
    m = scene.engine.monitors[1]
    assert m.runs is not None and m.definition.tasks is not None
    groups = [run.tasks[""] for run in m.runs.open.values()]
    for group in groups:
        assert group.named is not None and group.named.names is m.definition.tasks.expected_names
        assert (group.named.ended, list(group.named.unexpected)) == (1, ["other"])
        assert len(orjson.dumps(group.dump())) < 100, "the names are stored with the definition alone"


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        ([], "tasks.expected: must have 1 to 20000 names; got 0"),
        ([str(number) for number in range(20_001)], "tasks.expected: must have 1 to 20000 names; got 20001"),
        (["us", "eu", "us"], "tasks.expected: must have each name once; the list has this one twice: us"),
        (["us", ""], "tasks.expected.1: must not be empty"),
        (["x" * 256], "tasks.expected.0: must have at most 255 characters"),
        (["us", 7], "tasks.expected.1: must be text: put it in quotes"),
        ("us", "tasks.expected: must be a whole number or a list of names, such as [a, b]"),
        ({"us": 1}, "tasks.expected: must be a whole number or a list of names, such as [a, b]"),
        (True, "tasks.expected: must be a whole number or a list of names, such as [a, b]"),
        (0, "tasks.expected: must be at least 1"),
        (1.5, "tasks.expected: must be a whole number"),
    ],
)
def test_wrong_expected_tasks_are_refused(expected: object, problem: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        read_definition({"tasks": {"expected": expected}})
    assert str(refused.value) == problem


def test_a_stalled_count_is_hung_even_if_pings_arrive(scene: Scene) -> None:
    scene.monitor(stall_for="5m")
    scene.ping(0, "start", run="q")
    for minute in range(1, 44):
        scene.ping(minute * 60, "progress", run="q", done=minute * 100, total=10_000)
    for minute in range(44, 55):
        scene.ping(minute * 60, "progress", run="q", done=4300, total=10_000)
    (incident,) = scene.incidents().values()
    assert scene.seconds(incident.opened_at) == 43 * 60 + 300
    assert "4300 of 10000" in incident.reason
    assert scene.runs()[1].detail["progress"]["rate"] == pytest.approx(100 / 60)


def test_a_fleet_is_one_incident(scene: Scene) -> None:
    scene.monitor(members={"every": "10s", "grace": "5s", "min_alive": "95%"})
    for second in range(0, 60, 10):
        for member in range(100):
            if member >= 6 or second < 30:
                scene.ping(second + member / 1000, "success", task=f"w{member}")
    assert scene.status() == "down"
    scene.tick(60)
    incidents = scene.incidents()
    assert len(incidents) == 1 and "w5" in incidents[1].reason and "94 of 100" in incidents[1].reason
    assert scene.alerts() == ["opened"]
    scene.ping(61, "success", task="w0")
    assert scene.status() == "up"


def test_dependents_of_a_broken_upstream_wait(scene: Scene) -> None:
    scene.monitor("db", every="1m", grace="10s")
    scene.monitor("api", every="1m", grace="5s", depends_on=["db"])
    scene.ping(0, slug="db")
    scene.ping(1, slug="api")
    scene.tick(200)
    assert scene.alerts("db") == ["opened"] and scene.alerts("api") == []
    assert scene.incidents("api")[1].suppressed_by == 1
    scene.ping(300, slug="db")
    scene.tick(360)
    assert scene.alerts("api") == []
    scene.ping(350, slug="db")
    scene.tick(366)
    assert scene.alerts("api") == ["opened"]


def test_a_follower_that_has_followed_is_stored_as_such_at_once(scene: Scene) -> None:
    scene.monitor("extract", every="1h")
    scene.monitor("load", after={"monitor": "extract", "within": "20s"}, grace="10s")
    for start in (0, 60):
        scene.ping(start, slug="extract")
        scene.ping(start + 2, slug="load")
    state = [decision.state for decision in scene.decisions if decision.monitor_id == scene.ids["load"]][-1]
    definition = scene.engine.monitors[scene.ids["load"]].definition
    seen = status_at(definition, "up", orjson.loads(orjson.dumps(state)), scene.at(62), scene.at(200))
    assert seen == MonitorStatus(Status.UP, None, None)


def test_a_fleet_with_first_within_is_not_late_after_a_ping_that_satisfies_no_schedule(scene: Scene) -> None:
    scene.monitor("workers", members={"every": "1m"}, first_within="1h")
    scene.ping(10, "progress", task="one", slug="workers")  # the newest satisfying ping, which pages look for: none
    m = scene.engine.monitors[scene.ids["workers"]]
    assert status_at(m.definition, m.status, m.dump(), None, scene.at(20)) == MonitorStatus(Status.UP, None, None)


def test_stages_may_be_their_names_alone() -> None:
    short = read_definition({"stages": ["extract", {"name": "transform", "within": "1m"}, "load"]})
    assert short == read_definition(
        {"stages": [{"name": "extract"}, {"name": "transform", "within": "1m"}, {"name": "load"}]}
    )
    assert read_definition(short.dump()) == short
    for wrong in (["a", "a"], [1], [""], "abc", [["a"]], [None]):
        with pytest.raises(DefinitionError, match="stages"):
            read_definition({"stages": wrong})


def test_after_expects_the_next_of_a_pipeline(scene: Scene) -> None:
    scene.monitor("extract")
    scene.monitor("load", after={"monitor": "extract", "within": "10m"}, grace="0s")
    scene.ping(0, slug="extract", run="n1")
    scene.tick(599)
    assert not scene.incidents("load")
    scene.tick(601)
    assert scene.incidents("load")[1].run == "n1"
    scene.ping(700, slug="load", run="n1")
    assert scene.status("load") == "up"


def test_an_outage_moves_a_deadline(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s")
    scene.ping(0)
    scene.outage(20, 30)  # before anything could be expected: 50 s is the earliest for a ping that is due at 60 s
    scene.outage(52, 57)
    scene.tick(74.9)
    scene.outage(74, 78)
    scene.tick(78.9)
    assert not scene.incidents()
    scene.tick(95)
    assert scene.seconds(scene.incidents()[1].opened_at) == 79
    assert "Offbeat could not receive pings for 5 s" in scene.incidents()[1].reason


def test_a_window_in_an_outage_is_excused_twice_at_most(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s")
    scene.ping(0)
    scene.outage(50, 1000)
    scene.tick(1021)  # moved by the whole outage: 70 + 950
    assert scene.status() == "unknown"
    scene.tick(1100)
    assert scene.status() == "down"


def test_pause_and_resume_give_one_period_and_grace(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s")
    scene.ping(0)
    scene.tick(100)
    assert scene.status() == "down"
    scene.monitor(when=101, every="1m", grace="10s", paused=True, drop=True)
    assert scene.status() == "paused"
    scene.monitor(when=1000, every="1m", grace="10s")
    scene.tick(1069)
    assert scene.status() == "up"
    scene.tick(1071)
    assert scene.status() == "down"


def test_a_shorter_interval_begins_at_its_application(scene: Scene) -> None:
    scene.monitor(every="1d", grace="10s")
    scene.ping(0)
    scene.monitor(when=3600, every="1m", grace="30s")
    scene.tick(3689)
    assert scene.status() == "up"
    scene.tick(3691)
    assert scene.seconds(scene.incidents()[1].opened_at) == 3690


def test_a_snooze_holds_the_alert_not_the_record(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s", snoozed_until=500)
    scene.ping(0)
    scene.tick(400)
    assert scene.status() == "down" and scene.alerts() == []
    scene.tick(501)
    assert scene.alerts() == ["opened"]


def test_state_survives_dump_and_load(scene: Scene) -> None:
    scene.monitor(max_runtime="10m", stages=[{"name": "a", "within": "5m"}])
    scene.ping(0, "start", run="r")
    scene.ping(10, "success", run="r", stage="a", done=5, total=10)
    scene.ping(20, "start", run="s")
    m = scene.engine.monitors[1]
    from offbeat_server.engine.engine import Engine
    from offbeat_server.engine.model.monitor import Monitor

    again = Monitor(m.id, m.project_id, m.slug, m.name, m.definition, 0)
    again.load(m.status, m.since, m.position, m.dump())
    assert again.dump() == m.dump()
    other = Engine()
    other.load(again)
    other.loaded(scene.engine.now)
    other.advance(scene.at(600), 100)
    scene.tick(600)
    assert other.monitors[1].dump() == m.dump()


def test_the_last_message_is_in_the_alert(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(0, "start", run="r", message="reading 10 files")
    scene.tick(61)
    alert: Alert = scene.effects(Alert)[0]
    assert alert.facts["last_message"] == "reading 10 files" and alert.facts["opened_at"] == scene.begin + 60 * SECOND


def test_a_status_of_a_newer_version_is_shown_as_unknown() -> None:
    """A program of a newer version may have written it; the pages must show the other monitors."""
    definition = read_definition({"every": "1m", "grace": "10s"})
    assert status_at(definition, "muted", {}, None, 1_700_000_000 * SECOND).status == "unknown"
