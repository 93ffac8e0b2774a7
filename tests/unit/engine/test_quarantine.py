"""An internal error leaves out one monitor and stops no other; and no ping of that monitor is lost by it."""

import asyncio
from typing import Any

import pytest

from offbeat_server.db.pool import connect
from offbeat_server.db.repositories import changes
from offbeat_server.engine import engine as engine_module
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.engine.rules import notifications, pings
from offbeat_server.observability.metrics import Metrics
from offbeat_server.runtime.metrics_bindings import bind_scheduler
from offbeat_server.scheduler.self_check import SelfCheck
from tests.support.harness import eventually
from tests.support.servers.scheduler_node import Node, count_of, running, true


def _counted(node: Node, name: str) -> float | None:
    """The value of a counter, as Prometheus reads it."""
    metrics = Metrics("test")
    bind_scheduler(metrics, node.scheduler, SelfCheck(node.pool, node.scheduler))
    return metrics.registry.get_sample_value(f"offbeat_{name}_total")


async def test_a_decision_that_cannot_be_stored_harms_no_neighbour(database_url: str) -> None:
    async with running(database_url) as node:
        bad, good = await node.monitor("bad", every="1h"), await node.monitor("good", every="1h")
        await node.ping(good)
        await node.is_status(good, "up")  # from here on the scheduler takes these entries from memory
        # A reader would never let this through; the log replaces it, the row of the run cannot hold it.
        await asyncio.gather(node.ping(bad, "start", run="a\0b"), node.ping(good, "start", run="ab"))
        await eventually(lambda: true(_counted(node, "decisions_dropped") == 1))
        assert await node.status(bad) == "new"  # as it was made
        # A version that can store it loses nothing.
        await eventually(lambda: true(list(node.scheduler.engine.quarantined) == [bad]))
        await node.ping(good, "success", run="ab")
        await eventually(lambda: count_of(node.pool, "runs where verdict = 'succeeded'"))
        assert _counted(node, "pings_skipped") == 0
        await node.ping(bad)
        await eventually(lambda: true(_counted(node, "pings_skipped") == 1))


