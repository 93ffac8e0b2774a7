"""Faults of standbys, failovers, disks and backups."""

import asyncio
import random
import time

import psutil

from tests.chaos.faults.registry import fault
from tests.chaos.verdict.journal import Fault, Restore
from tests.chaos.world.databases import OnSmallDisk, Single, UnderPatroni, WithStandby
from tests.chaos.world.nodes import Shape, stopped
from tests.chaos.world.world import World
from tests.support.postgres.clusters import all_processes


def replicated(shape: Shape) -> bool:
    """A primary with a synchronous standby, without a manager of failovers."""
    return shape.database == "standby"


def managed(shape: Shape) -> bool:
    """Patroni manages failovers."""
    return shape.database == "patroni"


def small(shape: Shape) -> bool:
    """Postgres is on a disk that can be filled up."""
    return shape.database == "disk"


def restorable(shape: Shape) -> bool:
    """One Postgres of the version of our own programs for backups, on the machine's own clock."""
    return shape.database in ("single", "disk") and not shape.pooled and not shape.clocks


# ---------------------------------------------------------------------------------------------- the synchronous standby


@fault("F31", "the synchronous standby is down for 1 to 12 s: commits wait for it", fits=replicated, likely=2)
async def the_standby_is_away(world: World, chance: random.Random, fault: Fault) -> None:
    base = _pair(world)
    standby = base.pair.standby
    base.held.add(standby)
    await base.pair.kill(standby)
    await asyncio.sleep(chance.uniform(1, 12))
    await base.pair.start(standby)
    base.held.discard(standby)


@fault("F31", "the synchronous standby is frozen for 3 to 20 s", fits=replicated, likely=2)
async def the_standby_freezes(world: World, chance: random.Random, fault: Fault) -> None:
    base = _pair(world)
    with stopped(all_processes(base.pair.pid(base.pair.standby))):
        await asyncio.sleep(chance.uniform(3, 20))


@fault(
    "F31",
    "the standby is down, connections are cut, the primary dies, the standby is promoted",
    fits=replicated,
    likely=3,
)
async def the_primary_dies_without_its_standby(world: World, chance: random.Random, fault: Fault) -> None:
    base = _pair(world)
    old, standby = base.pair.primary, base.pair.standby
    base.held |= {old, standby}
    await base.pair.kill(standby)
    for _ in range(chance.randint(1, 3)):
        await asyncio.sleep(chance.uniform(0.3, 2))
        for node in world.nodes:
            node.link.cut()
    await asyncio.sleep(chance.uniform(0.2, 1.5))
    await base.pair.kill(old)
    await base.pair.start(standby)
    await base.fail_over()
    base.held.discard(standby)
    await _failed_over(world, fault)
    await base.rebuild(old)


@fault("F31", "`kill -9` of the primary, and the standby is promoted after 0 to 3 s", fits=replicated, likely=2)
async def the_primary_dies(world: World, chance: random.Random, fault: Fault) -> None:
    base = _pair(world)
    old = base.pair.primary
    base.held.add(old)
    await base.pair.kill(old)
    await asyncio.sleep(chance.uniform(0, 3))
    await base.fail_over()
    await _failed_over(world, fault)
    await base.rebuild(old)


@fault("F31", "the primary hangs, and the standby is promoted after 1 to 3 s", fits=replicated, likely=2)
async def the_primary_hangs(world: World, chance: random.Random, fault: Fault) -> None:
    base = _pair(world)
    old = base.pair.primary
    base.held.add(old)
    base.pair.freeze(old)
    await asyncio.sleep(chance.uniform(1, 3))
    await base.fail_over()
    await _failed_over(world, fault)
    await base.pair.kill(old)
    await base.rebuild(old)


async def _failed_over(world: World, fault: Fault) -> None:
    """Every node takes pings again and they are judged; how long that took."""
    began = time.monotonic()
    await world.recovered()
    fault.measured["failover_s"] = time.monotonic() - began


# -------------------------------------------------------------------------------------------------------------- Patroni


@fault(
    "F32",
    "Patroni and Postgres of the leader die; the replica is promoted when the lease of the leader ends",
    fits=managed,
)
async def the_leader_dies(world: World, chance: random.Random, fault: Fault) -> None:
    base = _patroni(world)
    await base.is_synchronous()  # otherwise Patroni promotes no replica
    leader = await base.leader()
    began = time.monotonic()
    base.kill(leader)
    await base.has_leader(other_than=leader)
    fault.measured["promoted_s"] = time.monotonic() - began
    await _failed_over(world, fault)
    await base.start(leader)
    await base.is_synchronous()


@fault("F32", "a planned switchover by Patroni", fits=managed, likely=2)
async def the_leader_is_switched(world: World, chance: random.Random, fault: Fault) -> None:
    base = _patroni(world)
    await base.is_synchronous()  # otherwise Patroni promotes no replica
    leader = await base.leader()
    await base.switch_over(leader)
    await base.has_leader(other_than=leader)
    await _failed_over(world, fault)
    await base.is_synchronous()


@fault("F32", "etcd is frozen for 1 to 8 s", fits=managed)
async def etcd_freezes(world: World, chance: random.Random, fault: Fault) -> None:
    with stopped([psutil.Process(_patroni(world).etcd_pid)]):
        await asyncio.sleep(chance.uniform(1, 8))


@fault("F32", "HAProxy is killed and started again: every connection breaks", fits=managed)
async def the_proxy_dies(world: World, chance: random.Random, fault: Fault) -> None:
    base = _patroni(world)
    await base.restart_proxy(chance.uniform(0, 3))


# ----------------------------------------------------------------------------------------------------- disk and backups


@fault("F33", "the disk of Postgres is full for 3 to 15 s", fits=small, likely=4)
async def the_disk_is_full(world: World, chance: random.Random, fault: Fault) -> None:
    assert isinstance(world.base, OnSmallDisk)
    async with world.base.full():
        await asyncio.sleep(chance.uniform(3, 15))


@fault("F34", "the database is restored from a backup that is 3 to 10 s old", fits=restorable)
async def a_backup_is_restored(world: World, chance: random.Random, fault: Fault) -> None:
    assert isinstance(world.base, Single)
    backup = world.directory / f"backup-{time.monotonic_ns()}"
    since = time.time()
    await world.base.dump(backup)
    await asyncio.sleep(chance.uniform(3, 10))
    crash = chance.random() < 0.5
    await asyncio.gather(*(node.kill() if crash else node.stop() for node in world.nodes))
    world.journal.restores.append(Restore(since, time.time()))
    await world.base.restore(backup)
    backup.unlink()
    await asyncio.gather(*(node.start() for node in world.nodes))


def _pair(world: World) -> WithStandby:
    assert isinstance(world.base, WithStandby)
    return world.base


def _patroni(world: World) -> UnderPatroni:
    assert isinstance(world.base, UnderPatroni)
    return world.base
