"""Periodic work of the active dispatcher: reminders, alerts at Alertmanagers, the end of digests, deletion of old rows.

Each reads the database again every time, so that a new dispatcher continues where the last one stopped.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import structlog

from offbeat_server.common.clock import monotonic, to_rfc3339
from offbeat_server.common.errors import DatabaseDownError, DefinitionError
from offbeat_server.common.instants import SECOND
from offbeat_server.common.service import Service
from offbeat_server.config import Settings
from offbeat_server.db.repositories.outbox import DigestMember, FailingChannel, Outbox
from offbeat_server.engine.model.alert_payload import AlertPayload
from offbeat_server.engine.model.enums import AlertKind, AlertState
from offbeat_server.notify.channels.alertmanager import Alertmanager
from offbeat_server.notify.channels.registry import KINDS, load_channel
from offbeat_server.notify.messages.message_builder import MessageBuilder
from offbeat_server.notify.transport.http_client import Transport

log = structlog.get_logger("periodic")

REMIND_EVERY_S = 5.0
REMINDERS_MAX = 1_000  # in one statement; the next one follows at once
OVER_EVERY_S = 5.0
FIRING_EVERY_S = 60.0  # docs/alerts_api.md: well below resolve_timeout, five minutes
FIRING_LASTS_S = 240.0  # four missed repetitions, as Prometheus has it
RESOLVED_FOR_S = 300.0
FIRING_PAGE = 200  # writing one takes 0.1 ms, and the loop waits for all
EXPIRE_EVERY_S = 15.0
CATCH_UP_EVERY_S = 3.0
INTRODUCE_EVERY_S = 30.0
NAMED_MAX = 10  # channels in one alert about them
SWEEP_EVERY_S = 600.0
SWEEP_MAX = 5_000


class PeriodicAlerts(Service):
    """`scribe` gives None while another dispatcher is active."""

    name = "periodic"

    def __init__(
        self,
        outbox: Outbox,
        out: Transport,
        settings: Settings,
        wake: Callable[[], None],
        message_builder: Callable[[], MessageBuilder | None],
        count: Callable[[str, str, int], None],
    ) -> None:
        super().__init__()
        # Times that tests shrink.
        self.remind_every_s = REMIND_EVERY_S
        self.over_every_s = OVER_EVERY_S
        self.firing_every_s = FIRING_EVERY_S
        self.expire_every_s = EXPIRE_EVERY_S
        self.catch_up_every_s = CATCH_UP_EVERY_S
        self.sweep_every_s = SWEEP_EVERY_S
        self._outbox = outbox
        self._out = out
        self._keep_days = settings.keep_days
        self._wake = wake
        self._message_builder = message_builder
        self._count = count
        self._introduced_s = 0.0
        self._seen_rev = -1  # the last change after which channels were looked at
        self._sending: set[int] = set()  # Alertmanager channels whose last repetition is still under way

    async def start(self) -> None:
        """Begins; the first of each comes at once."""
        self.spawn(self._repeat(self.remind, lambda: self.remind_every_s), "reminders")
        self.spawn(self._repeat(self.send_recovered, lambda: self.over_every_s), "recoveries of digests")
        self.spawn(self._repeat(self.send_firing, lambda: self.firing_every_s), "firing alerts")
        self.spawn(self._repeat(self.catch_up, lambda: self.catch_up_every_s), "channels")
        self.spawn(self._repeat(self._expire, lambda: self.expire_every_s), "expiry")
        self.spawn(self._repeat(self._sweep, lambda: self.sweep_every_s), "sweep")

    async def _repeat(self, step: Callable[[MessageBuilder], Awaitable[None]], every_s: Callable[[], float]) -> None:
        while True:
            message_builder = self._message_builder()
            if message_builder is None:
                await asyncio.sleep(min(0.2, every_s()))
                continue
            try:
                await step(message_builder)
            except DatabaseDownError as error:
                log.warning("periodic.step_failed", step=step.__name__, error=str(error))
            except Exception:
                log.exception("periodic.step_failed", step=step.__name__)
            await asyncio.sleep(every_s())

    async def remind(self, message_builder: MessageBuilder) -> None:
        """Queue the reminders that are due."""
        while queued := await self._outbox.remind(REMINDERS_MAX, self._out.now()):
            self._wake()
            if queued < REMINDERS_MAX:
                break

    async def catch_up(self, message_builder: MessageBuilder) -> None:
        """Report channels at which alerts do not arrive; tell those that were added or repaired what is open."""
        await self._report_failing()
        queued = await self._outbox.revive()
        rev = await self._outbox.last_change()
        # Also without a change: an incident that was just being decided, snoozed or in maintenance was left to later.
        if rev != self._seen_rev or monotonic() - self._introduced_s > INTRODUCE_EVERY_S:
            self._introduced_s = monotonic()
            queued += await self._outbox.introduce(self._out.now())
            self._seen_rev = rev
        if queued:
            self._wake()

    async def _report_failing(self) -> None:
        """One alert for each project, in the transaction that notes that its channels were reported."""
        found: dict[int, list[FailingChannel]] = {}
        async with self._outbox.transaction() as connection:
            for row in await self._outbox.unreported(connection):
                found.setdefault(row.project_id, []).append(row)
            for project_id, rows in found.items():
                facts = _about_failing(rows)
                log.error("periodic.channels_failing", project=project_id, channels=facts["channels"])
                await self._outbox.report_failing(connection, [row.id for row in rows], project_id, facts)
        if found:
            self._wake()

    async def send_recovered(self, message_builder: MessageBuilder) -> None:
        """Queue a resolution for every digest that is one incident at its service, once all members are resolved."""
        kinds = [name for name, kind in KINDS.items() if kind.keeps_incidents]
        channels = {id: (kind, text) for id, kind, text in await self._outbox.channels_of_kinds(kinds)}
        if not channels:
            return
        for id, lane, alerts, uid in await self._outbox.all_over(list(channels)):
            try:
                channel = load_channel(*channels[lane])
            except DefinitionError as error:
                log.warning("periodic.digest_not_resolved", digest=id, error=str(error))
                continue
            facts: AlertPayload[str] = {"kind": AlertKind.OVER, "alerts": alerts, "closes": id}
            at = to_rfc3339(self._out.now()) or ""
            await self._outbox.close_digest(id, facts, channel.compose(message_builder.over(id, facts, at, uid)))
            self._wake()

    async def send_firing(self, message_builder: MessageBuilder) -> None:
        """Repeat to every Alertmanager what is open, and what has just been resolved; a slow one delays no other."""
        for id, kind, text in await self._outbox.channels_of_kinds([Alertmanager.kind]):
            try:
                channel = load_channel(kind, text)
            except DefinitionError as error:
                log.warning("periodic.alertmanager_skipped", channel=id, error=str(error))
                continue
            if isinstance(channel, Alertmanager) and id not in self._sending:
                self._sending.add(id)
                task = self.errand(self._send_pages(id, channel, message_builder), f"Alertmanager {id}")
                task.add_done_callback(lambda _, id=id: self._sending.discard(id))  # type: ignore[misc]

    async def _send_pages(self, id: int, channel: Alertmanager, message_builder: MessageBuilder) -> None:
        """All pages to every peer. One that fails waits for the next time: what the others hold must not grow old."""
        peers, after = channel.urls, 0
        while peers and (page := await self._outbox.firing(id, after, FIRING_PAGE)):
            peers = await self._post(id, channel, peers, page, message_builder)
            after = page[-1].monitor_id or 0
        after = 0
        while peers and (page := await self._outbox.just_resolved(id, RESOLVED_FOR_S, after, FIRING_PAGE)):
            peers = await self._post(id, channel, peers, page, message_builder)
            after = page[-1].id

    async def _post(
        self,
        id: int,
        channel: Alertmanager,
        peers: tuple[str, ...],
        page: list[DigestMember],
        message_builder: MessageBuilder,
    ) -> tuple[str, ...]:
        """Send one page to these peers at once; return those that can get the next one."""
        now = self._out.now()
        at, ends_at = to_rfc3339(now) or "", to_rfc3339(now + int(FIRING_LASTS_S * SECOND))
        alerts = []
        for each in page:
            try:
                alerts.append(channel.alert(message_builder.alert(each, at, "default"), ends_at))
            except Exception:
                log.exception("periodic.render_failed", id=each.id)
        failures = await channel.post(peers, channel.encode(alerts), self._out)
        for error in failures.values():
            log.warning("periodic.alertmanager_failed", channel=id, error=str(error))
        # A peer that refuses a page permanently refuses it because of the content of this page.
        return tuple(url for url in peers if url not in failures or failures[url].permanent)

    async def _expire(self, message_builder: MessageBuilder) -> None:
        for kind, count in Counter(await self._outbox.expire()).items():
            self._count(kind, AlertState.EXPIRED, count)
            log.error("periodic.alerts_expired", channel_kind=kind, alerts=count)

    async def _sweep(self, message_builder: MessageBuilder) -> None:
        while await self._outbox.sweep(self._keep_days, SWEEP_MAX) == SWEEP_MAX:
            await asyncio.sleep(0.1)


def _about_failing(channels: list[FailingChannel]) -> AlertPayload[str]:
    """The facts of the alert that reports channels of one project."""
    named = [
        f"{each.slug} (marked as failing {each.since:%Y-%m-%d %H:%M} UTC: {each.why or 'no reason is known'})"
        for each in channels[:NAMED_MAX]
    ]
    more = f" and {len(channels) - NAMED_MAX} more" if len(channels) > NAMED_MAX else ""
    reason = f"Alerts do not arrive at {', '.join(named)}{more}. Correct the channel and send it a test message."
    return {
        "kind": AlertKind.OPERATOR,
        "cause": "channel",
        "reason": reason,
        "channels": [each.slug for each in channels],
    }
