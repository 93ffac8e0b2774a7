"""Notifies systemd of the server's state: ready, loading, stopping, and that the event loop still runs.

A datagram of lines to the socket that systemd names in the environment, as sd_notify(3) describes it; twenty lines, so
no dependency. Without systemd every call does nothing. The watchdog's sign of life is sent by the event loop itself and
only while `alive` agrees: a thread of its own would continue to signal for a server that hangs.
"""

import asyncio
import socket
from collections.abc import Callable

from offbeat_server.common.service import Service
from offbeat_server.config import ServiceEnvironment


class Systemd(Service):
    """The server's line to systemd. `alive`: whether the server still works, asked before every sign of life."""

    name = "systemd"

    def __init__(self, environment: ServiceEnvironment, alive: Callable[[], bool] = lambda: True) -> None:
        super().__init__()
        self._environment = environment
        self._alive = alive

    async def start(self) -> None:
        if self._environment.notify_socket and self._environment.watchdog_s:
            self.spawn(self._watch_over(self._environment.watchdog_s / 2), "watchdog")

    def ready(self, status: str) -> None:
        """The server answers. `status` is the sentence that `systemctl status` shows."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """A new sentence for `systemctl status`."""
        self._send(f"STATUS={status}")

    def extend(self, seconds: float, status: str) -> None:
        """Announce that starting or stopping takes at least this time from now; call again before it is over."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}", f"STATUS={status}")

    def stopping(self) -> None:
        """The server ends. The last thing to say."""
        self._send("STOPPING=1", "STATUS=stopping")

    async def _watch_over(self, every_s: float) -> None:
        while True:
            if self._alive():
                self._send("WATCHDOG=1")
            await asyncio.sleep(every_s)

    def _send(self, *lines: str) -> None:
        address = self._environment.notify_socket
        if address is None:
            return
        if address.startswith("@"):  # the abstract name space is written with a NUL
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.setblocking(False)
                line.sendto("\n".join(line_.replace("\n", " ") for line_ in lines).encode(), address)
        except OSError:
            pass  # systemd went away, or its queue is full; the next sign of life is a second try
