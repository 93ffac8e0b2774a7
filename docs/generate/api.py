"""The page of the HTTP API, from its OpenAPI document."""

import re
from typing import Any

from docs.generate.markdown import Missing, Schema, answer_fields, described, fields, table, type_of
from offbeat_server.engine.model.definition import FORMER_COUNT_OUTAGES, Definition
from offbeat_server.notify.channels.registry import KINDS
from offbeat_server.notify.messages.payload_schema import webhook_schema
from offbeat_server.web.api.routes import ROUTES, document
from offbeat_server.web.framework.routing import ROOT

TITLES = {
    "monitors": "Monitors",
    "runs": "Runs",
    "incidents": "Incidents",
    "alerts": "Alerts",
    "changes": "Audit",
    "channels": "Channels",
    "windows": "Maintenance windows",
    "projects": "Projects",
    "keys": "Access keys",
    "apply": "Files",
    "export": "Files",
    "badges": "Badges",
    "schemas": "Descriptions of the API",
    "openapi.json": "Descriptions of the API",
}
RIGHTS = {
    "open": "none, and no key is needed",
    "ping": "`ping` or `admin`",
    "read": "`read` or `admin`",
    "write": "`admin`",
    "server": "`admin` with a key of all projects",
}


def page() -> str:
    """The page."""
    doc = document()
    sections: dict[str, list[str]] = {}
    rights = {(ROOT + route.path, route.method.lower()): route.needs for route in ROUTES}
    for path, operations in doc["paths"].items():
        for method, operation in operations.items():
            (tag,) = operation["tags"]
            if tag not in TITLES:
                raise Missing(f"{path}: {tag} has no title")
            text = _operation(method, path, operation, RIGHTS[rights[path, method]])
            sections.setdefault(TITLES[tag], []).append(text)
    errors = {
        status: answer["description"]
        for operations in doc["paths"].values()
        for operation in operations.values()
        for status, answer in operation["responses"].items()
        if status >= "400"
    }
    routes = "\n".join(f"## {title}\n\n{''.join(texts)}" for title, texts in sections.items())
    schemas = doc["components"]["schemas"]
    types = _types(schemas)
    return f"""# HTTP API

Programs manage Offbeat by `{ROOT}`. The server describes it in `{ROOT}/openapi.json` (OpenAPI 3.1). Pings have
[addresses of their own](pings.md). [Monitoring Offbeat](../operations/monitoring.md) has `/livez`, `/readyz` and
`/metrics`.

- **Authentication**: `Authorization: Bearer KEY` or `X-Api-Key: KEY`. A key has the role `admin`, `read` or `ping`, and
  may be bound to a project. Such a key gets 404 for everything of other projects. The admin key of the server has all
  rights.
- **Projects**: `project` names the project. If it is left out, the project of the key is used, else `default`. Lists show
  all projects that the key may see.
- **Lists** have the fields `items` and `next_cursor`. Send `next_cursor` as `cursor` to get the next page; `null` means
  that there is none.
- **Revisions**: an answer with one monitor, channel, window or project has an `ETag`. Send it as `If-Match` to change
  only that version; otherwise the answer is 412. `If-None-Match: *` only creates.
- **Errors** of the table below have the type `application/problem+json` and the fields of [ProblemAnswer](#problemanswer). `errors` names
  each wrong field and the reason.
- **Repeating**: with an `Idempotency-Key` a request that creates something can be repeated within a day.

## Errors

{table(("status", "meaning"), ((status, errors[status]) for status in sorted(errors)))}
{routes}
## Types

{types}"""


