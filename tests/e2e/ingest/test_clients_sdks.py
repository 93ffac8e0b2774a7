"""Clients of Sentry (Python, Node) and Cronitor (Python), in processes of their own, unchanged except for the host."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.support.clients.programs import make, ping_fields, ping_key, pings, python, run, runs_become, status_becomes
from tests.support.harness import ROOT, Postgres, Server, needs, refuse

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["fast", "aiohttp"])
async def server(postgres: Postgres, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with postgres.fresh() as url, Server(url, "--http-server", request.param) as server:
        yield server


_SENTRY = """
import sys, sentry_sdk
from sentry_sdk.crons import capture_checkin, monitor
options = dict(traces_sample_rate=1.0, enable_logs=True, debug=True, auto_session_tracking=True)
sentry_sdk.init(dsn=sys.argv[1], **options)
CONFIG = {
    "schedule": {"type": "crontab", "value": "0 2 * * *"}, "timezone": "Europe/Vienna",
    "checkin_margin": 5, "max_runtime": 20, "failure_issue_threshold": 1, "recovery_threshold": 1,
}

@monitor(monitor_slug="nightly", monitor_config=CONFIG)
def good():
    pass

@monitor(monitor_slug="nightly", monitor_config=CONFIG)
def bad():
    raise ValueError("no space left")

with sentry_sdk.start_transaction(name="t"):
    good()
try:
    bad()
except ValueError:
    sentry_sdk.capture_exception()
sentry_sdk.capture_message("not a check-in")
sentry_sdk.logger.info("not a check-in either")
with monitor(monitor_slug="by-hand"):
    pass
first = capture_checkin(monitor_slug="nightly", status="in_progress")
second = capture_checkin(monitor_slug="nightly", status="in_progress")
capture_checkin(monitor_slug="nightly", check_in_id=first, status="in_progress")
capture_checkin(monitor_slug="nightly", check_in_id=second, status="ok", duration=2.5)
sentry_sdk.flush(10)
print(first, second)
"""


async def test_sentry_sdk(server: Server) -> None:
    await make(server, "by-hand")
    project = await ping_key(server)
    ran = await python(_SENTRY, f"{server.url.replace('//', f'//{project}@')}/1")
    assert ran.code == 0, ran.err
    assert "Unexpected status code" not in ran.err
    first, second = ran.out.split()
    nightly = await ping_fields(server, "nightly", "run", "duration", "dialect")
    assert [signal for signal, *_ in nightly] == ["start", "success", "start", "fail", *["start"] * 3, "success"]
    assert nightly[0][1] == nightly[1][1]
    assert [ping[1] for ping in nightly[4:]] == [first, second, first, second]
    assert nightly[-1] == ("success", second, 2.5, "sentry")
    assert await ping_fields(server, "by-hand") == [("start",), ("success",)]
    monitor = (await server.api("GET", "/api/v1/monitors/nightly")).body
    assert (monitor["cron"], monitor["timezone"], monitor["grace"], monitor["max_runtime"]) == (
        *("0 2 * * *", "Europe/Vienna", "5m", "20m"),
    )
    good, bad = nightly[0][1], nightly[2][1]
    await runs_become(server, "nightly", (good, "succeeded"), (bad, "failed"), (first, None), (second, "succeeded"))


_SENTRY_ATTACHMENT = """
import os, sys, sentry_sdk
from sentry_sdk.crons import capture_checkin
sentry_sdk.init(dsn=sys.argv[1])
sentry_sdk.get_global_scope().add_attachment(bytes=os.urandom(2_000_000), filename="core")
for status in ("in_progress", "error"):
    capture_checkin(monitor_slug="attached", check_in_id="a" * 32, status=status)
