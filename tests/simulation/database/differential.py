"""The same calls on the simulated tables and on a real Postgres, and what is different afterwards.

Both sides are called through the real functions of db/, so the arguments are encoded as they are in the server.
Postgres reads its clock from a table, so that one instant holds on both sides. Ids and values that SQL leaves
open (the order of rows in one statement, random uids) are taken over from Postgres after each step.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import date, datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any

import asyncpg
import orjson
import pytest

from offbeat_server.common.errors import OffbeatError
from offbeat_server.common.instants import Micros, to_datetime, to_micros
from offbeat_server.db.copy_format import encode_entries
from offbeat_server.db.partitions import make_partitions
from offbeat_server.db.pool import connect, open_pool
from offbeat_server.db.repositories import changes, definitions, windows
from offbeat_server.db.repositories.definitions import WantedMonitor
from offbeat_server.db.repositories.outbox import Outbox
from offbeat_server.db.repositories.ping_log import LogConnection
from offbeat_server.db.scheduler_store.log_entries import of_writer
from offbeat_server.db.schema import apply_schema
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.model.enums import Verdict
from offbeat_server.engine.model.ping import Entry
from tests.simulation.database.outbox import CHANNELS, Pool, channel_definition
from tests.simulation.database.sessions import BEGIN, Connection, Link, Server, Work
from tests.simulation.database.statements import Statements
from tests.simulation.world.people import PROJECT, People
from tests.simulation.world.substitution import Rows

DAYS = 10  # partitions of the log from the first day on: no script goes further
HOLDERS = ("a", "b")  # of the lease and of claims; each on a node of the same name
_FIRST_DAY = date(2026, 1, 4)
_NEVER = -1  # '-infinity'
_COMMANDS_S = 20.0

# Found before pg_catalog, so that every statement and every function of the schema reads the clock of the test.
_OWN_CLOCK = """
create schema test_clock;
create table test_clock.instant (at timestamptz not null);
create function test_clock.clock_timestamp() returns timestamptz language sql volatile
    as 'select at from test_clock.instant';
create function test_clock.now() returns timestamptz language sql stable as 'select at from test_clock.instant';
"""
_DEFAULTS = """
select a.attrelid::regclass::text as relation, a.attname as name, pg_get_expr(d.adbin, d.adrelid) as expression
  from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
 where pg_get_expr(d.adbin, d.adrelid) ~ '(clock_timestamp|now)\\(\\)'
"""


class Blocked(Exception):
    """The statement waits for a lock that another session holds."""


class _Loop:
    """Time stands still. Effects that the simulated server leaves for later happen within the statement."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def time(self) -> float:
        return 0.0

    def call_later(self, seconds: float, call: Callable[[], None], context: Any) -> None:
        self.calls.append(call)


class InstantConnection(Connection):
    """A simulated connection without a network."""

    async def ask(self, work: Work) -> Any:
        """Run the statement at once."""
        if self._closed:
            raise asyncpg.InterfaceError("connection is closed")
        answers: list[tuple[Any, BaseException | None]] = []
        calls: list[Callable[[], None]] = self.server.loop.calls  # type: ignore[attr-defined]
        calls.clear()
        self.server.run(self.session, work, lambda result, error: answers.append((result, error)))
        while not answers:
            if not calls:
                raise Blocked
            calls.pop(0)()
        result, error = answers[0]
        if error is not None:
            raise error
        return result


