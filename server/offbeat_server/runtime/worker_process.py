"""A worker process of `--workers N`. runtime/workers.py starts it and writes the settings to its standard input."""

import socket
import sys
from functools import partial

import orjson

from offbeat_server.config import Settings
from offbeat_server.runtime.app import App, run
from offbeat_server.runtime.builders import build_worker
from offbeat_server.runtime.parts import Role


def main() -> int:
    """Run until a stop is requested, or until the main process ends; the exit code."""
    given = orjson.loads(sys.stdin.buffer.readline())
    listen_on = socket.socket(fileno=given["socket"])
    build = partial(build_worker, listen_on=listen_on, ready_pipe=given["ready"])
    return run(App(Settings(**given["settings"]), Role.WORKER, build))


if __name__ == "__main__":
    sys.exit(main())
