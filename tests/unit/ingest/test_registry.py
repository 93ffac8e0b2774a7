"""A new protocol is in every list that its readers depend on."""

import ast
import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module

from offbeat_server.ingest import protocols
from offbeat_server.ingest.protocols.parsing.outcome import FIELDS, OUTCOMES
from offbeat_server.ingest.protocols.registry import DIALECTS, find
from offbeat_server.observability.metrics import DETAILS
from tests.fuzz.targets import TARGETS
from tests.unit.ingest.test_protocols_fuzz import PREFIXES


def noted_in(source: str) -> Iterator[str]:
    """The fields of the notes that a module makes, as far as they are literals."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "PingNote":
            given = [*node.args[:1], *(each.value for each in node.keywords if each.arg == "field")]
            for part in (part for each in given for part in ast.walk(each)):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def test_every_part_of_a_ping_that_a_reader_notes_has_a_counter() -> None:
    """A note with another field would be a KeyError in `Metrics.noted`."""
    modules = [module.name for module in pkgutil.walk_packages(protocols.__path__, f"{protocols.__name__}.")]
    noted = {field for name in modules for field in noted_in(inspect.getsource(import_module(name)))}
    assert len(noted) > 5
    assert noted | (set(FIELDS.values()) - OUTCOMES) <= set(DETAILS)
    assert list(noted_in("PingNote(field or 'a', 'why')\nPingNote(field='b', reason='why')")) == ["a", "b"]


def test_random_requests_reach_every_protocol() -> None:
    rests = ("", "x", "x/external", "nightly/x", "c2354d53d2")
    dialects = [
        find(prefix + rest, query, "snitch") for prefix in PREFIXES for rest in rests for query in ("", "state=run")
    ]
    assert {each.name for each in dialects if each is not None} == {each.name for each in DIALECTS}
    for prefix in PREFIXES:
        assert any(find(prefix + rest, "", "snitch") for rest in rests), f"{prefix} is no address of a ping"


def test_every_protocol_is_fuzzed() -> None:
    assert {dialect.name for dialect in DIALECTS} <= TARGETS.keys()
