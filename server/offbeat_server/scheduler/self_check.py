"""Compares, all the time, a few monitors with what the log says of them: what is in memory, in the heap and stored.

A restart depends on one promise: a stored state and the log since then give the state in memory. This is tested for one
monitor after the other, by the same pure engine, on a connection that the scheduler does not wait for. Each difference
is a bug; it is counted, and nothing is repaired, because it is not known which side is right.
"""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from typing import Any

import structlog

from offbeat_server.common.errors import DatabaseDownError, LeaseLostError
from offbeat_server.common.instants import Micros
from offbeat_server.common.service import Service, forever
from offbeat_server.db.pool import Pool, database_trouble
from offbeat_server.db.scheduler_store import scheduler_rows
from offbeat_server.db.scheduler_store.log_entries import of_monitor
from offbeat_server.db.scheduler_store.states import load_stored
from offbeat_server.engine.engine import Engine, isolated_engine
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.scheduler.recall import recall_runs
from offbeat_server.scheduler.scheduler import Scheduler

EVERY_S = 1.0
MONITORS_PER_ROUND_MAX = 5
ENTRIES_MAX = 500  # of a monitor since its stored state; one with more is left for after the next checkpoint
TASKS_MAX = 1_000  # names in runs; a state with more takes too long to be looked at
REST_TRIES_MAX = 50
REST_PAUSE_S = 0.01

log = structlog.get_logger("self_check")


class SelfCheck(Service):
    """Looks at five monitors a second, in a circle that begins anywhere. `checked` and `mismatches` since the start."""

    name = "self_check"

    def __init__(self, pool: Pool, scheduler: Scheduler) -> None:
        super().__init__()
        self._pool, self._scheduler = pool, scheduler
        self._line: Iterator[int] = iter(())
        self.checked = 0
        self.mismatches = 0

    async def start(self) -> None:
        """Begin to compare; only the process that is the scheduler has anything to compare."""
        self.spawn(forever(self._round, EVERY_S), "compare")

    async def _round(self) -> None:
        with contextlib.suppress(DatabaseDownError):
            for monitor_id in self._next():
                if not await self._at_rest():
                    return
                if (m := self._scheduler.engine.monitors.get(monitor_id)) is not None:
                    await self.check(self._scheduler.engine, m)

    def _next(self) -> list[int]:
        monitors = self._scheduler.engine.monitors
        found = [monitor_id for _, monitor_id in zip(range(MONITORS_PER_ROUND_MAX), self._line, strict=False)]
        if not found and monitors:
            ids = list(monitors)
            begin = random.randrange(len(ids))
            self._line = iter(ids[begin:] + ids[:begin])
        return found

    async def _at_rest(self) -> bool:
        """Wait until the engine is between two cycles: all up to its `now` applied, evaluated and written."""
        for _ in range(REST_TRIES_MAX):
            if self._scheduler.idle:
                return True
            await asyncio.sleep(REST_PAUSE_S)
        return False

    async def check(self, engine: Engine, m: Monitor) -> None:
        """Compare one monitor. The engine must be at rest; it may continue while the database is asked."""
        state, through = engine.state, engine.now
        if m.at > through or through < engine.ahead or m.id in state.pending_decisions or not _stands_alone(engine, m):
            return
        shown, rev = _show(m), m.rev
        fault = _fault_of_heap(engine, m)
        stored = Monitor(m.id, m.project_id, m.slug, m.name, m.definition, 0)
        stored.tags, stored.paused, stored.snoozed_until = m.tags, m.paused, m.snoozed_until
        expected = await self._replay(engine, stored, rev, through)
        if expected is None and fault is None:
            return
        self.checked += 1
        differing = [key for key in {**shown, **(expected or {})} if expected and shown.get(key) != expected.get(key)]
        if (differing or fault) and await self._log_is_whole():
            self.mismatches += 1
            log.error(
                "self_check.mismatch",
                monitor_id=m.id,
                queue=fault,
                memory={key: shown.get(key) for key in differing},
                log={key: (expected or {}).get(key) for key in differing},
            )

    async def _log_is_whole(self) -> bool:
        """Whether the database has all that the scheduler has read of it: a promoted standby may be without the end."""
        with database_trouble():
            async with self._pool.acquire() as connection:
                try:
                    await self._scheduler.log_reader.check(connection)
                except LeaseLostError:  # the scheduler finds out, too, and loads everything again
                    return False
        return True

    async def _replay(self, engine: Engine, stored: Monitor, rev: int, through: Micros) -> dict[str, Any] | None:
        """The state of the monitor at `through` by its stored state and the log; None if that is not known now."""
        outages, windows = list(engine.state.outages.intervals), dict(engine.state.windows)
        with database_trouble():
            async with self._pool.acquire() as connection:
                if not await load_stored(connection, stored) or stored.at > through or stored.rev < rev:
                    return None  # it was written again since, or a change of it was not
                since = stored.position
                entries = await of_monitor(connection, stored.id, since, through, ENTRIES_MAX + 1)
                if len(entries) > ENTRIES_MAX:
                    return None
                errors: list[Exception] = []
                lone = isolated_engine(outages, windows, stored, lambda monitor_id, error: errors.append(error))
                has_recalled = await recall_runs(connection, lone, entries)
                if has_recalled and await scheduler_rows.state_at(connection, stored.id) != since.at:
                    return None  # it was written in between, so the rows may be newer than the state
        done = 0
        while done < len(entries):
            done = lone.apply(entries, done, ENTRIES_MAX)
        while not lone.advance(through, ENTRIES_MAX):
            pass
        return {"error": repr(errors[0])} if errors else _show(stored)


def _stands_alone(engine: Engine, m: Monitor) -> bool:
    """Whether its state follows from its own pings. The members of a fleet are written later than its state."""
    definition = m.definition
    linked = definition.depends_on or definition.after is not None or definition.members is not None
    return not linked and (m.runs is None or m.runs.task_names + m.runs.ended_names <= TASKS_MAX)


def _fault_of_heap(engine: Engine, m: Monitor) -> str | None:
    """The fault of a monitor's entry in the heap: it may be early, never late, and never overdue."""
    when, queued_at = engine.state.next_deadline_of(m), m.queued_at
    if queued_at is None:
        return "it is not in the heap" if when is not None else None
    if when is not None and queued_at > when:
        return f"it is looked at {queued_at - when} µs late"
    return f"it was to be looked at {engine.now - queued_at} µs ago" if queued_at <= engine.now else None


def _show(m: Monitor) -> dict[str, Any]:
    """Its state for comparison, without values that do not come from the log: changes that all processes know."""
    shown = {key: _unordered(value) for key, value in m.dump().items() if key != "rev"}
    return {"status": m.status, "since": m.since, **shown}


def _unordered(value: Any) -> Any:
    """Names of tasks come in another order after a start, and it means nothing."""
    if isinstance(value, dict):
        return {key: _unordered(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return sorted((_unordered(each) for each in value), key=repr)
    return value
