"""Faults of clients and receivers: herds, slow and hostile ones, poison in the outbox."""

import asyncio
import contextlib
import json
import random
import time

from tests.chaos.faults.registry import fault
from tests.chaos.verdict.journal import Fault
from tests.chaos.world.world import World
from tests.support.harness import Behaviour, eventually

HERD = 2_000
HERD_ALERT_S_MAX = 60.0
RECONNECTS = 5_000
SLOW_CLIENTS = 300
HOSTILE = (
    Behaviour(hang=True),
    Behaviour(reset=True),
    Behaviour(body=b"x" * 100, drip_s=0.5),
    Behaviour(redirect="http://169.254.169.254/latest/meta-data"),
    Behaviour(body=b"x" * 5_000_000),
    Behaviour(headers={"X-Bomb": "x" * 200_000}),
    Behaviour(status=500, delay_s=3),
    Behaviour(status=410),
)
POST = b"POST /api/v1/heartbeat/{key} HTTP/1.1\r\nHost: x\r\n"
# Each must be refused. {key}: of the monitor of the probe.
INVALID = (
    POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    POST + b"Content-Length: -1\r\n\r\n",
    POST + b"Content-Length: 99999999\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    b"GET /api/v1/heartbeat/{key}?status=nonsense HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /api/v1/heartbeat/" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /api/v1/heartbeat/{key} HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 9_000 + b"\r\n\r\n",
    b"GET /api/v1/heartbeat/nobody-has-this-key HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /api/v1/heartbeats HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n" + b"[" * 10_000,
    b"GARBAGE\r\n\r\n",
    b"\x00\xff" * 50 + b"\r\n\r\n",
)
# Each has a detail that cannot be stored. The ping is stored without it, and answered 200 or, without room, 503.
PARTLY_INVALID = (
    b"GET /api/v1/heartbeat/{key}?run=%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /api/v1/heartbeat/{key}?done=-1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /api/v1/heartbeat/{key}?run=" + b"x" * 300 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    POST + b'Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{"done": NaN}',
    b"GET /api/v1/heartbeat/{key}?message=" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
)


@fault("F12", "the receiver of alerts cannot be reached for 2 to 8 s: connections are refused or hang")
async def the_receiver_is_cut_off(world: World, chance: random.Random, fault: Fault) -> None:
    if chance.random() < 0.5:
        world.hook.cut(stay=True)
    else:
        world.hook.hold_requests()
    await asyncio.sleep(chance.uniform(2, 8))
    if chance.random() < 0.5:
        world.hook.cut()
    world.hook.mend()


@fault(
    "F12",
    "the answers of the receiver are lost for 2 to 5 s: it has received every alert, and the server does not know",
)
async def answers_of_the_receiver_are_lost(world: World, chance: random.Random, fault: Fault) -> None:
    world.hook.hold_replies()
    await asyncio.sleep(chance.uniform(2, 5))
    world.hook.cut()


@fault(
    "F15",
    "another receiver is hostile: it hangs, drips, resets, redirects to internal addresses, answers without end",
    likely=2,
)
async def a_receiver_is_hostile(world: World, chance: random.Random, fault: Fault) -> None:
    world.hostile.behaviour = chance.choice(HOSTILE)
    await asyncio.sleep(chance.uniform(3, 6))
    world.hostile.behaviour = Behaviour()


@fault("F16", f"{HERD} monitors fall silent in the same moment")
async def a_herd_falls_silent(world: World, chance: random.Random, fault: Fault) -> None:
    slugs = [f"herd-{n}" for n in range(HERD)]
    digest = {"slug": "herd", "kind": "webhook", "url": f"{world.hook.url}/herd"}
    monitors = [{"slug": slug, "every": "1s", "grace": "1s", "channels": ["herd"]} for slug in slugs]
    await world.apply({"channels": [digest]})
    await world.apply({"monitors": monitors})
    keys = await world.ask(
        "select k.key from keys k join monitors m on m.id = k.monitor_id where k.main and m.slug like 'herd-%'"
    )
    count = "select count(*) from incidents i join monitors m on m.id = i.monitor_id where m.slug like 'herd-%'"
    before = (await world.ask(count))[0][0]
    body = "\n".join(json.dumps({"key": row["key"]}) for row in keys).encode()
    server = chance.choice(world.nodes).server
    async with server.session.post("/api/v1/heartbeats", data=body) as answer:
        reply = await answer.json(content_type=None)
        if answer.status == 200:
            assert reply["accepted"] == HERD, reply
        else:
            world.troubles.append(f"the herd was refused: {answer.status} {reply}")
    began = time.monotonic()

    async def all_down() -> bool:
        return bool((await world.ask(count))[0][0] - before >= HERD)

    await eventually(all_down, HERD_ALERT_S_MAX, every_s=0.2)
    fault.measured["herd_decided_s"] = time.monotonic() - began


