"""Fixtures: a Postgres cluster for each test process, and a fresh database in it for each test that asks for one."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from server.store.pool import connect
from tests import harness


def _running(postgres: harness.Postgres) -> Iterator[harness.Postgres]:
    # In a loop of its own each: the cluster outlives the loops of the tests.
    asyncio.run(postgres.start())
    yield postgres
    asyncio.run(postgres.stop())


@pytest.fixture(scope="session")
def postgres() -> Iterator[harness.Postgres]:
    """The wheel's Postgres, without fsync: quick, and no test pulls the plug."""
    yield from _running(harness.Postgres(fsync="off"))


@pytest.fixture(scope="session")
def debian_postgres() -> Iterator[harness.Postgres]:
    """Debian's Postgres 15."""
    yield from _running(harness.debian_postgres())


@pytest.fixture
async def database_url(postgres: harness.Postgres) -> AsyncIterator[str]:
    """A database of the test's own, with schema and partitions from today to a week ahead."""
    async with postgres.fresh() as url:
        yield url


@pytest.fixture
async def empty_database_url(postgres: harness.Postgres) -> AsyncIterator[str]:
    """A database of the test's own with nothing in it."""
    async with postgres.fresh(empty=True) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to `database_url`."""
    connection = await connect(database_url)
    yield connection
    await connection.close()
