"""The examples of docs/semantics.md against the engine and the reference model, and whether they can fail."""

import pytest

from tests.model import golden
from tests.model.golden import Example
from tests.model.test_model import MUTANTS

TEXT = golden.DOCUMENT.read_text()
ROWS = golden.rows_of(TEXT)
EXAMPLES = golden.read_examples(TEXT)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_the_engine_gives_the_outcome_of_the_example(example: Example) -> None:
    assert golden.run_engine(example).differences(example) == []


@pytest.mark.parametrize("example", [each for each in EXAMPLES if not each.engine_only], ids=str)
def test_the_reference_model_gives_the_outcome_of_the_example(example: Example) -> None:
    assert golden.run_model(example).differences(example) == []


def test_every_row_has_an_example_and_every_example_has_a_row() -> None:
    assert len(set(ROWS)) == len(ROWS)
    shown = {row for example in EXAMPLES for row in example.rows}
    assert [row for row in ROWS if row not in shown] == []
    assert sorted(shown - set(ROWS)) == []


# Deliberate bugs of test_model.py that no example can show: they concern restarts and what is written together.
OF_RESTARTS = {"linked monitors are written apart", "a start forgets who pinged since the checkpoint"}


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in OF_RESTARTS])
def test_an_example_fails_for_a_deliberate_bug(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, wrong = MUTANTS[name]
    monkeypatch.setattr(where, attribute, wrong)
    assert any(_fails(example) for example in EXAMPLES)


def _fails(example: Example) -> bool:
    try:
        return bool(golden.run_engine(example).differences(example))
    except LookupError:
        return True
