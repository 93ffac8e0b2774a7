"""The faults by name. They are drawn from a seed, and each is over when its function returns.

Numbers such as F5 group similar faults; results/chaos.md says what each one does.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.verdict.journal import Fault
from tests.chaos.world.nodes import Shape
from tests.chaos.world.world import World

Inject = Callable[[World, random.Random, Fault], Awaitable[None]]


@dataclass(frozen=True)
class Kind:
    """One kind of fault. `likely`: its weight when faults are drawn."""

    name: str
    number: str
    text: str
    inject: Inject
    fits: Callable[[Shape], bool]
    likely: float


KINDS: dict[str, Kind] = {}
PLAIN = Shape(nodes=2)  # a world with no faults of its own


def fault(
    number: str, text: str, *, fits: Callable[[Shape], bool] = lambda shape: True, likely: float = 1.0
) -> Callable[[Inject], Inject]:
    """Marks a function as a fault; its name, with spaces, is the fault's."""

    def mark(inject: Inject) -> Inject:
        name = inject.__name__.replace("_", " ")
        KINDS[name] = Kind(name, number, text, inject, fits, likely)
        return inject

    return mark


def pair(shape: Shape) -> bool:
    """Two nodes."""
    return shape.nodes > 1


def alone(shape: Shape) -> bool:
    """One process does everything."""
    return shape.nodes == 1 and shape.workers == 1


def forked(shape: Shape) -> bool:
    """A main process with workers."""
    return shape.workers > 1


def unforked(shape: Shape) -> bool:
    """No workers: what is armed in the main process also takes pings."""
    return shape.workers == 1


def clocked(shape: Shape) -> bool:
    """Clocks can be set."""
    return shape.clocks


def kinds_for(shape: Shape) -> list[Kind]:
    """The faults that fit a shape."""
    return [kind for kind in KINDS.values() if kind.fits(shape)]


def draw(shape: Shape, chance: random.Random, count: int) -> list[Kind]:
    """The faults that only such a world has, each twice; the others once; then further ones by their weight."""
    kinds = kinds_for(shape)
    own = [kind for kind in kinds if not kind.fits(PLAIN)]
    others = [kind for kind in kinds if kind.fits(PLAIN)]
    drawn = [*own, *own, *chance.sample(others, len(others))][:count]
    chance.shuffle(drawn)
    return drawn + chance.choices(kinds, [kind.likely for kind in kinds], k=count - len(drawn))
