"""A simulated Postgres: sessions, transactions, row locks, and a network that loses, delays and doubts.

It takes the place of asyncpg's connection, so that all of offbeat_server.db above it is the real code. A statement runs
in one instant at the server; its request and its answer travel for some time each, and either may be lost.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context, copy_context
from typing import Any, Self

import asyncpg

from offbeat_server.common.instants import Micros
from tests.simulation.world.loop import PROCESS, VirtualLoop

BEGIN: Micros = 1_767_571_252_000_000  # 2026-01-05, eight seconds before a full minute
IDLE_IN_TRANSACTION_S = 3.0
Work = Callable[["Session"], Any]


class Lock:
    """A lock on one row; those who wait try again when it is let go."""

    def __init__(self) -> None:
        self.holders: set[Session] = set()
        self.waiting: list[Callable[[], None]] = []

    def held_by_others(self, session: "Session") -> bool:
        return bool(self.holders - {session})


class Row(tuple[Any, ...]):
    """As asyncpg's record."""

    names: dict[str, int]

    def keys(self) -> Iterable[str]:
        return self.names.keys()

    def __getitem__(self, key: Any) -> Any:
        return tuple.__getitem__(self, self.names[key] if isinstance(key, str) else key)


def rows_of(names: str) -> Callable[..., Row]:
    """A maker of rows with these columns."""
    places = {name: place for place, name in enumerate(names.split())}
    kind = type("Row", (Row,), {"names": places})
    return lambda *values: kind(values)


class Blocked(Exception):
    """The statement waits for a lock."""

    def __init__(self, lock: Lock) -> None:
        self.lock = lock


def wait_for(session: "Session", lock: Lock) -> None:
    """Continue only when no other session holds it."""
    if lock.held_by_others(session):
        raise Blocked(lock)


class Later(Exception):
    """The statement has begun; the rest of it happens after this number of seconds."""

    def __init__(self, seconds: float, work: Work) -> None:
        self.seconds, self.work = seconds, work


class Session:
    """The server's side of a connection."""

    def __init__(self, pid: int, name: str, process: Any) -> None:
        self.pid, self.name, self.process = pid, name, process
        self.alive = True
        self.writes: list[Callable[[], None]] | None = None  # of the open transaction
        self.runs: dict[tuple[int, int], Any] = {}  # rows of `runs` that it has written, and that it alone sees yet
        self.aborted = False
        self.held: tuple[str, int, str] | None = None  # the lease that this transaction has looked at
        self.locks: list[Lock] = []
        self.touched = 0


class Link:
    """A node's way to the server."""

    def __init__(self) -> None:
        self.request_cut = self.reply_cut = False
        self.loss = 0.0  # of a statement's request or answer, noticed at once
        self.slow_s = 0.0


class Server:
    """The state that the sessions share."""

    def __init__(self, loop: VirtualLoop, rng: random.Random) -> None:
        self.loop, self.rng = loop, rng
        self.context: Context = copy_context()
        self.context.run(PROCESS.set, None)
        self.links: dict[str, Link] = {}
        self.sessions: dict[int, Session] = {}
        self.up = True
        self.jump: Micros = 0
        self.statements = 0
        self._pids = 0

    @property
    def clock(self) -> Micros:
        """`clock_timestamp()`."""
        return BEGIN + self.jump + int(self.loop.time() * 1_000_000)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """In the server's own context."""
        self.loop.call_later(seconds, call, context=self.context)

    def connect(self, name: str) -> Session:
        self._pids += 1
        session = self.sessions[self._pids] = Session(self._pids, name, PROCESS.get())
        return session

    def end(self, session: Session) -> None:
        """The session's open transaction is rolled back."""
        if session.alive:
            session.alive = False
            self.sessions.pop(session.pid, None)
            self._finish(session)

    def restart(self) -> None:
        """Postgres dies; what was committed stays."""
        for session in list(self.sessions.values()):
            self.end(session)

    def run(self, session: Session, work: Work, answer: Callable[[Any, BaseException | None], None]) -> None:
        """One statement."""
        if not session.alive or not self.up:
            answer(None, gone())
            return
        self.statements += 1
        session.touched += 1
        try:
            result = work(session)
        except Blocked as blocked:
            blocked.lock.waiting.append(lambda: self.run(session, work, answer))
            return
        except Later as rest:
            more = rest.work
            self.later(rest.seconds, lambda: self.run(session, more, answer))
            return
        except asyncpg.PostgresError as error:
            session.aborted = session.writes is not None
            answer(None, error)
            return
        if session.writes is not None:
            touched = session.touched
            self.later(IDLE_IN_TRANSACTION_S, lambda: self._bound_idle(session, touched))
        answer(result, None)

    def begin(self, session: Session) -> None:
        session.writes, session.runs, session.aborted = [], {}, False

    def commit(self, session: Session) -> None:
        writes = session.writes or []
        if not session.aborted:
            for write in writes:
                write()
        self._finish(session)

    def rollback(self, session: Session) -> None:
        self._finish(session)

    def lock(self, session: Session, lock: Lock) -> None:
        lock.holders.add(session)
        session.locks.append(lock)

    def _finish(self, session: Session) -> None:
        session.writes, session.runs, session.held, session.aborted = None, {}, None, False
        locks, session.locks = session.locks, []
        for lock in locks:
            lock.holders.discard(session)
        for lock in locks:
            waiting, lock.waiting = lock.waiting, []
            for again in waiting:
                self.later(0.0, again)

    def _bound_idle(self, session: Session, touched: int) -> None:
        if session.alive and session.writes is not None and session.touched == touched:
            self.end(session)


