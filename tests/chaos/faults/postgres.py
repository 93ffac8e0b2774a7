"""Faults of Postgres and of the network to it: restarts, crashes, freezes, slowness, cut cables, clocks."""

import asyncio
import contextlib
import os
import random
import signal
import time
from datetime import timedelta

import psutil

from offbeat_server.common.instants import to_datetime
from offbeat_server.db.partitions import make_partitions
from offbeat_server.db.pool import connect
from tests.chaos.faults.registry import clocked, fault, unforked
from tests.chaos.verdict.journal import Fault
from tests.chaos.world.world import World
from tests.support.harness import HANG_S, eventually


@fault("F3", "a fast restart of Postgres", likely=2)
async def postgres_restarts(world: World, chance: random.Random, fault: Fault) -> None:
    await _ends(world, signal.SIGINT)


@fault("F4", "`kill -9` of the postmaster")
async def postgres_is_killed(world: World, chance: random.Random, fault: Fault) -> None:
    await _ends(world, signal.SIGKILL)


@fault("F4", "an immediate shutdown of Postgres: no checkpoint, recovery at the next start")
async def postgres_stops_at_once(world: World, chance: random.Random, fault: Fault) -> None:
    await _ends(world, signal.SIGQUIT)


@fault("F4", "`kill -9` of a session of a node, at which Postgres ends all others and recovers")
async def a_session_is_killed(world: World, chance: random.Random, fault: Fault) -> None:
    pids = await _sessions(world)
    os.kill(chance.choice(pids), signal.SIGKILL)
    await world.ask("select 1")


@fault("F4", "some sessions of the nodes are ended by an administrator")
async def sessions_are_ended(world: World, chance: random.Random, fault: Fault) -> None:
    pids = await _sessions(world)
    for pid in chance.sample(pids, chance.randint(1, len(pids))):
        await world.ask("select pg_terminate_backend($1)", pid)


@fault("F6", "all of Postgres is frozen for 1 to 9 s")
async def postgres_freezes(world: World, chance: random.Random, fault: Fault) -> None:
    with world.frozen_postgres():
        await asyncio.sleep(chance.uniform(1, 9))


@fault("F7", "every answer of Postgres takes 50 to 400 ms longer, for 5 s")
async def postgres_is_slow(world: World, chance: random.Random, fault: Fault) -> None:
    for node in world.nodes:
        node.link.delay_s = chance.uniform(0.05, 0.4)
    await asyncio.sleep(5)
    for node in world.nodes:
        node.link.delay_s = 0.0


@fault("F5", "the cable breaks when Postgres has committed and its answer is on the way", fits=unforked, likely=3)
async def an_answer_of_postgres_is_lost(world: World, chance: random.Random, fault: Fault) -> None:
    link = chance.choice(world.nodes).link
    for _ in range(chance.randint(1, 4)):
        link.hold_replies()
        await link.withheld()
        await asyncio.sleep(chance.choice((0.0, 0.02, 0.3)))
        link.cut()
        await asyncio.sleep(chance.uniform(0, 0.5))


@fault("F11", "a node is cut off from Postgres for 1 to 8 s: both ways, one way, or with a reset", likely=2)
async def a_node_is_cut_off(world: World, chance: random.Random, fault: Fault) -> None:
    link = chance.choice(world.nodes).link
    how = chance.choice(("reset", "both", "requests", "replies"))
    if how == "reset":
        link.cut(stay=True)
    if how in ("both", "requests"):
        link.hold_requests()
    if how in ("both", "replies"):
        link.hold_replies()
    await asyncio.sleep(chance.uniform(1, 8))
    if chance.random() < 0.5:
        link.cut()
    link.mend()


@fault("F11", "all nodes are cut off from Postgres for 1 to 8 s, one after the other")
async def all_nodes_are_cut_off(world: World, chance: random.Random, fault: Fault) -> None:
    for node in chance.sample(world.nodes, len(world.nodes)):
        node.link.hold_requests()
        node.link.hold_replies()
        await asyncio.sleep(chance.uniform(0, 1))
    await asyncio.sleep(chance.uniform(1, 7))
    for node in chance.sample(world.nodes, len(world.nodes)):
        node.link.mend()
        await asyncio.sleep(chance.uniform(0, 1))


@fault("F13", "the wall clock of a node jumps by up to an hour, and back", fits=clocked, likely=2)
async def a_nodes_clock_jumps(world: World, chance: random.Random, fault: Fault) -> None:
    wall = chance.choice(world.nodes).wall
    assert wall is not None
    wall.set(chance.choice((-3600.0, -10.0, 3600.0, chance.uniform(-60, 60))))
    await asyncio.sleep(chance.uniform(2, 5))
    wall.set(0.0)
    await asyncio.sleep(1)


@fault("F13", "the clock of Postgres jumps forward by 3 s to an hour", fits=clocked, likely=3)
async def the_clock_of_postgres_jumps_forward(world: World, chance: random.Random, fault: Fault) -> None:
    by = chance.choice((3.0, 20.0, 120.0, 3600.0))
    await world.shift(world.shifted_s + by)


@fault("F13", "the clock of Postgres is set back by 0.5 to 6 s", fits=clocked, likely=2)
async def the_clock_of_postgres_is_set_back(world: World, chance: random.Random, fault: Fault) -> None:
    await world.shift(world.shifted_s - chance.uniform(0.5, 6))


@fault("F30", "partitions are made and retired for 4 s, and for a moment the log is locked")
async def partitions_are_made_and_retired(world: World, chance: random.Random, fault: Fault) -> None:
    connection = await connect(world.database_url)
    try:
        today = to_datetime(0) + timedelta(seconds=time.time() + world.shifted_s)
        far = today.date() + timedelta(days=chance.randint(30, 300))
        until = time.monotonic() + 4
        while time.monotonic() < until:
            for name in await make_partitions(connection, far, 1):
                await connection.execute(f"alter table pings detach partition {name} concurrently")
                await connection.execute(f"drop table {name}")
        async with connection.transaction():
            await connection.execute("lock table pings in access exclusive mode")
            await asyncio.sleep(chance.uniform(0, 1))
    finally:
        await connection.close()
    slow = [seconds for sent, seconds in world.load.latencies if sent > fault.began]
    fault.measured["slowest_ping_s"] = max(slow, default=0.0)


async def _ends(world: World, how: signal.Signals) -> None:
    """End the postmaster; the embedding process, the world or Patroni starts it again."""
    old = world.base.pid
    os.kill(old, how)

    async def is_another() -> bool:
        await world.base.follow()
        with contextlib.suppress(AssertionError, psutil.Error):
            return world.base.pid != old
        return False

    await eventually(is_another, HANG_S)
    await world.ask("select 1")


async def _sessions(world: World) -> list[int]:
    rows = await world.ask(
        "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and backend_type = 'client backend'"
    )
    return [row["pid"] for row in rows]
