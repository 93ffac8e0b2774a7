"""A million monitors that ping, some of which stop: memory, the way back after a kill, and how soon a miss is seen.

Ten thousand pings a second go round through all monitors, so each pings every 100 s, its deadline is 150 s after that,
and each second the deadlines of one in a hundred are looked at in vain. One in a hundred is left out of each round:
that is a hundred real misses a second among them. All of it by HTTP against the running server, nothing is put in by
hand but the definitions.
"""

import asyncio
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench import load
from bench.load import Phase, Plan
from bench.measure import Goal, Line, Result
from bench.stage import Database, Stage, Subject, resident_mb

CONNECTIONS = 128
LEFT_OUT = 100  # one in so many
_LAG = "offbeat_decision_lag_seconds"
_INCIDENTS = "select count(*) from incidents where resolved_at is null"


@dataclass
class Sizes:
    """How many, how fast. A round through all monitors takes `round_s`; the deadline is `every_s` + `grace_s`."""

    monitors: int = 1_000_000
    round_s: float = 100.0
    every_s: int = 130
    grace_s: int = 20

    @property
    def rate(self) -> float:
        """Pings a second."""
        return self.monitors / self.round_s


async def run(stage: Stage) -> Result:
    """One process, killed and started again; then the same with --workers 2."""
    sizes = Sizes(2_000, 2.0, 3, 1) if stage.quick else Sizes()
    result = Result("million", f"{sizes.monitors:,} monitors, {sizes.rate:,.0f} pings/s")
    lines = {
        "accept": Line("killed: until a ping is answered 200", "s"),
        "judge": Line("killed: until deadlines are judged", "s"),
        "resident": Line("one process, resident", "MB"),
        "lag": Line("one process, decision lag p99", "ms"),
        "ingest": Line("--workers 2: an ingest process, resident", "MB"),
        "lag2": Line("--workers 2, decision lag p99", "ms"),
        "misses": Line("misses decided", "a second"),
        "false": Line("incidents of monitors that pinged", ""),
    }
    async with stage.database() as database:
        stage.say(f"million: making {sizes.monitors:,} monitors")
        keys = await database.populate(sizes.monitors, {"every": f"{sizes.every_s}s", "grace": f"{sizes.grace_s}s"})
        subject = await stage.launch(database)
        try:
            await _judging(subject)
            await _round(subject, keys, sizes)
            for number in range(stage.rounds):
                await subject.end(signal.SIGKILL)
                subject = await _start(stage, database, keys, lines["accept"], lines["judge"])
                part = _without(keys, 2 * number)
                await _measured_round(database, subject, part, sizes, lines["lag"], lines)
                lines["resident"].values.append(resident_mb(subject.pid))

                await subject.end()
                subject = await stage.launch(database, "--workers", "2")
                await _judging(subject)
                part = _without(keys, 2 * number + 1)
                await _measured_round(database, subject, part, sizes, lines["lag2"], lines)
                lines["ingest"].values.append(max(resident_mb(worker.pid) for worker in subject.workers()))
        finally:
            await subject.end()
    result.lines = list(lines.values())
    result.goals = [
        Goal("killed: until a ping is answered 200", lines["accept"].median, at_most=5.0, unit=" s"),
        Goal("killed: until deadlines are judged", lines["judge"].median, at_most=20.0, unit=" s"),
        Goal("one process, resident", lines["resident"].high, at_most=900.0, unit=" MB"),
        Goal("an ingest process, resident", lines["ingest"].high, at_most=350.0, unit=" MB"),
        Goal("decision lag p99, one process", lines["lag"].median, at_most=250.0, unit=" ms"),
        Goal("decision lag p99, --workers 2", lines["lag2"].median, at_most=400.0, unit=" ms"),
        Goal("incidents of monitors that pinged", lines["false"].high, at_most=0),
    ]
    return result


async def _start(stage: Stage, database: Database, keys: Path, accept: Line, judge: Line) -> Subject:
    """Start it and take the two times from there."""
    with keys.open() as file:
        key = file.readline().strip()
    began = time.monotonic()
    subject = await stage.launch(database)
    await subject.until_ready(f"/api/v1/heartbeat/{key}")
    accept.values.append(time.monotonic() - began)
    await _judging(subject)
    judge.values.append(time.monotonic() - began)
    return subject


async def _judging(subject: Subject) -> None:
    """Until the watermark is of the last two seconds."""
    while True:
        try:
            metrics = await subject.metrics()
        except aiohttp.ClientError:
            metrics = {}
        if metrics.get("offbeat_watermark_timestamp_seconds", 0.0) > time.time() - 2:
            return
        if subject.process.returncode is not None:
            raise RuntimeError(f"Offbeat ended: {subject.log.read_text()[-3000:]}")
        await asyncio.sleep(0.05)


async def _round(subject: Subject, keys: Path, sizes: Sizes) -> None:
    """A ping for every key of the file, in its order, in `round_s`."""
    with keys.open() as file:
        count = sum(1 for _ in file)
    plan = Plan(
        subject.host, subject.port, str(keys), [Phase("round", sizes.round_s, count / sizes.round_s)], CONNECTIONS,
        shuffled=False,
    )  # fmt: skip
    given = await load.send(plan)
    if given.lost or set(given.statuses) != {"200"}:
        raise RuntimeError(f"not every ping was answered 200: {given.statuses}, lost {given.lost}")


async def _measured_round(
    database: Database, subject: Subject, part: Path, sizes: Sizes, lag: Line, lines: dict[str, Line]
) -> None:
    """A round in which one in a hundred is left out. What they missed is decided in its second half."""
    going_round = asyncio.create_task(_round(subject, part, sizes))
    await asyncio.sleep(sizes.round_s * 0.6)
    before, began = await subject.metrics(), time.monotonic()
    await asyncio.sleep(sizes.round_s * 0.3)
    after, took_s = await subject.metrics(), time.monotonic() - began
    await going_round
    lag.values.append(1000 * quantile(before, after, 0.99))
    lines["misses"].values.append((after[f"{_LAG}_count"] - before[f"{_LAG}_count"]) / took_s)
    most = sizes.monitors / LEFT_OUT
    lines["false"].values.append(max(0.0, await database.value(_INCIDENTS) - most))


def _without(keys: Path, number: int) -> Path:
    """The keys without each hundredth, another one each time."""
    part = keys.with_name(f"part{number}.txt")
    with keys.open() as whole, part.open("w") as file:
        file.writelines(key for place, key in enumerate(whole) if place % LEFT_OUT != number)
    return part


def quantile(before: dict[str, float], after: dict[str, float], share: float) -> float:
    """A quantile in seconds of the decisions between two scrapes, interpolated as Prometheus does."""
    prefix = f'{_LAG}_bucket{{le="'
    counts = sorted(
        (float(name.removeprefix(prefix).removesuffix('"}')), after[name] - before[name])
        for name in after
        if name.startswith(prefix)
    )
    total = counts[-1][1]
    wanted, low, seen = share * total, 0.0, 0.0
    for bound, count in counts:
        if count >= wanted:
            if bound == float("inf") or count == seen:
                return low
            return low + (bound - low) * (wanted - seen) / (count - seen)
        low, seen = bound, count
    return low
