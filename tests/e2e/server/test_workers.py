"""`--workers 2`: processes that share a socket, one scheduler beside them, found by Prometheus, dead ones replaced."""

import asyncio
import os
import signal

import aiohttp

from offbeat_server.config import Settings
from offbeat_server.runtime.workers import WorkerProcesses
from tests.support.harness import HANG_S, Server, eventually
from tests.support.servers.scheduler_node import true


async def _monitor(server: Server, slug: str = "job", **definition: object) -> str:
    answer = await server.api("PUT", f"/api/v1/monitors/{slug}", definition)
    assert answer.status == 201, answer
    return str(answer.body["key"])


async def _ping(server: Server, key: str) -> int:
    """On a connection of its own, so that any worker may take it."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/api/v1/heartbeat/{key}") as response:
        return response.status


async def test_workers_take_pings_and_the_main_process_is_the_scheduler(database_url: str) -> None:
    async with Server(database_url, "--workers", "2") as server:
        key = await _monitor(server, every="2s", grace="1s")
        assert {await _ping(server, key) for _ in range(40)} == {200}

        async def status(wanted: str) -> bool:
            return bool((await server.api("GET", "/api/v1/monitors/job")).body["status"] == wanted)

        await eventually(lambda: status("up"))
        await eventually(lambda: status("down"))
        assert await _ping(server, key) == 200
        await eventually(lambda: status("up"))

        targets = await (await server.session.get("/sd/prometheus")).json()
        assert len(targets) == 3
        total, schedulers = 0.0, 0.0
        for target in targets:
            port = target["targets"][0].rpartition(":")[2]
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as response:
                text = await response.text()
            total += _value(text, 'offbeat_pings_total{result="committed",signal="success"}')
            schedulers += _value(text, "offbeat_scheduler_leader")
        assert total == 41 and schedulers == 1


async def test_a_worker_that_dies_is_replaced_and_nothing_is_lost(database_url: str) -> None:
    async with Server(database_url, "--workers", "2") as server:
        key = await _monitor(server, every="1h")
        workers = await eventually(lambda: _children(server.pid))
        os.kill(workers[0], signal.SIGKILL)

        async def replaced() -> bool:
            now = await _children(server.pid)
            return len(now) == 2 and workers[0] not in now

        await eventually(replaced)
        assert {await _ping(server, key) for _ in range(20)} == {200}
        pings = await server.api("GET", "/api/v1/monitors/job/pings")
        assert len(pings.body["items"]) == 20


async def test_workers_end_with_the_main_process(database_url: str) -> None:
    async with Server(database_url, "--workers", "2") as server:
        workers = await eventually(lambda: _children(server.pid))
        await server.kill()

        async def gone() -> bool:
            return not any(_alive(pid) for pid in workers)

        await eventually(gone)


async def test_a_stop_is_clean(database_url: str) -> None:
    async with Server(database_url, "--workers", "2", "--drain-delay", "1") as server:
        key = await _monitor(server, every="1h")
        statuses: list[int | str] = []

        async def hammer() -> None:
            async with aiohttp.ClientSession() as session:
                try:
                    while True:
                        async with session.get(f"{server.url}/api/v1/heartbeat/{key}") as response:
                            statuses.append(response.status)
                except aiohttp.ClientError:
                    return

        clients = [asyncio.ensure_future(hammer()) for _ in range(4)]
        await eventually(lambda: true(len(statuses) >= 100))
        stopping = asyncio.ensure_future(server.stop())

        async def not_ready() -> bool:
            async with aiohttp.ClientSession(server.url) as newcomer, newcomer.get("/readyz") as response:
                return response.status == 503

        await eventually(not_ready, every_s=0.005)  # a balancer sees it while the listener is open
        assert await stopping == 0
        await asyncio.gather(*clients)
        assert set(statuses) <= {200, 503} and statuses.count(200) > 100


async def test_a_worker_logs_to_the_output_of_the_main_process(database_url: str) -> None:
    """Through no pipe of the test: a line of any length would have to fit into its buffer."""
    async with Server(database_url, "--workers", "2") as server:
        for worker in await eventually(lambda: _children(server.pid)):
            assert os.readlink(f"/proc/{worker}/fd/1") == os.readlink(f"/proc/{server.pid}/fd/1")


async def test_a_worker_that_dies_young_is_not_counted_as_ready_for_two(database_url: str) -> None:
    workers = WorkerProcesses(Settings(workers=2, port=0), database_url)
    ends: list[int] = []
    for number in (0, 0, 1):  # the first one dies, and the next in its place is ready too
        ready, says_ready = os.pipe()
        asyncio.get_running_loop().add_reader(ready, workers._note_ready, number, ready)
        ends.append(says_ready)
    os.write(ends[0], b"1")
    os.write(ends[1], b"1")
    await asyncio.sleep(0.05)
    assert not workers._all_ready.is_set()
    os.write(ends[2], b"1")
    async with asyncio.timeout(HANG_S):
        await workers._all_ready.wait()
    for each in ends:
        os.close(each)


async def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        pids = [int(number) for number in file.read().split()]
    workers = []
    for child in pids:
        with open(f"/proc/{child}/cmdline", "rb") as file:
            if b"offbeat_server.runtime.worker_process" in file.read():
                workers.append(child)
    return workers


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().split()[2] != "Z"


def _value(text: str, name: str) -> float:
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + " ")), 0.0)
