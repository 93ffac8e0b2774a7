"""A monitor gets another slug or another project: its history stays, and pings and links by the former address work.

On the real server, from the ping to the receiver.
"""

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from offbeat_server.db.repositories.monitor_moves import FORMER_SLUGS_MAX
from tests.e2e.web.test_pages_http import Visitor
from tests.support.harness import Receiver, Server, eventually


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url, "--allow-private-destinations") as server:
        yield server


async def move(server: Server, slug: str, body: dict[str, Any], status: int = 200, query: str = "") -> Any:
    answer = await server.api("POST", f"/api/v1/monitors/{slug}/move{query}", body)
    assert answer.status == status, answer.body
    return answer.body


async def ping(server: Server, path: str, status: int = 200) -> None:
    async with server.session.get(path) as answer:
        assert answer.status == status, await answer.text()


async def shown(server: Server, slug: str, query: str = "") -> Any:
    answer = await server.api("GET", f"/api/v1/monitors/{slug}{query}")
    return answer.body if answer.status == 200 else answer.body["detail"]


async def is_status(server: Server, slug: str, status: str, query: str = "") -> bool:
    async def same() -> bool:
        answer = await shown(server, slug, query)
        return isinstance(answer, dict) and answer["status"] == status

    return await eventually(same)


async def test_a_renamed_monitor_keeps_key_runs_and_incident_and_all_that_name_it_follow(server: Server) -> None:
    async with Receiver() as receiver:
        await server.put("channels/hook", {"kind": "webhook", "url": receiver.url})
        job = await server.put("monitors/job", {"tags": ["etl"]})
        await server.put("monitors/report", {"after": {"monitor": "job", "within": "1h"}, "depends_on": ["job"]})
        window = {"start": "2020-01-01T00:00:00Z", "end": "2020-01-01T01:00:00Z", "monitors": ["other", "job"]}
        await server.put("windows/night", window)
        await ping(server, f"/api/v1/heartbeat/{job['key']}/fail?run=r1")
        await receiver.wait_for(lambda r: r.json["type"] == "incident.opened")
        moved = await move(server, "job", {"slug": "load"})
        assert (moved["monitor"]["slug"], moved["monitor"]["key"]) == ("load", job["key"])
        assert moved["references"] == [
            {"kind": "monitor", "slug": "report", "field": "after"},
            {"kind": "monitor", "slug": "report", "field": "depends_on"},
            {"kind": "window", "slug": "night", "field": "monitors"},
        ]
        report = await shown(server, "report")
        assert (report["after"]["monitor"], report["depends_on"]) == ("load", ["load"])
        assert (await server.api("GET", "/api/v1/windows/night")).body["monitors"] == ["other", "load"]
        assert await is_status(server, "load", "down")
        assert [run["run"] for run in (await server.api("GET", "/api/v1/monitors/load/runs")).body["items"]] == ["r1"]
        await ping(server, f"/api/v1/heartbeat/{job['key']}?run=r2")
        resolved = (await receiver.wait_for(lambda r: r.json["type"] == "incident.resolved")).json["data"]
        assert (resolved["monitor"], resolved["name"], resolved["incident"]) == ("load", "load", 1)
        assert await move(server, "job", {"slug": "load"}) == {
            **moved,
            "references": [],
            "monitor": await shown(server, "load"),
        }
        [change] = (await server.api("GET", "/api/v1/changes?kind=move")).body["items"]
        assert change["fields"] == [
            {"field": "slug", "old": "job", "new": "load"},
            {"field": "name", "old": "job", "new": "load"},
        ]


async def test_pings_and_links_by_the_former_slug_work_until_another_monitor_takes_it(server: Server) -> None:
    project = (await server.api("GET", "/api/v1/projects/default")).body
    await server.put("monitors/job", {"every": "1h"})
    await ping(server, f"/ping/{project['ping_key']}/job")
    await move(server, "job", {"slug": "load"})
    for address in (f"/ping/{project['ping_key']}/job", f"/ping/{project['ping_key']}/load"):
        await ping(server, address)
    assert await shown(server, "job") == "There is no monitor job. It is load in the project default now."
    assert await shown(server, "never") == "There is no monitor never."

    async def pings(count: int) -> bool:
        return len((await server.api("GET", "/api/v1/monitors/load/pings")).body["items"]) == count

    assert await eventually(lambda: pings(3))
    async with Visitor(server) as visitor:
        assert await visitor.sign_in() == 303
        for page in ("", "/settings", "/runs"):
            status, _, headers = await visitor.get(f"/monitors/job{page}")
            assert (status, headers["Location"]) == (303, f"/monitors/load{page}")
    other = await server.put("monitors/job", {})
    await ping(server, f"/api/v1/heartbeat/{other['key']}")  # then the server knows the new monitor
    await ping(server, f"/ping/{project['ping_key']}/job")
    assert len((await server.api("GET", "/api/v1/monitors/job/pings")).body["items"]) == 2
    assert (await server.api("DELETE", "/api/v1/monitors/job")).status == 204

    async def unknown() -> bool:
        async with server.session.get(f"/ping/{project['ping_key']}/job") as answer:
            return answer.status == 404

    assert await eventually(unknown) and await pings(3)
    assert await shown(server, "job") == "There is no monitor job."


