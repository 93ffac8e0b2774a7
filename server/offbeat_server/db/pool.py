"""Connections to Postgres, all opened alike: durable, in UTC, with bounds on waiting, and with one word for trouble.

Sessions carry no state of their own: no SET, no LISTEN, no advisory lock outlives a transaction. So the same code works
behind PgBouncer in transaction mode, and a pool needs no reset query (one round trip less for every use).
"""

import ssl
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import asyncpg.cursor
import orjson
from asyncpg.pool import PoolConnectionProxy

from offbeat_server.common.errors import DatabaseDownError, DatabaseRefusedError, SettingsError, without_secrets
from offbeat_server.db.copy_connection import CopyConnection
from offbeat_server.db.hosts import Host, HostGroup, group_of
from offbeat_server.db.sql_loader import load

# Every function of this package takes one of these: a connection, or one lent by a pool. Other packages import these
# types from here, so that asyncpg stays in this package.
Connection = asyncpg.Connection | PoolConnectionProxy
Pool = asyncpg.Pool
Record = asyncpg.Record

CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 10.0
_JSONB_VERSION = b"\x01"  # the one version of jsonb's binary form: this byte, then JSON text
_SQL = load("pool")

# Behind a pooler no prepared statement is kept: it would live in a server connection that other clients use.
_STATEMENTS_KEPT = 100
# Asked of Postgres itself. Its side of the keepalives is enough: the packets keep a NAT entry alive for both, and a
# client that vanished loses its locks after a minute; our own side has the bound of `command_timeout`.
_SERVER_SETTINGS = {
    "synchronous_commit": "on",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
# Classes of SQLSTATE that say "not now": lost connections, resources, shutdown and start-up, failing disks; and single
# codes: a session ended by a time-out of its own, a primary that has become a standby, a statement that was
# cancelled.
_AWAY_CLASSES = ("08", "53", "57P", "58")
_AWAY_CODES = ("25P03", "25006", "57014")
# Things that an operator can change under a running server, and can correct again: role and password (28), the database
# (3D), the schema (3F), privileges; and names that a search path no longer finds, or that a restored database has not.
_REFUSED_CLASSES = ("28", "3D", "3F")
_REFUSED_CODES = ("42501", "42P01", "42703", "42704", "42883")
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")  # parameters of the URL that name one
_TLS_BROKEN_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


async def connect(
    url: str,
    *,
    pgbouncer: bool = False,
    application_name: str = "offbeat",
    command_timeout_s: float = COMMAND_TIMEOUT_S,
) -> CopyConnection:
    """One connection. Raises DatabaseDownError; SettingsError if the URL itself is wrong.

    If the URL names several hosts, the one that is the primary (db/hosts.py).
    """
    with database_trouble():
        connection = await _connect(url, **_parameters(pgbouncer, application_name, command_timeout_s))
        try:
            await _initialiser(pgbouncer)(connection)
        except BaseException:
            connection.terminate()
            raise
    return connection


class KeptConnection:
    """The one connection of a part of the server: opened when it is first needed, and again after `drop`."""

    def __init__(
        self, url: str, *, pgbouncer: bool, application_name: str, command_timeout_s: float = COMMAND_TIMEOUT_S
    ) -> None:
        self._url, self._pgbouncer = url, pgbouncer
        self._application_name, self._command_timeout_s = application_name, command_timeout_s
        self._connection: Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether `get` need not connect."""
        return self._connection is not None

    async def get(self) -> Connection:
        """The open connection. Raises as `connect`."""
        if self._connection is None:
            self._connection = await connect(
                self._url,
                pgbouncer=self._pgbouncer,
                application_name=self._application_name,
                command_timeout_s=self._command_timeout_s,
            )
        return self._connection

    def drop(self) -> None:
        """Close it at once, without waiting for Postgres."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def open_pool(
    url: str,
    *,
    size_max: int = 5,
    pgbouncer: bool = False,
    application_name: str = "offbeat",
    command_timeout_s: float = COMMAND_TIMEOUT_S,
) -> asyncpg.Pool:
    """A pool that has proved by one connection that it can connect. Raises as `connect`.

    The caller wraps the use in `database_trouble()`, and bounds the wait: `pool.acquire(timeout=...)`.
    """
    with database_trouble():
        parameters = _parameters(pgbouncer, application_name, command_timeout_s) | {"connect": _connect}
        pool: Pool = await asyncpg.create_pool(
            url,
            # No floor: asyncpg would restore it by itself while Postgres is away, with a stack in the log each time.
            min_size=0,
            max_size=size_max,
            init=_initialiser(pgbouncer),
            reset=_keep_session,
            **parameters,
        )
        try:
            async with pool.acquire():
                pass
        except BaseException:
            pool.terminate()
            raise
    return pool


