"""The page of one monitor: its status, its history, how to send it pings, and the forms that act on it."""

import itertools
from datetime import datetime
from typing import Any, NamedTuple

from aiohttp import web

from offbeat_server.common.instants import SECOND, Micros, to_datetime, to_micros
from offbeat_server.db.pool import Pool, Record
from offbeat_server.db.read_models import history, overview, pages
from offbeat_server.engine.model.definition import Definition, load_definition
from offbeat_server.engine.model.enums import Verdict, member_or
from offbeat_server.engine.model.fleet import Fleet
from offbeat_server.engine.model.ping import Ping
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.schedule.durations import say_duration
from offbeat_server.services import monitors
from offbeat_server.web.api.schemas import requests
from offbeat_server.web.api.schemas.answers import ping_answer, run_answer
from offbeat_server.web.framework.addresses import ping_url
from offbeat_server.web.framework.pagination import PINGS, RUNS
from offbeat_server.web.framework.params import project_of, slug_in
from offbeat_server.web.framework.problems import ApiError, not_found
from offbeat_server.web.framework.routing import validate
from offbeat_server.web.ui import charts, monitor_rows
from offbeat_server.web.ui.page_base import UiRoute, Visit, address_of, redirect, show
from offbeat_server.web.ui.snippets import snippets

RUNS_SHOWN, PINGS_SHOWN, INCIDENTS_SHOWN, OPEN_RUNS_SHOWN = 8, 12, 5, 20
LIST_MAX = 100
MEMBERS_SHOWN, SILENT_SHOWN = 2_000, 200
HEARTBEATS_MAX = charts.BARS_MAX + 1
HEARTBEATS_DAYS = 60  # pings of a monitor may all belong to stages and tasks: then the search ends here


class FleetSummary(NamedTuple):
    """The current state of a fleet.

    `silent`: deadline, last ping and name of each silent member.
    `members`: name of each member, and whether it is alive.
    """

    alive: int
    known: int
    required: int
    silent: list[tuple[datetime, datetime, str]]
    members: list[tuple[str, bool]]


async def find(visit: Visit) -> Record:
    """The row of the monitor in the path."""
    slug = slug_in(visit)
    project = await project_of(visit, visit.query_param("project") or visit.form_field("project") or None)
    rows = await overview.monitors(visit.deps.pool, project_id=project.id, slugs=[slug], limit=1)
    if not rows:
        raise not_found(f"monitor {slug}")
    return rows[0]


async def monitor_page(visit: Visit) -> web.StreamResponse:
    """The page of a monitor."""
    row, now, pool = await find(visit), visit.now, visit.deps.pool
    (line,) = await monitor_rows.read_lines(pool, [row], now)
    definition = load_definition(row["definition"])
    key = next((each["key"] for each in row["keys"] or () if each["main"]), None) if visit.writes else None
    base = visit.base
    url = ping_url(base, key) if key else None
    others = [
        {**each, "url": ping_url(base, each["key"])} for each in row["keys"] or () if visit.writes and not each["main"]
    ]
    return show(
        visit,
        "monitor.html",
        url=url,
        other_keys=sorted(others, key=lambda each: (each["stage"] or "", each["signal"] or "")),
        snippets=snippets(url, base, key, definition) if url and key else [],
        **await now_context(pool, row, line, now, visit.writes) | await history_context(pool, row, line, now),
    )


async def now_context(pool: Pool, row: Record, line: monitor_rows.Line, now: Micros, writes: bool) -> dict[str, Any]:
    """The data of the page's part about the present."""
    monitor_id: int = row["id"]
    definition = load_definition(row["definition"])
    incident = await history.find_incident(pool, monitor_id, line.incident) if line.incident else None
    open_runs = await history.runs(pool, monitor_id, is_open=True, limit=OPEN_RUNS_SHOWN) if line.open_runs else []
    return {
        "line": line,
        "definition": definition,
        "expected": reasons.expected(definition),
        "warnings": reasons.warnings(definition, line.last_at is not None, line.open_runs),
        "incident": incident,
        "open_runs": [run_answer(each) for each in open_runs],
        "fleet": await _fleet(pool, monitor_id, definition),
        "writes": writes,
        "now": now,
    }


