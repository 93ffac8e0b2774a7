"""Whole installations on a virtual clock, each drawn from one seed, and the tests of this test: bugs put in on purpose.

`--seeds 2000` runs more than the usual 150 of them, `--seed 4711 --seeds 1` the one that has failed;
`make simulation` runs very many.
"""

import gc
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.common.instants import Micros
from offbeat_server.db.pool import database_trouble
from offbeat_server.db.repositories.lease_row import Held
from offbeat_server.db.repositories.outbox import SettledAlert
from offbeat_server.db.scheduler_store import decision_rows
from offbeat_server.db.scheduler_store.scheduler_rows import WriterSeen
from offbeat_server.engine.decisions import Decision
from offbeat_server.engine.engine import Engine
from offbeat_server.engine.model.enums import AlertState
from offbeat_server.engine.model.ping import Entry
from offbeat_server.notify.attempts import AttemptResult, DeliveryAttempts
from offbeat_server.notify.channel import Channel, Message
from offbeat_server.scheduler.log_reader import LogReader
from tests.simulation import record
from tests.simulation.checks.outcome import Mutant, outcome, story
from tests.simulation.world.faults import Faults

# In this number of worlds every bug below is to be found, also if the next change moves the draws of the seeds: each
# shows in one world of six at least.
MUTANT_SEEDS = 60
PROGRESS_SEEDS = 500


@pytest.mark.timeout(0)  # it takes as long as the worlds that are asked for, and each of them is bounded in steps
@pytest.mark.filterwarnings("ignore:coroutine")  # that a killed process leaves behind
def test_nothing_is_lost_and_nothing_decided_twice(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    first, count = request.config.getoption("--seed"), request.config.getoption("--seeds")
    happened: Counter[str] = Counter()
    for seed in range(first, first + count):
        world, wrong = outcome(seed)
        if wrong:
            pytest.fail(story(world, wrong), pytrace=False)
        happened += world.counts()
        if (seed + 1 - first) % PROGRESS_SEEDS == 0:
            with capsys.disabled():
                print(f"\n{seed + 1 - first} of {count} worlds", end="", flush=True)
    for what, least in {"pings": 20, "incidents": 1, "faults": 3, "changes": 5, "alerts": 1}.items():
        assert count < 50 or happened[what] > least * count, f"too little has happened: {happened}"


@pytest.mark.quick
def test_the_page_shows_the_last_long_run() -> None:
    shown = record.TABLE.search(record.PAGE.read_text())
    assert shown is not None and shown[2] == record.latest(record.RECORD.read_text())
    line = "- 2026-01-31 seeds 5 to 1004: 2 failed [7, 9]; 1234 pings, 6 incidents; 59 s"
    assert record.latest(f"{record.RECORD.read_text()}{line}\n  Both are fixed.\n") == (
        '| `make simulation SEEDS=1000 ARGS="--first 5"` | |\n|---|---:|\n'
        "| date | 2026-01-31 |\n| worlds; failed | 1,000; **2** |\n| pings | 1,234 |\n| incidents | 6 |\n"
    )


@pytest.mark.quick
def test_a_seed_decides_everything() -> None:
    def trace(seed: int) -> tuple[Any, ...]:
        world, _ = outcome(seed)
        return world.loop.steps, world.faults.story, sorted(world.tables.pings.values()), sorted(world.tables.incidents)

    assert trace(7) == trace(7)


@pytest.mark.filterwarnings("ignore:coroutine")
def test_when_garbage_is_collected_decides_nothing() -> None:
    usual = gc.get_threshold()
    gc.set_threshold(100, 2, 2)  # while the world is under way, too: of processes that have died in it
    try:
        assert outcome(3589)[1] == []
    finally:
        gc.set_threshold(*usual)


# ------------------------------------------------------------------------------------------ bugs put in on purpose


def _evaluate_past_the_watermark(patch: pytest.MonkeyPatch) -> None:
    def largest(order: LogReader, seen: list[WriterSeen], fed_through: Micros) -> Micros | None:
        return max((writer.accepted_through for writer in seen), default=None)

    patch.setattr(LogReader, "_smallest", largest)


def _own_batches_first(patch: pytest.MonkeyPatch) -> None:
    def merged(parts: list[list[Entry]]) -> list[Entry]:
        return [entry for part in reversed(parts) for entry in part]

    patch.setattr("offbeat_server.scheduler.log_reader._merged", merged)


def _drop_without_fencing(patch: pytest.MonkeyPatch) -> None:
    smallest = LogReader._smallest

    def of_the_lively(order: LogReader, seen: list[WriterSeen], fed_through: Micros) -> Micros | None:
        return smallest(order, [writer for writer in seen if writer.silent_s < 0.9], fed_through)

    patch.setattr(LogReader, "_smallest", of_the_lively)


class _Without:
    """A connection that leaves one statement out."""

    def __init__(self, connection: Any, sql: str) -> None:
        self._connection, self._sql = connection, sql

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, sql: str, *args: Any) -> None:
        if sql != self._sql:
            await self._connection.execute(sql, *args)