async def look_for_primary(url: str, *, pgbouncer: bool = False) -> None:
    """If the URL names several hosts: leave the one that was the primary once another is. Raises as `connect`."""
    if (group := _group_of(url)) is not None:
        parameters = _parameters(pgbouncer, "offbeat look", COMMAND_TIMEOUT_S)
        with database_trouble():
            await group.look(partial(_connect_one, url, parameters))


def check_url(url: str) -> None:
    """Check the form of a database URL without connecting. Raises SettingsError that says what to write."""
    if url.partition("://")[0] not in ("postgresql", "postgres") or "://" not in url:
        raise SettingsError(
            "--database-url (OFFBEAT_DATABASE_URL): must be a URL of Postgres such as "
            f"postgresql://user:password@host:5432/database, not {without_secrets(url)!r}"
        )
    _group_of(url)


def has_several_hosts(url: str) -> bool:
    """Whether another host may take the primary's place. Raises SettingsError."""
    return _group_of(url) is not None


def _parameters(pgbouncer: bool, application_name: str, command_timeout_s: float) -> dict[str, Any]:
    """Arguments that all connections have in common."""
    return {
        "timeout": CONNECT_TIMEOUT_S,
        "command_timeout": command_timeout_s,
        "statement_cache_size": 0 if pgbouncer else _STATEMENTS_KEPT,
        "server_settings": _server_settings(pgbouncer, application_name),
        "connection_class": CopyConnection,
    }


async def _connect(url: str, **parameters: Any) -> CopyConnection:
    """As asyncpg's, for the pool too; and what hinders it in our words."""
    with _refusal(url):
        if (group := _group_of(url)) is not None:
            return await group.connect(partial(_connect_one, url, parameters))
        connection: CopyConnection = await asyncpg.connect(url, **parameters)
        return connection


async def _connect_one(url: str, parameters: Mapping[str, Any], host: Host) -> CopyConnection:
    # A default transaction mode of read only counts as a standby: nothing could be stored there.
    place = {"host": host.name, "port": host.port, "target_session_attrs": "read-write"}
    connection: CopyConnection = await asyncpg.connect(url, **{**parameters, **place})
    return connection


def _group_of(url: str) -> HostGroup | None:
    try:
        return group_of(url)
    except ValueError:
        raise _unreadable() from None


async def open_cursor(connection: Connection, sql: str, *arguments: Any) -> asyncpg.cursor.Cursor:
    """For rows a slice at a time, within a transaction.

    Its statement has no name, unlike that of `connection.cursor`: behind a pooler a session is lent on with the
    statements of the process that had it before, and another process gives its own the same names.
    """
    statement = await connection.prepare(sql, name="")
    cursor: asyncpg.cursor.Cursor = await statement.cursor(*arguments)
    return cursor


async def confirm(connection: Connection) -> None:
    """Make every earlier commit as safe as one of this process, before a client learns of its rows.

    A row that is visible may be on the primary alone: Postgres commits locally when it ends a session that waits for
    the synchronous standby. Alone or in a transaction, whose commit then waits for the standby.
    """
    await connection.execute(_SQL["confirm"])


@contextmanager
def database_trouble() -> Iterator[None]:
    """Turn errors of Postgres into DatabaseDownError or DatabaseRefusedError.

    DatabaseDownError: Postgres cannot be reached, or did not answer in time. DatabaseRefusedError: an operator has to
    repair something. Faults of Offbeat (a syntax error, a broken constraint) pass as they are.
    """
    try:
        yield
    except Exception as error:
        if _is_refusal(error):
            raise DatabaseRefusedError(f"Postgres refuses: {describe(error)}") from error
        if not is_away(error):
            raise
        raise DatabaseDownError(f"Postgres: {describe(error)}") from error


def is_away(error: BaseException) -> bool:
    """Whether this error says that Postgres is away for now, as against that we asked for something wrong."""
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        return code.startswith(_AWAY_CLASSES) or code in _AWAY_CODES
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg has one class for misuse and for a connection that is gone; only the words differ, and a test holds
        # them. (A connection lost during a query is ConnectionDoesNotExistError, class 08.)
        # The pool takes back a connection that Postgres has ended, also while it is lent.
        return any(phrase in str(error) for phrase in ("closed", "closing", "released back to the pool"))
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):  # also an InternalClientError: it is asked first
        return True
    if isinstance(error, asyncpg.InternalClientError):
        # Postgres has ended the session, and asyncpg has not yet seen the end of the connection: it takes the message
        # for an answer to no query.
        return "cannot switch to state" in str(error)
    return isinstance(error, OSError | TimeoutError)


