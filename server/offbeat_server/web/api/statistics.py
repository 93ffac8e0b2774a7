"""Statistics of many pings or runs: the members of a fleet that are alive, and typical durations."""

from collections.abc import Sequence
from typing import Any

from offbeat_server.common.instants import SECOND
from offbeat_server.db.read_models import history
from offbeat_server.engine.model.enums import StageStatus
from offbeat_server.web.api.schemas import requests, responses
from offbeat_server.web.api.schemas.answers import instant
from offbeat_server.web.framework.pagination import MEMBERS
from offbeat_server.web.framework.params import monitor_in
from offbeat_server.web.framework.routing import ApiReply, Call, Route

RUNS_MAX = 200  # older ones say little about how long it takes today


async def get_members(call: Call[None, requests.MembersQuery]) -> ApiReply:
    """The members of a fleet by name. `silent=true` selects missing members."""
    query = call.query
    monitor_id = await monitor_in(call, query.project)
    page = await MEMBERS.page(
        query.limit,
        MEMBERS.place(query.cursor),
        lambda after, limit: history.members(call.deps.pool, monitor_id, after, silent=query.silent, limit=limit),
    )
    items = [
        {
            "name": row["name"],
            "last_ping_at": instant(row["last_at"]),
            "silent_since": instant(row["silent_since"]),
        }
        for row in page.rows
    ]
    return ApiReply({"items": items, "next_cursor": page.next_cursor})


async def get_durations(call: Call[None, requests.InProject]) -> ApiReply:
    """How long the latest successful runs took (at most 200), and their stages."""
    monitor_id = await monitor_in(call, call.query.project)
    rows = await history.lengths(call.deps.pool, monitor_id, RUNS_MAX)
    stages: dict[str, list[float]] = {}
    for row in rows:
        for stage in row["stages"] or ():
            if stage.get("status") == StageStatus.DONE and stage.get("started_at") and stage.get("finished_at"):
                length = (stage["finished_at"] - stage["started_at"]) / SECOND
                stages.setdefault(stage["name"], []).append(length)
    return ApiReply(
        {
            "runs": _lengths([row["duration"] for row in rows]),
            "stages": [{"name": name, **_lengths(lengths)} for name, lengths in stages.items()],
        }
    )


def _lengths(newest_first: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(newest_first)
    return {
        "count": len(ordered),
        "median": _quantile(ordered, 0.5),
        "p95": _quantile(ordered, 0.95),
        "last": newest_first[0] if newest_first else None,
    }


def _quantile(ordered: Sequence[float], fraction: float) -> float | None:
    """Return the quantile of sorted values by nearest rank, such as 0.95; None if there are no values."""
    return ordered[round(fraction * (len(ordered) - 1))] if ordered else None


ROUTES = [
    Route(
        "GET",
        "/monitors/{slug}/members",
        get_members,
        responses.Page[responses.MemberAnswer],
        query=requests.MembersQuery,
    ),
    Route("GET", "/monitors/{slug}/durations", get_durations, responses.DurationsAnswer, query=requests.InProject),
]
