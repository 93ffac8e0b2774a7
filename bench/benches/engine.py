"""The cost of a ping in the engine, by kind of ping: CPU of the pure engine, without HTTP, log or database.

Every round makes its own engine and applies the same number of pings of each kind, in turn. The pings that open and
close runs are applied outside the measurement; within it are the pings in between, as jobs send them.
"""

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.measure import Goal, Line, Result, ratio
from bench.stage import Stage
from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.engine.engine import Engine
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.model.ping import PLAIN, Entry, Ping

ROUNDS_MIN = 7  # each takes half a second
BUDGET = 500  # as the scheduler does it
MONITORS = 500
STAGES = ("extract", "transform", "load")
_BEGIN: Micros = 1_800_000_000 * SECOND
_SOURCE = b"\x7f\0\0\1"

MonitorPing = tuple[int, Ping]  # monitor, ping


async def run(stage: Stage) -> Result:
    """All kinds in turn, a line for each."""
    scale = 20 if stage.quick else 1
    tasks = 10_000 // scale
    kinds: dict[str, Callable[[], float]] = {
        "a plain ping": lambda: plain(MONITORS // scale),
        "a ping of a stage of a run": lambda: staged(MONITORS // scale),
        "a ping of a task, runs of 10 tasks": lambda: tasked(10, tasks // 10),
        f"a ping of a task, a run of {tasks:,} tasks": lambda: tasked(tasks, 1),
        "a ping of a member, fleets of 10": lambda: fleet(10, tasks // 10),
        f"a ping of a member, a fleet of {tasks * 10:,}": lambda: fleet(tasks * 10, 1),
    }
    lines = [Line(name, "µs/ping") for name in kinds]
    for _ in range(stage.rounds if stage.quick else max(stage.rounds, ROUNDS_MIN)):
        for line, measure in zip(lines, kinds.values(), strict=True):
            line.values.append(measure())
    simple, in_stage, few, many, small, large = lines
    goals = [
        Goal("a stage's ping × a plain one", ratio(in_stage, simple), at_most=2.0),
        Goal(f"a task's ping, {tasks:,} tasks × 10", ratio(many, few), at_most=1.2),
        Goal(f"a member's ping, {tasks * 10:,} members × 10", ratio(large, small), aim=1.5),
    ]
    return Result("engine", "what the engine takes for a ping", lines, goals)


class Table:
    """An engine with some monitors alike, numbered from 1."""

    def __init__(self, count: int, **definition: Any) -> None:
        self.engine = Engine()
        self.engine.loaded(_BEGIN - SECOND)
        self.at, self.seq = _BEGIN, 0
        shared = read_definition(definition)  # equal ones are one object, as those from the database
        for number in range(1, count + 1):
            self.engine.put(number, 1, f"job-{number}", shared, at=_BEGIN - 1)
        self.engine.drain(count)

    def hand_over(self, pings: Iterator[MonitorPing] | list[MonitorPing]) -> float:
        """These pings, a millisecond apart; CPU microseconds for each."""
        entries = []
        for monitor_id, ping in pings:
            self.at += 1_000
            self.seq += 1
            entries.append(Entry(self.at, 1, self.seq, monitor_id, 1, _SOURCE, ping))
        gc.collect()
        began, index = time.process_time(), 0
        while index < len(entries):
            index = self.engine.apply(entries, index, BUDGET)
        took = time.process_time() - began
        if self.engine.quarantined:
            raise RuntimeError("an error of the engine")
        self.engine.drain(1 << 30)
        return took * 1e6 / len(entries)


def plain(monitors: int) -> float:
    """Heartbeats in turn."""
    table = Table(monitors, every="1d")
    numbers = range(1, monitors + 1)
    table.hand_over([(number, PLAIN["success"]) for number in numbers])
    return table.hand_over([(number, PLAIN["success"]) for _ in range(20) for number in numbers])


def staged(monitors: int) -> float:
    """A run for each monitor. Each stage sends start, two signs of life and success; the last stage stays open."""
    stages = [{"name": name, "within": "6h"} for name in STAGES]
    table = Table(monitors, every="1d", max_runtime="12h", stages=stages)
    numbers = range(1, monitors + 1)
    table.hand_over([(number, Ping("start", f"run-{number}")) for number in numbers])
    signals = [(name, signal) for name in STAGES for signal in ("start", "progress", "log", "success")][:-1]
    steps = [
        [(number, Ping(signal, f"run-{number}", name)) for number in numbers]  # type: ignore[arg-type]
        for name, signal in signals
    ]
    return table.hand_over([ping for step in steps for ping in step])


def tasked(tasks: int, runs: int) -> float:
    """Runs side by side, every task of them started and all but one of each run done."""
    table = Table(1, tasks={"expected": tasks, "within": "12h", "tolerate": 5})
    names = [f"run-{number}" for number in range(runs)]
    table.hand_over([(1, Ping("start", name)) for name in names])
    started = [(1, Ping("start", name, task=str(task))) for task in range(tasks) for name in names]
    done = [(1, Ping("success", name, task=str(task))) for task in range(1, tasks) for name in names]
    return table.hand_over(started + done)


def fleet(members: int, fleets: int) -> float:
    """All members are known, and ping again."""
    table = Table(fleets, members={"every": "12h", "min_alive": "95%"})
    pings = [(number, Ping("progress", task=f"m-{m}")) for m in range(members) for number in range(1, fleets + 1)]
    table.hand_over(pings)
    return table.hand_over(pings)
