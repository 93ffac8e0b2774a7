"""The scenarios of the field on a virtual clock: what happened and where, to the second and to the word.

tests/e2e/runs/test_scenarios.py plays the same ones with real processes.
"""

import pytest

from offbeat_server.common.instants import SECOND
from offbeat_server.engine.decisions import Alert, IncidentChanged, RunChanged
from tests.support.engine import Scene


@pytest.fixture
def scene() -> Scene:
    return Scene()


def only_incident(scene: Scene, slug: str = "job") -> IncidentChanged:
    (incident,) = scene.incidents(slug).values()
    return incident


def run_of(scene: Scene, number: int = 1, slug: str = "job") -> RunChanged:
    return scene.runs(slug)[number]


def test_a_nightly_etl_hangs_in_its_second_stage(scene: Scene) -> None:
    scene.monitor(
        cron="0 2 * * *",
        grace="10m",
        stages=[
            {"name": "extract", "within": "30m"},
            {"name": "transform", "within": "1h"},
            {"name": "load", "within": "20m"},
        ],
    )
    scene.ping("2h", "start", run="n1")
    scene.ping("2h2m", "start", run="n1", stage="extract")
    scene.ping("2h14m", "success", run="n1", stage="extract", message="12004 rows")
    scene.ping("2h14m", "start", run="n1", stage="transform")
    scene.tick("3h13m59s")
    assert not scene.incidents()
    scene.tick("3h14m")

    incident = only_incident(scene)
    assert (incident.cause, incident.run, incident.stage) == ("stage", "n1", "transform")
    assert incident.opened_at == scene.at("3h14m")
    assert incident.reason == (
        "stage transform was expected to finish by 2026-01-05 03:14:00 UTC, 1 h after the end of stage extract "
        "at 02:14:00; it started 02:14:00; extract took 12 min, load waiting (run n1)"
    )
    run = run_of(scene)
    assert (run.verdict, run.reason, run.finished_at) == ("hung", incident.reason, None)
    stages = [(s["name"], s["status"], scene.seconds(s["finished_at"])) for s in run.detail["stages"]]
    assert stages == [
        ("extract", "done", 2 * 3600 + 14 * 60),
        ("transform", "running", None),
        ("load", "waiting", None),
    ]
    (alert,) = scene.effects(Alert)
    assert (alert.kind, alert.facts["stage"], alert.facts["last_message"]) == ("opened", "transform", "12004 rows")

    # It was only slow: each stage has its own time, and with the last one the night is over.
    scene.ping("4h", "success", run="n1", stage="transform")
    assert only_incident(scene).resolved_at == scene.at("4h")
    scene.ping("4h10m", "success", run="n1", stage="load")
    assert (run_of(scene).verdict, run_of(scene).reason) == ("succeeded", "finished late, after 2 h 10 min")
    assert scene.alerts() == ["opened", "resolved"]


def test_a_queue_worker_stalls_at_4300_of_10000(scene: Scene) -> None:
    scene.monitor(stall_for="5m", quiet_for="10m")
    scene.ping(0, "start", run="q7")
    for hundred in range(1, 44):
        scene.ping(hundred * 20, "progress", run="q7", done=hundred * 100, total=10_000)
    for minute in range(15, 20):  # it lives, and gets nowhere
        scene.ping(minute * 60, "progress", run="q7", done=4_300, total=10_000)
    scene.tick(43 * 20 + 299)
    assert not scene.incidents()
    scene.tick("20m")

    incident = only_incident(scene)
    assert (incident.cause, incident.run, scene.seconds(incident.opened_at)) == ("hung", "q7", 43 * 20 + 300)
    assert incident.reason == (
        "run q7, started 00:00:00, has made no progress for 5 min: "
        "it has been at 4300 of 10000 since 2026-01-05 00:14:20 UTC"
    )
    progress = run_of(scene).detail["progress"]
    assert (progress["done"], progress["total"], progress["rate"]) == (4_300, 10_000, 5.0)
    assert scene.seconds(progress["eta"]) == 2_000  # 5 700 more at 5 a second, if it had continued
    (alert,) = scene.effects(Alert)
    assert alert.facts["last_ping_at"] == scene.at(19 * 60)  # the run's own, not the start that served the schedule

    scene.ping("21m", "progress", run="q7", done=4_301)
    scene.ping("40m", "success", run="q7", done=10_000)
    assert run_of(scene).reason == "finished in 40 min, after a silence of more than 10 min" and scene.status() == "up"


