"""Servers for comparison: they answer `OK` and store nothing, each in a process of its own.

They store nothing on purpose: a Python web application that does anything with a ping costs at least this. uvloop and
no access log for both aiohttp servers; nginx with one worker a core and connections kept alive without end, at its
best.
"""

import asyncio
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

START_S = 10.0


class Rival(NamedTuple):
    """A server that runs."""

    name: str
    host: str
    port: int
    pid: int


NGINX = """
worker_processes auto;
daemon off;
pid {dir}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  default_type text/plain;
  keepalive_requests 1000000000;
  keepalive_timeout 75s;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 "OK\\n"; }}
  }}
}}
"""


@asynccontextmanager
async def aiohttp_application() -> AsyncIterator[Rival]:
    """aiohttp as people use it: an `Application` with one route."""
    async with _python("aiohttp app", "application") as rival:
        yield rival


@asynccontextmanager
async def aiohttp_low_level() -> AsyncIterator[Rival]:
    """aiohttp's `web.Server` alone: no router, no middlewares, no signals."""
    async with _python("aiohttp low-level", "low-level") as rival:
        yield rival


@asynccontextmanager
async def nginx() -> AsyncIterator[Rival]:
    """nginx's `return 200`. Raises FileNotFoundError without nginx."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise FileNotFoundError("nginx is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as directory:
        config = Path(directory) / "nginx.conf"
        config.write_text(NGINX.format(dir=directory, port=port))
        async with _child("nginx", port, program, "-c", str(config), "-p", directory) as rival:
            yield rival


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def _python(name: str, kind: str) -> AsyncIterator[Rival]:
    port = free_port()
    async with _child(name, port, sys.executable, "-m", "bench.rivals", kind, str(port)) as rival:
        yield rival


@asynccontextmanager
async def _child(name: str, port: int, *command: str) -> AsyncIterator[Rival]:
    child = await asyncio.create_subprocess_exec(*command)
    try:
        async with asyncio.timeout(START_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    if child.returncode is not None:
                        raise RuntimeError(f"{name} ended with {child.returncode} at its start") from None
                    await asyncio.sleep(0.02)
        yield Rival(name, "127.0.0.1", port, child.pid)
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


async def _ok(request: web.Request) -> web.Response:
    return web.Response(text="OK")


async def _ok_low_level(request: web.BaseRequest) -> web.Response:
    return web.Response(text="OK")


async def _serve(kind: str, port: int) -> None:
    if kind == "application":
        app = web.Application()
        app.router.add_route("*", "/api/v1/heartbeat/{key}", _ok)
        runner: web.BaseRunner = web.AppRunner(app, access_log=None)
    else:
        runner = web.ServerRunner(web.Server(_ok_low_level, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


def _main() -> None:
    import uvloop

    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(_serve(sys.argv[1], int(sys.argv[2])))


if __name__ == "__main__":
    _main()
