"""The same request again with the same `Idempotency-Key` is one ping, at both HTTP servers."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from offbeat_server.ingest import idempotency
from offbeat_server.ingest.idempotency import IdempotencyCache
from offbeat_server.ingest.protocols.base import OK, Outcome, Rejection, Request
from tests.support.harness import Server, eventually
from tests.support.servers.ingest_server import HTTP_SERVERS, KEY, PATH, Served, ask, get, serving


@pytest_asyncio.fixture(params=HTTP_SERVERS)
async def served(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Served]:
    async with serving(database_url, http_server=request.param) as served:
        yield served


async def test_what_is_sent_again_is_stored_once_and_answered_alike(served: Served) -> None:
    body = "disk full"
    requests = [
        get(f"{PATH}/start", "Idempotency-Key: a"),
        get(f"{PATH}?status=fail&run=r", "idempotency-key: a"),
        get(f"/ping/{KEY}/3", "Idempotency-Key: b", f"Content-Length: {len(body)}", method="POST") + body,
    ]
    for request in requests:
        answers = [await ask(served, request) for _ in range(3)]
        assert [(each.status, each.body) for each in answers] == [(200, b"OK")] * 3
    assert await served.rows("signal, run, exit_code") == [
        ("start", None, None),
        ("fail", "r", None),
        ("fail", None, 3),
    ]


async def test_many_at_once_are_one(served: Served) -> None:
    request = get(PATH, "Idempotency-Key: at once")
    answers = await asyncio.gather(*(ask(served, request) for _ in range(20)))
    assert {each.status for each in answers} == {200}
    assert len(await served.rows()) == 1


@pytest.mark.parametrize(
    "other",
    [
        get(PATH, "Idempotency-Key: b"),
        get(f"{PATH}/fail", "Idempotency-Key: a"),
        get(PATH),
        get(PATH, "Idempotency-Key: a", "Content-Length: 1", method="POST") + "x",
        get(PATH, "Idempotency-Key:"),
        get(PATH, "Idempotency-Key: " + "a" * 256),
    ],
)
async def test_another_ping_is_stored(served: Served, other: str) -> None:
    await ask(served, get(PATH, "Idempotency-Key: a"))
    for _ in range(2):
        assert (await ask(served, other)).status == 200
    alike = "Idempotency-Key: " in other and "a" * 256 not in other
    assert len(await served.rows()) == (2 if alike else 3)


async def test_what_was_refused_is_taken_when_it_comes_again(served: Served) -> None:
    request = get("/api/v1/heartbeat/not-yet", "Idempotency-Key: a")
    assert (await ask(served, request)).status == 404
    await served.put("later", "not-yet")
    assert (await ask(served, request)).status == 200
    assert len(await served.rows()) == 1


class _Client:
    def __init__(self) -> None:
        self.outcomes: list[Outcome | Rejection] = []

    def settle(self, outcome: Outcome | Rejection) -> None:
        self.outcomes.append(outcome)


def _request(key: str = "a") -> Request:
    return Request("GET", PATH, "", {"idempotency-key": key}, b"")


def test_after_a_503_it_is_taken_again() -> None:
    remembered, unavailable = IdempotencyCache(), Outcome("unavailable", 3)
    first, second, third = _Client(), _Client(), _Client()
    taken = remembered.join(_request(), first)
    assert taken is not None and remembered.join(_request(), second) is None
    taken.settle(unavailable)
    assert first.outcomes == second.outcomes == [unavailable]
    again = remembered.join(_request(), third)
    assert again is not None
    again.settle(OK)
    assert third.outcomes == [OK]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "REQUESTS_MAX", 10)
    remembered = IdempotencyCache()
    for number in range(11):
        taken = remembered.join(_request(str(number)), _Client())
        assert taken is not None
        taken.settle(OK)
    assert remembered.join(_request("10"), _Client()) is None
    assert remembered.join(_request("0"), _Client()) is not None, "the oldest is forgotten"


def test_it_is_remembered_for_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered, now_s = IdempotencyCache(), 1_000.0
    monkeypatch.setattr(idempotency, "monotonic", lambda: now_s)
    taken = remembered.join(_request(), _Client())
    assert taken is not None
    taken.settle(OK)
    now_s += 599
    assert remembered.join(_request(), _Client()) is None
    now_s += 2
    assert remembered.join(_request(), _Client()) is not None


@pytest.mark.parametrize(("run", "incidents"), [("?run=7", 0), ("", 1)])
async def test_over_another_process_only_a_run_id_makes_it_one(
    database: asyncpg.Connection, database_url: str, run: str, incidents: int
) -> None:
    """Each process remembers its own requests; what the other one stores is a repeat by its run id."""
    async with Server(database_url) as one, Server(database_url) as other:

        async def ping(server: Server, path: str, **headers: str) -> bool:
            async with server.session.get(f"/api/v1/heartbeat/{path}", headers=headers) as answer:
                return answer.status == 200

        async def create(slug: str, **more: object) -> str:
            answer = await one.api("PUT", f"/api/v1/monitors/{slug}", {"every": "1h", **more})
            await eventually(lambda: ping(other, answer.body["key"]))
            return str(answer.body["key"])

        job, marker = await create("job", fail_after=2), await create("marker")
        again = {"Idempotency-Key": "a"}
        for server in (one, other):
            assert await ping(server, f"{job}/fail{run}", **again)
        assert await ping(other, f"{marker}/fail")

        async def found(slug: str) -> int:
            sql = "select count(*) from incidents i join monitors m on m.id = i.monitor_id where m.slug = $1"
            return int(await database.fetchval(sql, slug))

        assert await eventually(lambda: found("marker")) == 1
        assert await found("job") == incidents
