"""A start: every monitor from its stored state, as the last scheduler left it.

All of them then follow the log from the checkpoint. Monitors that the last scheduler had left out because of an
internal error have older states: for each of these the log is applied from its own state on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from offbeat_server.common.clock import LogClock
from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.common.instants import Micros
from offbeat_server.db.pool import Connection
from offbeat_server.db.repositories.lease_row import outlast
from offbeat_server.db.scheduler_store import decision_rows, scheduler_rows, states
from offbeat_server.db.scheduler_store.log_entries import ENTRIES_MAX, of_monitor
from offbeat_server.db.scheduler_store.scheduler_rows import Checkpoint
from offbeat_server.engine.decisions import Decision
from offbeat_server.engine.engine import Engine, isolated_engine
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.engine.model.ping import Position
from offbeat_server.scheduler.config_changes import ConfigChanges
from offbeat_server.scheduler.lease import Lease
from offbeat_server.scheduler.log_reader import LogReader
from offbeat_server.scheduler.outages import OutageDetector
from offbeat_server.scheduler.recall import recall_runs

SLICE = 500  # monitors, entries or evaluations between two turns of the event loop, about 2 ms

log = structlog.get_logger("recovery")


async def recover(
    connection: Connection,
    engine: Engine,
    checkpoint: Checkpoint,
    log_reader: LogReader,
    config_changes: ConfigChanges,
    outage_detector: OutageDetector,
    clock: LogClock,
    yield_to_loop: Callable[[], Awaitable[None]],
) -> list[Decision]:
    """Bring the engine, and all that follows the log, to where the last scheduler left them.

    Return what was decided about monitors that it had quarantined, to be written before all else. Raises
    DatabaseDownError.
    """
    unfinished = await scheduler_rows.unfinished_writers(connection, checkpoint.cursors)
    log_reader.begin(checkpoint.at, checkpoint.cursors, unfinished, max(checkpoint.cursors, default=0))
    await config_changes.begin(connection, checkpoint.applied_rev)
    for outage in await outage_detector.begin(connection, checkpoint.at):
        engine.add_outage(outage.started_at, outage.ended_at)
    for window_id, project_id, window in await scheduler_rows.windows(connection, checkpoint.applied_rev):
        engine.load_window(window_id, project_id, window)
    begin = checkpoint.at or await database_time(connection, clock)
    return await load_monitors(connection, engine, checkpoint, begin, yield_to_loop)


async def database_time(connection: Connection, clock: LogClock) -> Micros:
    """Return log time by the database. Set `clock` too if it is not set yet, as in a process without a log writer."""
    before = clock.local()
    now = await scheduler_rows.now(connection)
    if not clock.ready:
        clock.sample(before, now, clock.local())
    return now


async def compare_incidents(
    connection: Connection, lease: Lease, engine: Engine, at: Micros, on_mismatch: Callable[[], None]
) -> None:
    """Compare the open incidents of Postgres and of the engine. A difference is a bug: it is counted and repaired.

    Raises LeaseLostError, DatabaseDownError.
    """
    in_engine = engine.open_incidents()
    in_database = await scheduler_rows.open_incidents(connection)
    if in_engine != in_database:  # or another scheduler may have continued since the states were read
        await outlast(connection, lease.check())
    for monitor_id, number in in_database.items():
        if in_engine.get(monitor_id) != number and monitor_id not in engine.quarantined:
            on_mismatch()
            log.error(
                "recovery.incident_only_in_database",
                monitor_id=monitor_id,
                incident=number,
                detail="The scheduler does not know this open incident. It is resolved now; please report this fault.",
            )
            await decision_rows.close_incident(connection, lease.check(), monitor_id, number, max(at, 1))
    for monitor_id in in_engine.keys() - in_database.keys():
        on_mismatch()
        log.error(
            "recovery.incident_only_in_engine",
            monitor_id=monitor_id,
            detail="The database does not have this open incident. It is written now; please report this fault.",
        )
        engine.restate_incident(monitor_id)


async def load_monitors(
    connection: Connection,
    engine: Engine,
    checkpoint: Checkpoint,
    begin: Micros,
    breathe: Callable[[], Awaitable[None]],
) -> list[Decision]:
    """Fill the engine; gives what was decided about those that had been left out, to be written before all else.

    A monitor without a state begins at `begin`. Raises DatabaseDownError.
    """
    stateless: list[Monitor] = []
    behind: list[Monitor] = []
    async for loaded in states.load_monitors(connection, checkpoint.applied_rev, engine.quarantine):
        for m, has_state in loaded:
            if not has_state:
                stateless.append(m)
            elif m.id in checkpoint.set_aside and m.at < checkpoint.at:
                behind.append(m)
            else:
                _try(engine, m, engine.load)
        await asyncio.sleep(0)
    decided: list[Decision] = []
    for m in behind:
        decided += await _catch_up(connection, engine, m, checkpoint.at)
    engine.loaded(checkpoint.at)
    for count, m in enumerate(stateless, 1):
        _try(engine, m, partial(_begin, engine, at=begin))
        if count % SLICE == 0:
            await breathe()
    return decided


def _try(engine: Engine, m: Monitor, act: Callable[[Monitor], None]) -> None:
    try:
        act(m)
    except Exception as error:  # an internal error: the others are still loaded
        engine.quarantine(m.id, error)


def _begin(engine: Engine, m: Monitor, *, at: Micros) -> None:
    engine.put(m.id, m.project_id, m.slug, m.definition, paused=m.paused, name=m.name, tags=m.tags, at=at)


async def _catch_up(connection: Connection, engine: Engine, m: Monitor, through: Micros) -> list[Decision]:
    """Apply to a monitor what the log has of it up to `through`; it is left out again where that still fails."""
    log.info("recovery.quarantine_retried", monitor_id=m.id)
    errors: list[Exception] = []
    decided: list[Decision] = []
    try:
        lone = isolated_engine(
            engine.state.outages.intervals, engine.state.windows, m, lambda monitor_id, error: errors.append(error)
        )
        since = m.follow_from
        while not errors and (entries := await of_monitor(connection, m.id, since, through, ENTRIES_MAX)):
            await recall_runs(connection, lone, entries)
            since, done = Position(entries[-1].at, entries[-1].writer, entries[-1].seq), 0
            while done < len(entries) and not errors:
                done = lone.apply(entries, done, SLICE)
                await asyncio.sleep(0)
        while not errors and not lone.advance(through, SLICE):
            await asyncio.sleep(0)
        decided = lone.drain(1)
        m.queued_at = None  # its entry was in the other engine
        engine.load(m)
    except DatabaseDownError:
        raise
    except Exception as error:
        errors.append(error)
    if not errors:
        return decided
    engine.quarantine(m.id, errors[0])
    return []
