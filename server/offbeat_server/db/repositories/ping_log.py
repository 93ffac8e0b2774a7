"""The writer's side of the log: one connection that appends, and the row in `writers` that stands for it.

Every call is bounded in time and ends in one of five ways, which is all that a writer needs to tell apart: done,
FencedError, AlreadyInLogError, RowRejectedError, or DatabaseDownError. After the last it may have happened or not.
"""

import asyncio
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self
from uuid import uuid4

import asyncpg

from offbeat_server.common.errors import (
    AlreadyInLogError,
    DatabaseDownError,
    FencedError,
    OffbeatError,
    RowRejectedError,
)
from offbeat_server.common.instants import Micros, to_datetime, to_micros
from offbeat_server.db.copy_connection import CopyConnection
from offbeat_server.db.copy_format import COLUMNS, encode_entries
from offbeat_server.db.pool import confirm, connect, describe, is_away
from offbeat_server.db.sql_loader import load
from offbeat_server.engine.model.ping import Entry

BACKEND_END_TIMEOUT_MS = 3_000
_SQL = load("ping_log")
_COPY = _SQL["append"].format(columns=", ".join(COLUMNS))
_FENCED = "OB001"  # raised by the trigger pings_accept


class RefusedPings(NamedTuple):
    """Pings refused between two instants: log time, or their ages where `register` takes them."""

    started: Micros
    ended: Micros
    pings: int
    reason: str


class Registered(NamedTuple):
    """A new writer, and log time at its registration."""

    writer: int
    started_at: Micros


class Standing(NamedTuple):
    """The state of a writer in the log: its last seq, and the instant up to which it accepted everything."""

    seq: int
    accepted_through: Micros


class LostPings(NamedTuple):
    """Answered pings that are no longer in the log, all of them later than `since`."""

    since: Micros
    pings: int


class Session(NamedTuple):
    """A database session as another one can find and end it."""

    pid: int
    name: str


