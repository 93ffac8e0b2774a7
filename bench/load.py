"""An open-loop load generator: requests leave when they are due, whatever became of those before.

A closed loop (wrk and most others) sends the next request when the last one is answered, so a server that stalls for a
second is asked nothing in that second and its stall is counted once. Here every request has its *intended* moment,
drawn beforehand (Poisson), and its latency counts from there, also when it had to wait for a free connection.

It runs in its own process: `python -m bench.load` reads a `Plan` as JSON from standard input and writes an `Outcome` as
JSON to standard output. Raw sockets on uvloop; on 2 cores it offers 40 000 requests a second, and says how late it was.
"""

import array
import asyncio
import json
import random
import resource
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import cast

import uvloop

TICK_S = 0.001  # what the loop's timer can resolve; it is part of every latency, half of it on average
DRAIN_S = 12.0  # longer than --ack-timeout: what is not answered by then is lost


@dataclass
class Phase:
    """So many requests a second for so long."""

    name: str
    seconds: float
    rate: float


@dataclass
class Plan:
    """What to send where. `keys`: a file with one ping key a line; they are used in random order, or as they stand.

    `large_share` of the requests carry a body of `large_bytes`. `path` has {key}. With `each_in_turn` the connections
    take turns (so each pings every connections/rate seconds), else the one that was free last is used first.
    """

    host: str
    port: int
    keys: str
    phases: list[Phase]
    connections: int = 64
    path: str = "/api/v1/heartbeat/{key}"
    large_share: float = 0.0
    large_bytes: int = 10_000
    each_in_turn: bool = False
    shuffled: bool = True
    seed: int = 1
    window_s: float = 0.5


@dataclass
class Latency:
    """Milliseconds from the intended moment to the whole answer."""

    count: int = 0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, seconds: list[float]) -> "Latency":
        if not seconds:
            return cls()
        ordered = sorted(seconds)

        def at(share: float) -> float:
            return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 3)

        return cls(len(ordered), at(0.5), at(0.9), at(0.99), at(0.999), round(ordered[-1] * 1000, 3))


@dataclass
class Outcome:
    """What came back. `windows`: per phase, for each `window_s` of intended time, the latency of the 200s in it."""

    sent: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    lost: int = 0  # sent and never answered, or the connection broke
    elapsed_s: float = 0.0  # from the first intended moment to the last answer
    send_lag_p99_ms: float = 0.0  # how late the generator itself was with a free connection at hand
    phases: dict[str, Latency] = field(default_factory=dict)
    small: Latency = field(default_factory=Latency)
    large: Latency = field(default_factory=Latency)
    windows: list[list[float]] = field(
        default_factory=list
    )  # [intended second, p50, p99, count of 200s, other answers]


class _Client(asyncio.Protocol):
    """One connection with at most one request under way."""

    __slots__ = ("buffer", "intended", "large", "owner", "transport")

    def __init__(self, owner: "_Load") -> None:
        self.owner = owner
        self.transport: asyncio.Transport | None = None
        self.intended = 0.0
        self.large = False
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        status = _WHOLE.get(data)
        if status is None:
            head = data.find(b"\r\n\r\n")
            if head < 0 or len(data) < head + 4 + _body_length(data, head):
                self.buffer = data
                return
            status = data[9:12]
            if len(_WHOLE) >= WHOLE_MAX:
                _WHOLE.clear()
            _WHOLE[data] = status
        self.buffer = b""
        self.owner.answered(self, status)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.owner.broken(self)


# Answers that were whole, and their statuses: within a second a server says the same bytes thousands of times.
_WHOLE: dict[bytes, bytes] = {}
WHOLE_MAX = 200


def _body_length(data: bytes, head: int) -> int:
    header = data[:head]
    at = header.lower().find(b"content-length:")
    if at < 0:
        return 0
    return int(header[at + 15 : at + 30].split(b"\r\n", 1)[0])


