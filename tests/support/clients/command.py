"""The command line as a real process, as people and crontabs start it."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tests.support.harness import ADMIN_KEY, HANG_S, ROOT


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output as JSON."""
        return orjson.loads(self.out)


def clean_environment() -> dict[str, str]:
    """The environment of these tests without what would steer Offbeat or Python."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("OFFBEAT_", "PYTHON"))}


async def started(
    *arguments: str, url: str | None = None, stdin: int = asyncio.subprocess.PIPE, **env: Any
) -> asyncio.subprocess.Process:
    """A command that runs."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "offbeat", *arguments),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("OFFBEAT_")}
        | ({"OFFBEAT_URL": url, "OFFBEAT_ADMIN_KEY": ADMIN_KEY} if url else {"OFFBEAT_DATA_DIR": "/nonexistent"})
        | env,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def offbeat(*arguments: str, url: str | None = None, given: bytes = b"", **env: Any) -> Done:
    """A command from start to end."""
    process = await started(*arguments, url=url, **env)
    async with asyncio.timeout(HANG_S):
        out, err = await process.communicate(given)
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


def file_with(directory: Path, name: str, text: str) -> str:
    """A file for a command to read."""
    path = directory / name
    path.write_text(text)
    return str(path)
