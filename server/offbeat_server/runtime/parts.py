"""The parts of a process: each method starts one and connects it to the others. `builders.py` chooses the order.

This module knows every part and decides nothing.
"""

import asyncio
import contextlib
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from functools import partial
from typing import TypeVar

import structlog
from aiohttp import web

from offbeat.admin_key import CHARS_MIN
from offbeat_server import __version__
from offbeat_server.committed_batches import CommittedBatches
from offbeat_server.common.clock import LogClock
from offbeat_server.common.errors import DatabaseDownError, UnavailableError
from offbeat_server.common.instants import Micros
from offbeat_server.common.service import Service, Stack, forever
from offbeat_server.config import Settings, read_service_environment
from offbeat_server.db.pool import Pool, check_url, has_several_hosts, look_for_primary, open_pool
from offbeat_server.db.read_models.processes import DatabaseFacts, read_targets
from offbeat_server.db.repositories import shared_admin_key
from offbeat_server.db.repositories.access import load_secret
from offbeat_server.db.repositories.key_index_rows import KeyIndexRows
from offbeat_server.engine.model.ping import Ping
from offbeat_server.ingest.http.aiohttp_bridge import PendingOutcome
from offbeat_server.ingest.http.client_address import ClientAddresses
from offbeat_server.ingest.http.http_servers import HttpServers
from offbeat_server.ingest.key_index import KeyIndex, KeyTarget
from offbeat_server.ingest.log_writer.writer import LogWriter
from offbeat_server.ingest.protocols.base import Outcome
from offbeat_server.ingest.provisioning import Provisioning
from offbeat_server.notify.channels.registry import KINDS, Kinds
from offbeat_server.notify.dispatcher import Dispatcher
from offbeat_server.notify.transport.http_client import Transport
from offbeat_server.notify.transport.smtp import read_ehlo, read_mail_server
from offbeat_server.observability.loop_lag import LoopLag
from offbeat_server.observability.metrics import Metrics
from offbeat_server.observability.metrics_server import MetricsServer
from offbeat_server.observability.watchdog import OutboundWatchdog
from offbeat_server.runtime import banner, fd_limit
from offbeat_server.runtime.database_start import prepare_database, sample_clock, wait_for_postgres
from offbeat_server.runtime.metrics_bindings import bind_ingest, bind_scheduler, bind_watchdog
from offbeat_server.runtime.sockets import seen_from_outside
from offbeat_server.runtime.systemd import Systemd
from offbeat_server.runtime.workers import WorkerProcesses
from offbeat_server.scheduler.scheduler import Scheduler
from offbeat_server.scheduler.self_check import SelfCheck
from offbeat_server.scheduler.stuck_sessions import StuckSessionReaper
from offbeat_server.services.config_apply import ApplyBody, apply_file, read_file
from offbeat_server.services.context import Context
from offbeat_server.web.api import routes
from offbeat_server.web.framework.authorization import Access
from offbeat_server.web.framework.routing import Deps
from offbeat_server.web.ops import probes
from offbeat_server.web.ops.probes import Check, Ops
from offbeat_server.web.ui.routes import add_routes as add_pages

CLOCK_EVERY_S = 2.0
PRIMARY_EVERY_S = 5.0  # how soon a process notices that another host of --database-url was promoted

T = TypeVar("T")

log = structlog.get_logger("parts")


class Role(StrEnum):
    """The work of one process; `builders.py` has a builder for each.

    `offbeat serve` is one process, or with `--workers N` one main process and N workers.
    """

    ALL = "all"  # everything
    MAIN = "main"  # evaluates deadlines, sends alerts, starts the workers
    WORKER = "worker"  # takes pings, serves pages and API


