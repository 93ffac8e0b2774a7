"""How long a ping waits for its 200 at half of what the server can take, in an open loop.

Latency counts from the moment a ping was due, not from when it could be sent. The rival inserts one row a ping through
asyncpg, each its own commit, at half of *its* peak: the same question, asked of the obvious way to do it.
"""

from bench import by_hand, load
from bench.benches.single import committed
from bench.load import Phase, Plan
from bench.measure import Goal, Line, Result
from bench.stage import Stage

CONNECTIONS = 256
INSERTERS = 16


async def run(stage: Stage) -> Result:
    """Offbeat and the inserting rival, each at half of its own peak of the same round."""
    seconds, monitors = (1.0, 2_000) if stage.quick else (8.0, 100_000)
    result = Result("latency", "latency at half of the measured peak, open loop")
    rate, p50, p99, p999 = (
        Line("Offbeat, rate offered", "pings/s"),
        Line("Offbeat, p50", "ms"),
        Line("Offbeat, p99", "ms"),
        Line("Offbeat, p99.9", "ms"),
    )
    their_rate, their_p50, their_p99 = (
        Line("one INSERT a ping, rate offered", "rows/s"),
        Line("one INSERT a ping, p50", "ms"),
        Line("one INSERT a ping, p99", "ms"),
    )
    async with stage.database() as database:
        keys = await database.populate(monitors, {"every": "1h"})
        async with stage.offbeat(database) as offbeat:
            for _ in range(stage.rounds):
                peak = await committed(database, offbeat, keys, connections=CONNECTIONS, seconds=seconds / 2)
                phases = [Phase("warm", 1.0, peak / 2), Phase("measured", seconds, peak / 2)]
                given = await load.send(Plan(offbeat.host, offbeat.port, str(keys), phases, CONNECTIONS))
                if given.lost or set(given.statuses) != {"200"}:
                    raise RuntimeError(f"half of the peak is not taken: {given.statuses}, lost {given.lost}")
                measured = given.phases["measured"]
                rate.values.append(peak / 2)
                p50.values.append(measured.p50)
                p99.values.append(measured.p99)
                p999.values.append(measured.p999)

                order = by_hand.Order(database.url, seconds / 2, INSERTERS, monitors=monitors)
                their_peak = (await by_hand.write("insert", order)).rate
                order = by_hand.Order(database.url, seconds, INSERTERS, their_peak / 2, monitors=monitors)
                written = await by_hand.write("insert", order)
                their_rate.values.append(their_peak / 2)
                their_p50.values.append(written.latency.p50)
                their_p99.values.append(written.latency.p99)
    result.lines = [rate, p50, p99, p999, their_rate, their_p50, their_p99]
    result.goals = [
        Goal("p50 at half of the peak", p50.median, at_most=3.0, unit=" ms"),
        Goal("p99 at half of the peak", p99.median, at_most=25.0, unit=" ms"),
    ]
    return result
