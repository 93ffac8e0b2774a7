"""Bodies in another shape: `{{title}}` in a text, filled from an alert and escaped for what the text is.

Not a language: a placeholder names a field, with dots to go down, and at most one filter. So a template cannot loop,
call or fail, and can be checked when it is defined.
"""

import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any
from urllib.parse import quote, quote_plus

import orjson

from offbeat_server.engine.model.alert_payload import AlertPayload

PLACES_MAX = 200  # each may stand for ten kilobytes
# Only one way to match: if white space could match in several ways, a body of white space would take cubic time.
_PLACE = re.compile(r"\{\{([^{}]*)\}\}")
_NAME = re.compile(r"([a-z_]+)((?:\.[a-z0-9_]+)*)(?:\s*\|\s*([a-z]+))?")
_FILTERS = ("json", "url", "raw")
# Fields that `flat` in channels/webhook.py adds to those of an alert.
_MADE = ("id", "type", "kind", "thread", "title", "lead", "text", "link", "color", "symbol")
ROOTS = frozenset(_MADE) | AlertPayload.__annotations__.keys()


Escape = Callable[[str], str]


def in_json(text: str) -> str:
    """Inside the quotes of a JSON string."""
    return orjson.dumps(text).decode()[1:-1]


def escape_for(content_type: str) -> Escape:
    """Return the escape that keeps a job's message plain text in a body of this type."""
    name = content_type.split(";")[0].strip().lower()
    if name.endswith("json"):
        return in_json
    if name.endswith(("xml", "html")):
        return escape
    return quote_plus if name == "application/x-www-form-urlencoded" else str


def check_template(text: str, escaped: Escape) -> str:
    """The template, or ValueError that names the placeholder and what is allowed."""
    places = [place.strip() for place in _PLACE.findall(text)]
    if len(places) > PLACES_MAX:
        raise ValueError(f"at most {PLACES_MAX} placeholders, not {len(places)}")
    for place in places:
        match = _NAME.fullmatch(place)
        if match is None:
            raise ValueError(f"{{{{{place}}}}}: write {{{{field}}}}, {{{{field.part}}}} or {{{{field|json}}}}")
        if match[1] not in ROOTS:
            raise ValueError(f"{{{{{place}}}}}: no such field; there are {', '.join(sorted(ROOTS))}")
        if match[3] is not None and match[3] not in _FILTERS:
            raise ValueError(f"{{{{{place}}}}}: no such filter; there are {', '.join(_FILTERS)}")
    if escaped is in_json:
        try:
            orjson.loads(fill(text, dict.fromkeys(ROOTS, "x"), escaped))
        except orjson.JSONDecodeError as error:
            raise ValueError(
                f"is not JSON once filled: {error}; {{{{field}}}} stands inside quotes, {{{{field|json}}}} without them"
            ) from None
    return text


def fill(text: str, values: Mapping[str, Any], escaped: Escape) -> str:
    """The template with its placeholders replaced. Unknown and absent values are empty, or `null` as `|json`.

    Without a filter a value is `escaped`; with `|raw` it is written as it is.
    """

    def replace(match: re.Match[str]) -> str:
        found = _NAME.fullmatch(match[1].strip())
        if found is None:
            return ""
        value: Any = values.get(found[1])
        for part in found[2].split(".")[1:]:
            value = _down(value, part)
        if found[3] == "json":
            return orjson.dumps(value).decode()
        plain = _plain(value)
        if found[3] == "url":
            return quote(plain, safe="")
        return escaped(plain) if found[3] is None else plain

    return _PLACE.sub(replace, text)


def _down(value: Any, part: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(part)
    if isinstance(value, list) and part.isdecimal() and len(part) < 10 and int(part) < len(value):
        return value[int(part)]
    return None


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return orjson.dumps(value).decode()
