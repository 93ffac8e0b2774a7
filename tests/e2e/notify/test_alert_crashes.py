"""The real server killed at every step between a deadline that passes and an alert that is settled.

Each time one monitor with a channel of its own falls silent, and in the same instant eight more that share another
channel, so that a digest forms. The process ends at one place, as by `kill -9`; the next one finds what it left. All
places are tried side by side.
"""

import asyncio
import signal
from collections.abc import Iterator
from typing import NamedTuple

import asyncpg
import pytest

from offbeat_server.db.pool import connect
from tests.support.harness import Postgres, Receiver, Server, eventually
from tests.support.outbox import end_leases


class Expected(NamedTuple):
    """How many of the nine incidents Postgres has at the kill, and the most copies that arrive of either message."""

    incidents: int
    alone: int
    shared: int


# In their order.
PLACES = {
    "passed": Expected(0, 1, 1),  # the deadline; nothing is decided
    "decided": Expected(0, 1, 1),  # decided, in memory alone
    "taken": Expected(0, 1, 1),
    "begun": Expected(0, 1, 1),  # the transaction
    "state written": Expected(0, 1, 1),
    "incident written": Expected(0, 1, 1),
    "outbox written": Expected(0, 1, 1),
    "committed": Expected(9, 1, 1),  # and no process knows yet
    "known": Expected(9, 1, 1),
    "digest stored": Expected(9, 1, 1),  # the digest is stored, and not sent
    "claimed": Expected(9, 1, 2),  # the digest may be under way
    "sent": Expected(9, 2, 2),
    "settled": Expected(9, 1, 2),
    "digest sent": Expected(9, 2, 2),
    "digest settled": Expected(9, 2, 1),
    "nowhere": Expected(9, 1, 1),  # no crash: what the others are compared with
}
# A kill there leaves the same in Postgres as one at the place before or after it; `make long` runs them.
LONG = {"decided", "taken", "begun", "incident written", "known"}
SHARING = 8
SIDE_BY_SIDE = 6


class Outcome(NamedTuple):
    """The rows at the kill, and the messages that arrived in all."""

    incidents_at_kill: int
    alone: list[tuple[str, bytes]]  # (id, body) of each request to the channel of the one monitor
    shared: list[tuple[str, bytes]]
    states: dict[str, int]


async def _episode(url: str, place: str) -> Outcome:
    database = await connect(url)
    async with Receiver() as receiver:
        async with _server(url, place) as first:
            await _fall_silent(first, receiver.url)
            if place != "nowhere":
                assert await first.ended() == -signal.SIGKILL
                incidents = await database.fetchval("select count(*) from incidents")
            else:
                incidents = 9
                await eventually(lambda: _all_settled(database))
        await end_leases(database)
        async with _server(url, "nowhere"):
            await eventually(lambda: _all_settled(database))
        got = [(r.path, r.headers["webhook-id"], r.body) for r in receiver.requests]
    rows = await database.fetch("select state, count(*) as n from alerts where incident is not null group by state")
    await database.close()
    return Outcome(
        incidents,
        [(id, body) for path, id, body in got if path == "/alone"],
        [(id, body) for path, id, body in got if path == "/shared"],
        {row["state"]: row["n"] for row in rows},
    )


def _server(url: str, place: str) -> Server:
    return Server(
        url, "--allow-private-destinations", module="tests.support.servers.serve_process", env={"END_AT": place}
    )


async def _fall_silent(server: Server, receiver: str) -> None:
    """Nine monitors with one ping each."""
    hook = {"kind": "webhook", "default": False}  # the operator alerts about outages are not for them
    channels = {name: {**hook, "url": f"{receiver}/{name}"} for name in ("alone", "shared")}
    often = {"oncalendar": "*:*:0/3", "grace": "1s"}  # all have the same deadline, to the microsecond
    monitors = {"alone": {**often, "channels": ["alone"]}}
    monitors |= {f"shared-{n}": {**often, "channels": ["shared"]} for n in range(SHARING)}
    applied = await server.api("POST", "/api/v1/apply", {"channels": channels, "monitors": monitors})
    assert applied.status == 200, applied.body
    listed = await server.api("GET", "/api/v1/monitors")
    lines = "".join(f'{{"key":"{each["key"]}"}}\n' for each in listed.body["items"])

    async def taken() -> bool:
        async with server.session.post("/api/v1/heartbeats", data=lines) as answer:
            return answer.status == 200

    await eventually(taken)


async def _all_settled(database: asyncpg.Connection) -> bool:
    settled = await database.fetchval("select count(*) from alerts where state <> 'pending' and incident is not null")
    digests = await database.fetchval("select count(*) from digests where state = 'pending'")
    return bool(settled == SHARING + 1 and not digests)


@pytest.fixture(scope="module")
def outcomes(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[dict[str, Outcome | BaseException]]:
    """Of each place that is asked for."""
    own_items = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    selected = [place for place in PLACES if any(item.name.endswith(f"[{place}]") for item in own_items)]

    async def all_of_them() -> list[Outcome | BaseException]:
        turn = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(place: str) -> Outcome:
            async with turn, postgres.fresh() as url:
                return await _episode(url, place)

        return await asyncio.gather(*map(one, selected), return_exceptions=True)

    yield dict(zip(selected, asyncio.run(all_of_them()), strict=True))


@pytest.mark.parametrize("place", [pytest.param(p, marks=pytest.mark.long) if p in LONG else p for p in PLACES])
def test_each_incident_is_alerted_once_or_twice(outcomes: dict[str, Outcome | BaseException], place: str) -> None:
    outcome = outcomes[place]
    if isinstance(outcome, BaseException):
        raise outcome
    expected = PLACES[place]
    assert outcome.incidents_at_kill == expected.incidents, "it was killed somewhere else"
    for sent, most in ((outcome.alone, expected.alone), (outcome.shared, expected.shared)):
        assert 1 <= len(sent) <= most
        assert len(set(sent)) == 1, "the same id and the same bytes, however often"
    assert outcome.alone[0][0].startswith("alert_") and outcome.shared[0][0].startswith("digest_")
    assert outcome.states == {"delivered": SHARING + 1}
