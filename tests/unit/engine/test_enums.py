"""Words that are stored: their values stay, and one that this version does not know is named."""

import orjson
import pytest

from offbeat_server.common.errors import UnknownValueError
from offbeat_server.engine.model import enums
from offbeat_server.engine.model.enums import AlertKind, AlertState, CauseKind, Status, Verdict, read_enum
from offbeat_server.engine.model.monitor import RANKS
from offbeat_server.engine.model.ping import Position
from tests.support.engine import Scene

STORED = {
    "Status": "down late unknown up new unwatched paused",
    "Verdict": "succeeded failed hung unverified superseded ignored unknown",
    "StageStatus": "waiting running done failed skipped unfinished not_started",
    "CauseKind": "missed failed hung stage tasks members too_early too_often overlap incomplete",
    "Resolution": "recovered changed paused by_hand deleted",
    "AlertKind": "opened worse reminder resolved operator test digest over",
    "AlertState": "pending delivered dead expired collapsed",
}


@pytest.mark.parametrize("name", STORED)
def test_stored_values_stay(name: str) -> None:
    kind = getattr(enums, name)
    spaced = ("not_started", "by_hand")
    assert list(kind) == [value.replace("_", " ") if value in spaced else value for value in STORED[name].split()]
    assert orjson.loads(orjson.dumps(list(kind))) == [str(each) for each in kind] == [f"{each}" for each in kind]


def test_a_cancelled_alert_has_two_names_and_one_is_stored() -> None:
    assert AlertState("cancelled") is AlertState("collapsed") is AlertState.COLLAPSED
    assert str(AlertState("cancelled")) == "collapsed"
    with pytest.raises(ValueError, match="superseded"):
        AlertState("superseded")


def test_a_former_word_for_a_verdict_is_read() -> None:
    assert Verdict("incomplete") is read_enum(Verdict, "incomplete") is Verdict.UNVERIFIED
    assert str(Verdict("incomplete")) == "unverified"


def test_every_cause_has_a_rank() -> None:
    assert set(RANKS) == set(CauseKind)


def test_an_unknown_value_is_named_with_the_known_ones() -> None:
    assert read_enum(AlertKind, "worse") is AlertKind.WORSE
    with pytest.raises(UnknownValueError, match=r"'escalated' is no AlertKind of this version \(opened, worse, "):
        read_enum(AlertKind, "escalated")


@pytest.mark.parametrize(
    ("status", "state", "problem_text"),
    [
        ("resting", {}, "'resting' is no Status"),
        (
            "down",
            {"incident": {"n": 1, "o": 1, "c": [{"kind": "bored", "opened_at": 1, "reason": "x"}]}},
            "'bored' is no CauseKind",
        ),
        (
            "up",
            {"runs": {"n": 1, "o": [{"n": 1, "s": 1, "l": 1, "g": [["a", "lost", 1, 0, 0]]}]}},
            "'lost' is no Stage",
        ),
        ("up", {"runs": {"n": 1, "c": [["r", 1, "won", 5, True]]}}, "'won' is no Verdict"),
    ],
)
def test_a_stored_state_with_an_unknown_value_is_refused_with_its_name(
    status: str, state: dict[str, object], problem_text: str
) -> None:
    m = Scene().monitor(every="1h")
    with pytest.raises(UnknownValueError, match=problem_text):
        m.load(status, 0, Position(1, 1, 1), {"heard_at": 1, "created": 1, **state})


def test_states_hold_members_after_loading() -> None:
    m = Scene().monitor(every="1h")
    m.load("up", 0, Position(1, 1, 1), {"heard_at": 1})
    assert m.status is Status.UP
