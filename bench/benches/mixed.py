"""Small pings beside large ones: one in a hundred has the output of a job; the others must not become slower."""

from bench import load
from bench.benches.single import committed
from bench.load import Phase, Plan
from bench.measure import Goal, Line, Result, ratio
from bench.stage import Stage

CONNECTIONS = 256
SHARE = 0.01
LARGE_BYTES = 10_000


async def run(stage: Stage) -> Result:
    """A third of the peak in an open loop, in turn with and without the large ones."""
    seconds, monitors = (1.0, 2_000) if stage.quick else (8.0, 100_000)
    result = Result("mixed", "1 % of the pings with a message of 10 kB")
    without, among, large = (
        Line("small pings alone, p99", "ms"),
        Line("small pings among large ones, p99", "ms"),
        Line("large pings, p99", "ms"),
    )
    async with stage.database() as database:
        keys = await database.populate(monitors, {"every": "1h"})
        async with stage.offbeat(database) as offbeat:
            for _ in range(stage.rounds):
                rate = await committed(database, offbeat, keys, connections=CONNECTIONS, seconds=seconds / 2) / 3
                phases = [Phase("measured", seconds, rate)]
                for share in (0.0, SHARE):
                    given = await load.send(
                        Plan(
                            offbeat.host,
                            offbeat.port,
                            str(keys),
                            phases,
                            CONNECTIONS,
                            large_share=share,
                            large_bytes=LARGE_BYTES,
                        )
                    )
                    if given.lost or set(given.statuses) != {"200"}:
                        raise RuntimeError(f"a third of the peak is not taken: {given.statuses}, lost {given.lost}")
                    (among if share else without).values.append(given.small.p99)
                large.values.append(given.large.p99)
    result.lines = [without, among, large]
    result.goals = [Goal("small pings' p99, among / alone", ratio(among, without), at_most=2.0, unit=" ×")]
    return result
