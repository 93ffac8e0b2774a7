"""Lazy queues: entries in the order of one heap, and each item once at its time, however often it was queued."""

import sys
from heapq import heappop, heappush
from random import Random

import pytest

from offbeat_server.common.instants import Micros
from offbeat_server.engine.deadline_queue import BUCKET_BITS, DeadlineQueue
from offbeat_server.engine.lazy_queue import STALE_MIN, STALE_SHARE, LazyHeap
from tests.support.engine import Scene

BEGIN: Micros = 1_700_000_000_000_000
KINDS = (LazyHeap[int], DeadlineQueue)


class Item:
    def __init__(self) -> None:
        self.queued_at: Micros | None = None


@pytest.mark.parametrize("kind", KINDS)
def test_entries_come_like_those_of_one_heap(kind: type[LazyHeap[int]] | type[DeadlineQueue]) -> None:
    random = Random(2)
    queue, expected = kind(), list[tuple[Micros, int]]()
    now = BEGIN
    for _ in range(20_000):
        if random.random() < 0.55:
            length = random.choice([0, 1, 1 << BUCKET_BITS, 50 << BUCKET_BITS])
            pair = (now - 1000 + random.randint(0, length), random.choice([0, 1, 7, (1 << 31) - 1]))
            queue.push(*pair)
            heappush(expected, pair)
        else:
            before = now + random.randint(0, 1 << BUCKET_BITS)
            popped = queue.pop_entry(before)
            assert popped == (heappop(expected) if expected and expected[0][0] < before else None)
        if isinstance(queue, DeadlineQueue):
            assert queue.earliest == (expected[0][0] if expected else None)
        now += random.randint(0, 2000)
    assert len(queue) == len(expected)
    while expected:
        assert queue.pop_entry(1 << 62) == heappop(expected)
    assert queue.pop_entry(1 << 62) is None


@pytest.mark.parametrize("kind", KINDS)
def test_each_item_comes_once_at_its_earliest_time(kind: type[LazyHeap[int]] | type[DeadlineQueue]) -> None:
    """Against a plain dictionary of instants: items are queued earlier and later, removed and made again."""
    random = Random(3)
    queue = kind()
    items: dict[int, Item] = {}
    planned: dict[int, Micros] = {}
    now, popped = BEGIN, 0
    for _ in range(20_000):
        match random.randrange(10):
            case 0:
                key = random.randrange(1, 50)
                items.pop(key, None)
                planned.pop(key, None)
            case 1 | 2 | 3 | 4 | 5:
                key, when = random.randrange(1, 50), now + random.choice([0, 1, 5_000_000, 60_000_000])
                queue.queue(key, items.setdefault(key, Item()), when)
                planned[key] = min(planned.get(key, when), when)
            case 6 | 7:
                earliest = queue.earliest if isinstance(queue, DeadlineQueue) else queue.next(items.get)
                first = min(planned.values(), default=None)
                assert earliest == first or (isinstance(queue, DeadlineQueue) and earliest is not None)
                assert earliest is None or first is None or earliest <= first, "never late"
            case _:
                now += random.choice([0, 1, 1_000_000, 20_000_000])
                while (due := queue.pop_before(items.get, now)) is not None:
                    when, key, item = due
                    assert (when, key) == min((at, each) for each, at in planned.items()) and when < now
                    assert item is items[key] and item.queued_at is None
                    del planned[key]
                    popped += 1
                assert all(at >= now for at in planned.values())
        assert all(items[key].queued_at == at for key, at in planned.items())
    assert popped > 1_000


def test_a_later_time_adds_no_entry() -> None:
    queue, item = LazyHeap[str](), Item()
    queue.queue("a", item, BEGIN)
    for later in range(100):
        queue.queue("a", item, BEGIN + later)
    assert len(queue) == 1 and item.queued_at == BEGIN
    queue.queue("a", item, BEGIN - 1)
    assert len(queue) == 2 and queue.next({"a": item}.get) == BEGIN - 1
    assert queue.pop_before({"a": item}.get, BEGIN) == (BEGIN - 1, "a", item)
    assert queue.next({"a": item}.get) is None and not queue, "the stale entry is dropped"


def test_stale_entries_are_bounded() -> None:
    queue, items = LazyHeap[str](), dict[str, Item]()
    for number in range(10_000):
        queue.queue("kept", items.setdefault("kept", Item()), BEGIN - number)
        queue.queue(f"gone-{number}", items.setdefault(f"gone-{number}", Item()), BEGIN)
        del items[f"gone-{number}"]
        queue.sweep(items)
        assert len(queue) <= STALE_SHARE * len(items) + STALE_MIN + 2
    assert queue.next(items.get) == items["kept"].queued_at == BEGIN - 9_999


def test_a_small_queue_takes_no_memory_beside_its_entries() -> None:
    assert sys.getsizeof(LazyHeap[str]()) == sys.getsizeof([])


def test_rebuilt_from_its_items() -> None:
    items = {str(number): Item() for number in range(100)}
    for number, item in enumerate(items.values()):
        item.queued_at = BEGIN + number * 7919 % 100 if number % 3 else None
    queue = LazyHeap[str]()
    queue.push(BEGIN, "stale")
    queue.rebuild(items)
    all_popped = []
    while (popped := queue.pop_before(items.get, BEGIN + 100)) is not None:
        all_popped.append(popped[0])
    assert all_popped == sorted(all_popped) and len(all_popped) == 66


def test_a_stale_entry_hides_no_release_from_the_deadlines_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Monitors that an incident no longer explains are released in the order of time, before later deadlines."""
    scene = Scene()
    scene.monitor("job", every=100, grace=20)
    scene.ping(0)
    scene.tick(40)
    state, order = scene.engine.state, list[str]()
    state.deadlines.push(scene.at(50), 999)
    state.releases.append((999, scene.at(100), iter(())))

    def release_one(*_: object) -> None:
        order.append("release")
        del state.releases[0]

    monkeypatch.setattr("offbeat_server.engine.engine.notifications.release_one", release_one)
    monkeypatch.setattr("offbeat_server.engine.engine.evaluate", lambda *_: order.append("deadline"))
    for _ in range(2):
        assert not scene.engine.advance(scene.at(130), steps_max=1)
    assert order == ["release", "deadline"]
