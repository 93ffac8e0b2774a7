"""The base of the tests: real Postgres clusters, the real server as a process, a real receiver of webhooks.

Nothing here imitates the product. Everything waits for signals with a generous bound, never for a fixed time.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self, TypeVar
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import pytest
from aiohttp import web

from offbeat_server.db.embedded.cluster import LOCALE
from offbeat_server.db.embedded.postgres import EmbeddedPostgres
from offbeat_server.db.pool import connect
from tests.support.postgres.clusters import as_owner, prepare

ROOT = Path(__file__).parents[2]
ADMIN_KEY = "test-admin-key"
# Ends a test that waits for what never comes. Nothing is asserted by it: it is far above what a slow machine needs.
HANG_S = 120.0
T = TypeVar("T")

DEBIAN_BIN = Path("/usr/lib/postgresql/15/bin")
_EXTRA_PATH = ("/usr/sbin", "/sbin", str(DEBIAN_BIN))


def needs(program: str) -> str:
    """The path of a program. Without it the test is skipped with the reason, and fails where CI=true."""
    path = shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_EXTRA_PATH)))
    if path is None:
        refuse(f"{program} is not installed (`make test` installs it where it may)")
    return path


def refuse(reason: str) -> NoReturn:
    """Ends the test as skipped, or as failed where CI=true: there, what is missing is a defect."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


async def eventually(what: Callable[[], Awaitable[T]], timeout_s: float = HANG_S, every_s: float = 0.02) -> T:
    """The first true answer of `what`. Fails with the last one, or with its AssertionError, when none comes in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        failure: AssertionError | None = None
        answer: T | None = None
        try:
            answer = await what()
        except AssertionError as error:
            failure = error
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s; the last answer was {answer!r}") from failure
        await asyncio.sleep(every_s)


# ------------------------------------------------------------------------------------------------------------ Postgres


class Postgres:
    """A cluster of its own, with a template from which every test gets a fresh database with schema and partitions."""

    def __init__(
        self,
        bin_dir: Path | None = None,
        locale: Sequence[str] = LOCALE,
        parent: Path | None = None,
        **settings: str,
    ) -> None:
        # Not pytest's own place for files: it closes that to others at every start, and Postgres is another user.
        self.directory = Path(tempfile.mkdtemp(prefix="offbeat-test-", dir=parent))
        self._service = EmbeddedPostgres(self.directory, settings, bin_dir, locale)
        self._made = 0

    @property
    def url(self) -> str:
        """The cluster's own database, for administration."""
        return self._service.url

    @property
    def pid(self) -> int:
        """The postmaster."""
        assert self._service.pid is not None
        return self._service.pid

    def url_of(self, database: str) -> str:
        """Another database of the cluster."""
        return self.url.replace("/postgres?", f"/{database}?", 1)

    async def start(self) -> None:
        """Starts it and makes the template."""
        await self._service.start()
        await self._create("template_offbeat", "template0")
        await prepare(self.url_of("template_offbeat"))

    async def stop(self) -> None:
        """Stop it and remove its files."""
        await self._service.stop()
        shutil.rmtree(self.directory)

    @contextlib.asynccontextmanager
    async def fresh(self, *, empty: bool = False, template: str | None = None) -> AsyncIterator[str]:
        """The URL of a database of its own: with schema and partitions, or empty, or a copy of that at `template`."""
        self._made += 1
        name = f"test_{self._made}"
        copied = urlsplit(template).path[1:] if template else "template0" if empty else "template_offbeat"
        await self._create(name, copied)
        yield self.url_of(name)
        await self._execute(f"drop database {name} with (force)")

    async def _create(self, name: str, template: str) -> None:
        await self._execute(f"create database {name} template {template} strategy file_copy")

    async def _execute(self, sql: str) -> None:
        connection = await connect(self.url)
        await connection.execute(sql)
        await connection.close()


def debian_postgres() -> Postgres:
    """Debian's Postgres 15, the oldest that we support."""
    needs("initdb")
    return Postgres(DEBIAN_BIN, ("--locale=C.UTF-8",), fsync="off")


