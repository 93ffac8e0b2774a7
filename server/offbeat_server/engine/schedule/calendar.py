"""Due times of cron and OnCalendar expressions.

cronsim and oncalendar read the expressions. oncalendar follows systemd through changes of daylight saving time. For
cron, cronsim finds the next match in local time, and `_cron_slots` decides what a change of the clocks does, by the
rules of Debian's cron:

- Minute or hour begins with `*`: the job follows the clock on the wall. It does not run at times that do not exist, and
  runs twice at times that come twice.
- Any other job runs once. A slot in the skipped time is due right after it; a slot in the repeated time is due the
  first time.
- A change of more than three hours is a correction of the clock: no job is made up for, and none is held back.

A calendar is shared by all monitors with the same expression and zone, and remembers the gaps between
slots that it was last asked about: on the hour a hundred thousand monitors ask the same (21 µs without the memory,
0.2 µs with it). One ping asks about up to three gaps: the one it is in, the one before and the one after.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from oncalendar import OnCalendar, OnCalendarError

from offbeat_server.common.instants import SECOND, Micros, to_datetime, to_micros
from offbeat_server.engine.schedule.local_time import offset_spans, to_wall, wall_time

_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# Other names that systemd takes for its own shorthands.
_SYSTEMD_ALIASES = {
    "semi-annually": "semiannually",
    "biannually": "semiannually",
    "bi-annually": "semiannually",
    "anually": "annually",
}
ONCALENDAR_LINES_MAX = 50
_FRACTION = re.compile(r":[0-9*/,.]*[0-9]\.[0-9](?!\.)")
_BEFORE_THE_FOLD = timedelta(hours=3)
_MINUTE: Micros = 60 * SECOND
_CORRECTION: Micros = 180 * _MINUTE
_SAMPLE = datetime(2026, 1, 1, tzinfo=UTC)


# Cron expressions of other programs, and their form here.
_CRON_HINTS: tuple[tuple[Callable[[str], object], str], ...] = (
    (re.compile("@every ", re.IGNORECASE).match, "write the length of time as every"),
    (re.compile("rate\\(").match, "write the length of time as every"),
    (re.compile("@reboot", re.IGNORECASE).match, "a job that runs at each start of its machine has no schedule"),
    (re.compile("(?:CRON_)?TZ=").match, "write the time zone as timezone"),
    (re.compile(r"(?:\S+ ){5}[A-Z]\w+/\w+").match, "write the time zone as timezone"),
    (re.compile(r"(?:\S+ ){5,6}\S+\Z").match, "leave out seconds, years and the user"),
)


def check_cron(expression: str) -> str:
    """The expression with one space between its fields. Raises ValueError that says what is wrong."""
    text = " ".join(expression.split())
    text = _ALIASES.get(text.lower(), text)
    if len(text.split()) != 5:
        hint = next((f"; {hint}" for begins, hint in _CRON_HINTS if begins(text)), "")
        count = len(text.split())
        raise ValueError(f"cron has five fields (minute hour day month weekday), not {count}: {text!r}{hint}")
    try:
        next(CronSim(text, _SAMPLE))
    except CronSimError as error:
        raise ValueError(f"not a cron expression: {error}: {text!r}") from None
    except StopIteration:
        raise ValueError(f"never happens: {text!r}") from None
    return text


def check_oncalendar(text: str) -> str:
    """The expressions, one per line, without blank lines. Raises ValueError that says what is wrong, in which line."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [_without_alias(line) for line in lines if line]
    if not lines:
        raise ValueError("not an OnCalendar expression: it is empty")
    if len(lines) > ONCALENDAR_LINES_MAX:
        raise ValueError(f"at most {ONCALENDAR_LINES_MAX} OnCalendar expressions, not {len(lines)}")
    for number, line in enumerate(lines, 1):
        try:
            _check_one(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}" if len(lines) > 1 else str(error)) from None
    return "\n".join(lines)


def _without_alias(line: str) -> str:
    first, space, zone = line.partition(" ")
    return _SYSTEMD_ALIASES.get(first.lower(), first) + space + zone


def _check_one(text: str) -> None:
    try:
        next(OnCalendar(text, _SAMPLE))
    except OnCalendarError as error:
        if _FRACTION.search(text):
            raise ValueError(f"OnCalendar: seconds cannot have a fraction here: {text!r}") from None
        raise ValueError(f"not an OnCalendar expression: {error}: {text!r}") from None
    except OSError:  # a directory of zones, such as `Europe`
        raise ValueError(f"not an OnCalendar expression: no such time zone: {text!r}") from None
    except StopIteration:
        raise ValueError(f"never happens again: {text!r}") from None


