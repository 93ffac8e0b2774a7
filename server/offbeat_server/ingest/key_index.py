"""Key → monitor, in memory in every process, so that a ping asks the database nothing.

Held tightly for a million monitors: what a plain key leads to is one integer (project and monitor); slugs, which few
pings name, are packed (common/packed_map.py); what only few monitors have (bound keys, rules for pings) stands beside.
An unknown key makes one refresh by revision, shared by all who wait, at most ten a second; there is no negative cache
to be wrong, and a flood of wrong keys costs ten reads a second.

Measured with 1 000 000 monitors on one of 2 cores: loaded in 4 s, slice by slice (the longest pause, 0.17 s, is the
growth of a dictionary), 200 bytes of resident memory each, 0.7 µs a lookup, most of it the cache's. To load all again,
after Postgres has lost commits, takes as much memory again.
"""

import asyncio
from array import array
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import NamedTuple, Protocol

import structlog

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import DatabaseDownError, UnavailableError
from offbeat_server.common.packed_map import PackedStringMap
from offbeat_server.common.service import Service
from offbeat_server.db.repositories.key_index_rows import ChangedKeys, KeyRow
from offbeat_server.engine.model.definition import Keywords, load_definition
from offbeat_server.engine.model.ping import Signal

POLL_S = 1.0  # how often changes of other processes are read, without a request
REFRESH_GAP_S = 0.1
REFRESH_WAIT_S = 5.0
WAITERS_MAX = 5_000
START_WAIT_S = 1.0
_MONITOR_BITS = 32
_MONITOR_MASK = (1 << _MONITOR_BITS) - 1
_PAGE_BITS = 12
_PAGE_MASK = (1 << _PAGE_BITS) - 1

log = structlog.get_logger("key_index")


class KeyTarget(NamedTuple):
    """The monitor of a key. Signal and stage apply to pings that name none."""

    monitor_id: int
    project_id: int
    signal: Signal | None = None
    stage: str | None = None


_new_bound = tuple.__new__  # half the time of KeyTarget(...), which is a Python function; once for every ping


class PingRules(NamedTuple):
    """A monitor's conditions for a ping to count."""

    post_only: bool
    keywords: Keywords | None


class KeySource(Protocol):
    """The database's side: db/repositories/key_index_rows.py. Every call may raise DatabaseDownError."""

    async def rev(self) -> int: ...

    async def ping_keys(self) -> dict[str, int]: ...

    def all_keys(self) -> AsyncIterator[Sequence[KeyRow]]: ...

    async def former_slugs(self) -> dict[str, int]: ...

    async def changed(self, after_rev: int) -> ChangedKeys: ...

    async def keys_of(self, monitor_ids: set[int]) -> Sequence[KeyRow]: ...


