"""Many alerts become one message: attached to a row, put into words and stored, in one transaction and before sending.

So a crash leaves either no digest, or one whose bytes any courier can send.
"""

from server import failpoints
from server.clock import to_micros, to_rfc3339
from server.deliver.channel import Channel, Message
from server.deliver.lane import BURST_MAX
from server.deliver.messages import FIRST_MAX, Scribe
from server.store.outbox import Attached, Digest, Outbox

DIGEST_LEAST = BURST_MAX + 1


class Unspeakable(Exception):
    """Something in one of its alerts keeps a digest from being written; each alert alone will show which."""


async def gather(
    outbox: Outbox, lane: int, channel: Channel, project: str, scribe: Scribe, lease_s: float
) -> Digest | None:
    """A digest of all that waits in a lane, claimed. None: fewer than DIGEST_LEAST may go into one.

    Raises Unspeakable, and then nothing has changed.
    """
    whole = channel.digest_style == "members"
    most = channel.digest_alerts_max
    async with outbox.transaction() as connection:
        attached = await outbox.attach(
            connection, lane, most, DIGEST_LEAST, not channel.keeps_incidents, most if whole else FIRST_MAX
        )
        if attached is None:
            return None
        message, body = _put_into_words(attached, channel, project, scribe)
        await outbox.write_digest(connection, attached.id, message.facts, body, lease_s)
    failpoints.pass_by("gathered")
    return Digest(
        id=attached.id,
        lane=lane,
        kind="digest",
        attempts=1,
        alerts=attached.alerts,
        closes=None,
        facts=message.facts,
        body=body,
        created_at=attached.created_at,
        expired=False,
    )


def _put_into_words(attached: Attached, channel: Channel, project: str, scribe: Scribe) -> tuple[Message, bytes]:
    try:
        at = to_rfc3339(to_micros(attached.created_at)) or ""
        whole = channel.digest_style == "members"
        members = [scribe.alert(each, at, project) for each in attached.first] if whole else ()
        message = scribe.digest(attached, project, members)
        return message, channel.compose(message)
    except Exception as error:
        raise Unspeakable from error
