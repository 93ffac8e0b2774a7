"""A monitor gets another slug or another project. Its id, keys, pings, runs and incidents stay.

All of a call is one transaction of the caller's (`changes.changing`). The change of kind `move` holds the monitor
before and after it, and the changes of the monitors that refer to it: the engine takes all of them in one step.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg

from offbeat_server.db import sql_loader
from offbeat_server.db.pool import Connection
from offbeat_server.db.repositories import changes, definitions, windows
from offbeat_server.db.repositories.changes import Change
from offbeat_server.engine.model.definition import with_renamed_reference

_SQL = sql_loader.load("moves")
_DEFINITIONS = sql_loader.load("definitions")
FORMER_SLUGS_MAX = 20  # of one monitor; beyond, the oldest is no longer known


class MonitorPlace(NamedTuple):
    """The address of a monitor, with the slug of its project."""

    project_id: int
    project: str
    slug: str


class ReferenceFound(NamedTuple):
    """Something that names a monitor by its slug. `kind`: monitor or window; `field`: after, depends_on or monitors."""

    kind: str
    slug: str
    field: str


async def references_to(connection: Connection, project_id: int, slug: str) -> list[ReferenceFound]:
    """The monitors and maintenance windows of a project that name this slug."""
    found = []
    for row in await connection.fetch(_SQL["referring"], project_id, slug):
        found += [ReferenceFound("monitor", row["slug"], "after")] if row["follows"] else []
        found += [ReferenceFound("monitor", row["slug"], "depends_on")] if row["depends"] else []
    for row in await windows.all_windows(connection, project_id):
        if slug in row["definition"].get("monitors", ()):
            found.append(ReferenceFound("window", row["slug"], "monitors"))
    return found


async def reserved_keys(connection: Connection, row: asyncpg.Record, project_id: int) -> list[str]:
    """The keys of a monitor that begin with the ping key of a project other than this one."""
    keys = [key["key"] for key in row["keys"]]
    found = await connection.fetch(_DEFINITIONS["keys_reserved"], keys, [project_id] * len(keys))
    return [each["key"] for each in found]


async def now_at(connection: asyncpg.Pool | Connection, project_id: int, slug: str) -> asyncpg.Record | None:
    """The id and the present place of a monitor that had this address; None: there is none."""
    return await connection.fetchrow(_SQL["now_at"], project_id, slug)


async def rename(
    connection: Connection,
    row: asyncpg.Record,
    place: MonitorPlace,
    slug: str,
    found: Sequence[ReferenceFound],
    actor: str,
) -> list[Change]:
    """Give a monitor (its stored `row`) a new slug, also in `found`, everything that names it. Returns all changes.

    A window names both slugs while the monitor is renamed, so that it covers the monitor all the time.
    """
    names = [each.slug for each in found if each.kind == "window"]
    done = [await _rename_in_window(connection, place, name, [row["slug"], slug], slug, actor) for name in names]
    others = sorted({each.slug for each in found if each.kind == "monitor"})
    rows = await definitions.stored_monitors(connection, [(place.project_id, each) for each in others])
    rev, *revs = await changes.next_revs(connection, 1 + len(rows))
    references = [[each["id"], number] for each, number in zip(rows, revs, strict=True)]
    before = definitions.document_of(row)
    after = {**before, "slug": slug, "name": slug if before["name"] == row["slug"] else before["name"]}
    done.append(await _write(connection, row, place, place._replace(slug=slug), after, rev, references, actor))
    for other, number in zip(rows, revs, strict=True):
        definition = with_renamed_reference(other["definition"], row["slug"], slug)
        done.append(await _redefine(connection, place.project_id, other, definition, number, actor))
    done += [await _rename_in_window(connection, place, name, [slug], slug, actor) for name in names]
    return done


async def move(
    connection: Connection,
    row: asyncpg.Record,
    old: MonitorPlace,
    new: MonitorPlace,
    found: Sequence[ReferenceFound],
    actor: str,
) -> list[Change]:
    """Put a monitor (its stored `row`) into another project, without its references and those of `found` to it."""
    done = []
    for name in sorted({each.slug for each in found if each.kind == "monitor"}):
        (other,) = await definitions.stored_monitors(connection, [(old.project_id, name)])
        (rev,) = await changes.next_revs(connection, 1)
        definition = _without_reference(other["definition"], row["slug"])
        done.append(await _redefine(connection, old.project_id, other, definition, rev, actor))
    before = definitions.document_of(row)
    definition = {name: value for name, value in before["definition"].items() if name not in ("after", "depends_on")}
    after = {**before, "slug": new.slug, "definition": definition}
    after["name"] = new.slug if before["name"] == row["slug"] else before["name"]
    (rev,) = await changes.next_revs(connection, 1)
    done.append(await _write(connection, row, old, new, after, rev, [], actor))
    await connection.execute(_SQL["move_keys"], row["id"], new.project_id)
    # For the audit log of the project that it leaves. The scheduler passes over changes without a monitor.
    left = Change("move", old.project_id, None, old.slug, _address(old), _address(new))
    await changes.record_one(connection, actor, left)
    return done


async def _write(
    connection: Connection,
    row: asyncpg.Record,
    old: MonitorPlace,
    new: MonitorPlace,
    after: dict[str, Any],
    rev: int,
    references: list[list[int]],
    actor: str,
) -> Change:
    """Write the monitor itself, its former address, and the change."""
    await connection.execute(_DEFINITIONS["take_slugs"], [new.project_id], [new.slug])
    await connection.execute(_SQL["move"], row["id"], new.project_id, new.slug)
    await definitions.update_monitors(connection, [(row["id"], rev, after)])
    await connection.execute(_SQL["note_former"], old.project_id, old.slug, row["id"], FORMER_SLUGS_MAX)
    before = {**definitions.document_of(row), "project_id": old.project_id, "project": old.project}
    moved = {**after, "project_id": new.project_id, "project": new.project, "references": references}
    change = Change("move", new.project_id, row["id"], new.slug, before, moved)
    await changes.record(connection, actor, [change], [rev])
    return change


async def _redefine(
    connection: Connection, project_id: int, row: asyncpg.Record, definition: dict[str, Any], rev: int, actor: str
) -> Change:
    """Give a monitor that refers to the one that moves another definition."""
    before = definitions.document_of(row)
    after = {**before, "definition": definition}
    await definitions.update_monitors(connection, [(row["id"], rev, after)])
    change = Change("monitor", project_id, row["id"], row["slug"], before, after)
    await changes.record(connection, actor, [change], [rev])
    return change


async def _rename_in_window(
    connection: Connection, place: MonitorPlace, name: str, wanted: list[str], slug: str, actor: str
) -> Change:
    """Let a window name these slugs in place of each of them."""
    window = await windows.find_window(connection, place.project_id, name)
    assert window is not None
    monitors = window["definition"]["monitors"]
    at = next(index for index, each in enumerate(monitors) if each in (place.slug, slug))
    kept = [each for each in monitors if each not in (place.slug, slug)]
    definition = {**window["definition"], "monitors": [*kept[:at], *wanted, *kept[at:]]}
    return await windows.put_window(connection, place.project_id, name, definition, actor)


def _address(place: MonitorPlace) -> dict[str, Any]:
    return {"slug": place.slug, "project": place.project}


def _without_reference(stored: Mapping[str, Any], slug: str) -> dict[str, Any]:
    """A stored definition that names this monitor neither in `after` nor in `depends_on`."""
    kept = dict(stored)
    if "after" in kept and kept["after"]["monitor"] == slug:
        del kept["after"]
    if left := [each for each in kept.pop("depends_on", ()) if each != slug]:
        kept["depends_on"] = left
    return kept
