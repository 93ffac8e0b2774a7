"""Follows what people change: definitions, pauses, windows, channels. Each takes effect at an instant of the log.

Everything up to that instant was applied under the old definition, so a replay after a crash never meets a definition
that was not in force: a monitor's state says which change it knows, and a start goes back behind the ones it does not.
"""

from collections.abc import Awaitable, Callable

import structlog

from offbeat_server.common.instants import Micros
from offbeat_server.db.pool import Connection
from offbeat_server.db.scheduler_store import scheduler_rows
from offbeat_server.db.scheduler_store.decision_rows import WindowsApplied
from offbeat_server.db.scheduler_store.scheduler_rows import ChangeSeen
from offbeat_server.engine.engine import Engine
from offbeat_server.engine.model.definition import load_definition
from offbeat_server.engine.rules.reasons import closed_by_hand

log = structlog.get_logger("config_changes")


class ConfigChanges:
    """The last change applied, and where alerts go by now."""

    def __init__(self) -> None:
        self.rev = 0
        self._ended: dict[int, Micros | None] = {}  # deleted by changes that are read again; no row of them is left
        self._known: list[tuple[Micros, ChangeSeen]] = []  # of windows, applied by the last scheduler at these instants
        self._ahead: Micros = 0  # the instant at which the last of these deletions and windows took effect
        self._repeated = 0  # how many of them are applied here too
        self.windows_applied: list[WindowsApplied] = []  # not recorded yet
        self.projects: dict[int, str] = {}
        self._channels: dict[int, list[scheduler_rows.ChannelSeen]] = {}

    async def begin(self, connection: Connection, rev: int) -> None:
        """Follow from here. Raises DatabaseDownError."""
        self.rev = rev
        self._ended = await scheduler_rows.deleted_since(connection, rev)
        self._known = await scheduler_rows.windows_applied(connection, rev)
        ended = [at for at in self._ended.values() if at is not None]
        self._ahead = max([0, *ended, *(at for at, _ in self._known)])
        self._repeated = 0
        self.windows_applied = []
        await self._load_channels(connection)

    async def apply(
        self,
        connection: Connection,
        engine: Engine,
        at: Micros,
        breathe: Callable[[], Awaitable[None]],
        stranger: int = 0,
    ) -> None:
        """Take in what was changed. Everything up to `at` was applied. Raises DatabaseDownError.

        After a start the log is read again up to where the states of the last scheduler are, its last deletion and its
        last window (`replay_known`). Until then only those changes are taken in that it had applied before the first
        ping of `stranger`, a monitor that is not known here; others would meet states of a later time.
        """
        last = 1 << 62
        if at < max(engine.ahead, self._ahead) and not (last := await self._made(connection, stranger)):
            return
        known = {change.rev for _, change in self._known}
        while found := await scheduler_rows.changes_since(connection, self.rev):
            for change in found:
                if change.rev > last:
                    return
                if change.monitor_id in self._ended or change.rev in known:
                    self.rev = change.rev
                    continue
                if change.kind == "window":
                    self.windows_applied.append(WindowsApplied(change.rev, at))
                try:
                    _apply(engine, change, at)
                except Exception as error:  # an internal error concerns this monitor; the others continue
                    if change.monitor_id is None:
                        log.exception("config_changes.change_skipped", rev=change.rev, kind=change.kind)
                    else:
                        engine.quarantine(change.monitor_id, error)
                self.rev = change.rev
            if any(change.kind in ("channel", "project") for change in found):
                await self._load_channels(connection)
            await breathe()

    @property
    def next_known(self) -> Micros | None:
        """The instant of the next change of a window that the last scheduler had applied already."""
        return next((at for at, _ in self._known[self._repeated :]), None)

    def replay_known(self, engine: Engine) -> None:
        """Take in that change. Everything up to its instant was applied."""
        at, change = self._known[self._repeated]
        self._repeated += 1
        _apply(engine, change, at)

    async def _made(self, connection: Connection, monitor_id: int) -> int:
        """The change by which this monitor is made; 0: none that was not applied."""
        rev = self.rev
        if monitor_id in self._ended:
            return 0
        while monitor_id and (found := await scheduler_rows.changes_since(connection, rev)):
            for change in found:
                if change.monitor_id == monitor_id:
                    return change.rev
            rev = found[-1].rev
        return 0

    def channels_of(self, project_id: int, slugs: tuple[str, ...] | None) -> list[int]:
        """The ids of these channels of a project; None: of its defaults."""
        channels = self._channels.get(project_id, [])
        if slugs is None:
            return [channel.id for channel in channels if channel.is_default]
        return [channel.id for channel in channels if channel.slug in slugs]

    async def _load_channels(self, connection: Connection) -> None:
        self.projects = await scheduler_rows.projects(connection)
        self._channels = {}
        for channel in await scheduler_rows.channels(connection):
            self._channels.setdefault(channel.project_id, []).append(channel)


def _apply(engine: Engine, change: ChangeSeen, at: Micros) -> None:
    if change.kind == "window":
        _apply_window(engine, change, at)
    if change.monitor_id is None:
        return
    known = engine.monitors.get(change.monitor_id)
    if known is not None and known.rev >= change.rev:
        return  # its state knows it already
    if change.kind == "resolve":
        engine.resolve_by_hand(change.monitor_id, scheduler_rows.read_incident(change.after), change.rev, at)
    elif change.kind == "close":
        closed = scheduler_rows.read_closed_run(change.after or "")
        reason = closed_by_hand(closed.verdict, closed.by, closed.reason)
        engine.close_run_by_hand(
            change.monitor_id, closed.number, closed.verdict, reason, closed.had_ended, change.rev, at
        )
    elif change.kind in ("acknowledge", "comment"):
        return  # of interest to people alone
    elif change.after is None:
        engine.remove(change.monitor_id, at)
    else:
        now = scheduler_rows.read_defined(change.after)
        engine.put(
            change.monitor_id,
            change.project_id or 0,
            now.slug,
            load_definition(now.definition),
            paused=now.paused,
            drop=now.drop,
            snoozed_until=now.snoozed_until,
            rev=change.rev,
            name=now.name,
            tags=now.tags,
            references=now.references,
            at=at,
        )


def _apply_window(engine: Engine, change: ChangeSeen, at: Micros) -> None:
    if change.after is not None:
        window_id, window = scheduler_rows.read_window_change(change.after, change.subject)
        engine.put_window(window_id, change.project_id or 0, window, at)
    elif change.before is not None:
        engine.remove_window(scheduler_rows.read_window_change(change.before, change.subject)[0], at)
