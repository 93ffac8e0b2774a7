"""Stages, tasks and progress of an open run: the API, its page, the command line and the engine agree."""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import orjson
import pytest

from offbeat_server.common.clock import to_rfc3339
from offbeat_server.db.repositories.client_runs import PINGS_APPLIED_MAX
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.model.run import Run
from tests.support.clients.command import offbeat
from tests.support.clients.pages import signed_in
from tests.support.harness import Server, eventually

DEFINITION: dict[str, Any] = {
    "max_runtime": "1h",
    "stages": ["split", {"name": "work", "tasks": {"tolerate": 1}}, "merge"],
}
BEGUN = ("start?run=r", "start?run=r&stage=split", "success?run=r&stage=split", "start?run=r&stage=work&total=3")
DONE = tuple(f"success?run=r&stage=work&task={task}" for task in "abc")
# The targets of the pings, and the status of stage `work` and the number of its tasks that are done after them.
CASES: dict[str, tuple[Sequence[str], str, int]] = {
    "tasks end their stage": ((*BEGUN, *DONE), "done", 3),
    "one may fail": ((*BEGUN, *DONE[:2], "fail?run=r&stage=work&task=c"), "done", 2),
    "a stage that is started again runs": ((*BEGUN, *DONE, "start?run=r&stage=work"), "running", 3),
    "and ends with the next task": ((*BEGUN, *DONE, "start?run=r&stage=work", DONE[0]), "done", 3),
    "tasks are retried": (
        (*BEGUN, *(target.replace("success", "fail") for target in DONE), *DONE[:2]),
        "done",
        2,
    ),
    "the total arrives late": ((*BEGUN[:-1], *DONE, "progress?run=r&stage=work&total=3"), "done", 3),
    "a total that is too small at first": (
        (*BEGUN[:-1], "start?run=r&stage=work&total=5", *DONE, "progress?run=r&stage=work&total=3"),
        "done",
        3,
    ),
    "a ping of another execution counts for nothing": (
        ("start?run=r&execution=blue", *BEGUN[1:], DONE[0], f"{DONE[1]}&execution=green", DONE[2]),
        "running",
        2,
    ),
    "no job leaves": ((*BEGUN, *DONE[:2], "leave?run=r&stage=work&task=z"), "running", 2),
}


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    """A server with one monitor with stages."""
    async with Server(database_url) as running:
        await running.api("PUT", "/api/v1/monitors/etl", DEFINITION)
        yield running


async def _ping(server: Server, targets: Sequence[str]) -> None:
    url = (await server.api("GET", "/api/v1/monitors/etl")).body["ping_url"].removeprefix(server.url)
    for target in targets:
        async with server.session.get(f"{url}/{target}") as answer:
            assert answer.status == 200, target


async def _run_when_read(server: Server, run: str, pings: int) -> dict[str, Any]:
    """The run with this id, once all pings are committed and may be read."""

    async def read() -> list[dict[str, Any]]:
        sent = (await server.api("GET", f"/api/v1/monitors/etl/pings?run={run}&limit=1000")).body["items"]
        runs = (await server.api("GET", f"/api/v1/monitors/etl/runs?run={run}")).body["items"]
        last_at = next(each["at"] for each in sent if each["signal"] != "leave")
        return [each for each in runs if len(sent) == pings and each["last_ping_at"] == last_at]

    return (await eventually(read))[0]


def _with_times(detail: Any) -> Any:
    """Instants as the API writes them."""
    if isinstance(detail, list):
        return [_with_times(each) for each in detail]
    if not isinstance(detail, dict):
        return detail
    return {
        name: to_rfc3339(value) if value is not None and (name.endswith("_at") or name == "eta") else _with_times(value)
        for name, value in detail.items()
    }


async def _run_of_engine(server: Server, database_url: str, run: str) -> Any:
    """The detail by the engine's own state, which is written because another run opens."""
    await _ping(server, ["start?run=other"])
    connection = await asyncpg.connect(database_url)
    try:

        async def stored() -> Any:
            text = await connection.fetchval("select (state -> 'runs' -> 'o')::text from states")
            found = {each["r"]: each for each in orjson.loads(text or "[]")}
            return found.get(run) if "other" in found else None

        state = await eventually(stored)
    finally:
        await connection.close()
    return _with_times(Run.load(state).detail(read_definition(DEFINITION)))


@pytest.mark.parametrize("case", CASES)
async def test_all_show_what_the_engine_has_decided(server: Server, database_url: str, case: str) -> None:
    targets, status, done = CASES[case]
    await _ping(server, targets[:1])
    await _run_when_read(server, "r", 1)  # it opened, so the state is stored: no later ping is in it
    await _ping(server, targets[1:])
    run = await _run_when_read(server, "r", len(targets))
    work = run["stages"][1]
    assert (work["status"], work["tasks"]["done"]) == (status, done)
    assert run["detail_as_of"] is None
    async with signed_in(server) as pages:
        page = await pages.get(f"/runs/{run['id']}")
    shown = re.findall(r'class="stage is-\w+"><span class="name">(\w+)</span>.*?<span>([\w ]+)</span>', page, re.DOTALL)
    assert shown == [(stage["name"], stage["status"]) for stage in run["stages"]]
    assert re.search(rf'class="amount">{done}(?: of \d)? done', page)
    assert "include only the pings until" not in page
    assert (await _run_of_engine(server, database_url, "r"))["stages"] == run["stages"]


@pytest.mark.slow
async def test_pings_that_are_not_read_are_said_everywhere(server: Server) -> None:
    """The state is as of the start of the run. Of the pings since then, only the first 60 000 are read."""
    url = (await server.api("GET", "/api/v1/monitors/etl")).body["ping_url"]
    await _ping(server, BEGUN)
    key, count = url.rsplit("/", 1)[1], PINGS_APPLIED_MAX + 5
    lines = [
        orjson.dumps({"key": key, "run": "r", "status": "progress", "done": n}) + b"\n" for n in range(1, count + 1)
    ]
    for first in range(0, count, 10_000):
        body = b"".join(lines[first : first + 10_000])
        async with server.session.post("/api/v1/heartbeats", data=body) as answer:
            assert (await answer.json())["accepted"] == body.count(b"\n")

    async def cut() -> list[dict[str, Any]]:
        runs = (await server.api("GET", "/api/v1/monitors/etl/runs?run=r")).body["items"]
        return [run for run in runs if run["detail_as_of"] is not None]

    run = (await eventually(cut))[0]
    assert count - 10 < run["progress"]["done"] < count
    said = "tages, tasks and progress include only the pings until"
    async with signed_in(server) as pages:
        assert said in await pages.get(f"/runs/{run['id']}")
    assert said in (await offbeat("runs", "show", run["id"], url=server.url)).out
    await _ping(server, [*DONE, "success?run=r"])

    async def ended() -> Any:
        runs = (await server.api("GET", "/api/v1/monitors/etl/runs?run=r")).body["items"]
        return runs[0]["verdict"] and runs[0]

    run = await eventually(ended)
    assert run["detail_as_of"] is None and run["progress"]["done"] == count
    async with signed_in(server) as pages:
        page = await pages.get(f"/runs/{run['id']}")
    assert "The grids of tasks include only the pings until" in page and f"{count:,}".replace(",", " ") in page
    assert 'class="amount">3 of 3 done' in page