class KeyIndex(Service):
    """The keys and slugs of all monitors. Lookups are plain calls; `refresh` waits for the database."""

    name = "key_index"

    def __init__(self, source: KeySource) -> None:
        super().__init__()
        self._source = source
        self._use(_Known())
        self._ping_keys: dict[str, int] = {}
        self._former: dict[str, int] = {}  # project/slug -> monitor that was renamed or moved
        self._former_slugs: dict[int, set[str]] = {}  # the same by monitor, without the project
        self.rev: int | None = None  # the last change included; None: not loaded yet
        self.complete = False  # else a key that is not found may be known to the database
        self._forgotten = 0  # how often Postgres has lost commits
        self.refreshes = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._wanted = asyncio.Event()
        self._loaded = asyncio.Event()

    def _use(self, known: "_Known") -> None:
        self._known = known
        self.rules = known.rules

    def __len__(self) -> int:
        """How many keys are known."""
        return len(self._known.keys)

    async def start(self) -> None:
        """Load; after `START_WAIT_S` loading continues in the background, and lookups of unknown keys wait for it."""
        self.spawn(self._follow(), "follow")
        try:
            async with asyncio.timeout(START_WAIT_S):
                await self._loaded.wait()
        except TimeoutError:
            log.info("key_index.loading")

    def find(self, key: str) -> KeyTarget | None:
        """Return the monitor of a key; None: this process does not know it, see `refresh`."""
        packed = self._known.keys.get(key)
        if packed is None:
            return None
        if packed < 0:
            return self._known.bound[key]
        return _new_bound(KeyTarget, (packed & _MONITOR_MASK, packed >> _MONITOR_BITS, None, None))

    def find_slug(self, ping_key: str, slug: str, sent: str | None = None) -> KeyTarget | None:
        """Return the monitor of an address of two parts: a project's ping key and a slug; an added key with a slash, of
        a monitor that came from another service, with the name as it was `sent`; or a monitor's own key and its slug.
        """
        project = self._ping_keys.get(ping_key)
        if project is not None:
            packed = self._known.slugs.get(f"{project}/{slug}")
            if packed is not None:
                return KeyTarget(packed & _MONITOR_MASK, packed >> _MONITOR_BITS)
            if self._former and (moved := self._moved_from(f"{project}/{slug}")) is not None:
                return moved
        bound = self.find(f"{ping_key}/{sent or slug}")
        if bound is None:
            bound = self.find(ping_key)
            if bound is not None:
                packed = self._known.slugs.get(f"{bound.project_id}/{slug}")
                if packed is None or packed & _MONITOR_MASK != bound.monitor_id:
                    return bound if slug in self._former_slugs.get(bound.monitor_id, ()) else None
        # A key that begins with another project's ping key would receive the other project's pings. Such a key can no
        # longer be added.
        return bound if project is None or bound is None or bound.project_id == project else None

    def _moved_from(self, address: str) -> KeyTarget | None:
        """The monitor that had this address before it was renamed or moved."""
        monitor_id = self._former.get(address)
        key = None if monitor_id is None else self._known.key_of(monitor_id)
        target = None if key is None else self.find(key)
        return None if target is None else KeyTarget(target.monitor_id, target.project_id)

    def _use_former(self, former: dict[str, int]) -> None:
        self._former, self._former_slugs = former, {}
        for address, monitor_id in former.items():
            self._former_slugs.setdefault(monitor_id, set()).add(address.partition("/")[2])

    def project_of(self, ping_key: str) -> int | None:
        """The project that this ping key opens."""
        return self._ping_keys.get(ping_key)

    def forget(self) -> None:
        """Load all again, soon: Postgres has lost commits, perhaps of definitions too."""
        self.complete = False
        self._forgotten += 1
        self._wanted.set()

    def changed(self) -> None:
        """A change was committed in this process: learn of it now rather than at the next look."""
        self._wanted.set()

    async def refresh(self) -> None:
        """Learn every change that was committed before this call. Raises UnavailableError."""
        if len(self._waiting) >= WAITERS_MAX:
            raise UnavailableError("too many unknown keys at once")
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._wanted.set()
        try:
            async with asyncio.timeout(REFRESH_WAIT_S):
                await waiting
        except TimeoutError:
            raise DatabaseDownError("the keys could not be read in time") from None

    async def _follow(self) -> None:
        while True:
            waiting, self._waiting = self._waiting, []
            self._wanted.clear()
            started_s = monotonic()
            try:
                await self._catch_up()
            except DatabaseDownError as error:
                log.warning("key_index.read_failed", error=str(error))
                _settle(waiting, error)
            except Exception:  # an internal error, or a row that cannot be read: known keys stay known
                log.exception("key_index.read_failed")
                _settle(waiting, DatabaseDownError("the keys cannot be read"))
            else:
                _settle(waiting, None)
            # Asked for: soon again, but not more than ten times a second. Else by the clock.
            await asyncio.sleep(REFRESH_GAP_S)
            try:
                async with asyncio.timeout(max(0.0, started_s + POLL_S - monotonic())):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _catch_up(self) -> None:
        self.refreshes += 1
        while self.rev is not None and self.complete:
            rev, monitor_ids, projects, moves = await self._source.changed(self.rev)
            if projects:
                self._ping_keys = await self._source.ping_keys()
            if moves or (self._former and monitor_ids):  # a monitor that is new may have taken a former address
                self._use_former(await self._source.former_slugs())
            if monitor_ids:
                rows = await self._source.keys_of(monitor_ids)
                # Nothing waits in between: a key that moves from one monitor to another is never unknown.
                for monitor_id in monitor_ids:
                    self._known.remove(monitor_id)
                self._known.add(rows)
            if rev != self.rev:
                self.rev = rev
            elif await self._source.rev() >= rev:
                return
            else:  # Postgres has lost changes: a standby was promoted, or a backup restored
                log.warning(
                    "key_index.reloading",
                    reason="the database no longer has changes that this process has read from it",
                )
                self.complete = False
        while not self.complete:
            await self._load()

    async def _load(self) -> None:
        """Everything, beside what is known: until it is there, what is known still answers."""
        started_s, forgotten = monotonic(), self._forgotten
        known = _Known()
        if self.rev is None:
            self._use(known)  # nothing is known yet: keys are found as they come
        rev = await self._source.rev()  # before the rest, so that nothing falls in between
        ping_keys, former = await self._source.ping_keys(), await self._source.former_slugs()
        if self.rev is None:
            self._ping_keys = ping_keys
            self._use_former(former)
        async for rows in self._source.all_keys():
            known.add(rows)
            await asyncio.sleep(0)
        self._use(known)
        self._ping_keys, self.rev = ping_keys, rev
        self._use_former(former)
        self.complete = forgotten == self._forgotten
        self._loaded.set()
        log.info("key_index.loaded", keys=len(self), seconds=round(monotonic() - started_s, 3))