async def test_of_too_many_former_slugs_the_oldest_are_forgotten(server: Server) -> None:
    slugs = [f"job-{number}" for number in range(FORMER_SLUGS_MAX + 2)]
    await server.put(f"monitors/{slugs[0]}", {})
    for old, new in pairwise(slugs):
        await move(server, old, {"slug": new})
    answers = [await shown(server, slug) for slug in slugs[:3]]
    now = f"It is {slugs[-1]} in the project default now."
    assert [now in answer for answer in answers] == [False, True, True]


async def test_a_monitor_moves_with_its_open_incident_and_the_new_place_gets_its_alerts(
    server: Server, database: asyncpg.Connection
) -> None:
    async with Receiver() as receiver:
        await server.put("projects/other", {})
        for project in ("default", "other"):
            channel = {"kind": "webhook", "url": f"{receiver.url}/{project}"}
            await server.put(f"channels/hook?project={project}", channel)
        job = await server.put("monitors/job", {})
        ping_key = (await server.api("GET", "/api/v1/projects/default")).body["ping_key"]
        await ping(server, f"/api/v1/heartbeat/{job['key']}/fail")
        await receiver.wait_for(lambda r: (r.path, r.json["type"]) == ("/default", "incident.opened"))
        moved = await move(server, "job", {"project": "other", "slug": "load"})
        assert moved["monitor"]["project"] == "other" and moved["references"] == []
        opened = await receiver.wait_for(lambda r: (r.path, r.json["type"]) == ("/other", "incident.opened"))
        data = opened.json["data"]
        assert (data["monitor"], data["project"]) == ("load", "other")
        assert await is_status(server, "load", "down", "?project=other")

        async def listed() -> bool:
            incidents = [
                (await server.api("GET", f"/api/v1/incidents?project={p}")).body["items"] for p in ("default", "other")
            ]
            return [len(each) for each in incidents] == [0, 1]

        assert await eventually(listed)
        await ping(server, f"/ping/{ping_key}/job")
        await receiver.wait_for(lambda r: (r.path, r.json["type"]) == ("/default", "incident.resolved"))
        await receiver.wait_for(lambda r: (r.path, r.json["type"]) == ("/other", "incident.resolved"))
        for project in ("default", "other"):
            kinds = (await server.api("GET", f"/api/v1/changes?project={project}&kind=move")).body["items"]
            assert len(kinds) == 1, project
        assert await shown(server, "job") == "There is no monitor job. It is load in the project other now."
        assert (
            await database.fetchval(
                "select count(*) from keys k join monitors m on m.id = k.monitor_id and m.project_id <> k.project_id"
            )
            == 0
        )


async def test_what_stands_against_a_move_is_listed_and_references_can_be_dropped(server: Server) -> None:
    await server.put("projects/other", {})
    await server.put("channels/pager", {"kind": "log"})
    await server.put("monitors/db", {})
    await server.put("monitors/job", {"depends_on": ["db"], "channels": ["pager"]})
    await server.put("monitors/report", {"after": {"monitor": "job", "within": "1h"}})
    refused = await move(server, "job", {"project": "other"}, 409)
    assert [(each["field"], each["reason"].partition(":")[0]) for each in refused["errors"]] == [
        ("channels", "there is no channel 'pager' in the project other"),
        ("depends_on", "depends_on of this monitor names monitors of the project default"),
        ("after", "monitor report names this monitor in after"),
    ]
    assert (await move(server, "job", {"slug": "db"}, 409))["detail"].startswith("There is a monitor db")
    await server.put("channels/pager?project=other", {"kind": "log"})
    moved = await move(server, "job", {"project": "other", "drop_references": True})
    assert [(each["slug"], each["field"]) for each in moved["references"]] == [
        ("job", "depends_on"),
        ("report", "after"),
    ]
    assert moved["monitor"]["depends_on"] == [] and (await shown(server, "report"))["after"] is None
    assert await move(server, "none", {"slug": "x"}, 404)


async def test_a_key_of_one_project_cannot_move_a_monitor_to_another(server: Server) -> None:
    await server.put("projects/other", {})
    await server.put("monitors/job", {})
    made = await server.api("POST", "/api/v1/keys", {"name": "one", "role": "admin", "project": "default"})
    headers = {"X-Api-Key": made.body["key"]}
    for body, status in (({"project": "other"}, 404), ({"slug": "load"}, 200)):
        async with server.session.post("/api/v1/monitors/job/move", json=body, headers=headers) as answer:
            assert answer.status == status, await answer.text()


async def test_a_restart_after_a_move_decides_nothing_again(database_url: str) -> None:
    async with Server(database_url) as server:
        await server.put("projects/other", {})
        job = await server.put("monitors/job", {})
        await server.put("monitors/report", {"after": {"monitor": "job", "within": "1h"}})
        await ping(server, f"/api/v1/heartbeat/{job['key']}/start?run=r1")
        await ping(server, f"/api/v1/heartbeat/{job['key']}/fail?run=r2")
        assert await is_status(server, "job", "down")
        await move(server, "job", {"slug": "load"})
        await server.kill()
    async with Server(database_url) as server:
        await ping(server, f"/api/v1/heartbeat/{job['key']}/success?run=r1")
        assert await is_status(server, "load", "down")

        async def ended() -> bool:
            runs = (await server.api("GET", "/api/v1/monitors/load/runs")).body["items"]
            return {run["run"]: run["verdict"] for run in runs} == {"r1": "succeeded", "r2": "failed"}

        assert await eventually(ended)
        report = await shown(server, "report")
        assert report["after"]["monitor"] == "load" and report["due_at"] is not None
        assert len((await server.api("GET", "/api/v1/incidents")).body["items"]) == 1
