"""Builds everything, wires it, starts it and stops it. Knows everybody and decides nothing.

The order of the start is the order of the list in `_start`; the stop is that list read backwards: first nobody comes in
any more, then what is pending is committed, then what was committed is judged and written, then the lease is given up.
"""

import asyncio
import secrets
import signal
import socket
from collections.abc import Callable, Sequence

import structlog
import uvloop
from aiohttp import web

from server import __version__, admin_key, greeting, logs
from server.beat import Beat
from server.clock import LogClock
from server.deliver.courier import Courier
from server.deliver.kinds import KINDS
from server.deliver.outbound import Outbound
from server.engine.ping import SECOND, Micros, Ping
from server.errors import DatabaseAway, Unavailable
from server.ingest.doors import Doors
from server.ingest.reading import Outcome, Refusal
from server.ingest.writer import Writer
from server.keep.keeper import Keeper
from server.keep.upkeep import DAYS_AHEAD
from server.loop_lag import LoopLag
from server.metrics import Metrics
from server.provision import Provision
from server.roster import Bound, Roster
from server.service import Service, Stack
from server.settings import Settings, read_service_environment
from server.store.access import load_secret
from server.store.embedded import EmbeddedPostgres
from server.store.machines import DatabaseFacts, read_targets
from server.store.partitions import make_partitions
from server.store.pool import connect, open_pool
from server.store.roster_rows import RosterRows
from server.store.schema import apply_schema
from server.systemd import Systemd
from server.web import api, machines
from server.web.access import Access
from server.web.machines import Check, Machines
from server.web.routes import Deps

DATABASE_RETRY_S = 2.0

log = structlog.get_logger("app")