class LogConnection:
    """A connection that appends to the log.

    Used by one task; after DatabaseDownError it is only good for `terminate`.
    """

    def __init__(self, connection: CopyConnection, name: str, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self.session = Session(connection.get_server_pid(), name)

    @classmethod
    async def open(cls, url: str, *, pgbouncer: bool = False, timeout_s: float) -> Self:
        """Connect; `timeout_s` bounds every later call. Raises DatabaseDownError, or SettingsError."""
        name = f"offbeat log {uuid4().hex}"
        connection = await connect(url, pgbouncer=pgbouncer, application_name=name, command_timeout_s=timeout_s)
        return cls(connection, name, timeout_s)

    async def register(
        self,
        node: str,
        metrics_address: str | None,
        former: int | None = None,
        refused_ages: Sequence[RefusedPings] = (),
        jumped: bool = False,
        lost: LostPings | None = None,
    ) -> Registered:
        """A new writer in the place of `former`, which is fenced. Raises DatabaseDownError.

        `jumped`: the database's clock has; log time then never goes back, and what it skipped counts as refused.
        `lost`: what `former` has lost; the time since then is an outage.
        """
        since, pings = (None, 0) if lost is None else (to_datetime(lost.since), lost.pings)
        with _TROUBLE:
            async with self._bound():
                row = await self._connection.fetchrow(
                    _SQL["register"], node, metrics_address, former, *_columns(refused_ages), jumped, since, pings
                )
        assert row is not None
        return Registered(row["id"], to_micros(row["started_at"]))

    async def standing(self, writer: Registered) -> Standing | None:
        """Return the state of this writer in the log; None: the log does not know it. Raises DatabaseDownError."""
        with _TROUBLE:
            async with self._bound():
                row = await self._connection.fetchrow(_SQL["standing"], writer.writer, to_datetime(writer.started_at))
        return None if row is None else Standing(row["seq"], to_micros(row["accepted_through"]))

    async def latest(self) -> Micros:
        """The last instant that any writer has spoken of. Raises DatabaseDownError."""
        with _TROUBLE:
            async with self._bound():
                return to_micros(await self._connection.fetchval(_SQL["latest"]))

    async def confirm(self) -> None:
        """Return when every commit here is as safe as one of this process. Raises DatabaseDownError."""
        with _TROUBLE:
            async with self._bound():
                await confirm(self._connection)

    async def copy(self, entries: Sequence[Entry]) -> None:
        """Append and commit all entries or none.

        Raises FencedError, AlreadyInLogError, RowRejectedError; DatabaseDownError if the commit is in doubt.
        """
        try:
            body = encode_entries(entries)
        except (struct.error, ValueError, TypeError, KeyError) as error:
            raise RowRejectedError(f"a row cannot be written down: {error!r}") from error
        # Bounded by asyncpg alone: it waits for nothing here but Postgres, as nothing else is under way.
        with _TROUBLE:
            await self._connection.copy_in(_COPY, body)

    async def pulse(self, writer: int, through: Micros) -> Micros:
        """Say that everything accepted up to `through` is committed; gives log time by the database.

        Raises FencedError, DatabaseDownError.
        """
        with _TROUBLE:
            async with self._bound():
                now = await self._connection.fetchval(_SQL["pulse"], writer, to_datetime(through))
        if now is None:
            raise FencedError(f"writer {writer} is fenced")
        return to_micros(now)

    async def report_refusals(self, writer: int, refused: Sequence[RefusedPings]) -> None:
        """Record when pings were refused.

        Raises DatabaseDownError: then it may be recorded twice, which does no harm.
        """
        started, ended, pings, reasons = _columns(refused)
        with _TROUBLE:
            async with self._bound():
                await self._connection.execute(
                    _SQL["report_refusals"],
                    writer,
                    [to_datetime(at) for at in started],
                    [to_datetime(at) for at in ended],
                    pings,
                    reasons,
                )

    async def end(self, writer: int, through: Micros) -> None:
        """The orderly end of this writer. Raises DatabaseDownError."""
        with _TROUBLE:
            async with self._bound():
                await self._connection.execute(_SQL["end_writer"], writer, to_datetime(through))

    async def end_session(self, session: Session) -> None:
        """End another session of this role and wait for it, `BACKEND_END_TIMEOUT_MS` at most. Raises DatabaseDownError.

        It only saves time: where the session cannot be found or does not end, the primary key still decides.
        """
        with _TROUBLE:
            async with self._bound(wait_s := BACKEND_END_TIMEOUT_MS / 1000):
                await self._connection.execute(
                    _SQL["end_backend"],
                    session.pid,
                    session.name,
                    BACKEND_END_TIMEOUT_MS,
                    timeout=self._timeout_s + wait_s,
                )

    async def close(self) -> None:
        """Say goodbye to Postgres, within the bound."""
        with _TROUBLE:
            async with self._bound():
                await self._connection.close()

    def terminate(self) -> None:
        """Drop the connection without a word."""
        self._connection.terminate()

    def _bound(self, more_s: float = 0.0) -> asyncio.Timeout:
        # asyncpg has its own time-out but, to cancel, waits for a second connection; this one waits for nothing.
        return asyncio.timeout(self._timeout_s + more_s + 1.0)


class _Translated:
    """Turns what asyncpg raises into what the caller of a LogConnection can tell apart. One for all calls: a batch is
    small, and a generator for each would cost as much as encoding five of its rows.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and (translated := _verdict(error)) is not None:
            raise translated from error


_TROUBLE = _Translated()


def _verdict(error: BaseException) -> OffbeatError | None:
    """Translate an error into its meaning for the batch; None: it is no error of the database."""
    if is_away(error):
        return DatabaseDownError(f"Postgres: {describe(error)}")
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return DatabaseDownError(f"asyncpg: {describe(error)}")
    if not isinstance(error, asyncpg.PostgresError):
        return None
    # Without its detail, which shows the row: what a client sent does not belong into our log lines.
    code, text = error.sqlstate or "", str(error.args[0])
    if code == _FENCED:
        return FencedError(text)
    if code == "23505":
        return AlreadyInLogError(text)
    # Data exceptions, a limit of the program, a null, a constraint: the row is the cause. A missing partition is a
    # check violation of no constraint. That, and any other error, is transient or needs an operator.
    if code.startswith(("22", "54")) or code == "23502" or (code == "23514" and error.constraint_name):
        return RowRejectedError(text)
    return DatabaseDownError(f"Postgres: {text}")


def _columns(refused: Sequence[RefusedPings]) -> tuple[list[Micros], list[Micros], list[int], list[str]]:
    return (
        [each.started for each in refused],
        [each.ended for each in refused],
        [each.pings for each in refused],
        [each.reason for each in refused],
    )
