"""The examples of docs/semantics.md against the engine and the reference model, and whether they can fail."""

import pytest

from tests.model import golden
from tests.model.golden import Example

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
