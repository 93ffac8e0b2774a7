"""When a channel may send which alerts: the rules of a lane, with the time as an argument."""

import pytest

from offbeat_server.db.repositories.outbox import Due
from offbeat_server.notify.channel_queue import (
    BACKOFF_S,
    BURST_MAX,
    BURST_REFILL_S,
    DIGEST_GAPS_S,
    IN_FLIGHT_MAX,
    RETRIES_MAX,
    URGENT_GAPS_S,
    ChannelQueue,
    SendPlan,
    backoff_s,
    queue_for,
)

MANY = BURST_MAX + 1


@pytest.fixture
def lane() -> ChannelQueue:
    return queue_for(per_minute=6_000, digests=True, proven=True)


def plan(lane: ChannelQueue, now: float, fresh: int, again: int, urgent: int = 0, over: int = 0) -> SendPlan:
    """`over`: how many of the urgent ones, or of the others where none is, are over."""
    return lane.plan(now, Due(1, urgent, over if urgent else 0, fresh, 0 if urgent else over, again))


def finish(lane: ChannelQueue, now: float) -> None:
    while lane.in_flight:
        lane.ended(now, failed=False)


def test_a_few_go_at_once_and_alone(lane: ChannelQueue) -> None:
    assert plan(lane, 0, 3, 0) == SendPlan(fresh=3)
    lane.began(0, singles=3)
    finish(lane, 0.1)
    assert plan(lane, 0.1, 3, 0) == SendPlan(fresh=2), "five in a burst"
    lane.began(0.1, singles=2)
    finish(lane, 0.2)
    assert plan(lane, 0.2, 1, 0) == SendPlan()
    assert plan(lane, 2.5, 1, 0) == SendPlan(fresh=1), "then one each two seconds"


def test_failures_of_one_moment_are_one(lane: ChannelQueue) -> None:
    lane.began(0, singles=IN_FLIGHT_MAX)
    for _ in range(IN_FLIGHT_MAX):
        assert lane.failures_with_next == 1
        lane.ended(1, failed=True, wait_s=5)
    assert lane.failures == 1 and lane.blocked_until == 6
    for count in (2, 3):
        lane.began(6, retries=1)
        assert lane.failures_with_next == count
        lane.ended(7, failed=True, wait_s=15)
    assert lane.failures == 3


def test_many_become_a_digest_at_once_and_then_ever_more_rarely(lane: ChannelQueue) -> None:
    now = 0.0
    for gap in (*DIGEST_GAPS_S, DIGEST_GAPS_S[-1]):
        assert plan(lane, now, MANY, 0) == SendPlan(digest="rest")
        lane.began(now, digest="rest")
        finish(lane, now)
        assert plan(lane, now + gap - 0.1, MANY, 0) == SendPlan()
        assert plan(lane, now + gap - 0.1, 2, 0) == SendPlan(), "a few wait with the others"
        now += gap
    assert plan(lane, now, 2, 0) == SendPlan(fresh=2), "a gap has passed with few"
    lane.began(now, digest="rest")
    assert lane.digest_gaps.until == now + DIGEST_GAPS_S[0], "the next storm is sent as quickly as the first"


def test_an_urgent_alert_goes_alone_however_many_of_the_others_wait(lane: ChannelQueue) -> None:
    lane.began(0, digest="rest")
    finish(lane, 0)
    assert plan(lane, 0.1, MANY, 0, urgent=1) == SendPlan(urgent=1), "while the others wait"
    assert plan(lane, DIGEST_GAPS_S[0], MANY, 0, urgent=1) == SendPlan(urgent=1, digest="rest")
    lane.began(0.1, singles=BURST_MAX)
    finish(lane, 0.2)
    assert plan(lane, 0.2, 0, 0, urgent=1) == SendPlan(urgent=1), "its burst is its own"


def test_urgent_alerts_of_many_monitors_are_combined_with_short_gaps(lane: ChannelQueue) -> None:
    now = 0.0
    for gap in (*URGENT_GAPS_S, URGENT_GAPS_S[-1], URGENT_GAPS_S[-1]):
        assert plan(lane, now, MANY, 0, urgent=MANY).digest == "all"
        lane.began(now, digest="all")
        finish(lane, now)
        assert plan(lane, now + gap - 0.1, 0, 0, urgent=MANY) == SendPlan()
        assert plan(lane, now + gap - 0.1, 0, 0, urgent=1) == SendPlan(urgent=1)
        now += gap


