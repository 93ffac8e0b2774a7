"""Requests with an `Idempotency-Key`: the same request again is the same ping, and is not stored again.

A client that did not get an answer may repeat its request with the same key. As long as the first one waits for its
commit, the repetition waits with it; once it is committed, the repetition gets the same answer. A request that was
answered in any other way (503, 404, 400) is forgotten: a repetition of it is taken as if it came first.

Each process remembers what it has taken itself. A repetition that reaches another process is a second row, which the
engine recognises by its run id or by an outage (docs/semantics.md, "Repeats").
"""

from collections import OrderedDict
from hashlib import blake2b

from offbeat_server.common.clock import monotonic
from offbeat_server.ingest.log_writer.backlog import Waiter
from offbeat_server.ingest.protocols.base import Outcome, Rejection, Request

IDEMPOTENCY_HEADER = "idempotency-key"
KEY_CHARS_MAX = 255  # a longer one is ignored: it must not cost the ping
REMEMBERED_S = 600.0
REQUESTS_MAX = 10_000  # remembered by a process; beyond, the oldest is forgotten
WAITERS_MAX = 100  # of one request that waits for its commit; further repetitions are stored

_RequestDigest = bytes  # a digest of the key and of what makes it the same request: a query may have 64 kB


class IdempotencyCache:
    """The requests with a key that this process has taken lately."""

    def __init__(self) -> None:
        self._taken: OrderedDict[_RequestDigest, _Taken] = OrderedDict()

    def join(self, request: Request, waiter: Waiter) -> Waiter | None:
        """Return the waiter to settle with the result of this request, or None if the request was accepted before.

        In that case `waiter` gets the result of the first one.
        """
        key = request.headers[IDEMPOTENCY_HEADER]
        if not 0 < len(key) <= KEY_CHARS_MAX:
            return waiter
        now_s = monotonic()
        while self._taken and (
            len(self._taken) >= REQUESTS_MAX or next(iter(self._taken.values())).at_s < now_s - REMEMBERED_S
        ):
            self._taken.popitem(last=False)
        scope = _scope_of(request, key)
        taken = self._taken.get(scope)
        if taken is None:
            taken = self._taken[scope] = _Taken(self, scope, now_s, waiter)
            return taken
        if taken.outcome is not None:
            waiter.settle(taken.outcome)
            return None
        if len(taken.waiters) >= WAITERS_MAX:
            return waiter
        taken.waiters.append(waiter)
        return None

    def forget(self, scope: _RequestDigest, taken: "_Taken") -> None:
        """It was not committed, as far as anybody knows."""
        if self._taken.get(scope) is taken:
            del self._taken[scope]


def _scope_of(request: Request, key: str) -> _RequestDigest:
    digest = blake2b(digest_size=16)
    parts = (part.encode("utf-8", "surrogatepass") for part in (key, request.method, request.path, request.query))
    for part in (*parts, request.body):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


class _Taken:
    """One request, and all who wait for what becomes of it."""

    __slots__ = ("_cache", "_scope", "at_s", "outcome", "waiters")

    def __init__(self, cache: IdempotencyCache, scope: _RequestDigest, at_s: float, waiter: Waiter) -> None:
        self._cache, self._scope, self.at_s = cache, scope, at_s
        self.waiters = [waiter]
        self.outcome: Outcome | None = None

    def settle(self, outcome: Outcome | Rejection) -> None:
        """The first request was answered; its repetitions are answered alike."""
        if isinstance(outcome, Outcome) and outcome.kind in ("ok", "created"):
            self.outcome = outcome
        else:
            self._cache.forget(self._scope, self)
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter.settle(outcome)