class Recorded(Statements):
    """The simulated tables, and which of their statements were called."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.called: set[str] = set()

    def named(self, sql: str) -> Callable[..., Any]:
        statement = super().named(sql)
        self.called.add(statement.__name__)
        return statement


class Side:
    """The interface of a script: the connections of a server process, on either side."""

    def __init__(self, name: str, log: LogConnection, victim: LogConnection, scheduler: Any, pool: Any) -> None:
        self.name, self.log, self.victim, self.scheduler, self.pool = name, log, victim, scheduler, pool
        self.outboxes = {holder: Outbox(pool, holder, node=holder) for holder in HOLDERS}


Call = Callable[[Side], Awaitable[Any]]
Shown = Callable[[Any], Any]


class Both:
    """The two sides, and the instant that holds on both."""

    def __init__(self, simulated: Side, real: Side, tables: Recorded, control: asyncpg.Connection) -> None:
        self.simulated, self.real, self.tables, self._control = simulated, real, tables, control
        world: Any = SimpleNamespace(tables=tables, effective=SimpleNamespace(record=lambda change: None, unsettled={}))
        world.rng = Random(0)
        self.people = People(world)

    @property
    def now(self) -> Micros:
        """`clock_timestamp()` on both sides."""
        return self.tables.server.clock

    async def set_clock(self, at: Micros) -> None:
        """Move the clock of both sides."""
        self.tables.server.jump = at - BEGIN
        await self._control.execute("update test_clock.instant set at = $1", to_datetime(at))

    async def ask(self, call: Call, shown: Shown = lambda result: result) -> Any:
        """Call it on both sides and compare the results. Returns the result of Postgres, or its error.

        `shown` leaves out of a result what may be different: ids that were made, an order that SQL leaves open.
        """
        results = []
        for side in (self.simulated, self.real):
            try:
                results.append(await call(side))
            except OffbeatError as error:
                results.append(error)
        simulated, real = (type(each).__name__ if isinstance(each, OffbeatError) else shown(each) for each in results)
        _expect_equal("the result", simulated, real)
        return results[1]

    async def step(self, call: Call, shown: Shown = lambda result: result) -> Any:
        """The same, and compare the tables afterwards."""
        result = await self.ask(call, shown)
        await self.compare()
        return result

    async def compare(self) -> None:
        """Compare all tables, after new rows were given the same ids."""
        real = await real_tables(self._control)
        take_over_ids(self.tables, real)
        simulated = simulated_tables(self.tables)
        for table, rows in real.items():
            _expect_equal(f"table {table}", simulated[table], rows)

    async def compare_log(self) -> None:
        """Compare the pings, which `compare` does not: this takes longer than all other tables."""
        _expect_equal("table pings", sorted(self.tables.pings.values()), sorted(await _real_pings(self._control)))

    # ------------------------------------------------------------------------- changes of definitions, as people make

    async def define(self, monitor_id: int, definition: dict[str, Any]) -> None:
        """A monitor is made or changed."""
        read = read_definition(definition)
        stored = read.dump()
        async with changes.changing(self.real.pool) as connection:
            await definitions.put_monitors(connection, [WantedMonitor(PROJECT, f"m{monitor_id}", read)], "test")
        self.people.define(monitor_id, "monitor", definition=stored)
        await self.compare()

    async def alter(self, monitor_id: int, kind: str, **fields: Any) -> None:
        """A monitor is paused, resumed or snoozed."""
        async with changes.changing(self.real.pool) as connection:
            await definitions.alter_monitor(connection, PROJECT, f"m{monitor_id}", "test", kind, **fields)
        self.people.define(monitor_id, kind, **fields)
        await self.compare()

    async def delete(self, monitor_id: int) -> None:
        """A monitor is deleted."""
        async with changes.changing(self.real.pool) as connection:
            await definitions.delete_monitors(connection, [(PROJECT, f"m{monitor_id}")], "test")
        self.people.delete(monitor_id)
        await self.compare()

    async def resolve(self, monitor_id: int) -> None:
        """A user resolves an incident by hand."""
        change = changes.Change("resolve", PROJECT, monitor_id, f"m{monitor_id}", None, {})
        async with changes.changing(self.real.pool) as connection:
            await changes.record_one(connection, "test", change)
        self.people.resolve(monitor_id)
        await self.compare()

    async def close_run(self, monitor_id: int, number: int) -> None:
        """A user closes a run by hand."""
        self.people.close_run(monitor_id, number, Verdict.IGNORED, True)
        closed = orjson.loads(self.tables.changes[-1].after)
        change = changes.Change("close", PROJECT, None, f"m{monitor_id}", None, closed)
        async with changes.changing(self.real.pool) as connection:
            await changes.record_one(connection, "test", change)
        await self.compare()

    async def put_window(self, window_id: int, definition: dict[str, Any]) -> None:
        """A maintenance window is made or changed."""
        if window_id not in self.tables.windows:
            await self._control.execute("select setval(pg_get_serial_sequence('windows', 'id'), $1, false)", window_id)
        async with changes.changing(self.real.pool) as connection:
            await windows.put_window(connection, PROJECT, f"w{window_id}", definition, "test")
        self.people.put_window(window_id, definition)
        await self.compare()

    async def delete_window(self, window_id: int) -> None:
        """A maintenance window is deleted."""
        async with changes.changing(self.real.pool) as connection:
            row = await windows.find_window(connection, PROJECT, f"w{window_id}")
            assert row is not None
            await windows.delete_window(connection, row, "test")
        self.people.delete_window(window_id)
        await self.compare()


def _expect_equal(what: str, simulated: Any, real: Any) -> None:
    if simulated == real:
        return
    if isinstance(simulated, list) and isinstance(real, list) and [row for row in simulated if row not in real]:
        simulated, real = [row for row in simulated if row not in real], [row for row in real if row not in simulated]
        if len(simulated) == len(real) and all(isinstance(row, list | tuple) for row in (*simulated, *real)):
            # Of each row its first column, and what is different.
            both = [list(zip(*rows, strict=True)) for rows in zip(simulated, real, strict=True)]
            simulated, real = ([[row[0][side], *(each[side] for each in row[1:] if each[0] != each[1])] for row in both]
                          for side in (0, 1))  # fmt: skip
    raise AssertionError(f"{what}:\nsimulated {simulated!r}\nPostgres  {real!r}")


# ------------------------------------------------------------------------------------------------------------ building


@asynccontextmanager
async def both(url: str) -> AsyncIterator[Both]:
    """Both sides with the same first rows, at the same instant. `url`: an empty database."""
    await _prepare(url)
    tables = _simulated_tables()
    with _entries_beside_their_encoding():
        simulated = _simulated_side(tables)
        control = await connect(url)
        logs = [await LogConnection.open(url, timeout_s=_COMMANDS_S) for _ in range(2)]
        scheduler, pool = await connect(url), await open_pool(url, size_max=3)
        try:
            pair = Both(simulated, Side("Postgres", logs[0], logs[1], scheduler, pool), tables, control)
            await pair.set_clock(BEGIN)
            yield pair
        finally:
            for log in logs:
                log.terminate()
            await pool.close()
            await scheduler.close()
            await control.close()


async def _prepare(url: str) -> None:
    """Schema and first rows, with the clock of the test."""
    connection = await connect(url)
    await apply_schema(connection)
    await make_partitions(connection, _FIRST_DAY, DAYS)
    own_defaults = await connection.fetch(_DEFAULTS)
    await connection.execute(_OWN_CLOCK)
    await connection.execute("insert into test_clock.instant values ($1)", to_datetime(BEGIN))
    database = await connection.fetchval("select current_database()")
    await connection.execute(f"alter database {database} set search_path = test_clock, public, pg_catalog")
    await connection.execute("set search_path = test_clock, public, pg_catalog")
    for row in own_defaults:
        await connection.execute(
            f"alter table {row['relation']} alter column {row['name']} set default {row['expression']}"
        )
    await connection.execute("update clock set set_at = $1, ahead = '0'", to_datetime(BEGIN))
    await connection.execute("delete from channels")
    for id in CHANNELS:
        await connection.execute(
            "insert into channels (id, project_id, slug, kind, definition) overriding system value "
            "values ($1, $2, $3, 'webhook', $4)", id, PROJECT, f"c{id}", channel_definition(id),
        )  # fmt: skip
    await connection.close()


def _simulated_tables() -> Recorded:
    loop: Any = _Loop()
    return Recorded(Server(loop, Random(0)))


def _simulated_side(tables: Recorded) -> Side:
    server, link = tables.server, Link()

    def open_session(name: str) -> InstantConnection:
        return InstantConnection(server, link, server.connect(name), tables, _COMMANDS_S)

    async def lend() -> InstantConnection:
        return open_session("offbeat")

    def log(name: str) -> LogConnection:
        connection: Any = open_session(name)
        return LogConnection(connection, name, _COMMANDS_S)

    return Side("simulated", log("log"), log("victim"), open_session("keeper"), Pool(lend))


@contextmanager
def _entries_beside_their_encoding() -> Iterator[None]:
    """A COPY's body holds its entries too: the simulated side takes these."""

    def encode(entries: list[Entry]) -> Rows:
        rows = Rows(encode_entries(entries))
        rows.entries = list(entries)
        return rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offbeat_server.db.repositories.ping_log.encode_entries", encode)
        yield


