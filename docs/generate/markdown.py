"""Tables, and JSON schemas as text for people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]


class Missing(Exception):
    """Something that a page lists has no description."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. A column in which every cell is empty is left out."""
    cells = [[_cell(each) for each in row] for row in rows]
    used = [number for number in range(len(head)) if any(row[number] for row in cells)]
    lines = [
        [head[number] for number in used],
        ["---"] * len(used),
        *([row[number] for number in used] for row in cells),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def words(items: Iterable[str], last: str = "or") -> str:
    """`a`, `b` or `c`."""
    quoted = [code(each) for each in items]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"


def code(value: object) -> str:
    """A value as code; true and false in lower case, None as `null`."""
    return f"`{_json(value)}`"


def number(value: float) -> str:
    """A number with a space between thousands from 10 000 on."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:,}".replace(",", " ") if abs(value) >= 10_000 else f"{value:g}"


def described(name: str, text: str | None) -> str:
    """The description of a thing. Raises Missing if there is none."""
    if not text or not text.strip():
        raise Missing(f"{name} has no description")
    return text


def type_of(schema: Schema, named: Mapping[str, str] | None = None) -> str:
    """The type of a JSON schema with its limits. `named`: links to the types that it may refer to, by name."""
    links = {} if named is None else named
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return links.get(name, f"`{name}`")
    if str(schema.get("description", "")).startswith("A duration:") or _is_duration(schema):
        return "duration"
    for joined in ("anyOf", "oneOf"):
        if joined in schema:
            kinds = [type_of(each, links) for each in schema[joined]]
            return " or ".join(dict.fromkeys(kinds))
    if "allOf" in schema:
        return type_of(schema["allOf"][0], links)
    if "enum" in schema:
        return words(map(_json, schema["enum"]))
    if "const" in schema:
        return code(schema["const"])
    return _plain(schema, links)


def _json(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return (
        {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def _is_duration(schema: Schema) -> bool:
    return any(each.get("examples") == ["90s", "15m", "1h30m"] for each in schema.get("anyOf", ()))


def _plain(schema: Schema, links: Mapping[str, str]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return " or ".join(type_of({**schema, "type": each}, links) for each in kind)
    if kind == "array":
        items = schema.get("items") or {}
        text = f"list of {type_of(items, links)}" if items else "list"
        return text + _range(schema, "minItems", "maxItems", " items")
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"object of {type_of(values, links)}" if isinstance(values, Mapping) and values else "object"
    if kind == "string":
        text = {"date-time": "instant (RFC 3339)", "date": "date"}.get(schema.get("format", ""), "text")
        return text + _range(schema, "minLength", "maxLength", " characters")
    if kind in ("integer", "number"):
        text = "whole number" if kind == "integer" else "number"
        return text + _bounds(schema)
    return {"boolean": "`true` or `false`", "null": "`null`"}.get(str(kind), "any value")


def _range(schema: Schema, least: str, most: str, unit: str) -> str:
    low, high = schema.get(least), schema.get(most)
    if high is None:
        return ""
    return f", {low} to {number(high)}{unit}" if low else f", at most {number(high)}{unit}"


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    parts = [f"at least {number(low)}"] if low is not None and high is None else []
    parts += [f"{number(low)} to {number(high)}"] if low is not None and high is not None else []
    parts += [f"at most {number(high)}"] if low is None and high is not None else []
    parts += [f"more than {number(above)}"] if above is not None else []
    parts += [f"less than {number(below)}"] if below is not None and below < 2**53 else []
    return ", " + ", ".join(parts) if parts else ""


def fields(schema: Schema, links: Mapping[str, str], also: Mapping[str, str] | None = None) -> str:
    """The table of the fields of an object that is sent. `also`: the text of a further column by field.

    Raises Missing for a field without a description.
    """
    required = set(schema.get("required", ()))
    rows = []
    for name, field in schema["properties"].items():
        default = "required" if name in required else _default(field)
        text = _description(schema, name)
        rows.append((f"`{name}`", type_of(_without_null(field), links), default, *_also(also, name), text))
    return table(("field", "type", "default", *(["applies to"] if also is not None else []), "description"), rows)


def answer_fields(schema: Schema, links: Mapping[str, str]) -> str:
    """The table of the fields of an object that is received. Raises Missing for a field without a description."""
    required = set(schema.get("required", ()))
    rows = [
        (f"`{name}`", type_of(field, links), "always" if name in required else "", _description(schema, name))
        for name, field in schema["properties"].items()
    ]
    return table(("field", "type", "present", "description"), rows)


def _description(schema: Schema, name: str) -> str:
    field = schema["properties"][name]
    return described(f"{schema.get('title')}.{name}", field.get("description") or _description_in(field))


def _also(also: Mapping[str, str] | None, name: str) -> tuple[str, ...]:
    return () if also is None else (also.get(name, ""),)


def _description_in(field: Schema) -> str | None:
    texts = [each.get("description") for each in field.get("anyOf", ()) if not _is_duration(each)]
    return next((text for text in texts if text and not text.startswith("A duration:")), None)


def _without_null(field: Schema) -> Schema:
    parts = [each for each in field.get("anyOf", ()) if each != {"type": "null"}]
    if not parts or len(parts) == len(field.get("anyOf", ())):
        return field
    return parts[0] if len(parts) == 1 else {**field, "anyOf": parts}


def _default(field: Schema) -> str:
    default = field.get("default")
    return "" if default is None or default in ([], (), {}) else code(default)
