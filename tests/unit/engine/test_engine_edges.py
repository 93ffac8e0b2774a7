"""The engine where its tables are least obvious: one test for each, in the order of docs/semantics.md."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from offbeat_server.common.errors import DefinitionError
from offbeat_server.common.instants import SECOND, to_micros
from offbeat_server.engine.decisions import Alert, IncidentChanged, RunChanged
from offbeat_server.engine.engine import Engine
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.model.enums import Status, Verdict
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.engine.model.ping import Ping, Signal
from offbeat_server.engine.model.run import STAGES_SEEN_MAX, Run
from offbeat_server.engine.model.runs import MonitorRuns
from offbeat_server.engine.schedule.calendar import calendar
from offbeat_server.engine.schedule.maintenance_windows import read_window
from tests.support.engine import PROJECT, Scene

HERE = b"\x7f\0\0\1"


@pytest.fixture
def scene() -> Scene:
    return Scene()


# ------------------------------------------------------------------------------- the schedule


def test_within_the_hour_that_is_repeated_the_next_slot_is_later_than_now() -> None:
    second_half_past_two = to_micros(datetime(2026, 10, 25, 1, 20, tzinfo=UTC))  # 02:20 in Berlin, for the second time
    for kind, text in (("cron", "30 2 * * *"), ("oncalendar", "*-*-* 02:30:00")):
        slot = calendar(kind, text, "Europe/Berlin").next_after(second_half_past_two)
        assert slot == to_micros(datetime(2026, 10, 26, 1, 30, tzinfo=UTC))


def test_a_late_ping_serves_the_slot_that_was_due_and_not_the_next_one_too(scene: Scene) -> None:
    scene.monitor(cron="0 * * * *", grace="40m")
    scene.ping("1h")
    scene.ping("2h35m")  # for 02:00, though 03:00 is nearer
    scene.tick("3h39m59s")
    assert scene.status() == "up"
    scene.tick("3h40m")
    assert scene.incidents()[1].cause == "missed"


def test_a_retry_serves_no_second_slot(scene: Scene) -> None:
    scene.monitor(cron="*/1 * * * *", grace="1m")
    scene.ping(25, source=HERE)  # late for 00:00; the next is 00:01
    scene.outage(25, 31)  # it was answered 503
    scene.ping(33, source=HERE)  # 27 s before 00:01, which a ping of its own would serve
    scene.tick(121)
    assert scene.status() == "down"


def test_after_a_miss_the_next_slot_may_be_served_early(scene: Scene) -> None:
    scene.monitor(cron="0 * * * *", grace="10m")
    scene.ping("1h")
    scene.tick("2h30m")
    assert scene.status() == "down"
    scene.ping("3h55m")
    scene.tick("4h30m")
    assert scene.status() == "up" and scene.engine.monitors[1].due == scene.at("5h")


def test_a_slot_long_past_is_not_what_comes_after_one_in_an_outage(scene: Scene) -> None:
    scene.monitor(cron="0 * * * *", grace="10m")
    scene.ping("1h")
    scene.outage("1h30m", "72h")
    scene.tick("72h30m")
    assert scene.status() == "unknown" and scene.engine.monitors[1].due == scene.at("73h")
    scene.ping("73h")
    assert scene.status() == "up" and not scene.incidents()


def test_a_follower_that_was_faster_is_not_awaited(scene: Scene) -> None:
    scene.monitor("extract")
    scene.monitor("load", after={"monitor": "extract", "within": "1m"}, grace="0s")
    scene.ping(1, run="n1", slug="load")
    scene.ping(2, run="n1", slug="extract")
    scene.tick(1000)
    assert not scene.incidents("load")


def test_another_run_does_not_answer_for_the_awaited_one(scene: Scene) -> None:
    scene.monitor("extract")
    scene.monitor("load", after={"monitor": "extract", "within": "1m"}, grace="0s")
    scene.ping(1, run="n1", slug="extract")
    scene.ping(2, "start", run="n7", slug="load")
    scene.tick(62)
    assert scene.incidents("load")[1].run == "n1"


# ------------------------------------------------------------------------------- runs


def test_the_latest_finish_decides_the_verdict(scene: Scene) -> None:
    scene.monitor()
    scene.ping(0, "start", run="r")
    scene.ping(5, "fail", run="r", message="exit 1")
    scene.ping(30, "success", run="r")  # the step was run again under the same id
    run = scene.runs()[1]
    assert run.verdict == "succeeded" and scene.seconds(run.finished_at) == 5 and scene.status() == "unwatched"
    scene.ping(40, "success", run="r")
    assert len(scene.runs()) == 1


def test_an_id_may_be_used_again(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(0, "start", run="nightly")
    scene.ping(5, "success", run="nightly")
    scene.ping(5.5, "start", run="nightly")
    scene.tick(66)
    assert [run.verdict for run in scene.runs().values()] == ["succeeded", "hung"]


def test_of_a_run_that_hangs_every_limit_is_named_and_it_counts_once(scene: Scene) -> None:
    scene.monitor(max_runtime="1m", quiet_for="20s", fail_after=2)
    scene.ping(0, "start", run="r")
    scene.tick(100)
    assert not scene.incidents()
    scene.ping(101, "start", run="q")
    scene.tick(122)
    assert scene.incidents()[1].run == "q" and scene.seconds(scene.incidents()[1].opened_at) == 20


def test_only_runs_that_started_later_speak_against_a_failure(scene: Scene) -> None:
    scene.monitor(recover_after=2)
    for second, run in enumerate("abcd"):
        scene.ping(second, "start", run=run)
    scene.ping(10, "fail", run="c")
    scene.ping(11, "success", run="a")
    scene.ping(12, "success", run="b")
    assert scene.status() == "down"
    scene.ping(13, "success", run="d")
    assert scene.status() == "down"
    scene.ping(14, "start", run="e")
    scene.ping(15, "success", run="e")
    assert scene.status() == "unwatched"


def test_a_run_that_ends_well_closes_what_was_left_open(scene: Scene) -> None:
    stages = [{"name": "a", "within": "1m"}, {"name": "b", "within": "1m"}]
    scene.monitor(stages=stages, tasks={"expected": 5}, complete="trust")
    scene.ping(0, "start", run="r")
    scene.ping(1, "start", run="r", stage="a")
    scene.ping(2, "success", run="r", task="1")
    scene.ping(3, "success", run="r")
    scene.tick(1000)
    assert scene.runs()[1].verdict == "succeeded" and not scene.incidents()


def test_a_run_may_end_too_early_and_a_skipped_one_may_not(scene: Scene) -> None:
    scene.monitor(min_runtime="1m")
    scene.ping(0, "start", run="r")
    scene.ping(5, "success", run="r")
    assert scene.incidents()[1].cause == "too_early" and scene.runs()[1].verdict == "failed"
    scene.ping(100, "start", run="s")
    scene.ping(105, "skip", run="s")
    assert scene.runs()[2].verdict == "succeeded" and scene.status() == "up"


def test_an_overlap_is_alerted_and_ends_with_the_run(scene: Scene) -> None:
    scene.monitor(overlap="alert")
    scene.ping(0, "start", run="a")
    scene.ping(5, "start", run="b")
    assert scene.incidents()[1].cause == "overlap" and "run a" in scene.incidents()[1].reason
    scene.ping(9, "success", run="b")
    assert scene.status() == "up"


def test_too_often_ends_with_a_success_that_is_not(scene: Scene) -> None:
    scene.monitor(at_most={"count": 2, "per": "1m"})
    for second in (0, 20, 40):
        scene.ping(second)
    assert scene.incidents()[1].cause == "too_often"
    scene.ping(101)
    assert scene.status() == "up"


@pytest.mark.slow
def test_a_thousand_open_runs_and_no_more(scene: Scene) -> None:
    scene.monitor()
    for index in range(1_002):
        scene.ping(index, "start", run=f"run {index}")
    verdicts = [run.verdict for run in scene.runs().values()]
    assert verdicts.count(Verdict.UNKNOWN) == 2 and verdicts[:3] == ["unknown", "unknown", None]


# ------------------------------------------------------------------------------- stages and tasks


def test_tasks_of_a_stage_end_it_and_its_run(scene: Scene) -> None:
    scene.monitor(stages=[{"name": "split"}, {"name": "map", "tasks": {"expected": 3, "tolerate": 1}}])
    scene.ping(0, "success", run="r", stage="split")
    scene.ping(1, "start", run="r", stage="map")
    ends: dict[str, Signal] = {"1": "success", "2": "fail", "3": "success"}
    for task, signal in ends.items():
        scene.ping(5, signal, run="r", stage="map", task=task)
    run = scene.runs()[1]
    assert run.verdict == "succeeded"
    assert [stage["status"] for stage in run.detail["stages"]] == ["done", "done"]
    assert run.detail["stages"][1]["tasks"]["failed_names"] == ["2"]


def test_the_run_says_how_many_tasks_there_are(scene: Scene) -> None:
    scene.monitor(tasks={"within": "1m"})
    scene.ping(0, "start", run="r", total=3)
    scene.ping(1, "success", run="r", task="1")
    scene.tick(61)
    assert "1 of 3 tasks done" in scene.incidents()[1].reason and "2, 3" in scene.incidents()[1].reason
    scene.ping(70, "success", run="r", task="3")
    scene.ping(71, "success", run="r", task="2")
    assert scene.runs()[1].verdict == "succeeded" and scene.status() == "up"


def test_a_total_of_none_is_known_also_after_a_restart() -> None:
    run = Run(1, "r", 1, 1)
    for stage, total in (("empty", 0), ("two", 2)):
        run.apply(1, Ping("start", "r", stage, total=total))
    run.apply(1, Ping("start", "r", "unknown", "1"))
    state = run.dump()
    tasks = Run.load(state).tasks
    assert {stage: group.expected for stage, group in tasks.items()} == {"empty": 0, "two": 2, "unknown": None}
    assert {stage: group[0] for stage, group in state["t"]} == {"empty": 0, "two": 2, "unknown": 0}
    del state["z"]  # as the program before writes it, which does not know a total of 0
    assert Run.load(state).tasks["empty"].expected is None


def test_the_row_of_a_run_without_tasks_says_so(scene: Scene) -> None:
    scene.monitor()
    scene.ping(0, "start", run="r", total=0)
    tasks = scene.runs()[1].detail["tasks"]
    assert (tasks["expected"], tasks["done"], tasks["missing_count"], tasks["missing"]) == (0, 0, 0, [])


def test_totals_of_more_stages_than_are_kept_are_not_kept(scene: Scene) -> None:
    scene.monitor()
    for number in range(STAGES_SEEN_MAX + 1):
        scene.ping(0, "progress", run="r", stage=str(number), total=5)
    runs = scene.engine.monitors[1].runs
    assert runs is not None and len(runs.open[1].tasks) == STAGES_SEEN_MAX


def test_a_task_that_stands_still_is_named(scene: Scene) -> None:
    scene.monitor(stall_for="30s", tasks={"expected": 2})
    scene.ping(0, "start", run="r")
    for second in (1, 10, 20, 30, 40):
        scene.ping(second, "progress", run="r", task="a", done=second, total=100)
        scene.ping(second, "progress", run="r", task="b", done=1)
    (incident,) = scene.incidents().values()
    assert incident.cause == "hung" and "task b has made no progress for" in incident.reason
    assert scene.seconds(incident.opened_at) == 31


def test_a_stage_that_is_tried_again_has_its_full_time_again(scene: Scene) -> None:
    scene.monitor(stages=[{"name": "a", "within": "1m"}, {"name": "b"}])
    scene.ping(0, "start", run="r")
    scene.ping(50, "fail", run="r", stage="a", message="no space left")
    scene.tick(100)
    assert "no space left" in scene.incidents()[1].reason  # not: was expected to finish
    scene.ping(200, "start", run="r", stage="a")
    assert scene.runs()[1].verdict is None and scene.status() == "down"
    scene.tick(261)
    assert scene.runs()[1].verdict == "hung"
    scene.ping(270, "success", run="r", stage="a")
    assert scene.status() == "up"


def test_an_explicit_finish_of_a_run_that_its_stages_ended(scene: Scene) -> None:
    scene.monitor(cron="0 * * * *", grace="10m", stages=[{"name": "a"}, {"name": "b"}])
    scene.ping("1h", "start")
    scene.ping("1h1m", "success", stage="a")
    scene.ping("1h2m", "success", stage="b")
    assert scene.runs()[1].verdict == "succeeded"
    scene.ping("1h3m", "fail")  # in a finally
    assert scene.runs()[1].verdict == "failed" and len(scene.runs()) == 1
    assert scene.engine.monitors[1].due == scene.at("2h")


def test_a_retried_piece_of_a_run_that_is_over_begins_none(scene: Scene) -> None:
    scene.monitor(tasks={"expected": 2, "within": "1m"})
    for second, task in ((0, "1"), (1, "2"), (3, "2")):
        scene.ping(second, "success", task=task)
    scene.tick(1000)
    assert len(scene.runs()) == 1 and not scene.incidents()


def runs_of_job(scene: Scene) -> MonitorRuns:
    runs = scene.engine.monitors[1].runs
    assert runs is not None
    return runs


def test_the_content_of_an_ended_run_survives_a_restart(scene: Scene) -> None:
    scene.monitor(stages=[{"name": "s"}], fail_after=9)
    scene.ping(0, "start", run="plain")
    scene.ping(1, "success", run="plain")
    scene.ping(2, "fail", run="bad", exit_code=3)
    scene.ping(3, "success", run="r", stage="s")
    scene.ping(4, "fail", run="r", stage="s", task="7")
    scene.ping(5, "start")
    scene.ping(6, "success", stage="s")
    runs = runs_of_job(scene)
    state = orjson.loads(orjson.dumps(runs.dump()))
    again = MonitorRuns.load(state)
    assert orjson.loads(orjson.dumps(again.dump())) == state
    assert (again.ended_names, runs.ended_names) == (2, 2)
    assert again.closed["plain"].content is None and not again.closed["plain"].forgotten
    for run in (again.closed["bad"].as_run("bad"), again.closed["r"].as_run("r")):
        assert run.verdict == Verdict.FAILED and run.reason == scene.runs()[run.number].reason
    assert again.closed["bad"].as_run("bad").exit_code == 3
    assert again.closed["r"].as_run("r").tasks["s"].failing == {"7": None}
    assert again.unnamed is not None and again.unnamed.as_run(None).stages["s"].status == "done"
    for key in "du":  # as the program before writes it
        del state[key]
    before = MonitorRuns.load(state)
    assert before.unnamed is not None
    assert all(ended.forgotten for ended in (*before.closed.values(), before.unnamed))


def test_of_many_names_of_ended_runs_the_latest_are_held(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offbeat_server.engine.model.runs.ENDED_NAMES_MAX", 5)
    monkeypatch.setattr("offbeat_server.engine.rules.ended_runs.ENDED_NAMES_MAX", 5)
    scene.monitor(fail_after=9)
    for number, run in enumerate("abc"):
        scene.ping(number, "start", run=run)
        for task in "12":
            scene.ping(number, "success", run=run, task=task)
        scene.ping(number, "success", run=run)
    runs = runs_of_job(scene)
    assert [ended.forgotten for ended in runs.closed.values()] == [True, False, False] and runs.ended_names == 4
    assert MonitorRuns.load(runs.dump()).closed["a"].forgotten
    rows = len(scene.effects(RunChanged))
    scene.engine.forget_recalled()
    scene.ping(5, "fail", run="a", task="1")
    assert len(scene.effects(RunChanged)) == rows  # nothing is known of it: its row was not read
    for task in "3456":
        scene.ping(6, "success", run="c", task=task)
    assert runs.ended_names == 5 and runs.closed["c"].as_run("c").tasks[""].more
    scene.ping(7, "fail", run="a")  # the row of a run whose content is forgotten keeps it
    assert scene.runs()[1].verdict == "failed" and scene.runs()[1].detail == {}


# ------------------------------------------------------------------------------- fleets


def test_a_silent_member_is_forgotten_in_its_time_and_not_by_a_restart(scene: Scene) -> None:
    scene.monitor(members={"every": "10s", "grace": "5s", "min_alive": 1, "forget_after": "100s"})
    scene.ping(0, task="a")
    scene.ping(1, task="b")
    for second in range(10, 90, 10):
        scene.ping(second, task="a")
    fleet = scene.engine.monitors[1].fleet
    assert fleet is not None and list(fleet.silent) == ["b"]
    scene.monitor(when=91, members={"every": "10s", "grace": "6s", "min_alive": 1, "forget_after": "100s"})
    scene.ping(92, task="a")
    assert list(fleet.silent) == ["b"]
    scene.ping(102, task="a")
    assert list(fleet.members) == ["a"] and not scene.incidents()


def test_a_fleet_that_all_members_left_is_down(scene: Scene) -> None:
    scene.monitor(members={"every": "10s"})
    scene.ping(0, task="a")
    scene.ping(1, "leave", task="a")
    assert scene.incidents()[1].reason == "the fleet has no members left"


def test_one_row_for_each_change_of_a_fleet_and_not_for_each_ping(scene: Scene) -> None:
    scene.monitor(members={"every": "10s", "grace": "0s"})
    for second in range(0, 41, 5):
        scene.ping(second, task="a")
        if second == 0:
            scene.ping(second, task="b")
    before = len(scene.decisions)
    scene.ping(41, task="a")
    assert scene.status() == "down" and len(scene.decisions) == before


# ------------------------------------------------------------------------------- alerts


def test_another_run_is_alerted_after_ten_minutes(scene: Scene) -> None:
    scene.monitor()
    for second in range(0, 700, 60):
        scene.ping(second, "fail", run=str(second))
    alerts: list[Alert] = scene.effects(Alert)
    assert [(alert.kind, scene.seconds(alert.decided_at)) for alert in alerts] == [("opened", 0), ("worse", 600)]


def test_a_snooze_holds_what_is_worse_and_not_the_end(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s")
    scene.ping(0)
    scene.tick(100)
    scene.monitor(when=110, every="1m", grace="10s", snoozed_until=500)
    scene.ping(120, "fail", run="r")
    assert scene.alerts() == ["opened"]
    scene.tick(501)
    assert scene.alerts() == ["opened", "worse"]
    scene.monitor(when=510, every="1m", grace="10s", snoozed_until=900)
    scene.ping(520)
    assert scene.alerts() == ["opened", "worse", "resolved"]


def test_a_window_holds_alerts_and_not_the_record(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s")
    window = read_window({"cron": "0 * * * *", "duration": "10m", "monitors": ["jo*"]})
    scene.tick(3500)
    scene.engine.put_window(1, PROJECT, window, scene.at(3500))
    scene.ping(3590)
    scene.tick(4000)
    assert scene.status() == "down" and not scene.alerts()
    scene.tick(4200 + 69)
    assert not scene.alerts()
    scene.tick(4200 + 70)  # one period and grace after its end
    assert scene.alerts() == ["opened"]


def test_what_was_due_in_a_window_waits_too(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10m")
    scene.engine.put_window(
        1, PROJECT, read_window({"start": "2026-01-05T00:01:00Z", "end": "2026-01-05T00:02:00Z"}), scene.at(0)
    )
    scene.ping(30)  # due in the window, missed nine minutes after it
    scene.tick(690)
    assert scene.status() == "down" and not scene.alerts()
    scene.tick(120 + 660)
    assert scene.alerts() == ["opened"]


def test_a_miss_of_what_was_due_while_the_upstream_was_down_waits(scene: Scene) -> None:
    scene.monitor("db", every="1m", grace="10s")
    scene.monitor("job", every="1m", grace="1m", depends_on=["db"])
    scene.ping(0, slug="db")
    scene.ping(20, slug="job")
    scene.ping(100, slug="db")  # down from 70 to 100; the job was due at 80
    scene.tick(139)
    scene.ping(139, slug="db")
    scene.tick(141)
    assert scene.status("job") == "down" and not scene.alerts("job")
    scene.ping(180, slug="db")
    scene.tick(100 + 119)
    assert not scene.alerts("job")
    scene.tick(100 + 120)
    assert scene.alerts("job") == ["opened"]


def test_what_no_longer_depends_is_explained_no_longer(scene: Scene) -> None:
    scene.monitor("db", every="1m", grace="10s")
    scene.monitor("job", every="1m", grace="10s", depends_on=["db"])
    scene.ping(0, slug="db")
    scene.ping(0, slug="job")
    scene.tick(200)
    assert scene.incidents("job")[1].suppressed_by == 1
    scene.monitor("job", when=300, every="1m", grace="10s")
    scene.tick(370)
    assert scene.alerts("job") == ["opened"]


def test_linked_decisions_are_taken_together(scene: Scene) -> None:
    scene.monitor("db", every="1m", grace="10s")
    for slug in ("a", "b", "c"):
        scene.monitor(slug, every="1m", grace="10s", depends_on=["db"])
    for slug in ("other", "db", "a", "b"):
        scene.monitor(slug, every="1m", grace="10s", depends_on=["db"] if slug in "ab" else [])
        scene.ping(1, slug=slug)
    while not scene.engine.advance(scene.at(100), 500):
        pass
    first, second = scene.engine.drain(1), scene.engine.drain(1)
    assert sorted(map(len, (first, second))) == [1, 3] and not scene.engine.drain(1)


# ------------------------------------------------------------------------------- pauses, edits, resolutions


def test_a_pause_follows_the_runs_and_evaluates_nothing(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(0, "start", run="a")
    scene.ping(1, "start", run="b")
    scene.monitor(when=10, max_runtime="1m", paused=True)
    scene.ping(20, "fail", run="a")
    scene.tick(499)
    assert scene.runs()[1].verdict == "failed" and scene.incidents()[1].run == "a" and scene.alerts() == []
    scene.monitor(when=500, max_runtime="1m", grace="10s")
    assert scene.alerts() == ["opened"]
    scene.tick(510)
    assert {cause.get("run") for cause in scene.incidents()[1].causes} == {"a", "b"}


def test_a_pause_that_drops_resolves_an_alerted_incident(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s")
    scene.ping(0)
    scene.tick(100)
    scene.monitor(when=101, every="1m", grace="10s", paused=True)
    assert scene.alerts() == ["opened"]
    scene.monitor(when=102, every="1m", grace="10s", paused=True, drop=True)
    assert scene.alerts() == ["opened", "resolved"]
    assert scene.effects(Alert)[1].facts["resolution"] == "paused"


def test_an_edit_that_expects_less_ends_the_miss(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s")
    scene.ping(0)
    scene.tick(100)
    assert scene.status() == "down"
    scene.monitor(when=101, every="1h", grace="10s")
    assert scene.status() == "up" and scene.engine.monitors[1].due == scene.at("1h")


def test_a_longer_limit_takes_the_hang_back(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(0, "start", run="r")
    scene.tick(100)
    scene.monitor(when=101, max_runtime="1h")
    assert scene.status() == "up" and scene.runs()[1].verdict is None
    scene.tick(3601)
    assert scene.incidents()[2].cause == "hung"


def test_an_edit_of_texts_moves_no_deadline(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s")
    scene.ping(0)
    scene.monitor(when=65, every="1m", grace="10s", description="what it is for")
    scene.tick(70)
    assert scene.seconds(scene.incidents()[1].opened_at) == 70


def test_a_manual_resolve_restarts_the_schedule(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s")
    scene.ping(0)
    scene.tick(100)
    scene.engine.resolve_by_hand(1, 1, 1, scene.at(100))
    scene.tick(169)
    assert scene.status() == "up"
    scene.tick(170)
    assert scene.incidents()[2].cause == "missed"


# ------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("definition", "problem_text"),
    [
        ({"members": {"every": "10s"}, "max_runtime": "1m"}, "max_runtime would watch nothing"),
        ({"members": {"every": "10s"}, "fail_after": 2}, "use min_alive"),
        ({"members": {"every": "1d"}}, "forget_after must be longer"),
        ({"tasks": {"expected": 20_001}}, "must be at most 20000"),
        ({"after": {"monitor": "a", "signal": "log", "within": "1m"}}, "'start', 'success' or 'fail'"),
    ],
)
def test_a_definition_that_watches_nothing_is_refused(definition: dict[str, object], problem_text: str) -> None:
    with pytest.raises(DefinitionError, match=problem_text.replace("(", r"\(")):
        read_definition(definition)


def test_a_window_is_once_or_recurs() -> None:
    for wrong in (
        {},
        {"start": "2026-01-05T00:00:00Z"},
        {"cron": "0 2 * * *"},
        {"cron": "0 2 * * *", "duration": "0s"},
    ):
        with pytest.raises(DefinitionError):
            read_window(wrong)
    often = read_window({"cron": "*/10 * * * *", "duration": "25m"})
    assert often.end_at(1_800 * SECOND) == (1_800 + 25 * 60) * SECOND


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize(
    "schedule", [{"cron": "0 2 * * *", "grace": "10m", "recover_by": "any"}, {"every": "1d", "grace": "1h"}, {}]
)
def test_thirty_nights_of_starts_without_an_end_are_alerted(schedule: dict[str, Any], with_ids: bool) -> None:
    """A job that is killed every night says only `start`: without `max_runtime` it is down after a day."""
    scene = Scene()
    scene.monitor(**schedule)
    for night in range(30):
        scene.ping(night * 86_400 + 7_200, "start", run=f"n{night}" if with_ids else None)
    scene.tick(29 * 86_400 + 10_800)
    assert scene.status() == "down"
    (incident,) = scene.incidents().values()
    assert (incident.cause, incident.opened_at) == ("hung", scene.at("26h")), "24 hours after the first start"
    who = "run n0, started 2026-01-05 02:00:00 UTC, has not ended"
    several = "no run has ended since 2026-01-05 02:00:00 UTC; the run, started 02:00:00"
    assert scene.effects(IncidentChanged)[0].reason.startswith(f"{who if with_ids else several}: without max_runtime, ")
    assert scene.alerts().count("opened") == 1
    scene.ping(29 * 86_400 + 14_400, "success", run="n29" if with_ids else None)
    assert scene.status() == ("up" if schedule else "unwatched")


def test_a_run_that_ends_in_time_begins_the_count_again() -> None:
    scene = Scene()
    scene.monitor(cron="0 2 * * *", grace="10m")
    for night in range(10):
        scene.ping(night * 86_400 + 7_200, "start")
        scene.ping(night * 86_400 + 7_200 + 3_600 * 23, "success")
    scene.tick(10 * 86_400)
    assert scene.status() == "up" and not scene.incidents()


@pytest.mark.parametrize("limit", [{"quiet_for": "3d"}, {"stall_for": "3d"}, {"max_runtime": "3d"}])
def test_a_limit_that_notices_death_takes_the_place_of_the_default(limit: dict[str, Any]) -> None:
    scene = Scene()
    scene.monitor(**limit)
    scene.ping(0, "start", run="long")
    scene.tick("2d")
    assert scene.status() == "up" and not scene.incidents()


def test_a_run_that_was_never_started_has_no_default_limit() -> None:
    """Its stages or its progress were received, and perhaps no ping ever reports its end."""
    scene = Scene()
    scene.monitor()
    scene.ping(0, "progress", run="daemon", done=1)
    scene.tick("10d")
    assert not scene.incidents()
    scene.ping("10d", "start", run="daemon")
    scene.tick("11d")
    assert scene.status() == "down"


@pytest.mark.parametrize(
    ("definition", "status"),
    [
        ({}, "unwatched"),
        ({"grace": "1h", "fail_after": 3, "stages": [{"name": "a"}], "tasks": {"expected": 3}}, "unwatched"),
        ({"every": "1h"}, "new"),
        ({"cron": "0 2 * * *"}, "new"),
        ({"oncalendar": "daily"}, "new"),
        ({"after": {"monitor": "other", "within": "1h"}}, "new"),
        ({"members": {"every": "1m"}}, "new"),
        ({"first_within": "1h"}, "new"),
        ({"max_runtime": "1h"}, "new"),
        ({"min_runtime": "1h"}, "new"),
        ({"quiet_for": "1h"}, "new"),
        ({"stall_for": "1h"}, "new"),
        ({"at_most": {"count": 3, "per": "1m"}}, "new"),
        ({"overlap": "alert"}, "new"),
        ({"stages": [{"name": "a", "within": "1h"}]}, "new"),
        ({"stages": [{"name": "a", "tasks": {"within": "1h"}}]}, "new"),
        ({"tasks": {"within": "1h"}}, "new"),
    ],
)
def test_a_monitor_that_expects_nothing_is_unwatched(definition: dict[str, Any], status: str) -> None:
    scene = Scene()
    scene.monitor(**definition)
    assert scene.status() == status


def test_unwatched_ends_and_begins_with_the_definition() -> None:
    scene = Scene()
    scene.monitor(first_within="1h")
    assert scene.status() == "new"
    scene.ping("10m")
    assert scene.status() == "unwatched", "the first ping came, and nothing more is expected"
    scene.ping("20m", "fail")
    assert scene.status() == "down", "an explicit outcome of a job counts"
    scene.ping("30m")
    assert scene.status() == "unwatched"
    scene.monitor(when="40m", every="1h")
    assert scene.status() == "up"
    scene.monitor(when="50m")
    assert scene.status() == "unwatched"
    scene.monitor(when="51m", paused=True)
    assert scene.status() == "paused"


def test_pings_of_unwatched_monitors_are_counted() -> None:
    scene = Scene()
    scene.monitor("none")
    scene.monitor("watched", every="1h")
    for second in range(5):
        scene.ping(second, slug="none")
        scene.ping(second, slug="watched")
    state = scene.engine.state
    assert state.unwatched_pings == 5
    assert (state.counts[Status.UNWATCHED], state.counts[Status.UP]) == (1, 1)


def test_a_state_of_an_older_program_becomes_unwatched_when_it_is_loaded() -> None:
    scene = Scene()
    stored = Monitor(7, PROJECT, "old", "old", read_definition({}), scene.begin)
    stored.status, stored.last_ping_at, stored.at = Status.UP, scene.begin, scene.begin
    engine = Engine()
    engine.load(stored)
    engine.loaded(scene.at(60))
    assert engine.monitors[7].status == "unwatched"
    (decision,) = engine.drain(10)
    assert decision.status == "unwatched"


def test_a_run_that_a_person_closed_is_known_after_a_restart_and_to_the_program_before(scene: Scene) -> None:
    """The program before knows neither the verdict `ignored` nor the keys that came with it."""
    scene.monitor()
    for run in ("a", "b"):
        scene.ping(0, "start", run=run)
    scene.ping(0, "start")
    for number, verdict in ((1, Verdict.IGNORED), (2, Verdict.FAILED), (3, Verdict.IGNORED)):
        scene.close(number, number, verdict)
    m = scene.engine.monitors[1]
    stored = m.dump()
    runs, incident = stored["runs"], stored["incident"]
    assert runs["h"] == [["a", "ignored"], ["b", "failed"], [None, "ignored"]]
    assert [ended[2] for ended in runs["c"]] == ["unknown", "failed"] and runs["f"][1] == "unknown"
    assert incident["k"] == [2] and not incident["a"]
    assert "x" not in incident, "no alert will need the last message of the run, which is not stored"
    again = Monitor(1, 1, "job", "job", m.definition, 0)
    again.load(m.status, m.since, m.position, stored)
    assert again.dump() == stored
    assert again.runs is not None and m.runs is not None
    both = [
        [each._replace(content=None) for each in (*runs_of_one.closed.values(), runs_of_one.auto_completed) if each]
        for runs_of_one in (again.runs, m.runs)
    ]
    assert both[0] == both[1] and len(both[0]) == 3


def test_closes_of_one_instant_are_all_reported_to_followers(scene: Scene) -> None:
    scene.monitor("up")
    scene.monitor("down", after={"monitor": "up", "within": 60})
    for run in ("a", "b"):
        scene.ping(0, "start", "up", run=run)
    for number in (1, 2):
        scene.close(5, number, Verdict.SUCCEEDED, slug="up")
    follower = scene.engine.monitors[2]
    assert follower.awaited == {"a": scene.at(65), "b": scene.at(65)}