def test_of_a_thousand_workers_three_never_report_and_five_fail_of_five_tolerated(scene: Scene) -> None:
    scene.monitor(tasks={"expected": 1_000, "within": "1h", "tolerate": 5})
    scene.ping(0, "start", run="f1")
    silent, failing = (17, 404, 999), (200, 400, 600, 800, 1_000)
    for task in (task for task in range(1, 1_001) if task not in silent):
        scene.ping(10 + task, "start", run="f1", task=str(task))
    for task in (task for task in range(1, 1_001) if task not in silent):
        scene.ping(1_100 + task, "fail" if task in failing else "success", run="f1", task=str(task))
    scene.tick(3_599)
    assert not scene.incidents() and scene.status() == "up"  # five may fail
    scene.tick(3_600)

    incident = only_incident(scene)
    assert (incident.cause, incident.run) == ("tasks", "f1")
    assert incident.reason == (
        "992 of 1000 tasks done by 2026-01-05 01:00:00 UTC, 5 failed (5 tolerated), "
        "3 missing (none of them started): 17, 404, 999 (run f1)"
    )
    assert run_of(scene).detail["tasks"] == {
        "expected": 1_000,
        "started": 997,
        "done": 992,
        "failed": 5,
        "failed_names": ["200", "400", "600", "800", "1000"],
        "missing_count": 3,
        "missing": ["17", "404", "999"],
    }

    scene.ping(4_000, "success", run="f1", task="17")
    scene.ping(4_001, "success", run="f1", task="404")
    scene.ping(4_002, "fail", run="f1", task="999")  # one failure too many
    assert run_of(scene).verdict == "failed" and scene.status() == "down"
    assert only_incident(scene).reason == "6 tasks failed: 200, 400, 600, 800, 1000, 999; at most 5 may fail (run f1)"
    scene.ping(4_100, "success", run="f1", task="999")  # tried again
    assert run_of(scene).verdict == "succeeded" and scene.status() == "up"


def test_a_second_run_starts_before_the_first_ended_and_the_first_hangs(scene: Scene) -> None:
    scene.monitor(every="1h", max_runtime="90m", overlap="alert")
    scene.ping(0, "start", run="a")
    scene.ping("1h", "start", run="b")
    scene.ping("1h20m", "success", run="b")
    scene.tick("1h30m")

    overlap, hang = scene.incidents().values()
    assert (overlap.cause, overlap.run, overlap.resolved_at) == ("overlap", "b", scene.at("1h20m"))
    assert overlap.reason == "run b started 2026-01-05 01:00:00 UTC while run a, started 00:00:00, was still open"
    assert (hang.cause, hang.run, hang.opened_at, hang.resolved_at) == ("hung", "a", scene.at("1h30m"), None)
    assert hang.reason == (
        "run a, started 00:00:00, was expected to finish by 2026-01-05 01:30:00 UTC, after 1 h 30 min"
    )
    assert [run.verdict for run in scene.runs().values()] == ["hung", "succeeded"]
    assert scene.alerts() == ["opened", "resolved", "opened"]

    # A success of a run that started later says that the job works again.
    scene.ping("2h", "start", run="c")
    scene.ping("2h10m", "success", run="c")
    assert scene.status() == "up" and run_of(scene).verdict == "hung"


def test_of_four_monitors_in_sequence_the_third_is_silent(scene: Scene) -> None:
    scene.monitor("ingest")
    for before, slug in (("ingest", "clean"), ("clean", "train"), ("train", "publish")):
        scene.monitor(slug, after={"monitor": before, "within": "30m"}, grace="5m")
    for minute, slug in ((0, "ingest"), (10, "clean")):
        scene.ping(minute * 60, "start", slug, run="2026-01-05")
        scene.ping(minute * 60 + 300, "success", slug, run="2026-01-05")
    scene.tick("49m59s")
    assert not scene.incidents("train")
    scene.tick("5h")

    incident = only_incident(scene, "train")
    assert (incident.cause, incident.run, incident.opened_at) == ("missed", "2026-01-05", scene.at("50m"))
    assert incident.reason == (
        "monitor clean sent success at 00:15:00 (run 2026-01-05); no ping followed by 2026-01-05 00:50:00 UTC: "
        "it was due within 30 min of that success, with a grace period of 5 min"
    )
    # One place is named, and not everything behind it too.
    assert not scene.incidents("ingest") and not scene.incidents("clean") and not scene.incidents("publish")
    scene.ping("6h", "start", "train", run="2026-01-05")
    assert scene.status("train") == "up" and scene.alerts("train") == ["opened", "resolved"]


