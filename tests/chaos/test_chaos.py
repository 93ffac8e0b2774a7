"""A few real faults on a living server, and that its judge would have seen it fail. `make chaos` has many more."""

import pytest

from tests.chaos import run
from tests.chaos.run import live
from tests.chaos.verdict.check import judge
from tests.chaos.world import load

FAULTS = [
    "a node dies before it answers",
    "an answer of postgres is lost",
    "postgres is killed",
    "a node is stopped",
]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_four_faults_and_every_promise_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CALM_S", 6.0)
    monkeypatch.setattr(load, "STOP_CHANCE", 0.1)
    monkeypatch.setattr(load, "STOP_S", (10.0, 40.0))
    outcome = await live("one", seed=1, count=len(FAULTS), monitors=60, say=print, kinds=FAULTS)
    assert outcome.ok, (outcome.verdict.kinds, outcome.troubles)
    counts = outcome.verdict.counts
    assert counts["ok"] > 200 and counts["silences"] and counts["delivered"], counts

    # The same history with one thing changed is found out.
    journal, stored = outcome.journal, outcome.stored
    assert stored is not None
    ok = {each.id for each in journal.tries if each.answer == "ok"}
    gone = next(index for index, row in enumerate(stored.rows) if row.id in ok)
    row = stored.rows.pop(gone)
    assert judge(journal, stored).lost
    stored.rows.insert(gone, row)
    incident = next(each for each in stored.incidents if each.monitor in journal.watched)
    last_ping = max(row.at for row in stored.rows if row.monitor == incident.monitor)
    stored.incidents.append(incident._replace(number=99, opened=last_ping + 0.1))
    assert judge(journal, stored).false
    stored.incidents.pop()
    journal.deliveries.clear()
    assert judge(journal, stored).untold
