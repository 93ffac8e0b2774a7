"""Business dates: the names of the occurrences of a schedule, and the dates that run ids hold.

A business date is a text. `2026-11-30` names the only occurrence of a day, `2026-11-30T02:00` one of several; any other
label, such as `batch-17`, names itself. So equal texts mean the same occurrence, and two texts that begin with a date
can be ordered.

A schedule with one occurrence a day names it by its local date, any other schedule by the local date and time. A time
that a client sends with an offset from UTC is converted to the zone of the monitor first, so that `02:00+01:00` and
`01:00Z` are the same.
"""

import re
from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from offbeat_server.common.instants import SECOND, Micros, to_datetime
from offbeat_server.engine.model.definition import Definition
from offbeat_server.engine.schedule.calendar import last_slot
from offbeat_server.engine.schedule.due_times import calendar_of, early_max, period_of
from offbeat_server.engine.schedule.run_date_patterns import compile_pattern

YEARS_AWAY_MAX = 10  # a date in a run id that is further away is a number that looks like a date
_SEVERAL_A_DAY_MAX: Micros = 20 * 3_600 * SECOND  # occurrences that are nearer to one another
_TIME = r"(?:[T_ ](?P<H>\d\d)[:.]?(?P<M>\d\d)(?:[:.]?(?P<S>\d\d)(?:[.,]\d{1,9})?)?(?P<zone>Z|[+-]\d\d:?\d\d)?)?"
_ISO = re.compile(rf"(?P<Y>\d{{4}})-(?P<m>\d\d)-(?P<d>\d\d){_TIME}", re.ASCII)
_IN_RUN_ID = re.compile(
    rf"(?<![0-9])(?P<Y>\d{{4}})(?P<dash>-?)(?P<m>\d\d)(?P=dash)(?P<d>\d\d){_TIME}(?![0-9])", re.ASCII
)
_is_date = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d)?)?", re.ASCII).fullmatch


def of_slot(definition: Definition, slot: Micros) -> str:
    """The business date of the occurrence that is due at `slot`."""
    return _of_slot(slot, definition.timezone, has_several_a_day(definition), definition.business_date_offset)


@lru_cache(maxsize=10_000)  # many monitors have the same slots
def _of_slot(slot: Micros, timezone: str, has_time: bool, days: int) -> str:
    return _label(to_datetime(slot).astimezone(ZoneInfo(timezone)), has_time=has_time, days=days)


def named(definition: Definition, text: str) -> str:
    """The business date that a client named: a date or an instant in one form, any other text as it is."""
    found = _ISO.fullmatch(text.strip())
    return (_read(found, definition) if found is not None else None) or text


def in_run_id(definition: Definition, run: str, at: Micros) -> str | None:
    """The business date that a run id of a ping at `at` holds; None: none, or one that is years away."""
    for pattern in _patterns(definition.run_date):
        for found in pattern.finditer(run):
            if abs(int(found["Y"]) - to_datetime(at).year) <= YEARS_AWAY_MAX:
                label = _read(found, definition)
                if label is not None:
                    return label
    return None


def has_several_a_day(definition: Definition) -> bool:
    """Whether a schedule has slots that are less than 20 hours apart, so that a date alone does not name one."""
    period = period_of(definition)
    return period is not None and period < _SEVERAL_A_DAY_MAX


def is_earlier(one: str, other: str) -> bool:
    """Whether one business date is before another; False if one of them is no date, or they may be the same."""
    if _is_date(one) is None or _is_date(other) is None:
        return False
    length = min(len(one), len(other))
    return one[:length] < other[:length]


def present_slot(definition: Definition, expected: Micros | None, at: Micros) -> Micros | None:
    """The slot whose time it is at `at`: the expected one, or the last one before; None: there is none.

    A ping counts for the expected slot from `early_max` before it on.
    """
    slots = calendar_of(definition)
    if slots is None:
        return None
    if expected is not None:
        after = slots.next_after(expected)
        is_next = expected <= at or expected == slots.next_after(at)
        if expected <= at or (is_next and expected - at <= early_max(definition, expected, after)):
            return expected
    return last_slot(slots, at)


@lru_cache(maxsize=1_000)
def _patterns(run_date: str) -> tuple[re.Pattern[str], ...]:
    if run_date == "auto":
        return (_IN_RUN_ID,)
    if run_date == "none":
        return ()
    return (compile_pattern(run_date),)


def _read(found: re.Match[str], definition: Definition) -> str | None:
    """The business date of a match; None: there is no such day or time."""
    values = found.groupdict()
    text, zone = f"{values['Y']}-{values['m']}-{values['d']}", values.get("zone")
    try:
        if values.get("H") is None:
            return date.fromisoformat(text).isoformat()
        text += f"T{values['H']}:{values.get('M') or '00'}:{values.get('S') or '00'}"
        time = datetime.fromisoformat(text + ("+00:00" if zone in (None, "Z") else zone))
        if zone is not None:
            time = time.astimezone(ZoneInfo(definition.timezone))
    except (ValueError, OverflowError):
        return None
    has_time = calendar_of(definition) is None or has_several_a_day(definition)
    return _label(time, has_time=has_time)


def _label(local: datetime, *, has_time: bool, days: int = 0) -> str:
    day = (local.date() + timedelta(days)).isoformat()
    return f"{day}T{local.time().isoformat('seconds' if local.second else 'minutes')}" if has_time else day