@pytest.mark.parametrize("per_minute", [1, 2, 6, 12, 60, 600])
@pytest.mark.parametrize("digests", [True, False])
def test_a_monitor_that_never_stops_leaves_the_rate_to_urgent_alerts(per_minute: int, digests: bool) -> None:
    lane = queue_for(per_minute, digests, proven=True)
    for tick in range(6_000):
        now = tick / 10
        done = plan(lane, now, MANY, 0)
        lane.began(now, singles=done.fresh, digest=done.digest)
        finish(lane, now)
        if tick > 600 and per_minute > 1:
            assert plan(lane, now, MANY, 0, urgent=1).urgent == 1


def test_what_is_over_already_is_combined(lane: ChannelQueue) -> None:
    assert plan(lane, 0, 1, 0, over=1) == SendPlan(digest="over")
    assert plan(lane, 0, 2, 0, over=1) == SendPlan(fresh=1, digest="over")
    assert plan(lane, 0, MANY, 0, over=1) == SendPlan(digest="rest")
    assert plan(lane, 0, 0, 0, urgent=1, over=1) == SendPlan(digest="over")
    assert plan(lane, 0, 0, 0, urgent=3, over=1) == SendPlan(urgent=2, digest="over")
    unproven = queue_for(6_000, digests=True)
    assert plan(unproven, 0, 3, 0, urgent=1, over=1) == SendPlan(digest="over"), (
        "the message has room before the others"
    )
    assert plan(queue_for(6_000, digests=False, proven=True), 0, 1, 0, over=1) == SendPlan(fresh=1)
    assert plan(queue_for(6_000, digests=True, gaps=False, proven=True), 0, 1, 0, over=1) == SendPlan(fresh=1)


def test_a_storm_long_ago_is_forgotten(lane: ChannelQueue) -> None:
    for now in (0.0, 5.0, 15.0):
        lane.began(now, digest="rest")
        finish(lane, now)
    lane.began(1_000, digest="rest")
    assert lane.digest_gaps.until == 1_000 + DIGEST_GAPS_S[0]


def test_what_one_message_cannot_name_goes_with_the_next_at_once(lane: ChannelQueue) -> None:
    lane.began(0, digest="all")
    lane.more_digests_wait()
    finish(lane, 0)
    assert plan(lane, 0.1, MANY, 0).digest == "rest"


def test_requests_to_services_keep_no_distance() -> None:
    lane = queue_for(6_000, digests=True, gaps=False, proven=True)
    lane.began(0, digest="rest")
    assert plan(lane, 0.1, MANY, 0) == SendPlan(digest="rest")


def test_few_attempts_at_once(lane: ChannelQueue) -> None:
    assert plan(lane, 0, 5, 5) == SendPlan(again=IN_FLIGHT_MAX), "retries first"
    lane.began(0, retries=IN_FLIGHT_MAX)
    assert plan(lane, 0, 5, 5) == SendPlan() and lane.ready_at(0) == float("inf")
    lane.ended(1, failed=False)
    assert plan(lane, 1, 5, 0) == SendPlan(fresh=1)


def test_a_new_channel_is_tried_with_one_attempt() -> None:
    lane = queue_for(per_minute=6_000, digests=True)
    assert plan(lane, 0, 5, 5) == SendPlan(again=1) and plan(lane, 0, 5, 0) == SendPlan(fresh=1)
    lane.began(0, singles=1)
    assert plan(lane, 0, 5, 0) == SendPlan() and lane.ready_at(0) == float("inf")
    lane.ended(1, failed=False)
    assert plan(lane, 1, 4, 0) == SendPlan(fresh=4)


def test_a_failing_channel_pauses_and_is_probed_one_attempt_at_a_time(lane: ChannelQueue) -> None:
    lane.began(0, singles=2)
    lane.ended(0, failed=True, wait_s=5)
    lane.ended(0, failed=True, wait_s=3)
    assert lane.circuit_open and lane.ready_at(1) == 5 and plan(lane, 4.9, 3, 3) == SendPlan()
    assert plan(lane, 5, 3, 3) == SendPlan(again=1)
    lane.began(5, retries=1)
    assert plan(lane, 5, 3, 3) == SendPlan()
    lane.ended(6, failed=False)
    assert not lane.circuit_open and plan(lane, 6, 0, 3) == SendPlan(again=3)


