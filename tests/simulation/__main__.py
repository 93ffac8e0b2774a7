"""Many worlds on all cores: `python -m tests.simulation 20000`. Prints the stories of those that failed.

The result of a long run is added to results/simulation.md, a line each.
"""

import argparse
import asyncio
import gc
import os
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple

from tests.simulation.checks.outcome import outcome, story
from tests.simulation.record import RECORDED_MIN, add

PART = 50  # worlds between two reports of progress


class Part(NamedTuple):
    """The results of some worlds: counts, and the stories of those that failed."""

    counts: Counter[str]
    failed: dict[int, str]


def run_part(seeds: range) -> Part:
    """These worlds, one after the other."""
    warnings.simplefilter("ignore")  # of coroutines that a killed process leaves behind
    counts: Counter[str] = Counter()
    failed: dict[int, str] = {}
    for seed in seeds:
        try:
            world, wrong = outcome(seed)
        except Exception as error:
            asyncio.set_event_loop(None)
            failed[seed] = f"seed {seed}: {error!r}"
            continue
        if wrong:
            failed[seed] = story(world, wrong)
        counts += world.counts()
    gc.collect()
    return Part(counts, failed)


def main() -> int:
    """The exit code: 1 where a world failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", type=int, nargs="?", default=20_000, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    began, counts, failed, done = time.monotonic(), Counter[str](), dict[int, str](), 0
    end = arguments.first + arguments.seeds
    parts = [range(low, min(low + PART, end)) for low in range(arguments.first, end, PART)]
    with ProcessPoolExecutor(arguments.processes) as pool:
        for seeds, part in zip(parts, pool.map(run_part, parts), strict=True):
            counts += part.counts
            failed |= part.failed
            done += len(seeds)
            for text in part.failed.values():
                print(f"\n{text}", flush=True)
            print(f"\r{done} of {arguments.seeds} worlds, {len(failed)} failed", end="", file=sys.stderr, flush=True)
    line = (
        f"{datetime.now(UTC):%Y-%m-%d} seeds {arguments.first} to {end - 1}: {len(failed)} failed"
        f"{' ' + str(sorted(failed)) if failed else ''}; {', '.join(f'{n} {what}' for what, n in counts.items())}; "
        f"{time.monotonic() - began:.0f} s"
    )
    print(f"\n{line}")
    if arguments.seeds >= RECORDED_MIN:
        add(line)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
