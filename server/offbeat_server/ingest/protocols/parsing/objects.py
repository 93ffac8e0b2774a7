"""JSON as clients write it: also with NaN, with line ends in its strings, and with a name that stands twice."""

import json
import re
from collections import Counter
from typing import Any

import orjson

from offbeat_server.ingest.protocols.parsing.encodings import guessed

LENIENT_BYTES_MAX = 100_000  # the second reader is ten times slower
LENIENT_LINE_BYTES_MAX = 10_000
_TOO_DEEP = "nested too deeply"
_outcome_names = re.compile(
    rb'"(status|signal|state|outcome|result|success|ok|exit_?code|rc|return_?code)"\s{0,10}:', re.IGNORECASE
).findall


class NotJson(ValueError):
    """The text says why."""


def read_object(body: bytes) -> Any:
    """The value of a JSON text in UTF-8. Raises NotJson, also where an outcome stands twice and differs.

    Shells put output into JSON as it is, line ends and all, and Python writes NaN.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return _read_leniently(body, str(error))
    names = [name.lower() for name in _outcome_names(body)]
    if len(names) != len(set(names)) and isinstance(value, dict):
        return _read_leniently(body, "") if len(body) <= LENIENT_BYTES_MAX else value
    return value


def read_line(line: bytes) -> Any:
    """The same for one of many lines: what is plain costs little, and what is lenient is bounded. Raises NotJson."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if len(line) > LENIENT_LINE_BYTES_MAX or b'"key"' not in line:  # to read garbage twice would be dear
            raise NotJson(str(error)) from None
        return _read_leniently(line, str(error))
    # More colons than pairs: in a text, in an object within, or of a name that stands twice.
    return read_object(line) if isinstance(value, dict) and line.count(b":") > len(value) else value


def read_list(text: bytes) -> list[Any]:
    """The values of a JSON list; for an object in which a name stands twice and differs, a NotJson. Raises NotJson."""
    try:
        values: list[Any] = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NotJson(str(error)) from None
    pairs = sum(len(value) for value in values if isinstance(value, dict))
    if text.count(b":") <= pairs:
        return values
    names = Counter(name.decode().lower() for name in _outcome_names(text))
    seen = Counter(name.lower() for value in values if isinstance(value, dict) for name in value)
    if all(count <= seen[name] for name, count in names.items()):
        return values
    try:
        again: list[Any] = json.loads(text, object_pairs_hook=_without_duplicates_or_error)
    except (ValueError, RecursionError):
        return values
    return again


def _without_duplicates_or_error(pairs: list[tuple[str, Any]]) -> Any:
    try:
        return _without_duplicates(pairs)
    except NotJson as error:
        return error


def _read_leniently(body: bytes, why_not: str) -> Any:
    text = guessed(body)
    try:
        return orjson.loads(text) if why_not else json.loads(text, object_pairs_hook=_without_duplicates)
    except NotJson:
        raise
    except RecursionError:
        raise NotJson(_TOO_DEEP) from None
    except ValueError:
        if len(body) > LENIENT_BYTES_MAX:
            raise NotJson(why_not) from None
    try:
        return json.loads(text, strict=False, object_pairs_hook=_without_duplicates)
    except NotJson:
        raise
    except RecursionError:
        raise NotJson(_TOO_DEEP) from None
    except ValueError:
        raise NotJson(why_not) from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found and found[name] != value:
            raise NotJson(f"{name[:40]!r} stands twice, with different values")
        found[name] = value
    return found
