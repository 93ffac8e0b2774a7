"""Use case of runs: close one by hand.

It is a change that the scheduler applies in its order; the run shows it within two seconds.
"""

from typing import NamedTuple

from offbeat_server.common.errors import ConflictError, NotFoundError
from offbeat_server.common.instants import Micros
from offbeat_server.db.read_models import history
from offbeat_server.db.read_models.history import RunStanding
from offbeat_server.db.repositories import changes
from offbeat_server.db.repositories.changes import Change, changing
from offbeat_server.engine.model.definition import load_definition
from offbeat_server.engine.model.enums import Verdict
from offbeat_server.engine.model.runs import REMEMBERED_FOR
from offbeat_server.services.context import Context

NO_LONGER_KNOWN = (
    "The run has ended and its verdict can no longer be changed. This is possible until 10 minutes after its end, "
    "unless a later run with the same run id has ended. For a run without a run id it is possible only if its stages, "
    "its tasks or a person ended it, and no finish and no other run without an id has followed."
)


class CloseRun(NamedTuple):
    """A run, and the verdict of a person: failed, succeeded or ignored.

    `project_id`: the only project in which the run may be; None: any.
    """

    monitor_id: int
    number: int
    project_id: int | None
    verdict: Verdict
    reason: str | None = None


async def close_run(context: Context, command: CloseRun, actor: str) -> None:
    """Close a run by hand, or change the verdict of one that has ended a short while ago.

    Raises NotFoundError; ConflictError if the run cannot be closed, has this verdict already or is being closed.
    """
    async with changing(context.pool) as connection:
        row = await history.find_run(connection, command.monitor_id, command.number)
        if row is None or command.project_id not in (None, row["project_id"]):
            raise NotFoundError(f"run {command.monitor_id}-{command.number}")
        if load_definition(row["definition"]).members is not None:
            raise ConflictError("The monitor is a fleet: its members have no runs that could be closed.")
        standing = await history.run_standing(connection, command.monitor_id, command.number)
        _check(standing, row["verdict"] if row["finished_at"] is not None else None, command.verdict, context.now())
        who = {"monitor_id": command.monitor_id, "number": command.number, "run": row["run"]}
        after = {
            **who,
            "verdict": command.verdict,
            "reason": command.reason,
            "by": actor,
            "had_ended": row["finished_at"] is not None,
        }
        before = {**who, "verdict": row["verdict"]}
        change = Change("close", row["project_id"], None, row["monitor"], before, after)
        await changes.record_one(connection, actor, change)
    context.changed()


def _check(standing: RunStanding, ended_as: str | None, verdict: Verdict, now: Micros) -> None:
    """Raise ConflictError if the scheduler would not give the run this verdict."""
    if standing.is_closing:
        raise ConflictError("The run is being closed already by another request.")
    if ended_as is None:
        return
    if ended_as == verdict:
        raise ConflictError(f"The run has ended as {verdict} already.")
    if standing.remembered_end is None or now - standing.remembered_end > REMEMBERED_FOR:
        raise ConflictError(NO_LONGER_KNOWN)
