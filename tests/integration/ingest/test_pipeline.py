"""The line of pings by itself: places, cuts, limits, and one answer for each."""

import asyncio

import pytest

from offbeat_server.common.clock import LogClock
from offbeat_server.common.errors import BacklogFullError, DatabaseDownError, UnavailableError
from offbeat_server.common.instants import SECOND
from offbeat_server.config import Settings
from offbeat_server.engine.model.ping import PLAIN, Ping
from offbeat_server.ingest.key_index import KeyTarget
from offbeat_server.ingest.log_writer.backlog import ROW_BYTES, Backlog
from offbeat_server.ingest.log_writer.refused_pings import RefusedPingTracker
from offbeat_server.ingest.protocols.base import OK, Outcome, Rejection
from offbeat_server.observability.metrics import Metrics

BOUND = KeyTarget(7, 1)


class Waiter:
    def __init__(self, *, fails: bool = False) -> None:
        self.outcomes: list[Outcome | Rejection] = []
        self._fails = fails

    def settle(self, outcome: Outcome | Rejection) -> None:
        self.outcomes.append(outcome)
        if self._fails:
            raise RuntimeError("a bug in a listener")

    @property
    def kinds(self) -> list[str]:
        return [outcome.kind if isinstance(outcome, Outcome) else "refusal" for outcome in self.outcomes]


class Scene:
    def __init__(self, **settings: object) -> None:
        self.now_s = 1_000.0
        self.clock = LogClock(lambda: int(self.now_s * 1e9))
        local = self.clock.local()
        self.clock.sample(local, 5_000 * SECOND, local)
        self.refused_pings = RefusedPingTracker(self.clock, Metrics("test"))
        self.woken = 0
        self.backlog = Backlog(self.clock, Settings(**settings), self.refused_pings, self._wake)  # type: ignore[arg-type]
        self.backlog.open(3)

    def _wake(self) -> None:
        self.woken += 1

    def ping(self, ping: Ping = PLAIN["success"], waiter: Waiter | None = None) -> Waiter:
        waiter = waiter or Waiter()
        self.backlog.append(BOUND, ping, None, waiter)
        return waiter

    def seqs(self) -> list[list[int]]:
        batches = []
        while (batch := self.backlog.front()) is not None:
            batches.append([entry.seq for entry in batch.entries])
            self.backlog.pop_committed().settle(OK)
        return batches


def test_at_and_seq_grow_together_though_the_clock_stands() -> None:
    scene = Scene()
    for _ in range(3):
        scene.ping()
    scene.now_s -= 5  # and even where it goes back
    scene.ping()
    batch = scene.backlog.front()
    assert batch is not None
    assert [(entry.writer, entry.seq) for entry in batch.entries] == [(3, 1), (3, 2), (3, 3), (3, 4)]
    ats = [entry.at for entry in batch.entries]
    assert ats == sorted(set(ats))


def test_a_new_writer_counts_from_one() -> None:
    scene = Scene()
    scene.ping()
    scene.backlog.pop_committed() if scene.backlog.front() else None
    scene.backlog.open(4)
    scene.ping()
    batch = scene.backlog.front()
    assert batch is not None
    assert [(entry.writer, entry.seq) for entry in batch.entries] == [(4, 1)]


def test_what_arrives_while_a_batch_is_under_way_is_the_next_one() -> None:
    scene = Scene()
    first = [scene.ping(), scene.ping()]
    head = scene.backlog.front()
    later = scene.ping()
    assert scene.backlog.front() is head
    assert scene.backlog.pings == 3
    assert scene.backlog.pop_committed() is head and scene.backlog.pings == 1
    head.settle(OK)
    assert [waiter.kinds for waiter in first] == [["ok"], ["ok"]]
    assert later.outcomes == []
    assert scene.seqs() == [[3]]
    assert later.outcomes == [OK]
    assert (scene.backlog.pings, scene.backlog.bytes) == (0, 0)


def test_only_the_first_ping_of_an_empty_line_wakes() -> None:
    scene = Scene()
    for _ in range(3):
        scene.ping()
    assert scene.woken == 1
    scene.backlog.front()
    scene.ping()
    assert scene.woken == 1
    scene.seqs()
    scene.ping()
    assert scene.woken == 2


def test_batches_are_cut_at_the_limits() -> None:
    scene = Scene(batch_pings_max=3, batch_bytes_max=20_000)
    for _ in range(7):
        scene.ping()
    assert scene.seqs() == [[1, 2, 3], [4, 5, 6], [7]]
    scene.ping(Ping(message="x" * 30_000))
    scene.ping()
    assert scene.seqs() == [[8], [9]]


def test_bytes_count_texts_and_what_is_not_ascii_at_its_worst() -> None:
    scene = Scene()
    scene.ping()
    assert scene.backlog.bytes == ROW_BYTES
    scene.ping(Ping(run="r" * 10, message="ü" * 100))
    assert scene.backlog.bytes == 2 * ROW_BYTES + 10 + 400