# ------------------------------------------------------------------------------------------------------------ tables

Tables = dict[str, list[Any]]

_REAL = {
    "clock": "select set_at, ahead from clock",
    "lease": "select name, term, holder, expires_at from lease order by name",
    "writers": "select id, seq, started_at, accepted_through, seen_at, fenced from writers order by id",
    "refusals": "select id, writer, started_at, ended_at, pings, reason from refusals order by id",
    "deaf": "select id, started_at, ended_at, writer, refusal_id, pings, reason, decided_at from deaf order by id",
    "monitors": """select id, project_id, rev, slug, name, tags, paused, snoozed_until,
                            definition || newer_fields
                     from monitors order by id""",
    "windows": "select id, project_id, rev, slug, definition from windows order by id",
    "changes": """select rev, project_id, monitor_id, kind, subject, before - 'keys' - 'created_at',
                         after - 'keys' - 'created_at', effective_at
                    from changes order by rev""",
    "checkpoint": "select at, applied_rev, cursors, set_aside from checkpoint",
    "states": "select monitor_id, at, writer, seq, status, since, state from states order by monitor_id",
    "members": "select monitor_id, name, at, silent_since from members order by 1, 2",
    "runs": """select monitor_id, number, run, started_at, finished_at, duration, verdict, reason, last_ping_at,
                      coalesce(exit_code, wide_exit_code), detail,
                      business_date, backfill, attempt, execution
                 from runs order by 1, 2""",
    "incidents": """select monitor_id, number, opened_at, resolved_at, cause, run, stage, suppressed_by, held
                      from incidents order by 1, 2""",
    "alerts": """select id, lane, monitor_id, incident, ordinal, kind, facts, created_at, next_attempt_at, expires_at,
                        digest_id, attempts, lapses, state, claimed_by, urgent, uid
                   from alerts order by id""",
    "digests": """select id, lane, alerts, created_at, next_attempt_at, expires_at, attempts, lapses, state, claimed_by,
                         facts, body, uid
                    from digests order by id""",
}