sentry_sdk.flush(10)
"""


async def test_an_attachment_of_the_scope_costs_no_check_in(server: Server) -> None:
    await make(server, "attached")
    ran = await python(_SENTRY_ATTACHMENT, f"{server.url.replace('//', f'//{await ping_key(server)}@')}/1")
    assert ran.code == 0, ran.err
    assert await ping_fields(server, "attached", "run") == [("start", "a" * 32), ("fail", "a" * 32)]


_SENTRY_LATER = """
import sys, sentry_sdk
from sentry_sdk.crons import capture_checkin
dsn, algorithm, known, unknown = sys.argv[1:]
sentry_sdk.init(dsn=dsn, environment="staging", _experiments={"transport_compression_algo": algorithm})
schedule = {"type": "interval", "value": 10, "unit": "minute"}
capture_checkin(monitor_slug=known, status="ok", monitor_config={"schedule": schedule})
capture_checkin(monitor_slug=known + "-alike", status="ok")
capture_checkin(monitor_slug=unknown, status="ok")
sentry_sdk.flush(10)
"""


@pytest.mark.parametrize("algorithm", ["br", "gzip"])
async def test_sentry_environments_and_changed_definitions(server: Server, algorithm: str) -> None:
    known, alike, unknown = f"known-{algorithm}", f"known-{algorithm}-alike", f"unknown-{algorithm}"
    await make(server, known, every="1d", channels=[], grace="7m")
    await make(server, f"{known}.staging", cron="0 2 * * *", channels=[], grace="7m")
    await make(server, alike, every="1d", channels=[], grace="7m")
    project = await ping_key(server)
    ran = await python(_SENTRY_LATER, f"{server.url.replace('//', f'//{project}@')}/1", algorithm, known, unknown)
    assert ran.code == 0, ran.err
    changed = (await server.api("GET", f"/api/v1/monitors/{known}.staging")).body
    assert (changed["cron"], changed["every"], changed["grace"], changed["channels"]) == (None, "10m", "7m", [])
    assert await pings(server, known) == []
    assert await ping_fields(server, f"{known}.staging", "dialect") == [("success", "sentry")]
    copied = (await server.api("GET", f"/api/v1/monitors/{alike}.staging")).body
    assert (copied["every"], copied["grace"]) == ("1d", "7m")
    for slug in (unknown, f"{unknown}.staging"):
        assert (await server.api("GET", f"/api/v1/monitors/{slug}")).status == 404


async def test_the_cron_address_of_sentry(server: Server) -> None:
    await make(server, "job")
    url = f"/api/1/cron/job/{await ping_key(server)}/"
    async with aiohttp.ClientSession(server.url) as session:
        async with session.get(url, params={"status": "in_progress"}) as response:
            assert (response.status, await response.read()) == (202, b"")
        async with session.get(url, params={"status": "ok"}) as response:
            assert response.status == 202
        check_in = {"status": "ok", "monitor_config": {"schedule": {"type": "crontab", "value": "@daily"}}}
        async with session.post(url.replace("/job/", "/made/"), json=check_in) as response:
            assert response.status == 202
        async with session.get(url.replace("/job/", "/unknown/"), params={"status": "ok"}) as response:
            assert response.status == 404
    assert await ping_fields(server, "job") == [("start",), ("success",)]
    assert (await server.api("GET", "/api/v1/monitors/made")).body["cron"] == "0 0 * * *"


_CRONITOR = """
import sys, cronitor
base, cronitor.api_key = sys.argv[1:]
# The client has its host in its code; its users would have to do this, or point the name at Offbeat.
cronitor.Monitor._ping_api_url = lambda self: f"{base}/p/{self.api_key}/{self.key}"

@cronitor.job("Nightly Backup")
def good():
    return "3 files"

@cronitor.job("Nightly Backup", env="staging")
def bad():
    raise ValueError("no space left")

@cronitor.job("long")
def long():
    raise ValueError("x" * 20_000 + "\u00fc" * 3_000 + "the end")

good()
for fails in (bad, long):
    try:
        fails()
    except ValueError:
        pass
