"""An open-loop load generator: requests leave when they are due, independent of those before.

A closed loop (wrk and most others) sends the next request when the last one is answered, so a server that stalls for a
second gets no request in that second and its stall is counted once. Here every request has its *intended* moment,
drawn beforehand (Poisson), and its latency counts from there, also when it had to wait for a free connection.

It runs in its own process: `python -m bench.load` reads a `Plan` as JSON from standard input and writes an `Outcome` as
JSON to standard output. Sockets and epoll without an event loop between, because the CPU of the load generator is
missing in the measurement: 11 to 16 µs a request, more than half of it the kernel's.
"""

import array
import asyncio
import gc
import json
import random
import resource
import select
import socket
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field

TICK_S = 0.0005  # the shortest time between two checks of due requests; part of every latency, half of it on average
DRAIN_S = 12.0  # longer than --commit-timeout: a request that is not answered by then is lost


@dataclass
class Phase:
    """A rate of requests a second, and its duration."""

    name: str
    seconds: float
    rate: float


@dataclass
class Plan:
    """The load. `keys`: a file with one ping key a line; they are used in random order, or as they stand.

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
    """The answers. `windows`: per phase, for each `window_s` of intended time, the latency of the 200s in it."""

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


class _Client:
    """One connection with at most one request under way."""

    __slots__ = ("buffer", "intended", "large", "receive", "send", "stream", "unsent")

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.send, self.receive = stream.send, stream.recv
        self.intended = 0.0
        self.large = False
        self.buffer = b""  # of an answer that is not whole yet
        self.unsent = b""  # of a request that the socket did not take at once


# Answers that were whole, and their statuses: within a second a server says the same bytes thousands of times.
_WHOLE: dict[bytes, int] = {}
WHOLE_MAX = 200
ANSWER_BYTES = 16_384  # read at once


def _status(data: bytes) -> int:
    """The status of an answer; 0 where it is not whole."""
    status = _WHOLE.get(data)
    if status is None:
        head = data.find(b"\r\n\r\n")
        if head < 0 or len(data) < head + 4 + _body_length(data, head):
            return 0
        if len(_WHOLE) >= WHOLE_MAX:
            _WHOLE.clear()
        status = _WHOLE[data] = int(data[9:12])
    return status


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
        self.poll = select.epoll()
        self.clients: dict[int, _Client] = {}
        self.free: deque[_Client] = deque()
        self.waiting: deque[float] = deque()
        self.outcome = Outcome()
        self.under_way = 0
        self.intended = array.array("d")
        self.latency = array.array("d")
        self.was_large = array.array("b")
        self.status = array.array("h")
        self.send_lags = array.array("d")
        self.last_answer = 0.0

    def run(self) -> Outcome:
        self._connect(self.plan.connections)
        gc.disable()
        start = time.perf_counter() + 0.05
        due = start
        spans: list[tuple[str, float, float]] = []
        for phase in self.plan.phases:
            end = (spans[-1][2] if spans else start) + phase.seconds
            due = max(due, end - phase.seconds)
            spans.append((phase.name, end - phase.seconds, end))
            due = self._send_until(due, end, phase.rate)
        give_up = time.perf_counter() + DRAIN_S
        while (self.under_way or self.waiting) and time.perf_counter() < give_up:
            self._take_answers(give_up - time.perf_counter())
        self.outcome.lost += self.under_way + len(self.waiting)
        return self._sum_up(start, spans)

    def _connect(self, count: int) -> None:
        for _ in range(count):
            stream = socket.create_connection((self.plan.host, self.plan.port))
            stream.setblocking(False)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = self.clients[stream.fileno()] = _Client(stream)
            self.poll.register(stream, select.EPOLLIN)
            self.free.append(client)

    def _send_until(self, due: float, end: float, rate: float) -> float:
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
            self._take_answers(max(due - time.perf_counter(), TICK_S))
        return due

    def _send(self, client: _Client, due: float) -> None:
        number = self.next_key
        self.next_key = (number + 1) % len(self.keys)
        client.intended = due
        self.under_way += 1
        request = self.requests[number]
        if self.plan.large_share:
            client.large = self.random.random() < self.plan.large_share
            if client.large:
                request = self._large(self.keys[number])
        self._write(client, request)

    def _large(self, key: str) -> bytes:
        size, path = self.plan.large_bytes, self.plan.path.replace("{key}", key)
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n"
        return head.encode() + b"x" * size

    def _write(self, client: _Client, request: bytes) -> None:
        try:
            written = client.send(request)
        except BlockingIOError:
            written = 0
        except OSError:
            return  # it is broken, which its reading finds out
        if written < len(request) or client.unsent:
            client.unsent = request[written:]
            self.poll.modify(client.stream, select.EPOLLIN | (select.EPOLLOUT if client.unsent else 0))

    def _take_answers(self, wait_s: float) -> None:
        """Read all answers, after `wait_s` at most. They arrived by the time at which epoll returns them."""
        select.select((self.poll,), (), (), max(0.0, wait_s))  # epoll's own time-out counts in whole milliseconds
        ready = self.poll.poll(0, len(self.clients) or 1)
        now = time.perf_counter()
        for descriptor, events in ready:
            client = self.clients[descriptor]
            if events & select.EPOLLOUT:
                self._write(client, client.unsent)
            if not events & ~select.EPOLLOUT:
                continue
            try:
                data = client.receive(ANSWER_BYTES)
            except OSError:
                data = b""
            if not data:
                self._broken(client)
                continue
            if client.buffer:
                data = client.buffer + data
            status = _status(data)
            if status:
                client.buffer = b""
                self._answered(client, status, now)
            else:
                client.buffer = data

    def _answered(self, client: _Client, status: int, now: float) -> None:
        self.last_answer = now
        self.status.append(status)
        self.intended.append(client.intended)
        self.latency.append(now - client.intended)
        self.was_large.append(client.large)
        self.under_way -= 1
        if self.waiting:
            self._send(client, self.waiting.popleft())
        else:
            self.free.append(client)

    def _broken(self, client: _Client) -> None:
        """A connection ended. If it carried a request, that one is lost."""
        del self.clients[client.stream.fileno()]
        client.stream.close()
        if client in self.free:
            self.free.remove(client)
        else:
            self.outcome.lost += 1
            self.under_way -= 1

    def _sum_up(self, start: float, spans: list[tuple[str, float, float]]) -> Outcome:
        outcome = self.outcome
        outcome.elapsed_s = round(self.last_answer - start, 3)
        outcome.statuses = {str(status): count for status, count in sorted(Counter(self.status).items())}
        outcome.send_lag_p99_ms = Latency.of(list(self.send_lags)).p99
        was_ok = (status == 200 for status in self.status)
        rows = list(zip(self.intended, self.latency, self.was_large, was_ok, strict=True))
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
    outcome = _Load(plan, keys).run()
    json.dump(asdict(outcome), sys.stdout)


if __name__ == "__main__":
    _main()
