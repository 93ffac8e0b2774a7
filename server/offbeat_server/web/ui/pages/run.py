"""The page of one run: its stages on a line of time, its tasks as a grid, how far it is, what is missing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from aiohttp import web

from offbeat_server.common.instants import Micros
from offbeat_server.db.pool import Record
from offbeat_server.db.read_models import history, pages
from offbeat_server.db.repositories.client_runs import ClientRun, read_new_pings
from offbeat_server.engine.model.definition import Definition, Tasks, load_definition
from offbeat_server.engine.model.enums import Verdict
from offbeat_server.engine.model.run import Run, tasks_of
from offbeat_server.engine.model.run_detail import RunDetail, TasksDetail
from offbeat_server.engine.model.runs import REMEMBERED_FOR
from offbeat_server.engine.model.tasks import TaskGroup
from offbeat_server.engine.schedule.durations import say_duration
from offbeat_server.services import runs
from offbeat_server.web.api.schemas import requests
from offbeat_server.web.api.schemas.requests import CLOSE_REASON_CHARS_MAX
from offbeat_server.web.framework.params import allowed, pair_in
from offbeat_server.web.framework.routing import validate
from offbeat_server.web.ui import charts
from offbeat_server.web.ui.page_base import UiRoute, Visit, redirect, show

NAMES_SHOWN = 2_000  # most are shown as spans of numbers
CELLS_MAX = 10_000
LIMITS_SHOWN = 6
CELL, STEP = 10, 12  # pixels
GRID_COLUMNS = 50


class TaskGrid(NamedTuple):
    """The tasks of a run or stage: one letter each (d done, f failed, r running, . not started)."""

    stage: str
    states: str
    names: list[str]
    columns: int
    width: int
    height: int
    paths: dict[str, str]
    shown: TasksDetail[Micros]
    tasks: int  # of which the grid draws the first


async def run_page(visit: Visit) -> web.StreamResponse:
    """The page of a run."""
    rows = await pages.run_pulse(visit.deps.pool, [pair_in(visit, "run")])
    row = allowed(visit, rows[0] if rows else None, "run")
    followed = ClientRun(row)
    await read_new_pings(visit.deps.pool, [followed])
    can_close = visit.writes and await _can_close(visit, row)
    shown = context(row, followed, visit.now)
    return show(visit, "run.html", **shown, can_close=can_close, reason_max=CLOSE_REASON_CHARS_MAX)


async def _can_close(visit: Visit, row: Record) -> bool:
    """Whether a person can decide the verdict of this run."""
    if row["finished_at"] is None:
        return True
    standing = await history.run_standing(visit.deps.pool, row["monitor_id"], row["number"])
    return standing.remembered_end is not None and visit.now - standing.remembered_end <= REMEMBERED_FOR


async def close_run(visit: Visit) -> web.StreamResponse:
    """Close a run by hand."""
    fields = {"verdict": visit.form_field("verdict"), "reason": visit.form_field("reason") or None}
    body = validate(requests.RunVerdict, fields)
    pair = pair_in(visit, "run")
    command = runs.CloseRun(*pair, visit.principal.project_id, Verdict(body.verdict), body.reason)
    await runs.close_run(visit.context, command, visit.actor)
    return redirect(f"/runs/{visit.request.match_info['id']}")


def context(row: Record, followed: ClientRun, now: Micros) -> dict[str, Any]:
    """The data of the live part of the page."""
    definition, run = load_definition(row["definition"]), followed.run
    is_open = followed.finished_at is None
    detail: RunDetail[Micros] = run.detail(definition, NAMES_SHOWN)
    if not is_open and row["detail"]:
        detail = row["detail"]  # as the engine has written it at the end
    began = run.started_at if run.started_at is not None else run.last_at
    ended = followed.finished_at or max(now, run.last_at)
    limits = _limits(definition, run, is_open)
    return {
        "run": row,
        "is_open": is_open,
        "began": run.started_at,
        "ended": followed.finished_at,
        "took": say_duration(ended - began) if run.started_at is not None else None,
        "last_at": run.last_at,
        "gantt": charts.draw_gantt(detail.get("stages", ()), began, ended),
        "grids": [_grid(stage, group, definition, detail) for stage, group in _groups(run, definition)],
        "progress": detail.get("progress"),
        "limits": limits[:LIMITS_SHOWN],
        "limits_count": len(limits),
        "detail_as_of": followed.detail_as_of,
        "now": now,
    }


def _groups(run: Run, definition: Definition) -> list[tuple[str, TaskGroup]]:
    """The groups of tasks that there are or should be, that of the run itself first."""
    expected = [""] if definition.tasks is not None else []
    expected += [stage.name for stage in definition.stages if stage.tasks is not None]
    reported = [stage for stage, group in run.tasks.items() if group.by_name or group.expected is not None]
    return [(stage, run.tasks.get(stage) or TaskGroup()) for stage in dict.fromkeys([*expected, *reported])]


def _shown_tasks(stage: str, group: TaskGroup, tasks: Tasks | None, detail: RunDetail[Micros]) -> TasksDetail[Micros]:
    """The counts and names of a group: those in `detail`, which for a run that has ended are the engine's own."""
    shown = group.show(tasks, NAMES_SHOWN)
    known = detail.get("tasks") if not stage else None
    for each in detail.get("stages", ()) if stage else ():
        known = each.get("tasks") if each["name"] == stage else known
    if known is not None:
        shown |= known
        shown["failed_names"], shown["missing"] = shown["failed_names"][:NAMES_SHOWN], shown["missing"][:NAMES_SHOWN]
    return shown


