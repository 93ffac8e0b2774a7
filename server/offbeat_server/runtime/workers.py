"""`--workers N`: the main process owns the listening socket and is the scheduler; N processes take pings.

A worker gets its settings through its standard input, which is also how it notices that the main process is gone: the
pipe ends after any end of the other side. A dead one is replaced, a little later each time it dies young.
"""

import asyncio
import contextlib
import os
import socket
import sys
from asyncio.subprocess import PIPE, Process

import orjson
import structlog

from offbeat_server.common.clock import monotonic
from offbeat_server.common.service import Service
from offbeat_server.config import Settings
from offbeat_server.ingest.http.http_servers import local_url
from offbeat_server.runtime.sockets import bind_socket

YOUNG_S = 10.0
PAUSE_S_MAX = 5.0
MODULE = "offbeat_server.runtime.worker_process"

log = structlog.get_logger("workers")


class WorkerProcesses(Service):
    """Keeps N of them alive."""

    name = "workers"

    def __init__(self, settings: Settings, url: str) -> None:
        super().__init__()
        self.settings, self._url = settings, url
        self._socket: socket.socket | None = None
        self._processes: dict[int, Process] = {}
        self._ready: set[int] = set()
        self._all_ready = asyncio.Event()
        self._stopping = False

    @property
    def url(self) -> str:
        """For a client on this machine."""
        assert self._socket is not None, "not started"
        return local_url(self.settings.host, self._socket.getsockname()[1])

    async def start(self) -> None:
        """Bind, and return when every worker takes pings."""
        self._socket = bind_socket(self.settings.host, self.settings.port)
        self._socket.listen(4096)
        self._socket.set_inheritable(True)
        for number in range(self.settings.workers):
            self.spawn(self._keep_alive(number), f"worker {number}")
        await self._all_ready.wait()

    async def stop(self) -> None:
        """Tell all, and wait for them: each commits what it has read."""
        self._stopping = True
        for process in self._processes.values():
            if process.returncode is None:
                process.terminate()
        for process in list(self._processes.values()):
            try:
                async with asyncio.timeout(self.settings.drain_delay + self.settings.stop_timeout):
                    await process.wait()
            except TimeoutError:
                log.warning("workers.stop_timed_out", pid=process.pid)
                process.kill()
        await self.cancel_tasks()
        if self._socket is not None:
            self._socket.close()

    async def _keep_alive(self, number: int) -> None:
        pause_s = 0.0
        while not self._stopping:
            began_s = monotonic()
            process = await self._begin(number)
            code = await process.wait()
            self._ready.discard(number)
            if self._stopping:
                break
            pause_s = 0.0 if monotonic() - began_s > YOUNG_S else min(PAUSE_S_MAX, pause_s * 2 + 0.2)
            log.error("workers.worker_ended", worker=number, exit_code=code, restart_in_s=pause_s)
            await asyncio.sleep(pause_s)
        await asyncio.Event().wait()  # until it is cancelled: for a Service an end by itself would be a failure

    async def _begin(self, number: int) -> Process:
        assert self._socket is not None
        ready, says_ready = os.pipe()
        settings = self.settings.model_dump(mode="json", exclude_defaults=True)
        settings |= {"database_url": self._url, "watchdog_url": None}
        if self.settings.metrics_port:
            settings["metrics_port"] = self.settings.metrics_port + 1 + number
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(("-E", "-P") if sys.flags.ignore_environment else ()),  # isolated as we are: see client/bin/offbeat
            "-m",
            MODULE,
            stdin=PIPE,
            pass_fds=[self._socket.fileno(), says_ready],
            start_new_session=True,  # Ctrl-C reaches the main process, which stops the workers in its own order
        )
        os.close(says_ready)
        asyncio.get_running_loop().add_reader(ready, self._note_ready, number, ready)
        assert process.stdin is not None
        instructions = {"socket": self._socket.fileno(), "ready": says_ready, "settings": settings}
        with contextlib.suppress(ConnectionError):  # it has ended already; the task that waits for it will see
            process.stdin.write(orjson.dumps(instructions) + b"\n")
            await process.stdin.drain()
        self._processes[number] = process
        return process

    def _note_ready(self, number: int, ready: int) -> None:
        """A worker says that it takes pings, or has ended before it could."""
        asyncio.get_running_loop().remove_reader(ready)
        says_so = bool(os.read(ready, 1))
        os.close(ready)
        if says_so:
            self._ready.add(number)
            if len(self._ready) == self.settings.workers:
                self._all_ready.set()
