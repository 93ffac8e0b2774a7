"""Use cases of projects: create, replace, delete."""

import secrets
from typing import Any, NamedTuple

from offbeat_server.common.errors import ConflictError, NotFoundError
from offbeat_server.common.plural import plural
from offbeat_server.db.pool import Connection, Record
from offbeat_server.db.repositories import projects
from offbeat_server.db.repositories.changes import Change, changing
from offbeat_server.services.context import Context
from offbeat_server.services.documents import ProjectBody
from offbeat_server.services.revisions import check_rev

SWITCHES = ("metrics", "badges", "status_page")
DEFAULT = "default"  # the project that is always there


class PutProject(NamedTuple):
    """Create or replace a project. `expected_rev`: the revision to replace, ANY_REV, NO_REV, or None for no check."""

    slug: str
    body: ProjectBody
    expected_rev: int | None = None


class ProjectPut(NamedTuple):
    """Whether the project is new; otherwise it was changed, or was as wanted already."""

    created: bool


class DeleteProject(NamedTuple):
    """Delete a project; `expected_rev` as in PutProject."""

    slug: str
    expected_rev: int | None = None


async def put_project(context: Context, command: PutProject, actor: str) -> ProjectPut:
    """Create or replace a project. One that is as wanted is not written. A ping key that is left out is kept or made.

    Raises PreconditionError if `expected_rev` does not hold, DefinitionError if another project has the ping key.
    """
    async with changing(context.pool) as connection:
        row = await projects.find_project(connection, command.slug)
        check_rev(command.expected_rev, row, f"project {command.slug}")
        change = await write_project(connection, command, row, actor)
    if change.before != change.after:
        context.changed()
    return ProjectPut(created=change.before is None)


async def write_project(
    connection: Connection, command: PutProject, row: Record | None, actor: str, path: str = ""
) -> Change:
    """Write a project in the caller's transaction. `row`: what is stored; `path`: how problems name it."""
    body = command.body
    definition: dict[str, Any] = {name: True for name in SWITCHES if getattr(body, name)}
    # The badge key is made with the first badge and stays.
    badge_key = row["definition"].get("badge_key") if row is not None else None
    if badge_key is not None or body.badges:
        definition["badge_key"] = badge_key or secrets.token_urlsafe(16)
    name = body.name or (row["name"] if row is not None else command.slug)
    wanted = projects.WantedProject(command.slug, name, body.ping_key, definition, path)
    return await projects.put_project(connection, wanted, actor)


async def delete_project(context: Context, command: DeleteProject, actor: str) -> None:
    """Delete a project without monitors, with its channels and access keys.

    Raises NotFoundError, PreconditionError if `expected_rev` does not hold, ConflictError while it has monitors and for
    the project `default`.
    """
    async with changing(context.pool) as connection:
        row = await projects.find_project(connection, command.slug)
        if row is None:
            raise NotFoundError(f"project {command.slug}")
        check_rev(command.expected_rev, row, f"project {command.slug}")
        if command.slug == DEFAULT:
            raise ConflictError("The project default is always there.")
        if count := await projects.size_of_project(connection, row["id"]):
            raise ConflictError(
                f"{command.slug} still has {plural(count, 'monitor')}: delete {'it' if count == 1 else 'them'} first."
            )
        await projects.delete_project(connection, row, actor)
    context.changed()
