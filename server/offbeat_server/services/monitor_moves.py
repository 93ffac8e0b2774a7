"""Use case: give a monitor another slug, or move it to another project, with its id, keys, runs and incidents.

Within a project, everything that names the monitor gets the new slug. Between projects nothing can name it, so the move
is refused while something does, unless the references are to be dropped.
"""

from typing import NamedTuple

from offbeat_server.common.errors import ConflictError, NotFoundError, Problem
from offbeat_server.db.pool import Connection, Record
from offbeat_server.db.repositories import definitions, monitor_moves, projects
from offbeat_server.db.repositories.changes import Change, changing
from offbeat_server.db.repositories.definitions import RESERVED
from offbeat_server.db.repositories.monitor_moves import MonitorPlace, ReferenceFound
from offbeat_server.services.context import Context
from offbeat_server.services.revisions import check_rev


class MoveMonitor(NamedTuple):
    """Rename or move a monitor: from `old` to `new`. `drop_references`: those that a move to another project breaks.

    `expected_rev`: the revision that it must have, ANY_REV, or None for no check.
    """

    old: MonitorPlace
    new: MonitorPlace
    drop_references: bool = False
    expected_rev: int | None = None


class MoveDone(NamedTuple):
    """The references that were changed (within a project) or dropped. None of anything: it was there already."""

    references: list[ReferenceFound]


async def move_monitor(context: Context, command: MoveMonitor, actor: str) -> MoveDone:
    """Rename or move a monitor. One that is at the new address already is left as it is.

    Raises NotFoundError, PreconditionError if `expected_rev` does not hold, ConflictError if the address is taken,
    if a channel is missing in the new project, or if references would break.
    """
    async with changing(context.pool) as connection:
        moved, _ = await move_within(connection, command, actor)
    context.changed()
    return moved


async def move_within(connection: Connection, command: MoveMonitor, actor: str) -> tuple[MoveDone, list[Change]]:
    """The same in a transaction of the caller's, with the changes."""
    old, new = command.old, command.new
    row = await _stored(connection, old)
    if row is None:
        there = await monitor_moves.now_at(connection, old.project_id, old.slug)
        if there is not None and (there["project_id"], there["slug"]) == (new.project_id, new.slug):
            return MoveDone([]), []  # an earlier request has done it
        raise NotFoundError(f"monitor {old.slug}")
    check_rev(command.expected_rev, row, f"monitor {old.slug}")
    if (old.project_id, old.slug) == (new.project_id, new.slug):
        return MoveDone([]), []
    if await _stored(connection, new) is not None:
        raise ConflictError(f"There is a monitor {new.slug} in the project {new.project}: choose another slug.")
    found = await monitor_moves.references_to(connection, old.project_id, old.slug)
    if old.project_id == new.project_id:
        return MoveDone(found), await monitor_moves.rename(connection, row, old, new.slug, found, actor)
    await _check_move(connection, row, command, found)
    dropped = [*_own_references(row), *(each for each in found if each.kind == "monitor")]
    return MoveDone(dropped), await monitor_moves.move(connection, row, old, new, found, actor)


async def _stored(connection: Connection, place: MonitorPlace) -> Record | None:
    rows = await definitions.stored_monitors(connection, [(place.project_id, place.slug)])
    return rows[0] if rows else None


def _own_references(row: Record) -> list[ReferenceFound]:
    """The references of the monitor itself."""
    definition = row["definition"]
    return [ReferenceFound("monitor", row["slug"], name) for name in ("after", "depends_on") if name in definition]


async def _check_move(connection: Connection, row: Record, command: MoveMonitor, found: list[ReferenceFound]) -> None:
    """Raise ConflictError for everything that stands against a move to another project."""
    project = command.new.project
    have = {each["slug"] for each in await projects.all_channels(connection, command.new.project_id)}
    missing = [each for each in row["definition"].get("channels") or () if each not in have]
    problems = [
        Problem(
            "channels",
            f"there is no channel {each!r} in the project {project}: create it, or remove it from the monitor",
        )
        for each in missing
    ]
    if await monitor_moves.reserved_keys(connection, row, command.new.project_id):
        problems.append(Problem("keys", RESERVED))
    if not command.drop_references:
        what = "remove it, or move with drop_references=true"
        problems += [
            Problem(
                each.field, f"{each.field} of this monitor names monitors of the project {command.old.project}: {what}"
            )
            for each in _own_references(row)
        ]
        problems += [
            Problem(each.field, f"{each.kind} {each.slug} names this monitor in {each.field}: {what}") for each in found
        ]
    if problems:
        raise ConflictError("; ".join(each.reason for each in problems), problems)
