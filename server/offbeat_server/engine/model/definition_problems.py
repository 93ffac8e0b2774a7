"""Why a definition or another object that people sent is refused: one sentence for each field."""

import re
from difflib import get_close_matches
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from offbeat_server.common.errors import Problem

# The messages of the validation library for its own types, replaced by advice what to write.
_WORDS: Final = {
    "missing": "is missing",
    "string_type": "must be text: put it in quotes",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "tuple_type": "must be a list, such as [a, b]",
    "list_type": "must be a list, such as [a, b]",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "ip_v4_network": "must be a network, such as 10.0.0.0/8",
    "ip_v6_network": "must be a network, such as 10.0.0.0/8",
}
# For a pattern, by itself or by the field that has it.
SHAPES: Final = {
    r"^\S+$": "must have no spaces",
    "slug": "must be 1 to 100 of a-z, 0-9, dot, dash and underscore, and begin and end with a letter or digit",
    "key": "must be 1 to 150 characters without spaces, ?, # and control characters, with one / at most",
    "ping_key": "must be 16 to 100 letters, digits, _ and -",
}
# Other services' names of fields.
_ALSO: Final = {
    "period": "every",
    "interval": "every",
    "schedule": "cron",
    "crontab": "cron",
    "calendar": "oncalendar",
    "tz": "timezone",
    "timeout": "max_runtime",
    "max_duration": "max_runtime",
    "failure_issue_threshold": "fail_after",
    "tolerance": "grace",
    "margin": "grace",
}
_upper = re.compile(r"(?<=[a-z])([A-Z])")


def problems_of(error: ValidationError, prefix: str = "", model: type[BaseModel] | None = None) -> list[Problem]:
    """A validation error as one problem per field. `model`: what was to be made, to name a field that is misspelt."""
    return [
        Problem(".".join([*([prefix] if prefix else []), *(str(part) for part in item["loc"])]), reason_of(item, model))
        for item in error.errors()
    ]


def reason_of(item: Any, model: type[BaseModel] | None = None) -> str:
    """Return the problem of one field, from an item of `ValidationError.errors()`."""
    kind, path = item["type"], item["loc"]
    if kind == "extra_forbidden":
        near = _nearest(str(path[-1]), model) if model is not None and len(path) == 1 else None
        return "there is no such field" + (f": use {near}" if near else "")
    if kind == "string_pattern_mismatch":
        shape = SHAPES.get(item["ctx"]["pattern"]) or (SHAPES.get(str(path[-1])) if path else None)
        if shape is not None:
            return shape
    if kind in ("string_too_short", "too_short") and item["ctx"]["min_length"] == 1:
        return "must not be empty"
    if kind in _WORDS:
        return _WORDS[kind].format(**item.get("ctx", {}))
    text: str = item["msg"]
    return text.removeprefix("Value error, ")


def _nearest(name: str, model: type[BaseModel]) -> str | None:
    """The field of a model that a name probably means."""
    plain = _upper.sub(r"_\1", name).lower().replace("-", "_").strip()
    also = _ALSO.get(plain)
    if also in model.model_fields:
        return also
    near = get_close_matches(plain, model.model_fields, 1, 0.75)
    return near[0] if near else None
