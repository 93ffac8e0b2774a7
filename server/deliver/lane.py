"""What the courier remembers of one channel: its circuit, its rate, and whether alerts are gathered into a digest.

Pure: it is told the time and decides; so its rules can be tested without waiting. Times are seconds of the monotonic
clock. Nothing here must survive a restart: an empty lane behaves well.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

# Singles: five at once, then one each two seconds. More than that becomes a digest, at once, and the next ones are ever
# further apart while the storm lasts: 100 000 alerts over a minute are five or six messages.
BURST_MAX = 5
BURST_REFILL_S = 2.0
DIGEST_GAPS_S = (5.0, 10.0, 20.0, 40.0, 60.0)
IN_FLIGHT_MAX = 4  # attempts at once in one lane; one where the last failed, or nothing is known to arrive
# Waits after the first, second, … failure in a row; the real one is drawn between nothing and this (full jitter).
BACKOFF_S = (5.0, 15.0, 45.0, 120.0, 300.0, 600.0, 900.0)
BACKOFF_S_MIN = 0.5


def backoff_s(failures: int, draw: Callable[[], float], retry_after_s: float | None = None) -> float:
    """How long to wait after so many failures in a row; `draw` gives 0 ≤ x < 1. A receiver's wish is the least."""
    jittered = max(BACKOFF_S_MIN, draw() * BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])
    return max(jittered, retry_after_s or 0.0)


@dataclass(slots=True)
class Bucket:
    """Tokens that come back one every `refill_s`, up to `capacity`."""

    capacity: float
    refill_s: float
    tokens: float = -1.0  # full at the first look
    seen_at: float = 0.0

    def left(self, now: float) -> int:
        """Whole tokens at hand."""
        if self.tokens < 0:
            self.tokens = self.capacity
        else:
            self.tokens = min(self.capacity, self.tokens + (now - self.seen_at) / self.refill_s)
        self.seen_at = now
        return int(self.tokens + 1e-9)

    def full(self, now: float) -> bool:
        """Whether a fresh one would have no more."""
        self.left(now)
        return self.tokens >= self.capacity

    def take(self, count: int) -> None:
        """Use tokens; after `left`."""
        self.tokens = max(0.0, self.tokens - count)

    def wait_s(self) -> float:
        """Until the next whole token."""
        return max(0.0, (1.0 - self.tokens) * self.refill_s)


@dataclass(slots=True, frozen=True)
class Plan:
    """What a lane may do now: single alerts never tried, retries, or one digest."""

    fresh: int = 0
    again: int = 0
    digest: bool = False


NOTHING = Plan()


@dataclass(slots=True)
class Lane:
    """One channel's queue as the courier at work sees it."""

    digests: bool  # whether alerts may be gathered at all
    gaps: bool  # whether digests keep a distance: messages for people do, requests to a machine need not
    rate: Bucket
    burst: Bucket = field(default_factory=lambda: Bucket(BURST_MAX, BURST_REFILL_S))
    proven: bool = False  # something has arrived
    in_flight: int = 0
    failures: int = 0  # in a row
    blocked_until: float = 0.0
    _also_failing: int = 0  # attempts that were under way when another failed: theirs is the same failure
    gather_until: float = 0.0
    gap: int = 0  # index of the next gap

    @property
    def suspect(self) -> bool:
        """Whether its last attempt failed: it is probed, one attempt at a time."""
        return self.failures > 0

    @property
    def failures_with_next(self) -> int:
        """How many in a row it will be, should the attempt fail that ends next."""
        return self.failures + (not self._also_failing)

    @property
    def free(self) -> int:
        """How many more attempts may be under way at once."""
        return (IN_FLIGHT_MAX if self.proven and not self.suspect else 1) - self.in_flight

    def ready_at(self, now: float) -> float:
        """When it may do anything at all; not later than `now` when it may now."""
        if self.free <= 0:
            return float("inf")  # an attempt that ends wakes the courier
        if self.rate.left(now) < 1:
            return max(self.blocked_until, now + self.rate.wait_s())
        return self.blocked_until

    def plan(self, now: float, fresh: int, again: int) -> Plan:
        """What to do with so many that may go; both are counted up to BURST_MAX + 1 or more."""
        if self.ready_at(now) > now:
            return NOTHING
        room = min(self.free, self.rate.left(now))
        retries = min(again, room)
        room -= retries
        if not self.digests:
            return Plan(min(fresh, room), retries)
        if fresh > BURST_MAX:
            if now >= self.gather_until and room > 0:
                return Plan(0, retries, digest=True)
            return Plan(0, retries)
        if now < self.gather_until:
            return Plan(0, retries)
        if fresh:
            self.gap = 0  # a gap has passed with few: the storm is over
        return Plan(min(fresh, room, self.burst.left(now)), retries)

    def began(self, now: float, singles: int = 0, retries: int = 0, digest: bool = False) -> None:
        """So many attempts are under way."""
        count = singles + retries + digest
        self.in_flight += count
        self.rate.left(now)
        self.rate.take(count)
        self.burst.left(now)
        self.burst.take(singles)
        if digest and self.gaps:
            self.gather_until = now + DIGEST_GAPS_S[min(self.gap, len(DIGEST_GAPS_S) - 1)]
            self.gap += 1

    def ended(self, now: float, failed: bool, wait_s: float = 0.0) -> None:
        """One attempt has ended; `failed` in a way that says something about the channel, which then rests `wait_s`."""
        self.in_flight -= 1
        if failed:
            self.failures = self.failures_with_next
            # Four at once that meet a receiver which restarts say no more than one: it is not left alone for minutes.
            self._also_failing = self._also_failing - 1 if self._also_failing else self.in_flight
            self.blocked_until = max(self.blocked_until, now + wait_s)
        else:
            self.failures, self._also_failing, self.blocked_until, self.proven = 0, 0, 0.0, True

    def follow(self, fresh: "Lane") -> None:
        """Its channel was changed: go on by the rules of a lane that would be made now. What is under way stays."""
        self.digests, self.gaps = fresh.digests, fresh.gaps
        if (self.rate.capacity, self.rate.refill_s) != (fresh.rate.capacity, fresh.rate.refill_s):
            self.rate = fresh.rate

    def idle(self, now: float) -> bool:
        """Whether forgetting it changes nothing."""
        return (
            not self.in_flight
            and not self.failures
            and self.gather_until <= now
            and self.rate.full(now)
            and self.burst.full(now)
        )


def lane_for(per_minute: int, digests: bool, gaps: bool = True, proven: bool = False) -> Lane:
    """A fresh lane. A tenth of a minute's messages may go at once."""
    at_once = max(min(BURST_MAX, per_minute), per_minute / 10)
    return Lane(digests, gaps, Bucket(at_once, 60.0 / per_minute), proven=proven)