def test_refused_beyond_the_limits_and_counted_by_signal() -> None:
    scene = Scene(pings_pending_max=2)
    scene.ping()
    scene.ping()
    waiter = Waiter()
    with pytest.raises(BacklogFullError):
        scene.ping(PLAIN["fail"], waiter)
    assert waiter.outcomes == []
    scene.now_s += 2
    with pytest.raises(BacklogFullError):
        scene.ping(PLAIN["fail"])
    scene.now_s += 3
    (refused,) = scene.refused_pings.instants()
    assert (refused.ended - refused.started, refused.pings, refused.reason) == (2 * SECOND, 2, "full")
    assert scene.clock.now() - refused.ended == 3 * SECOND
    with pytest.raises(BacklogFullError):
        scene.ping()
    # A report that failed is repeated with later refusals: one interval, since nothing can have been committed.
    (outage,) = scene.refused_pings.instants()
    assert (outage.started, outage.ended - outage.started, outage.pings) == (refused.started, 5 * SECOND, 3)
    assert [each.pings for each in scene.refused_pings.ages()] == [3]
    scene.refused_pings.reported()
    assert not scene.refused_pings.unreported
    assert scene.seqs() == [[1, 2]]
    scene.ping()


@pytest.mark.parametrize(
    ("reason", "error"),
    [("database", DatabaseDownError), ("clock", DatabaseDownError), ("stopping", UnavailableError)],
)
def test_refused_while_closed(reason: str, error: type[Exception]) -> None:
    scene = Scene()
    kept = scene.ping()
    scene.backlog.close(reason)
    assert not scene.backlog.accepting
    with pytest.raises(error):
        scene.ping()
    assert scene.refused_pings.unreported
    assert scene.seqs() == [[1]]  # what was pending stays
    assert kept.outcomes == [OK]


def test_halves_keep_rows_places_and_doubt() -> None:
    scene = Scene()
    waiters = [scene.ping() for _ in range(5)]
    head = scene.backlog.front()
    assert head is not None
    head.doubtful = True
    scene.backlog.split_front()
    first = scene.backlog.front()
    assert first is not None and first.doubtful
    assert [entry.seq for entry in first.entries] == [1, 2]
    scene.backlog.reject(Rejection(400, "bad"))
    assert scene.seqs() == [[3, 4, 5]]
    assert [waiter.kinds for waiter in waiters] == [["refusal"], ["refusal"], ["ok"], ["ok"], ["ok"]]
    assert (scene.backlog.pings, scene.backlog.bytes) == (0, 0)


def test_a_waiter_that_times_out_gets_one_answer_and_the_row_stays() -> None:
    scene = Scene(commit_timeout=8, batch_pings_max=2)
    early = [scene.ping() for _ in range(3)]
    scene.now_s += 5
    late = scene.ping()
    scene.backlog.front()
    scene.now_s += 4
    scene.backlog.expire()
    scene.backlog.expire()
    assert [waiter.kinds for waiter in early] == [["unavailable"]] * 3
    assert all(1 <= waiter.outcomes[0].retry_after_s <= 5 for waiter in early)  # type: ignore[union-attr]
    assert late.outcomes == []
    scene.backlog.split_front()  # settled waiters stay settled
    scene.backlog.expire()
    assert scene.seqs() == [[1], [2], [3, 4]]
    assert late.outcomes == [OK]
    assert [waiter.kinds for waiter in early] == [["unavailable"]] * 3
    (outage,) = scene.refused_pings.ages()  # their clients waited for nothing, and others may have given up
    assert (outage.reason, outage.pings, outage.started - outage.ended) == ("database", 0, 9 * SECOND)


def test_dropped_pings_are_answered_and_reported_from_when_they_came() -> None:
    scene = Scene(batch_pings_max=2)
    waiters = [scene.ping() for _ in range(2)]
    scene.now_s += 1
    waiters.append(scene.ping())
    scene.now_s += 4
    scene.backlog.close("database")
    scene.backlog.drop("database")
    assert [waiter.kinds for waiter in waiters] == [["unavailable"]] * 3
    assert scene.backlog.front() is None
    (refused,) = scene.refused_pings.ages()
    assert (refused.pings, refused.reason) == (3, "database")
    assert abs(refused.started - 5 * SECOND) < 10 and abs(refused.ended - 4 * SECOND) < 10
    scene.backlog.open(4)
    scene.ping()
    assert scene.seqs() == [[1]]


def test_an_answer_that_fails_does_not_stop_the_other_answers() -> None:
    scene = Scene()
    scene.ping(waiter=Waiter(fails=True))
    other = scene.ping()
    scene.seqs()
    assert other.outcomes == [OK]


async def test_room_comes_at_half_and_not_while_closed() -> None:
    scene = Scene(pings_pending_max=4, batch_pings_max=1)
    await scene.backlog.wait_for_capacity()
    for _ in range(4):
        scene.ping()
    waiting = asyncio.ensure_future(scene.backlog.wait_for_capacity())
    for expected in (False, True):
        assert scene.backlog.front()
        scene.backlog.pop_committed()
        for _ in range(3):
            await asyncio.sleep(0)
        assert waiting.done() is expected
    scene.ping()
    waiting = asyncio.ensure_future(scene.backlog.wait_for_capacity())
    await asyncio.sleep(0)
    scene.backlog.close("database")
    with pytest.raises(DatabaseDownError):
        await waiting
