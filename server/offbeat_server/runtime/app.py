"""Builds everything, wires it, starts it and stops it. Knows everybody and decides nothing.

One process plays one of three roles: it does everything, or with `--workers N` it is the main process, which judges and
tells, or one of the N that take pings and show pages. What a role is made of is the order of the calls in `_start`; the
stop is that order backwards: first nobody comes in any more, then what is pending is committed, then what was committed
is judged and written, then the lease is given up. Where others wait to judge, the lease is the first thing to go.
"""

import asyncio
import contextlib
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal, TypeVar

import structlog
import uvloop
from aiohttp import web

from offbeat.admin_key import CHARS_MIN
from offbeat_server import __version__
from offbeat_server.committed_batches import CommittedBatches
from offbeat_server.common.clock import ClockJump, LogClock, to_datetime
from offbeat_server.common.errors import DatabaseDownError, DatabaseRefusedError, UnavailableError
from offbeat_server.common.instants import Micros
from offbeat_server.common.service import Service, Stack, forever
from offbeat_server.config import Settings, read_service_environment
from offbeat_server.db import embedded
from offbeat_server.db.partitions import make_partitions
from offbeat_server.db.pool import Pool, connect, database_trouble, has_several_hosts, look_for_primary, open_pool
from offbeat_server.db.read_models.processes import DatabaseFacts, read_targets
from offbeat_server.db.repositories import admin_key
from offbeat_server.db.repositories.access import load_secret
from offbeat_server.db.repositories.key_index_rows import KeyIndexRows
from offbeat_server.db.repositories.lease import end_stuck_sessions
from offbeat_server.db.repositories.scheduler_rows import now
from offbeat_server.db.schema import apply_schema
from offbeat_server.engine.model.ping import Ping
from offbeat_server.ingest.http.aiohttp_bridge import PendingOutcome
from offbeat_server.ingest.http.client_address import ClientAddresses
from offbeat_server.ingest.http.http_servers import HttpServers
from offbeat_server.ingest.key_index import KeyIndex, KeyTarget
from offbeat_server.ingest.log_writer.writer import LogWriter
from offbeat_server.ingest.protocols.base import Outcome
from offbeat_server.ingest.provisioning import Provisioning
from offbeat_server.notify.channels.registry import KINDS
from offbeat_server.notify.dispatcher import Dispatcher
from offbeat_server.notify.transport.http import Transport
from offbeat_server.observability import logging
from offbeat_server.observability.loop_lag import LoopLag
from offbeat_server.observability.metrics import Metrics
from offbeat_server.observability.metrics_server import MetricsServer
from offbeat_server.observability.watchdog import OutboundWatchdog
from offbeat_server.runtime import banner, fd_limit
from offbeat_server.runtime.metrics_bindings import bind_ingest, bind_scheduler, bind_watchdog
from offbeat_server.runtime.sockets import bind_socket, seen_from_outside
from offbeat_server.runtime.systemd import Systemd
from offbeat_server.runtime.workers import WorkerProcesses
from offbeat_server.scheduler.retention import DAYS_AHEAD
from offbeat_server.scheduler.scheduler import Scheduler
from offbeat_server.scheduler.self_check import SelfCheck
from offbeat_server.scheduler.stuck_sessions import StuckSessionReaper
from offbeat_server.web.api import routes
from offbeat_server.web.api.config_apply import apply_file
from offbeat_server.web.framework.access import Access
from offbeat_server.web.framework.routing import Deps
from offbeat_server.web.ops import probes
from offbeat_server.web.ops.probes import Check, Ops
from offbeat_server.web.ui.routes import add_routes as add_pages

DATABASE_RETRY_S = 2.0
CLOCK_EVERY_S = 2.0
PRIMARY_EVERY_S = 5.0  # how soon a process notices that another host of --database-url was promoted
HANDOVER_S_MAX = 2.0  # of the right to judge, where others wait for it
Role = Literal["all", "main", "worker"]
T = TypeVar("T")

log = structlog.get_logger("app")


def serve(settings: Settings, warnings: Sequence[str] = ()) -> int:
    """Run until told to stop; the exit code. `warnings` are logged first.

    Raises OffbeatError if settings or database are wrong.
    """
    logging.set_up(settings.log_format, settings.log_level)
    for warning in warnings:
        log.warning("app.settings_warning", detail=warning)
    if settings.database_url is None:
        embedded.require()
    role: Role = "all" if settings.workers == 1 else "main"
    return run(App(settings, role), settings)


