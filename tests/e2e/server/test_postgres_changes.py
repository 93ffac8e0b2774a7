"""An operator changes Postgres under a running server: it waits and says so. A start with the same fault ends with it.

Rotated password, pg_hba, certificate, search path, privileges, a renamed database.
"""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from offbeat_server.common.errors import DatabaseRefusedError, SettingsError
from offbeat_server.db.pool import connect
from tests.support.harness import Server, eventually, needs
from tests.support.postgres.standby import Pair

HBA = "local all all trust\nhost all offbeat 127.0.0.1/32 trust\n"
PASSWORD = HBA + "host all app 127.0.0.1/32 scram-sha-256\n"
TLS = HBA + "hostssl all app 127.0.0.1/32 scram-sha-256\n"


class Trouble(NamedTuple):
    """A change of Postgres and its reversal, and the server's message."""

    says: str
    do: str
    undo: str


TROUBLES = {
    "password": Trouble(
        "password authentication failed", "alter role app password 'other'", "alter role app password 'secret'"
    ),
    "no login": Trouble("not permitted to log in", "alter role app nologin", "alter role app login"),
    "connection limit": Trouble(
        "too many connections", "alter role app connection limit 0", "alter role app connection limit -1"
    ),
    "renamed": Trouble(
        'database "offbeat" does not exist',
        "alter database offbeat rename to gone",
        "alter database gone rename to offbeat",
    ),
    "no right to connect": Trouble(
        "permission denied for database",
        "revoke connect on database offbeat from public",
        "grant connect on database offbeat to public",
    ),
    "search path": Trouble(
        "does not exist", "alter role app set search_path = elsewhere", "alter role app reset search_path"
    ),
}


@contextlib.asynccontextmanager
async def _postgres() -> AsyncIterator[tuple[Pair, str]]:
    """One cluster with a role that owns the database and has a password; the URL with it."""
    async with Pair(standby=False) as pair:
        await pair.ask("a", "create role app login password 'secret'")
        await pair.ask("a", "create database empty owner app")
        for kind in ("table", "sequence", "function", "type"):
            await pair.ask("a", _GIVE[kind])
        await pair.ask("a", "alter schema public owner to app")
        await pair.configure("a", {"pg_hba.conf": PASSWORD})
        yield pair, f"postgresql://app:secret@{pair.host('a')}/offbeat"


_GIVE = {
    "table": "do $$ declare each record; begin "
    "for each in select tablename as name from pg_tables where schemaname = 'public' "
    "loop execute format('alter table %I owner to app', each.name); end loop; end $$",
    "sequence": "grant all on all sequences in schema public to app",
    "function": "grant all on all functions in schema public to app",
    "type": "alter type signal owner to app",
}


async def _disturb(pair: Pair, sql: str) -> None:
    """Run it, and end the sessions that began before."""
    end = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'"
    await pair.ask("a", end, database="postgres")
    if "rename" in sql:

        async def renamed() -> bool:
            with contextlib.suppress(Exception):
                await pair.ask("a", end, database="postgres")
                await pair.ask("a", sql, database="postgres")
                return True
            return False

        await eventually(renamed)
    else:
        await pair.ask("a", sql, database="postgres")
    await pair.ask("a", end, database="postgres")


async def _key(server: Server) -> str:
    answer = await server.api("PUT", "/api/v1/monitors/job", {"every": "1h"})
    assert answer.status in (200, 201), answer
    key: str = answer.body["key"]
    return key


async def _pinged(server: Server, key: str) -> bool:
    async with server.session.get(f"/api/v1/heartbeat/{key}") as answer:
        return answer.status == 200


async def _refused(server: Server, key: str) -> bool:
    return not await _pinged(server, key)


def _says(server: Server, text: str) -> Callable[[], Awaitable[bool]]:
    async def printed() -> bool:
        return any(text in line for line in server.output)

    return printed


# One that Postgres refuses to log in, one that passes by itself, one in which only the statements fail.
OF_EACH_KIND = ("password", "connection limit", "search path")


@pytest.mark.slow
@pytest.mark.parametrize("names", [OF_EACH_KIND, pytest.param(tuple(TROUBLES), marks=pytest.mark.long)])
async def test_a_running_server_waits_and_says_so(names: tuple[str, ...]) -> None:
    async with _postgres() as (pair, url), Server(url) as server:
        key = await _key(server)
        assert await _pinged(server, key)
        for name in names:
            trouble = TROUBLES[name]
            server.output.clear()
            await _disturb(pair, trouble.do)
            await eventually(_says(server, trouble.says))
            await eventually(lambda: _refused(server, key))
            assert not server.has_ended, name
            await _disturb(pair, trouble.undo)
            await eventually(lambda: _pinged(server, key))
            await eventually(lambda: _judges(server))
            assert "Traceback" not in "\n".join(server.output), name
        # Privileges: the sessions stay, and their statements are refused.
        server.output.clear()
        await pair.ask("a", "revoke all on all tables in schema public from app")
        await eventually(_says(server, "permission denied for table"))
        await pair.ask("a", "grant all on all tables in schema public to app")
        await eventually(lambda: _pinged(server, key))
        # pg_hba: a slip of an operator.
        server.output.clear()
        await pair.configure("a", {"pg_hba.conf": HBA})
        await _disturb(pair, "select 1")
        await eventually(_says(server, "no pg_hba.conf entry"))
        await pair.configure("a", {"pg_hba.conf": PASSWORD})
        await eventually(lambda: _pinged(server, key))
        await eventually(lambda: _judges(server))
        assert await server.stop() == 0


