"""Writes what was decided, whole subjects at a time: a monitor's effects together with the state that followed."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, TypeVar, cast

import asyncpg
import orjson

from offbeat_server.common import failpoints
from offbeat_server.common.clock import to_rfc3339
from offbeat_server.common.errors import DatabaseDownError, RowRejectedError
from offbeat_server.common.instants import SECOND, Micros, to_datetime, to_micros
from offbeat_server.db.pool import Connection, describe
from offbeat_server.db.repositories import definitions
from offbeat_server.db.repositories.lease_row import Held, held_by
from offbeat_server.db.sql_loader import load
from offbeat_server.engine.decisions import (
    Alert,
    Decision,
    Effect,
    IncidentChanged,
    MonitorMoved,
    MonitorResumed,
    RunChanged,
)
from offbeat_server.engine.model.alert_payload import AlertPayload
from offbeat_server.engine.model.enums import AlertKind
from offbeat_server.engine.rules import reasons

_SQL = load("decisions")
_CHANGES = load("changes")

MEMBERS_AT_ONCE = 2_000  # some 4 ms
USUAL_RUNS_MIN = 3  # fewer say nothing of what is usual
COMMENTS_NAMED_MAX = 3  # in the alert about the end of an incident
_BLAMES_A_ROW = ("22", "23", "54")  # classes of SQLSTATE: data, constraints, limits of the program

E = TypeVar("E", bound=Effect)
# The channels of an alert: (project id, slugs or None for the defaults) -> ids.
ChannelsOf = Callable[[int, tuple[str, ...] | None], Sequence[int]]


class WindowsApplied(NamedTuple):
    """A change of a window, and the instant at which it took effect."""

    rev: int
    at: Micros


async def write(
    connection: Connection,
    held: Held,
    decisions: Sequence[Decision],
    channels_of: ChannelsOf,
    project_slugs: dict[int, str],
    windows_applied: Sequence[WindowsApplied] = (),
) -> None:
    """One transaction that only the scheduler can commit. `windows_applied`: windows that they rest on.

    Raises LeaseLostError; DatabaseDownError: it may have happened, write them again; RowRejectedError: one of them
    cannot be stored.
    """
    try:
        await _write(connection, held, decisions, channels_of, project_slugs, windows_applied)
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "").startswith(_BLAMES_A_ROW):
            raise RowRejectedError(describe(error)) from error
        raise DatabaseDownError(f"Postgres: {describe(error)}") from error  # a deadlock, say: the next attempt may do
    except (ValueError, TypeError, ArithmeticError) as error:  # asyncpg's DataError is a ValueError
        raise RowRejectedError(f"a decision cannot be written down: {error!r}") from error


async def _write(
    connection: Connection,
    held: Held,
    decisions: Sequence[Decision],
    channels_of: ChannelsOf,
    project_slugs: dict[int, str],
    windows_applied: Sequence[WindowsApplied],
) -> None:
    """Write one table after the other: changes, states, members, runs, incidents, alerts."""
    async with held_by(connection, held):
        await _note_windows(connection, windows_applied)
        failpoints.pass_by("begun")
        await _resume_monitors(connection, decisions)
        await _put_states(connection, [d for d in decisions if d.state is not None])
        await _delete_states(connection, [d for d in decisions if d.state is None])
        await _put_members(connection, decisions)
        await _put_runs(connection, _effects(decisions, RunChanged))
        await _move_incidents(connection, [d for d, _ in _effects(decisions, MonitorMoved)])
        await _put_incidents(connection, _effects(decisions, IncidentChanged))
        await _put_alerts(connection, _effects(decisions, Alert), channels_of, project_slugs)
    failpoints.pass_by("committed")


def _effects(decisions: Sequence[Decision], kind: type[E]) -> list[tuple[Decision, E]]:
    """The effects of one kind, each with its decision."""
    return [(d, effect) for d in decisions for effect in d.effects if isinstance(effect, kind)]


async def _note_windows(connection: Connection, applied: Sequence[WindowsApplied]) -> None:
    """Note in `changes` when these changes of windows took effect."""
    if applied:
        instants = [to_datetime(each.at) for each in applied]
        await connection.execute(_SQL["put_effective"], [each.rev for each in applied], instants)


async def _resume_monitors(connection: Connection, decisions: Sequence[Decision]) -> None:
    """End the pause of monitors that a ping has resumed; each is a change of its own."""
    resumed = [d.monitor_id for d, _ in _effects(decisions, MonitorResumed)]
    if not resumed:
        return
    await connection.execute(_CHANGES["lock"])
    for monitor_id in resumed:
        row = await connection.fetchrow(_SQL["slug_of"], monitor_id)
        if row is not None:
            await definitions.alter_monitor(connection, row["project_id"], row["slug"], "ping", "resume", paused=False)


async def _put_states(connection: Connection, kept: Sequence[Decision]) -> None:
    if kept:
        await connection.execute(_SQL["put_states"], *_states(kept))
        failpoints.pass_by("state written")


async def _delete_states(connection: Connection, gone: Sequence[Decision]) -> None:
    """Delete the states of deleted monitors, and note when that took effect."""
    if gone:
        instants = [to_datetime(d.position.at) for d in gone]
        await connection.execute(_SQL["delete_states"], [d.monitor_id for d in gone], instants)


async def _put_members(connection: Connection, decisions: Sequence[Decision]) -> None:
    """In slices: a checkpoint writes whole fleets, and what is encoded in one go holds the loop."""
    if disbanded := [d.monitor_id for d in decisions if d.disbanded]:
        await connection.execute(_SQL["disband"], disbanded)
    rows = ((d.monitor_id, member) for d in decisions for member in d.members)
    while part := list(islice(rows, MEMBERS_AT_ONCE)):
        if kept := [(id, m.name, to_datetime(m.at), _instant(m.silent_since)) for id, m in part if m.at is not None]:
            await connection.execute(_SQL["put_members"], *map(list, zip(*kept, strict=True)))
        if gone := [(id, m.name) for id, m in part if m.at is None]:
            await connection.execute(_SQL["delete_members"], *map(list, zip(*gone, strict=True)))


async def _put_runs(connection: Connection, runs: Sequence[tuple[Decision, RunChanged]]) -> None:
    if runs:
        await connection.execute(_SQL["put_runs"], *_runs(runs))


async def _move_incidents(connection: Connection, moved: Sequence[Decision]) -> None:
    """The incidents of monitors that were moved belong to their new projects."""
    if moved:
        ids, projects = [d.monitor_id for d in moved], [d.project_id for d in moved]
        await connection.execute(_SQL["move_incidents"], ids, projects)


async def _put_incidents(connection: Connection, incidents: Sequence[tuple[Decision, IncidentChanged]]) -> None:
    if incidents:
        await connection.execute(_SQL["put_incidents"], *_incidents(incidents))
        failpoints.pass_by("incident written")


async def _put_alerts(
    connection: Connection,
    alerts: Sequence[tuple[Decision, Alert]],
    channels_of: ChannelsOf,
    project_slugs: dict[int, str],
) -> None:
    """Write a row for each alert and channel. There is none if no channel wants it."""
    usual, notes = await _usual(connection, alerts), await _notes(connection, alerts)
    columns = _alerts(alerts, channels_of, project_slugs, usual, notes)
    if columns[0]:
        await connection.execute(_SQL["put_alerts"], *columns)
        failpoints.pass_by("outbox written")


async def alert_operators(connection: Connection, facts: AlertPayload[str]) -> None:
    """An alert about Offbeat itself. To be called in the transaction (`held_by`) that records what it reports."""
    await connection.execute(_SQL["put_operator_alert"], facts)


async def close_incident(connection: Connection, held: Held, monitor_id: int, number: int, at: Micros) -> None:
    """Close an incident that only SQL has open. Raises LeaseLostError, DatabaseDownError."""
    async with held_by(connection, held):
        await connection.execute(_SQL["close_incident"], monitor_id, number, to_datetime(at))


def _states(decisions: Sequence[Decision]) -> list[list[Any]]:
    return [
        [d.monitor_id for d in decisions],
        [d.project_id for d in decisions],
        [_instant(d.position.at) for d in decisions],
        [d.position.writer for d in decisions],
        [d.position.seq for d in decisions],
        [d.status for d in decisions],
        [_instant(d.since) for d in decisions],
        [_json(d.state) for d in decisions],
    ]


def _runs(runs: Sequence[tuple[Decision, RunChanged]]) -> list[list[Any]]:
    return [
        [d.monitor_id for d, _ in runs],
        [run.number for _, run in runs],
        [d.project_id for d, _ in runs],
        [run.run for _, run in runs],
        [_instant(run.started_at) for _, run in runs],
        [_instant(run.finished_at) for _, run in runs],
        [to_datetime(run.last_ping_at) for _, run in runs],
        [None if run.duration is None else run.duration / SECOND for _, run in runs],
        [run.verdict for _, run in runs],
        [run.reason for _, run in runs],
        [run.exit_code for _, run in runs],
        [_json(run.detail) for _, run in runs],
        [run.business_date for _, run in runs],
        [run.backfill for _, run in runs],
        [run.attempt for _, run in runs],
        [run.execution for _, run in runs],
        [None if run.ended is None else _json(run.ended) for _, run in runs],
    ]


def _incidents(incidents: Sequence[tuple[Decision, IncidentChanged]]) -> list[list[Any]]:
    return [
        [d.monitor_id for d, _ in incidents],
        [incident.number for _, incident in incidents],
        [d.project_id for d, _ in incidents],
        [_instant(incident.opened_at) for _, incident in incidents],
        [_instant(incident.resolved_at) for _, incident in incidents],
        [_instant(incident.decided_at) for _, incident in incidents],
        [incident.cause for _, incident in incidents],
        [incident.reason for _, incident in incidents],
        [incident.run for _, incident in incidents],
        [incident.stage for _, incident in incidents],
        [_json(incident.causes) for _, incident in incidents],
        [incident.suppressed_by for _, incident in incidents],
        [_json(incident.held) if incident.held else None for _, incident in incidents],
    ]


async def _usual(connection: Connection, alerts: Sequence[tuple[Decision, Alert]]) -> dict[int, asyncpg.Record]:
    """How long runs usually take, of the monitors whose alert is about a run."""
    about_runs = {d.monitor_id for d, alert in alerts if alert.facts.get("run_started_at")}
    if not about_runs:
        return {}
    rows = await connection.fetch(_SQL["usual"], sorted(about_runs))
    return {row["monitor_id"]: row for row in rows if row["count"] >= USUAL_RUNS_MIN}


def _usual_text(row: asyncpg.Record, facts: AlertPayload[Micros], started_at: Micros) -> str:
    elapsed = (facts.get("run_finished_at") or facts["decided_at"]) - started_at
    return reasons.usual(round(row["median"] * SECOND), round(row["p95"] * SECOND), row["count"], elapsed)


async def _notes(
    connection: Connection, alerts: Sequence[tuple[Decision, Alert]]
) -> dict[tuple[int, int], AlertPayload[str]]:
    """Acknowledgements and the last comments of the incidents that have ended; by monitor and number."""
    ended = [(d.monitor_id, alert.incident) for d, alert in alerts if alert.kind == AlertKind.RESOLVED]
    if not ended:
        return {}
    rows = await connection.fetch(_SQL["notes"], *map(list, zip(*ended, strict=True)), COMMENTS_NAMED_MAX)
    return {(row["monitor_id"], row["number"]): _facts_of_notes(row) for row in rows}


def _facts_of_notes(row: asyncpg.Record) -> AlertPayload[str]:
    comments = zip(row["instants"] or (), row["actors"] or (), row["texts"] or (), strict=True)
    return {
        "acknowledged_at": _rfc3339(row["acknowledged_at"]),
        "acknowledged_by": row["acknowledged_by"],
        "comments": [{"at": _rfc3339(at) or "", "by": by, "text": text} for at, by, text in comments],
        "comments_count": row["count"],
    }


def _rfc3339(at: datetime | None) -> str | None:
    return to_rfc3339(to_micros(at)) if at is not None else None


def _alerts(
    alerts: Sequence[tuple[Decision, Alert]],
    channels_of: ChannelsOf,
    project_slugs: dict[int, str],
    usual: dict[int, asyncpg.Record],
    notes: dict[tuple[int, int], AlertPayload[str]],
) -> list[list[Any]]:
    columns: list[list[Any]] = [[], [], [], [], [], [], []]
    for d, alert in alerts:
        facts = cast(AlertPayload[str], _with_times(alert.facts))
        facts["project"] = project_slugs.get(d.project_id)
        if d.monitor_id in usual and (started_at := alert.facts.get("run_started_at")):
            facts["usual"] = _usual_text(usual[d.monitor_id], alert.facts, started_at)
        if alert.kind == AlertKind.RESOLVED:
            facts |= notes.get((d.monitor_id, alert.incident), {})
        text = _json(facts)
        told_to = (None,) if alert.kind == AlertKind.RESOLVED else channels_of(d.project_id, alert.channels)
        for channel_id in told_to:
            row = (d.project_id, channel_id, d.monitor_id, alert.incident, alert.ordinal, alert.kind, text)
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    return columns


def _with_times(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The same with every instant (a number under a name in `_at`, or the estimate) as RFC 3339."""
    converted = {}
    for name, value in facts.items():
        if isinstance(value, int):
            value = to_rfc3339(value) if name.endswith("_at") or name == "eta" else value
        elif isinstance(value, dict):
            value = _with_times(value)
        elif isinstance(value, list):
            value = [_with_times(each) if isinstance(each, dict) else each for each in value]
        converted[name] = value
    return converted


@lru_cache(maxsize=10_000)  # what is decided in a storm has few instants
def _instant(at: Micros | None) -> datetime | None:
    return None if at is None else to_datetime(at)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