def _is_refusal(error: BaseException) -> bool:
    code = (error.sqlstate or "") if isinstance(error, asyncpg.PostgresError) else ""
    return code.startswith(_REFUSED_CLASSES) or code in _REFUSED_CODES


def describe(error: BaseException) -> str:
    """The error in one line; TimeoutError has no words of its own."""
    return str(error).strip().replace("\n", " ") or type(error).__name__


def _server_settings(pgbouncer: bool, application_name: str) -> dict[str, str]:
    # PgBouncer refuses start-up parameters that it does not track; these two it does.
    tracked = {"application_name": application_name, "timezone": "UTC"}
    return tracked if pgbouncer else tracked | _SERVER_SETTINGS


def _initialiser(pgbouncer: bool) -> Callable[[Connection], Coroutine[Any, Any, None]]:
    return _initialise_behind_pooler if pgbouncer else _initialise


async def _initialise(connection: Connection) -> None:
    # Binary, so that COPY in binary form takes jsonb too.
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", format="binary", encoder=_encode_jsonb, decoder=_decode_jsonb
    )


async def _initialise_behind_pooler(connection: Connection) -> None:
    await _initialise(connection)
    row = await connection.fetchrow(_SQL["durability"])
    assert row is not None
    if (found := row["synchronous_commit"]) in ("off", "local"):
        raise DatabaseRefusedError(
            f"synchronous_commit is {found}, so a committed ping could be lost, and behind a pooler Offbeat cannot "
            f"switch it on; run: alter role {row['role']} set synchronous_commit = on"
        )


async def _keep_session(connection: Connection) -> None:
    """Nothing to undo: asyncpg has ended an open transaction before it asks."""


def _encode_jsonb(value: Any) -> bytes:
    return _JSONB_VERSION + orjson.dumps(value)


def _decode_jsonb(value: bytes) -> Any:
    return orjson.loads(memoryview(value)[1:])


@contextmanager
def _refusal(url: str) -> Iterator[None]:
    """Turn errors of a connection attempt about wrong settings into SettingsError or DatabaseRefusedError.

    The message says what to do. It never shows the URL, which may hold a password.
    """
    check_url(url)
    files = _files_of(url)
    for name, path in files.items():
        try:
            open(path, "rb").close()
        except OSError as error:
            raise DatabaseRefusedError(f"--database-url: {name}={path} cannot be read: {error.strerror}") from error
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        reason = describe(error).removeprefix("invalid DSN: ")
        raise SettingsError(f"--database-url (OFFBEAT_DATABASE_URL): cannot be used: {reason}") from None
    except _TLS_BROKEN_OFF as error:
        raise DatabaseDownError(f"Postgres: TLS: the connection was broken off: {describe(error)}") from error
    except ssl.SSLCertVerificationError as error:  # also a ValueError
        raise DatabaseRefusedError(
            f"--database-url: TLS: the certificate of Postgres is not accepted: {error.verify_message or error}; check "
            "the host name, sslmode and sslrootcert"
        ) from error
    except ssl.SSLError as error:
        given = "".join(f", {name}={path}" for name, path in files.items())
        raise DatabaseRefusedError(f"--database-url: TLS: {describe(error)}{given}") from error
    except ValueError:
        # The error's own words may quote a part of the password.
        raise _unreadable() from None
    except ConnectionError as error:
        if "SSL upgrade" not in str(error):
            raise
        raise DatabaseRefusedError(
            f"--database-url: TLS: {describe(error)}; set sslmode, or ssl = on in Postgres"
        ) from error
    except asyncpg.PostgresError as error:
        if "unsupported startup parameter" in str(error):
            raise DatabaseRefusedError(
                f"--database-url leads to a pooler; set --pgbouncer ({describe(error)})"
            ) from error
        if not _is_refusal(error):
            raise DatabaseDownError(f"Postgres: {describe(error)}") from error
        raise DatabaseRefusedError(f"--database-url: Postgres refuses: {describe(error)}") from error


def _files_of(url: str) -> dict[str, str]:
    try:
        query = parse_qs(urlsplit(url).query)
    except ValueError:
        return {}
    return {name: query[name][-1] for name in _FILES if name in query}


def _unreadable() -> SettingsError:
    return SettingsError(
        "--database-url is not postgresql://user:password@host:port/database "
        "(special characters in the password must be percent-encoded)"
    )
