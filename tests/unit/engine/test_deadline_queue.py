"""Deadlines come in the order of one heap."""

from heapq import heappop, heappush
from random import Random

from offbeat_server.engine.deadline_queue import BUCKET_BITS, DeadlineQueue


def test_like_one_heap() -> None:
    random = Random(2)
    deadlines, expected = DeadlineQueue(), list[tuple[int, int]]()
    now = 1_700_000_000_000_000
    for _ in range(20_000):
        if random.random() < 0.55:
            length = random.choice([0, 1, 1 << BUCKET_BITS, 50 << BUCKET_BITS])
            pair = (now - 1000 + random.randint(0, length), random.choice([0, 1, 7, (1 << 31) - 1]))
            deadlines.push(*pair)
            heappush(expected, pair)
        else:
            before = now + random.randint(0, 1 << BUCKET_BITS)
            found = deadlines.pop_due(before)
            assert found == (heappop(expected) if expected and expected[0][0] < before else None)
        assert deadlines.next() == (expected[0][0] if expected else None)
        now += random.randint(0, 2000)
    assert len(deadlines) == len(expected)
    while expected:
        assert deadlines.pop_due(1 << 62) == heappop(expected)
    assert deadlines.pop_due(1 << 62) is None and deadlines.next() is None