def _grid(stage: str, group: TaskGroup, definition: Definition, detail: RunDetail[Micros]) -> TaskGrid:
    tasks = tasks_of(definition, stage)
    names, states = _cells(group, tasks)
    columns = min(GRID_COLUMNS, max(len(states), 1))
    lines = -(-len(states) // columns)
    return TaskGrid(
        stage,
        states,
        names,
        columns,
        columns * STEP,
        lines * STEP,
        {look: draw_cells(states, letter, columns) for letter, look in _LETTERS.items()},
        _shown_tasks(stage, group, tasks, detail),
        max((group.expected_of(tasks) or 0) + len(group.unexpected(tasks) or ()), len(group.by_name)),
    )


_LETTERS = {"d": "done", "f": "failed", "r": "running", ".": "missing"}
_OF_STATE = {True: "d", False: "f", None: "r"}


def _cells(group: TaskGroup, tasks: Tasks | None) -> tuple[list[str], str]:
    """Names and letters in an order that stays: as defined, by number if all are numbers, otherwise as they came."""
    names, expected = list(group.by_name), group.expected_of(tasks) or 0
    if tasks is not None and isinstance(tasks.expected, tuple):
        names = [*tasks.expected, *(group.unexpected(tasks) or ())]
    elif names and all(name.isdecimal() and len(name) < 10 for name in names):
        numbers = {int(name): name for name in names}
        low = min(0 if 0 in numbers else 1, *numbers)
        high = max(low + expected - 1, *numbers)
        if high - low < CELLS_MAX:
            names = [numbers.get(number, str(number)) for number in range(low, high + 1)]
    missing = max(0, expected - len(names)) if len(names) < CELLS_MAX else 0
    letters = [_OF_STATE[group.by_name[name]] if name in group.by_name else "." for name in names]
    letters += "." * missing
    return names[:CELLS_MAX], "".join(letters[:CELLS_MAX])


def draw_cells(states: str, letter: str, columns: int) -> str:
    """All cells of one state as one path, each state with a shape of its own."""
    shape = {
        "d": f"h{CELL}v{CELL}h-{CELL}z",
        "f": "l3 0 2 3 2-3 3 0-3.5 5 3.5 5-3 0-2-3-2 3-3 0 3.5-5z",
        "r": "h10v10h-10zm2 2v6h6v-6z",
        ".": "m3.5 3.5h3v3h-3z",
    }[letter]
    return "".join(
        f"M{index % columns * STEP} {index // columns * STEP}{shape}"
        for index, state in enumerate(states)
        if state == letter
    )


def _limits(definition: Definition, run: Run, is_open: bool) -> Sequence[tuple[str, Micros]]:
    """The limits of an open run, and when each is broken."""
    if not is_open:
        return ()
    labels = {
        "runtime": "Runtime deadline",
        "quiet": "Next ping due",
        "stalled": "Progress due",
        "task stalled": "Progress of task {task} due",
        "task overdue": "Task {task} must end",
        "task silent": "Ping of task {task} due",
        "tasks": "Task deadline",
        "stage": "Deadline of {stage}",
    }
    limits = [
        (labels.get(limit.kind, limit.kind).format(stage=limit.stage, task=limit.task), limit.base + limit.length)
        for limit in run.limits(definition, include_broken=True)
    ]
    return sorted(limits, key=lambda each: each[1])


PAGES = [
    UiRoute("GET", "/runs/{id}", run_page),
    UiRoute("POST", "/runs/{id}/close", close_run, "write"),
]
