"""Single pings with a connection each, as curl sends them: what accepting a connection costs beside the ping."""

from contextlib import AsyncExitStack

from bench import rivals
from bench.benches.single import answering, committed
from bench.measure import OURS, Goal, Result, in_turn, ratio
from bench.stage import Stage

CONNECTIONS = 64  # at a time


async def run(stage: Stage) -> Result:
    """Offbeat, aiohttp's application, nginx."""
    seconds, monitors = (1.0, 2_000) if stage.quick else (6.0, 100_000)
    result = Result("connect", f"a connection for each ping, {CONNECTIONS} at a time, {monitors:,} monitors")
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(stage.database())
        keys = await database.populate(monitors, {"every": "1h"})
        offbeat = await stack.enter_async_context(stage.offbeat(database))
        app = await stack.enter_async_context(rivals.aiohttp_application())
        nginx = await stack.enter_async_context(rivals.nginx())

        async def offbeat_rate() -> float:
            return await committed(database, offbeat, keys, connections=CONNECTIONS, seconds=seconds, close=True)

        lines = await in_turn(
            stage.rounds,
            {
                OURS: offbeat_rate,
                app.name: answering(app, keys, connections=CONNECTIONS, seconds=seconds, close=True),
                nginx.name: answering(nginx, keys, connections=CONNECTIONS, seconds=seconds, close=True),
            },
            "{}, one connection each",
            "pings/s",
            "requests/s",
        )
    result.lines += lines.values()
    result.goals = [
        Goal("× aiohttp app, one connection each", ratio(lines[OURS], lines[app.name]), at_least=1.0),
        Goal("× nginx, one connection each", ratio(lines[OURS], lines[nginx.name]), aim=0.6),
    ]
    return result
