"""Clients that are not closed for the time in which the server's event loop stood still."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from offbeat_server.ingest.http import listener
from offbeat_server.ingest.http.connection import ConnectionContext
from tests.support.harness import Postgres, eventually
from tests.support.ingest_server import LARGE_BYTES, PATH, connected, get, serving

TICK_S = 0.05
TIMEOUT_S = 0.5
HELD_UP_S = 2.0


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


def stand_still() -> None:
    time.sleep(HELD_UP_S)  # sleep: in which the loop does nothing, for longer than any time-out


async def is_true(value: object) -> object:
    return value


def test_time_in_which_the_loop_stood_still_is_not_held_against_clients(
    runner: asyncio.Runner, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is taking a large answer, one has sent half of a head, one half of a body, and one is idle. All of them stood
    still too, as on a machine that was suspended: they go on when the listener has looked at its connections again.
    """
    monkeypatch.setattr(listener, "TICK_S", TICK_S)
    monkeypatch.setattr(listener, "TICK_S_MAX", 2 * TICK_S)
    timeouts: dict[str, Any] = {f"{name}_timeout": TIMEOUT_S for name in ("idle", "header", "body")}

    async def hold_up() -> None:
        async with (
            postgres.fresh() as url,
            serving(url, **timeouts) as served,
            connected(served) as large,
            connected(served) as head,
            connected(served) as body,
            connected(served) as idle,
        ):
            large.writer.transport.pause_reading()  # type: ignore[attr-defined]
            large.send(get("/large", "Connection: close"))
            head.send(get()[:20])
            body.send(get(f"{PATH}/log", "Content-Length: 8", method="POST") + "half")
            seen = served.http_servers._listener
            assert seen is not None

            async def tick(context: ConnectionContext = seen._context) -> None:
                now_s = context.now_s
                await eventually(lambda: is_true(context.now_s > now_s), every_s=0.001)

            await eventually(lambda: is_true(served.http_servers._bodies.bytes == 4), every_s=0.001)
            await eventually(lambda: is_true(seen._handed_over._connections), every_s=0.001)
            await tick()
            stand_still()
            await tick()
            head.send(get()[20:])
            body.send("half")
            idle.send(get())
            large.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert [(await client.reply()).status for client in (head, body, idle)] == [200] * 3
            assert len((await large.reply()).body) == LARGE_BYTES

    runner.run(hold_up())
