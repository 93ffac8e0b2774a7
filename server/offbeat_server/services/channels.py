"""Use cases of channels and alerts: create, replace, test, delete, generate a secret, send an alert again."""

import asyncio
from typing import NamedTuple

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import ConflictError, DefinitionError, NotFoundError, Problem
from offbeat_server.db.pool import Connection, Pool, Record
from offbeat_server.db.read_models import history
from offbeat_server.db.repositories import outbox, projects
from offbeat_server.db.repositories.changes import Change, changing
from offbeat_server.engine.model.enums import AlertState
from offbeat_server.services.context import Context
from offbeat_server.services.documents import ChannelBody
from offbeat_server.services.revisions import check_rev

TEST_WAIT_S = 20.0
_LOOK_EVERY_S = 0.1


class PutChannel(NamedTuple):
    """Create or replace a channel. `expected_rev`: the revision to replace, ANY_REV, NO_REV, or None for no check."""

    project_id: int
    slug: str
    body: ChannelBody
    expected_rev: int | None = None


class ChannelPut(NamedTuple):
    """The change. `new_secret`: the signing secret that was generated, if the body asked for one."""

    change: Change
    new_secret: str | None

    @property
    def created(self) -> bool:
        """Whether the channel is new."""
        return self.change.before is None


class GenerateSecret(NamedTuple):
    """Generate a signing secret for a channel. The former ones sign too, five in all, if they are kept."""

    project_id: int
    slug: str
    keep_former: bool = True
    expected_rev: int | None = None


class DeleteChannel(NamedTuple):
    """Delete a channel; `expected_rev` as in PutChannel."""

    project_id: int
    slug: str
    expected_rev: int | None = None


class SendTest(NamedTuple):
    """Send a test message."""

    project_id: int
    slug: str


class ChannelTested(NamedTuple):
    """The alert of a test message after its first attempt, or after `TEST_WAIT_S` without one."""

    alert_id: int
    state: str
    attempts: int
    error: str | None


class ResendAlert(NamedTuple):
    """Send an alert again. `project_id`: the only one in which it may be; None: any."""

    alert_id: int
    project_id: int | None


async def put_channel(context: Context, command: PutChannel, actor: str) -> ChannelPut:
    """Create or replace a channel. One that is as wanted is not written.

    Raises PreconditionError if `expected_rev` does not hold, DefinitionError that names the wrong fields.
    """
    async with changing(context.pool) as connection:
        row = await projects.find_channel(connection, command.project_id, command.slug)
        check_rev(command.expected_rev, row, f"channel {command.slug}")
        put = await write_channel(context, connection, command, row, actor)
    if put.change.before != put.change.after:
        context.changed()
    return put


async def write_channel(
    context: Context, connection: Connection, command: PutChannel, row: Record | None, actor: str, path: str = ""
) -> ChannelPut:
    """Write a channel in the caller's transaction. `row`: what is stored; `path`: how problems name it."""
    kinds, body = context.channel_kinds, command.body
    stored = row["definition"] if row is not None and row["kind"] == body.kind else None
    try:
        definition = kinds.stored(body.kind, body.fields(), stored)
    except DefinitionError as error:
        raise DefinitionError(
            [Problem(f"{path}.{p.field}" if path else p.field, p.reason) for p in error.problems]
        ) from None
    wanted = projects.WantedChannel(command.project_id, command.slug, body.kind, body.default, definition)
    change = await projects.put_channel(connection, wanted, actor, kinds.shown)
    new_secret = None
    if kinds.asks_for_secret(body.kind, body.fields()):
        newest = kinds.secrets(definition)[0]
        new_secret = None if row is not None and newest in kinds.secrets(row["definition"]) else newest
    return ChannelPut(change, new_secret)


async def generate_secret(context: Context, command: GenerateSecret, actor: str) -> str:
    """Generate a signing secret and return it.

    Raises NotFoundError, PreconditionError if `expected_rev` does not hold, ConflictError if the kind does not sign.
    """
    kinds = context.channel_kinds
    async with changing(context.pool) as connection:
        row = await _stored(connection, command.project_id, command.slug)
        check_rev(command.expected_rev, row, f"channel {command.slug}")
        if not kinds.signs(row["kind"]):
            raise ConflictError(f"{command.slug} is of kind {row['kind']}; only webhook channels have signing secrets.")
        changed = kinds.with_new_secret(row["definition"], command.keep_former)
        wanted = projects.WantedChannel(
            command.project_id, command.slug, row["kind"], row["is_default"], changed.definition
        )
        await projects.put_channel(connection, wanted, actor, kinds.shown)
    context.changed()
    return changed.secret


async def delete_channel(context: Context, command: DeleteChannel, actor: str) -> None:
    """Delete a channel.

    Raises NotFoundError, PreconditionError if `expected_rev` does not hold, ConflictError while a monitor names it.
    """
    async with changing(context.pool) as connection:
        row = await _stored(connection, command.project_id, command.slug)
        check_rev(command.expected_rev, row, f"channel {command.slug}")
        if users := await projects.users_of_channel(connection, command.project_id, command.slug):
            raise ConflictError(f"{command.slug} is named by {', '.join(users)}: change them first.")
        await projects.delete_channel(connection, row, actor, context.channel_kinds.shown)
    context.changed()


async def send_test(context: Context, command: SendTest, actor: str) -> ChannelTested:
    """Send a test message and wait up to `TEST_WAIT_S` for the result of its first attempt. Raises NotFoundError."""
    row = await _stored(context.pool, command.project_id, command.slug)
    alert_id = await history.add_test_alert(context.pool, command.project_id, row["id"], actor)
    context.wake_dispatcher()
    until = monotonic() + TEST_WAIT_S
    while True:
        alert = await history.find_alert(context.pool, alert_id)
        if alert is None:
            raise NotFoundError(f"alert {alert_id}: the channel or the alert was deleted during the test")
        if alert["state"] != AlertState.PENDING or alert["error"] or monotonic() > until:
            return ChannelTested(alert_id, alert["state"], alert["attempts"], alert["error"])
        await asyncio.sleep(_LOOK_EVERY_S)


async def resend_alert(context: Context, command: ResendAlert) -> None:
    """Send an alert again, by itself: one that was given up, that expired, or that was lost after its delivery.

    Raises NotFoundError, ConflictError while it waits to be sent.
    """
    alert = await history.find_alert(context.pool, command.alert_id)
    if alert is None or command.project_id not in (None, alert["project_id"]):
        raise NotFoundError(f"alert {command.alert_id}")
    if not await outbox.resend(context.pool, command.alert_id):
        raise ConflictError("The alert waits to be sent anyway.")
    context.wake_dispatcher()


async def _stored(connection: Pool | Connection, project_id: int, slug: str) -> Record:
    row = await projects.find_channel(connection, project_id, slug)
    if row is None:
        raise NotFoundError(f"channel {slug}")
    return row
