"""The faults of a world, one every second or two, at any step of the code that runs then."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from offbeat_server.common.instants import SECOND
from tests.simulation.world.node import Node

if TYPE_CHECKING:
    from tests.simulation.world.world import World

EVERY_S = 1.6
STEPS_MAX = 300  # between the fault and the moment in which it strikes


class Fault(NamedTuple):
    """`node` is None where it concerns the database, and so all."""

    at_s: float
    what: str
    node: str | None


class Faults:
    """`happened` lists them, for the search of the cause of a failure. `kinds` are drawn from, each as often."""

    kinds: Sequence[str] = (
        "crash", "crash", "freeze", "freeze", "cut", "lose", "lose", "slow", "restart_database", "restart", "set_clock",
    )  # fmt: skip

    def __init__(self, world: "World") -> None:
        self.happened: list[Fault] = []
        self._world, self._rng = world, world.rng

    async def strike(self) -> None:
        """Until the clients have ended."""
        world, rng = self._world, self._rng
        while not world.ended:
            await asyncio.sleep(rng.expovariate(1 / EVERY_S))
            node = rng.choice(list(world.nodes.values()))
            if world.ended or node.process.dead or node.stopping:
                continue
            kind = rng.choice(self.kinds)
            everywhere = kind in ("restart_database", "set_clock")
            self.happened.append(Fault(world.loop.time(), kind, None if everywhere else node.name))
            world.loop.create_task(getattr(self, f"_{kind}")(node))

    @property
    def story(self) -> list[str]:
        """In words."""
        return [f"{fault.at_s:.3f} {fault.what} {fault.node or ''}" for fault in self.happened]

    async def _crash(self, node: Node) -> None:
        node.process.after_steps(self._rng.randint(1, STEPS_MAX), node.crash)
        await asyncio.sleep(self._rng.uniform(0.1, 4))
        if not node.process.dead and not node.stopping:
            node.crash()
        self._world.boot_again(node)

    async def _freeze(self, node: Node) -> None:
        def freeze() -> None:
            node.process.frozen = True

        node.process.after_steps(self._rng.randint(1, STEPS_MAX), freeze)
        await asyncio.sleep(self._rng.choice((0.3, 2, 2.8, 5, 8)))
        self._world.loop.thaw(node.process)

    async def _cut(self, node: Node) -> None:
        link = self._world.server.links[node.name]
        which = self._rng.randrange(3)
        link.request_cut, link.reply_cut = which != 0, which != 1
        await asyncio.sleep(self._rng.choice((0.3, 1, 3, 6)))
        link.request_cut = link.reply_cut = False

    async def _lose(self, node: Node) -> None:
        link = self._world.server.links[node.name]
        link.loss = self._rng.choice((0.02, 0.1, 0.3))
        await asyncio.sleep(self._rng.uniform(0.5, 4))
        link.loss = 0.0

    async def _slow(self, node: Node) -> None:
        link = self._world.server.links[node.name]
        link.slow_s = self._rng.choice((0.03, 0.2, 0.8))
        await asyncio.sleep(self._rng.uniform(0.5, 3))
        link.slow_s = 0.0

    async def _restart_database(self, node: Node) -> None:
        server = self._world.server
        server.restart()
        server.up = False
        await asyncio.sleep(self._rng.uniform(0.05, 2))
        server.up = True

    async def _restart(self, node: Node) -> None:
        await node.spawn(node.stop())
        await asyncio.sleep(self._rng.uniform(0.1, 1))
        self._world.boot_again(node)

    async def _set_clock(self, node: Node) -> None:
        """The database's clock jumps; a little is drift, as of a clock that is set by a network."""
        by_s = self._rng.choice((-3600, -30, -4, -1, -0.2, 0.2, 1, 4, 30, 3600))
        self._world.server.jump += int(by_s * SECOND)
        self.happened[-1] = self.happened[-1]._replace(what=f"set_clock {by_s:+} s")
