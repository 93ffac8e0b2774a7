"""Reads JSON in which no object says the same thing twice.

orjson, like most readers, keeps the last of two equal keys and drops the first without a word.
"""

import json
import re
from typing import Any

import orjson

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


class _Twice(Exception):
    """An object has two equal keys."""


def read_json(raw: bytes) -> Any:
    """The value. Raises ValueError that says what is wrong and in which line."""
    value = orjson.loads(raw)
    try:
        json.loads(raw, object_pairs_hook=_check_keys)
    except _Twice:
        key, first, second = _find_twice(raw.decode())
        raise ValueError(f"line {second}: the key {key!r} is given twice, first in line {first}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _Twice


def _find_twice(text: str) -> tuple[str, int, int]:
    """The first key that its object has already, and the lines of both."""
    objects: list[dict[str, int] | None] = []  # the keys of each open object with their lines; None: a list
    line, at, key_follows = 1, 0, False
    for token in _TOKEN.finditer(text):
        line, at = line + text.count("\n", at, token.start()), token.start()
        lexeme = token[0]
        if key_follows and lexeme[0] == '"' and objects and (keys := objects[-1]) is not None:
            key = json.loads(lexeme)
            if key in keys:
                return key, keys[key], line
            keys[key] = line
        if lexeme == "{":
            objects.append({})
        elif lexeme == "[":
            objects.append(None)
        elif lexeme in "}]":
            objects.pop()
        key_follows = lexeme in ("{", ",")
    raise AssertionError("only called for JSON in which a key is given twice")
