"""Business dates: which texts are dates, and which slot is the present one."""

from typing import Any

import pytest

from offbeat_server.common.errors import DefinitionError
from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.engine.decisions import IncidentChanged
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.schedule.business_dates import (
    in_run_id,
    is_earlier,
    named,
    present_slot,
)
from offbeat_server.engine.schedule.calendar import Calendar, last_slot
from offbeat_server.engine.schedule.due_times import expected_slot
from tests.support.engine import Scene

AT: Micros = 1_767_571_200 * SECOND  # 2026-01-05 00:00 UTC
DAILY = {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}
TWICE = {"cron": "0 2,14 * * *", "timezone": "Europe/Berlin"}


@pytest.mark.parametrize(
    ("run", "date"),
    [
        ("2026-01-05", "2026-01-05"),
        ("etl_20260105_7", "2026-01-05"),
        ("scheduled__2026-01-04T23:30:00+00:00", "2026-01-05"),
        ("manual__2026-01-05T02:00:00.123456+01:00", "2026-01-05"),
        ("20260105T0200", "2026-01-05"),
        ("a-2026-13-05-2026-01-05", "2026-01-05"),
        ("2026-02-30", None),
        ("2026-01-05T25:00", None),
        ("12026-01-05", None),
        ("202601051", None),
        ("1999-01-05", None),
        ("2026-01-0\u0665", None),
        ("f47ac10b-58cc-4372-a567-0e02b2c3d479", None),
        ("9999999999", None),
    ],
)
def test_a_run_id_that_holds_a_date(run: str, date: str | None) -> None:
    assert in_run_id(read_definition(DAILY), run, AT) == date


@pytest.mark.parametrize(
    ("definition", "text", "date"),
    [
        (DAILY, "2026-01-05T02:00", "2026-01-05"),
        (TWICE, "2026-01-05T02:00", "2026-01-05T02:00"),
        (TWICE, " 2026-01-05 01:00:00Z ", "2026-01-05T02:00"),
        (TWICE, "2026-01-05", "2026-01-05"),
        ({}, "2026-01-05T02:00:07", "2026-01-05T02:00:07"),
        ({}, "2026-01-05T02:00+14:30", "2026-01-04T11:30"),
        ({}, "0001-01-01T00:00+14:00", "0001-01-01T00:00+14:00"),
        ({}, "batch 17", "batch 17"),
    ],
)
def test_the_form_of_a_date_that_a_client_names(definition: dict[str, Any], text: str, date: str) -> None:
    assert named(read_definition(definition), text) == date


@pytest.mark.parametrize(
    ("one", "other", "earlier"),
    [
        ("2026-01-05", "2026-01-06", True),
        ("2026-01-06", "2026-01-05", False),
        ("2026-01-05", "2026-01-05T02:00", False),
        ("2026-01-05T02:00", "2026-01-05", False),
        ("2026-01-05T02:00", "2026-01-05T14:00", True),
        ("2026-01-04", "2026-01-05T02:00", True),
        ("batch-1", "batch-2", False),
        ("2026-01-05", "batch-2", False),
    ],
)
def test_only_dates_are_ordered(one: str, other: str, earlier: bool) -> None:
    assert is_earlier(one, other) is earlier


@pytest.mark.parametrize("pattern", ["%Y", "%Y%m", "%Y%m%d%d", "%Y%m%d%S", "%", "", "date", "%Y-%m-%d-%Y"])
def test_a_pattern_that_names_no_date_is_refused(pattern: str) -> None:
    with pytest.raises(DefinitionError, match="use auto, none or a pattern with %Y, %m and %d"):
        read_definition({"run_date": pattern})


@pytest.mark.parametrize(
    ("kind", "text", "days"),
    [
        ("cron", "0 2 * * *", 370),
        ("cron", "0 2 1 * *", 370),
        ("cron", "*/5 * * * *", 2),
        ("cron", "0 2 * * 1-5", 370),
        ("cron", "* 0-1 * * 1", 40),
        ("cron", "*/7 * 1 1 *", 370),
        ("oncalendar", "*-01-01 00:00/3", 370),
    ],
)
@pytest.mark.parametrize("hours", [0, 1, 3, 30, 1_000, 8_000])
def test_the_last_slot_is_that_of_a_search_through_all(kind: str, text: str, days: int, hours: int) -> None:
    slots, at = Calendar(kind, text, "UTC"), AT + hours * 3_600 * SECOND - 300 * SECOND
    slot = slots.next_after(at - days * 86_400 * SECOND)
    for _ in range(2_000):
        assert slot is not None and slot <= at
        following = slots.next_after(slot)
        if following is None or following > at:
            break
        slot = following
    assert last_slot(slots, at) == slot


def test_a_slot_of_a_leap_day_is_found_and_one_of_long_ago_is_not() -> None:
    leap = Calendar("cron", "0 2 29 2 *", "UTC")
    assert last_slot(leap, AT) == 1_709_172_000 * SECOND
    assert last_slot(Calendar("oncalendar", "2031-01-01", "UTC"), AT) is None


@pytest.mark.parametrize(("minutes", "present"), [(-30, -1_440), (-9, 0), (0, 0), (700, 0)])
def test_the_present_slot_is_the_last_one_or_the_next_if_a_ping_counts_for_it(minutes: int, present: int) -> None:
    definition = read_definition({"cron": "0 2 * * *", "grace": "10m"})
    slot = AT + 7_200 * SECOND
    at = slot + minutes * 60 * SECOND
    expected = expected_slot(definition, None, at, suspended=False)
    assert present_slot(definition, expected, at) == slot + present * 60 * SECOND


def test_a_miss_names_the_run_that_came_for_another_date() -> None:
    """As with runs that name the day before: without an offset, every night would be missed without a hint."""
    scene = Scene()
    scene.monitor(cron="0 2 * * *", grace="10m")
    scene.ping(7_200, "success", run="2026-01-05")
    scene.ping(86_400 + 7_200, "start", run="etl-2026-01-05")
    scene.tick(86_400 + 7_801)
    reason = scene.effects(IncidentChanged)[0].reason
    assert reason.endswith("; run etl-2026-01-05 came for 2026-01-05, which is not due (see business_date_offset)")


def test_with_an_offset_the_run_of_a_night_is_for_the_day_before() -> None:
    scene = Scene()
    scene.monitor(cron="0 2 * * *", grace="10m", business_date_offset=-1)
    for night in range(3):
        scene.ping(night * 86_400 + 7_200, "success", run=f"etl-2026-01-0{4 + night}")
    scene.tick(2 * 86_400 + 20_000)
    assert scene.status() == "up" and not scene.incidents()
