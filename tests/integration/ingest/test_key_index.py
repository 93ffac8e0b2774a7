"""The key index: loaded once, updated by revision, used by all at once."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import DatabaseDownError, UnavailableError
from offbeat_server.db.pool import open_pool
from offbeat_server.db.repositories.changes import Change, changing
from offbeat_server.db.repositories.definitions import WantedKey, WantedMonitor, delete_monitors, put_monitors
from offbeat_server.db.repositories.key_index_rows import ChangedKeys, KeyIndexRows, KeyRow
from offbeat_server.db.repositories.projects import WantedProject, put_project
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.ingest.key_index import REFRESH_GAP_S, KeyIndex, KeyTarget
from tests.support.harness import eventually
from tests.support.postgres.link import Link


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    pool = await open_pool(database_url)
    yield pool
    pool.terminate()


@asynccontextmanager
async def following(pool: asyncpg.Pool) -> AsyncIterator[KeyIndex]:
    key_index = KeyIndex(KeyIndexRows(pool))
    await key_index.start()
    try:
        yield key_index
    finally:
        await key_index.stop()


async def put(
    pool: asyncpg.Pool, *slugs: str, project: int = 1, keys: Sequence[WantedKey] = (), **definition: object
) -> list[Change]:
    wanted = [
        WantedMonitor(
            project,
            slug,
            read_definition(definition),
            key=f"key-of-{slug}",
            keys=tuple(keys) if keys else None,
        )
        for slug in slugs
    ]
    async with changing(pool) as connection:
        return await put_monitors(connection, wanted, "test")


async def id_of(pool: asyncpg.Pool, slug: str) -> int:
    return int(await pool.fetchval("select id from monitors where slug = $1", slug))


async def test_all_that_leads_to_a_monitor(pool: asyncpg.Pool) -> None:
    keys = (WantedKey("token/with-slash"), WantedKey("start-key", "start"), WantedKey("load-done", "success", "load"))
    await put(pool, "etl", keys=keys)
    await put(pool, "plain")
    monitor_id, plain_id = await id_of(pool, "etl"), await id_of(pool, "plain")
    ping_key = await pool.fetchval("select ping_key from projects")
    async with following(pool) as key_index:
        assert len(key_index) == 5
        assert key_index.find("key-of-etl") == KeyTarget(monitor_id, 1)
        assert key_index.find("start-key") == KeyTarget(monitor_id, 1, "start")
        assert key_index.find("load-done") == KeyTarget(monitor_id, 1, "success", "load")
        assert key_index.find("etl") is None
        assert key_index.find_slug(ping_key, "etl") == KeyTarget(monitor_id, 1)
        assert key_index.find_slug(ping_key, "plain") == KeyTarget(plain_id, 1)
        assert key_index.find_slug(ping_key, "other") is None
        assert key_index.find_slug("token", "with-slash") == KeyTarget(monitor_id, 1)
        assert key_index.find_slug("key-of-etl", "etl") == KeyTarget(monitor_id, 1)
        assert key_index.find_slug("start-key", "etl") == KeyTarget(monitor_id, 1, "start")
        assert key_index.find_slug("key-of-etl", "plain") is None
        assert key_index.project_of(ping_key) == 1
        assert key_index.project_of("nobody") is None


async def test_a_refresh_brings_what_was_committed_before_it(pool: asyncpg.Pool) -> None:
    async with following(pool) as key_index:
        for name in ("one", "two"):
            assert key_index.find(f"key-of-{name}") is None
            await put(pool, name)
            await key_index.refresh()
            assert key_index.find(f"key-of-{name}") is not None


async def test_changes_of_other_processes_are_followed(pool: asyncpg.Pool) -> None:
    async with following(pool) as key_index:
        await put(pool, "later")
        await eventually(lambda: _soon(key_index.find("key-of-later")))


async def _soon(value: object) -> object:
    return value


async def test_changes_of_keys_slugs_rules_and_projects(pool: asyncpg.Pool) -> None:
    await put(pool, "a", keys=[WantedKey("moving"), WantedKey("going"), WantedKey("binding")])
    await put(pool, "b")
    a, b = await id_of(pool, "a"), await id_of(pool, "b")
    async with following(pool) as key_index:
        assert key_index.rules == {}
        await put(pool, "a", keys=[WantedKey("binding", "fail")], methods="POST")
        await put(pool, "b", keys=[WantedKey("moving")], keywords={"fail": ["ERROR"]})
        await key_index.refresh()
        assert key_index.find("going") is None
        assert key_index.find("moving") == KeyTarget(b, 1)
        assert key_index.find("binding") == KeyTarget(a, 1, "fail")
        assert key_index.rules[a].post_only and key_index.rules[a].keywords is None
        assert not key_index.rules[b].post_only and key_index.rules[b].keywords is not None
        keywords = key_index.rules[b].keywords
        assert keywords is not None and keywords.fail == ("ERROR",)
        await put(pool, "a", keys=[WantedKey("binding")])
        async with changing(pool) as connection:
            await delete_monitors(connection, [(1, "b")], "test")
            await put_project(connection, WantedProject("other", "Other", "other-ping-key", {}), "test")
        await key_index.refresh()
        assert key_index.find("binding") == KeyTarget(a, 1)
        assert key_index.find("moving") is key_index.find("key-of-b") is None
        assert key_index.find_slug("other-ping-key", "b") is None
        assert key_index.rules == {}
        project = key_index.project_of("other-ping-key")
        assert project is not None
        await put(pool, "b", project=project)
        await key_index.refresh()
        assert key_index.find_slug("other-ping-key", "b") == KeyTarget(await id_of(pool, "b"), project)
        assert len(key_index) == 3


async def test_many_who_wait_share_one_refresh_and_no_more_than_ten_a_second(pool: asyncpg.Pool) -> None:
    async with following(pool) as key_index:
        before = key_index.refreshes
        await asyncio.gather(*(key_index.refresh() for _ in range(1_000)))
        assert key_index.refreshes - before <= 2
        before, began_s = key_index.refreshes, monotonic()
        for _ in range(5):
            await key_index.refresh()
        assert key_index.refreshes - before <= (monotonic() - began_s) / REFRESH_GAP_S + 1


async def test_waiters_are_bounded_and_get_an_error_while_postgres_is_down(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offbeat_server.ingest.key_index.WAITERS_MAX", 10)
    monkeypatch.setattr("offbeat_server.ingest.key_index.REFRESH_WAIT_S", 0.3)
    async with Link(database_url) as link:
        pool = await open_pool(link.url)
        await put(pool, "known")
        async with following(pool) as key_index:
            link.hold_replies()
            waiting = [asyncio.ensure_future(key_index.refresh()) for _ in range(10)]
            await asyncio.sleep(0)
            with pytest.raises(UnavailableError):
                await key_index.refresh()
            for each in waiting:
                with pytest.raises(DatabaseDownError):
                    await each
            link.cut(stay=True)
            with pytest.raises(DatabaseDownError):
                await key_index.refresh()
            assert key_index.find("key-of-known") is not None
            link.mend()
            await eventually(lambda: _refreshed(key_index))
        pool.terminate()


async def _refreshed(key_index: KeyIndex) -> bool:
    try:
        await key_index.refresh()
    except UnavailableError:
        return False
    return True


async def test_postgres_away_at_the_start(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offbeat_server.ingest.key_index.START_WAIT_S", 0.1)
    async with Link(database_url) as link:
        pool = await open_pool(link.url)
        await put(pool, "known")
        link.cut(stay=True)
        async with following(pool) as key_index:
            with pytest.raises(DatabaseDownError):
                await key_index.refresh()
            link.mend()
            await eventually(lambda: _refreshed(key_index))
            assert key_index.find("key-of-known") is not None
        pool.terminate()


class Slices:
    """A source whose changes come one monitor at a time, as they may where thousands change at once."""

    def __init__(self, rows: list[KeyRow]) -> None:
        self.rows = rows
        self.changes: list[int] = []

    async def rev(self) -> int:
        return 0

    async def former_slugs(self) -> dict[str, int]:
        return {}

    async def ping_keys(self) -> dict[str, int]:
        return {"pk": 1}

    async def all_keys(self) -> AsyncIterator[Sequence[KeyRow]]:
        yield list(self.rows)

    async def changed(self, after_rev: int) -> ChangedKeys:
        if after_rev == len(self.changes):
            return ChangedKeys(after_rev, set())
        return ChangedKeys(after_rev + 1, {self.changes[after_rev]})

    async def keys_of(self, monitor_ids: set[int]) -> Sequence[KeyRow]:
        return [row for row in self.rows if row[1] in monitor_ids]


def row(key: str, monitor_id: int, slug: str) -> KeyRow:
    return (key, monitor_id, 1, None, None, slug, None)


@pytest.mark.parametrize("order", [[1, 2], [2, 1]])
async def test_a_swap_that_comes_in_two_slices(order: list[int]) -> None:
    source = Slices([row("ka", 1, "a"), row("kb", 2, "b")])
    key_index = KeyIndex(source)
    await key_index.start()
    source.rows = [row("kb", 1, "b"), row("ka", 2, "a")]
    source.changes = order
    await key_index.refresh()
    assert (key_index.find("ka"), key_index.find("kb")) == (KeyTarget(2, 1), KeyTarget(1, 1))
    assert (key_index.find_slug("pk", "a"), key_index.find_slug("pk", "b")) == (KeyTarget(2, 1), KeyTarget(1, 1))
    source.rows = [row("ka", 2, "a")]
    source.changes = [*order, 1]
    await key_index.refresh()
    assert (key_index.find("kb"), key_index.find_slug("pk", "b"), len(key_index)) == (None, None, 1)
    await key_index.stop()


class Gated(Slices):
    """A source that gives its rows one by one, each when it is let through; `lost` fails it in the middle."""

    def __init__(self, rows: list[KeyRow]) -> None:
        super().__init__(rows)
        self.revision = 5
        self.through = asyncio.Semaphore(1_000)
        self.begun = asyncio.Event()
        self.lost = False

    async def rev(self) -> int:
        return self.revision

    async def all_keys(self) -> AsyncIterator[Sequence[KeyRow]]:
        for each in self.rows:
            self.begun.set()
            await self.through.acquire()
            if self.lost:
                raise DatabaseDownError("lost in the middle")
            yield [each]

    async def changed(self, after_rev: int) -> ChangedKeys:
        return ChangedKeys(after_rev, set())


@pytest.mark.parametrize("noticed", ["by the writer", "by its revision"])
async def test_what_is_known_still_answers_while_all_is_loaded_again(noticed: str) -> None:
    rule = '{"methods": "POST"}'
    source = Gated([row("ka", 1, "a"), ("kb", 2, 1, "fail", None, "b", rule), row("kc", 3, "c")])
    key_index = KeyIndex(source)
    await key_index.start()

    def all_known() -> bool:
        kept = [key_index.find("ka"), key_index.find("kb"), key_index.find_slug("pk", "a")]
        return (
            kept == [KeyTarget(1, 1), KeyTarget(2, 1, "fail"), KeyTarget(1, 1)]
            and 2 in key_index.rules
            and key_index.rev is not None
        )

    assert all_known() and key_index.complete
    source.through = asyncio.Semaphore(0)
    source.begun.clear()
    source.rows = [*source.rows[:2], row("kd", 4, "d")]  # the third was lost, and another one made
    if noticed == "by the writer":
        key_index.forget()
    source.revision = 4
    key_index.changed()
    await source.begun.wait()
    assert all_known() and not key_index.complete
    source.lost = True  # an attempt that fails leaves what is known
    source.begun.clear()
    source.through.release()
    await source.begun.wait()
    source.lost = False
    asking = asyncio.ensure_future(key_index.refresh())
    for _ in range(3):
        assert all_known() and not key_index.complete and not asking.done()
        source.through.release()
    await asking
    assert all_known() and key_index.complete
    assert (key_index.find("kc"), key_index.find("kd")) == (None, KeyTarget(4, 1))
    await key_index.stop()


async def test_a_loss_that_is_noticed_while_all_is_loaded_loads_it_again() -> None:
    source = Gated([row("ka", 1, "a")])
    key_index = KeyIndex(source)
    await key_index.start()
    source.through = asyncio.Semaphore(0)
    source.begun.clear()
    key_index.forget()
    await source.begun.wait()
    source.begun.clear()
    asking = asyncio.ensure_future(key_index.refresh())
    key_index.forget()
    source.through.release()
    await source.begun.wait()
    assert not key_index.complete and not asking.done()
    for _ in range(2):
        source.through.release()
    await asking
    assert key_index.complete
    await key_index.stop()


async def test_what_a_monitor_takes_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "offbeat_server.ingest.key_index.REFRESH_WAIT_S", 60.0
    )  # loading takes its time where memory is traced
    count = 100_000

    class Many(Slices):
        async def all_keys(self) -> AsyncIterator[Sequence[KeyRow]]:
            for start in range(0, count, 2_000):
                yield [
                    row(f"{number:08x}-b7c4-4e1f-9d55-{number:012x}", number, f"job-{number}")
                    for number in range(start + 1, start + 2_001)
                ]

    key_index = KeyIndex(Many([]))
    tracemalloc.start()
    await key_index.start()
    await key_index.refresh()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await key_index.stop()
    assert len(key_index) == count
    print(f"{used / count:.0f} bytes a monitor")
    assert used / count < 260  # bytes: a million monitors fit beside an ingest process in 350 MB
    assert key_index.find(f"{1:08x}-b7c4-4e1f-9d55-{1:012x}") == KeyTarget(1, 1)
