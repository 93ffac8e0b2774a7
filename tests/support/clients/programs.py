"""Shared by the tests with real clients: running a program, and the monitor's state at the server afterwards."""

import asyncio
import sys
from typing import Any, NamedTuple

from tests.support.harness import HANG_S, Server, eventually


class Ran(NamedTuple):
    """How a program ended."""

    code: int
    out: str
    err: str


async def run(*command: str, stdin: bytes = b"", timeout_s: float = HANG_S) -> Ran:
    """A program, to its end."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


async def python(script: str, *arguments: str) -> Ran:
    """A script in a Python of its own."""
    return await run(sys.executable, "-c", script, *arguments)


async def make(server: Server, slug: str, **definition: Any) -> str:
    """A monitor; its main key."""
    answer = await server.api("PUT", f"/api/v1/monitors/{slug}", definition)
    assert answer.status in (200, 201), answer
    key: str = answer.body["key"]
    return key


async def ping_key(server: Server) -> str:
    """That of the default project."""
    answer = await server.api("GET", "/api/v1/projects/default")
    key: str = answer.body["ping_key"]
    return key


async def pings(server: Server, slug: str) -> list[dict[str, Any]]:
    """All pings of a monitor, the oldest first."""
    answer = await server.api("GET", f"/api/v1/monitors/{slug}/pings?limit=100")
    assert answer.status == 200, answer
    return list(reversed(answer.body["items"]))


async def ping_fields(server: Server, slug: str, *fields: str) -> list[tuple[Any, ...]]:
    """Of each ping of a monitor, the oldest first: its signal and these fields."""
    return [tuple(ping[field] for field in ("signal", *fields)) for ping in await pings(server, slug)]


async def runs_become(server: Server, slug: str, *expected: tuple[str | None, str | None]) -> None:
    """The monitor's runs are these, each with its id and verdict, in any order."""

    async def look() -> bool:
        items = (await server.api("GET", f"/api/v1/monitors/{slug}/runs")).body["items"]
        assert sorted((run["run"] or "", run["verdict"] or "open") for run in items) == sorted(
            (run or "", verdict or "open") for run, verdict in expected
        )
        return True

    await eventually(look)


async def status_becomes(server: Server, slug: str, *statuses: str) -> dict[str, Any]:
    """The monitor, once its status is one of these."""

    async def look() -> dict[str, Any] | None:
        monitor: dict[str, Any] = (await server.api("GET", f"/api/v1/monitors/{slug}")).body
        assert monitor["status"] in statuses, monitor["status"]
        return monitor

    monitor = await eventually(look)
    assert monitor is not None
    return monitor
