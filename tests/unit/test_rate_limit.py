"""Rate limits: how much they give, how long to wait, and that forgetting keys changes no decision."""

from random import Random

import pytest

from offbeat_server.common.rate_limit import KeyedRateLimiter, RateLimit, TokenBucket

LIMITS = (
    RateLimit.per_minute(6),
    RateLimit.per_minute(300),
    RateLimit(2.5, 2.4),  # a channel with 25 messages a minute
    RateLimit.per_minute(6, in_windows=True),
    RateLimit.per_minute(300, in_windows=True),
)


def test_a_minutes_worth_that_refills_evenly() -> None:
    limiter, now_s = KeyedRateLimiter[str](RateLimit.per_minute(6)), 1000.0
    assert [limiter.take("a", now_s) for _ in range(6)] == [0.0] * 6
    assert limiter.take("a", now_s) == pytest.approx(10) == limiter.wait_s("a", now_s)
    assert limiter.take("b", now_s) == 0.0, "a neighbour"
    now_s += 9.9
    assert limiter.take("a", now_s) == pytest.approx(0.1), "refusals cost nothing, and nothing is given early"
    now_s += 0.2
    assert limiter.take("a", now_s) == 0.0 and limiter.take("a", now_s) > 0.0
    now_s += 600
    assert [limiter.take("a", now_s) for _ in range(7)].count(0.0) == 6, "however long it waits, a minute's worth"


def test_a_window_gives_all_at_its_beginning() -> None:
    limiter, now_s = KeyedRateLimiter[str](RateLimit.per_minute(6, in_windows=True)), 1234.5
    assert limiter.left("a", now_s) == 6
    assert [limiter.take("a", now_s) for _ in range(6)] == [0.0] * 6
    for passed_s in (0.0, 30.0, 59.9):
        assert limiter.take("a", now_s + passed_s) == pytest.approx(60 - passed_s) and not limiter.left("a", now_s)
    assert limiter.take("b", now_s + 59.9) == 0.0
    assert limiter.left("a", now_s + 60.1) == 6 and limiter.wait_s("a", now_s + 60.1) == 0.0
    assert [limiter.take("a", now_s + 60.1) for _ in range(7)].count(0.0) == 6
    later_s = now_s + 60.1 + 1_000
    assert [limiter.take("a", later_s) for _ in range(7)].count(0.0) == 6
    assert limiter.wait_s("a", later_s) == pytest.approx(60), "a new window began"


@pytest.mark.parametrize("limit", LIMITS)
def test_never_more_than_the_limit(limit: RateLimit) -> None:
    random, limiter, now_s = Random(1), KeyedRateLimiter[str](limit), 5_000.0
    taken: list[float] = []
    for _ in range(6_000):
        now_s += random.choice([0.0, limit.refill_s / 3, limit.refill_s])
        left, wait_s = limiter.left("a", now_s), limiter.take("a", now_s)
        assert (left >= 1) == (wait_s == 0.0)
        if wait_s:
            assert wait_s <= limit.fill_s + 1e-6
        else:
            taken.append(now_s)
    times = 2 * limit.capacity if limit.in_windows else limit.capacity  # windows that are side by side
    for index, begin in enumerate(taken):
        until = begin + limit.fill_s
        given = sum(at < until - 1e-6 for at in taken[index : index + 3 * int(limit.capacity) + 3])
        assert given <= times + (0 if limit.in_windows else limit.capacity)
    assert len(taken) >= 0.9 * (now_s - 5_000.0) / limit.refill_s * 0.9, "nothing is withheld"


@pytest.mark.parametrize("limit", LIMITS)
def test_the_wait_is_exact(limit: RateLimit) -> None:
    random, bucket, now_s = Random(2), TokenBucket(limit), 0.0
    for _ in range(2_000):
        now_s += random.random() * limit.refill_s
        if wait_s := bucket.wait_s(now_s):
            assert bucket.left(now_s) == 0
            assert bucket.left(now_s + wait_s * 0.99) == 0 < bucket.left(now_s + wait_s + 1e-6)
        else:
            assert bucket.left(now_s) >= 1
            bucket.take(now_s, random.randint(1, 3))


@pytest.mark.parametrize("limit", LIMITS)
def test_a_bucket_is_full_at_first_and_after_a_while(limit: RateLimit) -> None:
    bucket = TokenBucket(limit)
    assert bucket.is_full(7.0) and bucket.left(7.0) == int(limit.capacity)
    bucket.take(7.0, 1_000)
    assert not bucket.is_full(7.0) and bucket.left(7.0) == 0, "what is not there is not owed"
    assert bucket.is_full(7.0 + limit.fill_s + 1e-6)


@pytest.mark.parametrize("limit", [RateLimit.per_minute(30), RateLimit.per_minute(30, in_windows=True)])
def test_forgetting_changes_nothing_and_bounds_memory(limit: RateLimit) -> None:
    """Against one bucket for each key that is never forgotten. The steps are short, so the windows continue."""
    random, limiter, buckets = Random(3), KeyedRateLimiter[int](limit), dict[int, TokenBucket]()
    began_s = now_s = 10_000.0
    limiter.take(-1, began_s)  # the first window begins
    refused = 0
    for _ in range(30_000):
        now_s += random.random() * 0.05
        key = random.randrange(40) if random.random() < 0.95 else random.randrange(100_000)
        bucket = buckets.setdefault(key, TokenBucket(limit))
        may = bucket.left(now_s - began_s) >= 1
        assert (limiter.take(key, now_s) == 0.0) == may
        refused += not may
        if may:
            bucket.take(now_s - began_s)
    assert refused > 1_000 and len(buckets) > 1_000
    for _ in range(2):
        now_s += 60
        limiter.take(0, now_s)
    assert len(limiter) <= 2 and 0 in limiter and 1 not in limiter


def test_a_bucket_gives_no_token_back_if_the_time_is_an_earlier_one() -> None:
    bucket = TokenBucket(RateLimit(5, 1.0))
    bucket.take(100.0, 5)
    bucket.take(90.0)
    assert bucket.left(100.0) == 0 and bucket.left(102.0) == 2


def test_keys_are_forgotten_also_if_tokens_are_no_longer_used() -> None:
    limiter = KeyedRateLimiter[int](RateLimit.per_minute(5, in_windows=True))
    for key in range(1_000):
        limiter.take(key, 10.0)
    assert len(limiter) == 1_000
    for now_s in (71.0, 132.0):
        assert limiter.left(1, now_s) == 5
    assert len(limiter) == 0


def test_a_key_that_is_used_in_every_period_is_counted_once() -> None:
    limiter = KeyedRateLimiter[int](RateLimit.per_minute(5, in_windows=True))
    for now_s in (10.0, 65.0, 75.0):
        for key in range(100):
            limiter.take(key, now_s)
    assert len(limiter) == 100
