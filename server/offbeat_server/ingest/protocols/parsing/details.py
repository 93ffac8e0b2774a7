"""Numbers and messages that come along with a signal. Each reader gives the value, None where nothing was sent, or
raises ValueError with the sentence that says what would have been read: such a detail is left out, never the ping.
"""

import re
from datetime import timedelta
from typing import Any, Final

import orjson

from offbeat_server.common.instants import SECOND
from offbeat_server.engine.model.ping import ATTEMPT_MAX, COUNT_MAX
from offbeat_server.engine.schedule.durations import read_duration
from offbeat_server.ingest.protocols.parsing.message import stored_text
from offbeat_server.ingest.protocols.parsing.outcome import SAID_CHARS_MAX, read_flag, shown

_is_whole = re.compile(r"\+?(\d{1,19})(?:\.0+)?", re.ASCII).fullmatch
_is_clock = re.compile(r"(?:(\d{1,5})[d.])?(\d{1,6}):([0-5]\d):([0-5]\d(?:[.,]\d{1,9})?)", re.ASCII).fullmatch
_is_iso = re.compile(
    r"p(?:(\d+(?:[.,]\d+)?)w)?(?:(\d+(?:[.,]\d+)?)d)?"
    r"(?:t(?:(\d+(?:[.,]\d+)?)h)?(?:(\d+(?:[.,]\d+)?)m)?(?:(\d+(?:[.,]\d+)?)s)?)?",
    re.ASCII,
).fullmatch
_ISO_UNITS_S: Final = (604_800, 86_400, 3_600, 60, 1)
# A comma before one, two or more than three digits is a decimal comma; before three it may group thousands.
_has_decimal_comma = re.compile(r"\d+,(?:\d\d?|\d{4,})", re.ASCII).fullmatch
_SCIENTIFIC = re.compile(r"\d{1,12}(?:\.\d{1,15})?e[+-]?\d{1,2}|\d{1,12}\.\d{7,18}|\.\d{1,18}", re.ASCII).fullmatch


def read_count(name: str, value: object, least: int = 0, most: int = COUNT_MAX) -> int | None:
    """A whole number in a range; `5`, `5.0` and `"5"` are the same."""
    number = -1
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if (match := _is_whole(text)) is not None:
            number = int(match[1])
    elif isinstance(value, float):
        number = int(value) if value.is_integer() else -1
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if not least <= number <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {shown(value)}")
    return number


def read_attempt(name: str, value: object) -> int | None:
    """The number of an attempt, from 1."""
    return read_count(name, value, 1, ATTEMPT_MAX)


def read_yes(name: str, value: object) -> bool | None:
    """True for yes; None for no, which is the same as not sent."""
    if isinstance(value, str) and not value.strip():
        return None
    flag = read_flag(value)
    if flag is None:
        raise ValueError(f"{name} must be 1 or 0, not {shown(value)}")
    return flag or None


def read_seconds(name: str, value: object) -> float | None:
    """A duration in seconds: `90`, `1,5`, `1h30m`, `00:01:30` or `PT90S`."""
    if isinstance(value, str) and not value.strip():
        return None
    if isinstance(value, str | int | float) and not isinstance(value, bool) and len(str(value)) <= SAID_CHARS_MAX:
        try:
            seconds = _as_text(value.strip().lower()) if isinstance(value, str) else None
            return read_duration(value if seconds is None else seconds) / SECOND
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    raise ValueError(f"{name} must be a duration such as 90s, 1h30m or a number of seconds, not {shown(value)}")


def read_message(name: str, value: Any) -> str | None:
    """Text; any other JSON value is kept as JSON."""
    if isinstance(value, str):
        return stored_text(value)
    try:
        return stored_text(orjson.dumps(value).decode())
    except TypeError:  # orjson reads 1024 levels and writes 254
        raise ValueError(f"{name} is nested too deeply") from None


def _as_text(text: str) -> float | None:
    """Seconds, where the text is in a form that definitions of monitors do not have."""
    if _has_decimal_comma(text):
        return float(text.replace(",", "."))
    if _SCIENTIFIC(text):
        return float(text)
    if (match := _is_clock(text)) is not None:
        days, hours, minutes, seconds = match.groups()
        length = timedelta(days=int(days or 0), hours=int(hours), minutes=int(minutes))
        return length.total_seconds() + float(seconds.replace(",", "."))
    if (match := _is_iso(text)) is not None and any(match.groups()):
        parts = zip(match.groups(), _ISO_UNITS_S, strict=True)
        return sum(float(part.replace(",", ".")) * unit for part, unit in parts if part)
    return None