async def history_context(pool: Pool, row: Record, line: monitor_rows.Line, now: Micros) -> dict[str, Any]:
    """The data of the page's part about the past."""
    monitor_id: int = row["id"]
    definition = load_definition(row["definition"])
    runs = await history.runs(pool, monitor_id, is_open=False, limit=RUNS_SHOWN)
    incidents = await history.incidents_of_monitor(pool, monitor_id, limit=INCIDENTS_SHOWN)
    found = await history.pings(pool, monitor_id, limit=PINGS_SHOWN)
    return {
        "line": line,
        "definition": definition,
        "runs": [run_answer(each) for each in runs],
        "pings": [ping_answer(each) for each in found],
        "incidents": incidents,
        "incidents_count": incidents[0]["number"] if incidents else 0,
        "weeks": await _calendar(pool, line, definition, now),
        "chart": None if definition.members is not None else await _chart(pool, monitor_id, now),
        "now": now,
    }


async def _fleet(pool: Pool, monitor_id: int, definition: Definition) -> FleetSummary | None:
    if (expected := definition.members) is None:
        return None
    rows = await history.members(pool, monitor_id, "", limit=MEMBERS_SHOWN)
    silent = await history.members(pool, monitor_id, "", silent=True, limit=SILENT_SHOWN)
    stored = await pages.fleet(pool, monitor_id)
    known, gone = len(rows), sum(row["silent_since"] is not None for row in rows)
    if stored is not None and known == MEMBERS_SHOWN:
        known, gone = stored["known"], stored["silent"]
    fleet = Fleet()
    fleet.peak = stored["peak"] if stored is not None else 0
    required = max(known, expected.expected or 0) if expected.min_alive is None else fleet.required(expected)
    return FleetSummary(
        known - gone,
        known,
        required,
        sorted((row["silent_since"], row["last_at"], row["name"]) for row in silent),
        [(row["name"], row["silent_since"] is None) for row in rows],
    )


async def _calendar(pool: Pool, line: monitor_rows.Line, definition: Definition, now: Micros) -> list[list[charts.Day]]:
    bounds = charts.day_bounds(definition.timezone, now)
    has_pings = await pages.days_with_pings(pool, line.id, bounds)
    runs: dict[int, dict[str, int]] = {}
    for row in await pages.runs_by_day(pool, line.id, bounds):
        runs.setdefault(row["day"] - 1, {})[row["verdict"]] = row["runs"]
    troubles = [
        (to_micros(row["opened_at"]), to_micros(row["resolved_at"]) if row["resolved_at"] else now)
        for row in await pages.troubles_of(pool, [line.id], bounds[0])
    ]
    return charts.draw_calendar(bounds, has_pings, runs, troubles, line.created_at, now)


async def _chart(pool: Pool, monitor_id: int, now: Micros) -> tuple[str, charts.Chart] | None:
    """How long runs took; without runs, what pings said they took, or the time between them."""
    runs = await pages.durations(pool, monitor_id, charts.BARS_MAX)
    measured = [
        charts.Measured(
            run["duration"],
            run["verdict"],
            f"{run['run'] or 'run'} {run['verdict']} after {say_duration(round(run['duration'] * SECOND))}",
            f"/runs/{monitor_id}-{run['number']}",
            run["verdict"] == Verdict.SUCCEEDED,
        )
        for run in reversed(runs)
    ]
    if chart := charts.draw_durations(measured, "runs"):
        return "Durations", chart
    since = to_datetime(now - HEARTBEATS_DAYS * monitor_rows.DAY)
    heartbeats = list(reversed(await pages.heartbeats(pool, monitor_id, since, HEARTBEATS_MAX)))
    reported = [
        charts.Measured(each["duration"], each["signal"], f"{each['signal']}, took {each['duration']:g} s")
        for each in heartbeats
        if each["duration"] is not None
    ]
    if chart := charts.draw_durations(reported, "pings with a duration"):
        return "Durations", chart
    gaps = [
        charts.Measured((after["at"] - before["at"]).total_seconds(), after["signal"], f"then {after['signal']}")
        for before, after in itertools.pairwise(heartbeats)
    ]
    chart = charts.draw_durations(gaps, "times between two pings")
    return ("Time between pings", chart) if chart else None


# -------------------------------------------------------------------------------------------------------------- lists


