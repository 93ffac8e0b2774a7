"""Ten thousand connections kept alive, each with a ping every ten seconds: workers that never hang up.

The result is the memory that a connection holds in the process; the kernel's buffers are not in it.
"""

import asyncio

from bench import load
from bench.load import Phase, Plan
from bench.measure import Goal, Line, Result
from bench.stage import Stage, resident_mb

EVERY_S = 10.0


async def run(stage: Stage) -> Result:
    """Resident memory before the connections and while all of them ping."""
    connections, seconds, every_s, monitors = (200, 1.5, 1.0, 1_000) if stage.quick else (10_000, 30.0, EVERY_S, 10_000)
    result = Result("idle", f"{connections:,} keep-alive connections, each pinging every {every_s:g} s")
    memory, p99, other = (
        Line("resident memory a connection", "kB"),
        Line("p99", "ms"),
        Line("not answered 200", "pings"),
    )
    for _ in range(stage.rounds):
        async with stage.database() as database:
            keys = await database.populate(monitors, {"every": "1h"})
            async with stage.offbeat(database) as offbeat:

                def plan(count: int, rate: float, length_s: float) -> Plan:
                    phases = [Phase("measured", length_s, rate)]
                    return Plan(
                        offbeat.host, offbeat.port, str(keys), phases, count, each_in_turn=True  # noqa: B023
                    )  # fmt: skip

                # The same load over few connections first, so that caches and pools have their size.
                rate = connections / every_s
                await load.send(plan(16, rate, seconds / 3))
                before = resident_mb(offbeat.pid)
                sending = asyncio.create_task(load.send(plan(connections, rate, seconds)))
                highest = before
                while not sending.done():
                    await asyncio.wait([sending], timeout=0.25)
                    highest = max(highest, resident_mb(offbeat.pid))
                given = sending.result()
        memory.values.append((highest - before) * 1000 / connections)
        p99.values.append(given.phases["measured"].p99)
        other.values.append(given.sent - given.statuses.get("200", 0))
    result.lines = [memory, p99, other]
    result.goals = [
        Goal("memory a connection", memory.median, at_most=20.0, unit=" kB"),
        Goal("not answered 200", other.high, at_most=0, unit=" pings"),
    ]
    return result
