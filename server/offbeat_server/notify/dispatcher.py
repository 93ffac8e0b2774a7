"""The dispatcher: takes alerts from the outbox and sends them, so that each arrives, once, and in order.

One dispatcher in all is at work (a lease; the others stand by), so a channel's rate, its circuit and its digests are
decided in one place; claims are by row anyway, so two at work for a moment do no harm. Each round asks which
channels have something to send, decides for each (channel_queue.py), claims, and starts one task an attempt
(attempts.py). No channel waits for another.

    pending ── claim, commit ──> ours for `lease_s` ── send ──> settled
       ^                              │ we die: the lease runs out
       └──────────────────────────────┘
"""

import asyncio
import random
import secrets
from collections.abc import Callable
from itertools import islice

import structlog

from offbeat_server.common import failpoints
from offbeat_server.common.clock import monotonic, to_rfc3339
from offbeat_server.common.errors import DatabaseDownError, DefinitionError
from offbeat_server.common.instants import to_micros
from offbeat_server.common.service import Service
from offbeat_server.config import Settings
from offbeat_server.db.pool import Pool
from offbeat_server.db.repositories.outbox import (
    ChannelRow,
    Claimed,
    Digest,
    Due,
    Gathering,
    Outbox,
    SettledAlert,
    WantedAlerts,
)
from offbeat_server.engine.model.enums import AlertKind, AlertState
from offbeat_server.notify.attempts import RESERVED, DeliveryAttempts
from offbeat_server.notify.channel import Channel
from offbeat_server.notify.channel_queue import BURST_MAX, ChannelQueue, backoff_s, queue_for
from offbeat_server.notify.channels.registry import load_channel
from offbeat_server.notify.digests import DIGEST_LEAST, RenderError, gather
from offbeat_server.notify.flapping import Flapping
from offbeat_server.notify.message_builder import MessageBuilder
from offbeat_server.notify.periodic import PeriodicAlerts
from offbeat_server.notify.transport.http import Transport

log = structlog.get_logger("dispatcher")

POLL_S = 0.5  # the truth, when a wake-up is lost
ROUND_S_MIN = 0.02  # attempts that end in one moment share a round
AGAIN_S = 1.0  # after a round that failed
# While there is no room: how many of the lanes that are known to work are queried, and how soon the next ones. Of ten
# thousand each has its turn within three seconds, for a few milliseconds of Postgres each time.
PROVEN_MAX = 200
PROVEN_EVERY_S = 0.05