class PgBouncer:
    """A pooler in transaction mode in front of a database: `async with PgBouncer(database_url) as url`."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        query = dict(parse_qsl(parts.query))
        self._role, self._database = parts.username, parts.path[1:]
        self._server = f"host={query['host']} port={query['port']} user={self._role}"
        self._socket = Path(query["host"])
        self._directory = Path(tempfile.mkdtemp(prefix="offbeat-pgbouncer-"))
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> str:
        program = needs("pgbouncer")
        port = free_port()
        configuration = self._directory / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n* = {self._server}\n[pgbouncer]\npool_mode = transaction\nauth_type = any\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\ndefault_pool_size = 5\n"
            "server_login_retry = 1\n"  # Postgres away is looked for each second
        )
        # Like Postgres it refuses root, and only the cluster's owner may use its socket.
        user = as_owner(self._socket)
        if user:
            for path in (self._directory, configuration):
                os.chown(path, user["user"], user["group"])
        self._process = await asyncio.create_subprocess_exec(program, "--quiet", str(configuration), **user)

        async def listens() -> bool:
            with contextlib.suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
                return True
            return False

        try:
            await eventually(listens, HANG_S)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return f"postgresql://{self._role}@127.0.0.1:{port}/{self._database}"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        shutil.rmtree(self._directory)


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago, for programs that cannot choose a free one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---------------------------------------------------------------------------------------------------------- the server


class Answer(NamedTuple):
    """An answer of the management API; `body` is read JSON, or text if it is no JSON."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Server:
    """The real program as a process: `async with Server(database_url) as server`.

    `flags` go to the command line as they are; `env` are further variables. `database_url=None` runs it on an embedded
    Postgres in `data_dir`. `module` is what `python -m` runs: the server, or something that prepares it first.
    `descriptors_max` is its `ulimit -n`.
    """

    def __init__(
        self,
        database_url: str | None,
        *flags: str,
        port: int = 0,
        data_dir: Path | None = None,
        env: Mapping[str, str] | None = None,
        module: str = "offbeat",
        descriptors_max: int | None = None,
    ) -> None:
        self._limit = ["sh", "-c", f'ulimit -n {descriptors_max}; exec "$@"', "sh"] if descriptors_max else []
        self._module = module
        self._own_dir = Path(tempfile.mkdtemp(prefix="offbeat-server-")) if data_dir is None else None
        self.data_dir = data_dir or self._own_dir
        self.output: list[str] = []
        self.port = port
        self._flags = [*(["--database-url", database_url] if database_url else []), *flags]
        self._env = dict(env or {})
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The main process."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the main process is gone."""
        return self._process is not None and self._process.returncode is not None

    @property
    def session(self) -> aiohttp.ClientSession:
        """A client of this server: relative addresses, and the admin key nowhere."""
        assert self._session is not None, "not started"
        return self._session

    async def start(self) -> None:
        """Until it says where it listens. Fails with its whole output."""
        command = [sys.executable, "-m", self._module, "serve", "--host", "127.0.0.1", "--port", str(self.port)]
        self._process = await asyncio.create_subprocess_exec(
            *self._limit,
            *command,
            *("--data-dir", str(self.data_dir)),
            *self._flags,
            cwd=ROOT,
            # Ours alone: what the developer has set for a server of their own must not reach this one.
            env={k: v for k, v in os.environ.items() if not k.startswith("OFFBEAT_")}
            | {"OFFBEAT_ADMIN_KEY": ADMIN_KEY, "PYTHONUNBUFFERED": "1"}
            | self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=16_000_000,  # of one line; after a longer one nothing would be read, and the end would never be seen
        )
        listening = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(self._process, listening))
        try:
            async with asyncio.timeout(HANG_S):
                self.port = await listening
        except TimeoutError:
            self._fail(f"the server did not say where it listens within {HANG_S} s")
        if self.port == 0:
            self._fail("the server ended before it listened")
        self._session = aiohttp.ClientSession(self.url)

    async def api(self, method: str, path: str, json: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request to the management API with the admin key."""
        sent = {"Authorization": f"Bearer {ADMIN_KEY}", **(headers or {})}
        async with self.session.request(method, path, json=json, headers=sent) as response:
            text = await response.text()
            is_json = "json" in response.content_type and "ndjson" not in response.content_type
            return Answer(response.status, _loads(text) if is_json else text, response.headers)

    async def put(self, path: str, body: Any) -> Any:
        """Make or change something below /api/v1; the answer."""
        answer = await self.api("PUT", f"/api/v1/{path}", body)
        assert answer.status in (200, 201), answer.body
        return answer.body

    async def kill(self) -> None:
        """SIGKILL to the main process, as the kernel does when memory runs out; workers notice it themselves."""
        await self._end(signal.SIGKILL)

    async def stop(self, timeout_s: float = HANG_S) -> int:
        """SIGTERM; the exit code."""
        return await self._end(signal.SIGTERM, timeout_s)

    async def restart(self) -> None:
        """Stopped (or dead) and started again, on the same port."""
        if self._process is not None and self._process.returncode is None:
            await self.stop()
        await self.start()

    async def ended(self, timeout_s: float = HANG_S) -> int:
        """The exit code, once it has ended by itself or by a signal."""
        assert self._process is not None and self._reader is not None, "not started"
        try:
            async with asyncio.timeout(timeout_s):
                code = await self._process.wait()
        except TimeoutError:
            self._fail(f"the server did not end within {timeout_s} s")
        # The pipe stays open as long as a worker lives; what comes after the main process's end is of no interest.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._reader
        if self._session is not None:
            await self._session.close()
        return code

    async def _end(self, how: signal.Signals, timeout_s: float = HANG_S) -> int:
        assert self._process is not None, "not started"
        if self._process.returncode is None:
            # Not Process.send_signal: that looks first whether the process has ended, and takes its exit code away
            # from asyncio when it has.
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(self._process.pid, how)
        return await self.ended(timeout_s)

    async def _read(self, process: asyncio.subprocess.Process, listening: "asyncio.Future[int]") -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode(errors="replace").rstrip("\n")
            self.output.append(text)
            match = re.search(r"listening on http://127\.0\.0\.1:(\d+)", text)
            if match and not listening.done():
                listening.set_result(int(match[1]))
        if not listening.done():
            listening.set_result(0)

    def _fail(self, reason: str) -> NoReturn:
        raise AssertionError("\n".join([reason, "its output:", *self.output[-200:]]))

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # pytest shows what is printed only when the test fails.
        try:
            if self._process is not None and self._process.returncode is None:
                await self.stop()
        finally:
            print("\n".join(["the server's output:", *self.output]))
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                if self._reader is not None:
                    await self._reader
            if self._session is not None:
                await self._session.close()
            if self._own_dir is not None:
                shutil.rmtree(self._own_dir, ignore_errors=True)


def _loads(text: str) -> Any:
    return json.loads(text) if text else None


# -------------------------------------------------------------------------------------------------------- the receiver


@dataclass
class Behaviour:
    """How the receiver treats a request, step by step: wait, then hang, reset, or answer."""

    status: int = 200
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0
    until: asyncio.Event | None = None  # answers when this is set
    hang: bool = False  # never answers
    reset: bool = False  # cuts the connection with a RST
    redirect: str | None = None  # 302 to there
    drip_s: float = 0  # a pause before each byte of the body


class Received(NamedTuple):
    """One request; `at` is its arrival in Unix seconds."""

    at: float
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Receiver:
    """A webhook receiver on a free port of 127.0.0.1: `async with Receiver() as receiver`.

    `behaviour` holds for every request; `script` is used up first, one behaviour a request.
    """

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.script: deque[Behaviour] = deque()
        self.requests: list[Received] = []
        self.url = ""
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._runner: web.ServerRunner | None = None

    async def wait_for(self, predicate: Callable[[Received], bool], timeout_s: float = HANG_S) -> Received:
        """The first request, past or to come, for which `predicate` holds."""
        checked = 0
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._news.clear()
                    for request in self.requests[checked:]:
                        if predicate(request):
                            return request
                    checked = len(self.requests)
                    await self._news.wait()
        except TimeoutError:
            seen = "\n".join(f"{r.method} {r.path} {r.body[:500]!r}" for r in self.requests) or "nothing"
            raise AssertionError(f"no such request within {timeout_s} s; received:\n{seen}") from None

    async def wait_count(self, count: int, timeout_s: float = HANG_S) -> list[Received]:
        """All requests, once there are at least `count`."""
        await self.wait_for(lambda _: len(self.requests) >= count, timeout_s)
        return self.requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        at = time.time()
        body = await request.read()
        self.requests.append(Received(at, request.method, request.path_qs, request.headers, body))
        self._news.set()
        how = self.script.popleft() if self.script else self.behaviour
        await asyncio.sleep(how.delay_s)
        if how.until is not None:
            await how.until.wait()
        if how.hang:
            await self._closing.wait()
        if how.reset:
            assert request.transport is not None
            # Without lingering the kernel sends RST instead of FIN.
            stream = request.transport.get_extra_info("socket")
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.abort()
        if how.redirect is not None:
            return web.Response(status=302, headers={"Location": how.redirect})
        response = web.StreamResponse(status=how.status, headers={"Content-Length": str(len(how.body)), **how.headers})
        with contextlib.suppress(ConnectionError):  # the client has gone; so be it
            await response.prepare(request)
            for byte in how.body if how.drip_s else b"":
                await asyncio.sleep(how.drip_s)
                await response.write(bytes([byte]))
            await response.write_eof(b"" if how.drip_s else how.body)
        return response

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        assert self._runner is not None
        await self._runner.cleanup()
