"""The nodes of a world: real servers that can be killed, stopped, frozen, and made to die at a place of their code."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import psutil

from tests.chaos.world.clock import Wall
from tests.chaos.world.databases import Cable
from tests.chaos.world.node_process import SIGNAL, arm
from tests.support.harness import Server


@dataclass(frozen=True)
class Shape:
    """The shape of an installation."""

    nodes: int = 1
    workers: int = 1
    pooled: bool = False
    clocks: bool = False
    database: str = "single"  # or disk, standby, patroni: see databases.py


SHAPES = {
    "one": Shape(),
    "two": Shape(nodes=2),
    "workers": Shape(workers=2),
    "pooled": Shape(nodes=2, pooled=True),
    "clocks": Shape(nodes=2, clocks=True),
    "disk": Shape(nodes=2, database="disk"),
    "standby": Shape(nodes=2, database="standby"),
    "patroni": Shape(nodes=2, database="patroni"),
}


class Node:
    """One server with its cable to Postgres."""

    def __init__(self, name: str, link: Cable, shape: Shape, wall: Wall | None) -> None:
        self.name, self.link, self.wall = name, link, wall
        flags = ["--allow-private-destinations"]
        flags += ["--workers", str(shape.workers)] if shape.workers > 1 else []
        flags += ["--pgbouncer"] if shape.pooled else []
        env = wall.env if wall is not None else {}
        self.server = Server(link.url, *flags, env=env, module="tests.chaos.world.node_process")
        self.free = False  # it runs, and nothing holds it
        self.starts = 0

    async def start(self) -> None:
        """Until it says where it listens."""
        self.starts += 1
        await self.server.start()
        self.free = True

    async def kill(self) -> None:
        """As the kernel does when memory runs out."""
        self.free = False
        await self.server.kill()

    async def stop(self) -> None:
        """By SIGTERM, as an operator does."""
        self.free = False
        await self.server.stop()

    async def ended(self, within_s: float) -> None:
        """By itself, or by a failpoint. Raises AssertionError where it lives on."""
        await self.server.ended(within_s)
        self.free = False

    def arm(self, place: str, passes: int) -> None:
        """It will die at that place."""
        assert self.server.data_dir is not None
        self.free = False
        arm(self.server.data_dir, place, passes)
        os.kill(self.server.pid, SIGNAL)

    def processes(self) -> list[psutil.Process]:
        """The main process and its workers, those that are there."""
        with contextlib.suppress(psutil.Error):
            main = psutil.Process(self.server.pid)
            return [main, *main.children(recursive=True)]
        return []

    @contextlib.asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Nothing of it runs."""
        self.free = False
        with stopped(self.processes()):
            yield
        self.free = True


@contextlib.contextmanager
def stopped(processes: list[psutil.Process]) -> Iterator[None]:
    """None of them runs."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)


@contextlib.asynccontextmanager
async def ends(node: Node) -> AsyncIterator[None]:
    """The process has ended afterwards, in any way."""
    try:
        yield
    finally:
        node.free = False
        with contextlib.redirect_stdout(None):  # what a node has said is shown by who asks for it
            await node.server.__aexit__(None, None, None)
