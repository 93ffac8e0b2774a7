"""A monitor in one line, as the overview and its live updates show it: how it is now, and its last thirty days.

The version of a line says whether a browser shows the same; page and live updates make it from the same few facts.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from zlib import crc32

from offbeat_server.common.instants import SECOND, Micros, to_datetime, to_micros
from offbeat_server.common.plural import plural
from offbeat_server.db.pool import Pool, Record
from offbeat_server.db.read_models import overview, pages
from offbeat_server.engine.model.enums import Status
from offbeat_server.web.framework.monitor_status import status_of_row

DAY: Micros = 86_400 * SECOND
STRIP_DAYS = 30
CELL, GAP, TALL, SHORT = 4, 2, 16, 5  # pixels of the strip


class Strip(NamedTuple):
    """The last days as paths of an SVG: low marks for days without trouble, tall ones for days with it."""

    well: str
    trouble: str
    label: str


class Line(NamedTuple):
    """A monitor as it is now."""

    id: int
    project_id: int
    project: str
    slug: str
    name: str
    tags: list[str]
    status: str
    since: Micros | None
    last_at: Micros | None
    due_at: Micros | None
    deadline_at: Micros | None
    open_runs: int
    incident: int | None
    snoozed: bool
    created_at: Micros
    version: str


def line_of(row: Record, pulse: Record | None, now: Micros) -> Line:
    """The line for a row of `overview.monitors` and one of `pages.pulse`."""
    seen = status_of_row(row, now)
    return Line(
        row["id"],
        row["project_id"],
        row["project"],
        row["slug"],
        row["name"],
        row["tags"],
        seen.status,
        _micros(row["since"]),
        _micros(row["last_at"]),
        seen.due_at,
        seen.deadline_at,
        row["open_runs"],
        row["incident"],
        row["snoozed_until"] is not None and to_micros(row["snoozed_until"]) > now,
        to_micros(row["created_at"]),
        version_of(pulse, seen.status == Status.LATE) if pulse is not None and _agree(row, pulse) else "0",
    )


def version_of(pulse: Record, late: bool) -> str:
    """A short text that differs if anything that is shown differs."""
    return f"{crc32(repr(tuple(pulse.values())).encode()):x}{'l' if late else ''}"


def _agree(row: Record, pulse: Record) -> bool:
    """Whether nothing has happened between the two reads; else the line is sent again at once."""
    return all(row[name] == pulse[name] for name in ("rev", "last_at", "incident", "status"))


async def read_lines(pool: Pool, rows: Sequence[Record], now: Micros) -> list[Line]:
    """The lines of rows of `overview.monitors` that were just read."""
    pulses = {row["id"]: row for row in await pages.pulse(pool, [row["id"] for row in rows])}
    return [line_of(row, pulses.get(row["id"]), now) for row in rows]


async def fresh_lines(pool: Pool, ids: Sequence[int], pulses: Mapping[int, Record], now: Micros) -> dict[int, Line]:
    """The lines of these monitors."""
    rows = await overview.monitors(pool, ids=ids, limit=len(ids))
    return {row["id"]: line_of(row, pulses.get(row["id"]), now) for row in rows}


async def strips(pool: Pool, lines: Iterable[Line], now: Micros) -> dict[int, Strip]:
    """The strips of these monitors, of one read."""
    by_id = {line.id: line for line in lines}
    began = now - STRIP_DAYS * DAY
    troubles: dict[int, list[tuple[Micros, Micros]]] = {}
    for row in await pages.troubles_of(pool, list(by_id), to_datetime(began)):
        ended = to_micros(row["resolved_at"]) if row["resolved_at"] else now
        troubles.setdefault(row["monitor_id"], []).append((to_micros(row["opened_at"]), ended))
    return {id: strip_of(troubles.get(id, []), line, now) for id, line in by_id.items()}


def strip_of(troubles: Sequence[tuple[Micros, Micros]], line: Line, now: Micros) -> Strip:
    """Thirty marks, the newest at the right; none for days before the monitor was there, or if it was never pinged."""
    if line.last_at is None and not troubles:
        return Strip("", "", "no pings yet")
    began, created_at = now - STRIP_DAYS * DAY, line.created_at
    bad = [False] * STRIP_DAYS
    down = 0
    for opened, ended in troubles:
        first, last = max(0, (opened - began) // DAY), min(STRIP_DAYS - 1, (ended - began) // DAY)
        for day in range(first, last + 1):
            bad[day] = True
        down += max(0, ended - max(opened, began))
    well, trouble = [], []
    for day in range(STRIP_DAYS):
        if began + (day + 1) * DAY <= created_at and not bad[day]:
            continue
        x = day * (CELL + GAP)
        if bad[day]:
            trouble.append(f"M{x} 0h{CELL}v{TALL}h-{CELL}z")
        else:
            well.append(f"M{x} {TALL - SHORT}h{CELL}v{SHORT}h-{CELL}z")
    days, known = sum(bad), len(well) + len(trouble)
    of = plural(known, "day")
    label = f"trouble on {days} of {of}" if days else f"{of} without trouble"
    return Strip("".join(well), "".join(trouble), label)


def _micros(at: datetime | None) -> Micros | None:
    return None if at is None else to_micros(at)
