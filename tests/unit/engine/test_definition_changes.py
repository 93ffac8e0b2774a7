"""An edit never asks for what lies before it: no alert for a slot that passed before the schedule had it."""

from typing import Any

import pytest

from tests.support.engine import Scene

DAILY: dict[str, Any] = {"cron": "0 2 * * *", "grace": "30m"}
WEEKLY = {"cron": "0 2 * * 1", "grace": "1h"}


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize(
    ("old", "pinged", "edited", "new", "due"),
    [
        # The new time of day has passed: tomorrow.
        (DAILY, "2h", "12h", {"cron": "0 11 * * *", "grace": "30m"}, "35h"),
        (DAILY, "2h", "12h", {"cron": "0 11 * * *", "grace": "3h"}, "35h"),  # though its grace still runs
        (DAILY, "2h", "12h", {"oncalendar": "11:00", "grace": "30m"}, "35h"),
        (DAILY, "2h", "12h", {"cron": "0 3 * * *", "timezone": "Asia/Tokyo", "grace": "30m"}, "18h"),
        (DAILY, "2h", "12h", {"cron": "*/15 * * * *", "grace": "5m"}, "12h"),  # a slot at the edit is not before it
        (DAILY, "2h", "12h1m", {"cron": "*/15 * * * *", "grace": "5m"}, "12h15m"),
        # The new time of day is still to come: today.
        (DAILY, "2h", "12h", {"cron": "0 13 * * *", "grace": "30m"}, "13h"),
        # A ping just before the edit serves the slot just after it.
        (DAILY, "12h50m", "12h55m", {"cron": "0 13 * * *", "grace": "30m"}, "37h"),
        # Weekly: Monday's ping, edited on Wednesday.
        (WEEKLY, "2h", "60h", {"cron": "0 2 * * 2", "grace": "1h"}, "194h"),
        (WEEKLY, "2h", "60h", {"oncalendar": "Tue 02:00", "grace": "1h"}, "194h"),
        (WEEKLY, "2h", "60h", {"cron": "0 2 * * 4", "grace": "1h"}, "74h"),
        (WEEKLY, "2h", "50h", {"cron": "0 2 * * 2,3", "grace": "1h"}, "50h"),
        # Only the zone: 02:00 in Honolulu is 12:00 UTC, in Tokyo it was 17:00 UTC yesterday.
        (DAILY, "2h", "13h", {**DAILY, "timezone": "Pacific/Honolulu"}, "36h"),
        (DAILY, "2h", "11h", {**DAILY, "timezone": "Pacific/Honolulu"}, "12h"),
        (DAILY, "2h", "13h", {**DAILY, "timezone": "Asia/Tokyo"}, "17h"),
        # An interval that had run out begins at the edit, but what was due already does not move back.
        ({"every": "1d", "grace": "1h"}, 0, "10h", {"every": "1h", "grace": "5m"}, "11h"),
        ({"every": "1h", "grace": "1h"}, 0, "55m", {"every": "50m", "grace": "5m"}, "1h"),
        ({"every": "1d", "grace": "1h"}, 0, "10h", {"every": "12h", "grace": "5m"}, "12h"),
        ({"cron": "0 2 * * 1"}, "2h", "60h", {"every": "1h", "grace": "5m"}, "61h"),
        ({"every": "7d"}, "2h", "60h", {"cron": "0 11 * * *", "grace": "5m"}, "83h"),
        ({}, "2h", "60h", {"every": "1h", "grace": "5m"}, "61h"),
        ({}, "2h", "60h", {"cron": "0 11 * * *", "grace": "5m"}, "83h"),
        ({"after": {"monitor": "other", "within": "1h"}}, "2h", "60h", {"every": "1h", "grace": "5m"}, "61h"),
    ],
)  # fmt: skip
def test_an_edit_asks_for_nothing_that_lies_before_it(
    scene: Scene, old: dict[str, Any], pinged: int | str, edited: int | str, new: dict[str, Any], due: int | str
) -> None:
    scene.monitor(**old)
    scene.ping(pinged)
    m = scene.monitor(when=edited, **new)
    assert m.due is not None and m.due == scene.at(due)
    deadline = m.due + m.definition.grace
    scene._tick(deadline - 1)
    assert scene.status() == "up"
    scene._tick(deadline)
    scene._take()
    assert scene.status() == "down" and scene.incidents()[1].opened_at == deadline


@pytest.mark.parametrize("first_within", ["1h", "2d"])
def test_the_time_for_the_first_ping_begins_at_the_edit(scene: Scene, first_within: str) -> None:
    scene.monitor(every="1d")
    m = scene.monitor(when="60h", every="1d", first_within=first_within)
    assert m.definition.first_within is not None
    assert m.due == scene.at("60h") + m.definition.first_within


def test_the_time_for_the_first_ping_is_not_moved_back(scene: Scene) -> None:
    scene.monitor(every="1d", first_within="10h")
    assert scene.monitor(when="9h", every="1d", first_within="8h").due == scene.at("10h") - 1  # made 1 µs before
    assert scene.monitor(when="9h30m", every="1d", first_within="11h").due == scene.at("11h") - 1


@pytest.mark.parametrize(
    ("old", "pinged", "edited", "new", "down"),
    [
        # It was late already, and is late by the new schedule too: the edit does not hide it.
        (DAILY, "2h", "26h10m", {"cron": "0 2 * * 1-5", "grace": "30m"}, "26h40m"),
        ({"every": "1h", "grace": "30m"}, 0, "1h10m", {"every": "45m", "grace": "30m"}, "1h40m"),
    ],
)
def test_a_ping_that_is_overdue_by_both_schedules_stays_due(
    scene: Scene, old: dict[str, Any], pinged: int | str, edited: int | str, new: dict[str, Any], down: int | str
) -> None:
    scene.monitor(**old)
    scene.ping(pinged)
    scene.monitor(when=edited, **new)
    scene._tick(scene.at(down) - 1)
    assert scene.status() == "up"
    scene._tick(scene.at(down))
    assert scene.status() == "down"


def test_an_edit_does_not_end_the_miss_of_a_job_that_has_not_run_for_days(scene: Scene) -> None:
    scene.monitor(**DAILY)
    scene.ping("2h")
    scene.tick("60h")
    assert scene.status() == "down"
    scene.monitor(when="60h", cron="0 3 * * *", grace="30m")
    assert scene.status() == "down"


def test_members_of_a_fleet_get_one_of_the_new_intervals(scene: Scene) -> None:
    scene.monitor(members={"every": "1h", "grace": "1m"})
    scene.ping(0, task="a")
    scene.monitor(when="30m", members={"every": "10m", "grace": "1m"})
    scene._tick(scene.at("41m") - 1)
    assert scene.status() == "up"
    scene.tick("41m")
    assert scene.status() == "down"
