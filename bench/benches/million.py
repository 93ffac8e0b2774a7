"""A million monitors that ping, some of which stop: memory, the way back after a kill, and how soon a miss is seen.

Ten thousand pings a second go round through all monitors, so each pings every 100 s, its deadline is 150 s after that,
and each second the deadlines of one in a hundred are evaluated without result. One in a hundred is left out of each
round: that is a hundred real misses a second among them. All pings go by HTTP to the running server; only the
definitions are written directly.
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
LEFT_OUT = 100  # one in this number
EVALUATION_S = 300.0
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
    """One process, killed and started again; then the same with --workers 2.

    A failure ends the benchmark with the measurements so far, so half an hour is not lost with its last minute.
    """
    sizes = Sizes(2_000, 2.0, 3, 1) if stage.quick else Sizes()
    result = Result("million", f"{sizes.monitors:,} monitors, {sizes.rate:,.0f} pings/s")
    lines = Lines()
    async with stage.database() as database:
        stage.say(f"million: making {sizes.monitors:,} monitors")
        definition = {"every": f"{sizes.every_s}s", "grace": f"{sizes.grace_s}s"}
        keys = await database.populate(sizes.monitors, definition, new=True)
        try:
            await _rounds(stage, database, keys, sizes, lines)
        except Exception as error:
            if not lines.resident.values:
                raise
            result.notes.append(f"ended early: {error!r}")
    result.lines = [line for line in vars(lines).values() if line.values]
    result.goals = [
        _goal(lines.accept, lines.accept.median, 5.0, " s"),
        _goal(lines.evaluation, lines.evaluation.median, 20.0, " s"),
        _goal(lines.resident, lines.resident.high, 900.0, " MB"),
    ]
    if lines.ingest.values:
        result.goals.append(_goal(lines.ingest, lines.ingest.high, 350.0, " MB"))
    # If nothing was missed there was no lag: then the misses are the goal that is not reached.
    result.goals += [
        _goal(lag, lag.median, at_most, " ms")
        for lag, at_most in ((lines.lag, 250.0), (lines.lag2, 400.0))
        if lag.values
    ]
    expected = sizes.rate / LEFT_OUT
    result.goals.append(Goal(lines.misses.name, lines.misses.low, at_least=0.8 * expected, unit=" a second"))
    result.goals += [_goal(lines.unanswered, lines.unanswered.high, 0), _goal(lines.false, lines.false.high, 0)]
    return result


class Lines:
    """The measurements."""

    def __init__(self) -> None:
        self.accept = Line("killed: until a ping is answered 200", "s")
        self.evaluation = Line("killed: until deadlines are evaluated", "s")
        self.resident = Line("one process, resident", "MB")
        self.lag = Line("one process, decision lag p99", "ms")
        self.ingest = Line("--workers 2: an ingest process, resident", "MB")
        self.lag2 = Line("--workers 2, decision lag p99", "ms")
        self.misses = Line("misses decided", "a second")
        self.unanswered = Line("pings not answered 200", "")
        self.false = Line("incidents of monitors that pinged", "")


def _goal(line: Line, value: float, at_most: float, unit: str = "") -> Goal:
    return Goal(line.name, value, at_most=at_most, unit=unit)


async def _rounds(stage: Stage, database: Database, keys: Path, sizes: Sizes, lines: Lines) -> None:
    subject = await stage.launch(database)
    try:
        await _evaluation(subject)
        stage.say("million: the first round")
        await _round(subject, keys, sizes)
        for number in range(stage.rounds):
            part = _without(keys, 2 * number)
            await subject.end(signal.SIGKILL)
            subject = await _start(stage, database, keys, lines.accept)
            evaluation_s = await _measured_round(database, subject, part, sizes, lines.lag, lines)
            lines.evaluation.values.append(lines.accept.values[-1] + evaluation_s)
            stage.say(f"million: evaluates again after {lines.evaluation.values[-1]:.1f} s")
            lines.resident.values.append(resident_mb(subject.pid))
            stage.say(f"million: {lines.resident.values[-1]:.0f} MB, {lines.misses.values[-1]:.0f} misses a second")

            part = _without(keys, 2 * number + 1)
            await subject.end()
            subject = await _start(stage, database, keys, None, "--workers", "2")
            await _measured_round(database, subject, part, sizes, lines.lag2, lines)
            lines.ingest.values.append(max(resident_mb(worker.pid) for worker in subject.workers()))
            stage.say(f"million: {lines.ingest.values[-1]:.0f} MB, {lines.misses.values[-1]:.0f} misses a second")
    finally:
        await subject.end(signal.SIGKILL)


async def _start(stage: Stage, database: Database, keys: Path, accept: Line | None, *flags: str) -> Subject:
    """Start it and wait until it takes pings. The round continues then: without pings until it evaluates deadlines, all
    monitors would really miss them.
    """
    with keys.open() as file:
        key = file.readline().strip()
    began = time.monotonic()
    subject = await stage.launch(database, *flags)
    await subject.until_ready(f"/api/v1/heartbeat/{key}")
    if accept is not None:
        accept.values.append(time.monotonic() - began)
    return subject


async def _evaluation(subject: Subject) -> float:
    """Seconds until the watermark is of the last two seconds. Raises RuntimeError after `EVALUATION_S`."""
    began = time.monotonic()
    while time.monotonic() - began < EVALUATION_S:
        metrics = await _metrics(subject)
        if metrics.get("offbeat_watermark_timestamp_seconds", 0.0) > time.time() - 2:
            return time.monotonic() - began
        await asyncio.sleep(0.2)
    raise RuntimeError(f"Offbeat evaluates no deadline; its log ends:\n{subject.log.read_text()[-3000:]}")


async def _metrics(subject: Subject) -> dict[str, float]:
    """Of all processes, as soon as each gives its own. Raises RuntimeError where the main one has ended."""
    while subject.process.returncode is None:
        try:
            return await subject.metrics()
        except aiohttp.ClientError:
            await asyncio.sleep(0.2)
    raise RuntimeError(f"Offbeat has ended; its log ends:\n{subject.log.read_text()[-3000:]}")


async def _round(subject: Subject, keys: Path, sizes: Sizes) -> int:
    """A ping for every key of the file, in its order, in `round_s`; how many were not answered 200."""
    with keys.open() as file:
        count = sum(1 for _ in file)
    plan = Plan(
        subject.host, subject.port, str(keys), [Phase("round", sizes.round_s, count / sizes.round_s)], CONNECTIONS,
        shuffled=False,
    )  # fmt: skip
    given = await load.send(plan)
    return given.sent - given.statuses.get("200", 0)


async def _measured_round(
    database: Database, subject: Subject, part: Path, sizes: Sizes, lag: Line, lines: Lines
) -> float:
    """A round in which one in a hundred is left out. Their misses are decided in its second half.

    Gives the seconds from its beginning until these are evaluated.
    """
    going_round = asyncio.create_task(_round(subject, part, sizes))
    evaluation = asyncio.create_task(_evaluation(subject))
    await asyncio.sleep(sizes.round_s * 0.6)
    before, began = await _metrics(subject), time.monotonic()
    await asyncio.sleep(sizes.round_s * 0.3)
    after, took_s = await _metrics(subject), time.monotonic() - began
    # The round ends in time, however late it is evaluated: otherwise every monitor would miss its deadline.
    lines.unanswered.values.append(await going_round)
    evaluation_s = await evaluation
    misses = after[f"{_LAG}_count"] - before[f"{_LAG}_count"]
    lines.misses.values.append(misses / took_s)
    if misses:
        lag.values.append(1000 * quantile(before, after, 0.99))
    most = sizes.monitors / LEFT_OUT
    lines.false.values.append(max(0.0, await database.value(_INCIDENTS) - most))
    return evaluation_s


def _without(keys: Path, number: int) -> Path:
    """The keys without each hundredth, another one each time."""
    part = keys.with_name(f"part{number}.txt")
    with keys.open() as all_keys, part.open("w") as file:
        file.writelines(key for place, key in enumerate(all_keys) if place % LEFT_OUT != number)
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
