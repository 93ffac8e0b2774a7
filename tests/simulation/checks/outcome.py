"""One world from its beginning to its end, and what is wrong with it."""

import random
from collections.abc import Callable

import pytest

from tests.simulation.checks.ideal import verdict
from tests.simulation.world.loop import Endless
from tests.simulation.world.substitution import simulated
from tests.simulation.world.world import World

Mutant = Callable[[pytest.MonkeyPatch], None]


def outcome(seed: int, mutate: Mutant | None = None) -> tuple[World, list[str]]:
    """The world, as it ended, and every invariant that it broke. `mutate` puts a bug into the code under test."""
    with simulated(random.Random(seed)) as patch:
        if mutate is not None:
            mutate(patch)
        world = World(seed)
        try:
            world.run()
            return world, verdict(world)
        except Endless as error:
            return world, [*world.wrong, str(error)]
        finally:
            world.close()


def story(world: World, wrong: list[str]) -> str:
    """The facts for the search of the cause."""
    again = f"again: python -m pytest tests/simulation/test_simulation.py --seed {world.seed} --seeds 1"
    return "\n".join([f"seed {world.seed} ({again})", *wrong[:20], "faults:", *world.faults.story])
