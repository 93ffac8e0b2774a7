"""Two clusters of Debian's Postgres under Patroni, with etcd as its store and HAProxy in front, as many run it.

`async with Patroni() as patroni`: `patroni.proxy_url` leads to the primary, whichever it is.

No test freezes Patroni itself. When Debian 12's Patroni (3.0.2) with etcd3 and no watchdog continues, it takes the
leader's key back without a comparison (`_update_leader` in dcs/etcd3.py), and the new primary gives up its commits.
"""

import asyncio
import contextlib
import json
import shutil
import signal
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import asyncpg
import psutil

from tests.support.harness import DEBIAN_BIN, eventually, free_port, needs
from tests.support.postgres.clusters import accepts, begin, give_to_postgres, kill_all, prepare

NAMES = ("a", "b")
ROLE = "postgres"
TTL_S = 20  # of the leader's lease in etcd: the least that Patroni takes


class Patroni:
    """The members are called `a` and `b`; either may be the leader."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="offbeat-patroni-"))
        self._ports = {name: free_port() for name in ("etcd", "etcd peer", "proxy", *NAMES)}
        self._rest = {name: free_port() for name in NAMES}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._session: aiohttp.ClientSession | None = None
        self._leader = NAMES[0]

    @property
    def proxy_url(self) -> str:
        """Through HAProxy."""
        return f"postgresql://{ROLE}@127.0.0.1:{self._ports['proxy']}/offbeat"

    @property
    def url(self) -> str:
        """The leader's own address, as last seen."""
        return f"postgresql://{ROLE}@127.0.0.1:{self._ports[self._leader]}/offbeat"

    @property
    def _admin_url(self) -> str:
        return self.url.removesuffix("/offbeat") + "/postgres"

    @property
    def pid(self) -> int:
        """The postmaster of the leader, as last seen. Raises AssertionError if there is none."""
        try:
            pid = self._postmaster(self._leader)
        except (OSError, ValueError) as error:
            raise AssertionError("no postmaster") from error
        assert psutil.pid_exists(pid)
        return pid

    @property
    def etcd_pid(self) -> int:
        """The process of etcd."""
        return self._processes["etcd"].pid

    async def leader(self) -> str:
        """The name of the member that has the lease; waits for one."""

        async def found() -> bool:
            await self.follow()
            return await self._answers(self._leader, "/leader") == 200

        await eventually(found, every_s=0.1)
        return self._leader

    async def follow(self) -> None:
        """Look once which member has the lease; if none has it, the leader stays the last one."""
        for name in NAMES:
            if await self._answers(name, "/leader") == 200:
                self._leader = name

    async def has_leader(self, *, other_than: str) -> None:
        """Wait until another member is leader and takes writes."""

        async def changed() -> bool:
            return await self.leader() != other_than

        await eventually(changed)

    async def is_synchronous(self) -> None:
        """Wait until the other member is the synchronous standby, also in Patroni's own record of it."""

        async def follows() -> bool:
            leader = await self.leader()
            return any([await self._answers(name, "/sync") == 200 for name in NAMES if name != leader])

        await eventually(follows, every_s=0.2)

    def kill(self, name: str) -> None:
        """`kill -9` of a member's Patroni and of its Postgres with all sessions."""
        agent = psutil.Process(self._processes.pop(name).pid)
        agent.kill()
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            kill_all(self._postmaster(name))

    async def start(self, name: str) -> None:
        """Start a member's Patroni, which starts its Postgres."""
        self._processes[name] = await self._run("patroni", str(self._directory / f"{name}.json"))

    async def switch_over(self, leader: str) -> None:
        """Ask Patroni to make the other member leader."""
        assert self._session is not None
        body = {"leader": leader}
        address = f"http://127.0.0.1:{self._rest[leader]}/switchover"
        async with self._session.post(address, json=body, timeout=aiohttp.ClientTimeout(total=60)) as answer:
            assert answer.status == 200, await answer.text()

    async def restart_proxy(self, after_s: float) -> None:
        """`kill -9` of HAProxy; start it again after a while."""
        proxy = self._processes.pop("proxy")
        proxy.kill()
        await proxy.wait()
        await asyncio.sleep(after_s)
        await self._start_proxy()

    async def __aenter__(self) -> Self:
        for program in ("patroni", "etcd", "haproxy", "initdb"):
            needs(program)
        give_to_postgres(self._directory)
        self._session = aiohttp.ClientSession()
        try:
            await self._make()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in NAMES:
            if name in self._processes:
                self.kill(name)
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
        if self._session is not None:
            await self._session.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _make(self) -> None:
        await self._start_etcd()
        for name in NAMES:
            (self._directory / f"{name}.json").write_text(json.dumps(self._settings(name)))
        await self.start("a")
        await self.leader()
        await self.start("b")
        await self.is_synchronous()
        administration = await asyncpg.connect(self._admin_url)
        await administration.execute("create database offbeat")
        await administration.close()
        await prepare(self.url)
        await self._start_proxy()

    async def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{self._ports[name]}" for name in ("etcd", "etcd peer"))
        self._processes["etcd"] = await self._run(
            *("etcd", "--data-dir", str(self._directory / "etcd"), "--name", "one", "--enable-v2"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}"),
        )

        async def healthy() -> bool:
            assert self._session is not None
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.get(f"{client}/health") as answer:
                    return answer.status == 200
            return False

        await eventually(healthy)

    async def _start_proxy(self) -> None:
        servers = "\n".join(
            f"  server {name} 127.0.0.1:{self._ports[name]} check port {self._rest[name]}" for name in NAMES
        )
        configuration = self._directory / "haproxy.cfg"
        configuration.write_text(
            "global\n  maxconn 500\n"
            "defaults\n  mode tcp\n  retries 2\n  timeout connect 4s\n  timeout check 2s\n"
            "  timeout client 30m\n  timeout server 30m\n"
            f"listen primary\n  bind 127.0.0.1:{self._ports['proxy']}\n"
            "  option httpchk OPTIONS /primary\n  http-check expect status 200\n"
            "  default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions\n"
            f"{servers}\n"
        )
        self._processes["proxy"] = await self._run("haproxy", "-db", "-f", str(configuration))
        await eventually(lambda: accepts(self.proxy_url))

    def _settings(self, name: str) -> dict[str, Any]:
        """Of one member; Patroni reads YAML, of which JSON is a part."""
        postgres = {
            "fsync": "off",
            "synchronous_commit": "on",
            "max_connections": 100,
            "wal_log_hints": "on",
            "unix_socket_directories": str(self._directory),
        }
        return {
            "scope": "offbeat",
            "name": name,
            "restapi": {
                "listen": f"127.0.0.1:{self._rest[name]}",
                "connect_address": f"127.0.0.1:{self._rest[name]}",
            },
            "etcd3": {"hosts": f"127.0.0.1:{self._ports['etcd']}"},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_S,
                    "loop_wait": 2,
                    "retry_timeout": 6,
                    "synchronous_mode": True,
                    "postgresql": {"use_pg_rewind": True, "parameters": postgres},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, {"auth": "trust"}],
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.1/32 trust",
                    "host replication all 127.0.0.1/32 trust",
                ],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self._ports[name]}",
                "connect_address": f"127.0.0.1:{self._ports[name]}",
                "data_dir": str(self._directory / name),
                "bin_dir": str(DEBIAN_BIN),
                "pgpass": str(self._directory / f"{name}.pgpass"),
                "authentication": {
                    "superuser": {"username": ROLE},
                    "replication": {"username": ROLE},
                    "rewind": {"username": ROLE},
                },
            },
            "watchdog": {"mode": "off"},
        }

    async def _answers(self, name: str, path: str) -> int:
        assert self._session is not None
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            timeout = aiohttp.ClientTimeout(total=2)
            async with self._session.get(f"http://127.0.0.1:{self._rest[name]}{path}", timeout=timeout) as answer:
                return answer.status
        return 0

    async def _run(self, program: str, *arguments: str) -> asyncio.subprocess.Process:
        return await begin(needs(program), *arguments, directory=self._directory)

    def _postmaster(self, name: str) -> int:
        """The process id in the member's pid file."""
        return int((self._directory / name / "postmaster.pid").read_text().split("\n", 1)[0])
