"""Monitors and their keys as they are defined: created, changed, paused and deleted, one or ten thousand at a time.

All of a call is one transaction of the caller's (`changes.changing`), and all is set-based: a few round trips per two
hundred monitors and never one per monitor. Every error is found before anything is stored, and named by field.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

import asyncpg
import orjson

from offbeat_server.common.errors import DefinitionError, PreconditionError, Problem
from offbeat_server.common.long_work import chunked
from offbeat_server.db import sql_loader
from offbeat_server.db.pool import Connection
from offbeat_server.db.repositories import changes
from offbeat_server.db.repositories.changes import ANY_REV, NO_REV, Change
from offbeat_server.engine.model.definition import NEWER_FIELDS, Definition, ProjectSlug
from offbeat_server.engine.model.ping import Signal

_SQL = sql_loader.load("definitions")
RESERVED = "this key is, or begins with, the ping key of another project; choose another key"
_JSON_FIELDS = ("definition", "newer_fields")
PART_MONITORS = 200  # read, planned and written in one go: some 5 ms of the loop


class WantedKey(NamedTuple):
    """A key beside the main one. Without `key`, one that serves the same signal and stage is kept, or one is made."""

    key: str | None = None
    signal: Signal | None = None
    stage: str | None = None


class WantedMonitor(NamedTuple):
    """The wanted state of a monitor. None for `key`, `keys` and `paused`: as it is, or made.

    `path` is how problems name it ("" for the only one); `expected_rev` is what its revision must be; None: any, or
    none.
    """

    project_id: int
    slug: str
    definition: Definition
    key: str | None = None
    keys: tuple[WantedKey, ...] | None = None
    paused: bool | None = None
    path: str = ""
    expected_rev: int | None = None

    def at(self, field: str) -> str:
        """The name of one of its fields in a problem."""
        return f"{self.path}.{field}" if self.path else field


class _Plan(NamedTuple):
    wanted: WantedMonitor
    stored: asyncpg.Record | None
    before: dict[str, Any] | None
    after: dict[str, Any]


async def put_monitors(connection: Connection, wanted: Sequence[WantedMonitor], actor: str) -> list[Change]:
    """Create or replace monitors. Returns what changed; a monitor that is as wanted is not written at all.

    Raises DefinitionError for keys that are taken and slugs given twice, PreconditionError where `expected_rev` does
    not hold. The caller checks references (`reference_problems`) once everything of its transaction is written.
    """
    if problems := await _given_twice(wanted):
        raise DefinitionError(problems)
    plans: list[_Plan] = []
    async for part in chunked(wanted, PART_MONITORS):
        rows = await connection.fetch(_SQL["by_slug"], [w.project_id for w in part], [w.slug for w in part])
        stored = {(row["project_id"], row["slug"]): row for row in rows}
        planned = [_plan(w, stored.get((w.project_id, w.slug))) for w in part]
        plans += [plan for plan in planned if plan.before != plan.after]
    if problems := await _write_keys_away(connection, plans):
        raise DefinitionError(problems)
    written = []
    async for chunk in chunked(plans, PART_MONITORS):
        written += await _write(connection, chunk, actor)
    return written


async def stored_definition(connection: Connection, project_id: int, slug: str) -> dict[str, Any] | None:
    """The definition of one monitor as it is stored; None when there is no such monitor."""
    row = await connection.fetchrow(_SQL["by_slug"], [project_id], [slug])
    return None if row is None else {**row["definition"], **row["newer_fields"]}


async def stored_monitors(connection: Connection, addresses: Sequence[ProjectSlug]) -> list[asyncpg.Record]:
    """The monitors at these addresses, whole, as a change must record them."""
    return await connection.fetch(_SQL["by_slug"], [each[0] for each in addresses], [each[1] for each in addresses])


async def has_monitors(connection: Connection, project_id: int, count: int) -> bool:
    """Whether a project has at least this number of monitors."""
    return bool(await connection.fetchval(_SQL["has_monitors"], project_id, count))


async def alter_monitor(
    connection: Connection, project_id: int, slug: str, actor: str, kind: str, **fields: Any
) -> Change | None:
    """Set `paused` or `snoozed_until` (a datetime or None) of one monitor; None when there is no such monitor.

    `drop` of a pause is in the change alone: the scheduler acts on it once.
    """
    row = await connection.fetchrow(_SQL["by_slug"], [project_id], [slug])
    if row is None:
        return None
    before = document_of(row)
    after = {**before, **{name: _iso(value) if name == "snoozed_until" else value for name, value in fields.items()}}
    change = Change(kind, project_id, row["id"], slug, before, after)
    if before != after:
        (rev,) = await changes.next_revs(connection, 1)
        await update_monitors(connection, [(row["id"], rev, after)])
        await changes.record(connection, actor, [change], [rev])
    return change


async def delete_monitors(
    connection: Connection, wanted: Sequence[tuple[int, str]], actor: str, expected_rev: int | None = None
) -> list[Change]:
    """Delete monitors by project and slug; what does not exist is passed over.

    Raises PreconditionError if `expected_rev` does not hold.
    """
    deleted = []
    async for part in chunked(wanted, PART_MONITORS):
        rows = await connection.fetch(_SQL["by_slug"], [each[0] for each in part], [each[1] for each in part])
        for row in rows:
            _expect_rev(expected_rev, row, row["slug"])
        done = [Change("monitor", row["project_id"], row["id"], row["slug"], document_of(row), None) for row in rows]
        await changes.record(connection, actor, done, await changes.next_revs(connection, len(done)))
        await connection.execute(_SQL["delete_monitors"], [row["id"] for row in rows])
        deleted += done
    return deleted


async def slugs_of(connection: Connection, project_id: int) -> list[str]:
    """The slugs of all monitors of a project."""
    return [row["slug"] for row in await connection.fetch(_SQL["slugs_of"], project_id)]


async def _given_twice(wanted: Sequence[WantedMonitor]) -> list[Problem]:
    seen: set[tuple[int, str]] = set()
    problems = []
    async for part in chunked(wanted, PART_MONITORS):
        for each in part:
            address = (each.project_id, each.slug)
            if address in seen:
                problems.append(Problem(each.at("slug"), f"given twice: {each.slug}"))
            seen.add(address)
            keys = {each.key}
            for index, key in enumerate(each.keys or ()):
                if key.key is not None and key.key in keys:
                    problems.append(Problem(each.at(f"keys.{index}.key"), "the same key is given twice"))
                keys.add(key.key)
    return problems


def _plan(wanted: WantedMonitor, row: asyncpg.Record | None) -> _Plan:
    _expect_rev(wanted.expected_rev, row, wanted.slug)
    before = None if row is None else document_of(row)
    definition = wanted.definition.dump()
    # Name and tags are columns: without them equal expectations are equal texts, and the engine holds each once.
    name, tags = definition.pop("name", None) or wanted.slug, definition.pop("tags", [])
    newer = {field: definition.pop(field) for field in NEWER_FIELDS if field in definition}
    after = {
        "slug": wanted.slug,
        "name": name,
        "tags": tags,
        "paused": wanted.paused if wanted.paused is not None else bool(before and before["paused"]),
        "snoozed_until": before["snoozed_until"] if before else None,
        "created_at": before["created_at"] if before else None,
        "definition": definition,
        "newer_fields": newer,
        "keys": _plan_keys(wanted, before["keys"] if before else []),
    }
    return _Plan(wanted, row, before, after)


def _plan_keys(wanted: WantedMonitor, have: list[dict[str, Any]]) -> list[dict[str, Any]]:
    main = next((key for key in have if key["main"]), None)
    if main is None or (wanted.key is not None and wanted.key != main["key"]):
        main = {"key": wanted.key or str(uuid4()), "signal": None, "stage": None, "main": True}
    others = [key for key in have if not key["main"] and key["key"] != main["key"]]
    if wanted.keys is None:
        return [main, *others]
    named = {each.key for each in wanted.keys}
    spare = [key for key in others if key["key"] not in named]
    keys = [main]
    for each in wanted.keys:
        value = each.key
        if value is None:
            kept = next((k for k in spare if (k["signal"], k["stage"]) == (each.signal, each.stage)), None)
            if kept is not None:
                spare.remove(kept)
            value = kept["key"] if kept else str(uuid4())
        keys.append({"key": value, "signal": each.signal, "stage": each.stage, "main": False})
    return sorted(keys, key=_key_order)


async def _write_keys_away(connection: Connection, plans: Sequence[_Plan]) -> list[Problem]:
    """Delete the keys that go or change, then name those of the new ones that are taken."""
    gone: list[str] = []
    new: dict[str, tuple[str, int]] = {}  # key -> field and project
    problems = []
    async for part in chunked(plans, PART_MONITORS):
        for plan in part:
            before = {key["key"]: key for key in plan.before["keys"]} if plan.before else {}
            after = {key["key"]: key for key in plan.after["keys"]}
            gone += [value for value, key in before.items() if after.get(value) != key]
            for value, key in after.items():
                if before.get(value) == key:
                    continue
                field = plan.wanted.at("key" if key["main"] else _field_of(plan.wanted, value))
                if value in new:
                    problems.append(Problem(field, f"the same key is given twice ({new[value][0]})"))
                new[value] = field, plan.wanted.project_id
    async for chunk in chunked(gone, PART_MONITORS):
        await connection.execute(_SQL["delete_keys"], chunk)
    async for added in chunked(list(new), PART_MONITORS):
        taken = await connection.fetch(_SQL["keys_taken"], added)
        problems += [Problem(new[row["key"]][0], "this key already leads to another monitor") for row in taken]
        # A client with another project's ping key may ping there, and must not receive pings that others send there.
        reserved = await connection.fetch(_SQL["keys_reserved"], added, [new[key][1] for key in added])
        problems += [Problem(new[row["key"]][0], RESERVED) for row in reserved]
    return problems


def _field_of(wanted: WantedMonitor, value: str) -> str:
    return next((f"keys.{index}.key" for index, each in enumerate(wanted.keys or ()) if each.key == value), "keys")


async def _write(connection: Connection, plans: Sequence[_Plan], actor: str) -> list[Change]:
    revs = await changes.next_revs(connection, len(plans))
    ids = await _insert(connection, [(p, rev) for p, rev in zip(plans, revs, strict=True) if p.stored is None])
    await update_monitors(
        connection, [(p.stored["id"], r, p.after) for p, r in zip(plans, revs, strict=True) if p.stored]
    )
    written, keys = [], []
    for plan in plans:
        project_id, slug = plan.wanted.project_id, plan.wanted.slug
        monitor_id = plan.stored["id"] if plan.stored else ids[project_id, slug]
        written.append(Change("monitor", project_id, monitor_id, slug, plan.before, plan.after))
        before = plan.before["keys"] if plan.before else []
        keys += [(monitor_id, project_id, key) for key in plan.after["keys"] if key not in before]
    if keys:
        await connection.execute(
            _SQL["insert_keys"],
            [monitor_id for monitor_id, _, _ in keys],
            [project_id for _, project_id, _ in keys],
            *([key[field] for _, _, key in keys] for field in ("key", "main", "signal", "stage")),
        )
    await changes.record(connection, actor, written, revs)
    return written


async def _insert(connection: Connection, plans: Sequence[tuple[_Plan, int]]) -> dict[tuple[int, str], int]:
    if not plans:
        return {}
    rows = await connection.fetch(
        _SQL["insert_monitors"],
        [plan.wanted.project_id for plan, _ in plans],
        [rev for _, rev in plans],
        *([plan.after[field] for plan, _ in plans] for field in ("slug", "name")),
        [" ".join(plan.after["tags"]) for plan, _ in plans],
        [plan.after["paused"] for plan, _ in plans],
        *([orjson.dumps(plan.after[field]).decode() for plan, _ in plans] for field in _JSON_FIELDS),
    )
    await connection.execute(_SQL["take_slugs"], [row["project_id"] for row in rows], [row["slug"] for row in rows])
    ids = {(row["project_id"], row["slug"]): row for row in rows}
    for plan, _ in plans:
        plan.after["created_at"] = _iso(ids[plan.wanted.project_id, plan.wanted.slug]["created_at"])
    return {address: row["id"] for address, row in ids.items()}


async def update_monitors(connection: Connection, rows: Sequence[tuple[int, int, dict[str, Any]]]) -> None:
    """Write monitors as changes record them: id, number of the change, values after it."""
    if not rows:
        return
    await connection.execute(
        _SQL["update_monitors"],
        [monitor_id for monitor_id, _, _ in rows],
        [rev for _, rev, _ in rows],
        [after["name"] for _, _, after in rows],
        [" ".join(after["tags"]) for _, _, after in rows],
        [after["paused"] for _, _, after in rows],
        [datetime.fromisoformat(at) if (at := after["snoozed_until"]) else None for _, _, after in rows],
        *([orjson.dumps(after[field]).decode() for _, _, after in rows] for field in _JSON_FIELDS),
    )


def document_of(row: asyncpg.Record) -> dict[str, Any]:
    """A stored monitor as a change records it."""
    return {
        "slug": row["slug"],
        "name": row["name"],
        "tags": row["tags"],
        "paused": row["paused"],
        "snoozed_until": _iso(row["snoozed_until"]),
        "created_at": _iso(row["created_at"]),
        "definition": row["definition"],
        "newer_fields": row["newer_fields"],
        "keys": sorted(row["keys"] or [], key=_key_order),
    }


def _key_order(key: dict[str, Any]) -> tuple[bool, str, str, str]:
    return (not key["main"], key["signal"] or "", key["stage"] or "", key["key"])


def _expect_rev(expected: int | None, row: asyncpg.Record | None, slug: str) -> None:
    if expected is None:
        return
    if expected == NO_REV:
        if row is not None:
            raise PreconditionError(f"{slug} exists already")
        return
    if row is None:
        raise PreconditionError(f"there is no monitor {slug} to change: send no condition to create it")
    if expected not in (ANY_REV, row["rev"]):
        raise PreconditionError(f"{slug} was changed by another request: its revision is {row['rev']}")


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