class _Load:
    def __init__(self, plan: Plan, keys: list[str]) -> None:
        self.plan = plan
        self.random = random.Random(plan.seed)
        self.keys = keys
        if plan.shuffled:
            self.random.shuffle(self.keys)
        # Written down beforehand: the generator shares the machine with what it measures.
        self.requests = [
            f"GET {plan.path.replace('{key}', key)} HTTP/1.1\r\nHost: bench\r\n\r\n".encode() for key in self.keys
        ]
        self.next_key = 0
        self.free: deque[_Client] = deque()
        self.waiting: deque[float] = deque()
        self.outcome = Outcome()
        self.under_way = 0
        self.finished = asyncio.Event()
        self.all_sent = False
        self.intended = array.array("d")
        self.latency = array.array("d")
        self.was_large = array.array("b")
        self.was_ok = array.array("b")
        self.send_lags = array.array("d")
        self.statuses: dict[bytes, int] = {}
        self.last_answer = 0.0

    async def run(self) -> Outcome:
        await self._connect(self.plan.connections)
        start = time.perf_counter() + 0.05
        due = start
        spans: list[tuple[str, float, float]] = []
        for phase in self.plan.phases:
            end = (spans[-1][2] if spans else start) + phase.seconds
            due = max(due, end - phase.seconds)
            spans.append((phase.name, end - phase.seconds, end))
            due = await self._send_until(due, end, phase.rate)
        self.all_sent = True
        if self.under_way or self.waiting:
            try:
                await asyncio.wait_for(self.finished.wait(), DRAIN_S)
            except TimeoutError:
                self.outcome.lost += self.under_way + len(self.waiting)
        return self._sum_up(start, spans)

    async def _connect(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        for begin in range(0, count, 200):  # a listen backlog is finite
            made = await asyncio.gather(
                *(
                    loop.create_connection(lambda: _Client(self), self.plan.host, self.plan.port)
                    for _ in range(min(200, count - begin))
                )
            )
            self.free.extend(client for _, client in made)

    async def _send_until(self, due: float, end: float, rate: float) -> float:
        gap = self.random.expovariate
        while due < end:
            now = time.perf_counter()
            while due <= now and due < end:
                self.outcome.sent += 1
                if self.free:
                    client = self.free.popleft() if self.plan.each_in_turn else self.free.pop()
                    self.send_lags.append(now - due)
                    self._send(client, due)
                else:
                    self.waiting.append(due)
                due += gap(rate)
            await asyncio.sleep(max(0.0, min(due, now + TICK_S) - time.perf_counter()))
        return due

    def _send(self, client: _Client, due: float) -> None:
        number = self.next_key
        self.next_key = (number + 1) % len(self.keys)
        client.intended = due
        client.large = bool(self.plan.large_share) and self.random.random() < self.plan.large_share
        self.under_way += 1
        assert client.transport is not None
        if client.large:
            size = self.plan.large_bytes
            path = self.plan.path.replace("{key}", self.keys[number])
            head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n"
            client.transport.write(head.encode() + b"x" * size)
        else:
            client.transport.write(self.requests[number])

    def answered(self, client: _Client, status: bytes) -> None:
        now = self.last_answer = time.perf_counter()
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.intended.append(client.intended)
        self.latency.append(now - client.intended)
        self.was_large.append(client.large)
        self.was_ok.append(status == b"200")
        self.under_way -= 1
        if self.waiting:
            self._send(client, self.waiting.popleft())
        else:
            self.free.append(client)
            if self.all_sent and not self.under_way:
                self.finished.set()

    def broken(self, client: _Client) -> None:
        """A connection ended. If it carried a request, that one is lost."""
        if client in self.free:
            self.free.remove(client)
        else:
            self.outcome.lost += 1
            self.under_way -= 1
            if self.all_sent and not self.under_way:
                self.finished.set()

    def _sum_up(self, start: float, spans: list[tuple[str, float, float]]) -> Outcome:
        outcome = self.outcome
        outcome.elapsed_s = round(self.last_answer - start, 3)
        outcome.statuses = {status.decode(): count for status, count in sorted(self.statuses.items())}
        outcome.send_lag_p99_ms = Latency.of(list(self.send_lags)).p99
        rows = list(zip(self.intended, self.latency, self.was_large, self.was_ok, strict=True))
        for name, begin, end in spans:
            outcome.phases[name] = Latency.of([s for at, s, _, ok in rows if ok and begin <= at < end])
        outcome.small = Latency.of([s for _, s, large, ok in rows if ok and not large])
        outcome.large = Latency.of([s for _, s, large, ok in rows if ok and large])
        windows: dict[int, list[float]] = {}
        others: dict[int, int] = {}
        for at, seconds, _, ok in rows:
            window = int((at - start) / self.plan.window_s)
            if ok:
                windows.setdefault(window, []).append(seconds)
            else:
                others[window] = others.get(window, 0) + 1
        for window in sorted(windows.keys() | others.keys()):
            latency = Latency.of(windows.get(window, []))
            at_s = round(window * self.plan.window_s, 3)
            outcome.windows.append([at_s, latency.p50, latency.p99, latency.count, others.get(window, 0)])
        return outcome


async def send(plan: Plan) -> Outcome:
    """Run the plan in a process of its own and return what came back."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.load", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    answer, _ = await child.communicate(json.dumps(asdict(plan)).encode())
    if child.returncode != 0:
        raise RuntimeError(f"the load generator failed with {child.returncode}")
    read = json.loads(answer)
    phases = {name: Latency(**latency) for name, latency in read.pop("phases").items()}
    return Outcome(small=Latency(**read.pop("small")), large=Latency(**read.pop("large")), phases=phases, **read)


def _main() -> None:
    read = json.load(sys.stdin)
    plan = Plan(phases=[Phase(**phase) for phase in read.pop("phases")], **read)
    wanted = plan.connections + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    with open(plan.keys) as file:
        keys = file.read().split()

    async def run() -> Outcome:
        return await _Load(plan, keys).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(run())
    json.dump(asdict(outcome), sys.stdout)


if __name__ == "__main__":
    _main()
