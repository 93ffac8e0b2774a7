"""The databases of the worlds: one Postgres, one on a small disk, a primary with a synchronous standby, or Patroni.

All have the same interface, so that a fault such as "the postmaster is killed" works on each of them.
"""

import asyncio
import contextlib
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

from offbeat_server.db.embedded.cluster import wheel_binaries
from tests.support.harness import PgBouncer, Postgres
from tests.support.postgres.clusters import run
from tests.support.postgres.link import Link
from tests.support.postgres.patroni import Patroni
from tests.support.postgres.standby import Pair

DISK_BYTES = 700_000_000
LOOK_EVERY_S = 0.3
MULTI_HOST = "sslmode=disable&target_session_attrs=read-write"


class Cable(Protocol):
    """The way of one node to Postgres, which faults can cut, hold and slow down."""

    delay_s: float

    @property
    def url(self) -> str:
        """For the node."""
        ...

    def hold_replies(self) -> None:
        """Replies no longer arrive."""

    def hold_requests(self) -> None:
        """Requests no longer arrive."""

    async def withheld(self) -> None:
        """Return when a reply is held back."""

    def cut(self, *, stay: bool = False) -> None:
        """Break every connection; with `stay`, refuse new ones until `mend`."""

    def mend(self) -> None:
        """Let everything pass again."""


class Base(Protocol):
    """A database under test, in an asynchronous context."""

    @property
    def url(self) -> str:
        """The URL of the database at the present primary, past every cable."""
        ...

    @property
    def pid(self) -> int:
        """The postmaster of the present primary. Raises AssertionError or psutil.Error if there is none."""
        ...

    async def follow(self) -> None:
        """Find the present primary, after a fault that may have changed it."""

    def cable(self) -> contextlib.AbstractAsyncContextManager[Cable]:
        """A new cable for a node."""
        ...


