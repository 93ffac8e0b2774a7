"""The lines that the pages offer for pasting do what they say, in a real shell and a real Python."""

import asyncio
import os
import shlex
import sys
from collections.abc import AsyncIterator

import pytest
import yaml

from server.engine.monitor import Definition
from server.web.pages_snippets import snippets
from tests.harness import Server, needs


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


async def heard(server: Server, since: int) -> list[tuple[str, int | None]]:
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
    assert await heard(server, 0) == [("success", None), ("start", None), ("fail", 3)]

    entry = text["crontab"].splitlines()[0]
    assert entry.startswith("*/5 * * * * ") and "%" not in entry, "cron reads % as the end of the line"
    await run("sh", "-c", entry.removeprefix("*/5 * * * * ").replace("/path/to/job", "true"))
    assert await heard(server, 3) == [("success", 0)]

    for body, code, last in (("pass", 0, "success"), ("raise SystemExit(4)", 4, "fail")):
        program = f"def main():\n    {body}\n" + text["Python"]
        before = len(await heard(server, 0))
        assert await run(sys.executable, "-c", program) == code, "the job's own exit code stays"
        assert [signal for signal, _ in await heard(server, before)] == ["start", last]
    unheard = text["Python"].replace(url, "http://127.0.0.1:9/x")
    assert await run(sys.executable, "-c", "def main():\n    pass\n" + unheard) == 0

    before = len(await heard(server, 0))
    for line in text["systemd"].splitlines():
        name, _, command = line.partition("=")
        if name in ("ExecStartPre", "ExecStopPost"):
            words = shlex.split(command.removeprefix("-").replace("$$", "$"))
            assert await run(*words, SERVICE_RESULT="exit-code") == 0
    assert [signal for signal, _ in await heard(server, before)] == ["start", "fail"]

    needs("wget")
    job = yaml.safe_load(text["Kubernetes"])["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    before = len(await heard(server, 0))
    assert await run(*job["command"], job["args"][0].replace("/path/to/job", fails)) == 3
    assert await heard(server, before) == [("start", None), ("fail", 3)]
