"""The table of a connection's states: no state is a trap, other transitions are refused, and the diagram shows it."""

import ast
import inspect
import re

import pytest

from offbeat_server.ingest.http import connection_state
from offbeat_server.ingest.http.connection_state import TRANSITIONS, next_state
from offbeat_server.ingest.http.connection_state import ConnectionEvent as Event
from offbeat_server.ingest.http.connection_state import ConnectionState as State
from tests.support.harness import ROOT

ENDS = {State.HANDED_OVER, State.CLOSED}
ARROW = re.compile(r"^    (\w+|\[\*\]) --> (\w+|\[\*\])(?:: (.+))?$", re.MULTILINE)

Table = dict[State, dict[Event, State]]


def reached(table: Table, start: State) -> set[State]:
    """The states that can follow `start`, and itself."""
    seen, waiting = {start}, [start]
    while waiting:
        for state in table[waiting.pop()].values():
            if state not in seen:
                seen.add(state)
                waiting.append(state)
    return seen


def traps(table: Table) -> set[State]:
    """The states from which no end can be reached."""
    return {state for state in State if not reached(table, state) & ENDS}


def test_every_state_has_a_row_and_is_reached_and_every_event_happens() -> None:
    assert set(TRANSITIONS) == set(State)
    assert reached(TRANSITIONS, State.NEW) == set(State)
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)


def test_no_state_is_without_a_way_out() -> None:
    assert traps(TRANSITIONS) == set()
    assert {state for state, row in TRANSITIONS.items() if not row} == ENDS
    # The check itself finds a state that leads only to itself, and two that lead only to each other.
    alone: Table = {**TRANSITIONS, State.FINISHING: {Event.INPUT_ENDS: State.FINISHING}}
    assert traps(alone) == {State.FINISHING}
    pair: Table = {
        **alone,
        State.FINISHING: {Event.INPUT_ENDS: State.CLOSING},
        State.CLOSING: {Event.LOST: State.FINISHING},
    }
    assert traps(pair) >= {State.FINISHING, State.CLOSING}


def test_a_lost_connection_is_closed_from_every_state_before_the_hand_over() -> None:
    for state in set(State) - ENDS - {State.NEW}:
        assert TRANSITIONS[state][Event.LOST] is State.CLOSED, state


@pytest.mark.parametrize("state", State)
def test_what_the_table_does_not_have_is_refused(state: State) -> None:
    for event in Event:
        if event in TRANSITIONS[state]:
            assert next_state(state, event) is TRANSITIONS[state][event]
        else:
            with pytest.raises(AssertionError, match=f"{event.name} in state {state.name}"):
                next_state(state, event)


def test_every_state_and_event_has_a_description() -> None:
    tree = ast.parse(inspect.getsource(connection_state))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            members = node.body[1:]  # after the docstring
            for member, description in zip(members[::2], members[1::2], strict=True):
                assert isinstance(member, ast.Assign), ast.unparse(member)
                assert isinstance(description, ast.Expr) and isinstance(description.value, ast.Constant)
                assert str(description.value.value).endswith("."), ast.unparse(member)


def test_the_diagram_shows_the_table() -> None:
    text = (ROOT / "docs/development/architecture.md").read_text(encoding="utf-8")
    [diagram] = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", text, re.DOTALL)
    shown = set()
    for source, target, events in ARROW.findall(diagram):
        assert source != "[*]" or target == State.NEW.name
        assert target != "[*]" or source in {end.name for end in ENDS}
        if "[*]" not in (source, target):
            shown |= {(source, event, target) for event in events.split(", ")}
    assert len(ARROW.findall(diagram)) == len(diagram.strip().splitlines())
    assert shown == {
        (state.name, event.name, after.name) for state, row in TRANSITIONS.items() for event, after in row.items()
    }
