"""Single pings over connections kept alive: committed pings a second beside servers that store nothing.

A closed loop of wrk, each ping to another of the monitors. Only pings that Postgres has afterwards count; a ping that
was answered and is not there ends the bench, because then all of its numbers are worthless.
"""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from bench import rivals, wrk
from bench.measure import OURS, Goal, Line, Result, in_turn, ratio
from bench.rivals import Rival
from bench.stage import Database, Stage, Subject

CONNECTIONS = (64, 512)


async def run(stage: Stage) -> Result:
    """Offbeat, aiohttp twice, nginx; at 64 and at 512 connections."""
    seconds, monitors = (1.0, 2_000) if stage.quick else (6.0, 100_000)
    result = Result("single", f"single pings, keep-alive, {monitors:,} monitors")
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(stage.database())
        keys = await database.populate(monitors, {"every": "1h"})
        offbeat = await stack.enter_async_context(stage.offbeat(database))
        others = [
            await stack.enter_async_context(start())
            for start in (rivals.aiohttp_application, rivals.aiohttp_low_level, rivals.nginx)
        ]
        for connections in CONNECTIONS[:1] if stage.quick else CONNECTIONS:
            lines = await _contest(stage.rounds, database, offbeat, others, keys, connections, seconds)
            result.lines += lines.values()
            result.goals += _goals(lines, connections)
    return result


async def committed(
    database: Database, offbeat: Subject, keys: Path, *, connections: int, seconds: float, close: bool = False
) -> float:
    """Committed pings a second in a closed loop. Raises RuntimeError where one was lost or answered otherwise."""
    before = await database.pings()
    given = await wrk.drive(
        offbeat.host, offbeat.port, str(keys), connections=connections, seconds=seconds, close=close
    )
    stored = await database.pings() - before
    if given.errors or stored < given.answers:
        raise RuntimeError(f"{given} but {stored} rows in Postgres")
    # Pings under way at the end are stored too, and not counted.
    return min(stored, given.answers) / given.seconds


async def _contest(
    rounds: int,
    database: Database,
    offbeat: Subject,
    others: list[Rival],
    keys: Path,
    connections: int,
    seconds: float,
) -> dict[str, Line]:
    async def offbeat_rate() -> float:
        return await committed(database, offbeat, keys, connections=connections, seconds=seconds)

    contenders: dict[str, Callable[[], Awaitable[float]]] = {OURS: offbeat_rate}
    for rival in others:
        contenders[rival.name] = answering(rival, keys, connections=connections, seconds=seconds)
    return await in_turn(rounds, contenders, f"{{}}, {connections} connections", "pings/s", "requests/s")


def answering(
    rival: Rival, keys: Path, *, connections: int, seconds: float, close: bool = False
) -> Callable[[], Awaitable[float]]:
    """How many requests a second a rival answers in the same closed loop."""

    async def measure() -> float:
        given = await wrk.drive(
            rival.host, rival.port, str(keys), connections=connections, seconds=seconds, close=close
        )
        return given.rate

    return measure


def _goals(lines: dict[str, Line], connections: int) -> list[Goal]:
    at_least = 1.5 if connections == 64 else 2.0
    to_aiohttp, to_nginx = (ratio(lines[OURS], lines[rival]) for rival in ("aiohttp app", "nginx"))
    return [
        Goal(f"× aiohttp app, {connections} connections", to_aiohttp, at_least=at_least, aim=2.5),
        Goal(f"× nginx, {connections} connections", to_nginx, at_least=0.35, aim=0.5),
    ]
