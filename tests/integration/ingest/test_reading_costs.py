"""The cost of a body for the event loop: a few kilobytes of an unknown client must not hold it for long."""

import asyncio
import time

import aiohttp
import pytest

from offbeat_server.config import Settings
from offbeat_server.ingest.bulk import LINES_AT_ONCE, Bulk, Tally
from offbeat_server.ingest.ndjson import BadBody, NdjsonReader
from offbeat_server.ingest.protocols import native, snitch
from offbeat_server.ingest.protocols.base import Request
from offbeat_server.ingest.protocols.sentry import check_ins
from tests.support.cost import in_loops, loops
from tests.support.servers.ingest_server import KEY, serving

HELD_MAX = 4.0  # loops of a million turns: some ten times what it takes
FORM = {"content-type": "application/x-www-form-urlencoded"}


def post(path: str, body: bytes) -> Request:
    return Request("POST", path, "", FORM, body)


def test_an_envelope_of_newlines_alone_is_not_stepped_through() -> None:
    newlines = post("/api/1/envelope/", b"{}\n" + b"\n" * 4_000_000)
    assert loops(lambda: check_ins.read(newlines)) < HELD_MAX


def test_a_form_of_too_many_fields_is_not_read() -> None:
    fields = post("/api/v1/heartbeat/key", b"run=1&" * 22 + b"run=" + b"&a%20=b" * 140_000)
    assert loops(lambda: native.read(fields)) < HELD_MAX
    several = native.read(post("/api/v1/heartbeat/key", b"status=fail&run=1&run=2&message=m"))
    assert several == native.read(Request("GET", "/api/v1/heartbeat/key", "status=fail&run=2&message=m", {}, b""))
    assert loops(lambda: snitch.read(post("/c2354d53d2", b"m=x&" + b"a%20&" * 190_000))) < HELD_MAX


@pytest.mark.parametrize(
    "query",
    [
        "exit_code=" + "0" * 60_000 + "x",
        "exit_code=0x" + "0" * 60_000 + "g",
        "a" * 60_000 + "/",
        "?a=" * 20_000,
        "1/" * 30_000,
        "create=" + "/start" * 10_000 + "x",
    ],
)
def test_no_query_is_read_again_and_again(query: str) -> None:
    value = query.rpartition("=")[2]
    assert loops(lambda: native.read(Request("GET", "/api/v1/heartbeat/key", query, {}, b""))) < HELD_MAX
    assert loops(lambda: native.read(Request("GET", f"/api/v1/heartbeat/key/{value}", "", {}, b""))) < HELD_MAX


def test_blank_lines_are_not_worth_an_exception() -> None:
    def read() -> None:
        lines = NdjsonReader()
        assert list(lines.feed(b"{}\n")) == [{}]
        with pytest.raises(BadBody):
            list(lines.feed(b"\n" * 65_536))
        lines = NdjsonReader()
        with pytest.raises(BadBody):
            for _ in range(1_000):
                list(lines.feed(b"\n" * 65_536))

    assert loops(read) < HELD_MAX


@pytest.mark.asyncio
async def test_many_short_lines_give_others_their_turn(database_url: str) -> None:
    turns = 0

    async def wait_for_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with serving(database_url) as served:
        http_servers = served.http_servers
        bulk = Bulk(Settings(), served.metrics, http_servers._pipeline, served.writer.backlog, http_servers._sources)
        other = asyncio.create_task(wait_for_turns())
        tally = Tally(None)
        tally.known = True  # as after a line whose key is known: otherwise the rest of that many bad ones is not read
        await bulk._take_values([BadBody("not JSON")] * (10 * LINES_AT_ONCE), tally)
        other.cancel()
    assert tally.refused == 10 * LINES_AT_ONCE
    assert turns >= 9


@pytest.mark.asyncio
async def test_a_long_form_of_an_unknown_key_is_not_read_and_that_of_a_known_one_blocks_no_other_ping(
    database_url: str,
) -> None:
    form = b"status=fail&message=" + b"%" * 900_000  # the worst for the decoder
    held: list[float] = []  # processor time of this thread between two turns of the loop

    async def measure_turns() -> None:
        while True:
            began_s = time.thread_time()
            await asyncio.sleep(0)
            held.append(time.thread_time() - began_s)

    async with serving(database_url) as served, aiohttp.ClientSession() as session:
        base = f"http://127.0.0.1:{served.http_servers.port}"

        async def send(path: str) -> tuple[int, float]:
            began_s = time.process_time()
            async with session.post(base + path, data=form, headers=FORM) as response:
                await response.read()
                return response.status, time.process_time() - began_s

        strange = [await send(path) for path in ("/api/v1/heartbeat/nobody", "/ping/nobody/job?create=1") * 3]
        assert {status for status, _ in strange} == {404}
        assert in_loops(min(cost_s for _, cost_s in strange)) < HELD_MAX
        other = asyncio.create_task(measure_turns())
        status, cost_s = await send(f"/api/v1/heartbeat/{KEY}")
        other.cancel()
        assert status == 200 and in_loops(cost_s) > HELD_MAX > in_loops(max(held))
        assert await served.database.fetchval("select count(*) from pings where signal = 'fail'") == 1
