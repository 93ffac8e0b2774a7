"""Cron slots against an independent simulation of Debian's cron, around every change of the clocks of two years."""

import importlib.util
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from zoneinfo import ZoneInfo

import cronsim
import pytest

from offbeat_server.common.instants import to_micros
from offbeat_server.engine.schedule.calendar import Calendar, check_cron
from tests.support.harness import ROOT, needs

_BEGIN = datetime(1970, 1, 1)  # noqa: DTZ001 – of the clock on the wall
ZONES = (
    "UTC", "Europe/Berlin", "Europe/Dublin", "America/New_York", "America/Santiago", "America/Havana",
    "Atlantic/Azores",
    "Asia/Beirut", "Asia/Gaza", "Africa/Cairo", "Africa/Casablanca", "Australia/Lord_Howe", "Pacific/Chatham",
    "Antarctica/Troll", "America/Nuuk",
)  # fmt: skip
EXPRESSIONS = (
    "* * * * *", "*/5 * * * *", "*/15 2 * * *", "*/15 0 * * 7", "*/20 1-3 * * *", "7 * * * *", "0 */2 * * *",
    "0 */3 * * *", "0 */3 * * 7", "30 */1 * * 0,6", "0 */2 28 * *", "0 */2 29,30,31 3,10 *", "0 0 * * *", "0 0 * * 7",
    "30 0 * * 6", "30 2 * * *", "15,45 2,3 * * *", "0-59/10 0-3 * * *", "0 2 28-31 * 7", "0 1 * * 0", "5 3 1 */2 *",
    "59 23 * * *", "0 3 * * sun", "1-59 1,2 * 3,4,9,10,11 *", "0 */12 * * 7", "*/30 23 * * 6", "45 1 */2 * *",
    "0 2 * * 7#1", "0 0 L * *", "0,30 2 * * 7L",
)  # fmt: skip
_NAMES = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}


def values(field: str, low: int, high: int) -> tuple[set[int], set[str]]:
    """The numbers of a field, and its entries with # and L."""
    numbers: set[int] = set()
    special: set[str] = set()
    for term in field.split(","):
        body, _, step = term.partition("/")
        if "#" in body or body.endswith("L"):
            special.add(body)
            continue
        if body == "*":
            first, last = low, high
        elif "-" in body:
            first, last = map(int, body.split("-"))
        else:
            first = last = _NAMES[body] if body in _NAMES else int(body)
        numbers |= set(range(first, last + 1, int(step or 1)))
    return numbers, special


@cache
def matcher(text: str) -> Callable[[datetime], bool]:
    """Whether a local minute matches, written as crontab(5) says it."""
    minute, hour, day, month, weekday = text.split()
    minutes, hours, months = values(minute, 0, 59)[0], values(hour, 0, 23)[0], values(month, 1, 12)[0]
    (days, last_day), (weekdays, special) = values(day, 1, 31), values(weekday, 0, 7)
    both = day.startswith("*") or weekday.startswith("*")

    def matches(at: datetime) -> bool:
        if at.minute not in minutes or at.hour not in hours or at.month not in months:
            return False
        sunday_is_0 = at.isoweekday() % 7
        of_month = at.day in days or (bool(last_day) and (at + timedelta(days=1)).month != at.month)
        of_week = bool({sunday_is_0, at.isoweekday()} & weekdays)
        for each in special:
            if int(each[0]) % 7 == sunday_is_0:
                of_week |= (
                    (at + timedelta(days=7)).month != at.month if "L" in each else (at.day - 1) // 7 + 1 == int(each[2])
                )
        return (of_month and of_week) if both else (of_month or of_week)

    return matches


def wall_minute(at: datetime, zone: ZoneInfo) -> int:
    """The minute that the clock on the wall shows, counted from 1970."""
    local = at.astimezone(zone).replace(tzinfo=None)
    return (local - _BEGIN) // timedelta(minutes=1)


def debian(minutes: Sequence[tuple[datetime, int]], fixed: bool, matches: Callable[[datetime], bool]) -> set[datetime]:
    """When cron starts a job: its main loop, minute by minute, as its clock (`virtual`) follows the one on the wall."""
    runs: set[datetime] = set()
    virtual = minutes[0][1] - 1
    for at, clock in minutes:
        ahead = clock - virtual
        if ahead == 1 or abs(ahead) > 180:
            virtual = clock
            due = [clock]
        elif ahead > 0:  # clocks went forward: what does not follow them is made up for
            due = list(range(virtual + 1, clock + 1)) if fixed else [clock]
            virtual = clock
        else:  # clocks went back: only what follows them runs
            due = [] if fixed else [clock]
        if any(matches(moment(each)) for each in due):
            runs.add(at)
    return runs


@lru_cache(maxsize=20_000)
def moment(clock: int) -> datetime:
    """The local time of a minute since 1970."""
    return _BEGIN + timedelta(minutes=clock)


