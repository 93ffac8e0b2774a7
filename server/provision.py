"""Makes a monitor for the first ping that addresses it, where its dialect knows that, and follows what clients declare.

Sentry's clients send the schedule with every check-in, so what was declared last is remembered: only a declaration that
differs costs a transaction. Bounded per project and minute, because a ping key is in many hands.
"""

from collections import OrderedDict, deque
from typing import Any

import structlog

from server.clock import monotonic
from server.engine.monitor import read_definition
from server.errors import DefinitionError
from server.ingest.reading import OK, Outcome, Slug
from server.roster import Roster
from server.store import changes, definitions
from server.store.definitions import Wanted
from server.store.pool import Pool, database_trouble

CREATED_PER_MINUTE_MAX = 100  # monitors, per project; beyond: the dialect's answer for "full"
CHANGED_PER_MINUTE_MAX = 1_000  # beyond: the ping counts, and a later one changes the monitor
REMEMBERED_MAX = 100_000  # declarations
_CREATED, _UNKNOWN, _FULL = Outcome("created"), Outcome("unknown"), Outcome("full")

log = structlog.get_logger("provision")


class Provision:
    """Called with an address that has something to say about its monitor; the roster knows the monitor afterwards."""

    def __init__(self, pool: Pool, roster: Roster, allowed: bool) -> None:
        self._pool, self._roster, self._allowed = pool, roster, allowed
        self._declared: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._created, self._changed = _Minute(CREATED_PER_MINUTE_MAX), _Minute(CHANGED_PER_MINUTE_MAX)

    async def __call__(self, address: Slug) -> Outcome:
        """`created`, `ok` (it is there), `unknown` (it is not, and is not made) or `full`. Raises Unavailable."""
        known = self._roster.find_slug(address.ping_key, address.slug) is not None
        project_id = self._roster.project_of(address.ping_key)
        if not self._allowed or project_id is None:
            return OK if known else _UNKNOWN
        key = (address.ping_key, address.slug)
        if known and (address.definition is None or self._declared.get(key) == address.definition):
            return OK
        if (self._changed if known else self._created).is_full(project_id):
            return OK if known else _FULL
        try:
            outcome = await self._put(address, project_id)
        except DefinitionError as error:
            log.info("what a client declared cannot be", slug=address.slug, error=str(error))
            outcome = OK if known else _UNKNOWN
        if address.definition is not None and outcome is not _FULL:
            self._declared[key] = address.definition
            if len(self._declared) > REMEMBERED_MAX:
                self._declared.popitem(last=False)
        if not known and outcome.kind in ("ok", "created"):
            await self._roster.refresh()
        return outcome

    async def _put(self, address: Slug, project_id: int) -> Outcome:
        with database_trouble():
            async with changes.changing(self._pool) as connection:
                stored = await definitions.stored_definition(connection, project_id, address.slug)
                like = None
                if stored is None and address.like is not None:
                    like = await definitions.stored_definition(connection, project_id, address.like)
                if stored is None and like is None and not address.create:
                    return _UNKNOWN
                base = stored if stored is not None else {**(address.defaults or {}), **(like or {})}
                fields = {**base, **(address.definition or {})}
                definition = read_definition({name: value for name, value in fields.items() if value is not None})
                if stored is None and self._created.is_full(project_id):
                    return _FULL  # since it was asked: others made theirs while this one waited for the lock
                if await definitions.put_monitors(connection, [Wanted(project_id, address.slug, definition)], "ping"):
                    (self._changed if stored is not None else self._created).add(project_id)
        return OK if stored is not None else _CREATED


class _Minute:
    """Counts what happened within the last minute, by project."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._at_s: dict[int, deque[float]] = {}

    def is_full(self, project_id: int) -> bool:
        """Whether no more may happen now."""
        at_s = self._at_s.get(project_id, deque())
        while at_s and monotonic() - at_s[0] > 60:
            at_s.popleft()
        return len(at_s) >= self._count_max

    def add(self, project_id: int) -> None:
        """It happened once more."""
        self._at_s.setdefault(project_id, deque()).append(monotonic())
