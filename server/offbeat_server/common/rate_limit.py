"""Rate limits: of a channel, of the pings of a key, of monitors that pings create, of wrong access keys.

All are one token bucket. Tokens are numbered in the order in which they are issued, and the state of a bucket is one
number: how many of the tokens issued so far it has used up or lost, because it holds `capacity` at most (the "generic
cell rate algorithm", counted in tokens in place of seconds). Tokens come one by one, or `in_windows`: `capacity` at
once at the beginning of each window, and the old ones are lost.

Pure: the time is passed in, in seconds of any clock that never goes back.
"""

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

LimitedKey = TypeVar("LimitedKey")
_ROUNDING = 1e-6  # of a token: what sums of floating-point numbers may be off


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `capacity` at once, and one per `refill_s` seconds in the long run."""

    capacity: float
    refill_s: float
    in_windows: bool = False

    @classmethod
    def per_minute(cls, count: int, *, in_windows: bool = False) -> "RateLimit":
        """`count` tokens per minute, all of which may be used at once."""
        return cls(count, 60.0 / count, in_windows)

    @property
    def fill_s(self) -> float:
        """After this time without use a bucket is full; the length of a window."""
        return self.capacity * self.refill_s

    def issued(self, now_s: float) -> float:
        """How many tokens were issued since the clock was at 0, and a full bucket before."""
        if self.in_windows:
            return (now_s // self.fill_s + 1) * self.capacity
        return now_s / self.refill_s + self.capacity

    def used(self, used: float, now_s: float) -> float:
        """The state of a bucket at `now_s`: the tokens that it cannot hold are lost."""
        return max(used, self.issued(now_s) - self.capacity)

    def wait_s(self, used: float, now_s: float, count: float = 1.0) -> float:
        """Seconds until `count` tokens are there; 0.0: now."""
        needed = self.used(used, now_s) + count - self.issued(now_s)
        if needed <= _ROUNDING:
            return 0.0
        if self.in_windows:
            return math.ceil(needed / self.capacity - _ROUNDING) * self.fill_s - now_s % self.fill_s
        return needed * self.refill_s


class TokenBucket:
    """A bucket; full at first."""

    __slots__ = ("_used", "limit")

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self._used = -math.inf

    def left(self, now_s: float) -> int:
        """Whole tokens at hand."""
        return int(self.limit.issued(now_s) - self.limit.used(self._used, now_s) + _ROUNDING)

    def is_full(self, now_s: float) -> bool:
        """Whether a new bucket would have no more."""
        return self._used <= self.limit.issued(now_s) - self.limit.capacity + _ROUNDING

    def take(self, now_s: float, count: int = 1) -> None:
        """Use tokens; of more than are left, all."""
        # Not less than before: the time may be that of the beginning of a round.
        self._used = max(self._used, min(self.limit.used(self._used, now_s) + count, self.limit.issued(now_s)))

    def wait_s(self, now_s: float) -> float:
        """Seconds until there is a whole token; 0.0: there is."""
        return self.limit.wait_s(self._used, now_s)


class KeyedRateLimiter(Generic[LimitedKey]):
    """A bucket for each key. Full buckets are forgotten, so the memory is bounded by the keys of the last two periods.

    Windows follow one another; the first begins with the first use, and with the first one after an unused window.
    """

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        # A key that is not in the newer half for one period has a full bucket, so forgetting is one assignment.
        self._used: dict[LimitedKey, float] = {}
        self._older: dict[LimitedKey, float] = {}
        self._began_s = 0.0  # what `RateLimit` gets as 0
        self._turn_at_s = -math.inf

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._used) + len(self._older)

    def __contains__(self, key: LimitedKey) -> bool:
        return key in self._used or key in self._older

    def take(self, key: LimitedKey, now_s: float) -> float:
        """Use a token of this key. Seconds until there is one; 0.0: it was used."""
        if now_s >= self._turn_at_s:
            self._turn(now_s)
        limit, since_s = self.limit, now_s - self._began_s
        used = self._used.get(key)
        if used is None:
            used = self._older.pop(key, 0.0)
        issued = limit.issued(since_s)
        used = max(used, issued - limit.capacity) + 1.0
        if used > issued + _ROUNDING:
            self._used[key] = used - 1.0
            return limit.wait_s(used - 1.0, since_s)
        self._used[key] = used
        return 0.0

    def left(self, key: LimitedKey, now_s: float) -> int:
        """Whole tokens of this key."""
        self._forget(now_s)
        limit, since_s = self.limit, now_s - self._began_s
        return int(limit.issued(since_s) - limit.used(self._state(key), since_s) + _ROUNDING)

    def wait_s(self, key: LimitedKey, now_s: float) -> float:
        """Seconds until this key has a whole token; 0.0: it has one."""
        self._forget(now_s)
        return self.limit.wait_s(self._state(key), now_s - self._began_s)

    def _state(self, key: LimitedKey) -> float:
        used = self._used.get(key)
        return self._older.get(key, 0.0) if used is None else used

    def _forget(self, now_s: float) -> None:
        """Forget old keys, also if tokens are no longer used."""
        if now_s >= self._turn_at_s and len(self):
            self._turn(now_s)

    def _turn(self, now_s: float) -> None:
        """Forget the keys that were not used for one period."""
        period_s = self.limit.fill_s
        if now_s >= self._turn_at_s + period_s:  # that is all of them
            self._older, self._used = {}, {}
            self._began_s, self._turn_at_s = now_s, now_s + period_s
        else:
            self._older, self._used = self._used, {}
            self._turn_at_s += period_s
