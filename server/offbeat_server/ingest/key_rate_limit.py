"""Rate limit of each key (`--key-pings-per-minute-max`): a job that pings too often gets 429, no other job does.

A token bucket that holds a minute's worth and refills evenly, kept as one number a key: the instant at which the bucket
will be full again (the "generic cell rate algorithm"). Only keys that lead to a monitor get one, and a bucket that is
full again is forgotten, so the memory is bounded by the keys that pinged in the last two minutes.
"""

import math
import random
from collections.abc import Callable

from offbeat_server.common.clock import monotonic
from offbeat_server.ingest.protocols.base import Outcome

MINUTE_S = 60.0
JITTER_S_MAX = 5  # so that those refused together do not come back together


class KeyRateLimiter:
    """Counts pings per key, in this process alone."""

    def __init__(self, pings_per_minute_max: int, now_s: Callable[[], float] = monotonic) -> None:
        self._cost_s = MINUTE_S / pings_per_minute_max
        self._now_s = now_s
        # A key that is not in the younger half for a minute has a full bucket; so forgetting is one assignment.
        self._full_at_s: dict[str | int, float] = {}
        self._older: dict[str | int, float] = {}
        self._turn_at_s = now_s() + MINUTE_S

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._full_at_s) + len(self._older)

    def take(self, key: str | int) -> Outcome | None:
        """Take one ping's worth of this key's budget; what to answer where nothing is left of it."""
        now_s = self._now_s()
        if now_s >= self._turn_at_s:
            self._older = self._full_at_s if now_s < self._turn_at_s + MINUTE_S else {}
            self._full_at_s = {}
            self._turn_at_s = now_s + MINUTE_S
        full_at_s = self._full_at_s.get(key)
        if full_at_s is None:
            full_at_s = self._older.get(key, now_s)
        full_at_s = max(full_at_s, now_s) + self._cost_s
        over_s = full_at_s - now_s - MINUTE_S
        if over_s > 1e-6:
            return Outcome("limited", math.ceil(over_s) + random.randrange(JITTER_S_MAX))
        self._full_at_s[key] = full_at_s
        return None
