"""The queues of all channels that have something to send, and the channels that are known to work."""

from collections.abc import Callable
from itertools import islice

from offbeat_server.common.clock import monotonic
from offbeat_server.notify.channel import Channel
from offbeat_server.notify.channel_queue import ChannelQueue, backoff_s, queue_for

# While there is no room: how many of the channels that are known to work are queried at once. Of ten thousand each has
# its turn within three seconds, for a few milliseconds of Postgres each time.
KNOWN_GOOD_MAX = 200


class ChannelQueues:
    """One queue per channel, as long as it differs from a new one. `draw` gives 0 ≤ x < 1 for the back-off."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._queues: dict[int, ChannelQueue] = {}
        self._channels: dict[int, Channel] = {}  # by which each queue sends
        # Channels at which the last message arrived, in the order of their turns; they outlive their queues.
        self._known_good: dict[int, None] = {}

    def of(self, id: int, channel: Channel) -> ChannelQueue:
        """Return the queue of a channel, which follows its present definition."""
        before = self._channels.get(id)
        if channel is not before:  # equal texts give the same object, see load_channel
            per_minute = channel.per_minute or channel.per_minute_default
            fresh = queue_for(per_minute, channel.digest, channel.digest_style == "summary", self.is_known_good(id))
            if before is None:
                self._queues[id] = fresh
            elif channel != before:
                self._queues[id].follow(fresh)
            self._channels[id] = channel
        return self._queues[id]

    def find(self, id: int) -> ChannelQueue | None:
        """Return the queue of a channel, if it has one."""
        return self._queues.get(id)

    def resting(self, now: float) -> list[int]:
        """The channels that may not send anything now."""
        return [id for id, queue in self._queues.items() if queue.ready_at(now) > now]

    def ready_in_s(self, at_most_s: float) -> float:
        """Seconds until the first channel that rests may send again."""
        now = monotonic()
        waits = (queue.ready_at(now) - now for queue in self._queues.values())
        return min((wait for wait in waits if 0 < wait < at_most_s), default=at_most_s)

    def forget_idle(self, now: float) -> None:
        """Drop the queues that behave as new ones would."""
        for id in [id for id, queue in self._queues.items() if queue.idle(now)]:
            del self._queues[id], self._channels[id]

    @property
    def any_known_good(self) -> bool:
        """Whether the last message of any channel has arrived."""
        return bool(self._known_good)

    def is_known_good(self, id: int) -> bool:
        """Whether the last message of this channel has arrived."""
        return id in self._known_good

    def next_known_good(self) -> list[int]:
        """The channels that are known to work and have waited longest for their turn; they go to the end."""
        turn = list(islice(self._known_good, KNOWN_GOOD_MAX))
        for id in turn:
            del self._known_good[id]
        self._known_good |= dict.fromkeys(turn)
        return turn

    def attempt_ended(self, id: int, failed: bool | None, retry_after_s: float | None) -> None:
        """Note how an attempt ended. `failed` None: it says nothing about the channel."""
        queue = self._queues.get(id)
        if failed is None:
            if queue is not None:
                queue.in_flight -= 1
            return
        if queue is not None:
            rest_s = backoff_s(queue.failures_with_next, self._draw, retry_after_s) if failed else 0.0
            queue.ended(monotonic(), failed, rest_s)
        if failed:
            self._known_good.pop(id, None)
        else:
            self._known_good.setdefault(id)
