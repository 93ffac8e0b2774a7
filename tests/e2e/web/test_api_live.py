"""The API on the whole server: soon true after a ping's 200, and never in the way of pings."""

import asyncio
from typing import Any

from offbeat_server.common.clock import monotonic
from tests.support.harness import Server, eventually


async def test_a_ping_is_shown(database_url: str) -> None:
    async with Server(database_url) as server:
        monitor = (await server.api("PUT", "/api/v1/monitors/job", {"every": "1h", "max_runtime": "10m"})).body
        ping = monitor["ping_url"].removeprefix(server.url)

        async def is_now(**expected: Any) -> None:
            async def fits() -> bool:
                shown = (await server.api("GET", "/api/v1/monitors/job")).body
                return all(shown[name] == value for name, value in expected.items())

            await eventually(fits)

        before = monitor["last_ping_at"]
        assert before is None and monitor["status"] == "new"
        async with server.session.get(ping) as answer:
            assert answer.status == 200
        shown = (await server.api("GET", "/api/v1/monitors/job")).body
        assert shown["status"] == "up" and shown["last_ping_at"] is not None, "without any delay: read from the log"
        assert shown["due_at"] > shown["last_ping_at"]
        pings = (await server.api("GET", "/api/v1/monitors/job/pings")).body["items"]
        assert [p["at"] for p in pings] == [shown["last_ping_at"]]
        assert pings[0]["source"] == "127.0.0.1" and pings[0]["dialect"] is None

        await server.session.get(ping + "/start?run=a")
        await is_now(open_runs=1, last_signal="start")
        await server.session.get(ping + "/start?run=b")
        await is_now(open_runs=2)
        await server.session.get(ping + "/1?run=a")
        await is_now(open_runs=1, status="down")
        runs = (await server.api("GET", "/api/v1/monitors/job/runs")).body["items"]
        assert [(run["run"], run["verdict"]) for run in runs] == [("b", None), ("a", "failed")]
        (incident,) = (await server.api("GET", "/api/v1/monitors/job/incidents?open=true")).body["items"]
        assert incident["run"] == "a" and incident["cause"] == "failed"

        paused = await server.api("POST", "/api/v1/monitors/job/pause")
        assert paused.body["status"] == "paused"
        assert (await server.api("DELETE", "/api/v1/monitors/job")).status == 204

        async def is_unknown() -> bool:
            async with server.session.get(ping) as answer:
                return answer.status == 404

        await eventually(is_unknown)
        assert (await server.api("POST", "/api/v1/monitors/job/ping")).status == 404


async def test_a_run_is_shown_as_it_is_this_moment(database_url: str) -> None:
    body = {"stages": [{"name": "extract"}, {"name": "load"}], "tasks": {"expected": 3}, "max_runtime": "1h"}
    async with Server(database_url) as server:
        ping = (await server.api("PUT", "/api/v1/monitors/etl", body)).body["ping_url"].removeprefix(server.url)
        for target in (
            *("start?run=r", "start?run=r&stage=extract", "success?run=r&stage=extract", "start?run=r&stage=load"),
            *("success?run=r&task=t1", "fail?run=r&task=t2", "progress?run=r&done=10&total=40"),
        ):
            async with server.session.get(f"{ping}/{target}") as answer:
                assert answer.status == 200

        async def runs() -> Any:
            return (await server.api("GET", "/api/v1/monitors/etl/runs")).body["items"]

        async def counted() -> bool:
            listed = await runs()
            return bool(listed and listed[0]["progress"])

        await eventually(counted)
        (run,) = await runs()
        assert [(stage["name"], stage["status"]) for stage in run["stages"]] == [
            ("extract", "done"),
            ("load", "running"),
        ]
        assert run["tasks"]["expected"] == 3 and run["tasks"]["done"] == 1 and run["tasks"]["failed"] == 1
        assert run["progress"]["done"] == 10 and run["progress"]["total"] == 40
        assert (await server.api("GET", f"/api/v1/runs/{run['id']}")).body["stages"] == run["stages"]


