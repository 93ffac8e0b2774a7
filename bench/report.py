"""Shows what was found: a table for the terminal, JSON for programs, a picture for the README."""

import json
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from bench.measure import Goal, Line, Result

ROOT = Path(__file__).parent.parent
LATEST = Path(__file__).parent / "results" / "latest.json"
PACKAGES = ("aiohttp", "uvloop", "httptools", "asyncpg", "prometheus-client")


def show(console: Console, results: list[Result]) -> None:
    """One table of everything."""
    table = Table(title="Offbeat's bench", title_justify="left", expand=False)
    table.add_column("bench")
    table.add_column("measured")
    table.add_column("median", justify="right")
    table.add_column("lowest to highest", justify="right")
    table.add_column("unit")
    for result in results:
        for n, line in enumerate(result.lines):
            spread = f"{_number(line.low)} to {_number(line.high)}" if len(line.values) > 1 else ""
            table.add_row(result.bench if n == 0 else "", line.name, _number(line.median), spread, line.unit)
        table.add_section()
    console.print(table)
    goals = Table(title="Goals", title_justify="left")
    for heading in ("bench", "goal", "found", "must be", "aim", ""):
        goals.add_column(heading, justify="right" if heading in ("found", "must be", "aim") else "left")
    for result in results:
        for goal in result.goals:
            goals.add_row(
                result.bench,
                goal.text,
                f"{_number(goal.value)}{goal.unit}",
                _bound(goal),
                "" if goal.aim is None else _number(goal.aim),
                "[green]reached[/]" if goal.reached else "[red]missed[/]",
            )
    console.print(goals)
    for result in results:
        for note in result.notes:
            console.print(f"[bold]{result.bench}[/]: {note}", highlight=False)


def save(results: list[Result], path: Path, *, quick: bool, rounds: int) -> dict[str, Any]:
    """Write the results; those of other benches in the same file stay, each with its own date and commit."""
    written = json.loads(path.read_text()) if path.exists() else {"results": {}}
    stamp = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "commit": _commit(), "rounds": rounds}
    for result in results:
        stored = asdict(result)
        for line, kept in zip(result.lines, stored["lines"], strict=True):
            kept["values"] = [_rounded(value) for value in line.values]
            kept |= {"median": _rounded(line.median), "low": _rounded(line.low), "high": _rounded(line.high)}
        for goal, kept in zip(result.goals, stored["goals"], strict=True):
            kept |= {"value": _rounded(goal.value), "reached": goal.reached}
        written["results"][result.bench] = stored | stamp
    written |= {"machine": _machine(), "quick": quick}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(written, indent=1) + "\n")
    fresh.replace(path)
    return dict(written)


def load(path: Path) -> list[Result]:
    """The results in a file."""
    stored = json.loads(path.read_text())["results"].values()
    return [
        Result(
            each["bench"],
            each["title"],
            [Line(line["name"], line["unit"], line["values"]) for line in each["lines"]],
            [Goal(**{name: value for name, value in goal.items() if name != "reached"}) for goal in each["goals"]],
            each["notes"],
        )
        for each in stored
    ]


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _bound(goal: Goal) -> str:
    if goal.at_least is None and goal.at_most is None:
        return ""
    return f"≥ {_number(goal.at_least)}" if goal.at_least is not None else f"≤ {_number(goal.at_most or 0)}"


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _machine() -> dict[str, Any]:
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
