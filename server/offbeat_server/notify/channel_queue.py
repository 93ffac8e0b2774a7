"""The dispatcher's state of one channel: its circuit, its rate, and whether alerts are combined into a digest.

Pure: the time is an argument, so its rules can be tested without waiting. Times are seconds of the monotonic clock.
Nothing here must survive a restart: an empty lane behaves well.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from offbeat_server.common.rate_limit import RateLimit, TokenBucket
from offbeat_server.db.repositories.outbox import Due

# Single alerts: five at once, then one every two seconds; this holds for urgent alerts and for the others separately.
# If more wait, they become a digest at once, and the next digests are further and further apart while the storm lasts.
# Urgent is the first alert of a monitor to a channel in ten minutes: however many alerts other monitors cause, it is
# sent within URGENT_GAPS_S[-1], and any other within DIGEST_GAPS_S[-1], plus what the channel's rate and the receiver
# take. 100 000 monitors that fail within a minute make about seven messages.
BURST_MAX = 5
BURST_REFILL_S = 2.0
DIGEST_GAPS_S = (5.0, 10.0, 20.0, 40.0, 60.0)
URGENT_GAPS_S = (5.0, 10.0)
FIRST_DIGESTS = ("all", "rest", "over")  # first attempts of a digest
# A channel that works again may have thousands of retries. While a first attempt may go, at most these go before it.
RETRIES_MAX = 4
IN_FLIGHT_MAX = 4  # attempts at once in one lane; one where the last failed, or nothing is known to arrive
# Waits after the first, second, … failure in a row; the real one is drawn between nothing and this (full jitter).
BACKOFF_S = (5.0, 15.0, 45.0, 120.0, 300.0, 600.0, 900.0)
BACKOFF_S_MIN = 0.5


def backoff_s(failures: int, draw: Callable[[], float], retry_after_s: float | None = None) -> float:
    """Return the wait after a number of consecutive failures; `draw` gives 0 ≤ x < 1. `Retry-After` is the minimum."""
    jittered = max(BACKOFF_S_MIN, draw() * BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])
    return max(jittered, retry_after_s or 0.0)


@dataclass(slots=True, frozen=True)
class SendPlan:
    """The next actions of a lane: single alerts never tried, retries, or one digest."""

    urgent: int = 0
    fresh: int = 0
    again: int = 0
    digest: Literal["", "all", "rest", "over"] = ""  # which alerts a digest takes


NOTHING = SendPlan()


@dataclass(slots=True)
class Gaps:
    """The growing distance between digests of a storm."""

    until: float = 0.0
    index: int = 0  # of the next gap

    def began(self, now: float, gaps: tuple[float, ...]) -> None:
        """A digest was sent. One long after the last begins again with the shortest gap."""
        if now >= self.until + gaps[-1]:
            self.index = 0
        self.until = now + gaps[min(self.index, len(gaps) - 1)]
        self.index += 1


def _new_burst() -> TokenBucket:
    return TokenBucket(RateLimit(BURST_MAX, BURST_REFILL_S))


@dataclass(slots=True)
class ChannelQueue:
    """One channel's queue as the active dispatcher sees it."""

    digests: bool  # whether alerts may be combined at all
    gaps: bool  # whether digests keep a distance: messages for people do, requests to a machine need not
    rate: TokenBucket
    burst: TokenBucket = field(default_factory=_new_burst)
    urgent_burst: TokenBucket = field(default_factory=_new_burst)
    known_good: bool = False  # something has arrived
    in_flight: int = 0
    failures: int = 0  # in a row
    blocked_until: float = 0.0
    _also_failing: int = 0  # attempts that were under way when another failed: their failures are the same one
    _retried: int = 0  # retries since the last first attempt
    digest_gaps: Gaps = field(default_factory=Gaps)
    urgent_digest_gaps: Gaps = field(default_factory=Gaps)

    @property
    def circuit_open(self) -> bool:
        """Whether its last attempt failed: it is probed, one attempt at a time."""
        return self.failures > 0

    @property
    def failures_with_next(self) -> int:
        """How many in a row it will be, should the attempt fail that ends next."""
        return self.failures + (not self._also_failing)

    @property
    def free(self) -> int:
        """How many more attempts may be under way at once."""
        return (IN_FLIGHT_MAX if self.known_good and not self.circuit_open else 1) - self.in_flight

    def ready_at(self, now: float) -> float:
        """When it may do anything at all; not later than `now` when it may now."""
        if self.free <= 0:
            return float("inf")  # an attempt that ends wakes the dispatcher
        if self.rate.left(now) < 1:
            return max(self.blocked_until, now + self.rate.wait_s(now))
        return self.blocked_until

    @property
    def combines(self) -> bool:
        """Whether an incident that ends before any alert of it was sent is reported in one message, with others."""
        return self.digests and self.gaps

    def plan(self, now: float, waiting: Due) -> SendPlan:
        """Plan the alerts that may go; each number is counted up to BURST_MAX + 1 or more."""
        if self.ready_at(now) > now:
            return NOTHING
        urgent, fresh, digest = self._first(now, waiting)
        again = waiting.again
        if urgent or fresh or digest:
            again = min(again, max(0, RETRIES_MAX - self._retried))
        room = min(self.free, self.rate.left(now))
        if self.circuit_open:  # a failed alert shows best whether it works again
            again = min(again, room)
            urgent = min(urgent, room - again)
        else:
            urgent = min(urgent, room)
            again = min(again, room - urgent) if digest != "all" else 0
        room -= urgent + again
        if digest == "all":
            return SendPlan(again=again, digest="all" if room > 0 else "")
        # Alerts that are not urgent leave one message of the rate to urgent ones.
        room = min(room, self.rate.left(now) - urgent - again - (self.rate.limit.capacity >= 2))
        if room <= 0:
            return SendPlan(urgent, 0, again)
        return SendPlan(urgent, min(fresh, room - (digest == "over")), again, digest)

    def plan_singles(self, now: float, waiting: Due) -> SendPlan:
        """Plan alerts one by one although enough wait for a digest.

        So it is if no digest takes them: recoveries of a service that keeps incidents, alerts to operators.
        """
        few = Due(waiting.lane, min(waiting.urgent, BURST_MAX), 0, BURST_MAX, 0, waiting.again)
        return self.plan(now, few)

    def _first(self, now: float, waiting: Due) -> tuple[int, int, Literal["", "all", "rest", "over"]]:
        """Which first attempts may go, if there is room: urgent alerts, others, a digest."""
        if self.combines:  # what is over goes with the next digest
            urgent, fresh = waiting.urgent - waiting.urgent_over, waiting.fresh - waiting.fresh_over
        else:
            urgent, fresh = waiting.urgent, waiting.fresh
        if not self.digests:
            return urgent, fresh, ""
        if waiting.urgent > BURST_MAX:
            if now >= self.urgent_digest_gaps.until:
                return 0, 0, "all"
            urgent = 0
        urgent = min(urgent, self.urgent_burst.left(now))
        if urgent and now >= self.urgent_digest_gaps.until:
            self.urgent_digest_gaps.index = 0  # a gap has passed with few: the storm is over
        if now < self.digest_gaps.until:
            return urgent, 0, ""
        if waiting.fresh > BURST_MAX:
            return urgent, 0, "rest"
        over = self.combines and waiting.urgent_over + waiting.fresh_over > 0
        if fresh and not over:
            self.digest_gaps.index = 0
        return urgent, min(fresh, self.burst.left(now)), "over" if over else ""

    def began(self, now: float, urgent: int = 0, singles: int = 0, retries: int = 0, digest: str = "") -> None:
        """Count attempts that begin. `digest`: as in Plan, or `again` for one that was stored before."""
        count = urgent + singles + retries + bool(digest)
        self.in_flight += count
        self.rate.take(now, count)
        if urgent or singles or digest in FIRST_DIGESTS:
            self._retried = 0
        else:
            self._retried += count
        for bucket, used in ((self.burst, singles), (self.urgent_burst, urgent)):
            bucket.take(now, used)
        if self.gaps and digest in FIRST_DIGESTS:
            self.digest_gaps.began(now, DIGEST_GAPS_S)
        if self.gaps and digest == "all":
            self.urgent_digest_gaps.began(now, URGENT_GAPS_S)

    def more_digests_wait(self) -> None:
        """The digest could not hold everything: the next one need not wait."""
        self.digest_gaps.until = self.urgent_digest_gaps.until = 0.0

    def ended(self, now: float, failed: bool, wait_s: float = 0.0) -> None:
        """One attempt has ended; `failed` in a way that says something about the channel, which then rests `wait_s`."""
        self.in_flight -= 1
        if failed:
            self.failures = self.failures_with_next
            # Four at once that meet a receiver which restarts say no more than one: it is not left alone for minutes.
            self._also_failing = self._also_failing - 1 if self._also_failing else self.in_flight
            self.blocked_until = max(self.blocked_until, now + wait_s)
        else:
            self.failures, self._also_failing, self.blocked_until, self.known_good = 0, 0, 0.0, True

    def follow(self, fresh: "ChannelQueue") -> None:
        """Its channel was changed: continue by the rules of a new lane. Attempts under way stay."""
        self.digests, self.gaps = fresh.digests, fresh.gaps
        if self.rate.limit != fresh.rate.limit:
            self.rate = fresh.rate

    def idle(self, now: float) -> bool:
        """Whether forgetting it changes nothing."""
        return (
            not self.in_flight
            and not self.failures
            and max(self.digest_gaps.until, self.urgent_digest_gaps.until) <= now
            and self.rate.is_full(now)
            and self.burst.is_full(now)
            and self.urgent_burst.is_full(now)
        )


def queue_for(per_minute: int, digests: bool, gaps: bool = True, proven: bool = False) -> ChannelQueue:
    """A fresh lane. A tenth of a minute's messages may go at once."""
    at_once = max(min(BURST_MAX, per_minute), per_minute / 10)
    return ChannelQueue(digests, gaps, TokenBucket(RateLimit(at_once, 60.0 / per_minute)), known_good=proven)