async def test_a_stage_of_an_open_run_is_done_when_all_its_tasks_are(database_url: str) -> None:
    body = {"stages": ["split", {"name": "work", "tasks": {"tolerate": 1}}, "merge"], "max_runtime": "1h"}
    async with Server(database_url) as server:
        ping = (await server.api("PUT", "/api/v1/monitors/etl", body)).body["ping_url"].removeprefix(server.url)

        async def shows(*statuses: str) -> None:
            async def does() -> bool:
                runs = (await server.api("GET", "/api/v1/monitors/etl/runs")).body["items"]
                assert [[stage["status"] for stage in run["stages"]] for run in runs] == [list(statuses)]
                return True

            await eventually(does)

        async def send(*pings: str) -> None:
            for each in pings:
                async with server.session.get(f"{ping}/{each}") as answer:
                    assert answer.status == 200

        await send("success?run=r&stage=split", "start?run=r&stage=work&total=2", "success?run=r&stage=work&task=a")
        await shows("done", "running", "waiting")
        await send("fail?run=r&stage=work&task=b")
        await shows("done", "done", "waiting")
        await send("start?run=r&stage=work")
        await shows("done", "running", "waiting")


async def test_ten_thousand_definitions_do_not_hold_up_pings(database_url: str) -> None:
    monitors = {f"m{n:05}": {"cron": f"{n % 60} * * * *", "grace": "5m", "tags": ["t"]} for n in range(10_000)}
    async with Server(database_url) as server:
        ping = (await server.api("PUT", "/api/v1/monitors/job", {})).body["ping_url"].removeprefix(server.url)
        over, answered = asyncio.Event(), 0

        async def keep_pinging() -> None:
            nonlocal answered
            while not over.is_set():
                async with server.session.get(ping) as answer:
                    assert answer.status == 200
                answered += 1
                await asyncio.sleep(0.005)

        pinging = asyncio.create_task(keep_pinging())
        applied = await server.api("POST", "/api/v1/apply", {"monitors": monitors})
        meanwhile = answered
        assert applied.body["counts"]["created"] == 10_000
        listed = await server.api("GET", "/api/v1/monitors?limit=1000&status=new")
        assert len(listed.body["items"]) == 1000
        over.set()
        await pinging
        assert meanwhile > 10, "if a ping waited for the whole file, it would be one or two"


async def test_fleets_and_durations(database_url: str) -> None:
    began_s = monotonic()
    async with Server(database_url) as server:
        fleet = {"members": {"every": "1s", "grace": "0s", "min_alive": 1}}
        ping = (await server.api("PUT", "/api/v1/monitors/workers", fleet)).body["ping_url"].removeprefix(server.url)
        for name in ("w1", "w2", "w3"):
            await server.session.get(f"{ping}?task={name}")
        await server.session.get(f"{ping}/leave?task=w3")

        async def silent() -> list[str]:
            await server.session.get(f"{ping}?task=w1")
            answer = await server.api("GET", "/api/v1/monitors/workers/members?silent=true")
            return [member["name"] for member in answer.body["items"]]

        assert await eventually(silent, every_s=0.2) == ["w2"]
        first = (await server.api("GET", "/api/v1/monitors/workers/members?limit=1")).body
        assert [member["name"] for member in first["items"]] == ["w1"] and first["items"][0]["silent_since"] is None
        rest = (await server.api("GET", f"/api/v1/monitors/workers/members?cursor={first['next_cursor']}")).body
        assert [member["name"] for member in rest["items"]] == ["w2"] and rest["next_cursor"] is None

        stages = {"stages": [{"name": "extract"}]}
        ping = (await server.api("PUT", "/api/v1/monitors/etl", stages)).body["ping_url"].removeprefix(server.url)
        for run in ("a", "b", "c"):
            for target in ("start?", "start?stage=extract&", "success?stage=extract&", "success?"):
                await server.session.get(f"{ping}/{target}run={run}")

        async def counted() -> bool:
            lengths = (await server.api("GET", "/api/v1/monitors/etl/durations")).body
            return bool(lengths["runs"]["count"] == 3 and lengths["stages"][0]["count"] == 3)

        await eventually(counted)
        lengths = (await server.api("GET", "/api/v1/monitors/etl/durations")).body
        assert 0 < lengths["runs"]["median"] <= lengths["runs"]["p95"] < monotonic() - began_s
        assert lengths["stages"][0]["name"] == "extract"
        assert (await server.api("GET", "/api/v1/monitors/workers/durations")).body["runs"]["median"] is None
