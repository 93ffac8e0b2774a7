"""The published schema of alerts is that of the program, and describes every field.

`python -m tests.unit.notify.test_payload_schema` writes the file again.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs

from offbeat_server.engine.model.alert_payload import CONTENT, AlertPayload
from offbeat_server.notify.messages.payload_schema import webhook_schema
from offbeat_server.notify.messages.template import ROOTS

FILE = Path(__file__).parents[3] / "docs" / "reference" / "alert-payload.schema.json"


def written() -> str:
    """The file's text."""
    return json.dumps(webhook_schema(), indent=2, ensure_ascii=False) + "\n"


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of every definition."""
    for name, definition in schema["$defs"].items():
        for field, described in definition.get("properties", {}).items():
            yield f"{name}.{field}", described


def test_the_file_is_the_programs() -> None:
    assert FILE.read_text() == written(), "run: python -m tests.unit.notify.test_payload_schema"


def test_the_schema_is_a_schema() -> None:
    jsonschema_rs.meta.validate(webhook_schema())


def test_every_field_has_a_description_and_an_example_that_fits() -> None:
    schema = webhook_schema()
    for path, described in fields(schema):
        assert described["description"].endswith("."), path
        if path.endswith("Body.data"):
            continue
        only = {"$schema": schema["$schema"], "$defs": schema["$defs"], **described}
        [example] = described["examples"]
        errors = [each.message for each in jsonschema_rs.Draft202012Validator(only).iter_errors(example)]
        assert not errors, (path, errors)


def test_every_object_and_array_says_what_is_in_it() -> None:
    for name, definition in webhook_schema()["$defs"].items():
        assert (definition["type"] == "object" and definition["properties"]) or definition["enum"], name
    for path, described in fields(webhook_schema()):
        for each in (described, *described.get("anyOf", ())):
            assert each.get("type") != "object", path
            assert each.get("type") != "array" or each["items"], path


def test_every_field_belongs_to_a_kind_of_alert_and_can_be_in_a_template() -> None:
    used = {field for content in CONTENT.values() for field in (*content.always, *content.sometimes)}
    assert used == set(AlertPayload.__annotations__) and used <= ROOTS


if __name__ == "__main__":
    FILE.write_text(written())
