"""The simulated SQL does the same as Postgres.

The same random calls go to both. `pytest tests/simulation/test_statements.py --scripts 200` runs more of them.
"""

from random import Random
from typing import Any

import pytest

from offbeat_server.db.sql_loader import load
from tests.simulation.database.differential import Both, both
from tests.simulation.database.outbox import Outbox
from tests.simulation.database.script import Script
from tests.simulation.database.statements import Statements
from tests.support.harness import Postgres

STEPS = 300  # of one script
SCRIPTS = 4
SCRIPTS_MAX = 12  # more than SCRIPTS, if some statement was not called yet
MUTANT_SCRIPTS = 12  # in which each of the bugs below shows


async def run(postgres: Postgres, seed: int) -> tuple[Both, str]:
    """One script on both sides, and the first difference, if there is one."""
    async with postgres.fresh(empty=True) as url, both(url) as sides:
        script = Script(sides, Random(seed))
        try:
            await script.run(STEPS)
        except AssertionError as error:
            return sides, f"script {seed}, call {len(script.story)} ({' '.join(script.story[-12:])}): {error}"
        return sides, ""


async def test_postgres_does_what_the_simulation_says(request: pytest.FixtureRequest, postgres: Postgres) -> None:
    called: set[str] = set()
    names: set[str] = set()
    scripts = request.config.getoption("--scripts") or SCRIPTS
    for seed in range(max(scripts, SCRIPTS_MAX)):
        if seed >= scripts and called == names:
            break
        sides, difference = await run(postgres, seed)
        assert not difference, difference
        wrong = [text for text in sides.tables.wrong if "is open in SQL alone" not in text]
        assert not wrong, wrong
        called |= sides.tables.called
        names = sides.tables.names
    assert called == names


@pytest.mark.quick
def test_every_simulated_statement_has_sql() -> None:
    """A statement whose SQL was removed or renamed is not left behind in the simulation."""
    subjects = ("scheduler", "entries", "lease", "decisions", "ping_log", "pool")
    sql = {f"{subject}_{name}" for subject in subjects for name in load(subject)} | set(load("outbox"))
    prefixes = tuple(f"{subject}_" for subject in subjects)
    simulated = {name for name in vars(Statements) if name.startswith(prefixes)}
    simulated |= {name for name, value in vars(Outbox).items() if callable(value) and _takes_session(value)}
    assert simulated - sql == set()


def _takes_session(method: Any) -> bool:
    names = method.__code__.co_varnames
    return len(names) > 1 and names[1] == "session" and not method.__name__.startswith("_")


# ------------------------------------------------------------------------------------------ bugs put in on purpose


def _a_pulse_goes_back(patch: pytest.MonkeyPatch) -> None:
    pulse = Statements.ping_log_pulse

    def changed(tables: Statements, session: Any, writer: int, through: Any) -> list[Any]:
        tables.writers[writer].through -= 1
        return pulse(tables, session, writer, through)

    patch.setattr(Statements, "ping_log_pulse", changed)


def _a_lease_without_holder(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Statements, "is_held", lambda tables, term, holder: tables.lease.holder == holder)


def _no_retry_waits(patch: pytest.MonkeyPatch) -> None:
    settle = Outbox.settle
    patch.setattr(
        Outbox,
        "settle",
        lambda outbox, session, ids, states, waits_s, *rest: settle(
            outbox, session, ids, states, [0.0] * len(ids), *rest
        ),
    )


def _alerts_overtake(patch: pytest.MonkeyPatch) -> None:
    may_go = Outbox._may_go

    def changed(outbox: Outbox, lane: int, again: bool) -> list[Any]:
        return list(reversed(may_go(outbox, lane, again)))

    patch.setattr(Outbox, "_may_go", changed)


def _every_alert_is_urgent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outbox, "_is_urgent", lambda outbox, *row: True)


def _a_late_checkpoint_wins(patch: pytest.MonkeyPatch) -> None:
    write = Statements.scheduler_write_checkpoint

    def changed(tables: Statements, *arguments: Any) -> None:
        if tables.checkpoint is not None:
            tables.checkpoint.at = 0
        write(tables, *arguments)

    patch.setattr(Statements, "scheduler_write_checkpoint", changed)


@pytest.mark.parametrize(
    "mutate",
    [
        _a_pulse_goes_back,
        _a_lease_without_holder,
        _no_retry_waits,
        _alerts_overtake,
        _every_alert_is_urgent,
        _a_late_checkpoint_wins,
    ],
)
async def test_a_changed_rule_is_found(mutate: Any, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    for seed in range(MUTANT_SCRIPTS):
        _, difference = await run(postgres, seed)
        if difference:
            return
    pytest.fail(f"not found in {MUTANT_SCRIPTS} scripts")
