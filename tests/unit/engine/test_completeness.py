"""`complete` in definitions, and how the cause *incomplete* is stored beside nodes of the version before."""

from typing import Any

import orjson
import pytest

from offbeat_server.engine.model.definition import NEWER_FIELDS, load_definition, read_definition
from offbeat_server.engine.model.monitor import Incident
from offbeat_server.engine.rules.reasons import MISSING_CHARS_MAX
from tests.support.engine import Scene


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, None),
        ({"complete": "trust"}, None),
        ({"complete": "required"}, "required"),
        ({"tasks": {"within": "1h"}}, None),
        ({"tasks": {"expected": 3}}, "required"),
        ({"tasks": {"expected": ["a", "b"]}}, "required"),
        ({"stages": ["a"]}, "required"),
        ({"stages": ["a"], "complete": None}, "required"),
        ({"stages": ["a"], "complete": "trust"}, "trust"),
    ],
)
def test_the_default_depends_on_the_parts_that_are_defined(fields: dict[str, Any], wanted: str | None) -> None:
    definition = read_definition(fields)
    assert definition.complete == wanted
    assert load_definition(orjson.dumps(definition.dump()).decode()) == definition


def test_a_definition_of_the_version_before_trusts_a_success_until_it_is_written_again() -> None:
    stored = '{"stages": [{"name": "a"}]}'
    before = load_definition(stored)
    assert before.complete is None
    again = read_definition(orjson.loads(stored))
    assert again.complete == "required"
    assert {name for name in again.dump() if name not in before.dump()} == {"complete"} <= set(NEWER_FIELDS)


def test_the_program_before_reads_the_cause_as_that_of_a_failed_run() -> None:
    scene = Scene()
    m = scene.monitor(stages=["a", "b"])
    scene.ping(0, "start", run="r")
    scene.ping(1, "fail", run="r", stage="a")
    scene.ping(5, "success", run="r")
    assert m.incident is not None
    state = orjson.loads(orjson.dumps(m.incident.dump()))
    assert [cause["kind"] for cause in state["c"]] == ["stage", "failed"]
    assert [cause.kind for cause in Incident.load(state).causes.values()] == ["stage", "incomplete"]
    del state["i"]  # what the program before does not write
    assert [cause.kind for cause in Incident.load(state).causes.values()] == ["stage", "failed"]


def test_the_reason_is_bounded() -> None:
    scene = Scene()
    scene.monitor(stages=[{"name": f"{'x' * 90}{number}"} for number in range(100)])
    scene.ping(0, "start", run="r", stage="other")
    scene.ping(1, "success", run="r")
    reason = scene.runs()[1].reason or ""
    assert reason.startswith("success, but stages xxx") and len(reason) <= MISSING_CHARS_MAX + len(" (run r)")
