"""Which revision a command expects, and what was changed since it was read.

The revision of an object is the number of the change that wrote it. It is compared in the transaction that writes,
under the changes lock, so nothing can come between.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from offbeat_server.common.errors import PreconditionError
from offbeat_server.db.pool import Record
from offbeat_server.db.repositories import changes
from offbeat_server.db.repositories.changes import ANY_REV, NO_REV
from offbeat_server.services.config_diff import FieldDifference, field_changes
from offbeat_server.services.context import Context

CHANGES_SHOWN = 5
# The kinds of changes that give an object a new revision.
KINDS: Mapping[str, tuple[str, ...]] = {"monitor": ("monitor", "move", "pause", "resume", "snooze")}


@dataclass(frozen=True, slots=True)
class ChangeSince:
    """One change of an object after a revision: who, when, which fields."""

    rev: int
    at: datetime
    actor: str
    fields: list[FieldDifference]


def check_rev(expected: int | None, row: Record | None, what: str) -> None:
    """Check the stored row (None: there is none) against the revision that a command expects. None: no check.

    `what`: the object in errors, such as `window nightly`. Raises PreconditionError.
    """
    if expected is None:
        return
    if expected == NO_REV:
        if row is not None:
            raise PreconditionError(f"The {what} exists already.")
    elif row is None:
        raise PreconditionError(f"There is no {what} to change: send no condition to create it.")
    elif expected not in (ANY_REV, row["rev"]):
        raise PreconditionError(f"The {what} was changed by another request: read it again.")


async def changes_since(context: Context, kind: str, project_id: int, slug: str, rev: int) -> list[ChangeSince]:
    """The newest changes of an object after `rev`, in their order. `kind`: monitor, channel, project or window."""
    kinds = KINDS.get(kind, (kind,))
    rows = await changes.since(context.pool, rev, project_id, kinds, slug, CHANGES_SHOWN)
    return [
        ChangeSince(
            row["rev"],
            row["at"],
            row["actor"],
            field_changes(context.channel_kinds, row["kind"], row["before"], row["after"]),
        )
        for row in reversed(rows)
    ]
