"""Lengths of time as people write them: `90s`, `15m`, `1h30m`, `7d`, or a number of seconds."""

import re
from functools import lru_cache

from offbeat_server.common.instants import SECOND, Micros

_UNITS: dict[str, Micros] = {
    "w": 604_800 * SECOND,
    "d": 86_400 * SECOND,
    "h": 3_600 * SECOND,
    "m": 60 * SECOND,
    "s": SECOND,
    "ms": 1_000,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[wdhms])")
DURATION_MAX: Micros = 3_660 * 86_400 * SECOND  # ten years: longer is a typing error


def read_duration(value: object) -> Micros:
    """Microseconds from `1h30m` or from a number of seconds. Raises ValueError that says what is allowed."""
    wrong = f"must be a duration such as 90s, 15m, 1h30m or a number of seconds, not {value!r}"
    if isinstance(value, bool):
        raise ValueError(wrong)
    if isinstance(value, int | float):
        if not 0 <= value <= DURATION_MAX / SECOND:  # also refuses NaN
            raise ValueError(f"must be from 0s to 3660d (ten years), not {value!r}")
        return round(value * SECOND)
    if not isinstance(value, str):
        raise ValueError(wrong)
    if value.strip()[-1:] == "M":
        raise ValueError(f"{value!r} may be minutes or months: write m for minutes, or days as d")
    text = value.strip().lower().replace(" ", "")
    if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text):
        return read_duration(float(text))
    parts = _PART.findall(text) if len(text) <= 60 else []
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(wrong)
    total = sum(round(float(number) * _UNITS[unit]) for number, unit in parts)
    if total > DURATION_MAX:
        raise ValueError(f"must be from 0s to 3660d (ten years), not {value!r}")
    return total


def write_duration(length: Micros) -> str:
    """The shortest exact way to write it; `read_duration` gives the same number back."""
    if length == 0:
        return "0s"
    rest, text = length, ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            text += f"{count}{unit}"
    if rest:  # finer than a millisecond: exact as a decimal of seconds
        return f"{length / SECOND:.6f}s"
    return text


@lru_cache(maxsize=1_000)  # what monitors are defined by is said again in each of their alerts
def say_duration(length: Micros) -> str:
    """A length for people, two units at most: `1 h 30 min`, `12 min`, `3.2 s`."""
    seconds = abs(length) / SECOND
    if seconds < 10:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    for size, unit, sub_size, sub_unit in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            count, rest = divmod(whole, size)
            sub = rest // sub_size
            return f"{count} {unit}" + (f" {sub} {sub_unit}" if sub else "")
    return f"{whole} s"
