"""Shared by the Postgres clusters of the tests: their user, their programs and processes, and the schema.

The clusters are in tests/support/harness.py, tests/support/postgres/standby.py and tests/support/postgres/patroni.py.
"""

import asyncio
import contextlib
import os
import pwd
import signal
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from offbeat_server.db.partitions import make_partitions
from offbeat_server.db.pool import connect
from offbeat_server.db.schema import apply_schema


async def prepare(url: str) -> None:
    """Apply the schema to an empty database and make partitions for a week."""
    connection = await connect(url)
    await apply_schema(connection)
    await make_partitions(connection, (await connection.fetchval("select log_time()")).date(), 7)
    await connection.close()


async def accepts(url: str) -> bool:
    """Whether Postgres accepts a connection."""
    with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
        await (await asyncpg.connect(url, timeout=3)).close()
        return True
    return False


def give_to_postgres(directory: Path) -> None:
    """Make the user `postgres` the owner, if the tests run as root: Postgres refuses root."""
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(directory, owner.pw_uid, owner.pw_gid)


def as_owner(path: Path) -> dict[str, Any]:
    """Arguments for a subprocess that runs as the owner of a file, if the tests run as root."""
    if os.geteuid() != 0:
        return {}
    owner = path.stat()
    return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}


async def begin(program: str | Path, *arguments: str, directory: Path) -> asyncio.subprocess.Process:
    """Start a program in a directory, as its owner. Its output goes to a file there with the name of the program."""
    with open(directory / f"{Path(program).name}.log", "ab") as log:
        return await asyncio.create_subprocess_exec(
            program, *arguments, cwd=directory, stdout=log, stderr=log, umask=0o077,
            start_new_session=True, **as_owner(directory),
        )  # fmt: skip


async def run(program: str | Path, *arguments: str | Path, owner: Path | None = None) -> None:
    """Run a program until it ends, as the owner of a directory. Raises AssertionError with its output if it fails."""
    process = await asyncio.create_subprocess_exec(
        program,
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        **({"cwd": owner, "umask": 0o077, **as_owner(owner)} if owner else {}),
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise AssertionError(f"{program} ended with {process.returncode}: {output.decode(errors='replace')[-2_000:]}")


def all_processes(postmaster: int) -> list[psutil.Process]:
    """A postmaster and its children. The postmaster is stopped first, so that it starts no others."""
    main = psutil.Process(postmaster)
    main.suspend()
    return [main, *main.children(recursive=True)]


def kill_all(postmaster: int) -> None:
    """`kill -9` of a postmaster and its children."""
    for process in all_processes(postmaster):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
