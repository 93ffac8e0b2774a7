"""Attempts under way: each sends one message once, and what became of it is written down in bulk.

An attempt is ours until it is settled: its claim is renewed while it is being sent and while its outcome waits for the
database. One that takes long, or whose lane has failed before, no longer counts against the room of the others; and
some room is kept for lanes where the last message arrived, so that however many hang at once delay none of these.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog

from offbeat_server.common import failpoints
from offbeat_server.common.clock import monotonic, to_rfc3339
from offbeat_server.common.instants import to_micros
from offbeat_server.common.service import Service
from offbeat_server.db.repositories.outbox import Claimed, Digest, Outbox, SettledAlert
from offbeat_server.engine.model.enums import AlertKind, AlertState
from offbeat_server.notify.channel import Channel, Message
from offbeat_server.notify.channel_queue import backoff_s
from offbeat_server.notify.messages.message_builder import MessageBuilder
from offbeat_server.notify.transport.delivery import DeliveryError
from offbeat_server.notify.transport.http_client import Transport

log = structlog.get_logger("attempts")

SENDING_MAX = 128  # new attempts of healthy lanes
SLOW_AFTER_S = 1.0  # older ones, and those of failing lanes, count apart
ALL_SENDING_MAX = 1_000
STUCK_AFTER_S = 0.2
RESERVED = 64  # more than either, for lanes that are known to take what they are sent
ATTEMPT_S_MAX = 60.0  # above every time-out on the way out; a bug in a kind cannot hold a lane for ever
UNEXPECTED_MAX = 3  # attempts that end in an internal error, before an alert is given up
SETTLE_MAX = 1_000  # in one statement
SETTLE_AGAIN_S = 1.0


class Attempt(NamedTuple):
    """One attempt: of a digest or of a single alert."""

    digest: bool
    id: int
    lane: int
    since: float
    suspect: bool


class AttemptResult(NamedTuple):
    """The result of one attempt. `failed`: in a way that concerns its channel; None: nothing was sent."""

    state: AlertState  # as in the outbox; pending: to be tried again
    error: str | None = None
    failed: bool | None = False
    retry_after_s: float | None = None


class DeliveryAttempts(Service):
    """`ended` is called with the lane, whether it failed (None: nothing was sent), and how long it pauses; after
    `settled` others may go."""

    name = "attempts"

    def __init__(
        self,
        outbox: Outbox,
        out: Transport,
        count: Callable[[str, str, int], None],
        draw: Callable[[], float],
        ended: Callable[[int, bool | None, float | None], None],
        settled: Callable[[], None],
    ) -> None:
        super().__init__()
        self.stop_s = 3.0
        self._outbox = outbox
        self._out = out
        self._count = count
        self._draw = draw
        self._ended = ended
        self._settled = settled
        self._sending: dict[tuple[bool, int], Attempt] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._outcomes: list[tuple[SettledAlert, str]] = []
        self._unsettled = asyncio.Event()

    async def start(self) -> None:
        """Ready to send."""
        self.spawn(self._settle_all(), "settle")

    async def stop(self) -> None:
        """Attempts under way get `stop_s`; what was not finished then is given back."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self.stop_s)
        await self.cancel_tasks()
        try:
            async with asyncio.timeout(self.stop_s):
                await self._settle()
                await self._outbox.release()
        except Exception as error:
            log.warning("attempts.claims_not_released", detail="they end by themselves", error=str(error))

    def capacity(self, reserved: int = 0) -> int:
        """How many more attempts may begin now."""
        now = monotonic()
        quick = sum(1 for s in self._sending.values() if not s.suspect and now - s.since < SLOW_AFTER_S)
        return min(SENDING_MAX - quick, ALL_SENDING_MAX - len(self._sending)) + reserved

    @property
    def stuck(self) -> bool:
        """Whether at least half of what is under way takes longer than receivers do that answer."""
        now = monotonic()
        return 2 * sum(now - s.since > STUCK_AFTER_S for s in self._sending.values()) >= len(self._sending)

    async def renew(self, lease_s: float) -> None:
        """Keep the claims of everything that is not settled."""
        sending = self._sending.values()
        await self._outbox.renew(
            [each.id for each in sending if not each.digest], [each.id for each in sending if each.digest], lease_s
        )

    def begin(
        self, row: Claimed, channel: Channel, message_builder: MessageBuilder, project: str, suspect: bool
    ) -> None:
        """Send one alert."""
        sending = Attempt(False, row.id, row.lane, monotonic(), suspect)
        self._sending[(False, row.id)] = sending
        self._watch_attempt(self.errand(self._alert(row, channel, message_builder, project), f"alert {row.id}"))

    def begin_digest(self, digest: Digest, channel: Channel, message: Message, suspect: bool) -> None:
        """Send one digest: the stored bytes."""
        sending = Attempt(True, digest.id, digest.lane, monotonic(), suspect)
        self._sending[(True, digest.id)] = sending
        self._watch_attempt(self.errand(self._digest(digest, channel, message), f"digest {digest.id}"))

    def give_up(self, row: Claimed, reason: str) -> None:
        """Settle one alert as dead without an attempt."""
        self._outcomes.append((SettledAlert(row.id, AlertState.DEAD, 0.0, reason), "none"))
        self._unsettled.set()

    async def _alert(self, row: Claimed, channel: Channel, message_builder: MessageBuilder, project: str) -> None:
        verdict = await self._attempt_alert(row, channel, message_builder, project)
        failpoints.pass_by("sent")
        self._outcomes.append((self._outcome(row.id, row.attempts, verdict), channel.kind))
        self._unsettled.set()
        self._ended(row.lane, verdict.failed, verdict.retry_after_s)

    async def _attempt_alert(
        self, row: Claimed, channel: Channel, message_builder: MessageBuilder, project: str
    ) -> AttemptResult:
        verdict = await self._render_and_send(row, channel, message_builder, project)
        if row.kind == AlertKind.TEST and verdict.state == AlertState.PENDING:
            return verdict._replace(state=AlertState.DEAD)  # the person who asked sees it now, not after three tries
        return verdict

    async def _render_and_send(
        self, row: Claimed, channel: Channel, message_builder: MessageBuilder, project: str
    ) -> AttemptResult:
        if row.expired:
            return AttemptResult(AlertState.EXPIRED, "was not delivered in time", None)
        try:
            message = message_builder.alert(row, to_rfc3339(to_micros(row.created_at)) or "", project)
            body = channel.compose(message)
        except Exception as error:
            log.exception("attempts.render_failed", id=row.id)
            why = f"cannot be rendered as a message ({type(error).__name__}; the server's log says more)"
            return AttemptResult(AlertState.DEAD, why, None)
        return await self._send(row.lane, message, body, channel, row.attempts)

    async def _digest(self, digest: Digest, channel: Channel, message: Message) -> None:
        verdict = await self._send(digest.lane, message, digest.body, channel, digest.attempts)
        failpoints.pass_by("digest sent")
        outcome = self._outcome(digest.id, digest.attempts, verdict)
        while True:
            try:
                await self._outbox.settle_digest(outcome)
                break
            except Exception as error:
                log.warning(
                    "attempts.digest_not_settled",
                    error=str(error),
                    detail="The result of the attempt is not in the database yet; it is written again until it is.",
                )
                await asyncio.sleep(SETTLE_AGAIN_S)
        failpoints.pass_by("digest settled")
        self._sending.pop((True, digest.id), None)
        self._record_outcome(channel.kind, outcome, digest.alerts if verdict.state != AlertState.PENDING else 1)
        self._ended(digest.lane, verdict.failed, verdict.retry_after_s)
        self._settled()

    async def _send(self, lane: int, message: Message, body: bytes, channel: Channel, attempts: int) -> AttemptResult:
        """The attempt itself. Every end is a verdict, also an exception."""
        try:
            async with asyncio.timeout(ATTEMPT_S_MAX):
                changed = await channel.send(message, body, self._out)
        except DeliveryError as error:
            if error.permanent:
                return AttemptResult(AlertState.DEAD, str(error))
            return AttemptResult(AlertState.PENDING, str(error), True, error.retry_after_s)
        except TimeoutError:
            return AttemptResult(AlertState.PENDING, f"not finished within {ATTEMPT_S_MAX:g} s", True)
        except Exception as error:
            log.exception("attempts.send_failed", id=message.id, channel_kind=channel.kind)
            reason = f"an internal error of Offbeat ({type(error).__name__}; the server's log says more)"
            return AttemptResult(AlertState.DEAD if attempts >= UNEXPECTED_MAX else AlertState.PENDING, reason)
        if changed:
            await self._store_change(lane, channel, changed)
        return AttemptResult(AlertState.DELIVERED)

    async def _store_change(self, lane: int, channel: Channel, changed: dict[str, Any]) -> None:
        """Store what the service has changed. If that fails, the next message meets the same change."""
        before = {name: getattr(channel, name) for name in changed}
        try:
            await self._outbox.change_channel(lane, before, changed)
            log.warning("attempts.channel_changed", channel=lane, before=before, after=changed)
        except Exception as error:
            log.warning("attempts.channel_change_not_stored", channel=lane, error=str(error))

    def _outcome(self, id: int, attempts: int, verdict: AttemptResult) -> SettledAlert:
        wait_s = backoff_s(attempts, self._draw, verdict.retry_after_s) if verdict.state == AlertState.PENDING else 0.0
        return SettledAlert(id, verdict.state, wait_s, verdict.error)

    async def _settle_all(self) -> None:
        while True:
            await self._unsettled.wait()
            self._unsettled.clear()
            try:
                await self._settle()
            except Exception as error:
                log.warning("attempts.results_not_written", waiting=len(self._outcomes), error=str(error))
                self._unsettled.set()
                await asyncio.sleep(SETTLE_AGAIN_S)

    async def _settle(self) -> None:
        """Write all outcomes; those that arrive while one statement is under way go with the next."""
        while self._outcomes:
            batch = self._outcomes[:SETTLE_MAX]
            await self._outbox.settle([outcome for outcome, _ in batch])
            failpoints.pass_by("settled")
            del self._outcomes[: len(batch)]
            for outcome, kind in batch:
                self._sending.pop((False, outcome.id), None)
                self._record_outcome(kind, outcome, 1)
            self._settled()

    def _record_outcome(self, kind: str, outcome: SettledAlert, count: int) -> None:
        """Count the outcome of an attempt, and log an alert that will not be sent again."""
        self._count(kind, "retried" if outcome.state == AlertState.PENDING else outcome.state, count)
        if outcome.state in (AlertState.DEAD, AlertState.EXPIRED):
            log.error("attempts.given_up", id=outcome.id, channel_kind=kind, state=outcome.state, error=outcome.error)

    def _watch_attempt(self, task: asyncio.Task[None]) -> None:
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