async def runs_page(visit: Visit) -> web.StreamResponse:
    """All runs, the newest first."""
    row = await find(visit)
    asked = visit.query_param("verdict")
    verdict = member_or(Verdict, asked, Verdict.UNKNOWN) if asked else None
    date = visit.query_param("business_date") or None
    page = await RUNS.page(
        LIST_MAX,
        RUNS.place(visit.query_param("before") or None),
        lambda before, limit: history.runs(
            visit.deps.pool, row["id"], before, verdict=verdict, business_date=date, limit=limit
        ),
    )
    runs, given = (
        [run_answer(each) for each in page.rows],
        _given(verdict=verdict, business_date=date, before=page.next_cursor),
    )
    older = address_of("monitors", row["slug"], row["project"], "/runs", **given) if page.next_cursor else None
    return show(visit, "runs.html", monitor=row, runs=runs, verdict=verdict or "", date=date or "", older=older)


async def pings_page(visit: Visit) -> web.StreamResponse:
    """The log of one monitor, the newest first."""
    row = await find(visit)
    signal, run = visit.query_param("signal") or None, visit.query_param("run") or None
    if signal is not None and signal not in ("start", "success", "fail", "log", "progress", "skip", "leave"):
        raise ApiError(404, "There is no such signal.")
    page = await PINGS.page(
        LIST_MAX,
        PINGS.place(visit.query_param("before") or None),
        lambda before, limit: history.pings(visit.deps.pool, row["id"], before, signal=signal, run=run, limit=limit),
    )
    given = _given(signal=signal, run=run, before=page.next_cursor)
    return show(
        visit,
        "pings.html",
        monitor=row,
        pings=[ping_answer(each) for each in page.rows],
        signal=signal or "",
        run=run or "",
        older=address_of("monitors", row["slug"], row["project"], "/pings", **given) if page.next_cursor else None,
    )


def _given(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


# -------------------------------------------------------------------------------------------------------- what one does


async def pause(visit: Visit) -> web.StreamResponse:
    """Pause or resume, as the button says."""
    project_id, slug = await _address(visit)
    drop = visit.form_field("drop") == "yes"
    command = monitors.PauseMonitor(project_id, slug, paused=not visit.form_field("resume"), drop=drop)
    await monitors.pause_monitor(visit.context, command, visit.actor)
    return _back(visit)


async def snooze(visit: Visit) -> web.StreamResponse:
    """Hold back alerts for a while, or no longer."""
    duration = visit.form_field("duration")
    body = validate(requests.Snooze, {"duration": duration} if duration else {})
    project_id, slug = await _address(visit)
    command = monitors.SnoozeMonitor(project_id, slug, duration=body.duration)
    await monitors.snooze_monitor(visit.context, command, visit.actor)
    return _back(visit)


async def ping(visit: Visit) -> web.StreamResponse:
    """One ping by hand."""
    project_id, slug = await _address(visit)
    sent = Ping("success", message=f"sent by hand by {visit.actor}")
    await monitors.ping_monitor(visit.context, monitors.PingMonitor(project_id, slug, sent))
    return _back(visit)


async def delete(visit: Visit) -> web.StreamResponse:
    """Delete the monitor permanently; the name has to be typed."""
    if visit.form_field("confirm") != slug_in(visit):
        raise ApiError(422, "Type the monitor's slug to delete it.")
    project_id, slug = await _address(visit)
    await monitors.delete_monitor(visit.context, monitors.DeleteMonitor(project_id, slug), visit.actor)
    return redirect("/")


async def _address(visit: Visit) -> tuple[int, str]:
    """The project's id and the slug of the monitor that a form is about."""
    return (await project_of(visit, visit.form_field("project") or None)).id, slug_in(visit)


def _back(visit: Visit) -> web.Response:
    return redirect(address_of("monitors", slug_in(visit), visit.form_field("project") or "default"))


PAGES = [
    UiRoute("GET", "/monitors/{slug}", monitor_page),
    UiRoute("GET", "/monitors/{slug}/runs", runs_page),
    UiRoute("GET", "/monitors/{slug}/pings", pings_page),
    UiRoute("POST", "/monitors/{slug}/pause", pause, "write"),
    UiRoute("POST", "/monitors/{slug}/snooze", snooze, "write"),
    UiRoute("POST", "/monitors/{slug}/ping", ping, "write"),
    UiRoute("POST", "/monitors/{slug}/delete", delete, "write"),
]