_RUN_COLUMNS = (
    "run",
    "started_at",
    "finished_at",
    "duration",
    "verdict",
    "reason",
    "last_ping_at",
    "exit_code",
    "detail",
    "business_date",
    "backfill",
    "attempt",
    "execution",
)


async def real_tables(connection: asyncpg.Connection) -> Tables:
    """All rows of Postgres that the simulation has too."""
    return {table: [[_plain(value) for value in row] for row in await connection.fetch(sql)]
             for table, sql in _REAL.items()}  # fmt: skip


async def _real_pings(connection: asyncpg.Connection) -> list[Entry]:
    entries = []
    for writer in await connection.fetch("select id, started_at from writers order by id"):
        after, horizon = writer["started_at"] - timedelta(days=1), writer["started_at"] + timedelta(days=DAYS)
        entries += await of_writer(
            connection, writer["id"], 0, to_micros(after), to_micros(horizon), to_micros(horizon)
        )
    return entries


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return _NEVER if value.year == 1 else to_micros(value)
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1)
    return value


def simulated_tables(tables: Statements) -> Tables:
    """The same of the simulation."""
    outbox = tables.outbox
    c = tables.checkpoint
    return {
        "clock": [[tables.set_at, tables.ahead]],
        "lease": [
            [name, lease.term, lease.holder, lease.expires]
            for name, lease in (("courier", outbox.lease), ("keeper", tables.lease))
        ],
        "writers": [[w.id, w.seq, w.started, w.through, w.seen, w.fenced] for w in tables.writers.values()],
        "refusals": [[r.id, r.writer, r.started, r.ended, r.pings, r.reason] for r in tables.refusals],
        "deaf": [[d.id, d.started, d.ended, d.writer, d.refusal, d.pings, d.reason, d.decided] for d in tables.outages],
        "monitors": [
            [m.id, m.project_id, m.rev, m.slug, m.slug, [], m.paused, _at(m.snoozed_until), _json(m.definition)]
            for _, m in sorted(tables.monitors.items())
        ],
        "windows": [[w.id, PROJECT, w.rev, w.slug, w.definition] for _, w in sorted(tables.windows.items())],
        "changes": [
            [c.rev, c.project_id, c.monitor_id, c.kind, c.subject, _json(c.before), _json(c.after), _at(c.effective_at)]
            for c in tables.changes
        ],
        "checkpoint": [] if c is None else [[c.at, c.applied_rev, c.cursors, c.set_aside]],
        "states": [
            [id, s.at, s.writer, s.seq, s.status, s.since, _json(s.text)] for id, s in sorted(tables.states.items())
        ],
        "members": [
            [id, name, *row] for id, members in sorted(tables.members.items()) for name, row in sorted(members.items())
        ],
        "runs": [
            [*key, *(getattr(r, name) for name in _RUN_COLUMNS)]
            for key, r in sorted(tables.runs.items())
        ],
        "incidents": [
            [*key, i.opened_at, i.resolved_at, i.cause, i.run, i.stage, i.suppressed_by, i.held or None]
            for key, i in sorted(tables.incidents.items())
        ],
        "alerts": [
            [
                a.id, a.lane, a.monitor_id, a.incident, a.ordinal, a.kind, a.facts, a.created, a.next, a.expires,
                a.digest, a.attempts, a.lapses, a.state, a.claimed_by, a.urgent, a.uid,
            ]
            for a in outbox.alerts.values()
        ],
        "digests": [
            [
                d.id, d.lane, d.alerts, d.created, d.next, d.expires, d.attempts, d.lapses, d.state, d.claimed_by,
                d.facts, d.body, d.uid,
            ]
            for d in outbox.digests.values() if d.committed
        ],
    }  # fmt: skip


