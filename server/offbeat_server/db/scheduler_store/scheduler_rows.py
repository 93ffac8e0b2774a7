"""The scheduler's queries, as the engine's own types: a start, the writers, their entries, changes, outages."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg
import orjson

from offbeat_server.common.clock import to_rfc3339
from offbeat_server.common.instants import SECOND, Micros, to_datetime, to_micros
from offbeat_server.common.plural import plural
from offbeat_server.db.pool import Connection, database_trouble
from offbeat_server.db.sql_loader import load
from offbeat_server.engine.engine import Reference
from offbeat_server.engine.model.alert_payload import AlertPayload
from offbeat_server.engine.model.enums import AlertKind, Verdict, member_or, read_enum
from offbeat_server.engine.model.runs import EndedRunRow
from offbeat_server.engine.schedule.maintenance_windows import Window, read_window

_SQL = load("scheduler")
CHANGES_MAX = 2_000  # in one read


class Checkpoint(NamedTuple):
    """The position of a scheduler: all up to `at` applied, `cursors` the last seq of each writer.

    `set_aside`: monitors left out because of an internal error; their states may be older.
    """

    at: Micros
    applied_rev: int
    cursors: dict[int, int]
    set_aside: Sequence[int] = ()


class WriterSeen(NamedTuple):
    """A row of `writers`; `seen_at` and `silent_s` by the database's own clock, which may jump."""

    id: int
    seq: int
    started_at: Micros
    accepted_through: Micros
    fenced: bool
    seen_at: Micros
    silent_s: float


class ChangeSeen(NamedTuple):
    """A row of `changes`; `before` and `after` as JSON text."""

    rev: int
    kind: str
    project_id: int | None
    monitor_id: int | None
    subject: str
    before: str | None
    after: str | None


class Outage(NamedTuple):
    """A row of `deaf`."""

    id: int
    started_at: Micros
    ended_at: Micros
    reason: str = ""
    pings: int = 0


class ChannelSeen(NamedTuple):
    """The columns of a channel that the scheduler needs."""

    id: int
    project_id: int
    slug: str
    is_default: bool


async def read_checkpoint(connection: Connection) -> Checkpoint | None:
    """The last one; None before the first."""
    with database_trouble():
        row = await connection.fetchrow(_SQL["checkpoint"])
    if row is None:
        return None
    cursors = {int(k): v for k, v in row["cursors"].items()}
    return Checkpoint(to_micros(row["at"]), row["applied_rev"], cursors, row["set_aside"])


async def write_checkpoint(connection: Connection, checkpoint: Checkpoint) -> None:
    """Within a transaction that holds the lease."""
    cursors = {str(writer): seq for writer, seq in checkpoint.cursors.items()}
    await connection.execute(
        _SQL["write_checkpoint"],
        to_datetime(checkpoint.at),
        checkpoint.applied_rev,
        cursors,
        list(checkpoint.set_aside),
    )


class EndedRunSeen(NamedTuple):
    """An ended run with an id."""

    monitor_id: int
    run: str
    row: EndedRunRow


class Defined(NamedTuple):
    """A monitor as a change has it; `definition` is JSON text, for `load_definition`.

    `drop`: of a pause alone. `project_id`: None if the change does not say it. `references`: of a renamed monitor,
    those that refer to it.
    """

    slug: str
    name: str
    tags: tuple[str, ...]
    paused: bool
    snoozed_until: Micros | None
    definition: str
    drop: bool
    project_id: int | None = None
    references: tuple[Reference, ...] = ()


def read_defined(text: str) -> Defined:
    """One side of a change of a monitor."""
    document = orjson.loads(text)
    definition = orjson.dumps({**document["definition"], **document.get("newer_fields", {})}).decode()
    return Defined(
        document["slug"],
        document.get("name") or document["slug"],
        tuple(document.get("tags", ())),
        document.get("paused", False),
        _read_instant(document.get("snoozed_until")),
        definition,
        document.get("drop", False),
        document.get("project_id"),
        tuple(Reference(*each) for each in document.get("references", ())),
    )


def read_incident(text: str | None) -> int:
    """The number of the incident that a change resolves by hand; 0: whichever is open."""
    number: int = orjson.loads(text).get("incident", 0) if text is not None else 0
    return number


class ClosedRun(NamedTuple):
    """A run that a person closed. `had_ended`: it had ended before that, so its verdict is revised."""

    number: int
    verdict: Verdict
    by: str
    reason: str | None
    had_ended: bool


