"""The pages for programs, the outside watchdog, systemd's protocol and the log lines."""

import asyncio
import itertools
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import generate_latest
from pytest_aiohttp import AiohttpClient, AiohttpServer

from offbeat_server.committed_batches import CommittedBatches
from offbeat_server.common.clock import LogClock
from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.config import ServiceEnvironment, Settings
from offbeat_server.db.pool import open_pool
from offbeat_server.db.read_models.processes import DatabaseFacts, ScrapeTarget, read_targets
from offbeat_server.ingest.http.http_servers import HttpServers
from offbeat_server.ingest.key_index import KeyIndex
from offbeat_server.ingest.log_writer.writer import LogWriter
from offbeat_server.observability.loop_lag import LoopLag
from offbeat_server.observability.metrics import Metrics
from offbeat_server.observability.watchdog import UNTAKEN_S_MAX, OutboundWatchdog
from offbeat_server.runtime.metrics_bindings import bind_ingest, bind_scheduler, bind_watchdog
from offbeat_server.runtime.systemd import Systemd
from offbeat_server.scheduler.scheduler import Scheduler
from offbeat_server.scheduler.self_check import SelfCheck
from offbeat_server.web.ops.probes import Check, Ops, add_routes
from tests.support.harness import HANG_S, Postgres


class World:
    """The values of the pages in these tests."""

    def __init__(self, token: str | None = None) -> None:
        self.metrics = Metrics("9.9")
        self.checks = [Check("deadlines", True, "3 loaded"), Check("serving", True)]
        self.checks.append(Check("postgres", True, required=False))
        self.targets: list[ScrapeTarget] | None = [ScrapeTarget("10.0.0.1:8080", 4, "alpha")]
        self.refreshed = 0
        self.app = web.Application()
        add_routes(self.app, Ops(self.metrics, token, lambda: self.checks, self._refresh, self._targets))

    async def _refresh(self) -> None:
        self.refreshed += 1

    async def _targets(self) -> list[ScrapeTarget]:
        if self.targets is None:
            raise DatabaseDownError("Postgres cannot be reached")
        return self.targets


async def test_metrics_in_both_formats(aiohttp_client: AiohttpClient) -> None:
    world = World()
    client = await aiohttp_client(world.app)
    world.metrics.committed({"success": 5}, 0.001)
    plain = await client.get("/metrics")
    assert plain.status == 200 and plain.headers["Content-Type"].startswith("text/plain")
    assert 'offbeat_pings_total{result="committed",signal="success"} 5.0' in await plain.text()
    openmetrics = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert (await openmetrics.text()).endswith("# EOF\n")
    assert world.refreshed == 2


