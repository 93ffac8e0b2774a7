"""Where a page of a list begins: the sort key of the last row before it, opaque to clients.

Opaque so that nobody builds on its insides; not signed, since it holds nothing that its reader has not been shown, and
what it says is checked like any other input.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any, TypeVar

import orjson

from offbeat_server.common.errors import Problem
from offbeat_server.web.framework.problems import ApiError

Place = TypeVar("Place")
INT_MAX = 2**31 - 1
BIGINT_MAX = 2**63 - 1


def write_cursor(*place: int | str) -> str:
    """A cursor of these parts."""
    return urlsafe_b64encode(orjson.dumps(place)).rstrip(b"=").decode()


def read_cursor(cursor: str | None, first: Place, read: Callable[..., Place]) -> Place:
    """`read(*parts)`, or `first` without a cursor. `read` raises ValueError or TypeError for parts that cannot be."""
    if cursor is None:
        return first
    try:
        parts: Any = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return read(*parts)
    except (ValueError, TypeError, binascii.Error, OverflowError):
        raise ApiError(422, "The cursor is not one of ours.", [Problem("cursor", "not one of ours")]) from None


def whole(value: object, most: int = INT_MAX) -> int:
    """A whole number from 0 to `most`. Raises ValueError for anything else."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("not a number of ours")
    return value


def words(value: object) -> str:
    """A text without NUL. Raises ValueError for anything else."""
    if not isinstance(value, str) or "\x00" in value:
        raise ValueError("not a text of ours")
    return value
