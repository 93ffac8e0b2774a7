"""The cost of one more monitor: committed pings a second with a thousand, ten thousand, … a million of them.

All servers run at once and are asked in turn; those that are not asked only pulse.
"""

from contextlib import AsyncExitStack

from bench.benches.single import committed
from bench.measure import Goal, Line, Result
from bench.stage import Stage

CONNECTIONS = 64


async def run(stage: Stage) -> Result:
    """The same closed loop against fleets of different size."""
    seconds, sizes = (1.0, (100, 1_000)) if stage.quick else (5.0, (1_000, 10_000, 100_000, 1_000_000))
    result = Result("scale", "the cost of one more monitor")
    lines = {size: Line(f"Offbeat, {size:,} monitors", "pings/s") for size in sizes}
    async with AsyncExitStack() as stack:
        stages = {}
        for size in sizes:
            database = await stack.enter_async_context(stage.database())
            keys = await database.populate(size, {"every": "1h"})
            stages[size] = database, await stack.enter_async_context(stage.offbeat(database)), keys
        for _ in range(stage.rounds):
            for size, (database, offbeat, keys) in stages.items():
                rate = await committed(database, offbeat, keys, connections=CONNECTIONS, seconds=seconds)
                lines[size].values.append(rate)
    result.lines += lines.values()
    medians = [line.median for line in lines.values()]
    result.goals = [Goal("slowest / fastest fleet", min(medians) / max(medians), at_least=0.8)]
    return result
