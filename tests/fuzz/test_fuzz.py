"""Every target of tests/fuzz with its corpus, by hypothesis with what lies around it, and shortly by atheris."""

import random
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import HERE, command
from tests.fuzz.targets import TARGETS
from tests.support.harness import ROOT

ATHERIS_S = 2


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((HERE / "corpus" / name).iterdir())]


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_holds(name: str) -> None:
    for data in [b"", *corpus(name)]:
        TARGETS[name](data)


def near(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """A seed with pieces cut out, doubled, or put in: of another seed, of this one, or of nothing known."""
    piece = st.one_of(st.binary(max_size=4), st.sampled_from(seeds).flatmap(_piece))
    edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 8), piece), min_size=1, max_size=4)

    def edited(both: tuple[bytes, list[tuple[int, int, bytes]]]) -> bytes:
        data, changes = both
        for at, gone, put in changes:
            at %= len(data) + 1
            data = data[:at] + put + data[at + gone :]
        return data

    return st.one_of(st.binary(max_size=60), st.tuples(st.sampled_from(seeds), edits).map(edited))


def _piece(seed: bytes) -> st.SearchStrategy[bytes]:
    places = st.integers(0, len(seed))
    return st.tuples(places, places).map(lambda ends: seed[min(ends) : max(ends)])


@pytest.mark.parametrize("name", TARGETS)
def test_what_lies_around_it_holds(name: str) -> None:
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(near(corpus(name)))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="there is no atheris for this Python and machine")
def test_atheris_finds_nothing_in_a_moment(tmp_path: Path) -> None:
    """Three targets, others each time: all of them, and for longer, is `make fuzz`."""
    for name in random.sample(list(TARGETS), 3):
        done = subprocess.run(
            command(name, ATHERIS_S, tmp_path), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output = done.stdout.decode(errors="replace")
        executed = re.search(r"number_of_executed_units: +(\d+)", output)
        assert done.returncode == 0 and executed and int(executed[1]) > 100, output[-3_000:]