@fault("F18", f"{RECONNECTS} connections come at once, each with a ping (1500 in the first eleven runs)")
async def a_herd_reconnects(world: World, chance: random.Random, fault: Fault) -> None:
    tries = await asyncio.gather(
        *(world.load.ping(world.probe, chance.choice(world.load.ports)) for _ in range(RECONNECTS))
    )
    fault.measured["herd_answered"] = sum(each.answer == "ok" for each in tries) / RECONNECTS
    fault.measured["slowest_ping_s"] = max(each.ended - each.sent for each in tries)


@fault("F20", f"{SLOW_CLIENTS} clients send nothing, drip their heads, drip their bodies or never read, for 5 s")
async def slow_clients(world: World, chance: random.Random, fault: Fault) -> None:
    port = chance.choice(world.load.ports)
    await asyncio.gather(
        *(_slow(port, world, chance.choice(("idle", "head", "body", "answer"))) for _ in range(SLOW_CLIENTS))
    )
    honest = sorted(seconds for sent, seconds in world.load.latencies if sent > fault.began)
    fault.measured["honest_p99_s"] = honest[int(0.99 * len(honest))] if honest else 0.0


@fault(
    "F21",
    "requests that contradict themselves, are too large, are no HTTP, or have a detail that cannot be stored",
    likely=2,
)
async def invalid_requests(world: World, chance: random.Random, fault: Fault) -> None:
    port = chance.choice(world.load.ports)
    for request in chance.sample(both := INVALID + PARTLY_INVALID, len(both)):
        status = await _raw(port, request.replace(b"{key}", world.probe.key.encode()))
        expected = 400 <= (status or 400) < 500 if request in INVALID else status in (None, 200, 503)
        if not expected:
            world.troubles.append(f"{request[:80]!r} was answered {status}")


@fault("F22", "400 requests in which some bytes are changed")
async def mutated_requests(world: World, chance: random.Random, fault: Fault) -> None:
    # An unknown key: for any meaning of the bytes, no watched monitor gets the ping.
    request = b"POST /api/v1/heartbeat/nobody/start?run=1&stage=a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    for _ in range(8):
        await asyncio.gather(*(_raw(chance.choice(world.load.ports), _mutated(request, chance)) for _ in range(50)))


@fault("F26", "an alert in the outbox whose facts cannot be rendered, and one for a channel of an unknown kind")
async def poison_in_the_outbox(world: World, chance: random.Random, fault: Fault) -> None:
    await world.ask(
        "insert into channels (project_id, slug, kind, definition) values (1, 'nonsense', 'nonsense', '{}')"
        " on conflict do nothing"
    )
    rows = await world.ask(
        "insert into alerts (project_id, channel_id, kind, facts)"
        """ select 1, id, 'opened', '{"reason": {"nobody": ["knows"]}, "opened_at": 5}' from channels"""
        " where slug in ('hook-0', 'nonsense') returning id"
    )

    async def settled() -> bool:
        left = await world.ask(
            "select 1 from alerts where id = any($1::bigint[]) and state = 'pending'", [row["id"] for row in rows]
        )
        return not left

    await eventually(settled, HERD_ALERT_S_MAX, every_s=0.1)


async def _slow(port: int, world: World, how: str) -> None:
    with contextlib.suppress(OSError, EOFError, TimeoutError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(5):
                if how == "body":
                    writer.write(b"POST /api/v1/heartbeat/nobody HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
                elif how == "head":
                    writer.write(b"GET /api/v1/heartbeat/nobody HTTP/1.1\r\n")
                elif how == "answer":
                    writer.write(b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
                while how in ("body", "head"):
                    writer.write(b"X")
                    await asyncio.sleep(0.5)
                await asyncio.sleep(5)
        finally:
            writer.transport.abort()


async def _raw(port: int, request: bytes) -> int | None:
    """The status; None: the connection was closed, or nothing came within a second."""
    with contextlib.suppress(OSError, EOFError, TimeoutError, ValueError, IndexError):
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                return int((await reader.readline()).split()[1])
            finally:
                writer.transport.abort()
    return None


def _mutated(request: bytes, chance: random.Random) -> bytes:
    mutated = bytearray(request)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(mutated))
        match chance.randrange(3):
            case 0:
                mutated[place] = chance.randrange(256)
            case 1:
                del mutated[place]
            case _:
                mutated[place:place] = bytes(chance.choices(b"\r\n: /?&=%\x00\xff0", k=chance.randint(1, 4)))
    return bytes(mutated)
