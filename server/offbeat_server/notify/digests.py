"""Many alerts become one message: attached to a row, rendered and stored, in one transaction and before sending.

So a crash leaves either no digest, or one whose bytes any dispatcher can send.
"""

from offbeat_server.common import failpoints
from offbeat_server.common.clock import to_rfc3339
from offbeat_server.common.instants import to_micros
from offbeat_server.db.repositories.outbox import Attached, Digest, Gathering, Outbox
from offbeat_server.engine.model.enums import AlertKind
from offbeat_server.notify.channel import Channel, Message
from offbeat_server.notify.channel_queue import BURST_MAX
from offbeat_server.notify.messages.message_builder import INCIDENTS_NAMED_MAX, MONITORS_NAMED_MAX, MessageBuilder

DIGEST_LEAST = BURST_MAX + 1


class RenderError(Exception):
    """Something in one of its alerts keeps a digest from being written; each alert alone will show which."""


async def gather(
    outbox: Outbox, wanted: Gathering, channel: Channel, project: str, message_builder: MessageBuilder, lease_s: float
) -> Digest | None:
    """A digest of what waits in a lane, claimed. None: fewer than `least` may go into one.

    Raises RenderError, and then nothing has changed.
    """
    whole = channel.digest_style == "members"
    # For machines there is a message for each alert, and none is too much to name.
    named = (wanted.most if whole else MONITORS_NAMED_MAX, INCIDENTS_NAMED_MAX)
    async with outbox.transaction() as connection:
        attached = await outbox.attach(connection, wanted, named, wanted.most if whole else 0)
        if attached is None:
            return None
        message, body = _put_into_words(attached, channel, project, message_builder)
        await outbox.write_digest(connection, attached, message.facts, body, lease_s)
    failpoints.pass_by("gathered")
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


def _put_into_words(
    attached: Attached, channel: Channel, project: str, message_builder: MessageBuilder
) -> tuple[Message, bytes]:
    try:
        at = to_rfc3339(to_micros(attached.created_at)) or ""
        members = [message_builder.alert(each, at, project) for each in attached.members]
        message = message_builder.digest(attached, project, members)
        return message, channel.compose(message)
    except Exception as error:
        raise RenderError from error
