"""Patterns that say where a run id holds its business date, such as `etl-%Y%m%d`."""

import re

_FIELDS = {
    "%Y": r"(?P<Y>\d{4})",
    "%m": r"(?P<m>\d\d)",
    "%d": r"(?P<d>\d\d)",
    "%H": r"(?P<H>\d\d)",
    "%M": r"(?P<M>\d\d)",
}
_DATE = ("%Y", "%m", "%d")


def check_run_date(pattern: str) -> str:
    """The pattern. Raises ValueError if it names no date."""
    if pattern in ("auto", "none"):
        return pattern
    codes = re.findall("%.?", pattern)
    if sorted(set(codes)) != sorted(codes) or not set(_DATE) <= set(codes) <= set(_FIELDS):
        raise ValueError(
            "use auto, none or a pattern with %Y, %m and %d, each once, and perhaps %H and %M, such as etl-%Y%m%d"
        )
    return pattern


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The expression that finds a pattern in a run id; the groups Y, m, d, H and M are the parts of the date."""
    parts = re.split("(%.)", pattern)
    text = "".join(_FIELDS.get(part) or re.escape(part) for part in parts)
    return re.compile(f"(?<![0-9]){text}(?![0-9])", re.ASCII)
