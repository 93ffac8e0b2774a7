"""Wrong keys, counted by the address that sends them: whoever guesses is not listened to for the rest of the minute.

A try counts as wrong until it is known to be right, so that a thousand at once are no way around; and while an address
has too many, its keys are not even looked at, so that being right is no answer either. It also bounds what wrong keys
can ask of Postgres.
"""

from aiohttp import web

from server.clock import monotonic
from server.ingest.seats import network_of
from server.ingest.source import Sources
from server.web.problems import Refused

WRONG_PER_MINUTE_MAX = 300  # of one address (an IPv6 /64 is one), those not looked up yet included
ADDRESSES_MAX = 100_000  # beyond: all further ones are counted as one
MINUTE_S = 60.0
_OTHERS = b""


class Attempts:
    """The tries of the present minute, in this process."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._wrong: dict[bytes, int] = {}
        self._ends_s = 0.0

    def begin(self, request: web.Request) -> bytes:
        """A key is about to be looked at; give what is returned to `was_right` if it is. Raises Refused, 429."""
        now_s = monotonic()
        if now_s >= self._ends_s:
            self._wrong.clear()
            self._ends_s = now_s + MINUTE_S
        address = self._address(request)
        wrong = self._wrong.get(address, 0)
        if wrong >= WRONG_PER_MINUTE_MAX:
            again_s = str(int(self._ends_s - now_s) + 1)
            raise Refused(429, "Too many wrong keys came from your address.", headers={"Retry-After": again_s})
        self._wrong[address] = wrong + 1
        return address

    def was_right(self, address: bytes) -> None:
        """The try that began was none of a guesser."""
        if self._wrong.get(address):  # else another minute has begun meanwhile
            self._wrong[address] -= 1

    def _address(self, request: web.Request) -> bytes:
        peer = self._sources.peer(request.transport and request.transport.get_extra_info("peername"))
        forwarded_for = ", ".join(request.headers.getall("X-Forwarded-For", [])) or None
        source = self._sources.client(peer, forwarded_for)
        address = _OTHERS if source is None else network_of(source)
        return address if address in self._wrong or len(self._wrong) < ADDRESSES_MAX else _OTHERS
