"""The top of the hour: every cron job of the fleet starts in the same seconds, 20 times the usual load.

Twice in each round. Once as a fleet knows it: 100 000 jobs that ping once a minute, and all at once what is usual in
100 s. And once twice as much as the server can take, where it must queue, and may refuse: it may not lose, and must
recover, for which arithmetic alone asks 5.6 s, since what 5 s left in line goes out beside the tenth that is still
sent. A refusal is honest when it is a 503: the client knows that it has to come again.
"""

from bench import load
from bench.benches.single import committed
from bench.load import Outcome, Phase, Plan
from bench.measure import Goal, Line, Result
from bench.stage import Database, Stage, Subject

CONNECTIONS = 1_000
TIMES = 20
USUAL_S = 60.0  # between two pings of a job
PEAK_SHARE = 0.1  # of what the server can take, so that the burst is twice that
NORMAL_TIMES = 2.0  # p99 is normal again when it is at most this multiple of its value before ...
NORMAL_MS = 25.0  # ... or below this
STAYS_S = 2.0  # and stays so


class BurstLines:
    """The measurements of one kind of burst."""

    def __init__(self, name: str) -> None:
        self.rate = Line(f"{name}: in the burst", "pings/s offered")
        self.before = Line(f"{name}: p99 before", "ms")
        self.within = Line(f"{name}: p99 in the burst", "ms")
        self.refused = Line(f"{name}: answered 503 in the burst", "%")
        self.recovery = Line(f"{name}: until p99 is normal again", "s")
        self.lost = Line(f"{name}: lost, or answered otherwise", "pings")

    def goal(self) -> Goal:
        """Nothing may be lost, however much it is."""
        return Goal(self.lost.name, self.lost.high, at_most=0, unit=" pings")


async def run(stage: Stage) -> Result:
    """The usual, twenty times that for five seconds, the usual again."""
    seconds, monitors = ((1.0, 0.5, 2.5), 2_000) if stage.quick else ((10.0, 5.0, 15.0), 100_000)
    result = Result("burst", f"the top of the hour: {TIMES} × for {seconds[1]:g} s")
    fleet, overload = BurstLines(f"{monitors:,} jobs, a ping a minute"), BurstLines("twice the peak")
    async with stage.database() as database:
        keys = await database.populate(monitors, {"every": "1h"})
        async with stage.offbeat(database) as offbeat:
            for _ in range(stage.rounds):
                plan = _plan(offbeat, str(keys), monitors / USUAL_S, seconds)
                await _measure(database, plan, fleet)
                peak = await committed(database, offbeat, keys, connections=512, seconds=max(1.0, seconds[0] / 3))
                await _measure(database, _plan(offbeat, str(keys), peak * PEAK_SHARE, seconds), overload)
    result.lines = [*vars(fleet).values(), *vars(overload).values()]
    result.goals = [
        fleet.goal(),
        overload.goal(),
        Goal(fleet.recovery.name, fleet.recovery.median, at_most=5.0, unit=" s"),
    ]
    return result


def _plan(offbeat: Subject, keys: str, rate: float, seconds: tuple[float, float, float]) -> Plan:
    rates = rate, rate * TIMES, rate
    phases = [Phase(*each) for each in zip(("before", "burst", "after"), seconds, rates, strict=True)]
    return Plan(offbeat.host, offbeat.port, keys, phases, CONNECTIONS)


async def _measure(database: Database, plan: Plan, lines: BurstLines) -> None:
    stored = await database.pings()
    given = await load.send(plan)
    stored = await database.pings() - stored
    good, unavailable = given.statuses.get("200", 0), given.statuses.get("503", 0)
    before, burst, _ = plan.phases
    lines.rate.values.append(burst.rate)
    lines.before.values.append(given.phases["before"].p99)
    lines.within.values.append(given.phases["burst"].p99)
    lines.refused.values.append(100 * unavailable / given.sent)
    lines.recovery.values.append(recovered(given, before.seconds + burst.seconds, given.phases["before"].p99))
    otherwise = sum(given.statuses.values()) - good - unavailable
    lines.lost.values.append(given.lost + otherwise + max(0, good - stored))


def recovered(given: Outcome, burst_end_s: float, normal_p99_ms: float) -> float:
    """Seconds from the end of the burst until p99 is normal, and stays so for `STAYS_S`."""
    bound = max(NORMAL_MS, NORMAL_TIMES * normal_p99_ms)
    window_s = given.windows[1][0] - given.windows[0][0]
    since = burst_end_s
    for at, _, p99, _, others in given.windows:
        if at >= since + STAYS_S:
            break
        if at >= burst_end_s and (p99 > bound or others):
            since = at + window_s
    return since - burst_end_s