class Single:
    """One Postgres, perhaps behind PgBouncer."""

    def __init__(self, postgres: Postgres, *, pooled: bool = False) -> None:
        self._postgres, self._pooled = postgres, pooled
        self._stack = AsyncExitStack()
        self.url = ""
        self._way = ""

    @property
    def pid(self) -> int:
        """The postmaster."""
        return self._postgres.pid

    @property
    def admin_url(self) -> str:
        """The cluster's own database."""
        return self._postgres.url

    async def follow(self) -> None:
        """There is no other."""

    @contextlib.asynccontextmanager
    async def cable(self) -> AsyncIterator[Cable]:
        """Through the pooler, if there is one."""
        async with Link(self._way) as link:
            yield link

    async def __aenter__(self) -> "Single":
        await self._postgres.start()
        self._stack.push_async_callback(self._postgres.stop)
        try:
            self.url = self._way = await self._stack.enter_async_context(self._postgres.fresh())
            if self._pooled:
                self._way = await self._stack.enter_async_context(PgBouncer(self.url))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def dump(self, file: Path) -> None:
        """Back the database up, as `pg_dump -Fc` does, while it is in use."""
        await run(wheel_binaries() / "pg_dump", "--format=custom", f"--file={file}", self.url)

    async def restore(self, file: Path) -> None:
        """Put a backup into a new database of the same name; the old one is kept beside it under another name."""
        name = self.url.rpartition("?")[0].rpartition("/")[2]
        psql = (wheel_binaries() / "psql", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", self.admin_url)
        await run(
            *psql,
            f"--command=select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'",
            f"--command=alter database {name} rename to {name}_before_{os.urandom(4).hex()}",
            f"--command=create database {name} template template0",
        )
        await run(wheel_binaries() / "pg_restore", "--exit-on-error", f"--dbname={self.url}", file)


class OnSmallDisk(Single):
    """One Postgres on a file system of its own, which can be filled up. Needs root."""

    def __init__(self) -> None:
        self._disk = Path(tempfile.mkdtemp(prefix="offbeat-disk-"))
        mount = ("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0755", "offbeat-chaos")
        subprocess.run([*mount, str(self._disk)], check=True)
        super().__init__(Postgres(parent=self._disk, max_wal_size="128MB", min_wal_size="64MB"))

    async def __aenter__(self) -> "OnSmallDisk":
        self._stack.callback(self._disk.rmdir)
        self._stack.callback(subprocess.run, ["umount", "--lazy", str(self._disk)], check=True)
        await super().__aenter__()
        return self

    @contextlib.asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """No byte is left for Postgres."""
        ballast = self._disk / "ballast"

        def fill() -> None:
            with open(ballast, "wb", buffering=0) as file:
                for size in (1 << 20, 1 << 12):
                    with contextlib.suppress(OSError):
                        while file.write(bytes(size)) == size:
                            pass

        try:
            await asyncio.to_thread(fill)  # the jobs, in the loop of the test, continue to ping
            yield
        finally:
            ballast.unlink(missing_ok=True)


class Cables:
    """The cables of one node to several hosts, as one."""

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = links

    @property
    def url(self) -> str:
        """All hosts in one URL."""
        first, *others = (link.url for link in self._links)
        scheme_and_host, _, rest = first.partition("?")[0].rpartition("/")
        hosts = [scheme_and_host, *(url.partition("@")[2].partition("/")[0] for url in others)]
        return f"{','.join(hosts)}/{rest}?{MULTI_HOST}"

    @property
    def delay_s(self) -> float:
        """Of every reply."""
        return self._links[0].delay_s

    @delay_s.setter
    def delay_s(self, seconds: float) -> None:
        for link in self._links:
            link.delay_s = seconds

    def hold_replies(self) -> None:
        """Replies of no host arrive."""
        for link in self._links:
            link.hold_replies()

    def hold_requests(self) -> None:
        """Requests arrive at no host."""
        for link in self._links:
            link.hold_requests()

    async def withheld(self) -> None:
        """Return when a reply of any host is held back."""
        waits = [asyncio.ensure_future(link.withheld()) for link in self._links]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def cut(self, *, stay: bool = False) -> None:
        """Break every connection to every host."""
        for link in self._links:
            link.cut(stay=stay)

    def mend(self) -> None:
        """Let everything pass again."""
        for link in self._links:
            link.mend()


class WithStandby:
    """A primary and its synchronous standby. A postmaster that dies is started again, unless a fault holds it."""

    def __init__(self) -> None:
        self.pair = Pair()
        self.held: set[str] = set()  # clusters that a fault has ended and will start itself
        self._looking: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The postmaster of the primary."""
        return self.pair.pid(self.pair.primary)

    @property
    def url(self) -> str:
        """Of the primary."""
        return self.pair.url(self.pair.primary)

    async def follow(self) -> None:
        """Only `fail_over` changes the primary."""

    @contextlib.asynccontextmanager
    async def cable(self) -> AsyncIterator[Cable]:
        """To both clusters: the node finds the primary itself."""
        async with Link(self.pair.url("a")) as a, Link(self.pair.url("b")) as b:
            yield Cables([a, b])

    async def __aenter__(self) -> "WithStandby":
        await self.pair.__aenter__()
        self._looking = asyncio.create_task(self._look_after())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self.pair.__aexit__(None, None, None)

    async def fail_over(self) -> None:
        """Promote the standby. The old primary is dead or frozen, and held."""
        await self.pair.promote(self.pair.standby)

    async def rebuild(self, name: str) -> None:
        """Make a dead cluster the synchronous standby of the present primary."""
        await self.pair.rebuild(name)
        self.held.discard(name)

    async def _look_after(self) -> None:
        while True:
            for name in ("a", "b"):
                if name not in self.held and self.pair.has_ended(name):
                    await self.pair.start(name)
            await asyncio.sleep(LOOK_EVERY_S)


class UnderPatroni(Patroni):
    """Two clusters under Patroni, with etcd and HAProxy in front."""

    @contextlib.asynccontextmanager
    async def cable(self) -> AsyncIterator[Cable]:
        """To HAProxy, which leads to the primary."""
        async with Link(self.proxy_url) as link:
            yield link
