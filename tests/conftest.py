"""Fixtures: a Postgres cluster for each test process, and a fresh database in it for each test that asks for one."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from offbeat_server.db.pool import connect
from tests.support import harness
from tests.support.outbox import Scene, scene

_BEGAN = time.monotonic()

# Files that take half a minute and more, the longest first: what begins last is waited for by all.
LONG = [
    f"test_{name}.py"
    for name in (
            "outages", "failover", "pages_faults", "bench", "pages_browser", "http", "postgres_changes",
            "embedded", "prometheus", "two_nodes", "dispatcher", "digests", "kill", "exec", "simulation",
            "lost_tail", "scheduler", "apply", "smuggling", "large", "alert_crashes", "fuzz", "frozen_process",
            "outages_recorded", "guides", "model", "api_contract",
        )
]  # fmt: skip

# How long an example takes says here how busy the machine is, not whether the code is right.
settings.register_profile("offbeat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("offbeat")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--within 28` is what `make quick` asks for; the tests that have begun then take some 15 s more."""
    parser.addoption("--model-cases", type=int, help="cases of tests/model/test_model.py, each time others")
    parser.addoption("--seeds", type=int, default=150, help="worlds of tests/simulation/test_simulation.py")
    parser.addoption("--scripts", type=int, help="scripts of tests/simulation/test_statements.py")
    parser.addoption("--seed", type=int, default=0, help="the first of them")
    parser.addoption("--within", type=float, help="seconds in which tests may begin, the cheap ones first")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under `--within` the tests that need nothing come first, then those with a database, then those with a server.

    Otherwise the long files do, in the order of LONG, and then those with a slow test: a file is one process's.
    """
    if config.getoption("--model-cases") is not None:
        for item in items:
            item.add_marker(pytest.mark.timeout(0))  # a campaign takes as long as it takes
    if config.getoption("--within") is not None:
        items.sort(key=_cost)
    else:
        slow = {item.path.name for item in items if item.get_closest_marker("slow")}
        place = {name: number for number, name in enumerate([*LONG, *sorted(slow.difference(LONG))])}
        items.sort(key=lambda item: place.get(item.path.name, len(place)))


def _cost(item: pytest.Item) -> int:
    if hasattr(getattr(item, "module", None), "Server"):
        return 2
    return int("postgres" in getattr(item, "fixturenames", ()))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Under `--within` no test begins after that."""
    within = item.config.getoption("--within")
    if within is not None and time.monotonic() - _BEGAN > within:
        pytest.skip("no time left; `make test` runs it")


def _running(postgres: harness.Postgres) -> Iterator[harness.Postgres]:
    # In a loop of its own each: the cluster outlives the loops of the tests.
    asyncio.run(postgres.start())
    yield postgres
    asyncio.run(postgres.stop())


@pytest.fixture(scope="session")
def postgres() -> Iterator[harness.Postgres]:
    """The wheel's Postgres, without fsync: quick, and no test pulls the plug. With room for six servers at once."""
    yield from _running(harness.Postgres(fsync="off", max_connections="200"))


@pytest.fixture(scope="session")
def debian_postgres() -> Iterator[harness.Postgres]:
    """Debian's Postgres 15."""
    yield from _running(harness.debian_postgres())


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory for an embedded Postgres, which does not exist yet, in one that others may pass.

    As root Postgres is another user, and pytest closes its own place for files to others at every start.
    """
    top = Path(tempfile.mkdtemp(prefix="offbeat-data-"))
    top.chmod(0o711)
    yield top / "data"
    shutil.rmtree(top)


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


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[Scene]:
    """A database with channels and alerts, and couriers on it."""
    async with scene(database_url) as made:
        yield made


@pytest.fixture
async def receiver() -> AsyncIterator[harness.Receiver]:
    """A receiver of webhooks."""
    async with harness.Receiver() as made:
        yield made
