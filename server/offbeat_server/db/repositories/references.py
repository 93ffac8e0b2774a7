"""Monitors name monitors and channels by slug: these must exist, and no monitors may wait for one another in a circle.

Checked once at the end of a transaction of changes, when everything it creates and deletes is written: so the order in
which a file lists things does not matter.
"""

from collections.abc import Sequence

from offbeat_server.common.errors import Problem
from offbeat_server.common.long_work import chunked
from offbeat_server.db import sql_loader
from offbeat_server.db.pool import Connection
from offbeat_server.db.repositories.definitions import PART_MONITORS, WantedMonitor
from offbeat_server.engine.model.definition import ProjectSlug

_SQL = sql_loader.load("definitions")
PROBLEMS_MAX = 100  # more of the same kind do not help


async def reference_problems(connection: Connection, wanted: Sequence[WantedMonitor]) -> list[Problem]:
    """Return the problems of the references of these monitors, as they are written now."""
    channels: dict[ProjectSlug, str] = {}
    monitors: dict[ProjectSlug, str] = {}
    async for part in chunked(wanted, PART_MONITORS):
        for each in part:
            definition = each.definition
            for index, slug in enumerate(definition.channels or ()):
                channels.setdefault((each.project_id, slug), each.at(f"channels.{index}"))
            for index, slug in enumerate(definition.depends_on):
                monitors.setdefault((each.project_id, slug), each.at(f"depends_on.{index}"))
            if definition.after is not None:
                monitors.setdefault((each.project_id, definition.after.monitor), each.at("after.monitor"))
    problems = await _unknown(connection, "channels_known", channels, "there is no channel")
    problems += await _unknown(connection, "slugs_known", monitors, "there is no monitor")
    if monitors and not problems:
        problems = await _circles(connection, wanted)
    return problems[:PROBLEMS_MAX]


async def dangling(connection: Connection, deleted: Sequence[ProjectSlug]) -> list[Problem]:
    """Monitors that still refer to one of `deleted`."""
    gone = set(deleted)
    return [
        Problem("", f"{slug} refers to {to}: change it first")
        for (project_id, slug), targets in (await _links(connection, {address[0] for address in gone})).items()
        for to in targets
        if (project_id, to) in gone
    ][:PROBLEMS_MAX]


async def _unknown(connection: Connection, query: str, named: dict[ProjectSlug, str], what: str) -> list[Problem]:
    if not named:
        return []
    rows = await connection.fetch(_SQL[query], [address[0] for address in named], [address[1] for address in named])
    known = {(row["project_id"], row["slug"]) for row in rows}
    return [Problem(field, f"{what} {address[1]!r}") for address, field in named.items() if address not in known]


async def _links(connection: Connection, project_ids: set[int]) -> dict[ProjectSlug, list[str]]:
    if not project_ids:
        return {}
    links = {}
    for row in await connection.fetch(_SQL["links"], list(project_ids)):
        links[row["project_id"], row["slug"]] = [*(row["depends_on"] or ()), *([row["after"]] if row["after"] else [])]
    return links


async def _circles(connection: Connection, wanted: Sequence[WantedMonitor]) -> list[Problem]:
    """One problem for each of `wanted` that reaches itself. Every monitor is left behind once: linear in all."""
    links = await _links(connection, {each.project_id for each in wanted})
    finished: set[ProjectSlug] = set()
    problems = []
    async for part in chunked(wanted, PART_MONITORS):
        for each in part:
            if circle := _circle_from((each.project_id, each.slug), links, finished):
                field = "after.monitor" if each.definition.after and not each.definition.depends_on else "depends_on"
                problems.append(
                    Problem(each.at(field), "must not lead back to the same monitor: " + " → ".join(circle))
                )
    return problems


def _circle_from(start: ProjectSlug, links: dict[ProjectSlug, list[str]], finished: set[ProjectSlug]) -> list[str]:
    """The slugs of a circle that is met on the way from `start`, or nothing. Depth first, without recursion."""
    if start in finished or start not in links:
        return []
    project_id = start[0]
    path, on_path = [start[1]], {start[1]}
    pending = [iter(links[start])]
    while pending:
        slug = next(pending[-1], None)
        if slug is None:
            pending.pop()
            left = path.pop()
            on_path.discard(left)
            finished.add((project_id, left))
        elif slug in on_path:
            return [*path[path.index(slug) :], slug]
        elif (project_id, slug) in links and (project_id, slug) not in finished:
            path.append(slug)
            on_path.add(slug)
            pending.append(iter(links[project_id, slug]))
    return []
