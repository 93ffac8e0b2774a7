"""A whole configuration at once: projects, channels, windows and monitors as a file lists them, all of it or nothing.

Everything is read before the changes lock is taken, then written set-based; a dry run does the same work and undoes it,
so what it says is what would happen. `POST /apply` and `--config` at the start use it.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from offbeat.cli.config_file import read_config
from offbeat_server.common.errors import DefinitionError, Problem, SettingsError
from offbeat_server.common.long_work import chunked, gc_paused
from offbeat_server.db.pool import Connection
from offbeat_server.db.repositories import projects, windows
from offbeat_server.db.repositories.changes import Change, changing
from offbeat_server.db.repositories.definitions import (
    PART_MONITORS,
    WantedMonitor,
    delete_monitors,
    put_monitors,
    slugs_of,
)
from offbeat_server.db.repositories.references import dangling, reference_problems
from offbeat_server.engine.model.definition import Slug
from offbeat_server.engine.model.definition_problems import problems_of
from offbeat_server.services.channels import ChannelPut, PutChannel, write_channel
from offbeat_server.services.config_diff import Action, FieldDifference, action_of, field_changes
from offbeat_server.services.context import ChannelKinds, Context
from offbeat_server.services.documents import ListedChannel, ListedMonitor, ListedProject, ListedWindow
from offbeat_server.services.monitors import wanted_monitor
from offbeat_server.services.projects import PutProject, write_project
from offbeat_server.services.windows import stored_window

MONITORS_MAX = 20_000  # of one apply; more come in parts
PROBLEMS_MAX = 200
_NOT_AT_START = (
    "[generate] is not possible in --config, because nothing shows the new secret: "
    "run `offbeat apply`, or give a secret"
)
M = TypeVar("M", bound=BaseModel)


def _read_items(value: Any) -> Any:
    """Only the outer shape: items are read one by one, so that each problem has its item's name."""
    values = value if isinstance(value, list) else value.values() if isinstance(value, dict) else [None]
    if value is not None and not all(
        isinstance(each, dict) or (each is None and isinstance(value, dict)) for each in values
    ):
        raise ValueError("must be a list of objects that have a slug, or an object from slug to the rest")
    return value


Items = Annotated[Any, BeforeValidator(_read_items)]