def _at(at: datetime | None) -> Micros | None:
    return None if at is None else to_micros(at)


def _json(text: bytes | str | None) -> Any:
    return None if text is None else orjson.loads(text)


def take_over_ids(tables: Statements, real: Tables) -> None:
    """Give rows that both sides have made in this step the ids of Postgres.

    Sequences of Postgres have gaps, and SQL does not say in which order one statement makes several rows.
    """
    for table, rows in (("refusals", tables.refusals), ("deaf", tables.outages)):
        shown = simulated_tables(tables)[table]
        simulated = sorted(zip(shown, rows, strict=True), key=lambda each: [str(value) for value in each[0][1:]])
        for (_, row), stored in zip(
            simulated, sorted(real[table], key=lambda r: [str(v) for v in r[1:]]), strict=False
        ):
            row.id = stored[0]
        rows.sort(key=lambda row: row.id)
    alerts = sorted(tables.outbox.alerts.values(), key=lambda a: a.id)
    ids: dict[tuple[Any, ...], list[list[Any]]] = {}
    for stored in real["alerts"]:
        ids.setdefault(_alert_key(stored), []).append(stored)
    for a in alerts:
        if same := ids.get((a.monitor_id, a.incident, a.ordinal, a.kind, a.lane, a.created)):
            a.id, *_, a.uid = same.pop(0)
    tables.outbox.alerts = {a.id: a for a in sorted(alerts, key=lambda a: a.id)}
    for digest in tables.outbox.digests.values():
        for stored in real["digests"]:
            if stored[0] == digest.id:
                digest.uid = stored[-1]


def _alert_key(row: list[Any]) -> tuple[Any, ...]:
    _, lane, monitor_id, incident, ordinal, kind, _, created, *_ = row
    return (monitor_id, incident, ordinal, kind, lane, created)
