"""Which ended runs the scheduler reads from their rows, and what the engine then knows of them."""

import pytest

from offbeat_server.engine.decisions import RunChanged
from offbeat_server.engine.model import runs
from offbeat_server.engine.model.enums import Verdict
from offbeat_server.engine.model.ping import Entry, Ping
from offbeat_server.engine.model.runs import EndedRunRow
from tests.support.engine import PROJECT, Scene


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A job whose engine remembers one ended run."""
    monkeypatch.setattr(runs, "RUNS_REMEMBERED_MAX", 1)
    scene = Scene()
    scene.monitor(tasks={"expected": 1})
    return scene


def entries(*pings: Ping) -> list[Entry]:
    return [Entry(0, 1, seq, 1, PROJECT, None, ping) for seq, ping in enumerate(pings, 1)]


def row_of(run: RunChanged) -> EndedRunRow:
    assert run.verdict is not None and run.finished_at is not None and run.ended is not None
    which = (run.business_date, run.backfill, run.execution)
    return EndedRunRow(run.number, Verdict(run.verdict), run.finished_at, *which, run.ended)


def test_a_batch_asks_once_for_each_run_that_only_a_row_may_have(scene: Scene) -> None:
    for run in ("old", "last"):
        scene.ping(0, "start", run=run)
        scene.ping(1, run=run)
    scene.ping(2, "start", run="open")
    scene.engine.forget_recalled()
    steps = [Ping(signal, run, "copy") for run in ("old", "last", "open", "new") for signal in ("start", "success")]
    assert scene.engine.unknown_runs(entries(*steps)) == [(1, "old"), (1, "new")]
    started = entries(Ping("start", "new"), *steps, Ping("success", "old"), Ping("success", "other"))
    assert scene.engine.unknown_runs(started) == [(1, "old")]
    assert scene.engine.unknown_runs(entries(*[Ping("success", task=str(n)) for n in range(9)])) == []


def test_a_recalled_run_has_the_date_and_the_execution_of_its_row(scene: Scene) -> None:
    for day in ("01", "02"):
        scene.ping(0, "start", run=f"2026-01-{day}")
        scene.ping(1, run=f"2026-01-{day}")
    scene.engine.forget_recalled()
    old = scene.runs()[1]._replace(backfill=True, execution="pod-7")
    scene.engine.recall(1, "2026-01-01", row_of(old))
    known = scene.engine.monitors[1].rare.runs
    assert known is not None
    ended = known.find_ended("2026-01-01")
    assert ended is not None and ended.which == ("2026-01-01", True, True, "pod-7")
    assert ended.as_run("2026-01-01").business_date == "2026-01-01"


def test_a_late_failure_of_a_recalled_run_concerns_its_own_date(scene: Scene) -> None:
    for day in ("01", "02"):
        scene.ping(0, "start", run=f"2026-01-{day}")
        scene.ping(1, run=f"2026-01-{day}", task="1")
    scene.engine.forget_recalled()
    scene.engine.recall(1, "2026-01-01", row_of(scene.runs()[1]))
    scene.ping("2h", "fail", run="2026-01-01", task="2")
    scene.ping("3h", "start", run="2026-01-03")
    scene.ping("4h", run="2026-01-03", task="1")
    assert scene.status() == "down" and scene.incidents()[1].cause == "tasks"
    scene.engine.forget_recalled()
    scene.engine.recall(1, "2026-01-01", row_of(scene.runs()[1]))
    scene.ping("5h", run="2026-01-01", task="2")
    assert scene.status() == "unwatched" and scene.runs()[1].verdict == "succeeded"
    assert sorted(scene.runs()) == [1, 2, 3]