async def test_the_token_guards_metrics_and_discovery_but_not_the_probes(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(World(token="s3cret").app)
    for path in ("/metrics", "/sd/prometheus"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            assert (await client.get(path, headers=headers)).status == 401
        assert (await client.get(path, headers={"Authorization": "Bearer s3cret"})).status == 200
    for path in ("/livez", "/readyz", "/-/healthy", "/-/ready"):
        assert (await client.get(path)).status == 200
        assert (await client.head(path)).status == 200


async def test_ready_needs_what_is_required_and_shows_the_rest(aiohttp_client: AiohttpClient) -> None:
    world = World()
    client = await aiohttp_client(world.app)
    world.checks[2] = Check("postgres", False, "not since 12 s", required=False)
    answer = await client.get("/readyz?verbose")
    assert answer.status == 200
    assert await answer.text() == "[+] deadlines: 3 loaded\n[+] serving\n[-] postgres: not since 12 s\nready\n"
    world.checks[1] = Check("serving", False, "stopping")
    answer = await client.get("/readyz")
    assert answer.status == 503
    assert "[-] serving: stopping\n" in await answer.text()
    assert (await client.get("/readyz?exclude=serving")).status == 200
    assert (await client.get("/livez")).status == 200


async def test_a_check_with_a_former_name_has_a_line_by_both_names(aiohttp_client: AiohttpClient) -> None:
    world = World()
    client = await aiohttp_client(world.app)
    world.checks = [Check("scheduler", False, "does not evaluate", required=False, former_name="keeper")]
    shown = await (await client.get("/readyz?verbose")).text()
    assert shown == "[-] scheduler: does not evaluate\n[-] keeper: deprecated name of scheduler\nready\n"
    for name in ("scheduler", "keeper"):
        assert await (await client.get(f"/readyz?verbose&exclude={name}")).text() == "ready\n"


async def test_discovery_lists_every_process_or_fails(aiohttp_client: AiohttpClient) -> None:
    world = World()
    client = await aiohttp_client(world.app)
    answer = await client.get("/sd/prometheus")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert await answer.json() == [
        {"targets": ["10.0.0.1:8080"], "labels": {"__meta_offbeat_node": "alpha", "__meta_offbeat_writer": "4"}}
    ]
    world.targets = []
    assert await (await client.get("/sd/prometheus")).json() == []
    failing: Any = None
    world.targets = failing  # an empty list would make Prometheus forget us; an error keeps its last list
    assert (await client.get("/sd/prometheus")).status == 503


class Watchdog:
    """An outside watchdog that counts its beats, and answers with its `status`."""

    def __init__(self) -> None:
        self.beats: asyncio.Queue[str] = asyncio.Queue()
        self.status = 200
        self.url = ""
        self.close: Callable[[], Awaitable[None]]

    async def beat(self, request: web.Request) -> web.Response:
        self.beats.put_nowait(request.path)
        return web.Response(status=self.status)


@pytest.fixture
async def watchdog(aiohttp_server: AiohttpServer) -> Watchdog:
    created = Watchdog()
    app = web.Application()
    app.router.add_get("/beat", created.beat)
    server = await aiohttp_server(app)
    created.url, created.close = str(server.make_url("/beat")), server.close
    return created


async def test_a_watchdog_ping_is_sent_only_while_the_watermark_moves_and_alerts_are_taken(watchdog: Watchdog) -> None:
    watermark, untaken_s, failing = [1], [0.0], [False]

    async def untaken() -> float:
        if failing[0]:
            raise DatabaseDownError("gone")
        return untaken_s[0]

    def moving() -> int:
        if watermark[0] > 0:
            watermark[0] += 1
        return abs(watermark[0])

    beat = OutboundWatchdog(watchdog.url, 0.01, moving, untaken)
    await beat.start()
    try:
        async with asyncio.timeout(HANG_S):
            for _ in range(3):
                await watchdog.beats.get()
            changes: list[tuple[Callable[[], None], Callable[[], None]]] = [
                (lambda: watermark.__setitem__(0, -watermark[0]), lambda: watermark.__setitem__(0, -watermark[0])),
                (lambda: untaken_s.__setitem__(0, UNTAKEN_S_MAX + 1), lambda: untaken_s.__setitem__(0, 0.0)),
                (lambda: failing.__setitem__(0, True), lambda: failing.__setitem__(0, False)),
            ]
            for stop, go in changes:
                stop()
                withheld = beat.withheld
                while beat.withheld < withheld + 2:
                    await asyncio.sleep(0.005)
                while not watchdog.beats.empty():
                    watchdog.beats.get_nowait()
                withheld = beat.withheld
                while beat.withheld < withheld + 3:
                    await asyncio.sleep(0.005)
                assert watchdog.beats.empty()
                go()
                await watchdog.beats.get()
    finally:
        await beat.stop()


async def test_watchdog_pings_are_counted_by_what_became_of_them(watchdog: Watchdog) -> None:
    metrics, ticks, doubtful = Metrics("1"), itertools.count(1), [False]

    async def untaken() -> float:
        return UNTAKEN_S_MAX + 1 if doubtful[0] else 0.0

    def counted() -> dict[str, float]:
        samples = re.findall(
            r'^offbeat_watchdog_pings_total{result="(\w+)"} (\S+)$',
            generate_latest(metrics.registry).decode(),
            re.MULTILINE,
        )
        return {result: float(count) for result, count in samples}

    async def count_more(result: str) -> None:
        before = counted()[result]
        async with asyncio.timeout(HANG_S):
            while counted()[result] < before + 2:
                await asyncio.sleep(0.005)

    beat = OutboundWatchdog(watchdog.url, 0.01, lambda: next(ticks), untaken)
    bind_watchdog(metrics, beat)
    assert counted() == {"sent": 0, "failed": 0, "withheld": 0}
    await beat.start()
    try:
        await count_more("sent")
        watchdog.status = 404
        await count_more("failed")
        watchdog.status = 200
        doubtful[0] = True
        await count_more("withheld")
        doubtful[0] = False
        await count_more("sent")
        await watchdog.close()
        await count_more("failed")
    finally:
        await beat.stop()


async def test_who_is_not_the_scheduler_sends_no_watchdog_ping(watchdog: Watchdog) -> None:
    queried = asyncio.Event()
    times = []

    def watermark() -> None:
        times.append(1)
        if len(times) > 5:
            queried.set()

    async def untaken() -> float:
        return 0.0

    beat = OutboundWatchdog(watchdog.url, 0.01, watermark, untaken)
    await beat.start()
    await asyncio.wait_for(queried.wait(), HANG_S)
    await beat.stop()
    assert watchdog.beats.empty() and beat.withheld == 0


@pytest.fixture
def notify_socket(tmp_path: Path) -> Iterator[socket.socket]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(path)
        line.settimeout(HANG_S)
        yield line


async def test_systemd_is_notified_of_every_step(notify_socket: socket.socket) -> None:
    systemd = Systemd(ServiceEnvironment(notify_socket.getsockname(), None))
    await systemd.start()
    systemd.extend(30, "loading 1000 monitors")
    systemd.ready("listening on :8080")
    systemd.status("3 monitors\nare down")
    systemd.stopping()
    await systemd.stop()
    assert [notify_socket.recv(1000) for _ in range(4)] == [
        b"EXTEND_TIMEOUT_USEC=30000000\nSTATUS=loading 1000 monitors",
        b"READY=1\nSTATUS=listening on :8080",
        b"STATUS=3 monitors are down",
        b"STOPPING=1\nSTATUS=stopping",
    ]


async def test_the_watchdog_gets_heartbeats_only_while_the_server_works(notify_socket: socket.socket) -> None:
    alive, checked = [True], asyncio.Event()

    def is_alive() -> bool:
        checked.set()
        return alive[0]

    systemd = Systemd(ServiceEnvironment(notify_socket.getsockname(), 0.04), is_alive)
    await systemd.start()
    loop = asyncio.get_running_loop()
    for _ in range(3):
        assert await loop.run_in_executor(None, notify_socket.recv, 100) == b"WATCHDOG=1"
    alive[0] = False
    for _ in range(3):
        checked.clear()
        await asyncio.wait_for(checked.wait(), HANG_S)
    notify_socket.setblocking(False)
    received = 0
    with pytest.raises(BlockingIOError):
        while True:
            notify_socket.recv(100)
            received += 1
    assert received <= 1
    await systemd.stop()


async def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    for environment in (ServiceEnvironment(), ServiceEnvironment(str(tmp_path / "nobody"), 0.01)):
        systemd = Systemd(environment)
        await systemd.start()
        systemd.ready("listening")
        await systemd.stop()


async def test_the_loops_lag_is_seen() -> None:
    seen: asyncio.Queue[float] = asyncio.Queue()
    lag = LoopLag(seen.put_nowait)
    await lag.start()
    await asyncio.wait_for(seen.get(), HANG_S)
    time.sleep(0.5)  # noqa: ASYNC251  # sleep: the whole loop stands still
    while await asyncio.wait_for(seen.get(), HANG_S) < 0.2:
        pass
    await lag.stop()


LOGGING = """
import logging, structlog
from offbeat_server.observability import logging as logs
logs.set_up({form!r}, "info")
log = structlog.get_logger("ingest")
log.debug("too much")
log.info("hello", rows=3, key="s3cret-key")
logging.getLogger("library").warning("from %s", "outside")
secret = "s3cret-local"
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broke")
"""


def _say(form: str) -> str:
    done = subprocess.run([sys.executable, "-c", LOGGING.format(form=form)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def test_log_lines_for_programs() -> None:
    hello, outside, broke = (json.loads(line) for line in _say("json").splitlines())
    assert hello["event"] == "hello" and hello["rows"] == 3 and hello["logger"] == "ingest" and hello["level"] == "info"
    assert hello["key"] == "***" and hello["timestamp"].endswith("Z")
    assert outside["event"] == "from outside" and outside["logger"] == "library"
    assert "ZeroDivisionError" in broke["exception"]


def test_log_lines_for_people() -> None:
    text = _say("console")
    assert "hello" in text and "s3cret" not in text and "ZeroDivisionError" in text and "too much" not in text


def test_a_log_without_a_reader_stops_nothing() -> None:
    program = LOGGING.format(form="json") + "\nimport os\nos.close(1)\nlog.info('into the void')\nos._exit(7)\n"
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL).returncode == 7


async def test_everything_is_bound_and_can_be_scraped_before_anything_is_started() -> None:
    settings, metrics, clock = Settings(), Metrics("1"), LogClock()
    nothing: Any = None  # nothing is started, so nothing asks it
    url = "postgresql://nobody@127.0.0.1:1/none"
    committed = CommittedBatches()
    writer = LogWriter(url, settings, clock, metrics, node="n", metrics_address=None, committed=committed)
    scheduler = Scheduler(url, settings, clock, metrics, committed, holder="h", node="n")
    http_servers = HttpServers(settings, KeyIndex(nothing), writer.backlog, metrics, web.Application())
    bind_ingest(metrics, settings, writer, KeyIndex(nothing), http_servers)
    bind_scheduler(metrics, scheduler, SelfCheck(nothing, scheduler))
    text = generate_latest(metrics.registry).decode()
    assert "\noffbeat_keeper 0.0\n" in text and "\noffbeat_pending_pings_max 20000.0\n" in text
    assert "\noffbeat_watermark_timestamp_seconds" not in text


async def test_the_databases_side_is_read_once_for_many_and_missed_without_harm(postgres: Postgres) -> None:
    metrics = Metrics("1")
    async with postgres.fresh() as url:
        pool = await open_pool(url)
        async with pool.acquire() as connection:
            await connection.execute(
                """insert into writers (started_at, accepted_through, node, metrics_address)
                   values (now(), now(), 'alpha', '10.0.0.1:8080'), (now(), now(), 'beta', null);
                   update writers set fenced = true where node = 'beta';
                   insert into deaf (started_at, ended_at, reason, decided_at)
                   values (now() - interval '2.5 s', now(), 'crash', now());
                   insert into alerts (project_id, kind, facts, next_attempt_at)
                   values (1, 'test', '{}', now() - interval '70 s')"""
            )
        facts = DatabaseFacts(pool)
        facts.bind(metrics)
        assert not facts.was_queried, "it is too early to report that Postgres is away"
        await asyncio.gather(facts.refresh(), facts.refresh())
        assert facts.was_queried
        text = generate_latest(metrics.registry).decode()
        assert "offbeat_database_up 1.0" in text and "offbeat_writers 1.0" in text
        assert "offbeat_ingest_outage_seconds_total 2.5" in text and "offbeat_outbox_pending 1.0" in text
        assert 69 < await facts.untaken_s() < 100
        assert [target.address for target in await read_targets(pool)] == ["10.0.0.1:8080"]
        through = float(re.search(r"^offbeat_partitions_through_timestamp_seconds (\S+)$", text, re.MULTILINE)[1])
        assert 6.9 * 86_400 < through - facts.facts.read_at < 9 * 86_400
        await pool.close()
    facts._read_s = float("-inf")  # as if a second had passed
    await facts.refresh()
    text = generate_latest(metrics.registry).decode()
    assert "offbeat_database_up 0.0" in text and "offbeat_writers 1" not in text
