"""Keyset pagination: the sort key of each list, and the cursors that clients get.

A cursor is the sort key of the last row of a page, as base64 of a JSON array; instants are in microseconds. It is
opaque, so that clients do not depend on its format. It is not signed: it contains only values that the client has
already received, and `SortKey.place` checks it like any other input.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import orjson

from offbeat_server.common.errors import Problem
from offbeat_server.common.instants import to_datetime, to_micros
from offbeat_server.db.read_models.history import AT_MAX, ID_MAX, NUMBER_MAX, PingPlace
from offbeat_server.db.repositories.changes import REV_MAX
from offbeat_server.web.framework.problems import ApiError


class _Columns(Protocol):
    def __getitem__(self, column: str, /) -> Any: ...


Place = TypeVar("Place")
ListRow = TypeVar("ListRow")
ColumnsRow = TypeVar("ColumnsRow", bound=_Columns)
_MICROS_MAX = to_micros(AT_MAX)


class ListPage(NamedTuple, Generic[ListRow]):
    """A part of a list. `next_cursor` is where the next part begins; None: this is the last one."""

    rows: Sequence[ListRow]
    next_cursor: str | None


class SortKey(Generic[Place]):
    """The columns by which a list is sorted, and the place before its first row.

    `columns` maps each column to the check of its value in a cursor; a check raises ValueError. `make` builds a place
    from the checked values, in the form that the list's query takes.
    """

    def __init__(self, first: Place, make: Callable[..., Place], **columns: Callable[[Any], Any]) -> None:
        self.first = first
        self._make = make
        self._columns = columns

    def place(self, cursor: str | None) -> Place:
        """The place after which a page begins. Raises ApiError (422) for a cursor that is not of this list."""
        if cursor is None:
            return self.first
        try:
            values: Any = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            checked = [check(value) for check, value in zip(self._columns.values(), values, strict=True)]
        except (ValueError, TypeError, binascii.Error):
            raise ApiError(422, "The cursor is not valid.", [Problem("cursor", "take it from an answer")]) from None
        return self._make(*checked)

    def cursor(self, row: _Columns) -> str:
        """The cursor of the page that follows this row."""
        values = [row[column] for column in self._columns]
        key = [to_micros(value) if isinstance(value, datetime) else value for value in values]
        return urlsafe_b64encode(orjson.dumps(key)).rstrip(b"=").decode()

    async def page(
        self,
        limit: int,
        after: Place,
        fetch: Callable[[Place, int], Awaitable[Sequence[ColumnsRow]]],
    ) -> ListPage[ColumnsRow]:
        """At most `limit` rows that follow `after`. `fetch(after, count)` reads the first `count` of them."""
        rows = await fetch(after, limit + 1)  # one more, to know whether there is a next page
        return ListPage(rows[:limit], self.cursor(rows[limit - 1]) if len(rows) > limit else None)


# --------------------------------------------------------------------------------------------------- values of a cursor


def integer(value: object) -> int:
    """A value of a Postgres `integer` that is not negative."""
    return _integer(value, NUMBER_MAX)


def bigint(value: object) -> int:
    """A value of a Postgres `bigint` that is not negative."""
    return _integer(value, ID_MAX)


def instant(value: object) -> datetime:
    """An instant, from microseconds since 1970."""
    return to_datetime(_integer(value, _MICROS_MAX))


def text(value: object) -> str:
    """A text that Postgres can store: without NUL."""
    if not isinstance(value, str) or "\x00" in value:
        raise ValueError("not a text")
    return value


def _integer(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("not an integer in range")
    return value


def _columns(*values: Any) -> tuple[Any, ...]:
    return values


# ------------------------------------------------------------------------------------------------------------ the lists
# Newest first, except monitors, members and access keys.

PINGS = SortKey(PingPlace(), PingPlace, at=instant, writer=integer, seq=bigint)
RUNS = SortKey(NUMBER_MAX, int, number=integer)
INCIDENTS = SortKey((AT_MAX, NUMBER_MAX, NUMBER_MAX), _columns, opened_at=instant, monitor_id=integer, number=integer)
INCIDENTS_OF_MONITOR = SortKey(NUMBER_MAX, int, number=integer)
ALERTS = SortKey(ID_MAX, int, id=bigint)
CHANGES = SortKey(REV_MAX, int, rev=bigint)
MONITORS = SortKey((0, ""), _columns, project_id=integer, slug=text)
MEMBERS = SortKey("", str, name=text)
ACCESS_KEYS = SortKey(0, int, id=integer)
ALL = (PINGS, RUNS, INCIDENTS, INCIDENTS_OF_MONITOR, ALERTS, CHANGES, MONITORS, MEMBERS, ACCESS_KEYS)