def serve(settings: Settings) -> int:
    """Run until told to stop; the exit code. Raises OffbeatError where settings or database are wrong."""
    logs.set_up(settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(App(settings).run())


class App(Service):
    """One process that does everything."""

    name = "app"

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.stopping = False
        self.key, self.key_is_new = (
            (settings.admin_key, False) if settings.admin_key else admin_key.stored_or_made(settings.data_dir)
        )
        self.node = socket.gethostname()
        self.metrics = Metrics(__version__, KINDS)
        self.clock = LogClock()
        self.stack = Stack(self._part_died)
        self.systemd = Systemd(read_service_environment(), lambda: not self.stopping)
        self._over: asyncio.Future[str | None]  # None: told to stop; else what has died

    async def run(self) -> int:
        """From start to stop; the exit code. Raises what the start raises."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self._told)
        starting = self.errand(self._start(), "start")
        starting.add_done_callback(self._started)
        try:
            cause = await self._over
        finally:
            self.stopping = True
            self.systemd.stopping()
            await self.cancel_tasks()
            await self.stack.stop(self.settings.stop_timeout)
        if cause is not None:
            log.error("stopped, because a part of the server has died", cause=cause)
        return 0 if cause is None else 1

    def _told(self) -> None:
        if self._over.done():
            log.warning("told twice: ends at once; what was committed is safe")
            signal.raise_signal(signal.SIGKILL)
        else:
            self._over.set_result(None)

    def _part_died(self, cause: str) -> None:
        if not self._over.done():
            self._over.set_result(cause)

    def _started(self, starting: "asyncio.Task[None]") -> None:
        if not starting.cancelled() and (error := starting.exception()) is not None and not self._over.done():
            self._over.set_exception(error)

    # ---------------------------------------------------------------- start

    async def _start(self) -> None:
        settings, metrics, stack = self.settings, self.metrics, self.stack
        await stack.start(self.systemd)
        url = settings.database_url
        if url is None:
            embedded = EmbeddedPostgres(settings.data_dir)
            await stack.start(embedded)
            url = embedded.url
        await self._prepare_database(url)
        self.pool = await open_pool(url, size_max=10, pgbouncer=settings.pgbouncer)

        self.facts = DatabaseFacts(self.pool)
        self.facts.bind(metrics)
        await stack.start(LoopLag(metrics.loop_lagged))
        self.roster = Roster(RosterRows(self.pool))
        await stack.start(self.roster)

        outbound = Outbound(settings, self._now)
        await stack.start(outbound)
        self.courier = Courier(self.pool, outbound, settings, self.node, metrics.delivered)
        self.keeper = Keeper(
            url,
            settings,
            self.clock,
            metrics,
            holder=f"{self.node}/{secrets.token_hex(6)}",
            node=self.node,
            on_decided=self.courier.wake,
        )
        await stack.start(self.keeper)
        self.writer = Writer(
            url,
            settings,
            self.clock,
            metrics,
            node=self.node,
            metrics_address=f"{self.node}:{settings.port}",
            on_committed=lambda entries, through: self.keeper.feed(self.writer.id, entries, through),
            next_deadline=lambda: self.keeper.next_deadline,
            several_writers=lambda: self.keeper.order.others,
        )
        await stack.start(self.writer)
        await stack.start(self.courier)
        self._bind_metrics()

        application = self._application()
        self.doors = Doors(
            settings,
            self.roster,
            self.writer.backlog,
            metrics,
            application,
            Provision(self.pool, self.roster, settings.auto_provision),
        )
        await stack.start(self.doors)
        if settings.beat_url:
            await stack.start(
                Beat(settings.beat_url, settings.beat_every, self._watermark, self.facts.untaken_s)
            )
        self.systemd.ready(f"listening on {self.doors.url}")
        greeting.show(self.doors.url, settings, self.key, self.key_is_new, await load_secret(self.pool))

    async def _prepare_database(self, url: str) -> None:
        """Schema and today's partitions; Postgres away is waited for, whatever else is wrong is said at once."""
        while True:
            try:
                connection = await connect(url, pgbouncer=self.settings.pgbouncer, application_name="offbeat start")
                try:
                    await apply_schema(connection)
                    now = await connection.fetchval("select clock_timestamp()")
                    await make_partitions(connection, now.date(), DAYS_AHEAD)
                finally:
                    await connection.close()
                return
            except DatabaseAway as error:
                log.warning("waiting for Postgres", error=str(error))
                self.systemd.extend(DATABASE_RETRY_S * 5, "waiting for Postgres")
                await asyncio.sleep(DATABASE_RETRY_S)

    def _application(self) -> web.Application:
        """Pages and API for people and programs that manage."""
        application = web.Application(client_max_size=16_000_000)
        access = Access(self.pool, self.key)
        deps = Deps(
            pool=self.pool,
            settings=self.settings,
            access=access,
            now=self._now,
            changed=self._changed,
            append=self._append,
            wake_courier=self.courier.wake,
        )
        api.add_routes(application, deps)
        machines.add_routes(
            application,
            Machines(
                self.metrics,
                self.settings.metrics_token,
                self._checks,
                self.facts.refresh,
                lambda: read_targets(self.pool),
            ),
        )
        return application

    def _bind_metrics(self) -> None:
        """What is read at a scrape."""
        bind, backlog, settings = self.metrics.bind, self.writer.backlog, self.settings
        keeper = self.keeper
        bind("pending_pings", lambda: backlog.pings)
        bind("pending_bytes", lambda: backlog.bytes)
        bind("pending_pings_max", lambda: settings.pings_pending_max)
        bind("pending_bytes_max", lambda: settings.bytes_pending_max)
        bind("batch_rows_max", lambda: settings.batch_pings_max)
        bind("connections_max", lambda: settings.connections_max)
        bind("connections", lambda: self.doors.connections)
        bind("roster_keys", lambda: len(self.roster))
        bind("roster_refreshes", lambda: self.roster.refreshes)
        bind("writer_generation", lambda: self.writer.id)

        def judged(read: Callable[[], float | dict[str, float]]) -> Callable[[], float | dict[str, float] | None]:
            return lambda: read() if keeper.judging else None

        bind("keeper", lambda: float(keeper.judging))
        bind("lease_term", judged(lambda: keeper.lease.held.term if keeper.lease.held else 0))
        bind("watermark_timestamp_seconds", judged(lambda: keeper.engine.now / SECOND))
        bind("monitors", judged(lambda: dict(keeper.engine.desk.counts)))
        bind("monitors_never_heard", judged(lambda: keeper.engine.desk.counts["new"]))
        bind("incidents_open", judged(lambda: keeper.engine.desk.counts["down"]))
        bind("deadlines", judged(lambda: len(keeper.engine.desk.deadlines)))
        bind("self_check_mismatches", judged(lambda: keeper.mismatches))

    # ---------------------------------------------------------------- what is handed over

    def _now(self) -> Micros:
        """Log time."""
        return self.clock.now()

    def _changed(self) -> None:
        """A definition was written by this process."""
        self.keeper.changed()
        self.roster.changed()

    async def _append(self, monitor_id: int, project_id: int, ping: Ping) -> None:
        """A ping from the pages or the API, committed when this returns. Raises Unavailable."""
        waiting = _Waiting(asyncio.get_running_loop().create_future())
        self.writer.backlog.append(Bound(monitor_id, project_id), ping, None, waiting)
        outcome = await waiting.future
        if not isinstance(outcome, Outcome) or outcome.kind != "ok":
            raise Unavailable("the ping may or may not be stored; send it again")

    def _watermark(self) -> Micros | None:
        return self.keeper.engine.now if self.keeper.judging else None

    def _checks(self) -> Sequence[Check]:
        keeper = self.keeper
        facts = self.facts.facts
        return [
            Check("running", not self.stopping, "stopping" if self.stopping else ""),
            Check("keys", self.roster.rev is not None, f"{len(self.roster)} loaded"),
            Check("deadlines", not keeper.loading, "loading" if keeper.loading else ""),
            Check("keeper", keeper.judging, "judges" if keeper.judging else "another process judges", required=False),
            Check("writer", self.writer.backlog.accepting, f"writer {self.writer.id}", required=False),
            Check("postgres", facts is not None, required=False),
        ]


class _Waiting:
    """One who waits for a ping's commit."""

    def __init__(self, future: "asyncio.Future[Outcome | Refusal]") -> None:
        self.future = future

    def settle(self, outcome: Outcome | Refusal) -> None:
        """The ping is committed, or may not be."""
        if not self.future.done():
            self.future.set_result(outcome)
