"""The top of the hour: every cron job of the fleet starts in the same seconds, 20 times the usual load.

The burst is twice what the server can take, so it must queue, and may refuse; it may not lose, and must recover. A
refusal is honest when it is a 503: the client knows that it has to come again.
"""

from bench import load
from bench.benches.single import committed
from bench.load import Outcome, Phase, Plan
from bench.measure import Goal, Line, Result
from bench.stage import Stage

CONNECTIONS = 1_000
TIMES = 20
NORMAL_TIMES = 2.0  # p99 is normal again when it is at most so many times what it was before ...
NORMAL_MS = 25.0  # ... or below this


async def run(stage: Stage) -> Result:
    """A tenth of the peak, then twenty times that for five seconds, then a tenth again."""
    before_s, burst_s, after_s, monitors = (1.0, 0.5, 2.0, 2_000) if stage.quick else (10.0, 5.0, 15.0, 100_000)
    result = Result("burst", f"the top of the hour: {TIMES} × for {burst_s:g} s")
    normal, burst, refused, recovery, lost = (
        Line("p99 before", "ms"),
        Line("p99 in the burst", "ms"),
        Line("answered 503 in the burst", "%"),
        Line("until p99 is normal again", "s"),
        Line("lost, or answered otherwise", "pings"),
    )
    async with stage.database() as database:
        keys = await database.populate(monitors, {"every": "1h"})
        async with stage.offbeat(database) as offbeat:
            for _ in range(stage.rounds):
                peak = await committed(database, offbeat, keys, connections=512, seconds=max(1.0, before_s / 3))
                rate = peak / 10
                stored = await database.pings()
                phases = [
                    Phase("before", before_s, rate),
                    Phase("burst", burst_s, rate * TIMES),
                    Phase("after", after_s, rate),
                ]
                given = await load.send(Plan(offbeat.host, offbeat.port, str(keys), phases, CONNECTIONS))
                stored = await database.pings() - stored
                good, unavailable = given.statuses.get("200", 0), given.statuses.get("503", 0)
                bad = given.lost + sum(given.statuses.values()) - good - unavailable + max(0, good - stored)
                lost.values.append(bad)
                normal.values.append(given.phases["before"].p99)
                burst.values.append(given.phases["burst"].p99)
                refused.values.append(100 * unavailable / given.sent)
                recovery.values.append(recovered(given, before_s + burst_s, given.phases["before"].p99))
    result.lines = [normal, burst, refused, recovery, lost]
    result.goals = [
        Goal("lost, or neither 200 nor 503", lost.high, at_most=0, unit=" pings"),
        Goal("until p99 is normal again", recovery.median, at_most=5.0, unit=" s"),
    ]
    return result


def recovered(given: Outcome, burst_end_s: float, normal_p99_ms: float) -> float:
    """Seconds from the end of the burst until p99 is normal and stays so."""
    bound = max(NORMAL_MS, NORMAL_TIMES * normal_p99_ms)
    slow = [at for at, _, p99, _, others in given.windows if at >= burst_end_s and (p99 > bound or others)]
    window_s = given.windows[1][0] - given.windows[0][0]
    return max(slow, default=burst_end_s - window_s) + window_s - burst_end_s
