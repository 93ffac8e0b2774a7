"""Use cases of monitors: create, replace, pause, snooze, ping, delete, and provision by a ping."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from offbeat_server.common.errors import CommandError, ConflictError, DefinitionError, NotFoundError
from offbeat_server.common.instants import Micros, to_datetime
from offbeat_server.db.pool import Pool
from offbeat_server.db.read_models import overview
from offbeat_server.db.repositories import definitions, monitor_moves
from offbeat_server.db.repositories.changes import NO_REV, changing
from offbeat_server.db.repositories.definitions import WantedKey, WantedMonitor, put_monitors
from offbeat_server.db.repositories.references import dangling, reference_problems
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.model.ping import Ping
from offbeat_server.engine.model.slugs import slug_of
from offbeat_server.services.context import Context
from offbeat_server.services.documents import MonitorBody
from offbeat_server.services.repeatable_creation import Repeatable, created_before, remember


class PutMonitor(NamedTuple):
    """Create or replace a monitor. `expected_rev`: the revision to replace, ANY_REV, NO_REV, or None for no check."""

    project_id: int
    slug: str
    body: MonitorBody
    expected_rev: int | None = None


class MonitorPut(NamedTuple):
    """Whether the monitor is new; otherwise it was changed, or was as wanted already."""

    created: bool


class CreateMonitor(NamedTuple):
    """Create a monitor. Without a slug, one is made of the name."""

    project_id: int
    slug: str | None
    body: MonitorBody
    repeatable: Repeatable | None = None


class MonitorCreated(NamedTuple):
    """The slug of the monitor; `repeated` if an earlier request with the same key has created it."""

    slug: str
    repeated: bool


class DeleteMonitor(NamedTuple):
    """Delete a monitor and its keys; `expected_rev` as in PutMonitor."""

    project_id: int
    slug: str
    expected_rev: int | None = None


class PauseMonitor(NamedTuple):
    """Pause monitoring, or resume it. `drop`: a pause also resolves the open incident and forgets awaited runs."""

    project_id: int
    slug: str
    paused: bool
    drop: bool = False


class SnoozeMonitor(NamedTuple):
    """Hold back alerts until an instant or for a duration in microseconds; with neither, end the snooze."""

    project_id: int
    slug: str
    until: Micros | None = None
    duration: Micros | None = None


class PingMonitor(NamedTuple):
    """Record a ping for a monitor."""

    project_id: int
    slug: str
    ping: Ping


class ProvisionMonitor(NamedTuple):
    """Create the monitor that a ping addresses, or follow what its client declares.

    `declared`: the fields that the client sends. A new monitor starts from the one called `like`, if there is one,
    else from `defaults`. Without `create` it is made only if there is one. `may_create` is asked last, under the lock,
    and counts what it allows. `monitors_max` is of the project.
    """

    project_id: int
    slug: str
    like: str | None
    create: bool
    declared: Mapping[str, Any]
    defaults: Mapping[str, Any]
    may_create: Callable[[], bool]
    monitors_max: int


# `unknown`: there is none, and none may be made. `full`: too many were made this minute. `crowded`: the project has
# too many.
Provisioned = Literal["created", "changed", "unchanged", "unknown", "full", "crowded"]


async def put_monitor(context: Context, command: PutMonitor, actor: str) -> MonitorPut:
    """Create or replace a monitor. One that is as wanted is not written.

    Raises PreconditionError if `expected_rev` does not hold, DefinitionError that names the wrong fields.
    """
    wanted = wanted_monitor(command.project_id, command.slug, command.body, expected_rev=command.expected_rev)
    async with changing(context.pool) as connection:
        written = await put_monitors(connection, [wanted], actor)
        if problems := await reference_problems(connection, [wanted]):
            raise DefinitionError(problems)
    if written:
        context.changed()
    return MonitorPut(created=bool(written) and written[0].before is None)


async def create_monitor(context: Context, command: CreateMonitor, actor: str) -> MonitorCreated:
    """Create a monitor.

    Raises PreconditionError if there is one of this slug, DefinitionError that names the wrong fields, CommandError
    without a slug and a name to make it of.
    """
    slug = command.slug or _slug_from(command.body.name)
    wanted = wanted_monitor(command.project_id, slug, command.body, expected_rev=NO_REV)
    async with changing(context.pool) as connection:
        earlier = await created_before(connection, command.repeatable)
        if earlier is None:
            await put_monitors(connection, [wanted], actor)
            if problems := await reference_problems(connection, [wanted]):
                raise DefinitionError(problems)
            await remember(connection, command.repeatable, slug)
    if earlier is not None:
        return MonitorCreated(earlier, repeated=True)
    context.changed()
    return MonitorCreated(slug, repeated=False)


async def delete_monitor(context: Context, command: DeleteMonitor, actor: str) -> None:
    """Delete a monitor and its keys.

    Raises NotFoundError, PreconditionError if `expected_rev` does not hold, ConflictError while another monitor refers
    to it.
    """
    address = (command.project_id, command.slug)
    async with changing(context.pool) as connection:
        if not await definitions.delete_monitors(connection, [address], actor, command.expected_rev):
            raise NotFoundError(f"monitor {command.slug}")
        if problems := await dangling(connection, [address]):
            raise ConflictError("; ".join(problem.reason for problem in problems), problems)
    context.changed()


async def pause_monitor(context: Context, command: PauseMonitor, actor: str) -> None:
    """Pause monitoring until it is resumed, or resume it. Pings are recorded in any case. Raises NotFoundError."""
    kind = "pause" if command.paused else "resume"
    dropped = {"drop": True} if command.paused and command.drop else {}
    await _alter(context, command.project_id, command.slug, actor, kind, paused=command.paused, **dropped)


async def snooze_monitor(context: Context, command: SnoozeMonitor, actor: str) -> None:
    """Hold back alerts, or end that. Raises NotFoundError."""
    until = command.until if command.duration is None else context.now() + command.duration
    at = None if until is None else to_datetime(until)
    await _alter(context, command.project_id, command.slug, actor, "snooze", snoozed_until=at)


async def ping_monitor(context: Context, command: PingMonitor) -> None:
    """Record a ping; it is committed when this returns. Raises NotFoundError, UnavailableError."""
    monitor_id = await overview.monitor_id(context.pool, command.project_id, command.slug)
    if monitor_id is None:
        raise NotFoundError(f"monitor {command.slug}")
    await context.append(monitor_id, command.project_id, command.ping)


async def provision_monitor(pool: Pool, command: ProvisionMonitor, actor: str) -> Provisioned:
    """Create the monitor of a ping, or change it as its client declares. Raises DefinitionError."""
    project_id, slug = command.project_id, command.slug
    async with changing(pool) as connection:
        there = await monitor_moves.now_at(connection, project_id, slug)
        if there is not None and there["project_id"] != project_id:
            return "unchanged"  # clients with a ping key of its former project may ping it, and not change it
        slug = slug if there is None else there["slug"]
        stored = await definitions.stored_definition(connection, project_id, slug)
        like = None
        if stored is None and command.like is not None:
            like = await definitions.stored_definition(connection, project_id, command.like)
        if stored is None and like is None and not command.create:
            return "unknown"
        if stored is not None:
            stored.setdefault("complete", "trust")  # only what the client declares may change
        base = stored if stored is not None else like if like is not None else command.defaults
        fields = {**base, **command.declared}
        definition = read_definition({name: value for name, value in fields.items() if value is not None})
        if stored is None and await definitions.has_monitors(connection, project_id, command.monitors_max):
            return "crowded"
        if stored is None and not command.may_create():
            return "full"
        written = await put_monitors(connection, [WantedMonitor(project_id, slug, definition)], actor)
    if stored is None:
        return "created"
    return "changed" if written else "unchanged"


def wanted_monitor(
    project_id: int, slug: str, body: MonitorBody, path: str = "", expected_rev: int | None = None
) -> WantedMonitor:
    """A monitor as the repository takes it. `path` is how problems name it, "" for the only one."""
    keys = None if body.keys is None else tuple(WantedKey(each.key, each.signal, each.stage) for each in body.keys)
    return WantedMonitor(project_id, slug, body.definition(), body.key, keys, body.paused, path, expected_rev)


async def _alter(context: Context, project_id: int, slug: str, actor: str, kind: str, **fields: Any) -> None:
    async with changing(context.pool) as connection:
        change = await definitions.alter_monitor(connection, project_id, slug, actor, kind, **fields)
    if change is None:
        raise NotFoundError(f"monitor {slug}")
    context.changed()


def _slug_from(name: str | None) -> str:
    slug = slug_of((name or "")[:100])
    if slug is None:
        raise CommandError("Give a slug, or a name with a letter or digit from which one can be made.")
    return slug
