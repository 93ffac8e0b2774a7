"""Every transition of a connection of the fast HTTP server, reached by bytes on a real socket, on both event loops."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from offbeat_server.ingest.http import connection as connection_module
from offbeat_server.ingest.http.connection_state import TRANSITIONS, next_state
from offbeat_server.ingest.http.connection_state import ConnectionEvent as Event
from offbeat_server.ingest.http.connection_state import ConnectionState as State
from tests.support.harness import Postgres, eventually
from tests.support.postgres.link import Link
from tests.support.servers.ingest_server import PATH, Client, Served, connected, get, serving

Path = list[tuple[State, Event]]

BODY = get(f"{PATH}/log", "Content-Length: 10", method="POST")
LAST = get(PATH, "Connection: close")
CONNECTIONS_MAX = 10
BODY_BYTES = 900_000
BODIES_BYTES_MAX = 1_000_000  # of all together


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The transitions in the order in which connections make them."""
    transitions: Path = []

    def record(state: State, event: Event) -> State:
        transitions.append((state, event))
        return next_state(state, event)

    monkeypatch.setattr(connection_module, "next_state", record)
    return transitions


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


async def is_true(value: object) -> object:
    return value


def reset(client: Client) -> None:
    """Close with RST instead of FIN: the server has nothing to read, not even an end."""
    connection = client.writer.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.abort()


class Walk:
    """A server whose commits a test can hold back, and its connections' transitions since the last expectation."""

    def __init__(self, served: Served, link: Link, path: Path) -> None:
        self.served, self.link, self._path = served, link, path
        self.seen: set[tuple[State, Event]] = set()

    async def pings(self, count: int) -> None:
        """Wait until this number of pings waits for the commit."""
        await eventually(lambda: is_true(self.served.writer.backlog.pings == count))

    async def reaches(self, state: State) -> None:
        """Wait until the connection that moved last is in this state."""
        await eventually(lambda: is_true(self._path and next_state(*self._path[-1]) is state))

    async def expect_events(self, *events: Event) -> None:
        """Compare the events since the last call, when they have all happened."""
        await eventually(lambda: is_true(len(self._path) >= len(events)))
        assert [event for _, event in self._path] == list(events)
        self.seen |= set(self._path)
        self._path.clear()


@asynccontextmanager
async def walking(postgres: Postgres, path: Path, **settings: Any) -> AsyncIterator[Walk]:
    async with (
        postgres.fresh() as url,
        Link(url) as link,
        serving(url, log_url=link.url, connections_per_address_max=0, **settings) as served,
    ):
        yield Walk(served, link, path)


async def alone(walk: Walk) -> None:
    """Transitions without an answer that waits."""
    served = walk.served
    async with connected(served) as client:
        client.send(get())
        assert (await client.reply()).status == 200
        client.writer.write_eof()
        assert await client.is_closed()
        await walk.expect_events(Event.ADMITTED, Event.CLOSE, Event.LOST)

    async with connected(served) as client:
        client.send(BODY + "half ")
        await walk.reaches(State.READING_BODY)
        client.send("whole" + get())
        assert [(await client.reply()).status for _ in range(2)] == [200, 200]
        reset(client)
        await walk.expect_events(Event.ADMITTED, Event.BODY_BEGINS, Event.BODY_ENDS, Event.LOST)

    async with connected(served) as client:
        client.send(BODY)
        await walk.reaches(State.READING_BODY)
        client.writer.write_eof()
        assert await client.is_closed()
        await walk.expect_events(Event.ADMITTED, Event.BODY_BEGINS, Event.CLOSE, Event.LOST)

    async with connected(served) as client:
        client.send(BODY + "half ")
        await walk.reaches(State.READING_BODY)
        reset(client)
        await walk.expect_events(Event.ADMITTED, Event.BODY_BEGINS, Event.LOST)

    async with connected(served) as client:
        client.send(get("/hello"))
        assert (await client.reply()).body == b"hello 0"
        await walk.expect_events(Event.ADMITTED, Event.FOREIGN_REQUEST, Event.HAND_OVER)
    await eventually(lambda: is_true(served.http_servers.connections == 0))


