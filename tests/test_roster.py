"""Who is known: loaded once, followed by revision, asked for by all at once."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import DatabaseAway, Unavailable
from offbeat_server.db.pool import open_pool
from offbeat_server.db.repositories.changes import changing
from offbeat_server.db.repositories.definitions import Wanted, WantedKey, delete_monitors, put_monitors
from offbeat_server.db.repositories.projects import WantedProject, put_project
from offbeat_server.db.repositories.roster_rows import RosterRows
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.ingest.key_index import Bound, KeyRow, Roster
from tests.harness import eventually
from tests.link import Link


@pytest.fixture
async def pool(database_url) -> AsyncIterator[asyncpg.Pool]:
    pool = await open_pool(database_url)
    yield pool
    pool.terminate()


@asynccontextmanager
async def following(pool: asyncpg.Pool) -> AsyncIterator[Roster]:
    roster = Roster(RosterRows(pool))
    await roster.start()
    try:
        yield roster
    finally:
        await roster.stop()


async def put(pool: asyncpg.Pool, *slugs: str, project: int = 1, keys: Sequence[WantedKey] = (), **definition: object):
    wanted = [
        Wanted(
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


async def test_all_that_leads_to_a_monitor(pool):
    keys = (WantedKey("token/with-slash"), WantedKey("start-key", "start"), WantedKey("load-done", "success", "load"))
    await put(pool, "etl", keys=keys)
    await put(pool, "plain")
    monitor_id, plain_id = await id_of(pool, "etl"), await id_of(pool, "plain")
    ping_key = await pool.fetchval("select ping_key from projects")
    async with following(pool) as roster:
        assert len(roster) == 5
        assert roster.find("key-of-etl") == Bound(monitor_id, 1)
        assert roster.find("start-key") == Bound(monitor_id, 1, "start")
        assert roster.find("load-done") == Bound(monitor_id, 1, "success", "load")
        assert roster.find("etl") is None
        assert roster.find_slug(ping_key, "etl") == Bound(monitor_id, 1)
        assert roster.find_slug(ping_key, "plain") == Bound(plain_id, 1)
        assert roster.find_slug(ping_key, "other") is None
        assert roster.find_slug("token", "with-slash") == Bound(monitor_id, 1)
        assert roster.find_slug("key-of-etl", "etl") == Bound(monitor_id, 1)
        assert roster.find_slug("start-key", "etl") == Bound(monitor_id, 1, "start")
        assert roster.find_slug("key-of-etl", "plain") is None
        assert roster.project_of(ping_key) == 1
        assert roster.project_of("nobody") is None


async def test_a_refresh_brings_what_was_committed_before_it(pool):
    async with following(pool) as roster:
        for name in ("one", "two"):
            assert roster.find(f"key-of-{name}") is None
            await put(pool, name)
            await roster.refresh()
            assert roster.find(f"key-of-{name}") is not None


async def test_other_processes_changes_are_followed_unasked(pool):
    async with following(pool) as roster:
        await put(pool, "later")
        await eventually(lambda: _soon(roster.find("key-of-later")), timeout_s=2)


async def _soon(value: object) -> object:
    return value


async def test_changes_of_keys_slugs_rules_and_projects(pool):
    await put(pool, "a", keys=[WantedKey("moving"), WantedKey("going"), WantedKey("binding")])
    await put(pool, "b")
    a, b = await id_of(pool, "a"), await id_of(pool, "b")
    async with following(pool) as roster:
        assert roster.rules == {}
        await put(pool, "a", keys=[WantedKey("binding", "fail")], methods="POST")
        await put(pool, "b", keys=[WantedKey("moving")], keywords={"fail": ["ERROR"]})
        await roster.refresh()
        assert roster.find("going") is None
        assert roster.find("moving") == Bound(b, 1)
        assert roster.find("binding") == Bound(a, 1, "fail")
        assert roster.rules[a].post_only and roster.rules[a].keywords is None
        assert not roster.rules[b].post_only and roster.rules[b].keywords is not None
        assert roster.rules[b].keywords.fail == ("ERROR",)
        await put(pool, "a", keys=[WantedKey("binding")])
        async with changing(pool) as connection:
            await delete_monitors(connection, [(1, "b")], "test")
            await put_project(connection, WantedProject("other", "Other", "other-ping-key", {}), "test")
        await roster.refresh()
        assert roster.find("binding") == Bound(a, 1)
        assert roster.find("moving") is roster.find("key-of-b") is None
        assert roster.find_slug("other-ping-key", "b") is None
        assert roster.rules == {}
        project = roster.project_of("other-ping-key")
        assert project is not None
        await put(pool, "b", project=project)
        await roster.refresh()
        assert roster.find_slug("other-ping-key", "b") == Bound(await id_of(pool, "b"), project)
        assert len(roster) == 3


async def test_many_who_wait_share_one_refresh_and_no_more_than_ten_a_second(pool):
    async with following(pool) as roster:
        before = roster.refreshes
        await asyncio.gather(*(roster.refresh() for _ in range(1_000)))
        assert roster.refreshes - before <= 2
        before, began_s = roster.refreshes, monotonic()
        while monotonic() - began_s < 0.5:
            await roster.refresh()
        assert roster.refreshes - before <= 6


async def test_those_who_wait_are_bounded_and_told_when_postgres_is_away(database_url, monkeypatch):
    monkeypatch.setattr("offbeat_server.ingest.key_index.WAITERS_MAX", 10)
    monkeypatch.setattr("offbeat_server.ingest.key_index.REFRESH_WAIT_S", 0.3)
    async with Link(database_url) as link:
        pool = await open_pool(link.url)
        await put(pool, "known")
        async with following(pool) as roster:
            link.hold_replies()
            waiting = [asyncio.ensure_future(roster.refresh()) for _ in range(10)]
            await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await roster.refresh()
            for each in waiting:
                with pytest.raises(DatabaseAway):
                    await each
            link.cut(stay=True)
            with pytest.raises(DatabaseAway):
                await roster.refresh()
            assert roster.find("key-of-known") is not None
            link.mend()
            await eventually(lambda: _refreshed(roster))
        pool.terminate()


async def _refreshed(roster: Roster) -> bool:
    try:
        await roster.refresh()
    except Unavailable:
        return False
    return True


async def test_postgres_away_at_the_start(database_url, monkeypatch):
    monkeypatch.setattr("offbeat_server.ingest.key_index.START_WAIT_S", 0.1)
    async with Link(database_url) as link:
        pool = await open_pool(link.url)
        await put(pool, "known")
        link.cut(stay=True)
        async with following(pool) as roster:
            with pytest.raises(DatabaseAway):
                await roster.refresh()
            link.mend()
            await eventually(lambda: _refreshed(roster))
            assert roster.find("key-of-known") is not None
        pool.terminate()


class Slices:
    """A source whose changes come one monitor at a time, as they may where thousands change at once."""

    def __init__(self, rows: list[KeyRow]) -> None:
        self.rows = rows
        self.changes: list[int] = []

    async def rev(self) -> int:
        return 0

    async def ping_keys(self) -> dict[str, int]:
        return {"pk": 1}

    async def all_keys(self) -> AsyncIterator[Sequence[KeyRow]]:
        yield list(self.rows)

    async def changed(self, after_rev: int) -> tuple[int, set[int], bool]:
        if after_rev == len(self.changes):
            return after_rev, set(), False
        return after_rev + 1, {self.changes[after_rev]}, False

    async def keys_of(self, monitor_ids: set[int]) -> Sequence[KeyRow]:
        return [row for row in self.rows if row[1] in monitor_ids]


def row(key: str, monitor_id: int, slug: str) -> KeyRow:
    return (key, monitor_id, 1, None, None, slug, None)


@pytest.mark.parametrize("order", [[1, 2], [2, 1]])
async def test_a_swap_that_comes_in_two_slices(order):
    source = Slices([row("ka", 1, "a"), row("kb", 2, "b")])
    roster = Roster(source)
    await roster.start()
    source.rows = [row("kb", 1, "b"), row("ka", 2, "a")]
    source.changes = order
    await roster.refresh()
    assert (roster.find("ka"), roster.find("kb")) == (Bound(2, 1), Bound(1, 1))
    assert (roster.find_slug("pk", "a"), roster.find_slug("pk", "b")) == (Bound(2, 1), Bound(1, 1))
    source.rows = [row("ka", 2, "a")]
    source.changes = [*order, 1]
    await roster.refresh()
    assert (roster.find("kb"), roster.find_slug("pk", "b"), len(roster)) == (None, None, 1)
    await roster.stop()


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
                raise DatabaseAway("lost in the middle")
            yield [each]

    async def changed(self, after_rev: int) -> tuple[int, set[int], bool]:
        return after_rev, set(), False


@pytest.mark.parametrize("noticed", ["by the writer", "by its revision"])
async def test_what_is_known_still_answers_while_all_is_loaded_again(noticed):
    rule = '{"methods": "POST"}'
    source = Gated([row("ka", 1, "a"), ("kb", 2, 1, "fail", None, "b", rule), row("kc", 3, "c")])
    roster = Roster(source)
    await roster.start()

    def all_known() -> bool:
        kept = [roster.find("ka"), roster.find("kb"), roster.find_slug("pk", "a")]
        return kept == [Bound(1, 1), Bound(2, 1, "fail"), Bound(1, 1)] and 2 in roster.rules and roster.rev is not None

    assert all_known() and roster.complete
    source.through = asyncio.Semaphore(0)
    source.begun.clear()
    source.rows = [*source.rows[:2], row("kd", 4, "d")]  # the third was lost, and another one made
    if noticed == "by the writer":
        roster.forget()
    source.revision = 4
    roster.changed()
    await source.begun.wait()
    assert all_known() and not roster.complete
    source.lost = True  # an attempt that fails leaves what is known
    source.begun.clear()
    source.through.release()
    await source.begun.wait()
    source.lost = False
    asking = asyncio.ensure_future(roster.refresh())
    for _ in range(3):
        assert all_known() and not roster.complete and not asking.done()
        source.through.release()
    await asking
    assert all_known() and roster.complete
    assert (roster.find("kc"), roster.find("kd")) == (None, Bound(4, 1))
    await roster.stop()


async def test_a_loss_that_is_noticed_while_all_is_loaded_loads_it_once_more():
    source = Gated([row("ka", 1, "a")])
    roster = Roster(source)
    await roster.start()
    source.through = asyncio.Semaphore(0)
    source.begun.clear()
    roster.forget()
    await source.begun.wait()
    source.begun.clear()
    asking = asyncio.ensure_future(roster.refresh())
    roster.forget()
    source.through.release()
    await source.begun.wait()
    assert not roster.complete and not asking.done()
    for _ in range(2):
        source.through.release()
    await asking
    assert roster.complete
    await roster.stop()


async def test_what_a_monitor_takes_in_memory(monkeypatch):
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

    roster = Roster(Many([]))
    tracemalloc.start()
    await roster.start()
    await roster.refresh()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await roster.stop()
    assert len(roster) == count
    print(f"{used / count:.0f} bytes a monitor")
    assert used / count < 260  # bytes: a million monitors fit beside an ingest process in 350 MB
    assert roster.find(f"{1:08x}-b7c4-4e1f-9d55-{1:012x}") == Bound(1, 1)
