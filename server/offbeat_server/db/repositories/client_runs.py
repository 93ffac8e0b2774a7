"""Runs as they are this moment: the pings of a run, taken in by the engine's own `Run.apply`.

`runs.detail` is as of the last decision, because no row is written for a stage or a task. Here the pings themselves are
read, up to the watermark and no further: so they come whole and in the one order, and can be taken in bit by bit.
"""

from collections.abc import Sequence

import asyncpg

from offbeat_server.common.instants import Micros, to_datetime, to_micros
from offbeat_server.db import sql_loader
from offbeat_server.engine.model.definition import load_definition
from offbeat_server.engine.model.enums import Verdict, member_or
from offbeat_server.engine.model.ping import Ping
from offbeat_server.engine.model.run import Run

_SQL = sql_loader.load("pages")
PINGS_READ_MAX = 5_000  # of one run in one read
PINGS_APPLIED_MAX = 60_000  # of one run; what comes later is not shown in stages and tasks


class ClientRun:
    """A run that is being followed. `row` is one of `runs`; `through`: everything up to there is taken in."""

    def __init__(self, row: asyncpg.Record) -> None:
        self.monitor_id: int = row["monitor_id"]
        self.run_id: str | None = row["run"]
        started_at = to_micros(row["started_at"]) if row["started_at"] is not None else None
        first = started_at if started_at is not None else to_micros(row["last_ping_at"])
        self.run = Run(row["number"], self.run_id, started_at, first)
        self.through: Micros = first - 1
        self.finished_at: Micros | None = None
        self.pings = 0
        self.finish(row)

    @property
    def complete(self) -> bool:
        """Whether there is nothing more to come, or to be shown."""
        return self.pings >= PINGS_APPLIED_MAX or (self.finished_at is not None and self.through >= self.finished_at)

    def finish(self, row: asyncpg.Record) -> None:
        """Take over from the row whether and when it ended."""
        self.finished_at = to_micros(row["finished_at"]) if row["finished_at"] is not None else None
        self.run.finished_at = self.finished_at
        self.run.verdict = member_or(Verdict, row["verdict"], Verdict.UNKNOWN) if self.finished_at is not None else None
        self._definition = load_definition(row["definition"])

    def take(self, at: Micros, ping: Ping) -> None:
        """Apply one ping. If it ends the last task of a stage well, the stage is done, as the engine decides too."""
        self.run.apply(at, ping)
        if not ping.stage or ping.task is None or ping.signal not in ("success", "skip", "fail"):
            return
        if self.run.group_complete(self._definition, ping.stage) and not self.run.stage_over(ping.stage):
            self.run.apply(at, Ping("success", ping.run, ping.stage))


async def read_new_pings(pool: asyncpg.Pool, runs: Sequence[ClientRun]) -> None:
    """Take in what has come since. One read for all of them, or a few where much has come."""
    if all(each.complete for each in runs):
        return
    watermark: Micros = to_micros(await pool.fetchval(_SQL["watermark"]))
    waiting = [each for each in runs if not each.complete]
    while waiting:
        ends = [watermark if e.finished_at is None else min(watermark, e.finished_at) for e in waiting]
        rows = await pool.fetch(
            _SQL["run_pings"],
            [each.monitor_id for each in waiting],
            [each.run_id for each in waiting],
            [to_datetime(each.through) for each in waiting],
            [to_datetime(max(end, each.through)) for end, each in zip(ends, waiting, strict=True)],
            PINGS_READ_MAX,
        )
        read = [0] * len(waiting)
        for row in rows:
            each = waiting[row["n"] - 1]
            read[row["n"] - 1] += 1
            each.through = to_micros(row["at"])
            each.take(each.through, _ping(row))
        again = []
        for each, count, end in zip(waiting, read, ends, strict=True):
            each.pings += count
            if count < PINGS_READ_MAX:
                each.through = max(each.through, end)
            elif not each.complete:
                again.append(each)
        waiting = again


async def current_run(pool: asyncpg.Pool, row: asyncpg.Record) -> Run:
    """The run of a row of `runs` as it is now."""
    followed = ClientRun(row)
    await read_new_pings(pool, [followed])
    return followed.run


def _ping(row: asyncpg.Record) -> Ping:
    return Ping(
        row["signal"],
        row["run"],
        row["stage"],
        row["task"],
        row["done"],
        row["total"],
        row["exit_code"],
        row["duration"],
    )