async def _judges(server: Server) -> bool:
    async with server.session.get("/metrics") as answer:
        return "offbeat_scheduler_leader 1.0" in await answer.text()


@pytest.mark.slow
async def test_workers_wait_too() -> None:
    async with _postgres() as (pair, url), Server(url, "--workers", "2") as server:
        key = await _key(server)
        await _disturb(pair, TROUBLES["password"].do)
        await eventually(_says(server, TROUBLES["password"].says))
        await eventually(lambda: _refused(server, key))
        await _disturb(pair, TROUBLES["password"].undo)
        await eventually(lambda: _pinged(server, key))
        assert not server.has_ended
        assert not [line for line in server.output if "workers.worker_ended" in line or "Traceback" in line]


@pytest.mark.slow
async def test_a_start_that_cannot_work_ends_with_a_sentence() -> None:
    async with _postgres() as (pair, url):
        for name, trouble in TROUBLES.items():
            if name == "connection limit":
                continue  # passes by itself: waited for
            await pair.ask("a", trouble.do, database="postgres")
            says = "search path of the role names no schema" if name == "search path" else trouble.says
            await _refuses_to_start(url.replace("/offbeat", "/empty") if name == "search path" else url, says)
            await pair.ask("a", trouble.undo, database="postgres")
        await pair.configure("a", {"pg_hba.conf": HBA})
        await _refuses_to_start(url, "no pg_hba.conf entry")


async def _refuses_to_start(url: str, says: str) -> None:
    server = Server(url)
    with pytest.raises(AssertionError, match="ended before it listened"):
        async with server:
            pass
    text = "\n".join(server.output)
    assert says in text and "Traceback" not in text and "secret" not in text, text
    assert await server.ended() == 2


# ----------------------------------------------------------------------------------------------------------------- TLS


def _certificate(directory: Path, name: str, ca: str | None = None) -> dict[str, str]:
    """A certificate for a host name, signed by `ca` or by itself; PEM texts by file name."""
    key, crt = directory / f"{name}.key", directory / f"{name}.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "9", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(crt)]
    if ca is not None:
        command += ["-CA", str(directory / f"{ca}.crt"), "-CAkey", str(directory / f"{ca}.key")]
        command += ["-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(command, check=True, capture_output=True)
    return {"server.key": key.read_text(), "server.crt": crt.read_text()}


async def _with_tls(pair: Pair, certificate: dict[str, str]) -> None:
    await pair.configure("a", {**certificate, "pg_hba.conf": TLS, "pair.conf": "ssl = on\n"})
    await pair.kill("a")
    await pair.start("a")


@pytest.mark.slow
async def test_trouble_with_tls_is_named_as_such(tmp_path: Path) -> None:
    needs("openssl")
    ca, fits = _certificate(tmp_path, "ca"), _certificate(tmp_path, "localhost", "ca")
    misfit, stranger = _certificate(tmp_path, "elsewhere.example", "ca"), _certificate(tmp_path, "stranger")
    assert ca and stranger
    async with _postgres() as (pair, url):
        named = url.replace("127.0.0.1", "localhost")
        verified = f"{named}?sslmode=verify-full&sslrootcert={tmp_path}"
        with pytest.raises(DatabaseRefusedError, match=r"TLS: .*rejected SSL upgrade"):
            await connect(f"{named}?sslmode=require")
        await _with_tls(pair, misfit)
        with pytest.raises(DatabaseRefusedError, match=r"TLS: the certificate .* not accepted: .*[Hh]ostname"):
            await connect(f"{verified}/ca.crt")
        await _refuses_to_start(f"{verified}/ca.crt", "TLS: the certificate of Postgres is not accepted")
        for path in ("nowhere.crt", "nowhere/ca.crt"):
            with pytest.raises(
                DatabaseRefusedError, match=f"sslrootcert={tmp_path}/{path} cannot be read: No such file"
            ):
                await connect(f"{verified}/{path}")
        await _refuses_to_start(f"{verified}/nowhere.crt", f"sslrootcert={tmp_path}/nowhere.crt cannot be read")
        (tmp_path / "empty.crt").write_text("no certificate\n")
        with pytest.raises(DatabaseRefusedError, match=r"TLS: .*empty\.crt"):
            await connect(f"{verified}/empty.crt")
        await _with_tls(pair, fits)
        with pytest.raises(DatabaseRefusedError, match="TLS: the certificate"):
            await connect(f"{verified}/stranger.crt")
        with pytest.raises(SettingsError, match="percent-encoded"):
            await connect(f"postgresql://u:sec/ret@{pair.host('a')}/x?sslmode=verify-full")
        await (await connect(f"{verified}/ca.crt")).close()

        async with Server(f"{verified}/ca.crt") as server:
            key = await _key(server)
            await _with_tls(pair, misfit)
            await eventually(_says(server, "TLS: the certificate of Postgres is not accepted"))
            await asyncio.sleep(0)
            assert not server.has_ended
            await _with_tls(pair, fits)
            await eventually(lambda: _pinged(server, key))
            assert "Traceback" not in "\n".join(server.output)
