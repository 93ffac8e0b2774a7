"""The local time of a zone as pieces in which its offset from UTC does not change.

Within a piece, local time and UTC differ by a constant. So a schedule in local time is looked up piece by piece, and
what happens at a change of the clocks is decided at the border of two pieces and nowhere else.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from offbeat_server.common.instants import SECOND, Micros

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 – of local time
_DAY = 86_400
_STEP = 7 * _DAY  # no zone changes its offset and changes it back within a week
_YEAR_MAX = 9_998


class OffsetSpan(NamedTuple):
    """From `start` until before `end` local time is UTC + `offset`; before `start` it was UTC + `offset_before`."""

    start: Micros
    end: Micros
    offset: Micros
    offset_before: Micros


def offset_spans(zone: str, at: Micros) -> Iterator[OffsetSpan]:
    """The piece that holds `at`, and those that follow it. Years are borders too: there the offset stays the same."""
    year = wall_time(at).year
    before = None
    # From the year before on: the first piece of a year has its `offset_before` from there.
    for each in range(year - 1, _YEAR_MAX):
        for start, end, offset in _year(zone, each):
            if end > at:
                yield OffsetSpan(start, end, offset, offset if before is None else before)
            before = offset


def wall_time(at: Micros) -> datetime:
    """A number of microseconds since 1970 as a datetime without a zone."""
    return _EPOCH + timedelta(microseconds=at)


def to_wall(at: datetime) -> Micros:
    """A datetime without a zone as microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


@lru_cache(maxsize=4_000)
def _year(zone: str, year: int) -> tuple[tuple[Micros, Micros, Micros], ...]:
    """Start, end and offset of the pieces of a year (of UTC)."""
    first, last = (int(datetime(each, 1, 1, tzinfo=UTC).timestamp()) for each in (year, year + 1))
    info = ZoneInfo(zone)

    def offset(second: int) -> int:
        found = datetime.fromtimestamp(second, info).utcoffset()
        return 0 if found is None else round(found.total_seconds())

    borders, low = [first], first
    while low < last:
        high = min(low + _STEP, last)
        if offset(low) != offset(high):
            before, after = low, high
            while after - before > 1:
                middle = (before + after) // 2
                if offset(middle) == offset(low):
                    before = middle
                else:
                    after = middle
            if after < last:
                borders.append(after)
        low = high
    ends = [*borders[1:], last]
    return tuple(
        (start * SECOND, end * SECOND, offset(start) * SECOND) for start, end in zip(borders, ends, strict=True)
    )
