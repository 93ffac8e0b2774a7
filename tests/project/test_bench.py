"""The bench, in small: each one runs to its end, so that none rots; and what it computes is right. No number counts."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer
from rich.console import Console

from bench import load, report, rivals, wrk
from bench.benches import NAMES
from bench.benches.burst import recovered
from bench.benches.million import quantile
from bench.load import Latency, Outcome, Phase, Plan
from bench.measure import OURS, Goal, Line, Result, in_turn, ratio
from bench.stage import Stage
from tests.support.harness import needs

ALWAYS = {"single", "bulk", "cost", "start"}  # the others are left out of `make quick`
# They run what the others run, under another load.
LONG = {"burst", "connect", "dialects", "hostile", "latency", "mixed", "scale"}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One Postgres for all benches, with fsync as in the real bench."""
    stage = Stage(quick=True, rounds=1, say=print)
    # In loops of their own: the cluster outlives those of the tests.
    asyncio.run(stage.__aenter__())
    yield stage
    asyncio.run(stage.__aexit__())


def _marks(name: str) -> pytest.MarkDecorator | tuple[()]:
    return pytest.mark.long if name in LONG else () if name in ALWAYS else pytest.mark.slow


@pytest.mark.parametrize("name", [pytest.param(name, marks=_marks(name)) for name in NAMES])
async def test_bench(name: str, stage: Stage) -> None:
    needs("wrk")
    needs("nginx")
    result = await import_module(f"bench.benches.{name}").run(stage)
    assert result.bench == name and result.title
    assert result.lines and all(line.values for line in result.lines), result
    assert result.goals


@pytest.fixture
def keys(tmp_path: Path) -> str:
    path = tmp_path / "keys.txt"
    path.write_text("".join(f"key-{n}\n" for n in range(50)))
    return str(path)


async def test_rivals_answer_both_load_generators(keys: str) -> None:
    needs("wrk")
    needs("nginx")
    for start in (rivals.aiohttp_application, rivals.aiohttp_low_level, rivals.nginx):
        async with start() as rival:
            closed = await wrk.drive(rival.host, rival.port, keys, connections=8, seconds=1)
            assert closed.answers > 100 and closed.errors == closed.broken == 0
            given = await load.send(Plan(rival.host, rival.port, keys, [Phase("only", 0.3, 500)], connections=8))
            assert given.statuses == {"200": given.sent} and given.lost == 0
            assert 90 < given.sent < 220  # Poisson about 150
            assert given.phases["only"].count == given.small.count == given.sent


async def test_a_stall_counts_for_every_ping_that_was_due_in_it(aiohttp_server: AiohttpServer, keys: str) -> None:
    """A closed loop would see one slow answer for each of the two connections; an open one sees them all."""
    stalled: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        if not stalled:
            stalled.append(request.path)
            time.sleep(0.4)  # noqa: ASYNC251  # sleep: the whole server stands still
        return web.Response(text="OK")

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    server = await aiohttp_server(app)
    assert server.port is not None
    plan = Plan("127.0.0.1", server.port, keys, [Phase("only", 0.8, 250)], connections=2)
    given = await load.send(plan)
    assert given.statuses == {"200": given.sent}
    # About 100 of about 200 were due while no server answered, spread over 400 ms; two of 200 would leave p90 at zero.
    assert given.small.p90 > 250 and given.small.max > 390