def run(app: "App", settings: Settings) -> int:
    """One role from start to stop."""
    logging.set_up(settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(app.run())


class App(Service):
    """One process. `listen_on` is the socket that a worker inherits."""

    name = "app"

    def __init__(self, settings: Settings, role: Role, listen_on: socket.socket | None = None) -> None:
        super().__init__()
        self.settings, self.role, self.listen_on = settings, role, listen_on
        self.stopping = False
        self.node = socket.gethostname()
        self.metrics = Metrics(__version__, KINDS)
        self.clock = LogClock()
        self.committed = CommittedBatches()
        self.stack = Stack(self._part_died)
        self.systemd = Systemd(read_service_environment(), lambda: not self.stopping)
        self.scheduler: Scheduler | None = None
        self.dispatcher: Dispatcher | None = None
        self.log_writer: LogWriter | None = None
        self.key_index: KeyIndex | None = None
        self.scarce = ""  # what to do about too few file descriptors
        self._over: asyncio.Future[str | None]  # None: told to stop; else what has died

    async def run(self) -> int:
        """From start to stop; the exit code. Raises what the start raises."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self.told)
        starting = self.errand(self._start(), "start")
        starting.add_done_callback(self._started)
        try:
            cause = await self._over
        finally:
            self.stopping = True
            self.systemd.stopping()
            await self.cancel_tasks()
            await self._stop()
        if cause is not None:
            log.error("app.stopped_after_failure", cause=cause)
        return 0 if cause is None else 1

    async def _stop(self) -> None:
        """`/readyz` says 503 from here on, so whoever routes to us can leave before the doors close."""
        delay_s, bound_s = self.settings.drain_delay, self.settings.stop_timeout
        self.systemd.extend(HANDOVER_S_MAX + delay_s + bound_s, "stopping")
        if self.scheduler is not None and self.scheduler.others_wait:
            # Else they would wait for the slowest of our clients: the doors and the writer have seconds for theirs.
            # What is committed meanwhile, whoever judges next follows in the log.
            await self.stack.stop_early(self.scheduler, HANDOVER_S_MAX)
        if self.role == "main":
            bound_s += delay_s  # its workers take it
        else:
            await asyncio.sleep(delay_s)
        await self.stack.stop(bound_s)

    def told(self) -> None:
        """Told to stop; told twice, to stop at once."""
        if not self._over.done():
            self._over.set_result(None)
        elif self.stopping:
            log.warning("app.exiting_now", reason="second stop signal", detail="committed pings are safe")
            signal.raise_signal(signal.SIGKILL)

    def _part_died(self, cause: str) -> None:
        if not self._over.done():
            self._over.set_result(cause)

    def _started(self, starting: "asyncio.Task[None]") -> None:
        if not starting.cancelled() and (error := starting.exception()) is not None and not self._over.done():
            self._over.set_exception(error)

    # ---------------------------------------------------------------- start

    async def _start(self) -> None:
        if self.role != "main":
            self._make_room()
        given = self.settings.admin_key
        if self.role != "worker" and given and len(given) < CHARS_MIN:
            log.warning("app.admin_key_short", chars_min=CHARS_MIN, detail="a short key can be guessed")
        await self.stack.start(self.systemd)
        url = await self._open_database()
        pgbouncer = self.settings.pgbouncer
        pool = self.pool = await self._patiently(lambda: open_pool(url, size_max=10, pgbouncer=pgbouncer))
        self.admin_key = await self._patiently(lambda: admin_key.agreed(pool, given, self.settings.data_dir, self.node))
        await self._patiently(self._read_clock)  # the dispatcher asks what time it is before there is a writer
        if has_several_hosts(url):
            self.spawn(forever(partial(self._look_for_primary, url), PRIMARY_EVERY_S), "look for the primary")
        self.facts = DatabaseFacts(pool)
        self.facts.bind(self.metrics)
        await self.stack.start(LoopLag(self.metrics.loop_lagged))
        if self.settings.config is not None and self.role != "worker":
            applied = await apply_file(self._deps(), self.settings.config)
            log.info("app.config_applied", file=str(self.settings.config), changes=len(applied["changes"]))
        if self.role != "worker":
            await self._start_scheduler(pool, url)
        if self.role == "main":
            self.spawn(forever(self._follow_clock, CLOCK_EVERY_S), "clock")
            listening = await self._start_workers(url)
        else:
            listening = await self._start_ingest(pool, url)
        self.systemd.ready(f"listening on {listening}")
        if self.role != "worker":
            banner.show(listening, self.settings, self.admin_key, await load_secret(pool))

    def _make_room(self) -> None:
        """For the connections that the settings allow; where they do not fit, fewer are allowed."""
        wanted = self.settings.connections_max
        room = fd_limit.make_room(wanted)
        if room.connections_max < wanted:
            self.scarce = fd_limit.advice(room.limit, wanted)
            log.warning("app.descriptors_scarce", detail=self.scarce, connections_max=room.connections_max)
            self.settings = self.settings.model_copy(update={"connections_max": room.connections_max})

    async def _open_database(self) -> str:
        """Where it is, with its schema and today's partitions. Postgres away is waited for."""
        url = self.settings.database_url
        if url is None:
            from offbeat_server.db.embedded.postgres import EmbeddedPostgres

            postgres = EmbeddedPostgres(self.settings.data_dir)
            await self.stack.start(postgres)
            url = postgres.url
        if self.role != "worker":
            await self._patiently(partial(self._prepare_database, url))
        return url

    async def _prepare_database(self, url: str) -> None:
        connection = await connect(url, pgbouncer=self.settings.pgbouncer, application_name="offbeat start")
        try:
            await end_stuck_sessions(connection)  # another start, which would hold the schema's lock
            await apply_schema(connection)
            await make_partitions(connection, to_datetime(await now(connection)).date(), DAYS_AHEAD)
        finally:
            connection.terminate()

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """Take a step of the start that needs Postgres, and wait while it is away.

        Raises what says that the settings cannot work; a worker waits then too, since they did for the main process.
        """
        while True:
            try:
                return await step()
            except DatabaseDownError as error:
                if isinstance(error, DatabaseRefusedError) and self.role != "worker":
                    raise
                log.warning("app.waiting_for_postgres", error=str(error))
                self.systemd.extend(DATABASE_RETRY_S * 5, "waiting for Postgres")
                await asyncio.sleep(DATABASE_RETRY_S)

    async def _look_for_primary(self, url: str) -> None:
        with contextlib.suppress(DatabaseDownError):
            await look_for_primary(url, pgbouncer=self.settings.pgbouncer)

    async def _start_scheduler(self, pool: Pool, url: str) -> None:
        """The keeper and the dispatcher."""
        settings, metrics = self.settings, self.metrics
        await self.stack.start(StuckSessionReaper(url, settings))
        transport = Transport(settings, self.clock.now)
        await self.stack.start(transport)
        dispatcher = self.dispatcher = Dispatcher(pool, transport, settings, self.node, metrics.delivered)
        metrics_address = None  # a process that takes pings is found at its writer's
        if self.role == "main":
            page = await self._start_metrics_page()  # the scheduler writes its address with the lease
            metrics_address = seen_from_outside(settings.host, self.node, page.port)
        scheduler = self.scheduler = Scheduler(
            url,
            settings,
            self.clock,
            metrics,
            self.committed,
            holder=f"{self.node}/{secrets.token_hex(6)}",
            node=self.node,
            metrics_address=metrics_address,
            on_decided=dispatcher.wake,
        )
        # Stopped in the other order: whoever judges next does not wait for a receiver that hangs.
        await self.stack.start(dispatcher)
        await self.stack.start(scheduler)
        self_check = SelfCheck(pool, scheduler)
        await self.stack.start(self_check)
        bind_scheduler(metrics, scheduler, self_check)
        if settings.watchdog_url:
            watchdog = OutboundWatchdog(
                settings.watchdog_url, settings.watchdog_every, self._watermark, self.facts.untaken_s
            )
            await self.stack.start(watchdog)
            bind_watchdog(metrics, watchdog)

    async def _start_ingest(self, pool: Pool, url: str) -> str:
        """Start the key index, the writer and the HTTP servers. Return the address at which they listen."""
        settings, metrics, clock = self.settings, self.metrics, self.clock
        key_index = self.key_index = KeyIndex(KeyIndexRows(pool))
        await self.stack.start(key_index)
        listen_on = self.listen_on or bind_socket(settings.host, settings.port)
        own_port = None
        if self.role == "worker":  # the port that all share leads Prometheus to any of them, so each has one of its own
            own_port = (await self._start_metrics_page()).port
        writer = self.log_writer = LogWriter(
            url,
            settings,
            clock,
            metrics,
            node=self.node,
            metrics_address=seen_from_outside(settings.host, self.node, own_port or listen_on.getsockname()[1]),
            committed=self.committed,
            on_lost=key_index.forget,
        )
        await self.stack.start(writer)
        http_servers = HttpServers(
            settings,
            key_index,
            writer.backlog,
            metrics,
            self._application(),
            Provisioning(pool, key_index, settings.auto_provision, settings.provisioned_max),
            listen_on=listen_on,
        )
        await self.stack.start(http_servers)
        bind_ingest(metrics, settings, writer, key_index, http_servers)
        return http_servers.url

    async def _start_workers(self, url: str) -> str:
        """The processes that take pings; where they listen."""
        workers = WorkerProcesses(self.settings, url)
        await self.stack.start(workers)
        return workers.url

    async def _start_metrics_page(self) -> MetricsServer:
        """A page for Prometheus on a port that no other process shares."""
        page = MetricsServer(self._application(ops_only=True), self.settings.host, self.settings.metrics_port)
        await self.stack.start(page)
        return page

    def _application(self, ops_only: bool = False) -> web.Application:
        """Pages and API for people and programs that manage."""
        application = web.Application(client_max_size=16_000_000)
        pages = Ops(
            self.metrics,
            self.settings.metrics_token,
            self._checks,
            self.facts.refresh,
            lambda: read_targets(self.pool),
        )
        probes.add_routes(application, pages)
        if not ops_only:
            deps = self._deps()
            routes.add_routes(application, deps)
            add_pages(application, deps)
        return application

    def _deps(self) -> Deps:
        """What pages and API are handed."""
        return Deps(
            pool=self.pool,
            settings=self.settings,
            access=Access(self.pool, self.admin_key.hash, ClientAddresses(self.settings.trusted_proxies)),
            now=self.clock.now,
            changed=self._changed,
            append=self._append,
            wake_dispatcher=self._wake_dispatcher,
        )

    # ---------------------------------------------------------------- what is handed over

    def _changed(self) -> None:
        """A definition was written by this process."""
        if self.scheduler is not None:
            self.scheduler.wake()
        if self.key_index is not None:
            self.key_index.changed()

    def _wake_dispatcher(self) -> None:
        if self.dispatcher is not None:
            self.dispatcher.wake()

    async def _append(self, monitor_id: int, project_id: int, ping: Ping) -> None:
        """A ping from the pages or the API, committed when this returns. Raises UnavailableError."""
        assert self.log_writer is not None
        waiting = PendingOutcome()
        self.log_writer.backlog.append(KeyTarget(monitor_id, project_id), ping, None, waiting)
        outcome = await waiting.outcome
        if not isinstance(outcome, Outcome) or outcome.kind != "ok":
            raise UnavailableError("the ping may or may not be stored; send it again")

    async def _follow_clock(self) -> None:
        """Keep the clock true in a process that has no writer to do it."""
        with contextlib.suppress(DatabaseDownError):
            await self._read_clock()

    async def _read_clock(self) -> None:
        with database_trouble():
            async with self.pool.acquire() as connection:
                before = self.clock.local()
                database, after = await now(connection), self.clock.local()
        try:
            self.clock.sample(before, database, after)
        except ClockJump:
            self.clock.restart(before, database, after)

    def _watermark(self) -> Micros | None:
        return self.scheduler.engine.now if self.scheduler is not None and self.scheduler.evaluating else None

    def _checks(self) -> Sequence[Check]:
        checks = [Check("running", not self.stopping, "stopping" if self.stopping else "")]
        if self.facts.asked:
            checks.append(Check("postgres", self.facts.facts is not None, required=False))
        if self.scarce:
            checks.append(Check("descriptors", False, self.scarce, required=False))
        if self.key_index is not None:
            checks.append(Check("keys", self.key_index.rev is not None, f"{len(self.key_index)} loaded"))
        if self.log_writer is not None:
            checks.append(
                Check("writer", self.log_writer.backlog.accepting, f"writer {self.log_writer.id}", required=False)
            )
        if (scheduler := self.scheduler) is not None:
            checks.append(Check("deadlines", not scheduler.loading, "loading" if scheduler.loading else ""))
            checks.append(
                Check("keeper", scheduler.evaluating, "judges" if scheduler.evaluating else "does not", required=False)
            )
        return checks
