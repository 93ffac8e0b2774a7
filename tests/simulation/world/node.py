"""A server process of a simulated installation: the real writer and scheduler on a clock that drifts."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from offbeat_server.committed_batches import CommittedBatches
from offbeat_server.common.clock import LogClock
from offbeat_server.config import Settings
from offbeat_server.ingest.log_writer.writer import LogWriter
from offbeat_server.ingest.protocols.base import OK
from offbeat_server.notify.dispatcher import Dispatcher
from offbeat_server.scheduler.scheduler import Scheduler
from tests.simulation.database.outbox import Pool
from tests.simulation.world.loop import PROCESS, Process
from tests.simulation.world.receivers import WayOut
from tests.simulation.world.substitution import connect

if TYPE_CHECKING:
    from tests.simulation.world.world import World

SETTINGS = Settings(writer_silent_max=1.0, commit_timeout=3.0)


class Silent:
    """Metrics without a reader."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


class Node:
    """One start of a process on one machine, and its way to the database."""

    def __init__(self, world: "World", name: str, start: int) -> None:
        self.world, self.name = world, name
        self.process = Process(f"{name}.{start}")
        self.process.node = self  # type: ignore[attr-defined]
        loop = world.loop
        offset_s, drift = world.rng.uniform(0, 1e6), world.rng.uniform(-1e-4, 1e-4)
        self.clock = LogClock(lambda: int((loop.time() * (1 + drift) + offset_s) * 1e9))
        metrics: Any = Silent()
        way_out: Any = WayOut(world.receivers, self)
        pool: Any = Pool(lambda: connect(name, application_name="offbeat"))
        self.dispatcher = Dispatcher(pool, way_out, SETTINGS, name, draw=world.rng.random)
        self.dispatcher.lease_s, self.dispatcher.life_s, self.dispatcher.pulse_s = 3.0, 3.0, 1.0
        self.dispatcher.flapping.hold_s = 1.0
        committed = CommittedBatches()
        self.scheduler = Scheduler(
            name,
            SETTINGS,
            self.clock,
            metrics,
            committed,
            holder=self.process.name,
            node=name,
            on_decided=self.dispatcher.wake,
        )
        self.writer = LogWriter(
            name,
            SETTINGS,
            self.clock,
            metrics,
            node=name,
            metrics_address=None,
            committed=committed,
        )
        self.scheduler.on_death = self.writer.on_death = self.dispatcher.on_death = self._died
        self.stopping = False
        self.spawn(self._start())

    @property
    def runs(self) -> bool:
        """Whether it can be reached."""
        return not (self.process.dead or self.process.frozen)

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """A task of this process."""
        context = copy_context()
        context.run(PROCESS.set, self.process)
        return self.world.loop.create_task(work, context=context)

    async def _start(self) -> None:
        await self.scheduler.start()
        await self.dispatcher.start()
        await self.writer.start()

    async def stop(self) -> None:
        """As the server stops: the writer's last batch first."""
        self.stopping = True
        await self.writer.stop()
        await self.dispatcher.stop()
        await self.scheduler.stop()
        self.process.dead = True

    def crash(self) -> None:
        """Nothing more runs; the server notices sooner or later."""
        self.process.dead = True
        server = self.world.server
        notice_s = server.rng.choice((0.0, 0.02, 5.0))
        for session in [s for s in server.sessions.values() if s.process is self.process]:
            server.later(notice_s, lambda session=session: server.end(session))  # type: ignore[misc]

    def _died(self, name: str, error: BaseException | None) -> None:
        self.world.wrong.append(f"{self.process.name}: {name} died of {error!r}")


class Client:
    """Waits for the answer to one ping."""

    def __init__(self, world: "World", token: str) -> None:
        self._world, self._token = world, token

    def settle(self, outcome: Any) -> None:
        """The answer."""
        if outcome is OK:
            self._world.acked.append(self._token)
