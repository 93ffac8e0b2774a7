"""The environment of a bench: a Postgres with the promised durability, databases full of monitors, and the real server.

The Postgres is the embedded one of Offbeat, with the same settings, in a directory on the real disk.
The server is the real program as a process; what it uses is read from /proc, what it stored is counted in Postgres.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import aiohttp
import asyncpg
import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.rivals import free_port
from offbeat_server.common.instants import to_micros
from offbeat_server.db.embedded.postgres import EmbeddedPostgres
from offbeat_server.db.partitions import make_partitions
from offbeat_server.db.pool import connect
from offbeat_server.db.schema import apply_schema
from offbeat_server.engine.model.definition import read_definition

ROOT = Path(__file__).parent.parent
ADMIN_KEY = "bench"
READY_S = 120.0

# All at once, faster than by the API: a million take half a minute. Each with its change, as the scheduler needs it.
_POPULATE = """
with made as materialized (
  select nextval(pg_get_serial_sequence('monitors', 'id'))::integer as id,
         nextval(pg_get_serial_sequence('changes', 'rev')) as rev, 'm' || n as slug
    from generate_series($1::integer, $2::integer) as n
), changed as (
  insert into changes (rev, project_id, monitor_id, actor, kind, subject, after) overriding system value
  select rev, 1, id, 'bench', 'monitor', slug,
         jsonb_build_object('slug', slug, 'name', slug, 'paused', false, 'definition', $3::jsonb)
    from made
), defined as (
  insert into monitors (id, project_id, rev, slug, name, definition) overriding system value
  select id, 1, rev, slug, slug, $3::jsonb from made
)
insert into keys (monitor_id, project_id, key, main)
select id, 1, gen_random_uuid()::text, true from made
returning key
"""

# The states of monitors that have existed for a while: each has pinged just now. Otherwise every first ping would be a
# decision (from `new` to `up`), and short measurements would measure that.
_KNOWN = """
with known as (
  insert into states (monitor_id, project_id, at, writer, seq, status, since, state)
  select id, 1, now(), 0, 0, 'up', now(),
         jsonb_build_object('created', $2::bigint, 'heard_at', $2::bigint, 'due', $2 + $3::bigint, 'rev', rev)
    from monitors where rev >= $1
)
insert into checkpoint (at, applied_rev) select now(), max(rev) from monitors
on conflict (one) do update set at = excluded.at, applied_rev = excluded.applied_rev
"""


class Database:
    """A database of its own for one measurement."""

    def __init__(self, url: str, connection: asyncpg.Connection, directory: Path) -> None:
        self.url = url
        self.connection = connection
        self.directory = directory
        self._monitors = 0

    async def populate(self, count: int, definition: dict[str, Any], name: str = "keys", new: bool = False) -> Path:
        """Add monitors; returns a file with one ping key a line. To be called before the server runs.

        Those with `every` have pinged just now; `new`: never, so their first ping may come late.
        """
        read = read_definition(definition)
        stored = read.dump()
        first_rev = await self.value("select coalesce(max(rev), 0) + 1 from monitors")
        first, self._monitors = self._monitors + 1, self._monitors + count
        path = self.directory / f"{name}.txt"
        with path.open("w") as file:
            for begin in range(first, self._monitors + 1, 50_000):
                end = min(begin + 49_999, self._monitors)
                rows = await self.connection.fetch(_POPULATE, begin, end, stored, timeout=600)
                file.writelines(f"{row['key']}\n" for row in rows)
        if read.every is not None and not new:
            now = to_micros(await self.value("select now()"))
            await self.connection.execute(_KNOWN, first_rev, now, read.every, timeout=600)
        await self.connection.execute("analyze monitors, keys, states", timeout=600)
        return path

    async def value(self, sql: str, *args: Any) -> Any:
        """One value."""
        return await self.connection.fetchval(sql, *args, timeout=600)

    async def pings(self) -> int:
        """Rows in the log."""
        count: int = await self.value("select count(*) from pings")
        return count


class Subject:
    """Offbeat as a process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.process, self.host, self.port, self.log = process, "127.0.0.1", port, log

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The main process."""
        return self.process.pid

    def workers(self) -> list[psutil.Process]:
        """The ingest processes; none with --workers 1."""
        return psutil.Process(self.pid).children()

    async def metrics(self) -> dict[str, float]:
        """All processes' metrics together, by `name{label="value",...}`: sums, and of timestamps the latest."""
        totals: dict[str, float] = {}
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{self.url}/sd/prometheus") as answer:
                addresses = [address for group in await answer.json() for address in group["targets"]]
            for address in addresses:
                async with session.get(f"http://{address}/metrics") as answer:
                    _add_samples(totals, await answer.text())
        return totals

    async def until_ready(self, path: str = "/readyz") -> float:
        """Seconds until `path` answers 200. Raises RuntimeError with the log's end where it does not."""
        begin = time.monotonic()
        async with aiohttp.ClientSession() as session:
            while time.monotonic() - begin < READY_S:
                if self.process.returncode is not None:
                    break
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{self.url}{path}", timeout=aiohttp.ClientTimeout(total=2)) as answer:
                        if answer.status == 200:
                            return time.monotonic() - begin
                await asyncio.sleep(0.01)
        raise RuntimeError(f"Offbeat is not ready; its log ends:\n{self.log.read_text()[-3000:]}")

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait."""
        if self.process.returncode is None:
            self.process.send_signal(how)
        await self.process.wait()


def _add_samples(totals: dict[str, float], text: str) -> None:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            name = f"{sample.name}{{{labels}}}" if labels else sample.name
            if sample.name.endswith("_timestamp_seconds"):
                totals[name] = max(totals.get(name, 0.0), sample.value)
            else:
                totals[name] = totals.get(name, 0.0) + sample.value


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used."""
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6