monitor = cronitor.Monitor("heartbeat")
answer = monitor.ping(message="hi", metrics={"count": 12, "error_count": 1, "duration": 2.5})
assert (answer.status_code, answer.text) == (200, "OK"), answer.text
monitor.ping(state="run", series="a")
monitor.ping(state="run", series="b")
monitor.ping(state="fail", series="a", message="broken")
monitor.ok()
assert cronitor.Monitor("x", api_key="wrong-api-key").ping().status_code == 404
"""


async def test_cronitor(server: Server) -> None:
    ran = await python(_CRONITOR, server.url, await ping_key(server))
    assert ran.code == 0, ran.err
    nightly = await pings(server, "nightly-backup")
    assert [ping["signal"] for ping in nightly] == ["start", "success"]
    assert nightly[0]["run"] == nightly[1]["run"]
    assert "3 files" in nightly[1]["message"]
    staging = await pings(server, "nightly-backup.staging")
    assert [ping["signal"] for ping in staging] == ["start", "fail"]
    assert "no space left" in staging[1]["message"]
    ended = (await pings(server, "long"))[-1]
    assert ended["signal"] == "fail" and ended["message"].endswith("ü" * 1_000 + "the end")
    assert await ping_fields(server, "heartbeat", "run", "done", "duration", "message") == [
        ("success", None, 12, 2.5, "hi"),
        ("start", "a", None, None, None),
        ("start", "b", None, None, None),
        ("fail", "a", None, None, "broken"),
        ("success", None, None, None, None),
    ]
    await status_becomes(server, "nightly-backup.staging", "down")


async def test_cronitors_command_line(server: Server) -> None:
    url = f"/ping/{await ping_key(server)}/backup"
    async with aiohttp.ClientSession(server.url) as session:
        for state in ("run", "complete"):
            for attempt in (1, 2):
                query = f"?state={state}&try={attempt}&stamp=1766567.500&host=db1&series=1766567.123&status_code=0"
                async with session.get(url + query) as response:
                    assert (response.status, await response.text()) == (200, "OK")
    await runs_become(server, "backup", ("1766567.123", "succeeded"))


async def test_nothing_is_made_where_that_is_switched_off(postgres: Postgres) -> None:
    async with postgres.fresh() as url, Server(url, "--no-auto-provision") as server:
        project = await ping_key(server)
        for path in (f"/p/{project}/new", f"/ping/{project}/new?create=1", f"/api/1/cron/new/{project}/?status=ok"):
            async with server.session.get(path) as response:
                assert response.status == 404, path
        assert (await server.api("GET", "/api/v1/monitors")).body["items"] == []


_NODE = """
const Sentry = require(process.argv[2]);
const config = {
  schedule: { type: "crontab", value: "0 2 * * *" }, checkinMargin: 5, maxRuntime: 20, timezone: "Europe/Vienna",
  failureIssueThreshold: 1, recoveryThreshold: 2,
};
async function main() {
  Sentry.init({ dsn: process.argv[1] });
  await Sentry.withMonitor("node-good", async () => {}, config);
  const quick = [1, 2, 3, 4].map((n) => Sentry.withMonitor(`node-quick-${n}`, () => n, config));
  await Promise.all(quick);
  try {
    await Sentry.withMonitor("node-bad", async () => { throw new Error("disk full"); }, config);
  } catch (error) { Sentry.captureException(error); }
  Sentry.captureMessage("not a check-in");
  if (!(await Sentry.flush(10000))) process.exit(3);
}
main();
"""


async def test_sentry_for_node(server: Server) -> None:
    """Each job sends `in_progress` and, at once, on another connection, its end: while the monitor is being made."""
    node = needs("node")
    if not (package := ROOT / "node_modules" / "@sentry" / "node").exists():
        refuse("@sentry/node is not installed (`make test` installs it where there is npm)")
    dsn = f"{server.url.replace('://', f'://{await ping_key(server)}@')}/1"
    ran = await run(node, "-e", _NODE, dsn, str(package))
    assert ran.code == 0, ran
    for slug in ("node-bad", "node-good", *(f"node-quick-{n}" for n in range(1, 5))):
        end, verdict, status = ("fail", "failed", "down") if slug == "node-bad" else ("success", "succeeded", "up")
        begun, ended = await ping_fields(server, slug, "run")
        assert {begun[0], ended[0]} == {"start", end} and begun[1] == ended[1], slug
        await runs_become(server, slug, (begun[1], verdict))
        await status_becomes(server, slug, status)
    monitor = (await server.api("GET", "/api/v1/monitors/node-good")).body
    sent = {"cron": "0 2 * * *", "timezone": "Europe/Vienna", "grace": "5m", "max_runtime": "20m", "recover_after": 2}
    assert {name: monitor[name] for name in sent} == sent
