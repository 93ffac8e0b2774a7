"""Numbers that were measured, what they must reach, and measuring rivals in turn.

A single run proves nothing: a machine has moods. Every number is the median of several rounds, shown with its spread,
and rivals are measured in turn within each round, so that a mood meets all of them.
"""

import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field


@dataclass
class Line:
    """One row of a table: what was measured, and its value in each round."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(self.values)


@dataclass
class Goal:
    """The goal of a number, by one of `at_least` and `at_most`; `aim` is a wish (alone: no goal must be reached)."""

    text: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None
    unit: str = ""

    @property
    def reached(self) -> bool:
        """Whether the number is good enough."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return self.at_least is None or self.value >= self.at_least

    @property
    def times(self) -> float:
        """How many times as good as it must be (or should be): 1 is just good enough, 2 twice as good."""
        if self.at_most is not None:
            return self.at_most / self.value if self.value else float("inf")
        return self.value / (self.at_least or self.aim or 1)


@dataclass
class Result:
    """The results of one bench."""

    bench: str
    title: str
    lines: list[Line] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


OURS = "Offbeat"


async def in_turn(
    rounds: int, contenders: Mapping[str, Callable[[], Awaitable[float]]], label: str, unit: str, others_unit: str
) -> dict[str, Line]:
    """Each contender once, then each again, and so on; a line for each by its name, called `label` with {} replaced.

    The one called OURS is measured in `unit`, its rivals in `others_unit`.
    """
    lines = {name: Line(label.format(name), unit if name == OURS else others_unit) for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            lines[name].values.append(await measure())
    return lines


def ratio(own: Line, other: Line) -> float:
    """The ratio of Offbeat's number to the other's: the median over the rounds of the ratio within each round."""
    return statistics.median(a / b for a, b in zip(own.values, other.values, strict=True))