def gone() -> Exception:
    return asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


class Transaction:
    """As asyncpg's."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    async def __aenter__(self) -> Self:
        await self._connection.ask(self._connection.server.begin)
        return self

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        server = self._connection.server
        await self._connection.ask(server.rollback if kind is not None else server.commit)


class Cursor:
    """All rows of one instant, handed out in slices."""

    def __init__(self, connection: "Connection", rows: list[Any]) -> None:
        self._connection, self._rows = connection, rows

    async def fetch(self, count: int) -> list[Any]:
        await self._connection.ask(lambda session: None)
        part, self._rows = self._rows[:count], self._rows[count:]
        return part


class Prepared:
    """A statement that waits for its arguments."""

    def __init__(self, connection: "Connection", sql: str) -> None:
        self._connection, self._sql = connection, sql

    async def cursor(self, *args: Any) -> Cursor:
        return Cursor(self._connection, await self._connection.fetch(self._sql, *args))


class Connection:
    """The part of asyncpg's connection that offbeat_server.db uses."""

    def __init__(self, server: Server, link: Link, session: Session, statements: Any, timeout_s: float) -> None:
        self.server, self.link, self.session = server, link, session
        self._statements, self._timeout_s = statements, timeout_s
        self._closed = False

    @property
    def is_good(self) -> bool:
        return not self._closed

    def get_server_pid(self) -> int:
        return self.session.pid

    def transaction(self, readonly: bool = False) -> Transaction:
        return Transaction(self)

    async def execute(self, sql: str, *args: Any, timeout: float | None = None) -> None:
        await self._query(sql, *args)

    async def fetch(self, sql: str, *args: Any, timeout: float | None = None) -> list[Any]:
        rows: list[Any] = await self._query(sql, *args)
        return rows

    async def fetchrow(self, sql: str, *args: Any, timeout: float | None = None) -> Any:
        rows = await self._query(sql, *args)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *args: Any) -> Any:
        rows = await self._query(sql, *args)
        return rows[0][0] if rows else None

    async def prepare(self, sql: str, name: str) -> "Prepared":
        await self.ask(lambda session: None)
        return Prepared(self, sql)

    async def copy_in(self, statement: str, body: Any) -> None:
        entries = body.entries
        await self.ask(lambda session: self._statements.copy(session, entries))

    async def close(self) -> None:
        self.terminate()

    def terminate(self) -> None:
        """Statements under way may still happen, until the server notices."""
        if not self._closed:
            self._closed = True
            notice_s = self.server.rng.choice((0.0, 0.01, 0.3, 6.0))
            self.server.later(notice_s, lambda: self.server.end(self.session))

    def _query(self, sql: str, *args: Any) -> Awaitable[Any]:
        statement = self._statements.named(sql)
        return self.ask(lambda session: statement(session, *args))

    async def ask(self, work: Work) -> Any:
        """One round trip."""
        if self._closed:
            raise asyncpg.InterfaceError("connection is closed")
        server, link, rng, session = self.server, self.link, self.server.rng, self.session
        future: asyncio.Future[Any] = server.loop.create_future()
        began_s = server.loop.time()

        def give(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        def give_up() -> None:
            server.later(max(0.0, began_s + self._timeout_s - server.loop.time()), lambda: give(None, TimeoutError()))

        def answer(result: Any, error: BaseException | None) -> None:
            if link.reply_cut:
                give_up()
            else:
                there_s = rng.uniform(0.0002, 0.004) + link.slow_s
                server.later(there_s, lambda: give(result, error))

        here_s = rng.uniform(0.0002, 0.004) + link.slow_s
        if link.request_cut:
            give_up()
            if rng.random() < 0.5:  # it was on its way, and arrives when no session waits for it
                server.later(rng.uniform(0.5, 8.0), lambda: server.run(session, work, lambda result, error: None))
        elif link.loss and rng.random() < link.loss:
            self._closed = True  # what follows on this connection cannot overtake what was lost
            server.later(here_s, lambda: give(None, gone()))
            if rng.random() < 0.6:
                late_s = rng.choice((0.0, here_s, 1.0))
                server.later(late_s, lambda: server.run(session, work, lambda result, error: None))
            server.later(rng.choice((0.02, 2.0)), lambda: server.end(session))
        else:
            server.later(here_s, lambda: server.run(session, work, answer))
        try:
            return await future
        except GeneratorExit:
            raise  # the world has ended
        except asyncpg.ConnectionDoesNotExistError:
            self._closed = True
            raise
        except BaseException:
            if not future.done() or future.cancelled() or isinstance(future.exception(), TimeoutError):
                self._closed = True
                server.later(rng.choice((0.0, 1.0, 6.0)), lambda: server.end(session))
            raise
