"""The OpenAPI 3.1 document, generated from the route table and the types that validate requests.

Pydantic's JSON schemas are JSON Schema 2020-12, which is what OpenAPI 3.1 takes as it is.
"""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import SchemaError, SchemaSerializer, core_schema

from offbeat_server.engine.model.definition import SLUG_PATTERN
from offbeat_server.notify.channels.registry import KINDS
from offbeat_server.notify.messages.payload_schema import SENT, PayloadJsonSchema, body_name, webhook_definitions
from offbeat_server.services.documents import LISTED
from offbeat_server.web.api.schemas import responses as response_schemas
from offbeat_server.web.framework.problems import CONTENT_TYPE
from offbeat_server.web.framework.routing import ROOT, Route

_REF = "#/components/schemas/{model}"
_PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "slug": {"type": "string", "pattern": SLUG_PATTERN, "maxLength": 100, "description": "The slug."},
    "id": {"type": "string", "pattern": r"^\d{1,18}(-\d{1,9})?$", "description": "The id."},
    "badge_key": {"type": "string", "maxLength": 100, "description": "The badge key of the project."},
    "file": {
        "type": "string",
        "pattern": r"^[a-z0-9_.-]{1,100}\.(svg|json)$",
        "description": "Slug or tag, and format.",
    },
}
_REQUEST_HEADERS = {
    "If-Match": "Apply the request only if the current ETag is this one; `*` matches any.",
    "If-None-Match": "`*`: apply the request only if the resource does not exist yet.",
    "Idempotency-Key": "A request that is repeated with the same key within a day creates nothing more.",
}
_LIMITS = ("pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "propertyNames", "format")
_WEBHOOK_HEADERS = {
    "webhook-id": "The id of the message, the same over all attempts. A receiver drops a second copy by it.",
    "webhook-timestamp": "When this attempt began, in seconds since 1970.",
    "webhook-signature": "`v1,` and the signature as Standard Webhooks says, one for each secret, separated by spaces. "
    "Absent: the channel has no secret.",
}
_OUTCOMES = {
    200: "Done.",
    201: "Created.",
    202: "Accepted; processed within seconds.",
    204: "Done; no content.",
    400: "The request cannot be parsed.",
    401: "The access key is missing or invalid.",
    403: "The access key does not permit this.",
    404: "Not found.",
    408: "The body did not arrive in time.",
    409: "Conflicts with existing data.",
    412: "A precondition of the request is not met.",
    413: "The body is too large.",
    415: "The body is not sent as JSON.",
    422: "The named fields are invalid.",
    429: "Too many invalid keys from this address; retry after Retry-After seconds.",
    503: "Temporarily unavailable; retry after Retry-After seconds.",
}


class WireDefaults(PayloadJsonSchema):
    """Writes defaults as a client sends them: a grace of `1m`, not 60 000 000 microseconds.

    Clients that are generated from the document send every default. As a number, a duration is seconds.
    """

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """The schema of a field with a default."""
        described = super().default_schema(schema)
        if described.get("default") is not None:
            try:
                serializer = SchemaSerializer(schema["schema"])
            except SchemaError:  # refers to a model that is defined elsewhere
                return described
            described["default"] = serializer.to_python(self.get_default_value(schema), mode="json")
        return described


def document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The whole document."""
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(ROOT + route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Offbeat",
            "version": version,
            "description": "Manage monitors, channels and projects, and read what happened.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "webhooks": _webhooks(),
        "security": [{"bearer": []}, {"api_key": []}],
        "components": {
            "schemas": {**schemas.all, **webhook_definitions(_REF)},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


def _webhooks() -> dict[str, Any]:
    """The bodies that channels of the kind `webhook` send, one entry for each form."""
    return {
        name: {
            "post": {
                "operationId": f"webhook{name}",
                "summary": content.about,
                "description": "Sent by channels of the kind `webhook` that have no template of their own.",
                "security": [],
                "parameters": [
                    {
                        "name": header,
                        "in": "header",
                        "required": header != "webhook-signature",
                        "description": description,
                        "schema": {"type": "string"},
                    }
                    for header, description in _WEBHOOK_HEADERS.items()
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": _REF.format(model=body_name(name))}}},
                },
                "responses": {
                    "2XX": {"description": "Received."},
                    "410": {"description": "Never send this message again."},
                    "default": {"description": "Not received; Offbeat sends the message again."},
                },
            }
        }
        for name, content in SENT.items()
    }


class _Schemas:
    """Every type of the routes as a named schema."""

    def __init__(self, routes: Sequence[Route]) -> None:
        wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {
            (response_schemas.ProblemAnswer, "serialization"): None
        }
        for route in routes:
            if route.body is not None:
                wanted[route.body, "validation"] = None
            if route.answer is not None:
                wanted[route.answer, "serialization"] = None
        for each in (*LISTED, *KINDS.values()):
            wanted[each, "validation"] = None
        self._refs, found = models_json_schema(list(wanted), ref_template=_REF, schema_generator=WireDefaults)
        self.all: dict[str, Any] = {name: _finish(schema) for name, schema in found["$defs"].items()}
        self._spell_out_kinds()
        for model in LISTED:
            self._name_by_slug(model.__name__)

    def _spell_out_kinds(self) -> None:
        """A channel's body is that of its kind, with the kind's name and `default` beside; so is the answer."""
        default = self.all["ChannelBody"]["properties"]["default"]
        answer, listed = self.all["ChannelAnswer"], self.all["ListedChannel"]
        refs = {}
        for kind, model in KINDS.items():
            refs[kind] = self.ref(model, "validation")
            schema = self.all[refs[kind]["$ref"].rsplit("/", 1)[1]]
            own = _of_any_value(schema["properties"])
            self.all[f"{model.__name__}Answer"] = _with_kind(answer, kind, own)
            self.all[f"{model.__name__}Listed"] = _with_kind(listed, kind, own)
            name = {"const": kind, "type": "string", "description": "The kind of the channel."}
            schema["properties"] = {"kind": name, "default": default, **schema["properties"]}
            schema["required"] = ["kind", *schema.get("required", ())]
        mapping = {kind: ref["$ref"] for kind, ref in refs.items()}
        self.all["ChannelBody"] = {
            "oneOf": list(refs.values()),
            "discriminator": {"propertyName": "kind", "mapping": mapping},
        }
        for name_of_union, suffix in (("ChannelAnswer", "Answer"), ("ListedChannel", "Listed")):
            mapping = {kind: _REF.format(model=f"{model.__name__}{suffix}") for kind, model in KINDS.items()}
            self.all[name_of_union] = {
                "description": self.all[name_of_union]["description"],
                "oneOf": [{"$ref": ref} for ref in mapping.values()],
                "discriminator": {"propertyName": "kind", "mapping": mapping},
            }

    def _name_by_slug(self, name: str) -> None:
        """Add the schema of the item as the value of its slug, `…Named`."""
        schema = self.all[name]
        if "oneOf" in schema:
            parts = [each["$ref"].rsplit("/", 1)[1] for each in schema["oneOf"]]
            for part in parts:
                self._name_by_slug(part)
            one_of = [{"$ref": _REF.format(model=f"{part}Named")} for part in parts]
            self.all[f"{name}Named"] = {"description": schema["description"], "oneOf": one_of}
            return
        properties = {field: value for field, value in schema["properties"].items() if field != "slug"}
        required = [field for field in schema.get("required", ()) if field != "slug"]
        self.all[f"{name}Named"] = {**schema, "properties": properties, "required": required}

    def ref(self, model: type[BaseModel], mode: JsonSchemaMode) -> dict[str, Any]:
        """A reference to a type."""
        return self._refs[model, mode]


def _finish(schema: Any) -> Any:
    """Replace `x-items` by the two forms in which a configuration lists objects."""
    if isinstance(schema, list):
        return [_finish(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    rest = {name: value for name, value in schema.items() if name not in ("x-items", "x-list")}
    if "x-list" in schema:
        return {**rest, "type": "array", "items": {"$ref": _REF.format(model=schema["x-list"])}}
    if "x-items" in schema:
        items = {"type": "array", "items": {"$ref": _REF.format(model=schema["x-items"])}}
        named = {"$ref": _REF.format(model=schema["x-items"] + "Named")}
        by_slug = {"type": "object", "additionalProperties": {"anyOf": [named, {"type": "null"}]}}
        return {**rest, "anyOf": [items, by_slug, {"type": "null"}]}
    return {name: _finish(value) for name, value in schema.items()}


def _with_kind(channel: dict[str, Any], kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The schema of a channel of one kind, from the one of any channel and the fields of this kind."""
    kind_field = {**channel["properties"]["kind"], "const": kind, "type": "string"}
    properties = {**fields, **channel["properties"], "kind": kind_field}
    return {name: value for name, value in channel.items() if name != "additionalProperties"} | {
        "properties": properties
    }


def _of_any_value(schema: Any) -> Any:
    """Types without their limits: a masked secret has the type of the secret, and not its form."""
    if isinstance(schema, list):
        return [_of_any_value(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: _of_any_value(value) for name, value in schema.items() if name not in _LIMITS}


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    summary, _, description = (route.handler.__doc__ or "").strip().partition("\n")
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": summary,
        "tags": [route.path.split("/")[1]],
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": _responses(route, schemas),
    }
    if text := " ".join(description.split()):
        operation["description"] = text
    if route.body is not None:
        content = {"application/json": {"schema": schemas.ref(route.body, "validation")}}
        operation["requestBody"] = {"required": route.body_required, "content": content}
    if route.needs == "open":
        operation["security"] = []
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _PATH_PARAMETERS[name]}
        for name in re.findall(r"{(\w+)}", route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema(mode="validation", schema_generator=WireDefaults)
    parameters = []
    for name, field in _with_enums(schema["properties"], schema.get("$defs", {})).items():
        parameter = {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": field}
        if description := field.pop("description", None):
            parameter["description"] = description
        # An absent parameter is null in the model; an address has no null.
        field["anyOf"] = [each for each in field.get("anyOf", ()) if each != {"type": "null"}]
        if len(field["anyOf"]) < 2:
            (only,) = field.pop("anyOf") or [{}]
            field.update(only)
        if field.get("default") is None:
            field.pop("default", None)
        parameters.append(parameter)
    return parameters


def _with_enums(schema: Any, definitions: dict[str, Any]) -> Any:
    """Enums where they are referred to: a parameter has no definitions of its own."""
    if isinstance(schema, list):
        return [_with_enums(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _with_enums(value, definitions) for name, value in schema.items() if name != "$ref"}
    if "$ref" in schema:
        enum = definitions[schema["$ref"].rpartition("/")[2]]
        found = {"type": enum["type"], "enum": enum["enum"]} | found
    return found


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": _REQUEST_HEADERS[name],
            "schema": {"type": "string", "maxLength": 255},
        }
        for name in route.headers
    ]


def _responses(route: Route, schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in route.statuses:
        responses[str(status)] = {"description": _OUTCOMES[status]}
        if status != 204:
            schema = schemas.ref(route.answer, "serialization") if route.answer is not None else {}
            responses[str(status)]["content"] = {route.content_type.split(";")[0]: {"schema": schema}}
            if "{file}" in route.path:
                responses[str(status)]["content"]["image/svg+xml"] = {"schema": {"type": "string"}}
    problem = {CONTENT_TYPE: {"schema": schemas.ref(response_schemas.ProblemAnswer, "serialization")}}
    for status in _refusals(route):
        responses[str(status)] = {"description": _OUTCOMES[status], "content": problem}
    return responses


def _refusals(route: Route) -> list[int]:
    statuses = {422, 503}
    if route.needs != "open":
        statuses |= {401, 403, 429}
    if "{" in route.path or route.query is not None or route.body is not None:
        statuses.add(404)
    if route.body is not None:
        statuses |= {400, 408, 413, 415}
    if route.method != "GET":
        statuses.add(409)
    if route.headers:
        statuses |= {400, 412}
    return sorted(statuses)