@lru_cache(1)
def _zones() -> dict[str, str]:
    """All names by their lower-case form. To list them, directories are read: some milliseconds."""
    return {zone.lower(): zone for zone in available_timezones()}


def check_zone(name: str) -> str:
    """The name of a time zone. Raises ValueError when there is none of it."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        near = _zones().get(name.strip().lower())
        raise ValueError(f"no such time zone: {name!r}; use {near or 'a name such as Europe/Berlin'}") from None
    return name


GAPS_REMEMBERED = 4


class Calendar:
    """The slots of one expression in one zone."""

    __slots__ = ("_cron", "_gaps", "_text", "_zone")

    def __init__(self, kind: str, text: str, zone: str) -> None:
        self._text, self._zone = text, ZoneInfo(zone)
        # Without a zone cronsim counts in local time alone; it continues from `dt`.
        self._cron = CronSim(text, wall_time(0)) if kind == "cron" else None
        # (low, high): high is the first slot later than any instant in [low, high); the newest last.
        self._gaps: list[tuple[Micros, Micros | None]] = []

    def next_after(self, at: Micros) -> Micros | None:
        """The first slot later than `at`; None when there is none within fifty years."""
        for low, high in self._gaps:
            if low <= at and (high is None or at < high):
                return high
        slot = self._next_cron(self._cron, at) if self._cron is not None else next(self._on_calendar(at), None)
        self._gaps = [*self._gaps[1 - GAPS_REMEMBERED :], (at, slot)]
        return slot

    def _next_cron(self, cron: CronSim, at: Micros) -> Micros | None:
        follows_the_clock = cron.parts[1].startswith("*") or cron.parts[2].startswith("*")
        searched_from, found = 0, 0
        for piece in offset_spans(self._zone.key, at):
            begin = piece.start + piece.offset
            jump = piece.offset - piece.offset_before
            # cron compares the minute before the change with the one after it.
            if not follows_the_clock and -_CORRECTION <= jump + _MINUTE <= _CORRECTION:
                # Continues at the local time before the change: skipped time is made up for, repeated time is left out.
                begin = piece.start + piece.offset_before
            after = max(begin - 1, at + piece.offset) if at >= piece.start else begin - 1
            if not searched_from <= after < found:
                searched_from, slot = after, _next_match(cron, after)
                if slot is None:
                    return None
                found = slot
            if found < piece.end + piece.offset:
                return max(found - piece.offset, piece.start)
        return None

    def _on_calendar(self, at: Micros) -> Iterator[Micros]:
        start = to_datetime(at).astimezone(self._zone)
        if start.fold:
            # The hour that is repeated when clocks go back: from within it oncalendar answers with its first time.
            start = (to_datetime(at) - _BEFORE_THE_FOLD).astimezone(self._zone)
        for slot in OnCalendar(self._text, start):
            if (instant := to_micros(slot)) > at:
                yield instant


LAST_SLOT_MAX: Micros = 10 * 366 * 86_400 * SECOND  # a slot that is longer ago is not looked for


def last_slot(slots: Calendar, at: Micros) -> Micros | None:
    """The last slot that is not later than `at`; None: none in ten years.

    A calendar can only look forward. So this goes back by steps that double, and halves what is left until no slot
    follows: few looks for a slot a day, some eighty if slots are a second apart on one day of a year.
    """
    back = 60 * _MINUTE
    while (slot := slots.next_after(at - back)) is None or slot > at:
        if back > LAST_SLOT_MAX:
            return None
        back *= 2
    low, high = slot, at  # a slot, and an instant after which there is none up to `at`
    while (later := slots.next_after(low)) is not None and later <= high:
        low = later
        middle = (low + high) // 2
        after = slots.next_after(middle)
        if after is not None and after <= high:
            low = after
        else:
            high = middle
    return low


def _next_match(cron: CronSim, after: Micros) -> Micros | None:
    """The first local time later than `after` that an expression names."""
    cron.dt = wall_time(after).replace(microsecond=0)
    try:
        return to_wall(next(cron))
    except StopIteration:
        return None


@lru_cache(maxsize=10_000)
def calendar(kind: str, text: str, zone: str) -> Calendar:
    """The one calendar of this expression and zone; `kind` is `cron` or `oncalendar`."""
    return Calendar(kind, text, zone)
