"""Digests: combine many alerts into one message.

One transaction attaches the alerts to a row of `digests`, renders the message and stores it, before it is sent. So a
crash leaves either no digest, or one whose bytes any dispatcher can send.
"""

from offbeat_server.common import failpoints
from offbeat_server.common.clock import to_rfc3339
from offbeat_server.common.instants import to_micros
from offbeat_server.db.repositories.outbox import Attached, Digest, DigestSelection, Outbox
from offbeat_server.engine.model.enums import AlertKind
from offbeat_server.notify.channel import Channel, Message
from offbeat_server.notify.channel_queue import BURST_MAX
from offbeat_server.notify.messages.message_builder import INCIDENTS_NAMED_MAX, MONITORS_NAMED_MAX, MessageBuilder

DIGEST_LEAST = BURST_MAX + 1


class RenderError(Exception):
    """A digest cannot be rendered because of one of its alerts; sending each alert alone shows which."""


async def make_digest(
    outbox: Outbox,
    wanted: DigestSelection,
    channel: Channel,
    project: str,
    message_builder: MessageBuilder,
    lease_s: float,
) -> Digest | None:
    """Store and claim a digest of the alerts that wait in a lane. None: fewer than `least` may go into one.

    Raises RenderError, and then nothing has changed.
    """
    per_alert = channel.digest_style == "members"
    # A machine gets a message for each alert, so all are named.
    named = (wanted.most if per_alert else MONITORS_NAMED_MAX, INCIDENTS_NAMED_MAX)
    async with outbox.transaction() as connection:
        attached = await outbox.attach(connection, wanted, named, wanted.most if per_alert else 0)
        if attached is None:
            return None
        message, body = _compose(attached, channel, project, message_builder)
        await outbox.write_digest(connection, attached, message.facts, body, lease_s)
    failpoints.pass_by("digest stored")
    return Digest(
        id=attached.id,
        lane=wanted.lane,
        kind=AlertKind.DIGEST,
        attempts=1,
        alerts=attached.alerts,
        closes=None,
        facts=message.facts,
        body=body,
        created_at=attached.created_at,
        expired=False,
        uid=attached.uid,
        left=attached.left,
    )


def _compose(
    attached: Attached, channel: Channel, project: str, message_builder: MessageBuilder
) -> tuple[Message, bytes]:
    try:
        at = to_rfc3339(to_micros(attached.created_at)) or ""
        members = [message_builder.alert(each, at, project) for each in attached.members]
        message = message_builder.digest(attached, project, members)
        return message, channel.compose(message)
    except Exception as error:
        raise RenderError from error