def _operation(method: str, path: str, operation: Schema, right: str) -> str:
    name = f"{method.upper()} {path}"
    parts = [f"### {name}\n", described(name, operation.get("summary"))]
    parts += [operation["description"]] if "description" in operation else []
    parts.append(f"Role: {right}.")
    parameters = [
        (
            f"`{each['name']}`",
            each["in"],
            type_of(each["schema"], _Links()) + (", required" if each["required"] and each["in"] != "path" else ""),
            described(f"{name}: {each['name']}", each.get("description") or each["schema"].get("description")),
        )
        for each in operation["parameters"]
    ]
    if parameters:
        parts.append(table(("parameter", "in", "type", "description"), parameters))
    if "requestBody" in operation:
        body = operation["requestBody"]
        schema = body["content"]["application/json"]["schema"]
        parts.append(f"Body{'' if body['required'] else ' (optional)'}: {_link(schema)}.")
    answers = [(status, *_answer(each)) for status, each in sorted(operation["responses"].items())]
    good = [row for row in answers if row[0] < "400"]
    bad = [row for row in answers if row[0] >= "400"]
    parts.append(table(("status", "answer", "description"), good))
    if bad:
        parts.append(f"[Errors](#errors): {', '.join(status for status, *_ in bad)}.")
    return "\n\n".join(part.strip() for part in parts) + "\n\n"


def _answer(response: Schema) -> tuple[str, str]:
    content = response.get("content", {})
    links = [_link(each["schema"]) if each["schema"] else f"`{kind}`" for kind, each in content.items()]
    return " or ".join(links) or "no content", response["description"]


def _link(schema: Schema) -> str:
    if "$ref" not in schema:
        return type_of(schema, _Links())
    name = schema["$ref"].rsplit("/", 1)[1]
    listed = re.fullmatch(r"Page_(\w+)_", name)
    if listed is not None:
        return f"a list of [{listed[1]}](#{listed[1].lower()})"
    page = "alert-payload.md" if name in _OF_ALERTS else ""
    return f"[{name}]({page}#{name.lower()})"


class _Links(dict[str, str]):
    """Links to types by their names."""

    def get(self, name: str, default: Any = None) -> Any:
        return _link({"$ref": f"/{name}"})


def _types(schemas: dict[str, Any]) -> str:
    """Every type that no other page has."""
    of_channels = {model.__name__ + end for model in KINDS.values() for end in ("", "Answer", "Listed", "ListedNamed")}
    names = [name for name in sorted(schemas) if name not in of_channels | _OF_ALERTS and not name.startswith("Page_")]
    return "\n".join(_type(name, schemas) for name in names)


def _type(name: str, schemas: dict[str, Any]) -> str:
    schema = schemas[name]
    text = schema.get("description", "")
    if "channel" in name.lower():
        # One of a type for each kind. The type of the kind `log` has only the fields that all have.
        end = name.removeprefix("Listed").removeprefix("Channel")
        of_log = schemas["Log" + (f"Listed{end}" if name.startswith("Listed") else end.replace("Body", ""))]
        common = {
            **of_log,
            "properties": {key: of_log["properties"][key] for key in of_log["properties"] if key != "kind"},
        }
        rows = (answer_fields if end == "Answer" else fields)(common, _Links())
        return f"### {name}\n\n`kind`, the [fields of the kind](channels.md), and:\n\n{rows}"
    if name == "ApplyBody":
        parts = {part: {**schema["properties"][part], "description": text} for part, text in _PARTS_OF_FILES.items()}
        schema = {**schema, "properties": schema["properties"] | parts}
    if "grace" in schema.get("properties", {}) and name != "Members":
        of_definition = {*Definition.model_fields, FORMER_COUNT_OUTAGES}
        own = {each: field for each, field in schema["properties"].items() if each not in of_definition}
        schema, text = {**schema, "properties": own}, f"{text} The other fields are the [monitor fields](monitor.md)."
    if "properties" not in schema:
        return f"### {name}\n\n{text}\n\nOne of {type_of(schema, _Links())}.\n"
    answer = name.endswith(("Answer", "Detail", "Output")) or name in _OF_ANSWERS
    rows = answer_fields(schema, _Links()) if answer else fields(schema, _Links())
    return f"### {name}\n\n{text}\n\n{rows}"


_OF_ALERTS = frozenset(webhook_schema()["$defs"])
# Types of answers whose names do not say so.
_OF_ANSWERS = ("Counts", "ErrorItem", "FieldChange", "ItemChange", "Lengths", "StageLengths", "NewSecret")
_PARTS_OF_FILES = {
    "projects": "Projects: a list, or an object by slug. A project that is left out stays as it is.",
    "channels": "Channels: a list, or an object by slug.",
    "windows": "Maintenance windows: a list, or an object by slug.",
    "monitors": "Monitors: a list, or an object by slug.",
}
