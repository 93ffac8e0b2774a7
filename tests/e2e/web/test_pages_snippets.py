"""The lines that the pages offer for pasting do what they say, in a real shell and a real Python."""

import asyncio
import os
import shlex
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from offbeat_server.engine.model.definition import Definition, read_definition
from offbeat_server.web.ui.snippets import snippets
from tests.support.harness import Server, eventually, needs


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    """A server with one monitor, `job`."""
    async with Server(database_url) as running:
        await running.api("PUT", "/api/v1/monitors/job", {"every": "1h"})
        yield running


async def run(*command: str, **env: str) -> int:
    """The exit code."""
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **env})
    return await process.wait()


async def received(server: Server, since: int) -> list[tuple[str, int | None]]:
    """Signals and exit codes, the oldest first, without the first `since`."""
    pings = (await server.api("GET", "/api/v1/monitors/job/pings")).body["items"]
    return [(ping["signal"], ping["exit_code"]) for ping in reversed(pings)][since:]


async def test_every_snippet_works_when_pasted(server: Server) -> None:
    needs("curl")
    url = (await server.api("GET", "/api/v1/monitors/job")).body["ping_url"]
    key = url.rsplit("/", 1)[1]
    text = {each.place: each.text for each in snippets(url, server.url, key, Definition())}
    fails = "sh -c 'exit 3'"

    assert await run("bash", "-c", text["curl"].replace("./job", fails)) == 0
    assert await received(server, 0) == [("success", None), ("start", None), ("fail", 3)]

    entry = text["crontab"].splitlines()[0]
    assert entry.startswith("*/5 * * * * ") and "%" not in entry, "cron reads % as the end of the line"
    await run("sh", "-c", entry.removeprefix("*/5 * * * * ").replace("/path/to/job", "true"))
    assert await received(server, 3) == [("success", 0)]

    for body, code, last in (("pass", 0, "success"), ("raise SystemExit(4)", 4, "fail")):
        program = f"def main():\n    {body}\n" + text["Python"]
        before = len(await received(server, 0))
        assert await run(sys.executable, "-c", program) == code, "the job's own exit code stays"
        assert [signal for signal, _ in await received(server, before)] == ["start", last]
    to_closed_port = text["Python"].replace(url, "http://127.0.0.1:9/x")
    assert await run(sys.executable, "-c", "def main():\n    pass\n" + to_closed_port) == 0

    before = len(await received(server, 0))
    for line in text["systemd"].splitlines():
        name, _, command = line.partition("=")
        if name in ("ExecStartPre", "ExecStopPost"):
            arguments = shlex.split(command.removeprefix("-").replace("$$", "$"))
            assert await run(*arguments, SERVICE_RESULT="exit-code") == 0
    assert [signal for signal, _ in await received(server, before)] == ["start", "fail"]

    needs("wget")
    job = yaml.safe_load(text["Kubernetes"])["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    before = len(await received(server, 0))
    assert await run(*job["command"], job["args"][0].replace("/path/to/job", fails)) == 3
    assert await received(server, before) == [("start", None), ("fail", 3)]


async def test_every_snippet_for_a_fleet_names_its_worker(server: Server) -> None:
    """Pasted again and again on one machine, every one of them is one and the same member."""
    needs("curl")
    needs("wget")
    members = {"every": "4s", "grace": "30s"}
    answer = await server.api("PUT", "/api/v1/monitors/fleet", {"members": members})
    url = answer.body["ping_url"]
    text = {
        s.place: s.text for s in snippets(url, server.url, answer.body["key"], read_definition({"members": members}))
    }
    host = socket.gethostname()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    async def member_names() -> list[str]:
        members = (await server.api("GET", "/api/v1/monitors/fleet/members")).body["items"]
        return [each["name"] for each in members]

    async def signals() -> list[str]:
        pings = (await server.api("GET", "/api/v1/monitors/fleet/pings")).body["items"]
        assert {ping["task"] for ping in pings} <= {host}
        return [ping["signal"] for ping in reversed(pings)]

    for _ in range(2):
        assert await run("sh", "-c", text["curl"]) == 0
        by_code, by_exec = (line for line in text["crontab"].splitlines() if line.startswith("* * * * * "))
        assert "%" not in by_code + by_exec, "cron reads % as the end of the line"
        await run("sh", "-c", by_code.removeprefix("* * * * * ").replace("/path/to/job", "sh -c 'exit 3'"))
        await run("sh", "-c", by_exec.removeprefix("* * * * * ").replace("/path/to/job", "true"), PATH=path)
        await run("sh", "-c", text["offbeat exec"].replace("/path/to/worker", "true"), PATH=path)
    received = ["success", "fail", "start", "success", "start", "success"]
    assert await signals() == received * 2
    assert await run(sys.executable, "-c", text["Python"]) == 0
    assert (await signals())[-2:] == ["success", "leave"]

    start = next(line for line in text["systemd"].splitlines() if line.startswith("ExecStart="))
    assert await run(*shlex.split(start.removeprefix("ExecStart=").replace("%H", host))) == 0
    (container,) = yaml.safe_load(text["Kubernetes"])["spec"]["template"]["spec"]["containers"]
    script = container["args"][0]
    assert await run(*container["command"], script.replace("/path/to/worker", "sh -c 'sleep 0.2; exit 5'")) == 5
    worker = await asyncio.create_subprocess_exec(*container["command"], script.replace("/path/to/worker", "sleep 60"))
    count = len(await signals())

    async def pinged() -> bool:
        return len(await signals()) > count

    await eventually(pinged)
    assert await member_names() == [host]
    worker.terminate()
    assert await worker.wait() == 143
    assert (await signals())[-1] == "leave"
