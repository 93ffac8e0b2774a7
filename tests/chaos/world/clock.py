"""Clocks that can be set: of a private Postgres and of single nodes, by a library that is loaded before others.

The machine's own clock is shared and stays untouched. Waits use the monotonic clock, which does not change either.
"""

import os
from pathlib import Path

from offbeat_server.db.embedded.cluster import wheel_binaries
from tests.support.harness import refuse

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class Wall:
    """A wall clock of its own, `by` seconds ahead."""

    def __init__(self, path: Path) -> None:
        if not LIBRARY.exists():
            refuse("faketime is not installed (`make test` installs it where it may)")
        self._path = path
        self.set(0.0)

    @property
    def env(self) -> dict[str, str]:
        """For the process that lives by it. It looks once a second."""
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
        }

    def set(self, by: float) -> None:
        """From within a second on."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{by:+.3f}\n")
        new.chmod(0o644)
        new.replace(self._path)


def binaries(directory: Path, wall: Wall) -> Path:
    """Postgres' programs, such that the server lives by that clock."""
    real = wheel_binaries()
    directory.mkdir()
    os.chmod(directory, 0o755)
    preload = "".join(f"export {name}={value}\n" for name, value in wall.env.items())
    for program in real.iterdir():
        script = directory / program.name
        script.write_text(f'#!/bin/sh\n{preload if program.name == "postgres" else ""}exec {program} "$@"\n')
        script.chmod(0o755)
    return directory
