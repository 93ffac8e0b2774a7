"""Faults of nodes: they are killed, stopped, frozen, and die at the worst places of their own code."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from tests.chaos.faults.registry import alone, fault, forked, pair, unforked
from tests.chaos.verdict.journal import Fault
from tests.chaos.world.nodes import Node
from tests.chaos.world.world import NotRecovered, World
from tests.support.harness import eventually

TAKEN_S_MAX = 30.0
REACHED_S_MAX = 12.0  # until a node passes the place at which it is to die; there may be nothing to tell just now
PLACES_OF_THE_SCHEDULER = (
    *("decided", "begun", "state written", "incident written", "outbox written", "committed", "taken", "known"),
)


@fault("F1", "`kill -9` of a node under load, at any moment", likely=2)
async def a_node_is_killed(world: World, chance: random.Random, fault: Fault) -> None:
    node = chance.choice(world.nodes)
    await node.kill()
    await asyncio.sleep(chance.choice((0.0, 0.0, chance.uniform(0, 3))))
    await node.start()


@fault("F1", "a node dies between the commit of a batch and its answers", fits=unforked)
async def a_node_dies_before_it_answers(world: World, chance: random.Random, fault: Fault) -> None:
    await _dies_at(chance.choice(world.nodes), "appended", chance.randrange(100))


@fault("F2", "SIGTERM to a node under load")
async def a_node_is_stopped(world: World, chance: random.Random, fault: Fault) -> None:
    node = chance.choice(world.nodes)
    began = time.monotonic()
    await node.stop()
    fault.measured["stopped_s"] = time.monotonic() - began
    await node.start()


@fault("F6", "a node is frozen for 0.5 to 2.5 s: shorter than its lease")
async def a_node_stutters(world: World, chance: random.Random, fault: Fault) -> None:
    async with chance.choice(world.nodes).frozen():
        await asyncio.sleep(chance.uniform(0.5, 2.5))


@fault("F6", "a node is frozen for 4 to 9 s: longer than its lease and than the silence that a writer is allowed")
async def a_node_freezes(world: World, chance: random.Random, fault: Fault) -> None:
    async with chance.choice(world.nodes).frozen():
        await asyncio.sleep(chance.uniform(4, 9))


@fault("F17", "all nodes are down for 5 to 20 s")
async def all_nodes_are_down(world: World, chance: random.Random, fault: Fault) -> None:
    crash = chance.random() < 0.5
    await asyncio.gather(*(node.kill() if crash else node.stop() for node in world.nodes))
    await asyncio.sleep(chance.uniform(5, 20))
    await asyncio.gather(*(node.start() for node in world.nodes))


@fault("F23", "the scheduler's node is killed; the other takes over", fits=pair, likely=2)
async def the_scheduler_is_killed(world: World, chance: random.Random, fault: Fault) -> None:
    await (await _taken_over(world, fault, "crash", Node.kill)).start()


@fault("F23", "the scheduler's node is stopped; the other takes over", fits=pair, likely=2)
async def the_scheduler_is_stopped(world: World, chance: random.Random, fault: Fault) -> None:
    await (await _taken_over(world, fault, "stop", Node.stop)).start()


@fault("F23", "the scheduler's node is frozen until the other has taken over, and then wakes up", fits=pair)
async def the_scheduler_freezes(world: World, chance: random.Random, fault: Fault) -> None:
    async with AsyncExitStack() as stack:
        await _taken_over(world, fault, "freeze", lambda node: stack.enter_async_context(node.frozen()))


@fault("F23", "the scheduler's node is cut off from Postgres until the other has taken over", fits=pair)
async def the_scheduler_is_cut_off(world: World, chance: random.Random, fault: Fault) -> None:
    async def cut(node: Node) -> None:
        if chance.random() < 0.5:
            node.link.cut(stay=True)
        else:
            node.link.hold_requests()
            node.link.hold_replies()

    node = await _taken_over(world, fault, "cut", cut)
    await asyncio.sleep(chance.uniform(0, 3))
    node.link.cut()
    node.link.mend()


@fault("F24", "a node dies after an alert was sent and before this is recorded", likely=2)
async def a_dispatcher_dies_after_sending(world: World, chance: random.Random, fault: Fault) -> None:
    await _dies_at(await _dispatcher(world), "sent", chance.randrange(4))


@fault("F25", "a node dies somewhere between deciding and sending", likely=3)
async def a_node_dies_on_the_way_to_an_alert(world: World, chance: random.Random, fault: Fault) -> None:
    place = chance.choice((*PLACES_OF_THE_SCHEDULER, "claimed", "settled"))
    node = await world.scheduler() if place in PLACES_OF_THE_SCHEDULER else await _dispatcher(world)
    await _dies_at(node, place, chance.randrange(6))


@fault("F29", "the scheduler is restarted; the state that it loads must agree with the tables", fits=alone)
async def everything_is_loaded_again(world: World, chance: random.Random, fault: Fault) -> None:
    node = await world.scheduler()
    await node.stop()
    await node.start()
    await world.recovered()
    rows = await world.ask(
        "select m.slug from states s join monitors m on m.id = s.monitor_id"
        " where (s.status = 'down') <> exists"
        " (select from incidents i where i.monitor_id = s.monitor_id and i.resolved_at is null)"
    )
    world.troubles += [f"{row['slug']}: its status says otherwise than its incidents" for row in rows]


@fault("F1", "`kill -9` of a worker", fits=forked, likely=3)
async def a_worker_is_killed(world: World, chance: random.Random, fault: Fault) -> None:
    node = world.nodes[0]
    workers = node.processes()[1:]
    victim = chance.choice(workers)
    victim.kill()

    async def replaced() -> bool:
        now = node.processes()[1:]
        return len(now) == len(workers) and victim.pid not in {process.pid for process in now}

    await eventually(replaced, TAKEN_S_MAX)


@fault("F6", "a worker is frozen for 1 to 6 s", fits=forked, likely=2)
async def a_worker_freezes(world: World, chance: random.Random, fault: Fault) -> None:
    victim = chance.choice(world.nodes[0].processes()[1:])
    world.nodes[0].free = False
    victim.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(chance.uniform(1, 6))
    finally:
        victim.send_signal(signal.SIGCONT)
        world.nodes[0].free = True


async def _dies_at(node: Node, place: str, passes: int) -> None:
    """Let a node end itself at a place in its code; then start it again."""
    node.arm(place, passes)
    try:
        await node.ended(REACHED_S_MAX)
    except AssertionError:  # too little has happened
        await node.kill()
    await node.start()


async def _dispatcher(world: World) -> Node:
    """The node that delivers: the holder of the dispatcher's lease, found by the nodes' logs."""
    if len(world.nodes) == 1:
        return world.nodes[0]
    (row,) = await world.ask("select holder from lease where name = 'courier'")

    def at_work(node: Node) -> int:
        lines = [
            n for n, line in enumerate(node.server.output) if row["holder"] in line and "dispatcher.lease_taken" in line
        ]
        return max(lines, default=-1)

    return max(world.nodes, key=at_work)


async def _taken_over(world: World, fault: Fault, how: str, end: Callable[[Node], Awaitable[object]]) -> Node:
    """End the scheduler's node; measure when the other is scheduler and has evaluated a ping. Return the ended node."""
    node = await world.scheduler()
    (lease,) = await world.ask("select term from lease where name = 'keeper'")
    began = time.monotonic()
    ending = asyncio.ensure_future(end(node))
    while not await world.ask("select 1 from lease where name = 'keeper' and term > $1", lease["term"]):
        if time.monotonic() - began > TAKEN_S_MAX:
            raise NotRecovered("the other node has not taken over")
        await asyncio.sleep(0.02)
    fault.measured[f"taken_{how}_s"] = time.monotonic() - began
    await ending
    await world.judged_by(world.other(node))
    fault.measured[f"judged_{how}_s"] = time.monotonic() - began
    return node
