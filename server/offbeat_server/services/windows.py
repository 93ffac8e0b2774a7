"""Use cases of maintenance windows: create, replace, delete."""

from typing import Any, NamedTuple

from offbeat_server.common.errors import NotFoundError
from offbeat_server.db.repositories import windows
from offbeat_server.db.repositories.changes import changing
from offbeat_server.engine.schedule.maintenance_windows import Window
from offbeat_server.services.context import Context
from offbeat_server.services.revisions import check_rev


class PutWindow(NamedTuple):
    """Create or replace a window. `expected_rev`: the revision to replace, ANY_REV, NO_REV, or None for no check."""

    project_id: int
    slug: str
    window: Window
    expected_rev: int | None = None


class WindowPut(NamedTuple):
    """Whether the window is new; otherwise it was changed, or was as wanted already."""

    created: bool


class DeleteWindow(NamedTuple):
    """Delete a window; `expected_rev` as in PutWindow."""

    project_id: int
    slug: str
    expected_rev: int | None = None


async def put_window(context: Context, command: PutWindow, actor: str) -> WindowPut:
    """Create or replace a window. One that is as wanted is not written.

    Raises PreconditionError if `expected_rev` does not hold.
    """
    async with changing(context.pool) as connection:
        row = await windows.find_window(connection, command.project_id, command.slug)
        check_rev(command.expected_rev, row, f"window {command.slug}")
        definition = stored_window(command.window)
        change = await windows.put_window(connection, command.project_id, command.slug, definition, actor)
    if change.before != change.after:
        context.changed()
    return WindowPut(created=change.before is None)


async def delete_window(context: Context, command: DeleteWindow, actor: str) -> None:
    """Delete a window. Alerts that it held back are sent.

    Raises NotFoundError, PreconditionError if `expected_rev` does not hold.
    """
    async with changing(context.pool) as connection:
        row = await windows.find_window(connection, command.project_id, command.slug)
        if row is None:
            raise NotFoundError(f"window {command.slug}")
        check_rev(command.expected_rev, row, f"window {command.slug}")
        await windows.delete_window(connection, row, actor)
    context.changed()


def stored_window(window: Window) -> dict[str, Any]:
    """A window as it is stored: without what is at its default."""
    return window.model_dump(mode="json", exclude_defaults=True)