@cache
def changes(zone: str) -> list[datetime]:
    """The instants of 2026 and 2027 at which the clocks of a zone change; for UTC one at which nothing does."""
    info, instants = ZoneInfo(zone), []
    at = datetime(2025, 12, 31, tzinfo=UTC)
    while at.year < 2028:
        if at.astimezone(info).utcoffset() != (at + timedelta(hours=6)).astimezone(info).utcoffset():
            step = at
            while step.astimezone(info).utcoffset() == at.astimezone(info).utcoffset():
                step += timedelta(minutes=1)
            instants.append(step)
        at += timedelta(hours=6)
    return instants or [datetime(2026, 3, 29, 1, tzinfo=UTC)]


@pytest.mark.slow
@pytest.mark.parametrize("zone", ZONES)
def test_slots_are_those_of_debians_cron(zone: str) -> None:
    info = ZoneInfo(zone)
    for change in changes(zone):
        begin, length = change - timedelta(hours=14), 40 * 60
        minutes = [(at, wall_minute(at, info)) for at in (begin + timedelta(minutes=each) for each in range(length))]
        for text in EXPRESSIONS:
            fixed = not any(field.startswith("*") for field in text.split()[:2])
            runs = sorted(to_micros(at) for at in debian(minutes, fixed, matcher(text)))
            slots: list[int] = []
            at: int | None = to_micros(begin) - 1
            calendar = Calendar("cron", check_cron(text), zone)
            while (at := calendar.next_after(at or 0)) is not None and at < to_micros(
                begin + timedelta(minutes=length)
            ):
                slots.append(at)
            assert slots == runs, (zone, change, text)
            # The same from any instant, without what was asked before: also within the repeated hour.
            for offset in range(-150, 150, 17):
                start = to_micros(change) + offset * 60_000_000 + 17_000_001
                if after := [run for run in runs if run > start]:
                    assert Calendar("cron", check_cron(text), zone).next_after(start) == after[0], (zone, text, start)


@pytest.mark.parametrize(
    ("zone", "text", "after", "slots"),
    [
        ("Asia/Beirut", "0 */3 * * 7", "2027-03-27T20:00", ["2027-03-28T03:00+03:00", "2027-03-28T06:00+03:00"]),
        ("Asia/Beirut", "*/15 0 * * 7", "2027-03-27T20:00", ["2027-04-04T00:00+03:00"]),
        ("Asia/Beirut", "0 0 * * 7", "2027-03-27T20:00", ["2027-03-28T01:00+03:00"]),
        ("Australia/Lord_Howe", "0 */2 * * *", "2027-04-03T13:30", ["2027-04-04T02:00+10:30", "2027-04-04T04:00+10:30"]),  # noqa: E501
        ("Australia/Lord_Howe", "0 */3 * * 7", "2026-10-03T14:00", ["2026-10-04T03:00+11:00"]),
        ("Pacific/Chatham", "*/15 2 * * *", "2027-04-03T12:50", ["2027-04-04T02:45+13:45", "2027-04-04T02:45+12:45"]),
        ("Europe/Berlin", "30 2 * * *", "2026-03-28T12:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-25T00:30", ["2026-10-26T02:30+01:00"]),
        ("Europe/Berlin", "*/30 2 25 10 *", "2026-10-25T00:30", ["2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00"]),
        # A whole day that a zone skipped is a correction of the clock.
        ("Pacific/Apia", "0 12 * * *", "2011-12-29T23:00", ["2011-12-31T12:00+14:00"]),
        ("Europe/Berlin", "0 12 29 2 *", "2096-03-01T00:00", ["2104-02-29T12:00+01:00"]),
    ],
)  # fmt: skip
def test_slots_near_a_change_of_the_clocks(zone: str, text: str, after: str, slots: list[str]) -> None:
    at, calendar = to_micros(datetime.fromisoformat(after).replace(tzinfo=UTC)), Calendar("cron", text, zone)
    for slot in slots:
        following = calendar.next_after(at)
        assert following is not None
        at = following
        assert at == to_micros(datetime.fromisoformat(slot)), datetime.fromtimestamp(at / 1e6, ZoneInfo(zone))


@pytest.mark.skipif(version("cronsim") != "2.8", reason="the patch is for cronsim 2.8")
def test_the_patch_for_cronsim_mends_it(tmp_path: Path) -> None:
    shutil.copytree(Path(cronsim.__file__).parent, tmp_path / "cronsim")
    patch = (ROOT / "docs" / "development" / "cronsim-clock-changes.patch").read_text()
    subprocess.run([needs("patch"), "-p1", "--quiet"], cwd=tmp_path, input=patch, text=True, check=True)
    spec = importlib.util.spec_from_file_location("patched", tmp_path / "cronsim" / "cronsim.py")
    assert spec is not None and spec.loader is not None
    patched = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(patched)
    differ: Counter[str] = Counter()
    for zone in ZONES:
        for change in changes(zone):
            for text in ("0 */3 * * 7", "*/15 0 * * 7", "0 */2 * * *", "*/15 2 * * *", "7 * * * *", "30 */1 * * 0,6"):
                for start in (change + timedelta(minutes=each) for each in (-600, -45, -10, 10, 25, 50)):
                    want = Calendar("cron", text, zone).next_after(to_micros(start))
                    for module in (cronsim, patched):
                        got = next(module.CronSim(text, start.astimezone(ZoneInfo(zone))))
                        differ[module.__name__] += to_micros(got) != want
    assert differ["cronsim"] > 0 == differ["patched"]
