"""A million monitors fit into one process: what one takes, loaded and pinged, and what trouble adds."""

import tracemalloc
from array import array

import pytest

from offbeat_server.common.instants import SECOND
from offbeat_server.engine.engine import Engine
from offbeat_server.engine.model.definition import load_definition
from offbeat_server.engine.model.monitor import EMPTY_RARE_STATE, Monitor, RareState
from offbeat_server.engine.model.ping import PLAIN, Entry, Position

COUNT = 20_000
BEGIN = 1_790_000_000 * SECOND


@pytest.mark.slow
def test_what_a_monitor_takes() -> None:
    definition = load_definition('{"every":"130s","grace":"20s"}')
    tracemalloc.start()
    engine = Engine()
    for number in range(1_000, 1_000 + COUNT):
        at = BEGIN + number
        m = Monitor(number, 1, f"job-{number}", f"job-{number}", definition, 0)
        state = {"heard_at": at - 5, "due": at + 130, "counted_at": at - 5, "counted_signal": "success"}
        m.load("up", at - 77, Position(at, 1, number), state | {"counted_source": "7f000001"})
        engine.load(m)
    engine.loaded(BEGIN + 10 * SECOND)
    loaded, _ = tracemalloc.get_traced_memory()
    for number in range(COUNT):
        at = BEGIN + 20 * SECOND + number | 0
        entry = Entry(at, 2, 5_000 + number, 1_000 + number, 1, bytes((127, 0, 0, 1)), PLAIN["success"])
        engine.apply([entry], 0, 10)
    pinged, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{loaded / COUNT:.0f} bytes a monitor, {pinged / COUNT:.0f} when it has pinged")
    assert loaded / COUNT < 600 and pinged / COUNT < 600
    assert all(m.rare is EMPTY_RARE_STATE for m in engine.monitors.values())


def test_what_is_unusual_is_one_monitors_own() -> None:
    definition = load_definition("{}")
    a, b = (Monitor(number, 1, "a", "a", definition, BEGIN) for number in (1, 2))
    a.paused, a.streak, a.runs, a.incident = False, 0, None, None
    assert a.rare is EMPTY_RARE_STATE
    a.streak += 1
    assert (a.streak, b.streak, EMPTY_RARE_STATE.streak) == (1, 0, 0) and b.rare is EMPTY_RARE_STATE
    assert all(getattr(EMPTY_RARE_STATE, name) == getattr(RareState(), name) for name in RareState.__slots__)


def test_a_plain_sum_is_larger_than_it_must_be() -> None:
    """Why sums that are kept are copied with `| 0`: if this fails, they no longer need it."""
    tracemalloc.start()
    other = array("q", [BEGIN])[0]
    before, _ = tracemalloc.get_traced_memory()
    sums = [other + 1]
    plain = tracemalloc.get_traced_memory()[0] - before
    before, _ = tracemalloc.get_traced_memory()
    exact = [other + 1 | 0]
    made_anew = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert sums == exact and made_anew < plain
