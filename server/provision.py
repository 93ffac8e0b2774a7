"""Makes a monitor for the first ping that addresses it, where its dialect knows that, and follows what clients declare.

Bounded per project and minute, because a ping key is in many hands.
"""

from collections import deque

import asyncpg
import structlog

from server.clock import monotonic
from server.engine.monitor import read_definition
from server.errors import DefinitionError
from server.ingest.reading import Outcome, Slug
from server.ingest.take import Provisioned
from server.roster import Roster
from server.store import changes, definitions
from server.store.definitions import Wanted
from server.store.pool import database_trouble

CREATED_PER_MINUTE_MAX = 100  # monitors, per project; beyond: the dialect's answer for "full"
_UNKNOWN, _FULL = Outcome("unknown"), Outcome("full")

log = structlog.get_logger("provision")


class Provision:
    """Called with an address that has something to say about its monitor."""

    def __init__(self, pool: asyncpg.Pool, roster: Roster) -> None:
        self._pool, self._roster = pool, roster
        self._created_s: dict[int, deque[float]] = {}  # by project, within the last minute

    async def __call__(self, address: Slug) -> Provisioned | Outcome:
        """The monitor, made or changed; or `unknown` (it is not made) or `full`. Raises Unavailable."""
        bound = self._roster.find_slug(address.ping_key, address.slug)
        project_id = self._roster.project_of(address.ping_key)
        if project_id is None:
            return _UNKNOWN
        if bound is None and self._is_full(project_id):
            return _FULL
        try:
            created = await self._put(address, project_id)
        except DefinitionError as error:
            log.info("what a client declared cannot be", slug=address.slug, error=str(error))
            return _UNKNOWN if bound is None else Provisioned(bound, False)
        if created is None:
            return _UNKNOWN
        if created:
            self._created_s.setdefault(project_id, deque()).append(monotonic())
        await self._roster.refresh()
        bound = self._roster.find_slug(address.ping_key, address.slug)
        return _UNKNOWN if bound is None else Provisioned(bound, created)

    async def _put(self, address: Slug, project_id: int) -> bool | None:
        """Whether it was made; None: it is not there and nothing says that it shall be."""
        with database_trouble():
            async with changes.changing(self._pool) as connection:
                stored = await definitions.stored_definition(connection, project_id, address.slug)
                like = None
                if stored is None and address.like is not None:
                    like = await definitions.stored_definition(connection, project_id, address.like)
                if stored is None and like is None and not address.create:
                    return None
                base = stored if stored is not None else {**(address.defaults or {}), **(like or {})}
                fields = {**base, **(address.definition or {})}
                definition = read_definition({name: value for name, value in fields.items() if value is not None})
                await definitions.put_monitors(connection, [Wanted(project_id, address.slug, definition)], "ping")
        return stored is None

    def _is_full(self, project_id: int) -> bool:
        created_s = self._created_s.get(project_id)
        if created_s is None:
            return False
        while created_s and monotonic() - created_s[0] > 60:
            created_s.popleft()
        return len(created_s) >= CREATED_PER_MINUTE_MAX