def test_of_a_fleet_of_a_thousand_sixty_die_at_once(scene: Scene) -> None:
    scene.monitor(members={"every": "30s", "grace": "15s", "min_alive": "95%"})
    names = [f"worker-{n:03}" for n in range(1_000)]
    dead = set(names[::17]) | {"worker-999"}
    assert len(dead) == 60
    for turn in range(10):
        for n, name in enumerate(names):
            if turn < 5 or name not in dead:
                scene.ping(turn * 30 + n / 1_000, "progress", task=name)
    scene.tick(300)

    incident = only_incident(scene)
    # The fifty-first silent one is one too many; what follows brings the one incident up to date.
    last = 4 * 30 + names.index(sorted(dead)[50]) / 1_000
    assert (incident.cause, scene.seconds(incident.opened_at)) == ("members", last + 45)
    assert incident.reason == (
        "940 of 1000 members alive, 950 required (95%); silent: " + ", ".join(sorted(dead)[:20]) + " and 40 more"
    )
    alerts = [(alert.kind, alert.facts["reason"].partition(";")[0]) for alert in scene.effects(Alert)]
    assert alerts == [
        ("opened", "949 of 1000 members alive, 950 required (95%)"),
        ("worse", "940 of 1000 members alive, 950 required (95%)"),  # a minute later
    ]
    assert incident.resolved_at is None

    for n, name in enumerate(sorted(dead)[:9]):
        scene.ping(310 + n, "progress", task=name)
        for name in names:
            if name not in dead:
                scene.ping(310 + n, "progress", task=name)
    assert scene.status() == "down"
    scene.ping(320, "progress", task=sorted(dead)[10])
    assert scene.status() == "up" and scene.alerts() == ["opened", "worse", "resolved"]


def test_a_growing_loss_of_a_fleet_is_alerted_again_and_not_for_each_member(scene: Scene) -> None:
    scene.monitor(members={"every": "30s", "grace": "15s", "min_alive": 95})

    def beat(until: int, alive: int) -> None:
        """Each of those alive, every 30 s, from where the last call has ended."""
        while beats[-1] < until:
            beats.append(beats[-1] + 30)
            for n in range(alive):
                scene.ping(beats[-1], "progress", task=f"worker-{n:02}")

    beats = [-30]
    beat(120, 100)
    beat(150, 94)  # six are silent 45 s after their last ping: one too many
    beat(240, 84)  # soon eleven: more than twice as many as in the last alert
    beat(900, 83)
    beat(930, 84)
    beat(2_400, 83)  # no more than in the last alert
    alerts = [
        (alert.kind, alert.facts["reason"][:6], scene.seconds(alert.decided_at)) for alert in scene.effects(Alert)
    ]
    assert alerts == [("opened", "94 of ", 165), ("worse", "84 of ", 165 + 60), ("worse", "83 of ", 165 + 60 + 600)]
    assert only_incident(scene).reason.startswith("83 of 100 members alive, 95 required")
    beat(2_430, 100)
    assert scene.status() == "up" and scene.alerts() == ["opened", "worse", "worse", "resolved"]


def test_an_upstream_is_down_and_one_of_five_downstreams_stays_silent_after_it(scene: Scene) -> None:
    scene.monitor("db", every="1m", grace="10s")
    downstreams = [f"job-{n}" for n in range(1, 6)]
    for slug in downstreams:
        scene.monitor(slug, every="5m", grace="30s", depends_on=["db"])
    for slug in ("db", *downstreams):
        scene.ping(0, slug=slug)
    scene.tick(600)
    assert scene.alerts("db") == ["opened"] and only_incident(scene, "db").opened_at == scene.at(70)
    for slug in downstreams:  # recorded, explained, and without an alert
        incident = only_incident(scene, slug)
        assert (incident.cause, incident.suppressed_by) == ("missed", scene.ids["db"])
        assert scene.status(slug) == "down" and not scene.alerts(slug)

    for second in range(700, 1_050, 50):
        scene.ping(second, slug="db")
        if second == 800:
            for slug in downstreams[:4]:
                scene.ping(second, slug=slug)
    scene.tick(1_029)  # one period and grace after the upstream's return: until then it has its chance
    assert [scene.alerts(slug) for slug in downstreams] == [[]] * 5
    scene.tick(1_030)
    assert [scene.alerts(slug) for slug in downstreams] == [[], [], [], [], ["opened"]]
    (alert,) = scene.effects(Alert, "job-5")
    assert alert.facts["reason"] == (
        "no ping by 2026-01-05 00:05:30 UTC: it was due at 00:05:00, with a grace period of 30 s; last ping at 00:00:00"
    )
    assert alert.facts["held_back"] == "11 min 40 s, by dependency db until 2026-01-05 00:17:10 UTC"
    assert [scene.status(slug) for slug in downstreams] == ["up", "up", "up", "up", "down"]
    assert alert.decided_at - scene.begin == 1_030 * SECOND
