"""The scenarios of the field as they happen: real jobs and workers, a real server, and the alerts of a person.

All are played at once on one server, as in a company, and each must be reported as if it were alone.
tests/unit/engine/test_engine_scenarios.py has the same ones to the second and to the word.
"""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.harness import Postgres, Received, Receiver, Server, eventually, needs

ETL = """
ping() { curl -m 10 -fsS -o /dev/null "$URL/$1?run=$RUN&$2"; }
ping start
ping start stage=extract; sleep 0.2; ping success stage=extract
ping start stage=transform; sleep 60; ping success stage=transform
ping success
"""
JOB = """
curl -m 10 -fsS -o /dev/null "$URL/start?run=$RUN"
sleep "$WORK"
curl -m 10 -fsS -o /dev/null "$URL?run=$RUN"
"""
QUEUE_WORKER = """
import os, time, urllib.request

def tell(done):
    url = f"{os.environ['URL']}/progress?run={os.environ['RUN']}&done={done}&total=10000"
    urllib.request.urlopen(url, timeout=10).read()

for done in range(100, 4400, 100):
    tell(done)
while True:  # it still lives
    time.sleep(0.2)
    tell(4300)
"""


class Stage:
    """The server, the receiver that the people look at, and what is done with them."""

    def __init__(self, server: Server, receiver: Receiver) -> None:
        self.server, self.receiver = server, receiver

    async def monitor(self, slug: str, **definition: Any) -> str:
        """Made; the address of its pings."""
        created = await self.server.api("PUT", f"/api/v1/monitors/{slug}", definition)
        assert created.status == 201, created
        url: str = created.body["ping_url"]
        return url

    async def ping(self, url: str, signal: str = "", **params: Any) -> None:
        """One ping, committed."""
        async with self.server.session.get(f"{url}/{signal}".rstrip("/"), params=params) as answer:
            assert answer.status == 200, await answer.text()

    async def pings(self, url: str, each: list[dict[str, Any]]) -> None:
        """Many in one request."""
        key = url.rsplit("/", 1)[1]
        lines = "".join(json.dumps({"key": key, **ping}) + "\n" for ping in each)
        async with self.server.session.post("/api/v1/heartbeats", data=lines) as answer:
            assert (await answer.json())["accepted"] == len(each)

    async def get(self, path: str) -> Any:
        """A monitor in the API."""
        answer = await self.server.api("GET", f"/api/v1/monitors/{path}")
        assert answer.status == 200, answer
        return answer.body

    async def alert(self, slug: str, kind: str, cause: str | None = None) -> Any:
        """The facts of the first such alert that arrives."""

        def matches(request: Received) -> bool:
            facts = request.json["data"]
            return bool(
                facts["monitor"] == slug and facts["kind"] == kind and (cause is None or facts["cause"] == cause)
            )

        return (await self.receiver.wait_for(matches)).json["data"]

    def alerts(self, slug: str) -> list[tuple[str, str]]:
        """Kind and cause of all that arrived about a monitor."""
        facts = (request.json["data"] for request in self.receiver.requests)
        return [(each["kind"], each["cause"]) for each in facts if each["monitor"] == slug]

    @asynccontextmanager
    async def process(self, program: list[str], **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A job on another machine; killed at the end in any case."""
        process = await asyncio.create_subprocess_exec(
            *program, env={"PATH": os.environ["PATH"], **env}, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


Scenario = Callable[[Stage], Awaitable[None]]


async def a_nightly_etl_hangs_in_its_second_stage(stage: Stage) -> None:
    stages = [{"name": "extract", "within": "20s"}, {"name": "transform", "within": "3s"}, {"name": "load"}]
    url = await stage.monitor("etl", stages=stages)
    async with stage.process(["/bin/sh", "-c", ETL], URL=url, RUN="n1"):
        facts = await stage.alert("etl", "opened")
    assert (facts["cause"], facts["run"], facts["stage"]) == ("stage", "n1", "transform")
    assert re.fullmatch(
        r"stage transform was expected to finish by .+, 3 s after the end of stage extract at \S+; "
        r"it started \S+; extract took \S+ s, load waiting \(run n1\)",
        facts["reason"],
    )
    (run,) = (await stage.get("etl/runs"))["items"]
    assert run["verdict"] == "hung" and run["reason"] == facts["reason"]
    assert [(s["name"], s["status"]) for s in run["stages"]] == [
        ("extract", "done"),
        ("transform", "running"),
        ("load", "waiting"),
    ]


async def a_queue_worker_stalls_at_4300_of_10000(stage: Stage) -> None:
    url = await stage.monitor("queue", stall_for="2s", quiet_for="30s")
    async with stage.process([sys.executable, "-c", QUEUE_WORKER], URL=url, RUN="q7"):
        facts = await stage.alert("queue", "opened")
        assert (facts["cause"], facts["run"]) == ("hung", "q7")
        assert re.search(r"has made no progress for 2 s: it has been at 4300 of 10000 since .+$", facts["reason"])
        (run,) = (await stage.get("queue/runs"))["items"]
        assert run["verdict"] == "hung"
        progress = run["progress"]
        assert (progress["done"], progress["total"]) == (4300, 10_000) and progress["rate"] > 0 and progress["eta"]


async def of_a_thousand_workers_three_never_report_and_five_fail(stage: Stage) -> None:
    url = await stage.monitor("fan-out", tasks={"expected": 1_000, "within": "8s", "tolerate": 5})
    await stage.ping(url, "start", run="f1")
    silent, failing = {17, 404, 999}, {200, 400, 600, 800, 1_000}
    tasks = iter(sorted(set(range(1, 1_001)) - silent))

    async def worker() -> None:
        for task in tasks:
            await stage.ping(url, "start", run="f1", task=task)
            await stage.ping(url, "fail" if task in failing else "success", run="f1", task=task)

    await asyncio.gather(*(worker() for _ in range(20)))
    facts = await stage.alert("fan-out", "opened")
    assert facts["cause"] == "tasks"
    assert re.fullmatch(
        r"992 of 1000 tasks done by .+, 5 failed \(5 tolerated\), "
        r"3 missing \(none of them started\): 17, 404, 999 \(run f1\)",
        facts["reason"],
    )
    (run,) = (await stage.get("fan-out/runs"))["items"]
    tasks_seen = run["tasks"]
    assert (tasks_seen["expected"], tasks_seen["done"], tasks_seen["failed"]) == (1_000, 992, 5)
    assert tasks_seen["missing"] == ["17", "404", "999"]
    await stage.pings(url, [{"run": "f1", "task": str(task)} for task in silent])  # they were only slow
    await stage.alert("fan-out", "resolved")
    (run,) = (await stage.get("fan-out/runs"))["items"]
    assert run["verdict"] == "succeeded" and run["reason"].startswith("finished late")


async def a_second_run_starts_before_the_first_ended_and_the_first_hangs(stage: Stage) -> None:
    url = await stage.monitor("report", max_runtime="6s", overlap="alert")

    async def first_is_open() -> bool:
        return bool((await stage.get("report/runs"))["items"])

    async with stage.process(["/bin/sh", "-c", JOB], URL=url, RUN="a", WORK="60"):
        await eventually(first_is_open)
        async with stage.process(["/bin/sh", "-c", JOB], URL=url, RUN="b", WORK="0.5") as second:
            overlap = await stage.alert("report", "opened", "overlap")
            assert await second.wait() == 0
        hang = await stage.alert("report", "opened", "hung")
    assert re.fullmatch(r"run b started .+ while run a, started \S+, was still open", overlap["reason"])
    assert re.fullmatch(r"run a, started \S+, was expected to finish by .+, after 6 s", hang["reason"])
    runs = {run["run"]: run["verdict"] for run in (await stage.get("report/runs"))["items"]}
    assert runs == {"a": "hung", "b": "succeeded"}
    assert stage.alerts("report") == [("opened", "overlap"), ("resolved", "overlap"), ("opened", "hung")]


async def of_four_monitors_in_sequence_the_third_is_silent(stage: Stage) -> None:
    urls = {"ingest": await stage.monitor("ingest")}
    for before, slug in (("ingest", "clean"), ("clean", "train"), ("train", "publish")):
        urls[slug] = await stage.monitor(slug, after={"monitor": before, "within": "3s"}, grace="1s")
    for slug in ("ingest", "clean"):
        async with stage.process(["/bin/sh", "-c", JOB], URL=urls[slug], RUN="d5", WORK="0.1") as job:
            assert await job.wait() == 0
    facts = await stage.alert("train", "opened")
    assert (facts["cause"], facts["run"]) == ("missed", "d5")
    assert re.fullmatch(
        r"monitor clean sent success at \S+ \(run d5\); no ping followed by .+: "
        r"it was due within 3 s of that success, with a grace period of 1 s",
        facts["reason"],
    )
    async with stage.process(["/bin/sh", "-c", JOB], URL=urls["train"], RUN="d5", WORK="0.1"):
        await stage.alert("train", "resolved")
    assert [stage.alerts(slug) for slug in ("ingest", "clean")] == [[], []]


async def of_a_fleet_of_a_thousand_sixty_die_at_once(stage: Stage) -> None:
    url = await stage.monitor("fleet", members={"every": "4s", "grace": "2s", "min_alive": "95%"})
    names = [f"worker-{n:03}" for n in range(1_000)]
    dead = {*names[::17], "worker-999"}

    async def beat(whom: list[str]) -> None:
        while True:
            await stage.pings(url, [{"status": "progress", "task": name} for name in whom])
            await asyncio.sleep(1)  # sleep: the pace of the pings

    await stage.pings(url, [{"status": "progress", "task": name} for name in names])
    living = asyncio.create_task(beat([name for name in names if name not in dead]))
    try:
        facts = await stage.alert("fleet", "opened")
        match = re.match(r"(\d+) of 1000 members alive, 950 required \(95%\); silent: ", facts["reason"])
        assert facts["cause"] == "members" and match and 940 <= int(match[1]) < 950
        named = set(re.findall(r"worker-\d+", facts["reason"]))
        assert len(named) == 20 and named <= dead

        async def all_are_known() -> bool:
            silent = (await stage.get("fleet/members?silent=true&limit=100"))["items"]
            return {each["name"] for each in silent} == dead

        await eventually(all_are_known)
        (incident,) = (await stage.get("fleet/incidents"))["items"]
        assert incident["reason"].startswith("940 of 1000 members alive")
        await stage.pings(url, [{"status": "progress", "task": name} for name in dead])
        await stage.alert("fleet", "resolved")
    finally:
        living.cancel()
    assert stage.alerts("fleet") == [("opened", "members"), ("resolved", "members")]


async def an_upstream_is_down_and_one_downstream_stays_silent_after_it(stage: Stage) -> None:
    downstreams = [f"job-{n}" for n in range(1, 6)]
    urls = {"db": await stage.monitor("db", every="2s", grace="1s")}
    for slug in downstreams:
        urls[slug] = await stage.monitor(slug, every="4s", grace="2s", depends_on=["db"])
    for url in urls.values():
        await stage.ping(url)
    down = await stage.alert("db", "opened")
    assert down["cause"] == "missed"

    async def all_are_explained() -> bool:
        incidents = [(await stage.get(f"{slug}/incidents"))["items"] for slug in downstreams]
        return all(items and items[0]["suppressed_by"] == "db" for items in incidents)

    await eventually(all_are_explained)
    assert not any(stage.alerts(slug) for slug in downstreams)

    async def beat() -> None:
        while True:
            for slug in ("db", *downstreams[:4]):
                await stage.ping(urls[slug])
            await asyncio.sleep(0.5)  # sleep: the pace of the pings

    living = asyncio.create_task(beat())
    try:
        await stage.alert("db", "resolved")
        facts = await stage.alert("job-5", "opened")
    finally:
        living.cancel()
    assert facts["cause"] == "missed" and re.search(r", by dependency db until ", facts["held_back"])
    assert [stage.alerts(slug) for slug in downstreams] == [[], [], [], [], [("opened", "missed")]]


async def a_job_fails_while_its_upstream_is_down_and_is_reported_when_that_recovers(stage: Stage) -> None:
    api = await stage.monitor("api", every="2s", grace="1s")
    job = await stage.monitor("job", cron="0 3 1 1 *", grace="1h", depends_on=["api"])
    await stage.ping(api)
    await stage.alert("api", "opened")
    await stage.pings(job, [{"status": "start", "run": "1"}, {"status": "fail", "run": "1"}])

    async def hold() -> Any:
        held = [hold for incident in (await stage.get("job/incidents"))["items"] for hold in incident["held"]]
        return held[-1] if held else {}

    async def is_held() -> bool:
        shown = await hold()
        return bool(shown) and (shown["kind"], shown["by"], shown["ends_at"]) == ("dependency", "api", None)

    await eventually(is_held)
    assert stage.alerts("job") == []
    await stage.ping(api)
    facts = await stage.alert("job", "opened")
    assert facts["cause"] == "failed" and re.search(r", by dependency api until ", facts["held_back"])
    assert (await hold())["ends_at"] is not None


SCENARIOS: tuple[Scenario, ...] = (
    a_nightly_etl_hangs_in_its_second_stage,
    a_queue_worker_stalls_at_4300_of_10000,
    of_a_thousand_workers_three_never_report_and_five_fail,
    a_second_run_starts_before_the_first_ended_and_the_first_hangs,
    of_four_monitors_in_sequence_the_third_is_silent,
    of_a_fleet_of_a_thousand_sixty_die_at_once,
    an_upstream_is_down_and_one_downstream_stays_silent_after_it,
    a_job_fails_while_its_upstream_is_down_and_is_reported_when_that_recovers,
)


@pytest.fixture(scope="module")
def played(postgres: Postgres) -> Iterator[dict[Scenario, BaseException | None]]:
    """How each of them ended."""
    needs("curl")

    async def play() -> list[BaseException | None]:
        async with (
            postgres.fresh() as url,
            Receiver() as receiver,
            Server(url, "--allow-private-destinations") as server,
        ):
            await server.api("PUT", "/api/v1/channels/oncall", {"kind": "webhook", "url": receiver.url})
            stage = Stage(server, receiver)
            return await asyncio.gather(*(scenario(stage) for scenario in SCENARIOS), return_exceptions=True)

    yield dict(zip(SCENARIOS, asyncio.run(play()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(scenario: Scenario, played: dict[Scenario, BaseException | None]) -> None:
    if (error := played[scenario]) is not None:
        raise error
