"""`kill -9` under load: every ping that was answered 200 is in the log exactly once, and no job is alerted for it."""

import asyncio
import contextlib
import time
from collections import Counter

import pytest

from offbeat_server.db.pool import connect
from tests.support.harness import HANG_S, Server, eventually

MONITORS = 10_000
SECONDS = 60.0
CONNECTIONS = 16
PINGS_PER_S = 600


class Journal:
    """The answer to each ping: ok, failed (not stored, by the answer), unknown (no answer)."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}


async def _client(number: int, port: int, keys: list[str], until: float, journal: Journal) -> None:
    """One keep-alive connection that pings its share of the monitors in turn, at a steady pace."""
    mine = keys[number::CONNECTIONS]
    pause = CONNECTIONS / PINGS_PER_S
    writer: asyncio.StreamWriter | None = None
    index = 0
    while time.monotonic() < until:
        name = f"{number}-{index}"
        body = name.encode()
        key = mine[index % len(mine)]
        index += 1
        journal.answers[name] = "unknown"
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"POST /api/v1/heartbeat/%s HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (key.encode(), len(body), body)
            )
            async with asyncio.timeout(HANG_S):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
            journal.answers[name] = "ok" if b" 200 " in head.split(b"\r\n")[0] + b" " else "failed"
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError):
            if writer is not None:
                writer.close()
            writer = None
            await asyncio.sleep(0.1)  # sleep: the pause of a client after an error
        await asyncio.sleep(pause)
    if writer is not None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.slow
async def test_ten_thousand_monitors_a_minute_of_pings_and_a_kill(database_url: str) -> None:
    async with Server(database_url) as server:
        monitors = [{"slug": f"m{i}", "every": "40s", "grace": "20s"} for i in range(MONITORS)]
        for start in range(0, MONITORS, 5_000):
            answer = await server.api("POST", "/api/v1/apply", {"monitors": monitors[start : start + 5_000]})
            assert answer.status == 200, answer
        connection = await connect(database_url)
        keys = [row["key"] for row in await connection.fetch("select key from keys where main order by monitor_id")]
        assert len(keys) == MONITORS

        journal = Journal()
        until = time.monotonic() + SECONDS
        clients = [asyncio.ensure_future(_client(n, server.port, keys, until, journal)) for n in range(CONNECTIONS)]
        await asyncio.sleep(SECONDS / 2)
        await server.kill()
        await server.start()
        await asyncio.gather(*clients)

        counts = Counter(journal.answers.values())
        assert counts["ok"] > 2 * CONNECTIONS, counts
        rows = await connection.fetch("select message, count(*) as n from pings group by message")
        stored = {row["message"]: row["n"] for row in rows}
        lost = [name for name, answer in journal.answers.items() if answer == "ok" and stored.get(name) != 1]
        assert not lost, f"{len(lost)} pings answered 200 are not in the log exactly once: {lost[:5]}"

        async def judged() -> bool:
            metrics = await (await server.session.get("/metrics")).text()
            return "offbeat_scheduler_leader 1.0" in metrics

        await eventually(judged)
        # A client that was held up for a minute is late indeed.
        wrong = await connection.fetch(
            "select i.monitor_id, i.reason from incidents i where exists (select from pings p "
            "where p.monitor_id = i.monitor_id and p.at between i.opened_at - interval '59 s' and i.opened_at) limit 3"
        )
        assert not wrong, wrong

        async def compared() -> bool:  # what is in memory with what the log says, ten times in two seconds
            metrics = await (await server.session.get("/metrics")).text()
            assert "offbeat_self_check_mismatches_total 0.0" in metrics
            return float(metrics.partition("\noffbeat_self_checks_total ")[2].partition("\n")[0]) >= 10

        await eventually(compared)
        await connection.close()
