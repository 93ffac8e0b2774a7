"""The page of the alert payload, from its JSON Schema."""

import json
from typing import Any

from docs.generate.markdown import Schema, answer_fields, described, table, type_of, words
from offbeat_server.notify.messages.payload_schema import SENT, body_name, webhook_schema
from offbeat_server.notify.messages.template import _FILTERS, _MADE

TITLES = {
    "IncidentAlert": "Alerts about an incident",
    "OperatorAlert": "Alerts about Offbeat itself",
    "TestMessage": "Test messages",
    "Digest": "Digests",
}
MADE = {
    "id": "The id of the message, the same over all attempts.",
    "type": "The type of the event, as in the payload.",
    "kind": "The kind of the alert.",
    "thread": "The same for all alerts of an incident.",
    "title": "The alert as one line.",
    "lead": "The first sentence of the text.",
    "text": "Everything except the title as plain text.",
    "link": "The page of the monitor.",
    "color": "A colour for the state, such as `#d32f2f`.",
    "symbol": "A coloured circle for the state: 🔴, 🟠, 🟢 or 🔵.",
}


def page() -> str:
    """The page."""
    schema = webhook_schema()
    parts = schema["$defs"]
    bodies = "\n".join(_body(name, parts) for name in SENT)
    others = [name for name in parts if name not in SENT and name not in map(body_name, SENT)]
    types = "\n".join(_type(name, parts[name]) for name in others)
    made = [(f"`{{{{{name}}}}}`", described(name, MADE.get(name))) for name in _MADE]
    return f"""# Alert payload

A [webhook channel](channels.md#webhook) without a template sends this JSON. The JSON Schema is the file
[alert-payload.schema.json](alert-payload.schema.json), and the server has it at `/api/v1/schemas/alert-payload`.

{schema["description"]}

## Request

| header | value |
| --- | --- |
| `Content-Type` | `application/json`, or `content_type` of the channel |
| `webhook-id` | the id of the message. It is the same over all attempts, so that a receiver can ignore duplicates |
| `webhook-timestamp` | seconds since 1970, of the attempt |
| `webhook-signature` | `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, if the channel has `secrets`; one for each secret, separated by spaces |

A signature is made and checked as [Standard Webhooks](https://www.standardwebhooks.com) describes. An answer 2xx means
delivered. Other answers are retried for 24 h, except the ones that say that a retry cannot help (such as 400 and 410).

The body has `type`, `timestamp` and `data`. `data.kind` is the kind of the alert:

{bodies}
## Types

{types}
## Templates

`body` of a webhook channel replaces the JSON. `{{{{field}}}}` is replaced by a field of `data`, `{{{{field.part}}}}` by a part
of it, and these by values that Offbeat makes:

{table(("placeholder", "value"), made)}
Values are escaped for the content type. Filters change this: {words((f"{{{{title|{each}}}}}" for each in _FILTERS), "and")}.
"""


def example(name: str) -> dict[str, Any]:
    """A body of this form, made of the examples of its fields."""
    parts = webhook_schema()["$defs"]
    body = parts[body_name(name)]["properties"]
    data = {field: each["examples"][0] for field, each in parts[name]["properties"].items()}
    return {"type": body["type"]["examples"][0], "timestamp": body["timestamp"]["examples"][0], "data": data}


def _body(name: str, parts: dict[str, Any]) -> str:
    kind = parts[body_name(name)]["properties"]["type"]
    types = words(kind["enum"] if "enum" in kind else [kind["const"]])
    return f"""## {TITLES[name]}

{parts[name]["description"]} `type` is {types}.

{answer_fields(parts[name], _Links())}
```json
{json.dumps(example(name), indent=2, ensure_ascii=False)}
```
"""


def _type(name: str, schema: Schema) -> str:
    text = f"### {name}\n\n{described(name, schema.get('description'))}\n\n"
    return text + (answer_fields(schema, _Links()) if "properties" in schema else f"One of {type_of(schema)}.\n")


class _Links(dict[str, str]):
    """Links to types by their names."""

    def get(self, name: str, default: Any = None) -> Any:
        return f"[{name}](#{name.lower()})"
