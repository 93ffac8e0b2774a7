"""One round of the dispatcher: which channels have something to send, what each may send now, and the claims for it.

    tests ─→ stored digests that go first ─→ plan each channel: digest, claims ─→ begin attempts ─→ other stored digests

A round looks at as many channels as there is room for attempts. The next round begins after the last of them, so no
channel waits for another.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import structlog

from offbeat_server.common import failpoints
from offbeat_server.common.clock import monotonic, to_rfc3339
from offbeat_server.common.errors import DefinitionError
from offbeat_server.common.instants import to_micros
from offbeat_server.db.repositories.outbox import (
    ChannelRow,
    Claimed,
    Digest,
    DigestSelection,
    Due,
    Outbox,
    SettledAlert,
    WantedAlerts,
)
from offbeat_server.engine.model.enums import AlertKind, AlertState
from offbeat_server.notify.attempts import RESERVED, DeliveryAttempts
from offbeat_server.notify.channel import Channel
from offbeat_server.notify.channel_queues import ChannelQueues
from offbeat_server.notify.channels.registry import load_channel
from offbeat_server.notify.digests import DIGEST_LEAST, RenderError, make_digest
from offbeat_server.notify.flapping import Flapping
from offbeat_server.notify.messages.message_builder import MessageBuilder

KNOWN_GOOD_EVERY_S = 0.05  # while there is no room: how soon the next channels that are known to work have their turn
FROM_THE_START = -1  # no channel has this id

log = structlog.get_logger("delivery_round")


class PendingChannel(NamedTuple):
    """A channel that has something to send. `channel` is the reason if it cannot send."""

    channel: Channel | str
    project: str

    @property
    def kind(self) -> str:
        """The kind of the channel, for metrics."""
        return "none" if isinstance(self.channel, str) else self.channel.kind


class DeliveryRound:
    """The rounds of one dispatcher. `count` gets (channel kind, result, how many); `wake` asks for another round.

    `lease_s` gives the seconds for which claims are held.
    """

    def __init__(
        self,
        outbox: Outbox,
        queues: ChannelQueues,
        attempts: DeliveryAttempts,
        flapping: Flapping,
        count: Callable[[str, str, int], None],
        wake: Callable[[], None],
        lease_s: Callable[[], float],
    ) -> None:
        self._outbox, self._queues, self._attempts, self._flapping = outbox, queues, attempts, flapping
        self._count, self._wake, self._lease_s = count, wake, lease_s
        self._message_builder: MessageBuilder
        self._known_good_at = 0.0
        self._after = FROM_THE_START  # the channel that the last round ended with
        self._busy = False  # whether this walk over all channels has begun anything; if not, it need not begin again

    async def run(self, message_builder: MessageBuilder) -> None:
        """Make one round. Raises DatabaseDownError."""
        self._message_builder = message_builder
        now = monotonic()
        capacity = self._attempts.capacity()
        if capacity <= 0:
            if self._attempts.stuck:
                await self._serve_known_good(now)
            return  # for the other channels the end of an attempt wakes the dispatcher
        await self._send_tests(capacity)
        resting = self._queues.resting(now)
        digest_first = await self._outbox.lanes_in_digests()  # channel -> whether its stored digest goes first
        if any(digest_first.values()):
            await self._send_stored_digests(resting, capacity, first=True)
        due = await self._outbox.due(self._after, [*resting, *_true(digest_first)], DIGEST_LEAST, capacity)
        last = await self._serve(due, now, capacity) if due else FROM_THE_START
        if not all(digest_first.values()) and (left := self._attempts.capacity()) > 0:
            await self._send_stored_digests(self._queues.resting(now), left, first=False)
        self._plan_next(due, last, capacity)
        self._queues.forget_idle(now)

    def _plan_next(self, due: list[Due], last: int, capacity: int) -> None:
        """Remember where the next round begins. `last` is the last channel that this one has looked at."""
        if len(due) == capacity or (due and last < due[-1].lane):
            self._after = last
            self._wake()  # there may be more behind it
        elif self._after >= 0:
            self._after = FROM_THE_START
            if self._busy:
                self._wake()  # the walk began in the middle: the other half follows at once
            self._busy = False

    async def _serve_known_good(self, now: float) -> None:
        """All room is taken, perhaps by receivers that hang. Use the room kept for channels that are known to work."""
        capacity = self._attempts.capacity(RESERVED)
        if capacity <= 0 or not self._queues.any_known_good:
            return
        await asyncio.sleep(self._known_good_at + KNOWN_GOOD_EVERY_S - now)
        self._known_good_at = monotonic()
        await self._send_tests(capacity)
        turn = self._queues.next_known_good()
        skip = [*self._queues.resting(now), *_true(await self._outbox.lanes_in_digests())]
        if due := await self._outbox.due(FROM_THE_START, skip, DIGEST_LEAST, capacity, turn):
            await self._serve(due, now, capacity)

    async def _send_tests(self, capacity: int) -> None:
        """Send the test messages that a person waits for: once each, in any state of their channel."""
        claimed = await self._outbox.claim_tests(capacity, self._lease_s())
        targets = await self._targets([row.lane for row in claimed]) if claimed else {}
        for row in claimed:
            target = targets[row.lane]
            if isinstance(target.channel, str):
                self._attempts.give_up(row, target.channel)
                continue
            self._queues.of(row.lane, target.channel).began(monotonic(), retries=1)
            self._attempts.begin(row, target.channel, self._message_builder, target.project, suspect=False)

    # ---------------------------------------------------------------- single alerts

    async def _serve(self, due: list[Due], now: float, capacity: int) -> int:
        """Let each of these channels send what it may, as far as there is room. Return the last one looked at."""
        targets = await self._targets([each.lane for each in due])
        await self._cover_resolves(targets)
        wanted: list[WantedAlerts] = []
        last = due[0].lane
        for each in due:
            if capacity <= 0:
                break
            last = each.lane
            want = await self._want(each, targets[each.lane], now)
            if count := want.urgent + want.fresh + want.again:
                wanted.append(want)
                capacity -= count
        if wanted:
            await self._claim_and_begin(wanted, targets, now)
        return last

    async def _want(self, due: Due, target: PendingChannel, now: float) -> WantedAlerts:
        """Return what to claim for one channel, after its digest if there is one."""
        channel = target.channel
        if isinstance(channel, str):  # without a channel they are settled without an attempt
            return WantedAlerts(due.lane, due.urgent, due.fresh, due.again, True)
        queue = self._queues.of(due.lane, channel)
        plan = queue.plan(now, due)
        if plan.digest:
            wanted = DigestSelection(
                lane=due.lane,
                most=channel.digest_alerts_max,
                least=1 if plan.digest == "over" else DIGEST_LEAST,
                following=queue.combines,
                resolves=not channel.keeps_incidents,
                which=plan.digest,
            )
            if not await self._send_new_digest(wanted, channel, target.project) and plan.digest != "over":
                plan = queue.plan_singles(now, due)
        return WantedAlerts(due.lane, plan.urgent, plan.fresh, plan.again, not queue.combines)

    async def _claim_and_begin(
        self, wanted: list[WantedAlerts], targets: dict[int, PendingChannel], now: float
    ) -> None:
        """Claim alerts and begin to send them, unless they are held back or need no message."""
        claimed = await self._outbox.claim(wanted, self._lease_s())
        if claimed:
            failpoints.pass_by("claimed")
            self._busy = True
        claimed = await self._drop_without_opening(claimed)
        holding = {id for id, each in targets.items() if isinstance(each.channel, Channel) and each.channel.combines}
        for row in await self._flapping.hold_back(claimed, holding):
            channel, project = targets[row.lane]
            if isinstance(channel, str):
                self._attempts.give_up(row, channel)
                continue
            queue = self._queues.of(row.lane, channel)
            self._attempts.begin(row, channel, self._message_builder, project, queue.circuit_open)
            first = row.attempts == 1
            queue.began(now, int(first and row.urgent), int(first and not row.urgent), int(not first))

    async def _drop_without_opening(self, claimed: list[Claimed]) -> list[Claimed]:
        """Settle ends of incidents whose beginning did not reach the channel. Return the others."""
        ends = [row.id for row in claimed if row.kind == AlertKind.RESOLVED and row.attempts == 1]
        ends_without_opening = set(await self._outbox.ends_without_opening(ends)) if ends else set()
        if ends_without_opening:
            why = "the opening did not reach this channel"
            await self._outbox.settle([SettledAlert(id, AlertState.COLLAPSED, 0.0, why) for id in ends_without_opening])
        return [row for row in claimed if row.id not in ends_without_opening]

    async def _cover_resolves(self, targets: dict[int, PendingChannel]) -> None:
        """Settle ends of incidents that the end of a digest reports, before they are claimed."""
        keeping = [
            id for id, each in targets.items() if isinstance(each.channel, Channel) and each.channel.keeps_incidents
        ]
        for id in await self._outbox.cover_resolves(keeping) if keeping else ():
            self._count(targets[id].kind, AlertState.COLLAPSED, 1)

    # ---------------------------------------------------------------- digests

    async def _send_new_digest(self, wanted: DigestSelection, channel: Channel, project: str) -> bool:
        """Combine what waits for a channel into a digest and begin to send it. False: there was not enough for one."""
        try:
            digest = await make_digest(self._outbox, wanted, channel, project, self._message_builder, self._lease_s())
        except RenderError:
            detail = "its alerts are sent one by one"
            log.exception("delivery_round.digest_render_failed", channel=wanted.lane, detail=detail)
            self._queues.of(wanted.lane, channel).digests = False
            return False
        if digest is not None:
            self._count(channel.kind, "merged", digest.alerts)
            self._begin_digest(digest, channel, wanted.which)
        return digest is not None

    async def _send_stored_digests(self, skip: list[int], capacity: int, *, first: bool) -> None:
        """Send digests again, or for the first time after a crash. `first`: those before which nothing else goes."""
        for digest in await self._outbox.claim_digests(skip, capacity, self._lease_s(), first=first):
            target = (await self._targets([digest.lane]))[digest.lane]
            if not digest.expired and isinstance(target.channel, Channel):
                self._begin_digest(digest, target.channel)
                continue
            state = AlertState.EXPIRED if digest.expired else AlertState.DEAD
            error = "was not delivered in time" if digest.expired else str(target.channel)
            await self._outbox.settle_digest(SettledAlert(digest.id, state, 0.0, error))
            self._count(target.kind, state, digest.alerts)

    def _begin_digest(self, digest: Digest, channel: Channel, which: str = "rest") -> None:
        at = to_rfc3339(to_micros(digest.created_at)) or ""
        message = self._message_builder.stored_digest(digest, digest.facts, at)
        queue = self._queues.of(digest.lane, channel)
        self._attempts.begin_digest(digest, channel, message, queue.circuit_open)
        queue.began(monotonic(), digest=which if digest.attempts == 1 else "again")
        if digest.left:
            queue.more_digests_wait()
        self._busy = True

    # ---------------------------------------------------------------- channels

    async def _targets(self, ids: list[int]) -> dict[int, PendingChannel]:
        rows = await self._outbox.channels(ids)
        return {
            id: PendingChannel(_channel(id, rows.get(id)), rows[id].project if id in rows else "default") for id in ids
        }


def _true(by_id: dict[int, bool]) -> list[int]:
    return [id for id, is_so in by_id.items() if is_so]


def _channel(id: int, row: ChannelRow | None) -> Channel | str:
    """The channel, or the reason why it cannot send. 0 is the server's log."""
    if id == 0:
        return load_channel("log", "{}")
    if row is None:
        return "the channel was deleted"
    try:
        return load_channel(row.kind, row.definition)
    except DefinitionError as error:
        return f"the channel's definition cannot be read: {error}"
