"""Draws what was found: throughputs beside their rivals', and how far each number is from what it must reach."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.measure import OURS, Goal, Line, Result

GOOD, GREY, BAD = "#2f6f4f", "#b9bec4", "#c0392b"
TIMES_MAX = 10.0  # a number ten times as good as it must be is drawn no longer


def draw(results: list[Result], path: Path) -> None:
    """An SVG of all results at `path`. Draws nothing where nothing was compared."""
    bars = [
        (result, line)
        for result in results
        for line in result.lines
        if line.unit in ("pings/s", "requests/s", "rows/s")
    ]
    goals = [(result, goal) for result in results for goal in result.goals]
    if not bars and not goals:
        return
    plt.rcParams.update({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
    height = 1.0 + 0.26 * max(len(bars), len(goals), 4)
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, height), layout="constrained")
    _throughputs(left, bars)
    _goals(right, goals)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def _throughputs(axes: Axes, bars: list[tuple[Result, Line]]) -> None:
    places = range(len(bars))
    medians = [line.median for _, line in bars]
    axes.barh(
        places,
        medians,
        xerr=[[line.median - line.low for _, line in bars], [line.high - line.median for _, line in bars]],
        color=[GOOD if OURS in line.name else GREY for _, line in bars],
        error_kw={"elinewidth": 0.8, "capsize": 2},
    )
    for place, (_, line) in zip(places, bars, strict=True):
        axes.annotate(
            f" {line.median:,.0f}", (line.high, place), va="center", xytext=(3, 0), textcoords="offset points"
        )
    axes.set_yticks(list(places), [f"{result.bench}: {line.name}" for result, line in bars])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_title("Committed pings a second (green), and rivals (grey)", loc="left")
    _tidy(axes)


def _goals(axes: Axes, goals: list[tuple[Result, Goal]]) -> None:
    places = range(len(goals))
    axes.barh(
        places,
        [min(goal.times, TIMES_MAX) for _, goal in goals],
        color=[GOOD if goal.reached else BAD for _, goal in goals],
    )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(0.1, TIMES_MAX)
    axes.set_xticks([0.1, 0.5, 1, 2, 5, 10], ["0.1", "0.5", "1", "2", "5", "10 ×"])
    axes.set_yticks(list(places), [f"{result.bench}: {goal.text}" for result, goal in goals])
    axes.invert_yaxis()
    axes.set_title("How many times as good as it must be", loc="left")
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
