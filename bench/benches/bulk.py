"""Pings a thousand a request, beside asyncpg copying the same rows into the same table as fast as it can.

Both commit a thousand rows at a time; Offbeat also reads them as text, finds their monitors, evaluates and answers.
"""

from itertools import islice

from bench import by_hand, wrk
from bench.measure import OURS, Goal, Result, in_turn, ratio
from bench.stage import Stage

PINGS_A_REQUEST = 1_000
CONNECTIONS = 4


async def run(stage: Stage) -> Result:
    """NDJSON over four connections against `copy_records_to_table` over one."""
    seconds, monitors = (1.0, 2_000) if stage.quick else (6.0, 100_000)
    result = Result("bulk", f"bulk, {PINGS_A_REQUEST:,} pings a request")
    async with stage.database() as database:
        keys = await database.populate(monitors, {"every": "1h"})
        with keys.open() as file:
            lines = [f'{{"key":"{key.strip()}","status":"success"}}\n' for key in islice(file, PINGS_A_REQUEST)]
        one = database.directory / "one.txt"
        one.write_text("bulk\n")
        async with stage.offbeat(database) as offbeat:

            async def offbeat_rate() -> float:
                before = await database.pings()
                given = await wrk.drive(
                    offbeat.host, offbeat.port, str(one), connections=CONNECTIONS, seconds=seconds,
                    path="/api/v1/heartbeats", method="POST", body="".join(lines),
                )  # fmt: skip
                stored = await database.pings() - before
                if given.errors or stored < given.answers * PINGS_A_REQUEST:
                    raise RuntimeError(f"{given} but {stored} rows in Postgres")
                return given.answers * PINGS_A_REQUEST / given.seconds

            async def copy_rate() -> float:
                order = by_hand.Order(database.url, seconds, rows=PINGS_A_REQUEST, monitors=monitors)
                return (await by_hand.write("copy", order)).rate

            lines_by_name = await in_turn(
                stage.rounds, {OURS: offbeat_rate, "asyncpg COPY": copy_rate}, "{}, 1,000 a batch", "pings/s", "rows/s"
            )
    result.lines += lines_by_name.values()
    result.goals = [
        Goal("× asyncpg COPY", ratio(lines_by_name[OURS], lines_by_name["asyncpg COPY"]), at_least=0.5, aim=0.8)
    ]
    return result
