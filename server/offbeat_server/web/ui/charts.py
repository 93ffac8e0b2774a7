"""Charts drawn here, as paths and rectangles of an SVG: durations with their usual range, the calendar, the Gantt.

Drawn on the server, so that they are there without scripts, need no library, and the same code draws live updates.
Every colour goes with a shape.
"""

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from offbeat_server.common.instants import SECOND, Micros, to_datetime, to_micros
from offbeat_server.common.plural import plural
from offbeat_server.engine.model.enums import Verdict
from offbeat_server.engine.model.run_detail import StageDetail
from offbeat_server.engine.schedule.durations import say_duration

CHART_WIDTH, CHART_HEIGHT = 720, 120
BARS_MAX = 90
USUAL_MIN = 5  # fewer runs give no typical duration
CALENDAR_WEEKS = 5


class Bar(NamedTuple):
    """One run or gap: its place in the chart, and what it says."""

    x: float
    y: float
    width: float
    height: float
    look: str
    label: str
    link: str


class Chart(NamedTuple):
    """Lengths of time, the newest at the right, over the band in which most of them lie."""

    bars: list[Bar]
    band_y: float | None
    band_height: float
    median_y: float | None
    top: str
    caption: str


class Measured(NamedTuple):
    """Something that took `seconds`."""

    seconds: float
    look: str
    label: str
    link: str = ""
    counts: bool = True  # towards what is usual


def usual_range(lengths: Sequence[float]) -> tuple[float, float, float] | None:
    """The bounds within which eight of ten lie, and the middle one; None for too few."""
    if len(lengths) < USUAL_MIN:
        return None
    ordered = sorted(lengths)
    return tuple(ordered[round(share * (len(ordered) - 1))] for share in (0.1, 0.5, 0.9))  # type: ignore[return-value]


def draw_durations(measured: Sequence[Measured], what: str) -> Chart | None:
    """A chart of these, the oldest first; None where there is nothing to draw."""
    measured = measured[-BARS_MAX:]
    if len(measured) < 2:
        return None
    usual = usual_range([each.seconds for each in measured if each.counts])
    top = max(max(each.seconds for each in measured), usual[2] if usual else 0) or 1.0
    step = CHART_WIDTH / max(len(measured), 20)
    left = CHART_WIDTH - step * len(measured)
    bars = []
    for index, each in enumerate(measured):
        height = max(2.0, each.seconds / top * (CHART_HEIGHT - 4))
        bars.append(
            Bar(
                round(left + index * step + step * 0.15, 1),
                round(CHART_HEIGHT - height, 1),
                round(step * 0.7, 1),
                round(height, 1),
                each.look,
                each.label,
                each.link,
            )
        )
    caption = f"The latest {len(measured)} {what}. The last: {_shown(measured[-1].seconds)}."
    if usual is None:
        return Chart(bars, None, 0, None, _shown(top), caption)
    low, middle, high = (CHART_HEIGHT - value / top * (CHART_HEIGHT - 4) for value in usual)
    caption += f" Typical: {_shown(usual[0])} to {_shown(usual[2])} (median {_shown(usual[1])})."
    return Chart(bars, round(high, 1), round(max(low - high, 1), 1), round(middle, 1), _shown(top), caption)


def _shown(seconds: float) -> str:
    return say_duration(round(seconds * SECOND))


# ----------------------------------------------------------------------------------------------------------- calendar


class Day(NamedTuple):
    """One day of the calendar."""

    date: datetime
    look: str  # well, trouble, nothing, ahead
    label: str


def day_bounds(zone: str, now: Micros) -> list[datetime]:
    """The starts of the days of the calendar and the end of the last, from a Monday, in this zone."""
    today = to_datetime(now).astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    monday = today - timedelta(days=today.weekday(), weeks=CALENDAR_WEEKS - 1)
    return [monday + timedelta(days=day) for day in range(CALENDAR_WEEKS * 7 + 1)]


def draw_calendar(
    bounds: Sequence[datetime],
    has_pings: Sequence[bool],
    runs: dict[int, dict[str, int]],
    troubles: Sequence[tuple[Micros, Micros]],
    created_at: Micros,
    now: Micros,
) -> list[list[Day]]:
    """Weeks of days. `runs` by day, 0 the first, and verdict; `troubles` from opening to end."""
    days = []
    for index, (began_at, ended_at) in enumerate(itertools.pairwise(bounds)):
        began, ended = to_micros(began_at), to_micros(ended_at)
        if began > now:
            days.append(Day(began_at, "ahead", ""))
            continue
        down = [min(to, ended) - max(since, began) for since, to in troubles if since < ended and to >= began]
        verdicts = runs.get(index, {})
        parts = [f"{count} {verdict}" for verdict, count in sorted(verdicts.items()) if count]
        bad = sum(count for verdict, count in verdicts.items() if verdict in (Verdict.FAILED, Verdict.HUNG))
        if down:
            parts.append(f"down for {say_duration(sum(down))}")
        if down or bad:
            days.append(Day(began_at, "trouble", ", ".join(parts)))
        elif verdicts or has_pings[index]:
            days.append(Day(began_at, "well", ", ".join(parts) or "pings received, no trouble"))
        else:
            before = ended <= created_at
            days.append(Day(began_at, "nothing", "not created yet" if before else "no pings"))
    return [days[start : start + 7] for start in range(0, len(days), 7)]


# -------------------------------------------------------------------------------------------------------------- Gantt

GANTT_WIDTH = 1000


class StageBar(NamedTuple):
    """A stage on the line of time."""

    name: str
    status: str
    x: float
    width: float
    took: str
    started_at: Micros | None
    tasks: str


def draw_gantt(stages: Sequence[StageDetail[Micros]], began: Micros, ended: Micros) -> list[StageBar]:
    """Bars of stages as `Run.detail` gives them, between two instants."""
    total = max(ended - began, 1)
    bars = []
    for stage in stages:
        started, finished = stage["started_at"], stage["finished_at"]
        start = started if isinstance(started, int) else finished
        if not isinstance(start, int):
            bars.append(StageBar(str(stage["name"]), str(stage["status"]), 0, 0, "", None, _tasks(stage)))
            continue
        end = finished if isinstance(finished, int) else ended
        x = min(max(start - began, 0) / total, 1) * GANTT_WIDTH
        width = max((end - start) / total * GANTT_WIDTH, 4)
        took = say_duration(end - start) if isinstance(started, int) else "start not received"
        x = min(x, GANTT_WIDTH - 4)
        bars.append(
            StageBar(
                str(stage["name"]),
                str(stage["status"]),
                round(x, 1),
                round(min(width, GANTT_WIDTH - x), 1),
                took,
                start,
                _tasks(stage),
            )
        )
    return bars


def _tasks(stage: StageDetail[Micros]) -> str:
    tasks = stage.get("tasks")
    if not isinstance(tasks, dict):
        return ""
    done, expected = tasks["done"], tasks.get("expected")
    counted = f"{done} of {plural(expected, 'task')}" if expected else plural(done, "task")
    failed = f", {tasks['failed']} failed" if tasks.get("failed") else ""
    return f"{counted} done{failed}"
