"""From a complete request to its answer, for both HTTP servers: parse, look up, append, wait for the commit.

The plain case (one ping for a known key) is done before `accept` returns and makes no task. Only requests that need the
database first make one: an unknown address, a monitor to be created. Every waiter is settled exactly once.
"""

import asyncio
import math
import random
from collections.abc import Iterable, Sequence
from typing import Protocol

import structlog

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import OffbeatError, UnavailableError
from offbeat_server.common.rate_limit import KeyedRateLimiter, RateLimit
from offbeat_server.common.service import Service
from offbeat_server.engine.model.ping import Ping
from offbeat_server.ingest.http.target_cache import CachedTarget
from offbeat_server.ingest.idempotency import IDEMPOTENCY_HEADER, IdempotencyCache
from offbeat_server.ingest.key_index import KeyIndex, KeyTarget
from offbeat_server.ingest.keyword_filters import filtered
from offbeat_server.ingest.log_writer.backlog import Backlog, Waiter, unavailable
from offbeat_server.ingest.protocols import healthchecks
from offbeat_server.ingest.protocols.base import (
    OK,
    Dialect,
    KeyAddress,
    Outcome,
    ParsedPing,
    PingNote,
    Rejection,
    Request,
    SlugAddress,
    worst,
)
from offbeat_server.ingest.protocols.parsing.encodings import utf_8_body

MADE_WITHIN_S = 1.0  # how long a ping waits for its monitor, which another ping may be about to create
WAITING_MAX = 1_000  # pings that wait so; further ones are answered at once


class MonitorProvider(Protocol):
    """Makes the monitor of an address, or changes it to what its client declares; see ingest/provisioning.py."""

    async def __call__(self, address: SlugAddress, dialect: str | None) -> Outcome:
        """Return `created`, `ok`, `unknown`, `full` or `crowded`; now the key index knows it.

        Raises UnavailableError.
        """
        ...

    def complain(self, address: SlugAddress) -> None:
        """Log once why the definition that a client sent cannot be used."""
        ...

    def may_make(self, ping_key: str) -> bool:
        """Whether pings with this ping key can make monitors at all."""
        ...


NOTES_MAX = 20  # in one answer
JITTER_S_MAX = 5  # added to `Retry-After`, so that pings refused together do not return together
# Of a longer body nothing is read before its address is known to lead somewhere: anybody can send one, and to read a
# form of 4 kB takes up to 1 ms.
UNVOUCHED_BYTES_MAX = 4_096
# A longer body is parsed in a thread, because a form of 1 MB takes up to 0.3 s. One at a time: threads share one
# interpreter, and the loop gets a turn every few milliseconds beside one of them, not beside ten.
HELD_BYTES_MAX = 65_536
LONG_BODIES_BYTES_MAX = 64_000_000  # of all that wait for it; beyond: 503

_UNKNOWN = Outcome("unknown")

log = structlog.get_logger("pipeline")


