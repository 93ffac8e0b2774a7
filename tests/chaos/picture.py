"""Draws the results of all chaos runs: take-over times, recovery by fault, and how soon an alert arrives."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

GREEN, GREY, RED = "#2f6f4f", "#b9bec4", "#c0392b"
Run = dict[str, Any]


def draw(runs: list[Run], path: Path) -> None:
    """An SVG of all runs at `path`."""
    faults = [fault for run in runs for world in run["worlds"] for fault in world["faults"]]
    delays_s = [seconds for run in runs for world in run["worlds"] for seconds in world["told_s"]]
    by_name: dict[str, list[float]] = defaultdict(list)
    for fault in faults:
        by_name[fault["name"]].append(fault["recovery_s"])
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "chaos", "font.family": "sans-serif", "font.size": 9})
    figure, axes = plt.subplot_mosaic(
        [["recovery", "takeover"], ["recovery", "told"]], figsize=(13, 2.0 + 0.26 * len(by_name)), layout="constrained"
    )
    _recovery(axes["recovery"], by_name)
    _takeover(axes["takeover"], faults)
    _draw_delays(axes["told"], delays_s)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def _recovery(axes: Axes, by_name: dict[str, list[float]]) -> None:
    names = sorted(by_name, key=lambda name: (-len(by_name[name]), name))
    for place, name in enumerate(names):
        axes.plot(by_name[name], [place] * len(by_name[name]), "|", color=GREEN, markersize=9, alpha=0.6)
    axes.set_yticks(range(len(names)), [f"{name} ({len(by_name[name])})" for name in names])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds")
    axes.set_title("From a fault's end until every node has evaluated a new ping", loc="left")
    _tidy(axes)


def _takeover(axes: Axes, faults: list[dict[str, Any]]) -> None:
    crash = [fault["taken_crash_s"] for fault in faults if "taken_crash_s" in fault]
    stop = [fault["taken_stop_s"] for fault in faults if "taken_stop_s" in fault]
    edges = [edge / 2 for edge in range(25)]
    axes.hist([crash, stop], edges, color=[GREEN, GREY], label=[f"killed ({len(crash)})", f"stopped ({len(stop)})"])
    axes.axvline(10, color=RED, linewidth=1)
    axes.axvline(2, color=RED, linewidth=1, linestyle=":")
    axes.set_xlabel("seconds until the other is scheduler; at most 10 (kill), 2 (stop)")
    axes.set_title("Take-over", loc="left")
    axes.legend(frameon=False)
    _tidy(axes)


def _draw_delays(axes: Axes, delays_s: list[float]) -> None:
    ordered = sorted(delays_s)
    axes.plot(ordered, [(n + 1) / len(ordered) for n in range(len(ordered))], color=GREEN)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.set_ylim(0, 1)
    axes.set_xlabel("seconds from the deadline to the alert's arrival, away from any fault")
    axes.set_title(f"Share of {len(ordered):,} alerts that have arrived", loc="left")
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
