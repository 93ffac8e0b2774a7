"""Debian's Postgres as operators have it, for tests of what the documentation and the image expect."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import asyncpg

from tests.support.harness import DEBIAN_BIN, eventually, free_port, needs
from tests.support.postgres.clusters import begin, give_to_postgres, kill_all, run


class SystemPostgres:
    """Debian's Postgres as its package sets it up: passwords over TCP, and a superuser `postgres` on the socket."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="offbeat-system-postgres-"))
        self.port = free_port()

    async def __aenter__(self) -> "SystemPostgres":
        needs("initdb")
        give_to_postgres(self.directory)
        data = str(self.directory / "data")
        auth = ("--auth-local=trust", "--auth-host=scram-sha-256", "--locale=C.UTF-8", "--no-sync")
        await run(DEBIAN_BIN / "initdb", "-D", data, "-U", "postgres", *auth, owner=self.directory)
        settings = (f"port={self.port}", f"unix_socket_directories={self.directory}")
        flags = [argument for setting in settings for argument in ("-c", setting)]
        self._process = await begin(DEBIAN_BIN / "postgres", "-D", data, *flags, directory=self.directory)

        async def accepts() -> bool:
            ready: list[str | Path] = [DEBIAN_BIN / "pg_isready", "-q", "-h", str(self.directory), "-p", str(self.port)]
            return subprocess.run(ready).returncode == 0

        await eventually(accepts)
        return self

    async def __aexit__(self, *error: object) -> None:
        kill_all(self._process.pid)
        await self._process.wait()
        shutil.rmtree(self.directory)

    async def execute(self, sql: str) -> None:
        """Run a statement as the superuser, outside a transaction."""
        connection = await asyncpg.connect(host=str(self.directory), port=self.port, user="postgres")
        await connection.execute(sql)
        await connection.close()
