"""The protocols (dialects) of the fast HTTP server beside the native one: moving to Offbeat must not cost throughput.

The same closed loop as `single`, the requests as each service's own clients write them, and each dialect in turn with
native: a round of native, a round of the other. All of them say success. A start would open a run, and the
decisions about runs would be measured with the pings that follow it.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import wrk
from bench.measure import OURS, Goal, Line, Result, in_turn, ratio
from bench.stage import Database, Stage, Subject

CONNECTIONS = 512
AT_LEAST = 0.85


async def run(stage: Stage) -> Result:
    """Committed pings/s by the addresses of Better Stack, Healthchecks, Uptime Kuma and Cronitor, beside native."""
    seconds, monitors = (1.0, 2_000) if stage.quick else (6.0, 100_000)
    result = Result("dialects", f"dialects at {CONNECTIONS} connections, {monitors:,} monitors")
    async with stage.database() as database:
        keys = await database.populate(monitors, {"every": "1h"})
        slugs = keys.with_name("slugs.txt")
        slugs.write_text("".join(f"m{n}\n" for n in range(1, monitors + 1)))
        ping_key = await database.value("select ping_key from projects where id = 1")
        async with stage.offbeat(database) as offbeat:

            def by(path: str, names: Path = keys) -> Callable[[], Awaitable[float]]:
                return lambda: _committed(database, offbeat, names, path, seconds)

            native = by("/api/v1/heartbeat/{key}")
            others = {
                "better stack, exit code": by("/api/v1/heartbeat/{key}/0"),
                "healthchecks": by("/ping/{key}"),
                "healthchecks, by slug": by(f"/ping/{ping_key}/{{key}}", slugs),
                "uptime_kuma": by("/api/push/{key}?status=up&msg=OK&ping="),
                "cronitor": by(f"/p/{ping_key}/{{key}}?state=complete", slugs),
            }
            result.lines.append(Line("native", "pings/s"))
            for name, other in others.items():
                lines = await in_turn(stage.rounds, {OURS: native, name: other}, "{}", "pings/s", "pings/s")
                result.lines[0].values += lines[OURS].values
                result.lines.append(lines[name])
                result.goals.append(_goal(lines[OURS], lines[name]))
    return result


async def _committed(database: Database, offbeat: Subject, names: Path, path: str, seconds: float) -> float:
    before = await database.pings()
    given = await wrk.drive(offbeat.host, offbeat.port, str(names), connections=CONNECTIONS, seconds=seconds, path=path)
    stored = await database.pings() - before
    if given.errors or stored < given.answers:
        raise RuntimeError(f"{given} by {path} but {stored} rows in Postgres")
    return min(stored, given.answers) / given.seconds


def _goal(native: Line, line: Line) -> Goal:
    return Goal(f"{line.name} × native", ratio(line, native), at_least=AT_LEAST, aim=1)
