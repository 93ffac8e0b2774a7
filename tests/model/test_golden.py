"""The examples of docs/semantics.md against the engine and the reference model, and whether they can fail."""

import re
from collections.abc import Iterable

import pytest
from _pytest.mark import ParameterSet

from offbeat_server.engine.model.enums import AlertKind, CauseKind, Resolution, StageStatus, Status, Verdict
from offbeat_server.engine.model.ping import SIGNALS
from tests.model import golden
from tests.model.golden import Example
from tests.model.test_model import MUTANTS

TEXT = golden.DOCUMENT.read_text()
ROWS = golden.rows_of(TEXT)
EXAMPLES = golden.read_examples(TEXT)
LARGE = 100  # steps: examples of limits, which take seconds


def _marked(example: Example) -> ParameterSet:
    return pytest.param(example, id=str(example), marks=[pytest.mark.slow] if len(example.steps) > LARGE else [])


@pytest.mark.parametrize("example", [_marked(each) for each in EXAMPLES])
def test_the_engine_gives_the_outcome_of_the_example(example: Example) -> None:
    assert golden.run_engine(example).differences(example) == []


@pytest.mark.parametrize("example", [each for each in EXAMPLES if not each.engine_only], ids=str)
def test_the_reference_model_gives_the_outcome_of_the_example(example: Example) -> None:
    assert golden.run_model(example).differences(example) == []


def test_every_row_has_an_example_and_every_example_has_a_row() -> None:
    assert len(set(ROWS)) == len(ROWS)
    shown = {row for example in EXAMPLES for row in example.rows}
    assert [row for row in ROWS if row[0] == "S" and row not in shown] == []
    assert sorted(shown - set(ROWS)) == []


# Rows that the engine does not decide, with the tests that show them.
ELSEWHERE = {
    "tests/e2e/ingest/test_bad_input.py": "D3.1 D3.2 D3.3",
    "tests/e2e/server/test_lost_tail.py": "D2.8",
    "tests/integration/ingest/test_log_writer.py": "D2.1 D2.2 D2.3 D2.4 D2.5",
    "tests/integration/notify/test_alert_threads.py": "D1.12",
    "tests/integration/notify/test_channel_alertmanager.py": "D1.5 D1.11",
    "tests/integration/notify/test_channel_email.py": "D1.21",
    "tests/integration/notify/test_channel_failures.py": "D1.7 D1.16 D1.17 D1.18 D1.19",
    "tests/integration/notify/test_channel_services.py": "D1.20 D1.22 D1.23",
    "tests/integration/notify/test_digests.py": "D1.8 D1.10",
    "tests/integration/notify/test_dispatcher.py": "D1.3 D1.6",
    "tests/integration/notify/test_incident_ends.py": "D1.13 D1.14 D1.15",
    "tests/integration/notify/test_repeated_alerts.py": "D1.4",
    "tests/integration/scheduler/test_outages_recorded.py": "D2.6 D2.7",
    "tests/unit/ingest/test_protocol_native.py": "D3.4 D3.5 D3.6",
    "tests/unit/notify/test_channel_queue.py": "D1.1 D1.2",
    "tests/unit/notify/test_render.py": "D1.9",
}


def test_every_other_row_names_its_tests() -> None:
    named = [row for rows in ELSEWHERE.values() for row in rows.split()]
    assert sorted(named) == sorted(row for row in ROWS if row[0] != "S")
    assert [path for path in ELSEWHERE if not (golden.ROOT / path).is_file()] == []


@pytest.mark.parametrize("values", [Status, Verdict, StageStatus, CauseKind, AlertKind, Resolution, SIGNALS])
def test_the_glossary_has_every_value_that_users_see(values: Iterable[str]) -> None:
    text = (golden.ROOT / "docs" / "concepts" / "glossary.md").read_text()
    words = set(re.findall(r"[`*]([a-z_ ]+)[`*]", text))
    assert sorted(set(values) - words) == []


# Deliberate bugs of test_model.py that no example can show: they concern restarts and what is written together.
OF_RESTARTS = {
    "linked monitors are written apart",
    "a start forgets who pinged since the checkpoint",
    "an older run is not recalled",
    "a recalled run has no date",
}


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in OF_RESTARTS])
def test_an_example_fails_for_a_deliberate_bug(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, wrong = MUTANTS[name]
    monkeypatch.setattr(where, attribute, wrong)
    assert any(_fails(example) for example in EXAMPLES if len(example.steps) <= LARGE)


def _fails(example: Example) -> bool:
    try:
        return bool(golden.run_engine(example).differences(example))
    except LookupError:
        return True