class _Known:
    """Keys and slugs that lead to monitors, as of one state of the database."""

    __slots__ = ("bound", "keys", "pages", "rules", "slugs")

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}  # key -> project and monitor in one; negative: see bound
        self.bound: dict[str, KeyTarget] = {}
        self.slugs = PackedStringMap()  # project/slug -> project and monitor
        self.pages: dict[int, _MonitorBlock] = {}
        self.rules: dict[int, PingRules] = {}  # by monitor, where there are any

    def add(self, rows: Iterable[KeyRow]) -> None:
        """Keys of monitors that are new or were removed."""
        keys, slugs = self.keys, self.slugs
        for key, monitor_id, project_id, signal, stage, slug, rules in rows:
            packed = project_id << _MONITOR_BITS | monitor_id
            page = self.pages.get(monitor_id >> _PAGE_BITS)
            if page is None:
                page = self.pages[monitor_id >> _PAGE_BITS] = _MonitorBlock()
            at = monitor_id & _PAGE_MASK
            have = page.keys[at]
            if have is None:
                page.slug_shelves[at] = slugs.put(f"{project_id}/{slug}", packed)
                page.keys[at] = key
            elif key not in (have := (have,) if isinstance(have, str) else have):
                page.keys[at] = (*have, key)
            if signal is None and stage is None:
                keys[key] = packed
            else:
                keys[key] = -packed
                self.bound[key] = KeyTarget(monitor_id, project_id, signal, stage)
            if rules is not None:
                definition = load_definition(rules)
                self.rules[monitor_id] = PingRules(definition.methods == "POST", definition.keywords)

    def key_of(self, monitor_id: int) -> str | None:
        """A key of this monitor; None: it is gone."""
        page = self.pages.get(monitor_id >> _PAGE_BITS)
        have = page.keys[monitor_id & _PAGE_MASK] if page is not None else None
        return have[0] if isinstance(have, tuple) else have

    def remove(self, monitor_id: int) -> None:
        """Without a monitor, but nothing that another one has taken over: changes come in slices."""
        page, at = self.pages.get(monitor_id >> _PAGE_BITS), monitor_id & _PAGE_MASK
        if page is None or (have := page.keys[at]) is None:
            return
        for key in (have,) if isinstance(have, str) else have:
            if abs(self.keys.get(key, 0)) & _MONITOR_MASK == monitor_id:
                del self.keys[key]
                self.bound.pop(key, None)
        self.slugs.drop(page.slug_shelves[at], lambda packed: packed & _MONITOR_MASK == monitor_id)
        page.keys[at] = None
        self.rules.pop(monitor_id, None)


class _MonitorBlock:
    """Values of monitors whose ids follow one another: ids are dense, so lists take a sixth of a dictionary."""

    __slots__ = ("keys", "slug_shelves")

    def __init__(self) -> None:
        self.keys: list[str | tuple[str, ...] | None] = [None] * (1 << _PAGE_BITS)
        self.slug_shelves = array("I", bytes(4 << _PAGE_BITS))


def _settle(waiting: Iterable[asyncio.Future[None]], error: DatabaseDownError | None) -> None:
    for future in waiting:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
