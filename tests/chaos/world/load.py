"""Some hundred jobs that ping on their own schedule after any answer; some stop, some fail.

This is an open loop: a slow server gets no fewer pings. A ping that is not answered 2xx is tried again on a node that
seems well, as behind a load balancer. Each try is a ping of its own, with its own entry in the journal.
"""

import asyncio
import random
import time
from collections import Counter, defaultdict

from tests.chaos.verdict.journal import Journal, Try, Watched

TRIES_MAX = 3
AVOID_S = 2.0  # how long a node that has failed is left alone, where there are others
STOP_CHANCE = 0.02  # at each ping: that the job stops after it
STOP_S = (15.0, 45.0)
FAIL_CHANCE = 0.005  # that it says that it has failed
TROUBLES_MAX = 3  # of one job, of both; the alerts of one that comes and goes more often are held back


class Load:
    """Pings `watched` on `ports` until `stop`. Ports may be changed at any time."""

    def __init__(self, journal: Journal, chance: random.Random, ports: list[int]) -> None:
        self.journal, self._chance = journal, chance
        self.ports = ports
        self.answer_s = 10.0 if len(ports) == 1 else 3.0  # as `curl -m`
        self.latencies: list[tuple[float, float]] = []  # when sent, seconds until answered; answered ones alone
        self.odd: Counter[str] = Counter()  # answers that no ping of a job may get
        self._avoid: dict[int, float] = defaultdict(float)
        self._idle: dict[int, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = defaultdict(list)
        self._beating: set[asyncio.Task[object]] = set()
        self._lives: list[asyncio.Task[None]] = []
        self._count = 0

    def start(self) -> None:
        """All jobs begin within their own period."""
        self._lives = [asyncio.create_task(self._live(each)) for each in self.journal.watched.values()]

    async def stop(self) -> None:
        """Send no new pings; wait for the open ones."""
        for task in self._lives:
            task.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)
        if self._beating:
            await asyncio.wait(self._beating)
        for idle in self._idle.values():
            for _, writer in idle:
                writer.close()
        self._idle.clear()

    async def ping(self, monitor: Watched, port: int, more: str = "") -> Try:
        """Send one request; the journal has it before its first byte is sent."""
        self._count += 1
        entry = Try(f"p{self._count}", monitor.id, time.time())
        self.journal.tries.append(entry)
        body = entry.id.encode()
        request = (
            f"POST /api/v1/heartbeat/{monitor.key}{more} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        status = await self._ask(port, request)
        entry.ended = time.time()
        if status is not None:
            entry.answer = "ok" if 200 <= status < 300 else "failed"
            self.latencies.append((entry.sent, entry.ended - entry.sent))
        return entry

    async def _live(self, monitor: Watched) -> None:
        chance = random.Random(self._chance.random())
        await asyncio.sleep(chance.uniform(0, monitor.period_s))
        troubles = 0
        while True:
            trouble = chance.random() if troubles < TROUBLES_MAX else 1.0
            troubles += trouble < STOP_CHANCE + FAIL_CHANCE
            fails = STOP_CHANCE <= trouble < STOP_CHANCE + FAIL_CHANCE
            beat = asyncio.create_task(self._beat(monitor, chance, "/fail" if fails else ""))
            self._beating.add(beat)
            beat.add_done_callback(self._beating.discard)
            if trouble < STOP_CHANCE:
                await beat
                await asyncio.sleep(chance.uniform(*STOP_S))
            else:
                await asyncio.sleep(monitor.period_s * chance.uniform(0.9, 1.1))

    async def _beat(self, monitor: Watched, chance: random.Random, signal: str) -> None:
        for number in range(TRIES_MAX):
            port = self._node(chance)
            if (await self.ping(monitor, port, signal)).answer == "ok":
                return
            self._avoid[port] = time.monotonic() + AVOID_S
            if len(self.ports) == 1 or number:
                await asyncio.sleep(0.5 * chance.uniform(0.5, 1.5))

    def _node(self, chance: random.Random) -> int:
        now = time.monotonic()
        return chance.choice([port for port in self.ports if self._avoid[port] < now] or self.ports)

    def _look_at(self, status: int, head: bytes) -> None:
        """Count answers that no ping of a job may get: only 2xx, and 503 with Retry-After, are allowed."""
        if status == 503 and b"\r\nretry-after:" not in head:
            self.odd["503 without Retry-After"] += 1
        elif status != 503 and not 200 <= status < 300:
            self.odd[str(status)] += 1

    async def _ask(self, port: int, request: bytes) -> int | None:
        """The status; None: none came."""
        status, writer = None, None
        try:
            async with asyncio.timeout(self.answer_s):
                if self._idle[port]:
                    reader, writer = self._idle[port].pop()
                else:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                status = int(head.split()[1])
                self._look_at(status, head.lower())
        except (OSError, EOFError, TimeoutError):
            # The fault that broke this one broke the others too; a job has one connection, and no heap of old ones.
            for _, idle in self._idle.pop(port, []):
                idle.transport.abort()
            return None
        finally:
            if status is None and writer is not None:
                writer.transport.abort()
        if b"connection: close" in head.lower():
            writer.close()
        else:
            self._idle[port].append((reader, writer))
        return status
