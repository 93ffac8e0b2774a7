"""Open runs as they are this moment: the engine's stored state of a run, and the pings that have come since.

`runs.detail` is as of the last decision, because no row is written for a stage or a task. The state of its monitor is a
few minutes old at most. The later pings are read up to the watermark and no further, so they come whole and in the one
order, and the engine's own `Run.apply` takes them in. A run that has ended is in no state: its pings are read from the
first on, and only to draw its tasks; `runs.detail` says how it ended.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import asyncpg

from offbeat_server.common.errors import UnknownValueError
from offbeat_server.common.instants import Micros, to_datetime, to_micros
from offbeat_server.db import sql_loader
from offbeat_server.engine.model.definition import load_definition
from offbeat_server.engine.model.enums import Verdict, member_or
from offbeat_server.engine.model.ping import AFTER_ALL, Ping, PingOptions, Position
from offbeat_server.engine.model.run import Run

_SQL = sql_loader.load("pages")
PINGS_READ_MAX = 5_000  # of one run in one read
PINGS_APPLIED_MAX = 60_000  # of one run since its stored state; later ones are not taken in


class ClientRun:
    """A run that is being followed. `row` is one of `runs`; `position`: the last ping that is taken in.

    `is_cut`: it has more pings after that than are taken in. `has_state`: it begins with the engine's stored state.
    """

    def __init__(self, row: asyncpg.Record) -> None:
        self.monitor_id: int = row["monitor_id"]
        self.run_id: str | None = row["run"]
        started_at = to_micros(row["started_at"]) if row["started_at"] is not None else None
        first = started_at if started_at is not None else to_micros(row["last_ping_at"])
        self.run = Run(row["number"], self.run_id, started_at, first)
        self.run.execution = row["execution"]
        self.position = Position(first - 1, AFTER_ALL, AFTER_ALL)
        self.finished_at: Micros | None = None
        self.ends_at: Micros | None = None  # no ping of it is later; None: it is open
        self.pings = 0
        self.is_cut = self.has_state = False
        self.finish(row)

    @property
    def complete(self) -> bool:
        """Whether there is nothing more to come, or to be shown."""
        return self.is_cut or (self.ends_at is not None and self.position.at >= self.ends_at)

    @property
    def detail_as_of(self) -> Micros | None:
        """The instant of the last ping in its stages, tasks and progress, if there are later pings; else None."""
        return self.position.at if self.is_cut else None

    def begin_with(self, position: Position, state: dict[str, Any]) -> None:
        """Continue from the engine's state of this run (`Run.dump`), if it is newer."""
        if position <= self.position:
            return
        with suppress(UnknownValueError):  # a newer version has written it: then its pings must do
            run = Run.load(state)
            self.run, self.position, self.pings, self.is_cut, self.has_state = run, position, 0, False, True

    def finish(self, row: asyncpg.Record) -> None:
        """Take over from the row whether and when it ended."""
        self.finished_at = to_micros(row["finished_at"]) if row["finished_at"] is not None else None
        # Pings of stages and tasks may come after the end.
        last_at = to_micros(row["last_ping_at"])
        self.ends_at = max(self.finished_at, last_at) if self.finished_at is not None else None
        self.run.finished_at = self.finished_at
        self.run.verdict = member_or(Verdict, row["verdict"], Verdict.UNKNOWN) if self.finished_at is not None else None
        self._definition = load_definition(row["definition"])

    def take(self, at: Micros, ping: Ping) -> None:
        """Apply one ping. If all tasks of a stage have ended well with it, the stage is done, as in the engine."""
        if ping.signal == "leave":
            return  # only a member of a fleet leaves
        if self.run.is_of_another_execution(ping):
            return  # of the run with this id that this one superseded, or that superseded it
        self.run.apply(at, ping)
        if self._definition.follows_tasks:
            self.run.follow_task(at, ping)
        if self.run.ends_stage(self._definition, ping):
            self.run.apply(at, Ping("success", ping.run, ping.stage))


async def read_new_pings(pool: asyncpg.Pool, runs: Sequence[ClientRun]) -> None:
    """Take in what has come since. One read for all of them, or a few where much has come."""
    open_runs = [each for each in runs if each.finished_at is None]
    await _read_states(pool, [each for each in open_runs if each.is_cut or not each.has_state])
    if all(each.complete for each in runs):
        return
    watermark: Micros = to_micros(await pool.fetchval(_SQL["watermark"]))
    waiting = [each for each in runs if not each.complete]
    while waiting:
        ends = [watermark if e.ends_at is None else min(watermark, e.ends_at) for e in waiting]
        rows = await pool.fetch(
            _SQL["run_pings"],
            [each.monitor_id for each in waiting],
            [each.run_id for each in waiting],
            [to_datetime(each.position.at) for each in waiting],
            [each.position.writer for each in waiting],
            [each.position.seq for each in waiting],
            [to_datetime(max(end, each.position.at)) for end, each in zip(ends, waiting, strict=True)],
            PINGS_READ_MAX,
        )
        read = [0] * len(waiting)
        for row in rows:
            each = waiting[row["n"] - 1]
            read[row["n"] - 1] += 1
            each.position = Position(to_micros(row["at"]), row["writer"], row["seq"])
            each.take(each.position.at, _ping(row))
        again = []
        for each, count, end in zip(waiting, read, ends, strict=True):
            each.pings += count
            if count < PINGS_READ_MAX:
                each.position = max(each.position, Position(end, AFTER_ALL, AFTER_ALL))
            elif each.pings < PINGS_APPLIED_MAX:
                again.append(each)
            else:
                each.is_cut = True
        waiting = again


async def _read_states(pool: asyncpg.Pool, runs: Sequence[ClientRun]) -> None:
    by_number = {(each.monitor_id, each.run.number): each for each in runs}
    if not by_number:
        return
    rows = await pool.fetch(_SQL["open_run_states"], *map(list, zip(*by_number, strict=True)))
    for row in rows:
        position = Position(to_micros(row["at"]), row["writer"], row["seq"])
        by_number[row["monitor_id"], row["number"]].begin_with(position, row["run"])


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
        options=None if row["options"] is None else PingOptions.load(row["options"]),
    )
