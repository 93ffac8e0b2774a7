"""Monitors made and changed by pings: as many as may be in a minute, also when all of them come at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg
import pytest
import pytest_asyncio

from server import provision
from server.ingest.reading import Slug
from server.provision import CREATED_PER_MINUTE_MAX, Provision
from server.roster import Roster
from server.store.pool import open_pool
from server.store.roster_rows import RosterRows


class Estate(NamedTuple):
    pool: asyncpg.Pool
    roster: Roster
    ping_key: str

    def slug(self, slug: str, **declared: object) -> Slug:
        return Slug(self.ping_key, slug, create=True, definition=declared or None)

    async def monitors(self) -> list[str]:
        return [row["slug"] for row in await self.pool.fetch("select slug from monitors order by slug")]


@pytest_asyncio.fixture
async def estate(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Estate]:
    monkeypatch.setattr("server.roster.REFRESH_WAIT_S", 60.0)  # how long so many take is not the question here
    pool = await open_pool(database_url)
    roster = Roster(RosterRows(pool))
    await roster.start()
    yield Estate(pool, roster, await pool.fetchval("select ping_key from projects"))
    await roster.stop()
    pool.terminate()


async def test_no_more_are_made_than_may_be_when_all_are_asked_for_at_once(estate: Estate) -> None:
    make = Provision(estate.pool, estate.roster, allowed=True)
    asked = CREATED_PER_MINUTE_MAX * 3 // 2
    outcomes = await asyncio.gather(*(make(estate.slug(f"job-{number}")) for number in range(asked)))
    assert Counter(outcome.kind for outcome in outcomes) == {
        "created": CREATED_PER_MINUTE_MAX,
        "full": asked - CREATED_PER_MINUTE_MAX,
    }
    assert len(await estate.monitors()) == CREATED_PER_MINUTE_MAX


async def test_whoever_asks_for_the_same_one_at_once_is_one_of_many_and_not_too_many(estate: Estate) -> None:
    make = Provision(estate.pool, estate.roster, allowed=True)
    outcomes = await asyncio.gather(*(make(estate.slug("job")) for _ in range(CREATED_PER_MINUTE_MAX * 2)))
    kinds = Counter(outcome.kind for outcome in outcomes)
    assert (kinds["created"], kinds["full"]) == (1, 0)
    assert await estate.monitors() == ["job"]


async def test_clients_that_declare_now_this_and_now_that_have_an_end(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision, "CHANGED_PER_MINUTE_MAX", 4)
    make = Provision(estate.pool, estate.roster, allowed=True)
    assert (await make(estate.slug("job", every=60))).kind == "created"
    for hours in range(1, 10):
        assert (await make(estate.slug("job", every=3_600 * hours))).kind == "ok"
    assert await estate.pool.fetchval("select definition->>'every' from monitors") == "4h"
    assert await estate.pool.fetchval("select count(*) from changes") == 5