class PingPipeline(Service):
    """Takes requests. Without `provision` no ping makes a monitor; without a `key_limit` a key may ping without end."""

    name = "pipeline"

    def __init__(
        self,
        key_index: KeyIndex,
        backlog: Backlog,
        provision: MonitorProvider | None = None,
        key_limit: RateLimit | None = None,
    ) -> None:
        super().__init__()
        self._key_index = key_index
        self._backlog = backlog
        self._provision = provision
        self._key_limiter = None if key_limit is None else KeyedRateLimiter[str | int](key_limit)
        self._idempotency = IdempotencyCache()
        self._making: dict[SlugAddress, asyncio.Future[None]] = {}  # by ping key and slug alone: see `_place`
        self._waiting = 0
        self._reading = asyncio.Semaphore(1)
        self._long_bytes = 0

    def accept(self, dialect: Dialect, request: Request, source: bytes | None, waiter: Waiter) -> None:
        """Accept one request; `waiter` is settled once, with the answer to the client."""
        if len(request.body) > UNVOUCHED_BYTES_MAX:
            address = _address_in_head(dialect, request)
            if len(request.body) > HELD_BYTES_MAX or (address is not None and self._find(address) is None):
                self.errand(self._accept_long(dialect, request, address, source, waiter), "take")
                return
        self._accept(dialect, request, dialect.read(request), source, waiter)

    def _accept(
        self,
        dialect: Dialect,
        request: Request,
        readings: ParsedPing | list[ParsedPing] | Rejection,
        source: bytes | None,
        waiter: Waiter,
    ) -> None:
        if isinstance(readings, Rejection):
            waiter.settle(readings)
            return
        if IDEMPOTENCY_HEADER in request.headers:
            first = self._idempotency.join(request, waiter)
            if first is None:
                return
            waiter = first
        body = request.body
        if body and self._key_index.rules:  # words are looked for in all of it
            body = utf_8_body(request)
        if isinstance(readings, ParsedPing):
            bound = self._find(readings.address)
            if bound is not None and not _declares(readings.address):
                self._append(bound, readings, request.method, source, waiter, body)
                return
            readings = [readings]
        if not readings:
            waiter.settle(OK)
            return
        again = request if dialect is healthchecks and isinstance(readings[0].address, KeyAddress) else None
        self.errand(self._accept_slowly(readings, request.method, source, waiter, body, again), "take")

    def accept_plain(
        self, cached: CachedTarget, key: str, slug: str | None, method: str, source: bytes | None, waiter: Waiter
    ) -> None:
        """The same for a target that says everything, without making its request and its reading first."""
        bound = self._key_index.find(key) if slug is None else self._key_index.find_slug(key, slug)
        if bound is None or self._key_limiter is not None:
            reading = cached.reading(key, slug)
            if bound is None:
                again = cached.request(key, method) if slug is None else None
                self.errand(self._accept_slowly([reading], method, source, waiter, again=again), "take")
            else:
                self._append(bound, reading, method, source, waiter)
            return
        ping, named = cached.ping, cached.named
        try:
            self._backlog.append(bound, self.prepared(bound, ping, named, method), source, waiter)
        except UnavailableError:
            waiter.settle(unavailable())

    def record_refusal_time(self, age_s: float) -> None:
        """Record that clients were refused, at some moment of the last `age_s` seconds, with unknown pings."""
        self._backlog.record_refusal_time("full", age_s)

    def find(self, key: str) -> KeyTarget | None:
        """Return the monitor of a key, as far as this process knows."""
        return self._key_index.find(key)

    async def find_or_ask(self, address: KeyAddress | SlugAddress) -> KeyTarget | None:
        """Return the monitor of an address; for an unknown one, read the database. Raises UnavailableError."""
        bound = self._find(address)
        if bound is None:
            await self._ask()
            bound = self._find(address)
        return bound

    async def _ask(self) -> None:
        """Learn every change that was committed before this call. Raises UnavailableError.

        While not all keys are loaded, a ping that is refused here may be one of a known key: the time is an outage.
        (Otherwise it is not: anybody can send unknown keys.)
        """
        began_s = monotonic()
        try:
            await self._key_index.refresh()
        except UnavailableError:
            if not self._key_index.complete:
                self._backlog.record_refusal_time("database", monotonic() - began_s)
            raise

    def prepared(self, bound: KeyTarget, ping: Ping, named: bool, method: str, body: bytes = b"") -> Ping:
        """The ping as this key and this monitor take it; `named`: its client said the signal."""
        monitor_id, _, signal, stage = bound
        if signal is None and stage is None and not self._key_index.rules:
            return ping
        if signal is not None and not named:
            ping = ping._replace(signal=signal)
        if stage is not None and ping.stage is None:
            ping = ping._replace(stage=stage)
        rules = self._key_index.rules.get(monitor_id)
        return ping if rules is None else filtered(ping, method, rules, body)

    def check_rate_limit(self, address: KeyAddress | SlugAddress, bound: KeyTarget, ping: Ping) -> Outcome | None:
        """Return the answer if this key has pinged too often; None: it may, and the ping is counted."""
        if self._key_limiter is None:
            return None
        wait_s = self._key_limiter.take(
            address.key if isinstance(address, KeyAddress) else bound.monitor_id, monotonic()
        )
        if not wait_s:
            return None
        self._backlog.count_refused("limited", ping.signal)
        return Outcome("limited", math.ceil(wait_s) + random.randrange(JITTER_S_MAX))

    def _find(self, address: KeyAddress | SlugAddress) -> KeyTarget | None:
        if isinstance(address, KeyAddress):
            return self._key_index.find(address.key)
        return self._key_index.find_slug(address.ping_key, address.slug, address.sent)

    def _append(
        self,
        bound: KeyTarget,
        reading: ParsedPing,
        method: str,
        source: bytes | None,
        waiter: Waiter,
        body: bytes = b"",
    ) -> None:
        if reading.notes:
            self._backlog.count_notes(reading.notes)
            waiter = _Noted(waiter, reading.notes)
        ping = self.prepared(bound, reading.ping, reading.named, method, body)
        if self._key_limiter is not None and (over := self.check_rate_limit(reading.address, bound, ping)) is not None:
            waiter.settle(over)
            return
        try:
            self._backlog.append(bound, ping, source, waiter)
        except UnavailableError:
            waiter.settle(unavailable())

    async def _accept_long(
        self,
        dialect: Dialect,
        request: Request,
        address: KeyAddress | SlugAddress | None,
        source: bytes | None,
        waiter: Waiter,
    ) -> None:
        """Parse a long body beside the event loop, and only if its address leads to a monitor: it costs CPU time."""
        size = len(request.body)
        if self._long_bytes + size > LONG_BODIES_BYTES_MAX:
            if address is None or self._find(address) is not None:  # else anybody could declare an outage
                self.record_refusal_time(0.0)
            waiter.settle(unavailable())
            return
        self._long_bytes += size
        try:
            if address is not None and not await self._leads_somewhere(address):
                waiter.settle(_UNKNOWN)
                return
            async with self._reading:
                readings = await asyncio.to_thread(dialect.read, request)  # which is pure
        except Exception as error:
            if not isinstance(error, OffbeatError):
                log.exception("pipeline.read_failed")
            waiter.settle(unavailable())
            return
        finally:
            self._long_bytes -= size
        self._accept(dialect, request, readings, source, waiter)

    async def _leads_somewhere(self, address: KeyAddress | SlugAddress) -> bool:
        """Whether an address leads to a monitor, or its ping key to a project that may have or get one.

        Raises UnavailableError.
        """
        if await self.find_or_ask(address) is not None:
            return True
        return (
            self._key_index.project_of(address.key if isinstance(address, KeyAddress) else address.ping_key) is not None
        )

    async def _accept_slowly(
        self,
        readings: list[ParsedPing],
        method: str,
        source: bytes | None,
        waiter: Waiter,
        body: bytes = b"",
        again: Request | None = None,
    ) -> None:
        several = _Several(waiter, len(readings))
        left = len(readings)
        being_made: Sequence[SlugAddress] = ()
        try:
            if again is not None:
                readings = [await self._read_again(readings[0], again)]
            # Pings of one monitor that come while it is made are stored in the order in which they came.
            being_made = await self._begin_making(readings)
            if again is None and any(self._find(reading.address) is None for reading in readings):
                await self._ask()  # once for all: each asking for itself, a hundred would wait ten seconds
            until_s = monotonic() + MADE_WITHIN_S
            targets = [await self._resolve(reading, until_s) for reading in readings]
            for reading, (bound, outcome) in zip(readings, targets, strict=True):
                if bound is None:
                    several.settle(outcome)
                else:
                    self._append(bound, reading, method, source, _Committed(several, outcome), body)
                left -= 1
        except Exception as error:
            if not isinstance(error, OffbeatError):
                log.exception("pipeline.accept_failed")
            for _ in range(left):
                several.settle(unavailable())
        finally:
            for place in being_made:
                self._making.pop(place).set_result(None)

    async def _read_again(self, reading: ParsedPing, request: Request) -> ParsedPing:
        """A ping of Healthchecks, by its ping key if its key is that and no monitor's. Raises UnavailableError."""
        address = reading.address
        assert isinstance(address, KeyAddress)
        if await self.find_or_ask(address) is not None or self._key_index.project_of(address.key) is None:
            return reading
        other = healthchecks.read_by_ping_key(request)
        return other if isinstance(other, ParsedPing) else reading  # else it is unknown

    async def _begin_making(self, readings: Iterable[ParsedPing]) -> Sequence[SlugAddress]:
        """Wait for earlier pings that make the same monitors, then announce those that these readings may make."""
        addresses = [reading.address for reading in readings if isinstance(reading.address, SlugAddress)]
        while before := [self._making[place] for place in map(_place, addresses) if place in self._making]:
            await asyncio.wait(before)
        places = {_place(each) for each in addresses if _makes(each) and self._find(each) is None}
        for place in places:
            self._making[place] = asyncio.get_running_loop().create_future()
        return list(places)

    async def _resolve(self, reading: ParsedPing, until_s: float) -> tuple[KeyTarget | None, Outcome]:
        """Return the monitor of an address and the answer after the commit; None and the answer if there is none."""
        address = reading.address
        bound = self._find(address)
        if self._provision is None or not isinstance(address, SlugAddress):
            return bound, _UNKNOWN if bound is None else OK
        if address.problem:
            self._provision.complain(address)
            bound = bound or await self._wait_for(address, until_s)
            return bound, (_UNKNOWN if bound is None else OK)._replace(reason=address.problem)
        if bound is not None and not _declares(address):
            return bound, OK
        may_make = _makes(address) or address.like is not None
        outcome = await self._provision(address, reading.ping.dialect) if may_make else _UNKNOWN
        if outcome.kind == "unknown":
            bound = await self._wait_for(address, until_s)
            return bound, _UNKNOWN if bound is None else OK
        if outcome.kind not in ("ok", "created"):
            return None, outcome
        bound = self._find(address)
        return bound, _UNKNOWN if bound is None else outcome

    async def _wait_for(self, address: SlugAddress, until_s: float) -> KeyTarget | None:
        """Wait a moment for a monitor that another ping, here or at another node, may be making. Raises
        UnavailableError.

        An SDK sends the start, which declares the monitor, and the end of a short job at once, over two connections.
        """
        assert self._provision is not None
        if self._waiting >= WAITING_MAX or not self._provision.may_make(address.ping_key):
            return self._find(address)
        self._waiting += 1
        try:
            while (bound := self._find(address)) is None and monotonic() < until_s:
                await self._ask()
            if (making := self._making.get(_place(address))) is not None and not _makes(address):
                await asyncio.wait([making])  # the ping that made it is the earlier one
            return bound
        finally:
            self._waiting -= 1


