"""Fixtures: a Postgres cluster for each test process, and a fresh database in it for each test that asks for one."""

import asyncio
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import structlog
from hypothesis import HealthCheck, settings

from offbeat_server.db.pool import connect
from offbeat_server.scheduler import lease
from tests.support import harness
from tests.support.outbox import Scene, scene

# Seconds that each file takes, measured by `make test ARGS=--write-durations`.
DURATIONS = Path(__file__).with_name("durations.json")
_UNIT = Path(__file__).with_name("unit")

# How long an example takes says here how busy the machine is, not whether the code is right.
settings.register_profile("offbeat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("offbeat")

# As the server does: a traceback with the values of all local variables takes seconds, in which a lease can end.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options for longer runs of single files, and one that measures."""
    parser.addoption("--model-cases", type=int, help="cases of tests/model/test_model.py, each time others")
    parser.addoption("--seeds", type=int, default=150, help="worlds of tests/simulation/test_simulation.py")
    parser.addoption("--scripts", type=int, help="scripts of tests/simulation/test_statements.py")
    parser.addoption("--seed", type=int, default=0, help="the first of the worlds")
    parser.addoption("--write-durations", action="store_true", help=f"write what the files took to {DURATIONS.name}")


def pytest_configure(config: pytest.Config) -> None:
    """Measure files, if asked to; not in the processes of pytest-xdist, whose reports come here."""
    if config.getoption("--write-durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Durations())


class _Durations:
    """Adds up what the tests of each file take, and writes it down at the end."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid.partition("::")[0]] += round(report.duration * 1000)

    def pytest_sessionfinish(self) -> None:
        """Files that did not run keep their numbers, unless they are gone."""
        seconds = _durations() | {name: round(ms / 1000) for name, ms in self._seconds.items()}
        existing = {name: s for name, s in seconds.items() if (Path(__file__).parents[1] / name).exists()}
        ordered = dict(sorted(existing.items(), key=lambda each: (-each[1], each[0])))
        DURATIONS.write_text(json.dumps(ordered, indent=1) + "\n")


def _durations() -> dict[str, int]:
    return dict(json.loads(DURATIONS.read_text()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the unit tests as quick, and begin with the files that take longest: a file is one process's.

    All workers wait for the file that begins last. A file that was never measured may be long, so it begins early.
    """
    for item in items:
        if item.path.is_relative_to(_UNIT) and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.quick)
        if config.getoption("--model-cases") is not None:
            item.add_marker(pytest.mark.timeout(0))  # a campaign takes as long as it takes
    durations = _durations()
    longest = max(durations.values(), default=0)
    items.sort(key=lambda item: -durations.get(item.nodeid.partition("::")[0], longest))


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


@pytest.fixture(autouse=True)
def long_leases() -> Iterator[None]:
    """No scheduler in the process of the tests loses its lease because the machine stood still for seconds.

    Tests of the end of a lease use `short_lease`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "LIFE_S", 3_600.0)
        patch.setattr(lease, "TRUST_S", 3_600.0)
        yield


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
    """A database with channels and alerts, and dispatchers on it."""
    async with scene(database_url) as created:
        yield created


@pytest.fixture
async def receiver() -> AsyncIterator[harness.Receiver]:
    """A receiver of webhooks."""
    async with harness.Receiver() as created:
        yield created