class Stage:
    """All that benches share. `quick`: small sizes that only show that everything works; their numbers mean nothing."""

    def __init__(self, *, quick: bool, rounds: int, say: Callable[[str], None] = lambda text: None) -> None:
        self.quick, self.rounds, self.say = quick, rounds, say
        # Not below a directory that only root may pass: Postgres is another user then.
        self.directory = Path(tempfile.mkdtemp(prefix="offbeat-bench-"))
        self.postgres = EmbeddedPostgres(self.directory / "data")
        self._made = 0

    async def __aenter__(self) -> Self:
        self.directory.chmod(0o711)
        await self.postgres.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.postgres.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """An empty database with schema and partitions; dropped at the end."""
        self._made += 1
        name = f"bench_{self._made}"
        directory = self.directory / name
        directory.mkdir()
        admin = await connect(self.postgres.url)
        try:
            await admin.execute(f"create database {name}")
            url = self.postgres.url.replace("/postgres?", f"/{name}?", 1)
            connection = await connect(url, command_timeout_s=600)
            await apply_schema(connection)
            await make_partitions(connection, datetime.now(UTC).date(), 7)
            try:
                yield Database(url, connection, directory)
            finally:
                await connection.close()
                await admin.execute(f"drop database {name} with (force)", timeout=600)
                await admin.execute("checkpoint", timeout=600)
        finally:
            await admin.close()

    @asynccontextmanager
    async def offbeat(self, database: Database, *flags: str) -> AsyncIterator[Subject]:
        """The server on this database, ready."""
        subject = await self.launch(database, *flags)
        try:
            await subject.until_ready()
            yield subject
        finally:
            await subject.end()

    async def launch(self, database: Database, *flags: str) -> Subject:
        """The server on this database, just started."""
        port = free_port()
        log = database.directory / "server.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "offbeat", "serve", "--host", "127.0.0.1", "--port", str(port),
                "--database-url", database.url, "--data-dir", str(database.directory / "data"), *flags,
                cwd=ROOT, stdout=output, stderr=output,
                env={k: v for k, v in os.environ.items() if not k.startswith("OFFBEAT_")}
                | {"OFFBEAT_ADMIN_KEY": ADMIN_KEY},
            )  # fmt: skip
        return Subject(process, port, log)
