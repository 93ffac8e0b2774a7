"""A worker process of `--workers N`. runtime/workers.py starts it and writes the settings to its standard input."""

import asyncio
import os
import socket
import sys

import orjson

from offbeat_server.config import Settings
from offbeat_server.runtime.app import App, run


class _Worker(App):
    """Says on a pipe when it takes pings; stops when the pipe from the main process ends."""

    def __init__(self, settings: Settings, listen_on: socket.socket, says_ready: int) -> None:
        super().__init__(settings, "worker", listen_on)
        self._says_ready = says_ready

    async def _start(self) -> None:
        await super()._start()
        os.write(self._says_ready, b"1")
        os.close(self._says_ready)
        self.spawn(self._watch_main(), "watch the main process")

    async def _watch_main(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await reader.read()
        self.told()
        await asyncio.Event().wait()


def main() -> int:
    """Until told to stop."""
    told = orjson.loads(sys.stdin.buffer.readline())
    settings = Settings(**told["settings"])
    listen_on = socket.socket(fileno=told["socket"])
    return run(_Worker(settings, listen_on, told["ready"]), settings)


if __name__ == "__main__":
    sys.exit(main())
