"""Repeated pings and new ones, and run ids that are used again.

A repeat does nothing; so nothing may be taken for one that would change a status, a count, a cause or an expectation.
"""

import asyncio
import json
import random
import uuid
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from offbeat_server.ingest.protocols import healthchecks
from offbeat_server.ingest.protocols.base import ParsedPing, Request
from offbeat_server.ingest.protocols.sentry import check_ins
from tests.support.engine import Scene
from tests.support.harness import Server, eventually, needs
from tests.support.postgres.link import Link

HERE, THERE = b"\x7f\0\0\1", b"\x7f\0\0\2"
GAPS = [0.001, 1, 11]  # seconds between two pings
SEQUENCES: dict[str, str] = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "healthchecks_sequences.json").read_text()
)["sequences"]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def play(scene: Scene, steps: str, gap: float, **fields: Any) -> None:
    """Pings of one job, such as `start; success a` (a run id), or `settle`: the incident is resolved by hand."""
    for number, step in enumerate(steps.split("; ")):
        when = 10 + gap * number
        signal, _, run = step.partition(" ")
        if signal == "settle":
            scene.tick(when)
            scene.engine.resolve_by_hand(1, 0, 1, scene.at(when))
            scene._take()
        else:
            scene.ping(when, signal, source=HERE, **({"run": run} if run else {}), **fields)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ what is news


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize(
    ("definition", "steps", "status"),
    [
        ({"fail_after": 2}, "fail; fail", "down"),
        ({}, "fail; settle; fail", "down"),
        ({}, "fail; success a; fail", "down"),
        ({}, "success; fail a; success", "up"),
        ({"recover_after": 2}, "fail; success; success", "up"),
        ({"min_runtime": "1m"}, "start; success; success", "up"),
        ({"at_most": {"count": 3, "per": "10m"}}, "success; success; success; success", "down"),
        ({"overlap": "alert"}, "start; start", "down"),
        ({}, "fail a; success; fail a", "down"),
        ({}, "fail a; settle; fail a", "down"),
        ({}, "success a; fail b; success a", "up"),
        ({}, "start a; fail a; success; fail a", "down"),
        ({}, "start a; fail a; settle; fail a", "down"),
        ({}, "start a; fail a; start a; success a", "up"),
        ({}, "start a; success a; start a; fail a", "down"),
        ({"fail_after": 2}, "fail a; success; fail a; fail b", "down"),
    ],
)
def test_what_changes_something_is_news(
    scene: Scene, definition: dict[str, Any], steps: str, status: str, gap: float
) -> None:
    scene.monitor(every="1h", **definition)
    play(scene, steps, gap)
    assert scene.status() == status


@pytest.mark.parametrize("gap", GAPS)
def test_a_start_after_one_that_was_killed_is_of_another_run(scene: Scene, gap: float) -> None:
    scene.monitor()
    play(scene, "start; start", gap)
    assert [run.verdict for run in scene.runs().values()] == ["superseded", None]


@pytest.mark.parametrize("gap", GAPS)
def test_each_success_of_the_monitor_before_is_awaited(scene: Scene, gap: float) -> None:
    scene.monitor()
    scene.monitor("next", after={"monitor": "job", "within": "1m"}, grace="0s")
    scene.ping(1, source=HERE)
    scene.ping(1 + gap, slug="next", source=HERE)
    scene.ping(1 + 2 * gap, source=HERE)
    scene.tick("1h")
    assert scene.status("next") == "down"


@pytest.mark.parametrize("gap", GAPS)
def test_the_incident_knows_the_newest_reason(scene: Scene, gap: float) -> None:
    scene.monitor()
    scene.ping(10, "fail", source=HERE, message="first")
    scene.ping(10 + gap, "fail", source=HERE, message="second: disk full", exit_code=2)
    (incident,) = scene.incidents().values()
    assert "second: disk full" in incident.reason and scene.seconds(incident.opened_at) == 10


@pytest.mark.parametrize("gap", GAPS)
def test_a_run_that_fails_again_has_the_newest_reason_and_is_one_failure(scene: Scene, gap: float) -> None:
    scene.monitor(fail_after=2)
    scene.ping(1, "start", run="r")
    scene.ping(10, "fail", run="r", message="first")
    scene.ping(10 + gap, "fail", run="r", message="second: disk full")
    assert scene.status() != "down" and "second" in (scene.runs()[1].reason or "")
    scene.ping(60, "fail", run="q")
    assert scene.status() == "down"


