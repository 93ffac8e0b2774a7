"""One run: worlds of several shapes, faults in each, recovery after every fault, and the verdict."""

import asyncio
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.faults import clients, nodes, postgres, standby
from tests.chaos.faults.registry import KINDS, Kind, draw
from tests.chaos.verdict.check import Verdict, judge
from tests.chaos.verdict.journal import Fault, Journal, Stored
from tests.chaos.world.nodes import SHAPES
from tests.chaos.world.world import NotRecovered, World

MODULES = (nodes, clients, postgres, standby)  # what they define is in KINDS
CHECK_EVERY = 15  # faults between two verdicts
PAUSE_S = 1.5  # at most, between two faults
CALM_S = 12.0  # before a verdict, so that there are alerts that no fault has touched
Say = Callable[[str], None]


@dataclass
class Outcome:
    """The result of one world."""

    shape: str
    seed: int
    seconds: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    troubles: list[str] = field(default_factory=list)
    highest: Counter[str] = field(default_factory=Counter)
    output: dict[str, list[str]] = field(default_factory=dict)
    journal: Journal = field(default_factory=Journal)
    stored: Stored | None = None  # at the last verdict

    @property
    def ok(self) -> bool:
        """Whether there are no findings and no troubles."""
        return self.verdict.ok and not self.troubles


async def live(shape: str, seed: int, count: int, monitors: int, say: Say, kinds: list[str] | None = None) -> Outcome:
    """Run one world with `count` faults. `kinds`: exactly these, in this order."""
    outcome = Outcome(shape, seed)
    began = time.monotonic()
    chance = random.Random(seed)
    drawn = [KINDS[name] for name in kinds] if kinds else draw(SHAPES[shape], chance, count)
    async with World(shape, seed, monitors) as world:
        try:
            await asyncio.sleep(CALM_S)
            await world.alerted()  # before the first fault, so that there is an alert that no fault has touched
            for number, kind in enumerate(drawn, 1):
                await asyncio.sleep(chance.uniform(0, PAUSE_S))
                fault = await _inject(world, kind, chance)
                say(f"{shape} {seed}: {number}/{len(drawn)} {kind.name}: {_seconds(fault)}")
                if number % CHECK_EVERY == 0 or number == len(drawn):
                    await _verdict(world, outcome, last=number == len(drawn))
                    say(f"{shape} {seed}: {summary(outcome)}")
                    if not outcome.ok:
                        break
        except Exception as error:
            outcome.troubles.append("".join(traceback.format_exception(error))[-4_000:])
        outcome.faults, outcome.journal, outcome.highest = world.journal.faults, world.journal, world.seen
        outcome.troubles += world.troubles
        outcome.output = {node.name: node.server.output for node in world.nodes}
    outcome.seconds = time.monotonic() - began
    return outcome


async def _inject(world: World, kind: Kind, chance: random.Random) -> Fault:
    fault = world.begin(kind.name)
    try:
        await kind.inject(world, chance, fault)
        fault.cured = time.time()
        await world.recovered()
    except NotRecovered as error:
        raise NotRecovered(f"{kind.name}: {error}") from error
    finally:
        fault.cured = fault.cured or time.time()
        fault.recovered = time.time()
    return fault


async def _verdict(world: World, outcome: Outcome, last: bool) -> None:
    await asyncio.sleep(CALM_S)
    if last:
        await world.load.stop()
        await world.recovered()
        await asyncio.sleep(CALM_S)
    await world.look()
    settled_before = await world.drained()
    outcome.stored = await world.stored(settled_before)
    world.collect_deliveries()
    outcome.verdict = await asyncio.to_thread(judge, world.journal, outcome.stored)


def _seconds(fault: Fault) -> str:
    measured = "".join(f", {name} {value:.2f}" for name, value in fault.measured.items())
    return f"{fault.cured - fault.began:.1f} s, recovered after {fault.recovery_s:.2f} s{measured}"


def summary(outcome: Outcome) -> str:
    """One line."""
    counts = outcome.verdict.counts
    by_kind = {name: len(sentences) for name, sentences in outcome.verdict.kinds.items()}
    pings = counts["ok"] + counts["failed"] + counts["unknown"]
    return (
        f"{pings} pings ({counts['ok']} ok, {counts['failed']} failed, {counts['unknown']} unknown), "
        f"{counts['must']} of {counts['silences']} silences to tell, {by_kind}, troubles {len(outcome.troubles)}"
    )
