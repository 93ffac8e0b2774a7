"""Use cases of incidents: acknowledge, comment, resolve manually.

An acknowledgement concerns people and reminders alone and is written at once. A resolution is a change that the
scheduler applies in its order; the incident shows it within two seconds.
"""

from typing import Literal, NamedTuple

from offbeat_server.common.errors import ConflictError, NotFoundError
from offbeat_server.db.read_models import history
from offbeat_server.db.repositories import changes
from offbeat_server.db.repositories.changes import Change, changing
from offbeat_server.services.context import Context


class NoteIncident(NamedTuple):
    """Something that a person does about an incident, with an optional comment.

    `project_id`: the only project in which the incident may be; None: any.
    """

    monitor_id: int
    number: int
    project_id: int | None
    comment: str | None = None


async def acknowledge(context: Context, command: NoteIncident, actor: str) -> None:
    """Acknowledge an incident, which ends its reminders. Raises NotFoundError, ConflictError if it is resolved."""
    await _note(context, command, actor, "acknowledge", must_be_open=True)


async def resolve(context: Context, command: NoteIncident, actor: str) -> None:
    """Resolve an incident manually. Raises NotFoundError, ConflictError if it is resolved."""
    await _note(context, command, actor, "resolve", must_be_open=True)


async def comment(context: Context, command: NoteIncident, actor: str) -> None:
    """Add a comment to an incident. Raises NotFoundError."""
    await _note(context, command, actor, "comment", must_be_open=False)


async def _note(
    context: Context,
    command: NoteIncident,
    actor: str,
    kind: Literal["acknowledge", "resolve", "comment"],
    must_be_open: bool,
) -> None:
    row = await history.find_incident(context.pool, command.monitor_id, command.number)
    if row is None or command.project_id not in (None, row["project_id"]):
        raise NotFoundError(f"incident {command.monitor_id}-{command.number}")
    if must_be_open and row["resolved_at"] is not None:
        raise ConflictError("The incident is resolved already.")
    after = {"incident": row["number"], "by": actor, "comment": command.comment}
    change = Change(kind, row["project_id"], row["monitor_id"], row["monitor"], None, after)
    async with changing(context.pool) as connection:
        if kind == "acknowledge":
            await history.acknowledge(connection, row["monitor_id"], row["number"], actor)
        await changes.record_one(connection, actor, change)
    context.changed()