class ConfigFile(BaseModel):
    """A file. Each part is a list with slugs, or maps slugs to the rest; a part that is missing is left alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: Slug = Field("default", description="Of everything that names no project.")
    # `x-items` names the type of an item; web/api/openapi.py makes list or mapping of it.
    projects: Annotated[Items, WithJsonSchema({"x-items": "ListedProject"})] = Field(
        None, description="The projects: a list, or an object from slug to the rest."
    )
    channels: Annotated[Items, WithJsonSchema({"x-items": "ListedChannel"})] = Field(
        None, description="The channels: a list, or an object from slug to the rest."
    )
    windows: Annotated[Items, WithJsonSchema({"x-items": "ListedWindow"})] = Field(
        None, description="The maintenance windows: a list, or an object from slug to the rest."
    )
    monitors: Annotated[Items, WithJsonSchema({"x-items": "ListedMonitor"})] = Field(
        None, description="The monitors: a list, or an object from slug to the rest."
    )


class ApplyBody(ConfigFile):
    """A file, and how to apply it."""

    dry_run: bool = Field(False, description="Say what would change, and change nothing.")
    prune: bool = Field(
        False,
        description="Delete monitors, channels and windows that the file does not list, in the projects that it names; "
        "projects themselves and the channel `log` are never deleted.",
    )


class ApplyConfig(NamedTuple):
    """Apply a file. With `only_project` anything outside it is refused.

    Without `may_generate` no client sees the result, so no signing secret is generated.
    """

    body: ApplyBody
    only_project: str | None = None
    may_generate: bool = True


@dataclass(frozen=True)
class AppliedCounts:
    """How many items were created, changed, deleted, and were as the file wants them already."""

    created: int
    changed: int
    deleted: int
    unchanged: int


@dataclass(frozen=True)  # no slots, as FieldChange
class AppliedChange:
    """The change of one item, field by field."""

    kind: str
    project: str
    slug: str
    action: Action
    fields: list[FieldDifference]


@dataclass(frozen=True)
class GeneratedSecret:
    """A signing secret that a channel of the file asked for."""

    project: str
    channel: str
    secret: str


@dataclass(frozen=True)
class Applied:
    """The changes that were made, or would be made in a dry run. It is the answer of `POST /apply`."""

    dry_run: bool
    counts: AppliedCounts
    changes: list[AppliedChange]
    new_secrets: list[GeneratedSecret]


class _Read(NamedTuple):
    """A file as it was read: every item of its own type, with its name in problems."""

    projects: list[tuple[str, ListedProject]]
    channels: list[tuple[str, ListedChannel]]
    windows: list[tuple[str, ListedWindow]]
    monitors: list[tuple[str, ListedMonitor]]


async def apply(context: Context, command: ApplyConfig, actor: str) -> Applied:
    """Apply a file, all of it or nothing. Raises DefinitionError that names each wrong field of each item."""
    with gc_paused():
        return await _apply(context, command, actor)


async def _apply(context: Context, command: ApplyConfig, actor: str) -> Applied:
    body = command.body
    read = await _read(body, command.only_project)
    wanted = 0
    new_secrets: list[GeneratedSecret] = []
    async with changing(context.pool, keep=not body.dry_run) as connection:
        changes = [await _put_project(connection, path, item, actor) for path, item in read.projects]
        ids = await _project_ids(connection, body, read)
        for path, channel in read.channels:
            project = channel.project or body.project
            put = await _put_channel(context, connection, path, channel, ids[project], actor)
            changes.append(put.change)
            if put.new_secret is not None:
                if not command.may_generate:
                    raise DefinitionError([Problem(f"{path}.secrets", _NOT_AT_START)])
                new_secrets.append(GeneratedSecret(project, channel.slug, put.new_secret))
        for _, window in read.windows:
            project_id, stored = ids[window.project or body.project], stored_window(window.window())
            changes.append(await windows.put_window(connection, project_id, window.slug, stored, actor))
        monitors: list[WantedMonitor] = []
        async for part in chunked(read.monitors, PART_MONITORS):
            monitors += [
                wanted_monitor(ids[item.project or body.project], item.slug, item, path) for path, item in part
            ]
        changes += await put_monitors(connection, monitors, actor)
        if body.prune:
            changes += await _prune(context.channel_kinds, connection, body, read, ids, actor)
        if problems := await reference_problems(connection, monitors):
            raise DefinitionError(problems)
        wanted = len(read.projects) + len(read.channels) + len(read.windows) + len(monitors)
    # Monitors that are as wanted were left out already; to compare ten thousand documents again costs 50 ms.
    done = [change for change in changes if change.kind == "monitor" or change.before != change.after]
    if done and not body.dry_run:
        context.changed()
    applied = await _describe(context.channel_kinds, done, {number: slug for slug, number in ids.items()})
    count = Counter(change.action for change in applied)
    unchanged = wanted - count["create"] - count["change"]
    counts = AppliedCounts(count["create"], count["change"], count["delete"], unchanged)
    return Applied(body.dry_run, counts, applied, [] if body.dry_run else new_secrets)


async def read_file(path: Path) -> ApplyBody:
    """Read the file of `--config` and check its items, without a database. Raises as `apply_file`."""
    with _naming(path), gc_paused():
        body = ApplyBody(**ConfigFile.model_validate(read_config(path)).model_dump(exclude_unset=True))
        await _read(body, None)
    return body


async def apply_file(context: Context, path: Path, body: ApplyBody) -> Applied:
    """Apply a file when the server starts; nothing is pruned. Raises SettingsError that names file and fields."""
    with _naming(path):
        return await apply(context, ApplyConfig(body, may_generate=False), "config")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what is wrong in a file into a SettingsError that names the file and each wrong field."""
    try:
        yield
        return
    except ValidationError as error:
        problems = problems_of(error, model=ConfigFile)
    except DefinitionError as error:
        problems = error.problems
    raise SettingsError("\n  ".join([f"{path}: nothing was changed", *(f"{p.field}: {p.reason}" for p in problems)]))


async def _read(body: ApplyBody, only_project: str | None) -> _Read:
    problems: list[Problem] = []
    read = _Read(
        await _each(body.projects, "projects", ListedProject, problems),
        await _each(body.channels, "channels", ListedChannel, problems),
        await _each(body.windows, "windows", ListedWindow, problems),
        await _each(body.monitors, "monitors", ListedMonitor, problems),
    )
    if len(read.monitors) > MONITORS_MAX:
        problems.append(Problem("monitors", f"at most {MONITORS_MAX} at once: apply them in parts"))
    problems += _given_twice([(path, item.slug, None) for path, item in read.projects])
    problems += _given_twice([(path, item.slug, item.project or body.project) for path, item in read.channels])
    problems += _given_twice([(path, item.slug, item.project or body.project) for path, item in read.windows])
    if only_project is not None:
        named = [(path, channel.project) for path, channel in read.channels]
        named += [(path, window.project) for path, window in read.windows]
        named += [(path, monitor.project) for path, monitor in read.monitors]
        problems += [
            Problem(path, f"this key is for the project {only_project} only")
            for path, slug in named
            if (slug or body.project) != only_project
        ]
        problems += [Problem(path, "this key may not change projects") for path, _ in read.projects]
        if body.project != only_project:  # even where no item is in it: pruning goes by it too
            problems.append(Problem("project", f"this key is for the project {only_project} only"))
    if problems:
        raise DefinitionError(problems[:PROBLEMS_MAX])
    return read


