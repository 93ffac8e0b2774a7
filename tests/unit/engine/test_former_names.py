"""Former names of fields and values of a definition: they are read everywhere.

`strict`, for `count_outages`, is also the name in the database.
"""

from typing import Any

import pytest

from offbeat_server.common.errors import DefinitionError
from offbeat_server.engine.model.definition import Definition, load_definition, read_definition, with_present_names
from offbeat_server.services.documents import ListedMonitor, MonitorBody


@pytest.mark.parametrize("model", [Definition, MonitorBody, ListedMonitor])
@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        ({}, False),
        ({"count_outages": True}, True),
        ({"strict": True}, True),
        ({"strict": False}, False),
        ({"strict": True, "count_outages": True}, True),
        ({"strict": False, "count_outages": False}, False),
    ],
)
def test_both_names_are_read(model: type[Definition], sent: dict[str, Any], wanted: bool) -> None:
    slug = {"slug": "job"} if model is ListedMonitor else {}
    assert model.model_validate({"every": "1m", **slug, **sent}).count_outages is wanted


def test_the_definition_in_a_body_has_it_too() -> None:
    assert MonitorBody.model_validate({"strict": True}).definition() == read_definition({"count_outages": True})


@pytest.mark.parametrize(
    ("sent", "field", "reason"),
    [
        ({"strict": True, "count_outages": False}, "strict", "is the former name of count_outages"),
        ({"strict": False, "count_outages": True}, "strict", "leave one out"),
        ({"strict": "perhaps"}, "strict", "must be true or false"),
        ({"count_outages": "perhaps"}, "count_outages", "must be true or false"),
        ({"strictly": True}, "strictly", "there is no such field"),
    ],
)
def test_an_error_names_the_field_as_it_was_sent(sent: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        read_definition({"every": "1m", **sent})
    [problem] = caught.value.problems
    assert problem.field == field and reason in problem.reason


def test_the_stored_name_is_the_one_that_nodes_of_the_previous_version_read() -> None:
    definition = read_definition({"every": "1m", "count_outages": True})
    assert definition.dump() == {"every": "1m", "strict": True}
    assert load_definition('{"every": "1m", "strict": true}') == definition
    assert with_present_names(definition.dump()) == {"every": "1m", "count_outages": True}
    assert read_definition({"every": "1m"}).dump() == {"every": "1m"}


def test_the_schema_describes_the_former_name_as_deprecated() -> None:
    for mode in ("validation", "serialization"):
        described = Definition.model_json_schema(mode=mode)
        assert described["properties"]["strict"]["deprecated"] is True
        assert "default" not in described["properties"]["strict"], "generated clients would send it"
        assert ("strict" in described.get("required", ())) is (mode == "serialization")


def test_the_default_of_keywords_has_a_former_spelling_and_is_never_stored() -> None:
    for value in ("as_sent", "as sent"):
        definition = read_definition({"keywords": {"fail": ["boom"], "default": value}})
        assert definition.keywords is not None and definition.keywords.default == "as_sent"
        assert definition.dump() == {"keywords": {"fail": ["boom"]}}
    with pytest.raises(DefinitionError) as caught:
        read_definition({"keywords": {"default": "assent"}})
    assert caught.value.problems[0].reason == "must be 'as_sent', 'fail' or 'ignore'"
