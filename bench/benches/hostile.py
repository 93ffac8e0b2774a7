"""An honest client beside a thousand slow ones: they must not slow it down."""

import asyncio

from bench import load
from bench.load import Phase, Plan
from bench.measure import Goal, Line, Result, ratio
from bench.slow import slow_clients
from bench.stage import Stage

CONNECTIONS = 64
RATE = 2_000.0  # far below the peak, so that only the slow clients can make it wait
PAUSE_S = 1.0  # the slow ones have connected, and asked for all that they want


async def run(stage: Stage) -> Result:
    """The honest one in an open loop, in turn alone and beside them."""
    seconds, monitors, slow = (1.0, 2_000, 60) if stage.quick else (10.0, 10_000, 1_000)
    result = Result("hostile", f"{slow} clients with slow heads, slow bodies and unread answers beside an honest one")
    alone, beside, median = (
        Line("honest pings alone, p99", "ms"),
        Line(f"honest pings beside {slow} slow clients, p99", "ms"),
        Line("the same, p50", "ms"),
    )
    again = Line("connections that the slow clients needed", "")
    async with stage.database() as database:
        keys = await database.populate(monitors, {"every": "1h"})
        async with stage.offbeat(database) as offbeat:
            plan = Plan(offbeat.host, offbeat.port, str(keys), [Phase("measured", seconds, RATE)], CONNECTIONS)
            for _ in range(stage.rounds):
                alone.values.append(_all_good(await load.send(plan)).p99)
                async with slow_clients(offbeat.host, offbeat.port, slow) as crowd:
                    await asyncio.sleep(PAUSE_S)
                    honest = _all_good(await load.send(plan))
                beside.values.append(honest.p99)
                median.values.append(honest.p50)
                again.values.append(crowd.connected)
    result.lines = [alone, beside, median, again]
    result.goals = [Goal("honest pings' p99, beside / alone", ratio(beside, alone), at_most=1.2, unit=" ×")]
    return result


def _all_good(given: load.Outcome) -> load.Latency:
    if given.lost or set(given.statuses) != {"200"}:
        raise RuntimeError(f"an honest ping was not taken: {given.statuses}, lost {given.lost}")
    return given.small
