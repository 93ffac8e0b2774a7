"""A client that guesses keys is refused; no other client notices."""

import asyncio

import aiohttp
import pytest

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.web.framework import auth_throttle
from offbeat_server.web.framework.authorization import Access
from tests.support.harness import ADMIN_KEY, Server
from tests.support.servers.api_server import serving

SAME = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_throttle, "WRONG_PER_MINUTE_MAX", 5)


async def test_after_too_many_wrong_keys_even_the_right_one_is_refused(
    database_url: str, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(database_url) as api:
        for n in range(5):
            assert (await api("GET", "/monitors", key=f"guess-{n}")).status == 401
        for key in ("guess", ADMIN_KEY):
            answer = await api("GET", "/monitors", key=key)
            retry_after_s = int(answer.headers["Retry-After"])
            assert answer.status == 429 and 1 <= retry_after_s <= 60
            assert "application/problem+json" in answer.headers["Content-Type"]
        assert (await api("GET", "/openapi.json", key=None)).status == 200
        assert (await api("GET", "/monitors", key=None)).status == 401, "without a key nothing was tried"
        elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
        async with (
            aiohttp.ClientSession(api.session._base_url, connector=elsewhere) as other,
            other.get("/api/v1/monitors", headers={"X-Api-Key": ADMIN_KEY}) as from_elsewhere,
        ):
            assert from_elsewhere.status == 200
        with monkeypatch.context() as later:
            later.setattr(auth_throttle, "monotonic", lambda: monotonic() + retry_after_s)
            assert (await api("GET", "/monitors")).status == 200


async def test_many_guesses_at_once_are_no_way_around(database_url: str, few: None) -> None:
    async with serving(database_url) as api:
        answers = await asyncio.gather(*(api("GET", "/monitors", key=f"guess-{n}") for n in range(50)))
        assert sum(answer.status == 401 for answer in answers) == 5
        assert sum(answer.status == 429 for answer in answers) == 45


async def test_right_keys_count_for_nothing(database_url: str, few: None) -> None:
    async with serving(database_url) as api:
        key = (await api("POST", "/keys", {"name": "ci", "role": "read"})).body["key"]
        for n in range(20):
            assert (await api("GET", "/monitors", key=key if n % 2 else ADMIN_KEY)).status == 200
        assert not any(vars(api.deps.access._attempts)[name] for name in ("_wrong", "_looked_up", "_waiting"))


async def test_a_thousand_valid_keys_at_once_are_never_refused(database_url: str) -> None:
    async with serving(database_url) as api:
        key = (await api("POST", "/keys", {"name": "ci", "role": "read"})).body["key"]
        answers = await asyncio.gather(*(api("GET", "/projects", key=key) for _ in range(1_000)))
        assert {answer.status for answer in answers} == {200}
        assert not any(vars(api.deps.access._attempts)[name] for name in ("_wrong", "_looked_up", "_waiting"))


async def test_a_key_that_could_not_be_looked_up_is_not_wrong(
    database_url: str, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(database_url) as api:

        async def away(self: Access, key: str) -> None:
            raise DatabaseDownError("away")

        with monkeypatch.context() as patched:
            patched.setattr(Access, "_whose", away)
            for _ in range(10):
                assert (await api("GET", "/monitors")).status == 503
        assert (await api("GET", "/monitors")).status == 200


async def test_behind_a_trusted_proxy_each_client_is_counted_by_its_own_address(database_url: str, few: None) -> None:
    async with serving(database_url, trusted_proxies="127.0.0.0/8") as api:
        for n in range(8):
            answer = await api("GET", "/monitors", key="guess", headers={"X-Forwarded-For": "203.0.113.7"})
            assert answer.status == (401 if n < 5 else 429)
        for client in ("203.0.113.8", "2001:db8::1"):
            assert (await api("GET", "/monitors", headers={"X-Forwarded-For": client})).status == 200
        for n in range(1, 7):
            answer = await api("GET", "/monitors", key="guess", headers={"X-Forwarded-For": f"2001:db8:0:7::{n}"})
            assert answer.status == (401 if n < 6 else 429), "one network is one client"


async def test_addresses_are_bounded(database_url: str, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_throttle, "ADDRESSES_MAX", 10)
    async with serving(database_url, trusted_proxies="127.0.0.0/8") as api:
        for n in range(30):
            await api("GET", "/monitors", key="guess", headers={"X-Forwarded-For": f"203.0.113.{n}"})
        assert len(api.deps.access._attempts._wrong) <= 11
        assert (await api("GET", "/monitors", headers={"X-Forwarded-For": "203.0.113.3"})).status == 200


async def test_people_and_programs_are_counted_together(database_url: str) -> None:
    async with Server(database_url) as server:

        async def try_it(key: str) -> int:
            form = {"key": key}
            async with server.session.post("/sign-in", data=form, headers=SAME, allow_redirects=False) as answer:
                return answer.status

        assert (await try_it("guess"), await try_it(ADMIN_KEY)) == (403, 303)
        tries = [server.session.get("/api/v1/monitors", headers={"X-Api-Key": "guess"}) for _ in range(310)]
        statuses = [answer.status for answer in await asyncio.gather(*tries)]
        assert statuses.count(401) == 299 and statuses.count(429) == 11
        assert (await try_it("guess"), await try_it(ADMIN_KEY)) == (429, 429)
