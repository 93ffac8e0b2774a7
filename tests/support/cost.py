"""The cost of a piece of work, as a ratio to a known one in the same run: seconds say how fast the machine is."""

import time
from collections.abc import Callable

TURNS = 1_000_000


def cpu_s(work: Callable[[], object]) -> float:
    """The processor time of a call: the least of three, because other processes disturb the caches."""
    return min(_once_s(work) for _ in range(3))


def in_loops(seconds: float) -> float:
    """The processor time in units of a loop of a million turns that does nothing, on this machine at this moment."""
    return seconds / cpu_s(_loop)


def loops(work: Callable[[], object]) -> float:
    """The cost of a call in the same unit, which is about 0.03 s on a machine of 2024."""
    return in_loops(cpu_s(work))


def _once_s(work: Callable[[], object]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def _loop() -> None:
    for _ in range(TURNS):
        pass