@pytest.mark.parametrize("per_minute", [1, 2, 20, 60, 6_000])
@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("waiting", [{"fresh": 1}, {"fresh": MANY}, {"fresh": 0, "urgent": 1}])
def test_a_first_attempt_is_behind_few_retries_however_many_wait(
    per_minute: int, digests: bool, works: bool, waiting: dict[str, int]
) -> None:
    lane = queue_for(per_minute, digests, proven=works)
    step_s = max(BURST_REFILL_S, 30 / per_minute)
    retries, most, firsts = 0, 0, 0
    for now in (n * step_s for n in range(1_000)):
        done = plan(lane, now, again=50, **waiting)
        gathers = now < lane.digest_gaps.until  # first attempts wait for the next digest
        lane.began(now, urgent=done.urgent, singles=done.fresh, retries=done.again, digest=done.digest)
        while lane.in_flight:
            lane.ended(now, failed=not works)
        if done.urgent or done.fresh or done.digest:
            firsts, retries = firsts + 1, 0
        elif not gathers:
            retries += done.again
            most = max(most, retries)
    assert most <= RETRIES_MAX and firsts > 20


def test_retries_continue_while_first_attempts_wait_for_a_digest(lane: ChannelQueue) -> None:
    lane.began(0, digest="rest")
    finish(lane, 0)
    for _ in range(5):
        assert plan(lane, 1, MANY, 50) == SendPlan(again=IN_FLIGHT_MAX)
        lane.began(1, retries=IN_FLIGHT_MAX)
        finish(lane, 1)
    assert plan(lane, DIGEST_GAPS_S[0], MANY, 50) == SendPlan(digest="rest")


def test_the_rate_holds_for_everything() -> None:
    lane = queue_for(per_minute=60, digests=True, proven=True)
    assert plan(lane, 0, 0, 50) == SendPlan(again=4)
    for _ in range(2):
        lane.began(0, retries=3)
        finish(lane, 0)
    assert plan(lane, 0, 2, 2) == SendPlan() and lane.ready_at(0) == pytest.approx(1)
    assert plan(lane, 0, MANY, 0) == SendPlan()
    assert plan(lane, 1, MANY, 0) == SendPlan(), "the last one is left to what is urgent"
    assert plan(lane, 1, 0, 0, urgent=MANY) == SendPlan(digest="all")
    assert plan(lane, 2, MANY, 0) == SendPlan(digest="rest")
    assert plan(queue_for(per_minute=1, digests=True), 0, 3, 0) == SendPlan(fresh=1)


@pytest.mark.parametrize("per_minute", [1, 5, 12, 20, 77, 6_000])
@pytest.mark.parametrize("every_s", [0.5, 2.0, 7.0])
def test_the_rate_also_holds_for_rare_alerts_between_which_the_queue_is_forgotten(
    per_minute: int, every_s: float
) -> None:
    lane = None
    sent = waiting = 0
    for turn in range(round(1_200 / every_s)):
        now, waiting = turn * every_s, waiting + 1
        if lane is not None and lane.idle(now):
            lane = None
        lane = lane or queue_for(per_minute, digests=False, proven=True)
        while (fresh := plan(lane, now, waiting, 0).fresh) > 0:
            lane.began(now, singles=fresh)
            sent, waiting = sent + fresh, waiting - fresh
            for _ in range(fresh):
                lane.ended(now, failed=False)
    assert sent <= 20 * per_minute + max(BURST_MAX, per_minute / 10)
    assert sent + waiting == round(1_200 / every_s) and (waiting == 0 or sent >= 19 * per_minute)
    assert lane is not None and lane.idle(10_000), "it is forgotten in the end"


def test_without_digests_all_go_alone() -> None:
    lane = queue_for(per_minute=6_000, digests=False, proven=True)
    assert plan(lane, 0, 100, 0) == SendPlan(fresh=IN_FLIGHT_MAX)


def test_backoff_is_fully_jittered_and_a_receivers_wish_is_the_least() -> None:
    assert [backoff_s(n, lambda: 0.999999) for n in range(1, 10)] == pytest.approx([*BACKOFF_S, 900, 900], rel=1e-3)
    assert backoff_s(3, lambda: 0.5) == BACKOFF_S[2] / 2
    assert backoff_s(1, lambda: 0.0) == 0.5
    assert backoff_s(1, lambda: 0.5, retry_after_s=60) == 60
    assert backoff_s(5, lambda: 0.9, retry_after_s=1) == 270


def test_a_queue_is_forgotten_only_when_that_changes_nothing(lane: ChannelQueue) -> None:
    lane.began(0, singles=2, digest="rest")
    assert not lane.idle(0)
    finish(lane, 0)
    assert not lane.idle(1)
    assert lane.idle(60)
    lane.began(60, retries=1)
    lane.ended(60, failed=True, wait_s=1)
    assert not lane.idle(1_000)