async def test_an_internal_error_quarantines_one_monitor_and_no_other(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pings.apply_ping

    def broken(state: Any, m: Any, entry: Any) -> None:
        real(state, m, entry)
        if m.slug == "bad" and entry.ping.message == "poison":
            raise ZeroDivisionError("an internal error")

    async with running(database_url) as node:
        bad = await node.monitor("bad", every="1h")
        good = await node.monitor("good", every="1s", grace="500ms")
        await asyncio.gather(node.ping(bad), node.ping(good))
        await node.is_status(bad, "up")
        monkeypatch.setattr(engine_module, "apply_ping", broken)
        await asyncio.gather(node.ping(bad, "fail", message="poison"), node.ping(good))
        await node.is_status(good, "down")  # the others are evaluated as usual
        assert list(node.scheduler.engine.quarantined) == [bad]
        assert await node.status(bad) == "up"  # nothing of the half-applied ping is written
        await node.ping(bad)  # passed over
        await node.monitor("bad", every="2h")  # a change tries it again
        await node.ping(bad, "fail", message="a real failure")
        await node.is_status(bad, "down")
        assert not node.scheduler.engine.quarantined


async def test_rows_that_cannot_be_read_stop_no_other_monitor(database_url: str) -> None:
    async with running(database_url) as node:
        bad, good = await node.monitor("bad", every="1h"), await node.monitor("good", every="1h")
        await asyncio.gather(node.ping(bad), node.ping(good))
        await node.is_status(bad, "up")
        await node.is_status(good, "up")
    connection = await connect(database_url)
    await connection.execute("""update states set state = '["nonsense"]' where monitor_id = $1""", bad)
    await connection.close()
    async with running(database_url) as again:
        await eventually(lambda: true(again.scheduler.evaluating))
        assert list(again.scheduler.engine.quarantined) == [bad]
        async with changes.changing(again.pool) as changing:
            await changing.execute(
                "insert into changes (project_id, monitor_id, actor, kind, subject, after) "
                "values (1, $1, 'test', 'monitor', 'worse', '{}')",
                bad,
            )
        again.scheduler.wake()
        await asyncio.gather(again.ping(bad), again.ping(good, "fail"))
        await again.is_status(good, "down")


async def test_a_state_that_cannot_be_written_down_harms_no_neighbour(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Monitor.dump

    def broken(m: Monitor) -> dict[str, Any]:
        if m.slug == "bad" and m.status == "down":
            raise ZeroDivisionError("an internal error")
        return real(m)

    async with running(database_url) as node:
        bad, good = await node.monitor("bad", every="1h"), await node.monitor("good", every="1h")
        await asyncio.gather(node.ping(bad), node.ping(good))
        await node.is_status(bad, "up")
        monkeypatch.setattr(Monitor, "dump", broken)
        await asyncio.gather(node.ping(bad, "fail"), node.ping(good, "fail"))
        await node.is_status(good, "down")
        await eventually(lambda: true(list(node.scheduler.engine.quarantined) == [bad]))
        await node.ping(good)
        await node.is_status(good, "up")
        assert await node.status(bad) == "up"


async def test_an_error_in_letting_go_harms_no_neighbour(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = notifications.release_held_by

    def broken(state: Any, m: Any, up_id: int, since: int) -> None:
        if m.slug == "bad":
            raise ZeroDivisionError("an internal error")
        real(state, m, up_id, since)

    monkeypatch.setattr(notifications, "release_held_by", broken)
    async with running(database_url) as node:
        up = await node.monitor("up", every="1h")
        downs = [await node.monitor(slug, every="1s", grace="0s", depends_on=["up"]) for slug in ("bad", "good")]
        await asyncio.gather(*(node.ping(each) for each in (up, *downs)))
        await node.ping(up, "fail")
        for each in downs:
            await node.is_status(each, "down")
        await eventually(lambda: count_of(node.pool, "incidents where suppressed_by is not null having count(*) = 2"))
        await node.ping(up)
        await eventually(lambda: true(list(node.scheduler.engine.quarantined) == [downs[0]]))
        await eventually(lambda: count_of(node.pool, f"alerts where monitor_id = {downs[1]}"))  # in its own time


async def test_a_later_start_applies_what_was_passed_over(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint moves on without the monitor; its state stays, and the log is applied to it from there."""
    real = pings.apply_ping

    def broken(state: Any, m: Any, entry: Any) -> None:
        if m.slug == "bad" and entry.ping.message == "poison":
            raise ZeroDivisionError("an internal error")
        real(state, m, entry)

    monkeypatch.setattr(engine_module, "apply_ping", broken)
    async with running(database_url) as node:
        bad, good = await node.monitor("bad", max_runtime="1h"), await node.monitor("good", every="1h")
        await asyncio.gather(node.ping(bad), node.ping(good))
        await node.is_status(bad, "up")
        await node.ping(bad, "start", run="one", message="poison")
        await node.ping(bad, "fail", run="two", message="really")
        await node.ping(good, "fail")
        await node.is_status(good, "down")
        assert list(node.scheduler.engine.quarantined) == [bad]
    connection = await connect(database_url)
    assert await connection.fetchval("select set_aside from checkpoint") == [bad]
    assert await connection.fetchval("select status from states where monitor_id = $1", bad) == "up"
    assert await connection.fetchval("select s.at < c.at from states s, checkpoint c where monitor_id = $1", bad)

    async with running(database_url, "as broken") as node:  # the same program: it fails again, at the same place
        await eventually(lambda: true(node.scheduler.evaluating))
        assert list(node.scheduler.engine.quarantined) == [bad]
        await node.ping(bad, "success", run="one")
    assert await connection.fetchval("select set_aside from checkpoint") == [bad]

    monkeypatch.setattr(engine_module, "apply_ping", real)  # a better one
    async with running(database_url, "cured") as node:
        await node.is_status(bad, "down")
        assert not node.scheduler.engine.quarantined and node.scheduler.mismatches == 0
        runs = await node.pool.fetch("select run, verdict from runs where monitor_id = $1 order by number", bad)
        assert [tuple(row) for row in runs] == [("one", "succeeded"), ("two", "failed")]
        assert await node.pool.fetchval("select count(*) from alerts where monitor_id = $1", bad) == 1
    assert await connection.fetchval("select set_aside from checkpoint") == []
    await connection.close()
