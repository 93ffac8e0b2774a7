"""A failover to an asynchronous standby without the last commits: noticed, recorded, no healthy job is alerted."""

import asyncio
import re

import asyncpg
import pytest

from offbeat_server.db.pool import connect
from tests.support.clients.honest_jobs import HonestJobs, incidents_of, is_judged, outages_of
from tests.support.harness import Server, eventually
from tests.support.postgres.standby import Pair


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [pytest.param(1, marks=pytest.mark.long), 2])
async def test_the_loss_of_answered_pings_is_noticed(nodes: int) -> None:
    async with Pair(synchronous=False) as pair:
        servers = [Server(pair.url("a", "b")) for _ in range(nodes)]
        try:
            for server in servers:
                await server.start()
            async with HonestJobs(servers, 20, every_s=2.0, grace_s=1.0) as jobs:
                await eventually(lambda: _at_least(jobs, 60))
                await eventually(lambda: _one_judges(servers))
                for slug in ("early", "late"):
                    created = await servers[0].api("PUT", f"/api/v1/monitors/{slug}", {"every": "1h"})
                    assert created.status == 201, created
                    if slug == "early":
                        await eventually(pair.has_caught_up)
                        await pair.kill("b")  # from here on everything is known to the primary alone
                known = len(jobs.stored)
                await eventually(lambda: _at_least(jobs, known + 60))
                await pair.kill("a")
                answered = list(jobs.stored)
                await pair.start("b")
                await pair.promote()
                await eventually(lambda: _at_least(jobs, len(answered) + 80))
                await eventually(lambda: _one_judges(servers))
                connection = await connect(pair.url("b"))
                kept = {row["message"] for row in await connection.fetch("select message from pings")}
                lost = [message for message in answered if message not in kept]
                assert len(lost) >= 40
                # Recorded from the last row that is left, with the number.
                outages = [each for each in await outages_of(connection) if each["reason"] == "lost"]
                assert sum(each["pings"] for each in outages) == len(lost), outages
                assert all(each["length"].total_seconds() > 3 for each in outages)
                await eventually(lambda: _is_reported(connection, len(lost)))
                assert not await incidents_of(connection)
                # Pings answered afterwards are there; monitors made in the lost time are not, for every node.
                again = {row["message"] for row in await connection.fetch("select message from pings")}
                assert again.issuperset(set(jobs.stored) - set(lost))
                for server in servers:
                    assert (await server.api("GET", "/api/v1/monitors/early")).status == 200
                    assert (await server.api("GET", "/api/v1/monitors/late")).status == 404

            # Real silence is alerted.
            async def all_silent() -> bool:
                return len(await incidents_of(connection)) == 20

            await eventually(all_silent)
            for server in servers:
                assert not [line for line in server.output if "self_check.mismatch" in line]
            await connection.close()
        finally:
            for server in servers:
                await server.__aexit__(None, None, None)


async def _is_reported(connection: asyncpg.Connection, count: int) -> bool:
    """Whether the operator's alerts say that this number of pings is lost; each writer knows of its own."""
    rows = await connection.fetch("select facts ->> 'reason' from alerts where kind = 'operator'")
    return sum(int(n) for row in rows for n in re.findall(r"lost (\d+) answered pings", row[0])) == count


async def _at_least(jobs: HonestJobs, count: int) -> bool:
    return len(jobs.stored) >= count


async def _one_judges(servers: list[Server]) -> bool:
    return sum(await asyncio.gather(*(is_judged(server) for server in servers))) == 1