class Dispatcher(Service):
    """Delivers. `count` gets (channel kind, result, how many); the results are those of observability/metrics.py."""

    name = "dispatcher"

    def __init__(
        self,
        pool: Pool,
        out: Transport,
        settings: Settings,
        node: str,
        count: Callable[[str, str, int], None] = lambda kind, result, count: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        super().__init__()
        self.outbox = Outbox(pool, f"{node}/{secrets.token_hex(6)}", node)
        self.message_builder: MessageBuilder | None = None  # needs the database to know its own name
        self.attempts = DeliveryAttempts(self.outbox, out, count, draw, self._attempt_ended, self.wake)
        self.flapping = Flapping(self.outbox)
        self.periodic = PeriodicAlerts(
            self.outbox, out, settings, self.wake, lambda: self.message_builder if self.at_work else None, count
        )
        # Times that tests shrink. A claim outlives a dispatcher by `lease_s`, its lease by `life_s`.
        self.lease_s = 10.0
        self.life_s = 6.0
        self.pulse_s = 2.0
        self._count = count
        self._draw = draw
        self._public_url = settings.public_url
        self._lanes: dict[int, ChannelQueue] = {}
        self._definitions: dict[int, Channel] = {}  # by which each lane sends
        # Lanes where the last message arrived, in the order of their turns; outlives what else is known of them.
        self._proven: dict[int, None] = {}
        self._proven_at = 0.0
        self._woken = asyncio.Event()
        self._after = -1  # the lane that the last round ended with
        self._busy = False  # whether this walk has begun anything; one that did not need not be walked again at once
        self._trusted_until = 0.0

    async def start(self) -> None:
        """Begins to work as soon as the lease is ours. Needs no database yet."""
        self.attempts.on_death = self.on_death
        await self.attempts.start()
        self.periodic.on_death = self.on_death
        await self.periodic.start()
        self.spawn(self._renew_lease(), "renew the lease")
        self.spawn(self._deliver(), "deliver")

    async def stop(self) -> None:
        """No new attempts; those under way are finished or given back, and the next dispatcher may begin."""
        self._trusted_until = 0.0
        await self.cancel_tasks()
        await self.periodic.stop()
        await self.attempts.stop()
        try:
            await self.outbox.give_up()
        except DatabaseDownError:
            log.warning("dispatcher.lease_not_released", expires_in_s=self.life_s)

    def wake(self) -> None:
        """There is something new in the outbox."""
        self._woken.set()

    @property
    def at_work(self) -> bool:
        """Whether this is the active dispatcher, as far as its lease allows to assume."""
        return monotonic() < self._trusted_until

    async def _renew_lease(self) -> None:
        """Renews the lease and all claims under way; stands by to take over from another dispatcher."""
        while True:
            began = monotonic()
            try:
                if self.message_builder is None:
                    self.message_builder = MessageBuilder(await self.outbox.identity(), self._public_url)
                before = self.at_work
                # Trusted only from the start of the question on: a slow answer must not stretch it.
                self._trusted_until = began + self.life_s if await self.outbox.take_over(self.life_s) else 0.0
                if self.at_work and not before:
                    log.info("dispatcher.lease_taken", holder=self.outbox.holder)
                    self.wake()
                await self.attempts.renew(self.lease_s)
            except DatabaseDownError as error:
                log.warning("dispatcher.lease_renewal_failed", error=str(error))
            except Exception:
                log.exception("dispatcher.lease_renewal_failed")
            await asyncio.sleep(max(0.05, self.pulse_s - (monotonic() - began)))

    async def _deliver(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._rest_s()):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            if self.at_work and self.message_builder is not None:
                try:
                    await self._round(self.message_builder)
                except DatabaseDownError as error:
                    log.warning("dispatcher.round_failed", error=str(error))
                    await asyncio.sleep(AGAIN_S)
                except Exception:
                    log.exception("dispatcher.round_failed")
                    await asyncio.sleep(AGAIN_S)
            await asyncio.sleep(ROUND_S_MIN)

    def _rest_s(self) -> float:
        """Until the next poll, or until the first lane that rests may go on."""
        now = monotonic()
        waits = (lane.ready_at(now) - now for lane in self._lanes.values())
        return min((wait for wait in waits if 0 < wait < POLL_S), default=POLL_S)

    async def _round(self, message_builder: MessageBuilder) -> None:
        """One walk over lanes with something to say, as far as there is room."""
        now = monotonic()
        room = self.attempts.room()
        if room <= 0:
            if self.attempts.stuck:
                await self._serve_proven(message_builder, now)
            return  # for the others the end of an attempt wakes us
        await self._test(message_builder, room)
        resting = self._resting(now)
        in_digests = await self.outbox.lanes_in_digests()
        if any(in_digests.values()):
            for digest in await self.outbox.claim_digests(resting, room, self.lease_s, first=True):
                await self._resume(digest, message_builder)
        due = await self.outbox.due(self._after, [*resting, *_taken_up(in_digests)], DIGEST_LEAST, room)
        served = await self._serve(due, message_builder, now, room) if due else -1
        if not all(in_digests.values()) and (left := self.attempts.room()) > 0:
            for digest in await self.outbox.claim_digests(self._resting(now), left, self.lease_s, first=False):
                await self._resume(digest, message_builder)
        if len(due) == room or (due and served < due[-1].lane):
            self._after = served
            self.wake()  # there may be more behind it
        elif self._after >= 0:
            self._after = -1
            if self._busy:
                self.wake()  # the walk began in the middle: the other half follows at once
            self._busy = False
        for id in [id for id, lane in self._lanes.items() if lane.idle(now)]:
            del self._lanes[id], self._definitions[id]

    async def _serve_proven(self, message_builder: MessageBuilder, now: float) -> None:
        """All room is taken, perhaps by receivers that hang. Some is kept for those that are known not to."""
        room = self.attempts.room(RESERVED)
        if room <= 0 or not self._proven:
            return
        await asyncio.sleep(self._proven_at + PROVEN_EVERY_S - now)
        self._proven_at = monotonic()
        await self._test(message_builder, room)
        turn = list(islice(self._proven, PROVEN_MAX))
        for id in turn:
            del self._proven[id]
        self._proven |= dict.fromkeys(turn)
        skip = [*self._resting(now), *_taken_up(await self.outbox.lanes_in_digests())]
        if due := await self.outbox.due(-1, skip, DIGEST_LEAST, room, turn):
            await self._serve(due, message_builder, now, room)

    def _resting(self, now: float) -> list[int]:
        return [id for id, lane in self._lanes.items() if lane.ready_at(now) > now]

    async def _test(self, message_builder: MessageBuilder, room: int) -> None:
        """Send the tests that a person waits for: once each, in any state of their lane."""
        claimed = await self.outbox.claim_tests(room, self.lease_s)
        rows = await self.outbox.channels([row.lane for row in claimed]) if claimed else {}
        for row in claimed:
            channel = _channel(row.lane, rows.get(row.lane))
            if isinstance(channel, str):
                self.attempts.give_up(row, channel)
            else:
                project = rows[row.lane].project if row.lane in rows else "default"
                self._lane(row.lane, channel).began(monotonic(), retries=1)
                self.attempts.begin(row, channel, message_builder, project, suspect=False)

    async def _serve(self, due: list[Due], message_builder: MessageBuilder, now: float, room: int) -> int:
        """Let each of these lanes do what it may now, as far as there is room. The last lane looked at."""
        rows = await self.outbox.channels([each.lane for each in due])
        channels = {each.lane: _channel(each.lane, rows.get(each.lane)) for each in due}
        projects = {each.lane: rows[each.lane].project if each.lane in rows else "default" for each in due}
        await self._cover_resolves(channels)
        wanted: list[WantedAlerts] = []
        served = due[0].lane
        for each in due:
            if room <= 0:
                break
            served = each.lane
            channel = channels[each.lane]
            if isinstance(channel, str):  # without a channel they are settled without an attempt
                want = WantedAlerts(each.lane, each.urgent, each.fresh, each.again, True)
            else:
                want = await self._want(each, channel, projects[each.lane], message_builder, now)
            if count := want.urgent + want.fresh + want.again:
                wanted.append(want)
                room -= count
        claimed = await self.outbox.claim(wanted, self.lease_s) if wanted else []
        if claimed:
            failpoints.pass_by("claimed")
            self._busy = True
        claimed = await self._drop_unheard(claimed)
        holding = {id for id, channel in channels.items() if isinstance(channel, Channel) and channel.gathers}
        for row in await self.flapping.hold_back(claimed, holding):
            channel = channels[row.lane]
            if isinstance(channel, str):
                self.attempts.give_up(row, channel)
                continue
            lane = self._lane(row.lane, channel)
            self.attempts.begin(row, channel, message_builder, projects[row.lane], lane.circuit_open)
            first = row.attempts == 1
            lane.began(now, int(first and row.urgent), int(first and not row.urgent), int(not first))
        return served

    async def _want(
        self, due: Due, channel: Channel, project: str, message_builder: MessageBuilder, now: float
    ) -> WantedAlerts:
        """Return the claims of one lane, after its digest if there is one."""
        lane = self._lane(due.lane, channel)
        plan = lane.plan(now, due)
        if plan.digest:
            wanted = Gathering(
                lane=due.lane,
                most=channel.digest_alerts_max,
                least=1 if plan.digest == "over" else DIGEST_LEAST,
                following=lane.combines,
                resolves=not channel.keeps_incidents,
                which=plan.digest,
            )
            gathered = await self._gather(wanted, channel, project, message_builder)
            if not gathered and plan.digest != "over":
                # These are resolves of a service that keeps incidents, or operators' alerts.
                plan = lane.plan(now, Due(due.lane, min(due.urgent, BURST_MAX), 0, BURST_MAX, 0, due.again))
        return WantedAlerts(due.lane, plan.urgent, plan.fresh, plan.again, not lane.combines)

    async def _drop_unheard(self, claimed: list[Claimed]) -> list[Claimed]:
        """Settle ends of incidents whose beginning did not reach the channel."""
        ends = [row.id for row in claimed if row.kind == AlertKind.RESOLVED and row.attempts == 1]
        unheard = set(await self.outbox.unheard(ends)) if ends else set()
        if unheard:
            why = "the opening did not reach this channel"
            await self.outbox.settle([SettledAlert(id, AlertState.COLLAPSED, 0.0, why) for id in unheard])
        return [row for row in claimed if row.id not in unheard]

    async def _cover_resolves(self, channels: dict[int, Channel | str]) -> None:
        """Settle ends of incidents that the end of a digest reports, before they are claimed."""
        keeping = [id for id, channel in channels.items() if isinstance(channel, Channel) and channel.keeps_incidents]
        for id in await self.outbox.cover_resolves(keeping) if keeping else ():
            channel = channels[id]
            self._count(channel.kind if isinstance(channel, Channel) else "none", AlertState.COLLAPSED, 1)

    async def _gather(self, wanted: Gathering, channel: Channel, project: str, message_builder: MessageBuilder) -> bool:
        """Make a digest of what waits in a lane and begin to send it. False: there was not enough for one."""
        try:
            digest = await gather(self.outbox, wanted, channel, project, message_builder, self.lease_s)
        except RenderError:
            log.exception(
                "dispatcher.digest_render_failed", channel=wanted.lane, detail="its alerts are sent one by one"
            )
            self._lane(wanted.lane, channel).digests = False
            return False
        if digest is not None:
            self._count(channel.kind, "merged", digest.alerts)
            self._begin_digest(digest, channel, message_builder, wanted.which)
        return digest is not None

    async def _resume(self, digest: Digest, message_builder: MessageBuilder) -> None:
        """Send a stored digest again, or for the first time after a crash."""
        rows = await self.outbox.channels([digest.lane])
        channel = _channel(digest.lane, rows.get(digest.lane))
        if not digest.expired and isinstance(channel, Channel):
            self._begin_digest(digest, channel, message_builder)
            return
        state = AlertState.EXPIRED if digest.expired else AlertState.DEAD
        error = "was not delivered in time" if digest.expired else str(channel)
        await self.outbox.settle_digest(SettledAlert(digest.id, state, 0.0, error))
        self._count(channel.kind if isinstance(channel, Channel) else "none", state, digest.alerts)

    def _begin_digest(
        self, digest: Digest, channel: Channel, message_builder: MessageBuilder, which: str = "rest"
    ) -> None:
        at = to_rfc3339(to_micros(digest.created_at)) or ""
        message = message_builder.stored_digest(digest, digest.facts, at)
        lane = self._lane(digest.lane, channel)
        self.attempts.begin_digest(digest, channel, message, lane.circuit_open)
        lane.began(monotonic(), digest=which if digest.attempts == 1 else "again")
        if digest.left:
            lane.more_is_gathered()
        self._busy = True

    def _attempt_ended(self, id: int, failed: bool | None, retry_after_s: float | None) -> None:
        lane = self._lanes.get(id)
        if failed is None:  # which proves nothing of a channel that has failed before
            if lane is not None:
                lane.in_flight -= 1
            return
        if lane is not None:
            rest_s = backoff_s(lane.failures_with_next, self._draw, retry_after_s) if failed else 0.0
            lane.ended(monotonic(), failed, rest_s)
        if failed:
            self._proven.pop(id, None)
        else:
            self._proven.setdefault(id)

    def _lane(self, id: int, channel: Channel) -> ChannelQueue:
        before = self._definitions.get(id)
        if channel is not before:  # equal texts give the same object, see load_channel
            made = _lane_of(channel, proven=id in self._proven)
            if before is None:
                self._lanes[id] = made
            elif channel != before:
                self._lanes[id].follow(made)
            self._definitions[id] = channel
        return self._lanes[id]


def _lane_of(channel: Channel, proven: bool) -> ChannelQueue:
    per_minute = channel.per_minute or channel.per_minute_default
    return queue_for(per_minute, channel.digest, channel.digest_style == "words", proven)


def _taken_up(in_digests: dict[int, bool]) -> list[int]:
    """The lanes that send nothing else before their digest."""
    return [lane for lane, first in in_digests.items() if first]


def _channel(lane: int, row: ChannelRow | None) -> Channel | str:
    """The channel of a lane, or the reason why it cannot send."""
    if lane == 0:
        return load_channel("log", "{}")
    if row is None:
        return "the channel was deleted"
    try:
        return load_channel(row.kind, row.definition)
    except DefinitionError as error:
        return f"the channel's definition cannot be read: {error}"