def _given_twice(items: list[tuple[str, str, str | None]]) -> list[Problem]:
    """Monitors are looked at where they are written, all others here."""
    seen = Counter((project, slug) for _, slug, project in items)
    return [Problem(path, "given twice") for path, slug, project in items if seen[project, slug] > 1]


async def _each(items: Any, part: str, model: type[M], problems: list[Problem]) -> list[tuple[str, M]]:
    """The items of a part, each with its path: `monitors.backup`, or `monitors.3` where the slug is missing."""
    read = []
    async for chunk in chunked(list(_named(items)), PART_MONITORS):
        for name, value in chunk:
            if isinstance(items, dict) and value["slug"] != name:
                wrong = (
                    f"must be {name!r}, as its entry is named, not {value['slug']!r:.100}: correct it or leave it out"
                )
                problems.append(Problem(f"{part}.{name}.slug", wrong))
                continue
            try:
                read.append((f"{part}.{name}", model.model_validate(value)))
            except ValidationError as error:
                problems += problems_of(error, f"{part}.{name}", model)
    return read


def _named(items: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(items, dict):
        for slug, value in items.items():
            # Another slug within is left in place: `_each` says that there are two.
            yield slug, {"slug": slug, **(value or {})}
    else:
        for index, value in enumerate(items or ()):
            slug = value.get("slug")
            yield slug if isinstance(slug, str) else str(index), value


async def _put_project(connection: Connection, path: str, item: ListedProject, actor: str) -> Change:
    row = await projects.find_project(connection, item.slug)
    return await write_project(connection, PutProject(item.slug, item), row, actor, path)


async def _put_channel(
    context: Context, connection: Connection, path: str, item: ListedChannel, project_id: int, actor: str
) -> ChannelPut:
    row = await projects.find_channel(connection, project_id, item.slug)
    return await write_channel(context, connection, PutChannel(project_id, item.slug, item), row, actor, path)


async def _project_ids(connection: Connection, body: ApplyBody, read: _Read) -> dict[str, int]:
    """The ids of all projects that the file names. Raises DefinitionError for one that does not exist."""
    ids: dict[str, int] = {}
    problems = []
    named = [("project", body.project), *((path, item.slug) for path, item in read.projects)]
    named += [(f"{path}.project", channel.project) for path, channel in read.channels if channel.project]
    named += [(f"{path}.project", window.project) for path, window in read.windows if window.project]
    named += [(f"{path}.project", monitor.project) for path, monitor in read.monitors if monitor.project]
    for path, slug in named:
        if slug in ids:
            continue
        row = await projects.find_project(connection, slug)
        if row is None:
            problems.append(Problem(path, f"there is no project {slug!r}"))
            continue
        ids[slug] = row["id"]
    if problems:
        raise DefinitionError(problems[:PROBLEMS_MAX])
    return ids


async def _prune(
    kinds: ChannelKinds, connection: Connection, body: ApplyBody, read: _Read, ids: dict[str, int], actor: str
) -> list[Change]:
    """Delete what the parts that are there do not list."""
    pruned: list[Change] = []
    for slug, project_id in ids.items():
        if body.monitors is not None:
            kept = {item.slug for _, item in read.monitors if (item.project or body.project) == slug}
            gone = [(project_id, each) for each in await slugs_of(connection, project_id) if each not in kept]
            pruned += await delete_monitors(connection, gone, actor)
            if problems := await dangling(connection, gone):
                raise DefinitionError(problems)
        if body.channels is not None:
            listed = {item.slug for _, item in read.channels if (item.project or body.project) == slug}
            for row in await projects.all_channels(connection, project_id):
                if row["slug"] in listed or row["slug"] == projects.LOG_CHANNEL:
                    continue
                if users := await projects.users_of_channel(connection, project_id, row["slug"]):
                    raise DefinitionError([Problem("channels", f"{row['slug']} is named by {', '.join(users)}")])
                pruned.append(await projects.delete_channel(connection, row, actor, kinds.shown))
        if body.windows is not None:
            listed = {item.slug for _, item in read.windows if (item.project or body.project) == slug}
            for row in await windows.all_windows(connection, project_id):
                if row["slug"] not in listed:
                    pruned.append(await windows.delete_window(connection, row, actor))
    return pruned


async def _describe(kinds: ChannelKinds, done: list[Change], slugs: dict[int, str]) -> list[AppliedChange]:
    """The changes as people read them. `slugs` are of the projects."""
    applied = []
    async for part in chunked(done, PART_MONITORS):
        applied += [
            AppliedChange(
                change.kind,
                slugs.get(change.project_id or 0) or change.subject,
                change.subject,
                action_of(change.before, change.after),
                field_changes(kinds, change.kind, change.before, change.after),
            )
            for change in part
        ]
    return applied
