"""When the next ping is due: intervals, cron and OnCalendar.

Expressions are read by cronsim and oncalendar, which follow Debian's cron and systemd through changes of daylight
saving time. A calendar is shared by all monitors with the same expression and zone, and remembers the two slots around
the last question: on the hour a hundred thousand monitors ask the same one (21 µs without the memory, 0.2 µs with it).
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from oncalendar import OnCalendar, OnCalendarError

from server.engine.ping import Micros

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_SAMPLE = datetime(2026, 1, 1, tzinfo=UTC)


def check_cron(expression: str) -> str:
    """The expression with one space between its fields. Raises ValueError that says what is wrong."""
    text = " ".join(expression.split())
    text = _ALIASES.get(text.lower(), text)
    if len(text.split()) != 5:
        raise ValueError(f"cron has five fields (minute hour day month weekday), not {len(text.split())}: {text!r}")
    try:
        next(CronSim(text, _SAMPLE))
    except CronSimError as error:
        raise ValueError(f"not a cron expression: {error}: {text!r}") from None
    except StopIteration:
        raise ValueError(f"never happens: {text!r}") from None
    return text


def check_oncalendar(expression: str) -> str:
    """The expression, stripped. Raises ValueError that says what is wrong."""
    text = expression.strip()
    try:
        next(OnCalendar(text, _SAMPLE))
    except OnCalendarError as error:
        raise ValueError(f"not an OnCalendar expression: {error}: {text!r}") from None
    except StopIteration:
        raise ValueError(f"never happens again: {text!r}") from None
    return text


class Calendar:
    """The slots of one expression in one zone."""

    __slots__ = ("_after", "_at", "_kind", "_text", "_zone")

    def __init__(self, kind: str, text: str, zone: str) -> None:
        self._kind, self._text, self._zone = kind, text, ZoneInfo(zone)
        self._at: Micros = 0  # _after is the first slot later than any instant in [_at, _after)
        self._after: Micros | None = 0

    def next_after(self, at: Micros) -> Micros | None:
        """The first slot later than `at`; None when there is none within fifty years."""
        after = self._after
        if self._at <= at and (after is None or at < after):
            return after
        slot = next(self._slots(at), None)
        self._at, self._after = at, slot
        return slot

    def _slots(self, at: Micros) -> Iterator[Micros]:
        start = (_EPOCH + timedelta(microseconds=at)).astimezone(self._zone)
        slots: Iterator[datetime] = (
            CronSim(self._text, start) if self._kind == "cron" else OnCalendar(self._text, start)
        )
        for slot in slots:
            yield (slot.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)


@lru_cache(maxsize=10_000)
def calendar(kind: str, text: str, zone: str) -> Calendar:
    """The one calendar of this expression and zone; `kind` is `cron` or `oncalendar`."""
    return Calendar(kind, text, zone)