def _address_in_head(dialect: Dialect, request: Request) -> KeyAddress | SlugAddress | None:
    """Return the address in a request's path, query and headers; None: only its body has it.

    Without its body a query may be incomplete; the path is enough for most protocols.
    """
    head = request._replace(body=b"", whole_bytes=0, fault=None)
    for shortened in (head, head._replace(query="")):
        if isinstance(reading := dialect.read(shortened), ParsedPing):
            return reading.address
    return None


def _place(address: SlugAddress) -> SlugAddress:
    """The address without what its client says of the monitor."""
    return SlugAddress(address.ping_key, address.slug)


def _makes(address: SlugAddress) -> bool:
    """Whether the ping makes its monitor if there is none."""
    return address.create or address.definition is not None


def _declares(address: KeyAddress | SlugAddress) -> bool:
    """Whether the ping brings a definition that the monitor may not have yet, or one that cannot be used."""
    return isinstance(address, SlugAddress) and (address.definition is not None or address.problem != "")


class _Several:
    """Waits for all pings of one request and is settled with the worst result."""

    def __init__(self, waiter: Waiter, count: int) -> None:
        self._waiter = waiter
        self._left = count
        self._outcomes: list[Outcome] = []
        self._notes: tuple[PingNote, ...] = ()
        self._refusal: Rejection | None = None

    def settle(self, outcome: Outcome | Rejection) -> None:
        if isinstance(outcome, Rejection):
            self._refusal = outcome
        else:
            self._outcomes.append(outcome)
            self._notes += outcome.notes
        self._left -= 1
        if self._left == 0:
            combined = worst(self._outcomes)
            combined = combined._replace(reason=next((each.reason for each in self._outcomes if each.reason), ""))
            if self._notes:
                combined = combined._replace(notes=self._notes[:NOTES_MAX])
            self._waiter.settle(combined if self._refusal is None or combined.kind == "unavailable" else self._refusal)


class _Noted:
    """Says what was left out of a ping that is committed."""

    def __init__(self, waiter: Waiter, notes: tuple[PingNote, ...]) -> None:
        self._waiter = waiter
        self._notes = notes

    def settle(self, outcome: Outcome | Rejection) -> None:
        self._waiter.settle(outcome if isinstance(outcome, Rejection) else outcome._replace(notes=self._notes))


class _Committed:
    """Says `outcome` where the commit says ok."""

    def __init__(self, waiter: Waiter, outcome: Outcome) -> None:
        self._waiter = waiter
        self._outcome = outcome

    def settle(self, outcome: Outcome | Rejection) -> None:
        if isinstance(outcome, Outcome) and outcome.kind == "ok":
            outcome = self._outcome._replace(notes=outcome.notes) if outcome.notes else self._outcome
        self._waiter.settle(outcome)
