"""Writes what the engine has decided: states, runs, incidents and alerts, in transactions of the lease's term.

A transaction whose end is unknown is written again, as it was. A decision that Postgres cannot store is dropped, and
its monitor is quarantined; the others of the same transaction are written.
"""

from collections.abc import Callable, Sequence

import structlog

from offbeat_server.common import failpoints
from offbeat_server.common.clock import LogClock
from offbeat_server.common.errors import LeaseLostError, RowRejectedError
from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.db.pool import Connection, KeptConnection
from offbeat_server.db.scheduler_store import decision_rows, scheduler_rows
from offbeat_server.engine.decisions import Alert, Decision
from offbeat_server.engine.engine import Engine
from offbeat_server.observability.metrics import Metrics
from offbeat_server.scheduler.config_changes import ConfigChanges
from offbeat_server.scheduler.lease import Lease

SUBJECTS_MAX = 500  # monitors in one transaction

log = structlog.get_logger("decision_writer")


class DecisionWriter:
    """The decisions of one engine that are not written yet. `on_alerts` is called when alerts were committed."""

    def __init__(
        self,
        connection: KeptConnection,
        lease: Lease,
        config_changes: ConfigChanges,
        clock: LogClock,
        metrics: Metrics,
        on_alerts: Callable[[], None],
    ) -> None:
        self._connection, self._lease, self._config_changes = connection, lease, config_changes
        self._clock, self._metrics, self._on_alerts = clock, metrics, on_alerts
        self.dropped = 0  # decisions that Postgres could not store
        self._engine: Engine
        self._pending: Sequence[Decision] = ()  # taken from the engine, not known to be written
        self._last_state: tuple[int, Micros] | None = None  # the last one that was written: monitor, and its last input

    def begin(self, engine: Engine) -> None:
        """Write for this engine from now on; forget what is pending of another."""
        self._engine, self._pending, self._last_state = engine, (), None

    async def write_all(self) -> None:
        """Write everything that the engine has decided, some hundred monitors per transaction.

        Raises DatabaseDownError, LeaseLostError; after a DatabaseDownError the next call continues.
        """
        while self._pending or self._engine.pending_count:
            if not self._pending:
                failpoints.pass_by("decided")
                self._pending = self._engine.drain(SUBJECTS_MAX)
                failpoints.pass_by("taken")
            await self._write_pending()

    async def write(self, decisions: Sequence[Decision]) -> None:
        """Write these in one transaction. Raises DatabaseDownError, LeaseLostError; see `write_all`."""
        self._pending = decisions
        await self._write_pending()

    async def check(self, connection: Connection) -> None:
        """Raises LeaseLostError if Postgres has not the last state that was written: it is another or an older one."""
        if self._last_state is None:
            return
        monitor_id, at = self._last_state
        stored_at = await scheduler_rows.state_at(connection, monitor_id)
        if stored_at is None or stored_at < at:
            raise LeaseLostError("the database no longer has decisions that this process has committed to it")

    async def _write_pending(self) -> None:
        """One transaction. If a row cannot be stored: halves of it, until the row's monitor stands alone."""
        connection = await self._connection.get()
        parts = [self._pending] if self._pending else []
        while parts:
            part = parts.pop()
            try:
                await self._commit(connection, part)
            except RowRejectedError as error:
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                    continue
                self._drop(part[0], error)
            self._announce(part)
        self._pending = ()
        failpoints.pass_by("known")

    async def _commit(self, connection: Connection, part: Sequence[Decision]) -> None:
        changes = self._config_changes
        windows = tuple(changes.windows_applied)
        await decision_rows.write(
            connection, self._lease.check(), part, changes.channels_of, changes.projects, windows_applied=windows
        )
        del changes.windows_applied[: len(windows)]
        for decision in part:
            if decision.state is not None:
                self._last_state = decision.monitor_id, decision.position.at
            elif self._last_state is not None and decision.monitor_id == self._last_state[0]:
                self._last_state = None

    def _drop(self, decision: Decision, error: RowRejectedError) -> None:
        self.dropped += 1
        log.error("decision_writer.decision_rejected", monitor_id=decision.monitor_id, error=str(error))
        if decision.state is not None:  # else the monitor was deleted, and nothing will follow
            self._engine.quarantine(decision.monitor_id, error)

    def _announce(self, written: Sequence[Decision]) -> None:
        alerts = [effect for decision in written for effect in decision.effects if isinstance(effect, Alert)]
        if alerts:
            now = self._clock.now()
            self._metrics.decided((now - alert.decided_at) / SECOND for alert in alerts if alert.kind != "resolved")
            self._on_alerts()