class Parts(Service):
    """The parts of one process. `on_death` gets the name of a part that has failed; `request_stop` ends the process."""

    name = "parts"

    def __init__(
        self, settings: Settings, role: Role, on_death: Callable[[str], None], request_stop: Callable[[], None]
    ) -> None:
        super().__init__()
        self.settings, self.role, self._request_stop = settings, role, request_stop
        self.stopping = False
        self.node = socket.gethostname()
        self.metrics = Metrics(__version__, KINDS)
        self.clock = LogClock()
        self.stack = Stack(on_death)
        self.systemd = Systemd(read_service_environment(), lambda: not self.stopping)
        self.committed = CommittedBatches()
        self.scheduler: Scheduler | None = None
        self.dispatcher: Dispatcher | None = None
        self.log_writer: LogWriter | None = None
        self.key_index: KeyIndex | None = None
        self._scarce = ""  # what to do about too few file descriptors
        self._config: ApplyBody | None = None  # the file of `--config`, until it is applied
        self._url: str
        self._pool: Pool
        self._facts: DatabaseFacts
        self._admin_key: shared_admin_key.AdminKey
        self._transport: Transport

    # ---------------------------------------------------------------- for every role

    def fit_descriptors(self) -> None:
        """Raise the limit of file descriptors for the connections of the settings, or allow fewer connections."""
        wanted = self.settings.connections_max
        room = fd_limit.make_room(wanted)
        if room.connections_max < wanted:
            self._scarce = fd_limit.advice(room.limit, wanted)
            log.warning("parts.descriptors_scarce", detail=self._scarce, connections_max=room.connections_max)
            self.settings = self.settings.model_copy(update={"connections_max": room.connections_max})

    async def check_settings(self) -> None:
        """Check URLs and the file of `--config` before the start waits for Postgres. Raises SettingsError.

        Warn of an admin key that can be guessed.
        """
        settings = self.settings
        if settings.admin_key and len(settings.admin_key) < CHARS_MIN:
            log.warning("parts.admin_key_short", chars_min=CHARS_MIN, detail="a short key can be guessed")
        if settings.database_url is not None:
            check_url(settings.database_url)
        if settings.smtp_url:
            read_mail_server(settings.smtp_url)
        read_ehlo(settings.smtp_ehlo)
        if settings.config is not None:
            self._config = await read_file(settings.config)

    async def open_database(self) -> None:
        """Find the database; without `--database-url` start the embedded Postgres."""
        url = self.settings.database_url
        if url is None:
            from offbeat_server.db.embedded.postgres import EmbeddedPostgres

            postgres = EmbeddedPostgres(self.settings.data_dir)
            await self.stack.start(postgres)
            url = postgres.url
        self._url = url

    async def prepare_database(self) -> None:
        """Bring the schema up to date and make the partitions of the next days."""
        await self._patiently(partial(prepare_database, self._url, pgbouncer=self.settings.pgbouncer))

    async def connect(self) -> None:
        """Open the pool; agree on the admin key; read the database's clock; begin to measure the event loop."""
        settings, url = self.settings, self._url
        pool = self._pool = await self._patiently(lambda: open_pool(url, size_max=10, pgbouncer=settings.pgbouncer))
        self._admin_key = await self._patiently(
            lambda: shared_admin_key.agreed(pool, settings.admin_key, settings.data_dir, self.node)
        )
        # The dispatcher asks what time it is before there is a writer.
        await self._patiently(lambda: sample_clock(self.clock, pool))
        if has_several_hosts(url):
            self.spawn(forever(self._look_for_primary, PRIMARY_EVERY_S), "look for the primary")
        self._facts = DatabaseFacts(pool)
        self._facts.bind(self.metrics)
        await self.stack.start(LoopLag(self.metrics.loop_lagged))

    async def start_metrics_server(self) -> int:
        """Serve metrics and probes on a port that no other process shares; return the port."""
        server = MetricsServer(self._application(ops_only=True), self.settings.host, self.settings.metrics_port)
        await self.stack.start(server)
        return server.port

    # ---------------------------------------------------------------- to evaluate and to notify

    async def apply_config(self) -> None:
        """Apply the file of `--config`, if one is given."""
        if self.settings.config is not None and self._config is not None:
            applied = await apply_file(self._context(), self.settings.config, self._config)
            self._config = None  # it may be large
            log.info("parts.config_applied", file=str(self.settings.config), changes=len(applied.changes))

    async def start_transport(self) -> None:
        """Start what ends stuck sessions, and the transport of alerts."""
        await self.stack.start(StuckSessionReaper(self._url, self.settings))
        self._transport = Transport(self.settings, self.clock.now)
        await self.stack.start(self._transport)

    async def start_dispatcher(self) -> None:
        """Start the dispatcher. It stops after the scheduler: the next scheduler must not wait for a slow receiver."""
        self.dispatcher = Dispatcher(self._pool, self._transport, self.settings, self.node, self.metrics.delivered)
        await self.stack.start(self.dispatcher)

    async def start_scheduler(self, metrics_port: int | None = None) -> None:
        """Start the scheduler, the self-check and the outbound watchdog.

        `metrics_port`: where Prometheus finds this process, if it has no log writer, which would say so.
        """
        assert self.dispatcher is not None
        settings, metrics = self.settings, self.metrics
        scheduler = self.scheduler = Scheduler(
            self._url,
            settings,
            self.clock,
            metrics,
            self.committed,
            holder=f"{self.node}/{secrets.token_hex(6)}",
            node=self.node,
            metrics_address=None if metrics_port is None else seen_from_outside(settings.host, self.node, metrics_port),
            on_decided=self.dispatcher.wake,
        )
        await self.stack.start(scheduler)
        self_check = SelfCheck(self._pool, scheduler)
        await self.stack.start(self_check)
        bind_scheduler(metrics, scheduler, self_check)
        if settings.watchdog_url:
            watchdog = OutboundWatchdog(
                settings.watchdog_url, settings.watchdog_every, self._watermark, self._facts.untaken_s
            )
            await self.stack.start(watchdog)
            bind_watchdog(metrics, watchdog)

    async def start_workers(self) -> str:
        """Start the worker processes; return the address at which they listen."""
        workers = WorkerProcesses(self.settings, self._url)
        await self.stack.start(workers)
        return workers.url

    def follow_clock(self) -> None:
        """Keep the clock true in a process that has no log writer to do it."""
        self.spawn(forever(self._sample_clock, CLOCK_EVERY_S), "clock")

    async def show_banner(self, address: str) -> None:
        """Print where the server listens, the admin key if it is new, and what to try."""
        banner.show(address, self.settings, self._admin_key, await load_secret(self._pool))

    # ---------------------------------------------------------------- to take pings, to serve pages and API

    async def start_key_index(self) -> None:
        """Load the keys of all monitors."""
        self.key_index = KeyIndex(KeyIndexRows(self._pool))
        await self.stack.start(self.key_index)

    async def start_log_writer(self, metrics_port: int) -> None:
        """Start the log writer, which registers `metrics_port` for Prometheus."""
        assert self.key_index is not None
        self.log_writer = LogWriter(
            self._url,
            self.settings,
            self.clock,
            self.metrics,
            node=self.node,
            metrics_address=seen_from_outside(self.settings.host, self.node, metrics_port),
            committed=self.committed,
            on_lost=self.key_index.forget,
        )
        await self.stack.start(self.log_writer)

    async def start_http_servers(self, listen_on: socket.socket) -> str:
        """Accept connections; return the address at which the servers listen."""
        assert self.key_index is not None and self.log_writer is not None
        settings, key_index, writer = self.settings, self.key_index, self.log_writer
        http_servers = HttpServers(
            settings,
            key_index,
            writer.backlog,
            self.metrics,
            self._application(),
            Provisioning(self._pool, key_index, settings.auto_provision, settings.provisioned_max),
            listen_on=listen_on,
        )
        await self.stack.start(http_servers)
        bind_ingest(self.metrics, settings, writer, key_index, http_servers)
        return http_servers.url

    def follow_main_process(self) -> None:
        """Stop this worker when its main process ends: the pipe at standard input is then closed."""
        self.spawn(self._wait_for_main_process(), "watch the main process")

    # ---------------------------------------------------------------- pages, API, probes

    def _application(self, ops_only: bool = False) -> web.Application:
        """Pages and API for people and programs that manage; `ops_only`: probes and metrics alone."""
        application = web.Application(client_max_size=16_000_000)
        ops = Ops(
            self.metrics,
            self.settings.metrics_token,
            self._checks,
            self._facts.refresh,
            lambda: read_targets(self._pool),
        )
        probes.add_routes(application, ops)
        if not ops_only:
            deps = self._deps()
            routes.add_routes(application, deps)
            add_pages(application, deps)
        return application

    def _deps(self) -> Deps:
        """The parts that pages and the API need."""
        access = Access(self._pool, self._admin_key.hash, ClientAddresses(self.settings.trusted_proxies))
        return Deps(self._context(), self.settings, access)

    def _context(self) -> Context:
        """The parts that the use cases need."""
        return Context(
            pool=self._pool,
            now=self.clock.now,
            changed=self._definition_changed,
            append=self._append,
            wake_dispatcher=self._wake_dispatcher,
            channel_kinds=Kinds(),
        )

    def _definition_changed(self) -> None:
        """A definition was written by this process."""
        if self.scheduler is not None:
            self.scheduler.wake()
        if self.key_index is not None:
            self.key_index.changed()

    def _wake_dispatcher(self) -> None:
        if self.dispatcher is not None:
            self.dispatcher.wake()

    async def _append(self, monitor_id: int, project_id: int, ping: Ping) -> None:
        """Append a ping from the pages or the API, committed when this returns. Raises UnavailableError."""
        assert self.log_writer is not None
        waiting = PendingOutcome()
        self.log_writer.backlog.append(KeyTarget(monitor_id, project_id), ping, None, waiting)
        outcome = await waiting.outcome
        if not isinstance(outcome, Outcome) or outcome.kind != "ok":
            raise UnavailableError("the ping may or may not be stored; send it again")

    def _watermark(self) -> Micros | None:
        return self.scheduler.engine.now if self.scheduler is not None and self.scheduler.evaluating else None

    def _checks(self) -> Sequence[Check]:
        """The checks of `/readyz`."""
        checks = [Check("running", not self.stopping, "stopping" if self.stopping else "")]
        if self._facts.was_queried:
            checks.append(Check("postgres", self._facts.facts is not None, required=False))
        if self._scarce:
            checks.append(Check("descriptors", False, self._scarce, required=False))
        if self.key_index is not None:
            checks.append(Check("keys", self.key_index.rev is not None, f"{len(self.key_index)} loaded"))
        if (writer := self.log_writer) is not None:
            checks.append(Check("writer", writer.backlog.accepting, f"writer {writer.id}", required=False))
        if (scheduler := self.scheduler) is not None:
            checks.append(Check("deadlines", not scheduler.loading, "loading" if scheduler.loading else ""))
            detail = "evaluates deadlines" if scheduler.evaluating else "does not evaluate deadlines"
            checks.append(Check("scheduler", scheduler.evaluating, detail, required=False, former_name="keeper"))
        return checks

    # ---------------------------------------------------------------- the database

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        return await wait_for_postgres(step, self.systemd, retry_refused=self.role is Role.WORKER)

    async def _look_for_primary(self) -> None:
        with contextlib.suppress(DatabaseDownError):
            await look_for_primary(self._url, pgbouncer=self.settings.pgbouncer)

    async def _sample_clock(self) -> None:
        with contextlib.suppress(DatabaseDownError):
            await sample_clock(self.clock, self._pool)

    async def _wait_for_main_process(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await reader.read()
        self._request_stop()
        await asyncio.Event().wait()  # until it is cancelled: for a Service an end by itself would be a failure