def test_a_success_soon_after_the_last_one_ends_a_hung_run_that_was_found_between(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(0, "start", run="r")
    scene.ping(59, source=HERE)
    scene.tick(60.5)
    assert scene.status() == "down"
    scene.ping(61, source=HERE)
    assert scene.status() == "up"


# ------------------------------------------------------------------------------------------------ retries


def test_the_retry_after_our_own_503_begins_no_second_run(scene: Scene) -> None:
    scene.monitor(max_runtime="1h", overlap="alert", at_most={"count": 1, "per": "1h"})
    scene.ping(18.856, "start", source=HERE)
    scene.outage(18.856, 27.5)  # Postgres stood still: 503 after eight seconds, and then up to five of Retry-After
    scene.ping(30.950, "start", source=HERE)
    assert len(scene.runs()) == 1 and scene.status() == "up"


def test_many_attempts_in_a_long_outage_are_one_ping(scene: Scene) -> None:
    scene.monitor(fail_after=2)
    scene.outage(9, 300)  # known before the pings in it are applied
    scene.ping(10, "fail", source=HERE)
    scene.ping(16, "fail", source=HERE)
    scene.ping(310, "fail", source=HERE)
    assert scene.status() != "down"
    scene.ping(341, "fail", source=HERE)  # 41 s after the outage: no retry comes so late
    assert scene.status() == "down"


def test_a_process_that_died_before_it_answered_makes_no_second_run(scene: Scene) -> None:
    scene.monitor(overlap="alert")
    scene.ping(10, "start", source=HERE)
    scene.outage(10.4, 14)  # from its last commit to the next process
    scene.ping(15, "start", source=HERE)
    assert len(scene.runs()) == 1 and scene.status() == "up"


@pytest.mark.parametrize(
    ("first", "again", "why"),
    [
        ({"source": HERE}, {"source": THERE}, "another machine"),
        ({"source": None}, {"source": None}, "nobody knows from where it came"),
        ({"source": HERE}, {"source": HERE, "message": "disk full"}, "it says something else"),
        ({"source": HERE}, {"source": HERE, "exit_code": 3}, "it says something else"),
    ],
)
def test_what_is_no_retry_counts_also_in_an_outage(
    scene: Scene, first: dict[str, Any], again: dict[str, Any], why: str
) -> None:
    scene.monitor(fail_after=2)
    scene.ping(10, "fail", **first)
    scene.outage(10, 18)
    scene.ping(20, "fail", **again)
    assert scene.status() == "down", why


def test_after_an_outage_another_signal_between_makes_it_news(scene: Scene) -> None:
    scene.monitor()
    scene.ping(10, "fail", source=HERE)
    scene.outage(10, 18)
    scene.ping(19, source=HERE)
    scene.ping(20, "fail", source=HERE)
    assert scene.status() == "down"


def test_a_retry_is_known_by_its_run_id_without_any_outage(scene: Scene) -> None:
    scene.monitor(at_most={"count": 1, "per": "10m"}, fail_after=2)
    scene.ping(10, "fail", run="r", message="disk full")
    scene.ping(11, "fail", run="r", message="disk full")
    assert scene.status() == "up" and len(scene.runs()) == 1


@pytest.mark.parametrize("after", [0.5, 1, 11, 40, 500])
@pytest.mark.parametrize("between", [False, True])
def test_the_end_that_is_sent_again_does_not_make_a_failed_run_good(scene: Scene, after: float, between: bool) -> None:
    scene.monitor(min_runtime="1m", at_most={"count": 2, "per": "1h"})
    scene.ping(10, "start", run="r")
    scene.ping(12, "success", run="r")
    assert scene.status() == "down"
    if between:
        scene.ping(12.1, "start", run="other")
    scene.ping(12 + after, "success", run="r")
    assert scene.status() == "down" and scene.runs()[1].verdict == "failed"
    assert len(scene.incidents()) == 1 and "too_often" not in str(scene.incidents()[1].causes)


def test_the_end_that_is_sent_again_does_not_forgive_failed_tasks(scene: Scene) -> None:
    scene.monitor(tasks={"expected": 5, "tolerate": 1})
    scene.ping(0, "start", run="r")
    for task in ("1", "2", "3"):
        scene.ping(1, "fail", run="r", task=task)
    for second in (5, 6, 100):
        scene.ping(second, "success", run="r")
    assert scene.runs()[1].verdict == "failed" and scene.status() == "down"


# ------------------------------------------------------------------------------------------------ run ids


@pytest.mark.parametrize("signals", [("success",), ("start", "success"), ("start",)])
@pytest.mark.parametrize("dialect", [None, "healthchecks"])
def test_one_run_id_for_ever_on_a_calendar(scene: Scene, signals: tuple[str, ...], dialect: str | None) -> None:
    scene.monitor(cron="* * * * *", grace="20s")
    for minute in range(10):
        for number, signal in enumerate(signals):
            scene.ping(60 * minute + 5 * number, signal, run="nightly", dialect=dialect)  # type: ignore[arg-type]
    scene.tick(619)
    assert not scene.incidents() and len(scene.runs()) == 10
    scene.tick(620.1)
    assert scene.incidents()[1].cause == "missed"


def test_one_run_id_every_ten_seconds(scene: Scene) -> None:
    scene.monitor(oncalendar="*:*:0/10", grace="5s", recover_after=2)
    scene.ping(0, "fail", run="r")
    scene.ping(10, "success", run="r")
    scene.ping(20, "success", run="r")
    assert scene.status() == "up"
    scene.tick(35)
    assert scene.incidents()[2].cause == "missed"


@pytest.mark.parametrize("after", [0.2, 1, 5, 9, 12])
def test_a_script_that_is_run_again_at_once_under_the_same_date(scene: Scene, after: float) -> None:
    scene.monitor(cron="0 0 * * *", stages=[{"name": name} for name in ("extract", "transform", "load")])
    scene.ping(1, "start", run="2026-01-05", source=HERE)
    scene.ping(2, "success", run="2026-01-05", stage="extract", source=HERE)
    scene.ping(3, "fail", run="2026-01-05", stage="transform", source=HERE)
    scene.ping(4, "fail", run="2026-01-05", source=HERE)
    assert scene.status() == "down"
    scene.ping(4 + after, "start", run="2026-01-05", source=HERE)
    for stage in ("extract", "transform", "load"):
        scene.ping(4 + after + 0.1, "success", run="2026-01-05", stage=stage, source=HERE)
    assert scene.status() == "up"
    assert [run.verdict for run in scene.runs().values()] == ["failed", "succeeded"]


def test_a_start_with_the_id_of_a_run_that_hangs_begins_another(scene: Scene) -> None:
    scene.monitor(max_runtime="1m")
    scene.ping(0, "start", run="constant")
    scene.tick(61)
    assert scene.status() == "down"
    scene.ping(100, "start", run="constant")
    scene.ping(130, "success", run="constant")
    assert scene.status() == "up"
    assert [run.verdict for run in scene.runs().values()] == ["superseded", "succeeded"]


def test_a_run_that_was_killed_serves_no_second_slot_and_its_next_start_does(scene: Scene) -> None:
    scene.monitor(cron="0 * * * *", grace="10m")
    scene.ping("1h", "start", run="constant")
    scene.ping("2h1m", "start", run="constant")
    scene.tick("2h30m")
    assert not scene.incidents()
    assert [run.verdict for run in scene.runs().values()] == ["superseded", None]


@pytest.mark.parametrize("writer", [1, 2])
def test_the_other_end_of_a_run_is_what_stands(scene: Scene, writer: int) -> None:
    scene.monitor()
    scene.ping(0, "fail", run="other")
    scene.ping(10, "start", run="r")
    scene.ping(20, "fail", run="r")
    scene.ping(30, "success", run="r", writer=writer)
    assert scene.runs()[2].verdict == "succeeded" and scene.status() != "down", "it began after the other had failed"


# ------------------------------------------------------------------------------------------------ like the originals

KEY = "11111111-1111-4111-8111-111111111111"
RIDS = {"a": "00000000-0000-4000-8000-00000000000a", "b": "00000000-0000-4000-8000-00000000000b"}
SUFFIXES = {"S": "", "F": "/fail", "T": "/start", "L": "/log"}


def send(scene: Scene, when: float, step: str) -> None:
    """A ping by the protocol of Healthchecks, read by its reader."""
    query = f"rid={RIDS[step[1]]}" if len(step) > 1 else ""
    reading = healthchecks.read(Request("GET", f"/ping/{KEY}{SUFFIXES[step[0]]}", query, {}, b""))
    assert isinstance(reading, ParsedPing)
    fields = {name: value for name, value in reading.ping._asdict().items() if value is not None}
    scene.ping(when, fields.pop("signal"), source=HERE, **fields)


def downs(steps: list[str], gaps: Iterator[float]) -> str:
    """After each step whether the monitor is down (d) or not (-)."""
    scene, when, seen = Scene(), 10.0, ""
    scene.monitor(every="1d", grace="1h", max_runtime="1h")  # as `import healthchecks` makes it
    for step in steps:
        send(scene, when, step)
        seen += "d" if scene.status() == "down" else "-"
        when += next(gaps)
    return seen


@pytest.mark.parametrize("gap", GAPS)
def test_what_healthchecks_calls_down_is_down(gap: float) -> None:
    assert len(SEQUENCES) == 1148
    counted = {steps: downs(steps.split(), iter(lambda: gap, None)) for steps in SEQUENCES}
    assert counted == SEQUENCES


def test_longer_sequences_are_down_after_a_failure_until_the_next_success() -> None:
    """All recorded sequences have this in common: the last success or failure decides about down, with any id."""

    def wanted(steps: list[str]) -> str:
        last, seen = "S", ""
        for step in steps:
            last = step[0] if step[0] in "SF" else last
            seen += "d" if last == "F" else "-"
        return seen

    assert {steps: wanted(steps.split()) for steps in SEQUENCES} == SEQUENCES
    rng = random.Random(7)
    for _ in range(3000):
        steps = [rng.choice("SFTL") + rng.choice(["", "a", "b"]) for _ in range(rng.randint(4, 12))]
        gap = rng.choice([*GAPS, 0])
        gaps = (gap or rng.choice([0.001, 1, 11, 40, 200]) for _ in count())
        assert downs(steps, gaps) == wanted(steps), steps


def test_a_success_without_an_id_ends_the_run_that_began_last(scene: Scene) -> None:
    scene.monitor(every="1d", grace="1h", max_runtime="1h")
    for number, step in enumerate(("Ta", "S", "Tb", "F", "S")):
        send(scene, number * 11, step)
    scene.tick("5h")
    assert [run.verdict for run in scene.runs().values()] == ["succeeded", "failed"] and scene.status() == "up"


def test_another_start_restarts_the_time_of_a_run(scene: Scene) -> None:
    scene.monitor(every="1d", grace="1h", max_runtime="1h")
    send(scene, 0, "Ta")
    send(scene, 2400, "Ta")
    scene.tick(5999)
    assert scene.status() == "up"
    scene.tick(6001)
    assert scene.status() == "down"


def test_sentrys_ok_without_an_id_ends_the_open_check_in(scene: Scene) -> None:
    scene.monitor(every="1d", grace="1h", max_runtime="30m")
    bodies = [
        {"status": "in_progress", "check_in_id": "a" * 31 + "1"},
        {"status": "ok", "check_in_id": "0" * 32},
        {"status": "in_progress", "check_in_id": "a" * 31 + "2"},
        {"status": "error"},
    ]
    for number, body in enumerate(bodies):
        request = Request(
            "POST",
            "/api/1/cron/job/0123456789abcdef/",
            "",
            {"content-type": "application/json"},
            json.dumps({"monitor_slug": "job", **body}).encode(),
        )
        reading = check_ins.read(request)
        assert isinstance(reading, ParsedPing), reading
        fields = {name: value for name, value in reading.ping._asdict().items() if value is not None}
        scene.ping(60 * number, fields.pop("signal"), source=HERE, **fields)
    scene.tick("2h")
    assert [run.verdict for run in scene.runs().values()] == ["succeeded", "failed"]
    assert scene.status() == "down" and scene.incidents()[1].cause == "failed"


# ------------------------------------------------------------------------------------------------ the real thing


async def test_the_start_that_curl_repeats_after_our_own_503_begins_one_run(database_url: str) -> None:
    needs("curl")
    definition = {"max_runtime": "1h", "overlap": "alert", "at_most": {"count": 1, "per": "1h"}}
    async with Link(database_url) as link, Server(link.url, "--commit-timeout", "1") as server:
        created = {slug: await server.api("PUT", f"/api/v1/monitors/{slug}", definition) for slug in ("job", "last")}
        address = f"{server.url}/api/v1/heartbeat/{created['job'].body['key']}/start"
        link.hold_replies(after=b"copy pings")  # Postgres commits, and its answer does not come
        command = ("curl", "-sSv", "-m", "20", "--retry", "5", "-w", "%{http_code}", address)
        curl = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert curl.stderr is not None
        while (line := await curl.stderr.readline()) and not line.startswith(b"< HTTP/1.1 503"):
            pass  # what curl says with -v; the server answers when it has waited for Postgres for a second
        assert line, "answered 503"
        link.mend()
        out, _ = await curl.communicate()
        assert out.decode().endswith("200"), out
        connection = await asyncpg.connect(database_url)
        starts = await connection.fetch("select at from pings where signal = 'start' order by at")
        await connection.close()
        assert len(starts) == 2, "both are recorded"
        async with server.session.get(f"/api/v1/heartbeat/{created['last'].body['key']}/fail") as response:
            assert response.status == 200
        await eventually(lambda: is_down(server, "last"))  # so everything before it is applied
        runs = (await server.api("GET", "/api/v1/monitors/job/runs")).body["items"]
        assert len(runs) == 1 and runs[0]["verdict"] is None and not await is_down(server, "job")


async def is_down(server: Server, slug: str) -> bool:
    """Whether this monitor has an incident."""
    return bool((await server.api("GET", f"/api/v1/monitors/{slug}")).body["status"] == "down")


async def test_what_healthchecks_calls_down_is_down_over_http(database_url: str) -> None:
    """Sequences of the same record at its addresses, with only the requests between two steps."""
    chosen = random.Random(11).sample(sorted(SEQUENCES), 300)
    keys = [str(uuid.UUID(int=number, version=4)) for number in range(len(chosen))]
    monitors = [
        {"slug": f"s{number}", "key": key, "every": "1d", "grace": "1h", "max_runtime": "1h"}
        for number, key in enumerate(keys)
    ]
    seen = [""] * len(chosen)
    async with Server(database_url) as server:
        last = [{"slug": f"last{turn}", "key": f"last{turn}-{'x' * 20}", "every": "1d"} for turn in range(4)]
        applied = await server.api("POST", "/api/v1/apply", {"monitors": monitors + last})
        assert applied.status == 200, applied

        async def ping(path: str) -> None:
            async with server.session.get(path) as response:
                assert response.status == 200 and await response.text() == "OK"

        for turn in range(4):
            steps = [(number, steps.split()[turn : turn + 1]) for number, steps in enumerate(chosen)]
            sent = [
                ping(f"/ping/{keys[number]}{SUFFIXES[step[0]]}" + (f"?rid={RIDS[step[1]]}" if step[1:] else ""))
                for number, (step,) in ((number, step) for number, step in steps if step)
            ]
            await asyncio.gather(*sent)
            await ping(f"/api/v1/heartbeat/{last[turn]['key']}/fail")
            await eventually(partial(is_down, server, f"last{turn}"))  # so everything before it is applied
            statuses: dict[str, str] = {}
            more: str | None = ""
            while more is not None:
                page = (await server.api("GET", f"/api/v1/monitors?limit=200{more}")).body
                statuses |= {each["slug"]: each["status"] for each in page["items"]}
                more = f"&cursor={page['next_cursor']}" if page["next_cursor"] else None
            for number, step in steps:
                seen[number] += ("d" if statuses[f"s{number}"] == "down" else "-") if step else ""
    assert dict(zip(chosen, seen, strict=True)) == {steps: SEQUENCES[steps] for steps in chosen}
