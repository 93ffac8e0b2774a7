"""One seed's world: server processes, people who use them, and faults.

The seed draws everything. Random values in the code under test come from the same seed.
"""

import asyncio
import random
import traceback
from collections import Counter
from contextlib import suppress
from typing import Any

import asyncpg

from offbeat_server.common.errors import OffbeatError
from tests.simulation.checks.effective import Effective
from tests.simulation.database.sessions import Link, Server
from tests.simulation.database.statements import Statements
from tests.simulation.world.faults import Faults
from tests.simulation.world.loop import VirtualLoop
from tests.simulation.world.node import Node
from tests.simulation.world.people import People
from tests.simulation.world.receivers import Receivers

CLIENTS_S = 16.0  # how long there are pings, edits and faults
ALERTS_S = 120.0  # the longest time until every alert was sent
QUIET_S = 30.0  # the longest time until everything is evaluated


class World:
    """A whole world."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        random.seed(seed)
        self.loop = VirtualLoop()
        self.server = Server(self.loop, self.rng)
        self.tables = Statements(self.server)
        self.wrong = self.tables.wrong
        self.nodes: dict[str, Node] = {}
        self.graveyard: list[Node] = []
        self.acked: list[str] = []
        self.effective = Effective(self.tables, lambda: [node.scheduler for node in self.nodes.values()])
        self.people, self.faults, self.receivers = People(self), Faults(self), Receivers(self)
        self.ended = self.over = False
        self._starts = 0

    def run(self) -> None:
        """From the beginning to the end."""
        self.loop.world = self  # type: ignore[attr-defined]
        self.loop.set_exception_handler(self._failed)
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._live())

    def counts(self) -> Counter[str]:
        """How much has happened."""
        tables = self.tables
        return Counter(
            pings=len(tables.pings),
            changes=len(tables.changes),
            faults=len(self.faults.story),
            incidents=len(tables.incidents),
            alerts=len(tables.outbox.alerts),
            messages=len(self.receivers.arrivals),
            without_alert=sum(1 for _ in self.receivers.without_alert()),
        )

    def boot_again(self, node: Node) -> None:
        """A process of this name, unless there is a newer one already."""
        if self.nodes[node.name] is node:
            self._boot(node.name)

    def _boot(self, name: str) -> None:
        self._starts += 1
        if name in self.nodes:
            self.graveyard.append(self.nodes[name])
        self.nodes[name] = Node(self, name, self._starts)

    async def _live(self) -> None:
        rng = self.rng
        for number in range(rng.choice((1, 2, 2, 3))):
            self.server.links[f"n{number}"] = Link()
            self._boot(f"n{number}")
            await asyncio.sleep(rng.choice((0.0, 0.5)))
        self.people.begin()
        self.loop.create_task(self.faults.strike())
        await asyncio.sleep(CLIENTS_S)
        self.ended = True
        await self._heal()
        await self._settle()
        await self._deliver()
        for node in sorted(self.nodes.values(), key=lambda node: node.scheduler.evaluating):
            await node.spawn(node.stop())
        self.over = True

    async def _heal(self) -> None:
        self.server.up = True
        for _ in range(2):
            for link in self.server.links.values():
                link.request_cut = link.reply_cut = False
                link.loss = link.slow_s = 0.0
            for node in [*self.nodes.values()]:
                node.process.after_steps(1 << 62, lambda: None)
                self.loop.thaw(node.process)
            await asyncio.sleep(9)  # what was begun before has ended too

    async def _settle(self) -> None:
        """Wait until a scheduler has evaluated beyond the last ping, and knows every change."""
        last = max((entry.at for entry in self.tables.pings.values()), default=0)
        revs = len(self.tables.changes)
        for _ in range(int(QUIET_S / 0.25)):
            await asyncio.sleep(0.25)
            for node in self.nodes.values():
                scheduler = node.scheduler
                settled = scheduler.evaluating and scheduler.engine.now > last and scheduler.config_changes.rev >= revs
                if settled and not scheduler.engine.pending_count and not node.writer.backlog.pings:
                    return
        self.wrong.append("no process evaluates deadlines")

    async def _deliver(self) -> None:
        """Wait until every alert was sent."""
        for _ in range(int(ALERTS_S / 0.25)):
            if not any(alert.state == "pending" for alert in self.tables.outbox.alerts.values()):
                break
            await asyncio.sleep(0.25)
        self.receivers.last_alert = len(self.tables.outbox.alerts)

    def _failed(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, OffbeatError | asyncpg.PostgresError):
            trace = "".join(traceback.format_exception(error)[-3:])
            self.wrong.append(f"{context.get('message')}: {trace}")

    def close(self) -> None:
        """Close the coroutines of dead processes, also if they raise."""
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            for _ in range(5):  # a `finally` may await again
                with suppress(BaseException):
                    task.get_coro().close()
                    break
        asyncio.set_event_loop(None)
        self.loop.close()
