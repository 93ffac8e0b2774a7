"""Everything falls silent in the same second: a network is cut, and a hundred thousand deadlines pass at once.

The silent monitors have one cron line, so their deadline is one instant. Others continue to ping in an open loop,
because the storm must not affect them. It is over when Postgres holds every incident and every alert row.
"""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from bench import load
from bench.load import Outcome, Phase, Plan
from bench.measure import Goal, Line, Result
from bench.stage import Database, Stage, Subject, cpu_s

TALKING_RATE = 2_000.0
BULK = 1_000
_RECORDED = "select count(*) from incidents where resolved_at is null"
_TOLD = "select count(distinct (monitor_id, incident)) from alerts where kind = 'opened'"
_DEADLINES = "select min(opened_at), max(opened_at) from incidents"


async def run(stage: Stage) -> Result:
    """From the deadline until all is recorded; and the latency of the pings in that time."""
    silent, period_s, grace_s, cron = (500, 5, 1, "*:*:0/5") if stage.quick else (100_000, 60, 20, "* * * * *")
    schedule = {"oncalendar" if stage.quick else "cron": cron, "grace": f"{grace_s}s"}
    rate = 100.0 if stage.quick else TALKING_RATE
    result = Result("storm", f"{silent:,} monitors silent in the same second")
    recorded, cpu, p99, worst, unanswered = (
        Line("until all incidents and alerts are committed", "s"),
        Line("the process's CPU in this time, pings included", "s"),
        Line("pings' p99 meanwhile", "ms"),
        Line("the slowest ping in this time", "ms"),
        Line("pings not answered 200", ""),
    )
    for _ in range(stage.rounds):
        async with stage.database() as database:
            quiet_keys = await database.populate(silent, schedule, "silent")
            talking_keys = await database.populate(100 if stage.quick else 20_000, {"every": "1h"}, "talking")
            async with stage.offbeat(database) as offbeat:
                # Just after a slot: a ping then is that slot's, and the next one is the one that all will miss.
                await until_after_a_slot(period_s)
                await bulk_ping(offbeat, quiet_keys)
                deadline = next_slot(period_s) + grace_s
                lead_s = 0.5 if stage.quick else 10.0
                await asyncio.sleep(max(0.0, deadline - lead_s - time.time()))
                began = time.time()
                phases = [Phase("measured", lead_s + (3.0 if stage.quick else 25.0), rate)]
                plan = Plan(offbeat.host, offbeat.port, str(talking_keys), phases, window_s=0.5)
                sending = asyncio.create_task(load.send(plan))
                used_s = cpu_s(offbeat.pid)
                took_s = await _until_recorded(database, silent, deadline)
                cpu.values.append(cpu_s(offbeat.pid) - used_s)
                stage.say(f"storm: all recorded after {took_s:.1f} s, {cpu.values[-1]:.1f} s of CPU")
                given = await sending
                first, last = (await database.connection.fetchrow(_DEADLINES)) or (None, None)
                if first != last:
                    raise RuntimeError(f"the deadlines were not one instant: {first} to {last}")
        recorded.values.append(took_s)
        meanwhile = _between(given, deadline - began, deadline - began + took_s)
        p99.values.append(max(meanwhile, default=given.phases["measured"].max))
        worst.values.append(given.phases["measured"].max)
        unanswered.values.append(given.sent - given.statuses.get("200", 0))
    result.lines = [recorded, cpu, p99, worst, unanswered]
    result.goals = [
        Goal("all recorded", recorded.median, at_most=15.0, unit=" s"),
        Goal("pings' p99 meanwhile", p99.median, at_most=250.0, unit=" ms"),
        Goal("pings not answered 200", unanswered.high, at_most=0),
    ]
    return result


async def bulk_ping(offbeat: Subject, keys: Path) -> None:
    """One ping for every key. Raises RuntimeError where one is refused."""
    with keys.open() as file:
        lines = [f'{{"key":"{key.strip()}"}}\n' for key in file]
    parts = ["".join(lines[at : at + BULK]) for at in range(0, len(lines), BULK)]
    async with aiohttp.ClientSession(offbeat.url) as session:

        async def post_every_fourth(first: int) -> None:
            for part in parts[first::4]:
                async with session.post("/api/v1/heartbeats", data=part.encode()) as answer:
                    if answer.status != 200:
                        raise RuntimeError(f"bulk: {answer.status} {await answer.text()}")

        await asyncio.gather(*(post_every_fourth(first) for first in range(4)))


def next_slot(period_s: int) -> float:
    """Return the beginning of the next slot of a calendar with one every `period_s`."""
    now = datetime.now(UTC).timestamp()
    return (now // period_s + 1) * period_s


async def until_after_a_slot(period_s: int) -> None:
    """It has just begun, so that what is sent now is of that slot and not of the next one."""
    into = time.time() % period_s
    if into > period_s / 4:
        await asyncio.sleep(period_s - into + 0.2)


async def _until_recorded(database: Database, count: int, deadline: float) -> float:
    """Seconds after the deadline; looked at ten times a second."""
    await asyncio.sleep(max(0.0, deadline - time.time()))
    while time.time() - deadline < 120:
        # The second question takes as long as the writing of a thousand incidents, so it is asked last.
        if await database.value(_RECORDED) >= count and await database.value(_TOLD) >= count:
            return time.time() - deadline
        await asyncio.sleep(0.1)
    raise RuntimeError("not all incidents and alerts are recorded after two minutes")


def _between(given: Outcome, begin_s: float, end_s: float) -> list[float]:
    """The p99 of each half second that lies in the storm."""
    return [p99 for at, _, p99, count, _ in given.windows if begin_s - 0.5 <= at <= end_s and count]