async def no_room(walk: Walk) -> None:
    """Transitions that limits cause."""
    served = walk.served
    head = get(f"{PATH}/log", f"Content-Length: {BODY_BYTES}", method="POST")
    async with connected(served) as client, connected(served) as other:
        client.send(head + "x" * (BODY_BYTES - 1))
        await eventually(lambda: is_true(served.http_servers._bodies.bytes == BODY_BYTES - 1))
        other.send(head + "x" * (BODIES_BYTES_MAX - BODY_BYTES))
        await eventually(lambda: is_true(served.http_servers._bodies.bytes == BODIES_BYTES_MAX - 1))
        other.send("xx")
        reply = await other.reply()
        assert (reply.status, reply.headers["connection"]) == (503, "close")
        await walk.expect_events(
            *(Event.ADMITTED, Event.ADMITTED, Event.BODY_BEGINS, Event.BODY_BEGINS, Event.LAST_REQUEST, Event.LINGER)
        )
        other.send("x" * (2 * BODY_BYTES - BODIES_BYTES_MAX - 2))
        await walk.expect_events(Event.CLOSE, Event.LOST)
        assert await other.is_closed()
        client.send("x")
        assert (await client.reply()).status == 200
    await walk.expect_events(Event.BODY_ENDS, Event.CLOSE, Event.LOST)
    async with connected(served) as client, connected(served) as other:
        client.send(head + "x" * (BODY_BYTES - 1))
        await eventually(lambda: is_true(served.http_servers._bodies.bytes == BODY_BYTES - 1))
        await walk.expect_events(Event.ADMITTED, Event.ADMITTED, Event.BODY_BEGINS)
        other.send(head + "x" * (BODIES_BYTES_MAX - BODY_BYTES + 2))
        await walk.reaches(State.LINGERING)
        reset(other)
        await walk.expect_events(Event.BODY_BEGINS, Event.LAST_REQUEST, Event.LINGER, Event.LOST)
    await walk.expect_events(Event.CLOSE, Event.LOST)
    clients = [Client(*await asyncio.open_connection("127.0.0.1", served.port)) for _ in range(CONNECTIONS_MAX)]
    await walk.expect_events(*[Event.ADMITTED] * CONNECTIONS_MAX)
    async with connected(served) as client:
        assert await client.is_closed()
        await walk.expect_events(Event.TURNED_AWAY, Event.LOST)
    for client in clients:
        reset(client)
    await walk.expect_events(*[Event.LOST] * CONNECTIONS_MAX)


async def with_answers_pending(walk: Walk) -> None:
    """Transitions while a ping waits for its commit."""
    link = walk.link

    @asynccontextmanager
    async def client_after(*requests: str) -> AsyncIterator[Client]:
        link.hold_requests()
        async with connected(walk.served) as client:
            client.send("".join(requests))
            await walk.pings(1)
            yield client
            link.mend()
            await walk.pings(0)

    async def answered(client: Client, status: int = 200) -> None:
        link.mend()
        assert (await client.reply()).status == status
        assert await client.is_closed()

    async with client_after(get()) as client:
        client.writer.write_eof()
        await walk.reaches(State.FINISHING)
        await answered(client)
        await walk.expect_events(Event.ADMITTED, Event.INPUT_ENDS, Event.CLOSE, Event.LOST)

    async with client_after(get(), BODY, "half") as client:
        client.writer.write_eof()
        await walk.reaches(State.FINISHING)
        await answered(client)
        await walk.expect_events(Event.ADMITTED, Event.BODY_BEGINS, Event.INPUT_ENDS, Event.CLOSE, Event.LOST)

    async with client_after(LAST, get()) as client:  # what follows the last request is ignored
        client.writer.write_eof()
        await eventually(lambda: is_true((State.FINISHING, Event.INPUT_ENDS) in walk._path))
        await answered(client)
        await walk.expect_events(Event.ADMITTED, Event.LAST_REQUEST, Event.INPUT_ENDS, Event.CLOSE, Event.LOST)

    async with client_after(LAST) as client:
        reset(client)
        await walk.expect_events(Event.ADMITTED, Event.LAST_REQUEST, Event.LOST)

    async with client_after(get(), get("/hello")) as client:
        await walk.reaches(State.HANDING_OVER)
        link.mend()
        assert [(await client.reply()).body for _ in range(2)] == [b"OK", b"hello 0"]
        await walk.expect_events(Event.ADMITTED, Event.FOREIGN_REQUEST, Event.HAND_OVER)
    await eventually(lambda: is_true(walk.served.http_servers.connections == 0))


async def stopped(walk: Walk, *, in_time: bool) -> None:
    """A stop while a connection waits to be handed over: its commit comes, or does not come in time."""
    walk.link.hold_requests()
    async with connected(walk.served) as client:
        client.send(get() + get("/hello"))
        await walk.reaches(State.HANDING_OVER)
        stopping = asyncio.ensure_future(walk.served.http_servers.stop())
        if in_time:
            await eventually(lambda: is_true(walk.served.http_servers._listener._context.draining))  # type: ignore[union-attr]
            walk.link.mend()
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await client.is_closed()
        last = (Event.CLOSE, Event.LOST) if in_time else (Event.LOST,)
        await walk.expect_events(Event.ADMITTED, Event.FOREIGN_REQUEST, *last)
        walk.link.mend()
        await stopping


def test_every_transition_is_reached(runner: asyncio.Runner, postgres: Postgres, path: Path) -> None:
    async def walk_all() -> set[tuple[State, Event]]:
        seen = set()
        async with walking(
            postgres,
            path,
            connections_max=CONNECTIONS_MAX,
            bytes_pending_max=BODIES_BYTES_MAX,
            body_bytes_max=BODY_BYTES,
        ) as walk:
            await alone(walk)
            await no_room(walk)
            await with_answers_pending(walk)
            await stopped(walk, in_time=True)
            seen |= walk.seen
            walk.served.http_servers.stop = _nothing  # type: ignore[method-assign]
        async with walking(postgres, path, stop_timeout=1) as walk:
            await stopped(walk, in_time=False)
            walk.served.http_servers.stop = _nothing  # type: ignore[method-assign]
            return seen | walk.seen

    table = {(state, event) for state, row in TRANSITIONS.items() for event in row}
    assert runner.run(walk_all()) == table


async def _nothing() -> None:
    pass
