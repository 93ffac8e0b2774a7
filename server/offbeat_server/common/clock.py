"""The two clocks: `monotonic()` for waiting, and log time for everything that is recorded.

Log time is the database's time at the last sample plus the local monotonic clock since. The node's wall clock is never
read, so stepping it does nothing. This is the only module that may call the `time` module; tests hand in another
`monotonic`.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import overload

from offbeat_server.common.instants import SECOND, Micros, to_datetime

JUMP_MAX: Micros = 2 * SECOND  # more than this between the database's clock and ours is a jump, not drift

monotonic = time.monotonic
monotonic_ns = time.monotonic_ns


class ClockJump(Exception):
    """The database's clock moved against our monotonic one by `by` microseconds."""

    def __init__(self, by: Micros) -> None:
        super().__init__(f"the database's clock jumped by {by / SECOND:+.3f} s")
        self.by = by


class LogClock:
    """Log time of this process, in microseconds.

    `sample` keeps it true: the database's clock was read somewhere between two local instants, so the real offset lies
    in an interval, and ours is moved into it and no further. A slow round trip therefore never disturbs a good offset.
    """

    def __init__(self, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._monotonic_ns = monotonic_ns
        self._offset: Micros | None = None
        self._last: Micros = 0

    @property
    def ready(self) -> bool:
        """Whether the database's clock was ever read."""
        return self._offset is not None

    def local(self) -> Micros:
        """The local monotonic clock in microseconds, for the two ends of a `sample`."""
        return self._monotonic_ns() // 1_000

    def now(self) -> Micros:
        """Log time now; does not reserve it."""
        assert self._offset is not None, "the clock has no sample yet"
        return max(self._monotonic_ns() // 1_000 + self._offset, self._last)

    def stamp(self) -> Micros:
        """Log time now, greater than every stamp before: no two inputs of one writer share an instant."""
        assert self._offset is not None, "the clock has no sample yet"
        at = self._monotonic_ns() // 1_000 + self._offset | 0  # kept by monitors: see `Micros`
        if at <= self._last:
            at = self._last + 1
        self._last = at
        return at

    def raise_to(self, at: Micros) -> None:
        """Give no stamp at or before `at` from now on: the scheduler may have evaluated up to there."""
        self._last = max(self._last, at)

    def sample(self, before: Micros, database: Micros, after: Micros) -> None:
        """Take a reading of the database's clock, made between the local instants `before` and `after`.

        Raises `ClockJump` where it cannot be drift. The caller then stops writing and calls `restart`.
        """
        low, high = database - after, database - before
        if self._offset is None:
            self._offset = (low + high) // 2
            return
        target = min(max(self._offset, low), high)
        if abs(target - self._offset) > JUMP_MAX:
            raise ClockJump(target - self._offset)
        self._offset = target

    def restart(self, before: Micros, database: Micros, after: Micros) -> None:
        """Begin again after a jump, at the database's time; `raise_to` then gives the time that the log has reached."""
        self._offset, self._last = None, 0
        self.sample(before, database, after)


@lru_cache(maxsize=10_000)  # what is decided in a storm has few instants
def _rfc3339(at: Micros) -> str:
    return to_datetime(at).isoformat().replace("+00:00", "Z")


@overload
def to_rfc3339(at: Micros) -> str: ...
@overload
def to_rfc3339(at: None) -> None: ...
def to_rfc3339(at: Micros | None) -> str | None:
    """An instant as people and programs read it: RFC 3339, UTC, with `Z`."""
    return None if at is None else _rfc3339(at)