def read_closed_run(text: str) -> ClosedRun:
    """The run that a change closes by hand, with its new verdict."""
    document = orjson.loads(text)
    verdict = read_enum(Verdict, document["verdict"])
    return ClosedRun(document["number"], verdict, document["by"], document.get("reason"), document["had_ended"])


def _read_instant(value: str | None) -> Micros | None:
    """An instant in a change, ISO 8601 or absent."""
    return to_micros(datetime.fromisoformat(value)) if value else None


async def windows(connection: Connection, applied_rev: int) -> list[tuple[int, int, Window]]:
    """Id, project and definition of every maintenance window as it was when `applied_rev` was the last change.

    Raises DatabaseDownError.
    """
    with database_trouble():
        rows = await connection.fetch(_SQL["windows"], applied_rev)
    return [(row["id"], row["project_id"], _read_window(row["definition"], row["slug"])) for row in rows]


async def windows_applied(connection: Connection, rev: int) -> list[tuple[Micros, ChangeSeen]]:
    """The changes of windows after `rev` that the last scheduler has applied, and when each took effect.

    Raises DatabaseDownError.
    """
    with database_trouble():
        rows = await connection.fetch(_SQL["windows_applied"], rev)
    return [(to_micros(at), ChangeSeen(*change)) for *change, at in rows]


def read_window_change(text: str, slug: str) -> tuple[int, Window]:
    """Id and definition from one side of a change of a window."""
    document = orjson.loads(text)
    return document["id"], _read_window(document["definition"], slug)


def _read_window(definition: object, slug: str) -> Window:
    """A window that alerts can name."""
    window = read_window(definition)
    return window if window.name else window.model_copy(update={"name": slug})


async def changes_since(connection: Connection, rev: int) -> list[ChangeSeen]:
    """The next changes, at most `CHANGES_MAX`. Raises DatabaseDownError."""
    with database_trouble():
        rows = await connection.fetch(_SQL["changes_since"], rev, CHANGES_MAX)
    return [ChangeSeen(*row) for row in rows]


async def deleted_since(connection: Connection, rev: int) -> dict[int, Micros | None]:
    """The monitors deleted after this change of which nothing is left to end, and when they ended.

    None: the scheduler never evaluated it.

    Raises DatabaseDownError.
    """
    with database_trouble():
        rows = await connection.fetch(_SQL["deleted_since"], rev)
    return {row["id"]: to_micros(at) if (at := row["effective_at"]) is not None else None for row in rows}


async def writers(connection: Connection, known: Sequence[int], newest: int) -> list[WriterSeen]:
    """Live writers, known ones, and all newer than `newest`. Raises DatabaseDownError."""
    with database_trouble():
        rows = await connection.fetch(_SQL["writers"], known, newest)
    return [
        WriterSeen(
            row["id"],
            row["seq"],
            to_micros(row["started_at"]),
            to_micros(row["accepted_through"]),
            row["fenced"],
            to_micros(row["seen_at"]),
            row["silent_s"],
        )
        for row in rows
    ]


async def ended_runs(connection: Connection, keys: Sequence[tuple[int, str]]) -> list[EndedRunSeen]:
    """The last ended run of each monitor and run id, if its row is kept. Raises DatabaseDownError."""
    with database_trouble():
        rows = await connection.fetch(_SQL["ended_runs"], [key[0] for key in keys], [key[1] for key in keys])
    return [
        EndedRunSeen(
            row["monitor_id"],
            row["run"],
            EndedRunRow(
                row["number"],
                member_or(Verdict, row["verdict"], Verdict.UNKNOWN),
                to_micros(row["finished_at"]),
                row["business_date"],
                row["backfill"],
                row["execution"],
                orjson.loads(row["ended"]),
            ),
        )
        for row in rows
    ]


async def state_at(connection: Connection, monitor_id: int) -> Micros | None:
    """The last input in a monitor's stored state; None: it has none. Raises DatabaseDownError."""
    with database_trouble():
        at = await connection.fetchval(_SQL["state_at"], monitor_id)
    return None if at is None else to_micros(at)


async def news(connection: Connection) -> tuple[int, int]:
    """The last change and the last refusal. Raises DatabaseDownError."""
    with database_trouble():
        row = await connection.fetchrow(_SQL["news"])
    assert row is not None
    return row["rev"], row["refusal_id"]