def _effects_without_their_states(patch: pytest.MonkeyPatch) -> None:
    # Seen only where a process ends between the two: in one world of twelve with all faults, in one of six with these.
    patch.setattr(Faults, "kinds", ("crash",))
    write = decision_rows._write

    async def in_two(connection: Any, held: Held, part: Sequence[Decision], *rest: Any) -> None:
        effects = _Without(connection, decision_rows._SQL["put_states"])
        await write(effects, held, part, *rest)  # type: ignore[arg-type]
        await write(connection, held, [replace(d, effects=[]) for d in part], *rest)

    patch.setattr(decision_rows, "_write", in_two)


def _forget_the_term(patch: pytest.MonkeyPatch) -> None:
    # A scheduler that is cut off or frozen gives up in time; only the database's clock, set forward, ends a lease while
    # its holder writes. One world of a hundred with all faults shows it, one of four with these.
    patch.setattr(Faults, "kinds", ("set_clock",))

    @asynccontextmanager
    async def held_by(connection: Any, held: Held) -> AsyncIterator[None]:
        with database_trouble():
            async with connection.transaction():
                yield

    for module in ("db.scheduler_store.decision_rows", "scheduler.outages", "scheduler.checkpoint"):
        patch.setattr(f"offbeat_server.{module}.held_by", held_by)


def _ignore_outages(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "add_outage", lambda engine, start, end: None)


def _settle_before_sending(patch: pytest.MonkeyPatch) -> None:
    send = DeliveryAttempts._send

    async def settled(
        attempts: DeliveryAttempts, lane: int, message: Message, body: bytes, channel: Channel, attempt: int
    ) -> AttemptResult:
        if message.kind != "digest":
            outcome = SettledAlert(int(message.id.rpartition("_")[2], 16), AlertState.DELIVERED)
            with suppress(DatabaseDownError):
                await attempts._outbox.settle([outcome])
        return await send(attempts, lane, message, body, channel, attempt)

    patch.setattr(DeliveryAttempts, "_send", settled)


def _name_no_failure(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("offbeat_server.notify.messages.message_builder.MONITORS_NAMED_MAX", 0)


@pytest.mark.parametrize(
    "mutate",
    [
        _evaluate_past_the_watermark,
        _own_batches_first,
        _drop_without_fencing,
        _effects_without_their_states,
        _forget_the_term,
        _settle_before_sending,
        _ignore_outages,
        _name_no_failure,
    ],
)
def test_a_bug_put_in_on_purpose_is_found(mutate: Mutant) -> None:
    failing_seed = next((seed for seed in range(MUTANT_SEEDS) if outcome(seed, mutate)[1]), None)
    assert failing_seed is not None, f"not found in {MUTANT_SEEDS} worlds"
