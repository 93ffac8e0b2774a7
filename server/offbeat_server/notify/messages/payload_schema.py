"""The JSON Schema of what a webhook sends, generated from the types of alerts.

`python -m tests.unit.notify.test_payload_schema` writes it to docs/reference/alert-payload.schema.json. The API serves
the same document, and the OpenAPI document has its parts as `webhooks`.
"""

from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from offbeat_server.engine.model.alert_payload import CONTENT, AlertPayload
from offbeat_server.engine.model.run_detail import Rfc3339
from offbeat_server.notify.channels.webhook import event_type

SCHEMA_ID = "urn:offbeat:schema:alert-payload:1"
_INSTANT = {"type": "string", "format": "date-time"}
SENT = {name: content for name, content in CONTENT.items() if name != "DigestRecovered"}  # not to webhooks
# What the webhook adds to the fields of an alert.
_RENDERED: dict[str, dict[str, Any]] = {
    "title": {
        "type": "string",
        "description": "The alert as one line, at most 200 characters.",
        "examples": ["DOWN: Nightly ETL"],
    },
    "text": {
        "type": "string",
        "description": "Everything except the title as plain text of several lines.",
        "examples": ["Stage load failed with exit code 3 (run 42)."],
    },
    "link": {
        "type": ["string", "null"],
        "description": "The page of the monitor. Null: the server has no `--public-url`.",
        "examples": ["https://beat.example.org/monitors/nightly-etl"],
    },
}


class PayloadJsonSchema(GenerateJsonSchema):
    """Generates definitions with the plain name of a type, and without titles that repeat the names of fields."""

    def normalize_name(self, name: str) -> str:
        """The name of a definition: without the type in which it writes instants."""
        return super().normalize_name(name.partition("[Annotated")[0])

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never: a title would only repeat the name."""
        return False


@cache
def webhook_schema() -> dict[str, Any]:
    """The whole document. Callers must not change it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Body of an Offbeat webhook",
        "description": "The body that a channel of the kind `webhook` without a template sends. Later versions may "
        "add fields; ignore those that you do not know. An alert that was decided before an upgrade may be without "
        "the newer fields.",
        "oneOf": [{"$ref": f"#/$defs/{body_name(name)}"} for name in SENT],
        "$defs": webhook_definitions("#/$defs/{model}"),
    }


def body_name(name: str) -> str:
    """The name of the body around this content."""
    return f"{name}Body"


def webhook_definitions(ref_template: str) -> dict[str, Any]:
    """The parts of the document by name: for each form of alert the body and its data, and what they refer to."""
    adapter = TypeAdapter(AlertPayload[Rfc3339])
    generated = adapter.json_schema(ref_template=ref_template, schema_generator=PayloadJsonSchema)
    fields, definitions = generated["properties"], generated["$defs"]
    schemas: dict[str, Any] = {}
    for name, content in SENT.items():
        kinds = {"enum": list(content.kinds)} if len(content.kinds) > 1 else {"const": content.kinds[0]}
        of_kind = {field: fields[field] for field in (*content.always, *content.sometimes)}
        description = fields["kind"]["description"]
        of_kind["kind"] = {"type": "string", "description": description, "examples": [content.kinds[0]], **kinds}
        types = [event_type(kind) for kind in content.kinds]
        schemas[body_name(name)] = {
            "title": body_name(name),
            "description": content.about,
            "type": "object",
            "properties": {
                "type": {
                    "type": "string",
                    "description": "The type of the event: its namespace and the kind of the alert.",
                    "examples": types[:1],
                    **({"enum": types} if len(types) > 1 else {"const": types[0]}),
                },
                "timestamp": {
                    **_INSTANT,
                    "description": "When Offbeat decided to send the alert; of others, when the row was made.",
                    "examples": ["2026-11-24T01:30:00.120000Z"],
                },
                "data": {"$ref": ref_template.format(model=name), "description": content.about},
            },
            "required": ["type", "timestamp", "data"],
        }
        schemas[name] = {
            "title": name,
            "description": content.about,
            "type": "object",
            "properties": of_kind | _RENDERED,
            "required": [*content.always, *_RENDERED],
        }
    return schemas | {name: definitions[name] for name in sorted(definitions)}
