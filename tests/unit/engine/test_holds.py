"""The holds that an incident and its alerts show: a dependency, a maintenance window, a snooze."""

from typing import Any

import orjson
import pytest

from offbeat_server.engine.decisions import Alert
from offbeat_server.engine.model.monitor import Incident
from offbeat_server.engine.schedule.maintenance_windows import Window, read_window
from tests.support.engine import Scene


@pytest.fixture
def scene() -> Scene:
    return Scene()


def window_until(second: int, **fields: Any) -> Window:
    end = f"2026-01-05T00:{second // 60:02}:{second % 60:02}Z"
    return read_window({"start": "2026-01-05T00:00:00Z", "end": end, **fields})


def holds(scene: Scene, slug: str = "job", number: int = 1) -> list[tuple[Any, ...]]:
    return [
        (hold["kind"], hold["by"], scene.seconds(hold["started_at"]), scene.seconds(hold["ends_at"]))
        for hold in scene.incidents(slug)[number].held
    ]


def test_a_dependency_holds_until_its_incident_ends(scene: Scene) -> None:
    scene.monitor("db")
    scene.monitor(depends_on=["db"])
    scene.ping(0, "fail", slug="db")
    scene.ping(10, "fail")
    assert holds(scene) == [("dependency", "db", 10, None)]
    scene.ping(100, slug="db")
    scene.tick(100)
    assert holds(scene) == [("dependency", "db", 10, 100)]
    (alert,) = scene.effects(Alert)
    assert [hold["kind"] for hold in alert.facts["held"]] == ["dependency"]
    assert alert.facts["held_back"] == "1 min 30 s, by dependency db until 2026-01-05 00:01:40 UTC"


def test_a_miss_is_held_for_one_more_period(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s")
    scene.window(0, 1, window_until(65, name="move"))
    scene.ping(1)
    scene.tick(80)
    assert holds(scene) == [("maintenance", "move", 71, 135)]
    scene.tick(135)
    (alert,) = scene.effects(Alert)
    assert alert.facts["held_back"] == "1 min 4 s, by maintenance window move until 2026-01-05 00:02:15 UTC"


def test_several_holds_follow_one_another(scene: Scene) -> None:
    scene.monitor(snoozed_until=50)
    scene.window(0, 1, window_until(90, name="move"))
    scene.window(0, 2, window_until(60))
    scene.ping(10, "fail")
    assert holds(scene) == [("maintenance", None, 10, 60), ("maintenance", "move", 10, 90), ("snooze", None, 10, 50)]
    scene.tick(90)
    assert scene.alerts() == ["opened"]


def test_a_hold_that_is_lifted_ends_then(scene: Scene) -> None:
    scene.monitor(snoozed_until=500)
    scene.ping(10, "fail")
    scene.monitor(when=100)
    assert scene.alerts() == ["opened"] and holds(scene) == [("snooze", None, 10, 100)]
    scene.window(150, 1, window_until(300, name="move"))
    scene.ping(200, "fail", run="r")
    scene.tick(900)
    assert scene.alerts() == ["opened", "worse"]
    assert [alert.facts.get("held") for alert in scene.effects(Alert)][1] is None


def test_a_hold_that_had_not_begun_is_not_shown_after_it_was_lifted(scene: Scene) -> None:
    scene.monitor(snoozed_until=100)
    scene.window(0, 1, read_window({"start": "2026-01-05T00:01:00Z", "end": "2026-01-05T00:05:00Z", "name": "move"}))
    scene.ping(10, "fail")
    assert holds(scene) == [("snooze", None, 10, 100), ("maintenance", "move", 100, 300)]
    scene.window(50, 1, None)
    assert holds(scene) == [("snooze", None, 10, 100)]


def test_no_hold_continues_after_the_end_of_the_incident(scene: Scene) -> None:
    scene.monitor("db")
    scene.monitor(depends_on=["db"])
    scene.ping(0, "fail", slug="db")
    scene.ping(10, "fail")
    scene.resolve(30)
    assert holds(scene) == [("dependency", "db", 10, 30)]
    assert scene.alerts() == []


def test_an_incident_that_is_over_shows_that_its_alert_is_held_back(scene: Scene) -> None:
    scene.monitor(snoozed_until=100)
    scene.ping(10, "fail", run="1", message="disk full")
    scene.ping(20, run="2")
    assert scene.incidents()[1].resolved_at is not None and holds(scene) == [("snooze", None, 10, 100)]
    scene.tick(100)
    opened, resolved = scene.effects(Alert)
    assert (opened.facts["reason"], opened.facts["last_message"]) == ("run 1 failed: disk full", "disk full")
    (cause,) = opened.facts["causes"]
    assert (scene.seconds(cause["opened_at"]), scene.seconds(cause["closed_at"])) == (10, 20)
    assert opened.facts["status"] == "down" and opened.facts["resolved_at"] is None
    assert (scene.seconds(resolved.facts["resolved_at"]), resolved.facts["resolution"]) == (20, "recovered")
    assert scene.status() == "unwatched" and scene.engine.monitors[1].rare.unreported is None


def test_the_alert_of_the_next_incident_names_the_failures_of_the_one_before(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s", snoozed_until=200)
    scene.ping(10, "fail")
    scene.ping(20)
    scene.tick(200)
    (alert,) = scene.effects(Alert)
    assert alert.incident == 2 and alert.facts["cause"] == "missed"
    assert [(cause["cause"], "closed_at" in cause) for cause in alert.facts["causes"]] == [
        ("missed", False),
        ("failed", True),
    ]
    assert holds(scene) == [("snooze", None, 10, 90)] and holds(scene, number=2) == [("snooze", None, 10, 200)]


def test_a_stored_incident_is_the_same_after_a_restart(scene: Scene) -> None:
    scene.monitor(snoozed_until=100)
    scene.ping(10, "fail", run="1", message="disk full")
    scene.ping(20, run="2")
    incident = scene.engine.monitors[1].rare.unreported
    assert incident is not None
    stored = orjson.loads(orjson.dumps(incident.dump()))
    assert Incident.load(stored).dump() == stored


def test_the_hold_in_a_state_of_an_older_program_is_kept() -> None:
    state = Incident(1, 1_000).dump() | {"h": ["db", 5_000]}
    (hold,) = Incident.load(state).holds
    assert hold == {"kind": "dependency", "by": "db", "started_at": 1_000, "ends_at": 5_000}


def test_a_pause_holds_until_the_resume(scene: Scene) -> None:
    scene.monitor(paused=True)
    scene.ping(10, "fail")
    assert holds(scene) == [("pause", None, 10, None)]
    scene.monitor(when=50)
    assert holds(scene) == [("pause", None, 10, 50)]
    (alert,) = scene.effects(Alert)
    assert alert.facts["held_back"] == "40 s, by pause until 2026-01-05 00:00:50 UTC"


def test_a_miss_is_held_for_one_more_period_after_a_pause(scene: Scene) -> None:
    scene.monitor(every="1m", grace="10s", snoozed_until=80)
    scene.ping(0)
    scene.tick(75)
    scene.monitor(when=76, every="1m", grace="10s", snoozed_until=80, paused=True)
    scene.monitor(when=100, every="1m", grace="10s", snoozed_until=80)
    assert holds(scene) == [("snooze", None, 70, 80), ("pause", None, 76, 170)]
    scene.tick(170)
    assert scene.alerts() == ["opened"]
