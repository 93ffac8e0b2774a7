"""Realistic demo data: monitors of every kind with weeks of history, some of them with open incidents.

The past is written into the database while no server runs, as a server would have left it. The present then follows
without help: the scheduler finds the deadlines that have passed.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg

from offbeat_server.common.instants import to_datetime, to_micros
from offbeat_server.db.partitions import make_partitions
from offbeat_server.engine.model.definition import Definition
from offbeat_server.engine.model.fleet import Fleet
from offbeat_server.engine.model.ping import Ping, Signal
from offbeat_server.engine.model.runs import MonitorRuns
from offbeat_server.engine.rules.reasons import missed
from tests.support.harness import Server

DAYS = 35
MINUTE = timedelta(minutes=1)
Troubles = Sequence[tuple[float, float]]  # days ago, hours long
RUN_AGE = 38 * MINUTE  # of the open run of the warehouse


@dataclass
class DemoMonitor:
    """A monitor of the demo: its expectation, its last ping, and its past incidents."""

    slug: str
    definition: dict[str, Any]  # a duration in it has one unit
    last_ping_ago: timedelta | None = MINUTE  # ago; None: never
    troubles: Troubles = ()
    takes_s: float | None = None  # its runs, one a day
    breaks: str = ""  # the reason of its past incidents; empty: a failed run if it has runs, else a missed ping
    paused: bool = False


ETL = {
    "name": "Warehouse load",
    "description": "Loads the day's orders. When it hangs in transform, look for a lock on dim_customer.",
    "tags": ["etl", "warehouse"],
    "timezone": "Europe/Berlin",
    "grace": "20m",
    "max_runtime": "2h",
    "stages": [
        {"name": "extract", "within": "30m"},
        {"name": "transform", "within": "40m", "tasks": {"expected": 240, "tolerate": 5}},
        {"name": "load", "within": "30m"},
        {"name": "report", "optional": True},
    ],
}


# Slug, name, tags, every, grace, minutes since its last ping, past incidents, seconds that a run takes.
PLAIN: list[tuple[str, str, str, str, str, float, Troubles, float | None]] = [
    ("invoice-mail", "Invoice mail", "billing", "15m", "5m", 27, (), None),
    ("fx-rates", "Exchange rates", "billing", "10m", "10m", 12, ((0.9, 0.3), (17.2, 5)), None),
    ("backup-postgres", "Backup of Postgres", "backup night", "1d", "2h", 420, (), 2650),
    ("backup-files", "Backup of files", "backup night", "1d", "2h", 360, ((21, 9),), 7400),
    ("restore-drill", "Restore drill", "backup", "7d", "1d", 2880, (), 5200),
    ("certificates", "Certificate renewal", "platform", "1d", "2h", 240, (), None),
    ("payments-settle", "Payment settlement", "billing", "1h", "10m", 31, ((14, 0.5),), 320),
    ("cache-warmer", "Cache warmer", "search", "5m", "2m", 2, (), None),
    ("queue-drain", "Queue drain", "platform", "1m", "1m", 0.3, (), None),
    ("gdpr-erasure", "Erasure requests", "legal", "1d", "2h", 660, (), 95),
    ("catalogue-import", "Catalogue import", "shop", "2h", "20m", 64, ((5, 2.2), (25, 1)), 610),
    ("price-sync", "Price sync", "shop", "15m", "10m", 6, (), None),
    ("thumbnails", "Thumbnails", "shop", "30m", "10m", 18, (), None),
    ("newsletter", "Newsletter", "mail", "7d", "1d", 7200, (), 1280),
    ("log-rotation", "Log rotation", "platform", "1d", "2h", 540, (), None),
]


def demo_monitors(now: datetime) -> list[DemoMonitor]:
    """All monitors of the demo. The schedule of the warehouse is such that its open run began on time."""
    began = (now - RUN_AGE).astimezone(ZoneInfo("Europe/Berlin"))
    etl = {**ETL, "cron": f"{began.minute} {began.hour} * * *"}
    monitors = [
        DemoMonitor(
            slug, {"name": name, "tags": tags.split(), "every": every, "grace": grace}, minutes * MINUTE, bad, takes
        )
        for slug, name, tags, every, grace, minutes, bad, takes in PLAIN
    ]
    reindex = {"name": "Search reindex", "every": "6h", "grace": "30m", "max_runtime": "1h", "tags": ["search"]}
    workers = {"every": "5m", "grace": "2m", "min_alive": "95%", "expected": 48}
    report = {"name": "Payment report", "after": {"monitor": "payments-settle", "within": "20m"}, "tags": ["billing"]}
    fraud = {"name": "Fraud model training", "oncalendar": "Sun 01:00", "grace": "6h", "tags": ["ml"]}
    return [
        *monitors,
        DemoMonitor("warehouse-load", etl, 60 * MINUTE, [(6, 1.4)], 4100),
        DemoMonitor("search-reindex", reindex, 83 * MINUTE, [(2, 6)], 1900),
        DemoMonitor(
            "render-workers",
            {"name": "Render workers", "tags": ["fleet"], "members": workers},
            0.15 * MINUTE,
            [(3.4, 0.2)],
            breaks="44 of 48 members alive, 46 required (95%)",
        ),
        DemoMonitor("payments-report", report),
        DemoMonitor("fraud-model", fraud, 2880 * MINUTE, (), 15800),
        DemoMonitor(
            "old-importer", {"name": "Old importer", "every": "1h", "tags": ["shop"]}, 13000 * MINUTE, paused=True
        ),
        DemoMonitor(
            "loyalty-points", {"name": "Loyalty points", "every": "1h", "grace": "10m", "tags": ["shop"]}, None
        ),
    ]


async def build(server: Server, database: asyncpg.Connection) -> None:
    """Define it all, then stop the server, write the past, and start it again."""
    monitors = demo_monitors(datetime.now(UTC))
    answer = await server.api(
        "POST",
        "/api/v1/apply",
        {
            "projects": [{"slug": "default", "name": "Shop", "status_page": True}],
            "monitors": [{"slug": each.slug, **each.definition, "paused": each.paused} for each in monitors],
        },
    )
    assert answer.status == 200, answer.body
    await server.stop()
    await make_partitions(database, (datetime.now(UTC) - timedelta(days=DAYS + 1)).date(), DAYS + 8)
    chance = random.Random(7)
    for each in monitors:
        await _past(database, each, chance)
    await server.start()


async def _past(database: asyncpg.Connection, monitor: DemoMonitor, chance: random.Random) -> None:
    now = datetime.now(UTC)
    row = await database.fetchrow("select id, project_id from monitors where slug = $1", monitor.slug)
    assert row is not None
    monitor_id, project_id = row["id"], row["project_id"]
    born = now - timedelta(days=DAYS + 5 if monitor.last_ping_ago is not None else 0)
    await database.execute("update monitors set created_at = $2 where id = $1", monitor_id, born)
    runs, last_ping_at = MonitorRuns(), None
    if monitor.takes_s is None:
        await _incidents(database, monitor_id, project_id, monitor, now)
    if monitor.last_ping_ago is not None:
        last_ping_at = now - monitor.last_ping_ago
        await _pings(database, monitor_id, project_id, _daily(now, last_ping_at, monitor, chance))
        if monitor.takes_s is not None:
            await _runs(database, monitor_id, project_id, monitor, now, runs, chance)
    state: dict[str, Any] = {"created": to_micros(born), "incidents": len(monitor.troubles)}
    if last_ping_at is not None:
        state["heard_at"] = to_micros(last_ping_at)
        if "members" not in monitor.definition:
            state["due"] = to_micros(last_ping_at + _period(monitor.definition))
    if monitor.slug == "warehouse-load":
        began = (now - RUN_AGE).replace(second=0, microsecond=0)
        await _open_run(database, monitor_id, project_id, runs, began, chance)
        state["due"] = to_micros(began + timedelta(days=1))
    if monitor.slug == "search-reindex":
        at = to_micros(now - timedelta(minutes=83))
        run = runs.add("9034", at, at)
        run.apply(at, Ping("start", "9034"))
        for step in range(40):
            run.apply(at + step * 60_000_000, Ping("progress", "9034", done=step * 1250 + step % 7 * 90, total=180_000))
        await _write_run(database, monitor_id, project_id, run)
    if monitor.slug == "render-workers":
        state["fleet"] = await _write_fleet(database, monitor_id, now)
    if dumped := runs.dump():
        state["runs"] = dumped
    await database.execute(
        "update states set state = $2, status = $3, since = $4 where monitor_id = $1",
        monitor_id,
        state,
        "paused" if monitor.paused else "up" if last_ping_at is not None else "new",
        born,
    )


def _duration(text: str) -> timedelta:
    return int(text[:-1]) * {"s": timedelta(seconds=1), "m": MINUTE, "h": 60 * MINUTE, "d": timedelta(days=1)}[text[-1]]


def _period(definition: dict[str, Any]) -> timedelta:
    return _duration(definition.get("every", "7d"))


async def _incidents(
    database: asyncpg.Connection, monitor_id: int, project_id: int, monitor: DemoMonitor, now: datetime
) -> None:
    """The past incidents of a monitor without runs."""
    for number, (days, hours) in enumerate(sorted(monitor.troubles, reverse=True), 1):
        opened = now - timedelta(days=days)
        if monitor.breaks:
            cause, reason = "members", monitor.breaks
        else:
            definition = Definition.model_validate(monitor.definition)
            assert definition.every is not None
            due = to_micros(opened) - definition.grace
            cause, reason = "missed", missed(definition, due, to_micros(opened), due - definition.every)
        await _incident(database, monitor_id, project_id, number, opened, timedelta(hours=hours), cause, reason)


async def _incident(
    database: asyncpg.Connection,
    monitor_id: int,
    project_id: int,
    number: int,
    opened: datetime,
    length: timedelta,
    cause: str,
    reason: str,
) -> None:
    await database.execute(
        """insert into incidents (monitor_id, number, project_id, opened_at, resolved_at, decided_at, cause, reason,
                                  causes) values ($1, $2, $3, $4, $5, $4, $6, $7, $8)""",
        *(monitor_id, number, project_id, opened, opened + length, cause, reason),
        [{"kind": cause, "opened_at": to_micros(opened), "reason": reason}],
    )


def _daily(
    now: datetime, last_ping_at: datetime, monitor: DemoMonitor, chance: random.Random
) -> list[tuple[datetime, Ping]]:
    """A ping a day, and the last ones close together."""
    pings = [(now - timedelta(days=day, seconds=chance.uniform(0, 900)), Ping()) for day in range(1, DAYS)]
    step = min(_period(monitor.definition), 60 * MINUTE)
    pings += [(last_ping_at - step * back - timedelta(seconds=chance.uniform(0, 20)), Ping()) for back in range(1, 60)]
    return [*pings, (last_ping_at, Ping())]


async def _pings(
    database: asyncpg.Connection, monitor_id: int, project_id: int, pings: list[tuple[datetime, Ping]], first: int = 0
) -> None:
    """Into the log, past the writers: what is older than the checkpoint is history, and no longer an input."""
    await database.execute("alter table pings disable trigger pings_accept")
    await database.executemany(
        """insert into pings (at, seq, writer, monitor_id, project_id, signal, run, stage, task, done, total, message,
                              source)
           values ($1, $2, 0, $3, $4, $5::signal, $6, $7, $8, $9, $10, $11, '10.20.0.7')""",
        [
            (
                at,
                monitor_id * 100_000 + first + n,
                monitor_id,
                project_id,
                *ping[:4],
                ping.done,
                ping.total,
                ping.message,
            )
            for n, (at, ping) in enumerate(pings)
        ],
    )
    await database.execute("alter table pings enable trigger pings_accept")


async def _runs(
    database: asyncpg.Connection,
    monitor_id: int,
    project_id: int,
    monitor: DemoMonitor,
    now: datetime,
    runs: MonitorRuns,
    chance: random.Random,
) -> None:
    assert monitor.takes_s is not None
    bad = {round(days): hours for days, hours in monitor.troubles}
    incidents = 0
    for day in range(DAYS, 0, -1):
        runs.count += 1
        failed = day in bad
        took = monitor.takes_s * (1 + 0.12 * math.sin(day / 3) + chance.gauss(0, 0.06)) * (0.4 if failed else 1)
        began = now - RUN_AGE - timedelta(days=day) + timedelta(seconds=chance.uniform(0, 20))
        ended = began + timedelta(seconds=took)
        reason = f"run {began:%Y-%m-%d} failed with exit code 1: connection reset by peer"
        await database.execute(
            """insert into runs (monitor_id, number, project_id, exit_code, run, started_at, finished_at, last_ping_at,
                                 duration, verdict, reason)
               values ($1, $2, $3, $4, $5, $6, $7, $7, $8, $9, $10)""",
            *(monitor_id, runs.count, project_id, int(failed), f"{began:%Y-%m-%d}", began),
            *(ended, took, "failed" if failed else "succeeded", reason if failed else None),
        )
        if failed:
            incidents += 1
            length = timedelta(hours=bad[day])
            await _incident(database, monitor_id, project_id, incidents, ended, length, "failed", reason)


async def _open_run(
    database: asyncpg.Connection,
    monitor_id: int,
    project_id: int,
    runs: MonitorRuns,
    began: datetime,
    chance: random.Random,
) -> None:
    """A run in the middle of its second stage."""
    name = f"{began:%Y-%m-%d}"
    pings = [(began, Ping("start", name)), (began + timedelta(seconds=2), Ping("start", name, "extract"))]
    pings.append((began + 14 * MINUTE, Ping("success", name, "extract")))
    pings.append((began + 14.1 * MINUTE, Ping("start", name, "transform")))
    for task in chance.sample(range(1, 241), 196):
        at = began + (15 + chance.uniform(0, 22)) * MINUTE
        ends: Signal = "fail" if task in (57, 140) else "success"
        pings.append((at, Ping("start", name, "transform", str(task))))
        if task % 31:
            message = "deadlock detected while waiting for dim_customer" if ends == "fail" else None
            pings.append((at + timedelta(seconds=20), Ping(ends, name, "transform", str(task), message=message)))
    pings.sort(key=lambda each: each[0])
    start = to_micros(began)
    run = runs.add(name, start, start)
    for at, ping in pings:
        run.apply(to_micros(at), ping)
    await database.execute("delete from pings where monitor_id = $1 and at > $2", monitor_id, began - MINUTE)
    await _pings(database, monitor_id, project_id, pings, first=50_000)
    await _write_run(database, monitor_id, project_id, run)


async def _write_run(database: asyncpg.Connection, monitor_id: int, project_id: int, run: Any) -> None:
    await database.execute(
        """insert into runs (monitor_id, number, project_id, run, started_at, last_ping_at)
           values ($1, $2, $3, $4, to_timestamp($5 / 1e6), to_timestamp($6 / 1e6))""",
        *(monitor_id, run.number, project_id, run.run, float(run.started_at), float(run.last_at)),
    )


async def _write_fleet(database: asyncpg.Connection, monitor_id: int, now: datetime) -> dict[str, Any]:
    """Write the rows of 48 members, four of which have stopped pinging; the fleet's part of the state."""
    fleet = Fleet()
    for worker in range(1, 49):
        ago = 16 * MINUTE if worker in (7, 19, 20, 41) else worker * timedelta(milliseconds=200)
        fleet.record_ping(f"render-{worker:02}", to_micros(now - ago), to_micros(now))
    fleet.whole_at = to_micros(now)
    await database.executemany(
        "insert into members (monitor_id, name, at) values ($1, $2, $3)",
        [(monitor_id, row.name, to_datetime(row.at)) for row in fleet.take_rows(whole=True) if row.at is not None],
    )
    return fleet.dump()
