"""Pages of lists: cursors that clients stored stay valid, every row comes once, wrong cursors are refused."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from offbeat_server.common.instants import to_datetime
from offbeat_server.db.read_models.history import PingPlace
from offbeat_server.web.framework import pagination
from offbeat_server.web.framework.pagination import SortKey, integer
from offbeat_server.web.framework.problems import ApiError

AT = to_datetime(1_790_000_000_000_000)

# Each with the cursor that earlier versions wrote.
STORED: list[tuple[SortKey[Any], dict[str, Any], str, Any]] = [
    (
        pagination.PINGS,
        {"at": AT, "writer": 3, "seq": 2**53 + 1},
        "WzE3OTAwMDAwMDAwMDAwMDAsMyw5MDA3MTk5MjU0NzQwOTkzXQ",
        PingPlace(AT, 3, 2**53 + 1),
    ),
    (pagination.RUNS, {"number": 7}, "Wzdd", 7),
    (
        pagination.INCIDENTS,
        {"opened_at": AT, "monitor_id": 12, "number": 5},
        "WzE3OTAwMDAwMDAwMDAwMDAsMTIsNV0",
        (AT, 12, 5),
    ),
    (pagination.INCIDENTS_OF_MONITOR, {"number": 7}, "Wzdd", 7),
    (pagination.ALERTS, {"id": 7}, "Wzdd", 7),
    (pagination.CHANGES, {"rev": 7}, "Wzdd", 7),
    (pagination.MONITORS, {"project_id": 2, "slug": "nightly-é"}, "WzIsIm5pZ2h0bHktw6kiXQ", (2, "nightly-é")),
    (pagination.MEMBERS, {"name": "w-1"}, "WyJ3LTEiXQ", "w-1"),
    (pagination.ACCESS_KEYS, {"id": 7}, "Wzdd", 7),
]


@pytest.mark.parametrize(("sort_key", "row", "cursor", "place"), STORED)
def test_cursors_are_those_of_earlier_versions(
    sort_key: SortKey[Any], row: dict[str, Any], cursor: str, place: Any
) -> None:
    assert sort_key.cursor({**row, "other": 1}) == cursor
    assert sort_key.place(cursor) == place
    assert sort_key.place(None) == sort_key.first


def test_every_list_is_tested() -> None:
    assert tuple(each[0] for each in STORED) == pagination.ALL


async def test_pages_have_every_row_once() -> None:
    rows = [{"number": number} for number in range(1, 8)]
    numbers = SortKey(0, int, number=integer)

    async def fetch(after: int, count: int) -> Sequence[dict[str, int]]:
        return [row for row in rows if row["number"] > after][:count]

    for limit in range(1, 10):
        seen: list[dict[str, int]] = []
        cursor, pages = None, 0
        while True:
            page = await numbers.page(limit, numbers.place(cursor), fetch)
            assert len(page.rows) <= limit
            seen += page.rows
            pages += 1
            if (cursor := page.next_cursor) is None:
                break
        assert seen == rows and pages == -(-len(rows) // limit)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "nonsense",
        "é",
        "Ww",  # [
        "W10",  # []
        "WzEsMl0",  # [1,2]
        "NQ",  # 5
        "Wy0xXQ",  # [-1]
        "WzEuMF0",  # [1.0]
        "W3RydWVd",  # [true]
        "WyIxIl0",  # ["1"]
        "WzIxNDc0ODM2NDhd",  # [2147483648]
    ],
)
def test_wrong_cursors_are_refused(cursor: str) -> None:
    with pytest.raises(ApiError) as refused:
        pagination.RUNS.place(cursor)
    assert refused.value.status == 422


def test_cursors_of_other_lists_are_refused() -> None:
    beyond = SortKey((0, 0, 0), tuple, at=integer, writer=integer, seq=integer)
    late = beyond.cursor({"at": datetime(9999, 1, 2, tzinfo=UTC), "writer": 0, "seq": 0})
    nul = pagination.MEMBERS.cursor({"name": "a\x00b"})
    for sort_key, cursor in (
        (pagination.PINGS, late),
        (pagination.INCIDENTS, late),
        (pagination.MEMBERS, nul),
        (pagination.RUNS, late),
        (pagination.MONITORS, "Wzdd"),
    ):
        with pytest.raises(ApiError):
            sort_key.place(cursor)
