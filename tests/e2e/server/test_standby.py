"""A synchronous standby: no answer is 200 for a ping that the standby has not, after any fault of the commit."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.db.pool import connect, database_trouble
from offbeat_server.ingest.log_writer.writer import LogWriter
from tests.support.harness import HANG_S, eventually
from tests.support.postgres.link import Link
from tests.support.postgres.standby import Pair
from tests.support.servers.scheduler_node import Node, running, true

WAITING = "select {}(pid) from pg_stat_activity where wait_event = 'SyncRep'"
Interrupt = Callable[[Pair, Link], Awaitable[None]]


async def _cut(pair: Pair, link: Link) -> None:
    link.cut()


async def _terminate(pair: Pair, link: Link) -> None:
    await pair.ask("a", WAITING.format("pg_terminate_backend"))


async def _cancel(pair: Pair, link: Link) -> None:
    await pair.ask("a", WAITING.format("pg_cancel_backend"))


async def _crash(pair: Pair, link: Link) -> None:
    await pair.kill("a")
    await pair.start("a")


def _write_only_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the writer commit nothing that would wait for the standby in place of the pings.

    That is a pulse, in time or for a deadline of the scheduler, and the report of an outage after a slow commit or a
    stall of the process, as on a busy machine.
    """
    monkeypatch.setattr(LogWriter, "_pulse_in_s", lambda writer: 3600.0)
    for name in ("SLOW_S", "STALL_S"):
        monkeypatch.setattr(f"offbeat_server.ingest.log_writer.writer.{name}", 3600.0)


class _Client:
    """Sends pings one after the other and remembers which of them were answered 200."""

    def __init__(self, node: Node, monitor_id: int) -> None:
        self._node, self._monitor_id = node, monitor_id
        self.answered: list[str] = []

    async def send(self, name: str) -> None:
        await self._node.ping(self._monitor_id, message=name)
        self.answered.append(name)


@pytest.mark.parametrize("interrupts", [(_cut,), (_cut, _cut, _cut), (_terminate,), (_cancel, _cancel), (_crash,)])
async def test_no_ping_is_answered_that_the_standby_does_not_have(
    interrupts: tuple[Interrupt, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_only_pings(monkeypatch)
    async with (
        Pair() as pair,
        Link(pair.url("a")) as link,
        running(link.url, commit_timeout=20.0, stop_timeout=2.0) as node,
    ):
        client = _Client(node, await node.monitor(every="1h"))
        await client.send("before")
        await pair.kill("b")
        sending = [asyncio.ensure_future(client.send(f"ping {n}")) for n in range(20)]
        # The pings, and not a sign of life of the writer.
        await eventually(lambda: pair.waits_for_standby(statement="copy"))
        monkeypatch.undo()
        for interrupt in interrupts:
            failures = node.writer._failures  # grows with every failed request, while none succeeds
            await interrupt(pair, link)
            await eventually(lambda failures=failures: true(node.writer._failures > failures))  # type: ignore[misc]
            await eventually(lambda: _is_in_log(pair, 21))  # committed here, and visible to every session
            await eventually(pair.waits_for_standby)  # the writer's next statement waits for the standby too
        assert node.writer.batches_doubted and client.answered == ["before"]
        await pair.kill("a")
        await node.crash()
        for each in sending:
            each.cancel()
        await pair.start("b")
        await pair.promote()
        assert await pair.ask("b", "select array_agg(message) from pings") == client.answered


async def test_pings_in_doubt_are_answered_when_the_standby_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    _write_only_pings(monkeypatch)
    async with (
        Pair() as pair,
        Link(pair.url("a")) as link,
        running(link.url, commit_timeout=20.0, stop_timeout=2.0) as node,
    ):
        client = _Client(node, await node.monitor(every="1h"))
        await pair.kill("b")
        sending = [asyncio.ensure_future(client.send(f"ping {n}")) for n in range(20)]
        # The pings, and not a sign of life of the writer.
        await eventually(lambda: pair.waits_for_standby(statement="copy"))
        monkeypatch.undo()
        link.cut()
        await eventually(lambda: _is_in_log(pair, 20))
        await pair.start("b")
        async with asyncio.timeout(HANG_S):
            await asyncio.gather(*sending)
        await pair.kill("a")
        await pair.promote()
        messages = await pair.ask("b", "select array_agg(message) from pings")
        assert sorted(messages) == sorted(client.answered) and len(messages) == 20


async def _is_in_log(pair: Pair, count: int) -> bool:
    return bool(await pair.ask("a", "select count(*) from pings") == count)


async def test_a_commit_that_is_cancelled_while_it_waits_for_the_standby_is_in_doubt() -> None:
    """Postgres reports it as done, with a warning."""
    async with Pair() as pair:
        connection = await connect(pair.url("a"))
        await connection.execute("create table made (a integer)")
        await pair.kill("b")

        async def alone() -> None:
            with database_trouble():
                await connection.execute("insert into made values (1)")

        async def in_a_transaction() -> None:
            with database_trouble():
                async with connection.transaction():
                    await connection.execute("insert into made values (2)")

        for attempt in (alone, in_a_transaction):
            trying = asyncio.ensure_future(attempt())
            await eventually(lambda: pair.waits_for_standby("offbeat"))
            await pair.ask("a", WAITING.format("pg_cancel_backend"))
            with pytest.raises(DatabaseDownError, match="standby"):
                await trying
        assert await connection.fetchval("select count(*) from made") == 2  # and the connection still works
        await connection.close()


async def test_a_change_that_was_made_before_waits_for_the_standby_too() -> None:
    """The answer to a repeated request says that the change is kept: also if there is nothing left to write."""
    async with Pair() as pair, running(pair.url("a")) as node:
        await node.monitor("job", every="1h")
        await pair.kill("b")
        again = asyncio.ensure_future(node.monitor("job", every="1h"))
        pool = "select pid from pg_stat_activity where wait_event = 'SyncRep' and application_name = 'offbeat'"
        await eventually(lambda: pair.ask("a", pool))
        assert not again.done()
        await pair.start("b")
        async with asyncio.timeout(HANG_S):
            await again