async def test_large_requests_are_listed_apart_and_errors_counted(aiohttp_server: AiohttpServer, keys: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        return web.Response(status=503 if request.path.endswith("key-7") else 200, text=str(len(body)))

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    server = await aiohttp_server(app)
    assert server.port is not None
    plan = Plan(
        "127.0.0.1", server.port, keys, [Phase("only", 0.5, 400)], connections=8, large_share=0.5, large_bytes=5_000
    )
    given = await load.send(plan)
    assert set(given.statuses) == {"200", "503"} and given.lost == 0
    assert given.small.count + given.large.count == given.statuses["200"]
    assert given.large.count > 20
    assert sum(others for *_, others in given.windows) == given.statuses["503"]


async def test_rivals_are_measured_in_turn() -> None:
    order = []

    def contender(name: str) -> Callable[[], Awaitable[float]]:
        async def measure() -> float:
            order.append(name)
            return float(len(order))

        return measure

    lines = await in_turn(2, {OURS: contender(OURS), "rival": contender("rival")}, "{} now", "pings/s", "requests/s")
    assert order == [OURS, "rival", OURS, "rival"]
    assert lines[OURS] == Line("Offbeat now", "pings/s", [1, 3])
    assert lines["rival"] == Line("rival now", "requests/s", [2, 4])
    assert ratio(lines[OURS], lines["rival"]) == pytest.approx((1 / 2 + 3 / 4) / 2)


def test_goals() -> None:
    assert Goal("", 1.5, at_least=1.5).reached and not Goal("", 1.4, at_least=1.5).reached
    assert Goal("", 20, at_most=25).reached and not Goal("", 26, at_most=25).reached
    assert Goal("", 0.1, aim=0.6).reached
    assert Goal("", 3, at_least=1.5).times == 2 and Goal("", 5, at_most=10).times == 2
    assert Goal("", 0, at_most=0).reached


def test_quantiles() -> None:
    assert Latency.of([n / 1000 for n in range(1, 1001)]) == Latency(1000, 501.0, 901.0, 991.0, 1000.0, 1000.0)
    name = "offbeat_decision_lag_seconds"
    before = {f'{name}_bucket{{le="{le}"}}': 10.0 for le in ("0.1", "0.25", "+Inf")}
    after = dict(zip(before, (110.0, 110.0, 111.0), strict=True))
    assert quantile(before, after, 0.5) == pytest.approx(0.1 * 50.5 / 100)
    assert quantile(before, after, 0.999) == pytest.approx(0.25)


def test_recovery_counts_from_the_end_of_the_burst() -> None:
    window = [[at / 2, 1.0, 500.0 if 4 <= at < 9 else 2.0, 100, 0] for at in range(20)]
    assert recovered(Outcome(windows=window), 3.0, 2.0) == 1.5
    assert recovered(Outcome(windows=[w for w in window if w[0] < 1.5]), 3.0, 2.0) == 0.0
    later = [*window[:16], [8.0, 1.0, 90.0, 100, 0], *window[17:]]  # a hiccup long after is not the burst's
    assert recovered(Outcome(windows=later), 3.0, 2.0) == 1.5
    soon = [*window[:11], [5.5, 1.0, 90.0, 100, 0], *window[12:]]  # one before it has stayed normal is
    assert recovered(Outcome(windows=soon), 3.0, 2.0) == 3.0


def test_results_are_shown_saved_and_drawn(tmp_path: Path) -> None:
    from bench.picture import draw

    result = Result(
        "single", "single pings",
        [Line("Offbeat, 64 connections", "pings/s", [30e3, 31e3, 29e3]), Line("nginx", "requests/s", [9e4, 1e5, 8e4])],
        [Goal("× nginx", 0.33, at_least=0.35, aim=0.5), Goal("p99", 12, at_most=25, unit=" ms")],
        ["a note"],
    )  # fmt: skip
    console = Console(width=150, record=True, file=open(tmp_path / "shown.txt", "w"))  # noqa: SIM115
    report.show(console, [result])
    shown = console.export_text()
    assert "30,000" in shown and "29,000 to 31,000" in shown and "missed" in shown and "reached" in shown
    path = tmp_path / "results" / "latest.json"
    report.save([result], path, quick=False, rounds=3)
    report.save([Result("bulk", "bulk")], path, quick=False, rounds=3)  # another bench leaves this one alone
    written = json.loads(path.read_text())
    assert written["results"]["single"]["lines"][0]["median"] == 30_000
    assert written["results"]["single"]["goals"][0]["reached"] is False
    assert written["machine"]["cores"] and written["results"]["single"]["commit"]
    assert report.load(path)[0] == result
    draw(report.load(path), tmp_path / "latest.svg")
    picture = (tmp_path / "latest.svg").read_text()
    assert "Offbeat, 64 connections" in picture and "× nginx" in picture
