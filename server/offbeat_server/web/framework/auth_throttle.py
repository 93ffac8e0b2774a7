"""Count wrong keys by the address that sends them, and refuse every key of an address that sent too many in a minute.

Only a key that was looked up and is unknown counts. An address may have as many keys looked up at the same time as it
may still get wrong in this minute, and further ones wait. So parallel attempts cannot bypass the limit, and parallel
requests with valid keys are never refused. Over the limit, keys are not looked up at all: a valid key gets the same
answer as a guess. The limit also bounds what wrong keys can ask of Postgres.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from offbeat_server.common.clock import monotonic
from offbeat_server.common.rate_limit import KeyedRateLimiter, RateLimit
from offbeat_server.ingest.http.client_address import ClientAddresses
from offbeat_server.ingest.http.connection_limits import network_of
from offbeat_server.web.framework.addresses import client_of
from offbeat_server.web.framework.problems import ApiError

WRONG_PER_MINUTE_MAX = 300  # of one address (an IPv6 /64 is one)
ADDRESSES_MAX = 100_000  # beyond: all further ones are counted as one
_OTHERS = b""


class AuthAttempt:
    """One key that is being looked up; `is_wrong` is the result."""

    def __init__(self) -> None:
        self.is_wrong = False


class AuthThrottle:
    """The wrong keys of the last minutes, in this process, and the lookups under way."""

    def __init__(self, client_addresses: ClientAddresses) -> None:
        self._client_addresses = client_addresses
        self._wrong = KeyedRateLimiter[bytes](RateLimit.per_minute(WRONG_PER_MINUTE_MAX, in_windows=True))
        self._looked_up: dict[bytes, int] = {}  # lookups under way; only addresses that have any
        self._waiting: dict[bytes, deque[asyncio.Future[None]]] = {}  # keys that wait for their turn

    @asynccontextmanager
    async def attempt(self, request: web.Request) -> AsyncIterator[AuthAttempt]:
        """Look up a key within this block, and set `is_wrong` if it is unknown. Raises ApiError, 429."""
        address = self._address(request)
        try:
            while not self._may_begin(address):
                await self._turn(address)
            self._looked_up[address] = self._looked_up.get(address, 0) + 1
            attempt = AuthAttempt()
            try:
                yield attempt
            finally:
                self._looked_up[address] -= 1
                if not self._looked_up[address]:
                    del self._looked_up[address]
                if attempt.is_wrong:
                    self._wrong.take(address, monotonic())
        finally:
            self._wake_one(address)  # also where this one was refused or has left: the next is to know it as well

    async def _turn(self, address: bytes) -> None:
        """Wait until a lookup of this address has ended."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, deque()).append(turn)
        await turn

    def _wake_one(self, address: bytes) -> None:
        waiting = self._waiting.get(address)
        while waiting:
            turn = waiting.popleft()
            if not turn.done():  # else its client has gone
                turn.set_result(None)
                break
        if not waiting:
            self._waiting.pop(address, None)

    def _may_begin(self, address: bytes) -> bool:
        """Whether one more key of this address may be looked up now. Raises ApiError if too many were wrong."""
        now_s = monotonic()
        left = self._wrong.left(address, now_s)
        if not left:
            again_s = str(int(self._wrong.wait_s(address, now_s)) + 1)
            raise ApiError(429, "Too many wrong keys came from your address.", headers={"Retry-After": again_s})
        return self._looked_up.get(address, 0) < left

    def _address(self, request: web.Request) -> bytes:
        source = client_of(request, self._client_addresses).source
        address = _OTHERS if source is None else network_of(source)
        return address if address in self._wrong or len(self._wrong) < ADDRESSES_MAX else _OTHERS
