"""A real primary and a real streaming standby of it, with Debian's Postgres: to be killed, frozen and promoted.

`async with Pair() as pair`: `a` is the primary, `b` its standby. With `synchronous` a commit waits for the standby.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg
import psutil

from tests.support.harness import DEBIAN_BIN, eventually, free_port, needs
from tests.support.postgres.clusters import accepts, all_processes, begin, give_to_postgres, kill_all, prepare, run

ROLE = "offbeat"
_CONFIGURATION = """
listen_addresses = '127.0.0.1'
fsync = off
wal_retrieve_retry_interval = 100ms
max_connections = 100
min_wal_size = 32MB
max_wal_size = 64MB
include_if_exists 'pair.conf'
"""


class Pair:
    """Both clusters; `host("a")` and `host("b")` are their addresses."""

    def __init__(self, *, synchronous: bool = True, standby: bool = True) -> None:
        self._synchronous, self._replicated = synchronous, standby
        self._directory = Path(tempfile.mkdtemp(prefix="offbeat-pair-"))
        self._ports = {"a": free_port(), "b": free_port()}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self.primary = "a"

    @property
    def standby(self) -> str:
        """The name of the cluster that is not the primary."""
        return "b" if self.primary == "a" else "a"

    def pid(self, name: str) -> int:
        """The postmaster of a cluster that runs."""
        assert not self.has_ended(name), f"cluster {name} does not run"
        return self._processes[name].pid

    def has_ended(self, name: str) -> bool:
        """Whether the postmaster of a cluster is gone."""
        process = self._processes.get(name)
        return process is None or process.returncode is not None

    def host(self, name: str) -> str:
        """`address:port` of a cluster."""
        return f"127.0.0.1:{self._ports[name]}"

    def url(self, *names: str, database: str = "offbeat") -> str:
        """The URL of one cluster, or of several in this order."""
        return f"postgresql://{ROLE}@{','.join(map(self.host, names))}/{database}"

    async def start(self, name: str) -> None:
        """Start a cluster, also after `kill`; return when it accepts connections."""
        directory = self._directory / name
        (directory / "postmaster.pid").unlink(missing_ok=True)  # of the one that was killed
        settings = ("-c", f"port={self._ports[name]}", "-c", f"unix_socket_directories={directory}")
        self._processes[name] = await begin(
            DEBIAN_BIN / "postgres", "-D", str(directory), *settings, directory=self._directory
        )
        await eventually(lambda: accepts(self.url(name, database="postgres")))

    async def ask(self, name: str, sql: str, *arguments: Any, database: str = "offbeat") -> Any:
        """The first value that a statement gives when all of it has run, on a connection of its own."""
        connection = await asyncpg.connect(self.url(name, database=database))
        try:
            rows = await connection.fetch(sql, *arguments)
            return rows[0][0] if rows else None
        finally:
            await connection.close()

    async def configure(self, name: str, files: Mapping[str, str]) -> None:
        """Write these files into the directory of a cluster, whose owner alone may read them, and reload."""
        for file, text in files.items():
            path = self._directory / name / file
            path.write_text(text)
            path.chmod(0o600)
            owner = (self._directory / name).stat()
            os.chown(path, owner.st_uid, owner.st_gid)
        os.kill(self._processes[name].pid, signal.SIGHUP)

    async def promote(self, name: str = "b") -> None:
        """Make the standby a primary that waits for no standby."""
        self.primary = name
        await self.ask(name, "alter system set synchronous_standby_names = ''")
        await self.ask(name, "select pg_reload_conf()")
        assert await self.ask(name, "select pg_promote()")

    def freeze(self, name: str) -> None:
        """Every process of a cluster stands still, as in a virtual machine that hangs; sockets stay open."""
        for process in all_processes(self._processes[name].pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self, name: str) -> None:
        """They continue."""
        for process in all_processes(self._processes[name].pid):
            with contextlib.suppress(psutil.NoSuchProcess):  # some end when the postmaster continues
                process.resume()

    async def kill(self, name: str) -> None:
        """`kill -9` of the postmaster and all of its children."""
        kill_all(self._processes[name].pid)
        await self._processes.pop(name).wait()

    async def waits_for_standby(self, session: str = "offbeat log", statement: str = "") -> bool:
        """Whether a session of that name waits for the standby at the commit of such a statement (their beginnings)."""
        sql = """select count(*) from pg_stat_activity where wait_event = 'SyncRep'
                    and starts_with(application_name, $1) and starts_with(lower(query), $2)"""
        return bool(await self.ask(self.primary, sql, session, statement))

    async def has_caught_up(self) -> bool:
        """Whether the standby has everything."""
        sql = "select count(*) from pg_stat_replication where replay_lsn = pg_current_wal_lsn()"
        return bool(await self.ask(self.primary, sql))

    async def __aenter__(self) -> Self:
        needs("initdb")
        give_to_postgres(self._directory)
        try:
            await self._make()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._processes):
            await self.kill(name)
        shutil.rmtree(self._directory)

    async def _make(self) -> None:
        primary = self._directory / "a"
        # Small segments of the WAL: each Pair writes, and copies, several of them.
        options = ("-U", ROLE, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--wal-segsize=1")
        await run(DEBIAN_BIN / "initdb", "-D", primary, *options, owner=self._directory)
        with open(primary / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write(_CONFIGURATION)
        await self.start("a")
        await self.ask("a", "create database offbeat", database="postgres")
        await prepare(self.url("a"))
        if self._replicated:
            await self._follow()

    async def rebuild(self, name: str) -> None:
        """Make a cluster that has ended a fresh standby of the primary, with its name and port."""
        assert name == self.standby and self.has_ended(name)
        self._processes.pop(name, None)
        shutil.rmtree(self._directory / name)
        await self._follow()

    async def _follow(self) -> None:
        primary, standby = self.primary, self.standby
        source = f"host=127.0.0.1 port={self._ports[primary]} user={ROLE} application_name={standby}"
        target = ("-D", self._directory / standby, "-R", "-c", "fast", "--no-sync", "--no-manifest")
        await run(DEBIAN_BIN / "pg_basebackup", *target, "-d", source, owner=self._directory)
        await self.start(standby)
        await eventually(self.has_caught_up)
        if self._synchronous:
            await self.ask(primary, f"alter system set synchronous_standby_names = '{standby}'")
            await self.ask(primary, "select pg_reload_conf()")
            await eventually(self._is_synchronous)

    async def _is_synchronous(self) -> bool:
        sql = "select count(*) from pg_stat_replication where sync_state = 'sync'"
        return bool(await self.ask(self.primary, sql))
