"""OnCalendar as systemd reads it: its shorthands, several expressions, and clear refusals."""

import re
import subprocess
from datetime import UTC, datetime

import pytest

from offbeat_server.common.errors import DefinitionError
from offbeat_server.common.instants import to_micros
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.schedule.calendar import Calendar, calendar, check_oncalendar
from offbeat_server.engine.schedule.maintenance_windows import read_window
from tests.support.engine import Scene
from tests.support.harness import needs

BEGIN = to_micros(datetime(2026, 11, 30, tzinfo=UTC))


def slots(text: str, count: int = 6, begin: int = BEGIN) -> list[int]:
    """The first slots of an expression."""
    due_times = calendar("oncalendar", check_oncalendar(text), "UTC")
    times = [begin]
    for _ in range(count):
        following = due_times.next_after(times[-1])
        assert following is not None
        times.append(following)
    return times[1:]


def slots_of_systemd(text: str, count: int = 6, begin: datetime = datetime(2026, 11, 30, tzinfo=UTC)) -> list[int]:
    """The same as systemd itself computes them."""
    shown = subprocess.run(
        [needs("systemd-analyze"), "calendar", f"--iterations={count}", f"--base-time={begin:%F %T} UTC", text],
        env={"TZ": "UTC", "LC_ALL": "C"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    times = re.findall(r"(?:Next elapse|Iter\. #\d+|Iteration #\d+): \w+ (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", shown)
    assert len(times) == count, shown
    return [to_micros(datetime.fromisoformat(each).replace(tzinfo=UTC)) for each in times]


@pytest.mark.parametrize(
    "shorthand",
    [
        "minutely", "hourly", "daily", "weekly", "monthly", "quarterly", "yearly", "annually", "anually",
        "semiannually", "semi-annually", "biannually", "bi-annually", "Semi-Annually", "BIANNUALLY",
        "semi-annually Europe/Berlin", "weekly Pacific/Auckland",
    ],
)  # fmt: skip
def test_shorthands_are_those_of_systemd(shorthand: str) -> None:
    assert slots(shorthand) == slots_of_systemd(shorthand)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zone", "days"),
    [
        ("Europe/Berlin", ("2026-03-28", "2026-10-24")),
        ("Europe/Dublin", ("2026-03-28", "2026-10-24")),
        ("Asia/Beirut", ("2026-03-28", "2026-10-24")),
        ("America/Santiago", ("2026-09-05", "2027-04-03")),
        ("Africa/Casablanca", ("2026-02-14", "2026-03-21")),
        ("Australia/Lord_Howe", ("2026-10-03", "2027-04-03")),
        ("Pacific/Chatham", ("2026-09-26", "2027-04-03")),
    ],
)
def test_slots_around_a_change_of_the_clocks_are_those_of_systemd(zone: str, days: tuple[str, str]) -> None:
    for text, count in (
        *(("*-*-* 02:30:00", 6), ("daily", 6), ("Sun 02:15", 6), ("*-*-1/5 02:30", 6), ("Mon..Fri 00:00", 6)),
        *(("hourly", 60), ("*-*-* *:00/20", 200)),
    ):
        for day in days:
            begin = datetime.fromisoformat(day).replace(tzinfo=UTC)
            expected = slots_of_systemd(f"{text} {zone}", count, begin)
            assert slots(f"{text} {zone}", count, to_micros(begin)) == expected, (text, day)


@pytest.mark.parametrize(
    "given",
    [
        ["Mon *-*-* 10:00", "Tue 11:00 Europe/Berlin", "semi-annually"],
        "Mon *-*-* 10:00\nTue 11:00 Europe/Berlin\nsemi-annually",
        "\n  Mon   *-*-* 10:00 \r\n\r\nTue 11:00 Europe/Berlin\r\nbiannually\n",
    ],
)
def test_several_expressions_are_due_at_the_times_of_each(given: str) -> None:
    definition = read_definition({"oncalendar": given})
    assert definition.oncalendar == "Mon *-*-* 10:00\nTue 11:00 Europe/Berlin\nsemiannually"
    assert read_definition(definition.dump()) == definition
    alone = [slots(line, count=10) for line in definition.oncalendar.splitlines()]
    assert (
        slots(given if isinstance(given, str) else "\n".join(given)) == sorted({s for each in alone for s in each})[:6]
    )
    assert read_window({"oncalendar": given, "duration": "1h"}).oncalendar == definition.oncalendar


def test_one_of_several_that_is_over_ends_nothing() -> None:
    assert slots("2026-12-01 10:00\n2026-12-02 10:00\n2027-*-01 00:00", count=3)[2] == to_micros(
        datetime(2027, 1, 1, tzinfo=UTC)
    )


def test_every_slot_of_several_expressions_is_watched() -> None:
    scene = Scene()
    scene.monitor(oncalendar=["02:00", "14:30"], grace="10m")
    scene.ping("2h")
    assert scene.engine.monitors[1].due == scene.at("14h30m")
    scene.ping("14h30m")
    assert scene.engine.monitors[1].due == scene.at("26h")
    scene.tick("26h10m")
    assert scene.incidents()[1].cause == "missed"


@pytest.mark.parametrize(
    ("given", "problem_text"),
    [
        ("12:00:00.5", "seconds cannot have a fraction"),
        ("*-*-* *:0/15:30.25", "seconds cannot have a fraction"),
        ("12:00\nnever", "line 2: not an OnCalendar expression"),
        ("12:00\n12:00:01.5", "line 2: OnCalendar: seconds cannot have a fraction"),
        ("12:00\n2001-01-01 00:00", "line 2: never happens again"),
        ("12:00\n30 2 * * *", "line 2: not an OnCalendar expression"),
        ([], "empty"),
        (["", " "], "empty"),
        (["12:00", 5], "must be text"),
        (["12:00"] * 51, "at most 50"),
        ("12:00 Europe", "no such time zone"),
    ],
)
def test_a_refusal_names_the_line_and_the_reason(given: str, problem_text: str) -> None:
    with pytest.raises(DefinitionError, match=problem_text):
        read_definition({"oncalendar": given})


def test_within_the_repeated_hour_of_the_zone_of_an_expression() -> None:
    second_half_past_two = to_micros(datetime(2026, 10, 25, 1, 20, tzinfo=UTC))
    due_times = Calendar("oncalendar", "*-*-* 02:30:00 Europe/Berlin\n05:00", "UTC")
    assert due_times.next_after(second_half_past_two) == to_micros(datetime(2026, 10, 25, 5, tzinfo=UTC))