async def unfinished_writers(connection: Connection, cursors: Mapping[int, int]) -> list[int]:
    """Writers of whom rows may be unread. Raises DatabaseDownError."""
    with database_trouble():
        rows = await connection.fetch(_SQL["unfinished_writers"], list(cursors), list(cursors.values()))
    return [row["id"] for row in rows]


async def fence(connection: Connection, writer: int, seen_at: Micros, now: Micros) -> Outage | None:
    """Declare a writer dead that was last seen then; None when it has shown a sign of life since.

    Raises DatabaseDownError.
    """
    with database_trouble():
        return _outage_of(await connection.fetchrow(_SQL["fence"], writer, to_datetime(seen_at), to_datetime(now)))


async def outages_by_refusals(connection: Connection, after: int, now: Micros) -> list[Outage]:
    """Turn reported refusals into outages. Raises DatabaseDownError."""
    with database_trouble():
        rows = await connection.fetch(_SQL["outages_by_refusals"], after, to_datetime(now))
    return [outage for row in rows if (outage := _outage_of(row)) is not None]


async def outage_before_writer(connection: Connection, writer: int, now: Micros) -> Outage | None:
    """Return the time without any writer before this one; None if there was a writer. Raises DatabaseDownError."""
    with database_trouble():
        return _outage_of(await connection.fetchrow(_SQL["outage_before_writer"], writer, to_datetime(now)))


async def now(connection: Connection) -> Micros:
    """Log time by the database. Raises DatabaseDownError."""
    with database_trouble():
        return to_micros(await connection.fetchval(_SQL["now"]))


def outage_facts(outage: Outage) -> AlertPayload[str]:
    """Return the facts of the operator alert about an outage."""
    seconds = (outage.ended_at - outage.started_at) / SECOND
    jumped = "The database's clock has jumped. " if outage.reason == "clock" else ""
    summary = f"{jumped}Offbeat could not receive pings for {seconds:.0f} s ({outage.reason})"
    if outage.reason == "lost":
        summary = (
            f"Postgres has lost {plural(outage.pings, 'answered ping')} of {seconds:.0f} s: a standby without them was "
            "promoted, or a backup was restored"
        )
    elif outage.pings:
        summary += f"; {plural(outage.pings, 'ping is', 'pings are')} known to have been refused"
    return {
        "kind": AlertKind.OPERATOR,
        "cause": "deaf",
        "reason": f"{summary}. Deadlines in this time have been extended.",
        "opened_at": to_rfc3339(outage.started_at),
        "resolved_at": to_rfc3339(outage.ended_at),
    }


async def known_outages(connection: Connection) -> list[Outage]:
    """All recorded outages. Raises DatabaseDownError."""
    with database_trouble():
        rows = await connection.fetch(_SQL["known_outages"])
    return [outage for row in rows if (outage := _outage_of(row)) is not None]


async def refusals_applied(connection: Connection) -> int:
    """The last refusal that is recorded as an outage. Raises DatabaseDownError."""
    with database_trouble():
        last: int = await connection.fetchval(_SQL["refusals_applied"])
    return last


async def last_writer(connection: Connection, at: Micros) -> int:
    """The newest writer whose word does not go beyond `at`. Raises DatabaseDownError."""
    with database_trouble():
        last: int = await connection.fetchval(_SQL["last_writer"], to_datetime(at))
    return last


async def open_incidents(connection: Connection) -> dict[int, int]:
    """Monitor to incident number. Raises DatabaseDownError."""
    with database_trouble():
        rows = await connection.fetch(_SQL["open_incidents"])
    return {row["monitor_id"]: row["number"] for row in rows}


async def channels(connection: Connection) -> list[ChannelSeen]:
    """All channels. Raises DatabaseDownError."""
    with database_trouble():
        return [ChannelSeen(*row) for row in await connection.fetch(_SQL["channels"])]


async def projects(connection: Connection) -> dict[int, str]:
    """Slugs by id. Raises DatabaseDownError."""
    with database_trouble():
        return {row["id"]: row["slug"] for row in await connection.fetch(_SQL["projects"])}


def _outage_of(row: asyncpg.Record | None) -> Outage | None:
    if row is None:
        return None
    return Outage(row["id"], to_micros(row["started_at"]), to_micros(row["ended_at"]), row["reason"], row["pings"])
