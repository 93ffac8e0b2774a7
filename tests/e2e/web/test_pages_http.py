"""The protection of the pages: sessions, where a change comes from, headers; and the streams themselves."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest

from offbeat_server.web.ui.live.hub import STREAMS_MAX, STREAMS_PER_PROJECT_MAX, STREAMS_PER_SESSION_MAX
from tests.support.harness import ADMIN_KEY, HANG_S, Server, eventually
from tests.support.postgres.link import Link

SAME = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    """A server behind a trusted proxy."""
    async with Server(database_url, "--trusted-proxies", "127.0.0.0/8") as running:
        yield running


class Visitor:
    """A client that keeps cookies and follows nothing."""

    def __init__(self, server: Server) -> None:
        self.session = aiohttp.ClientSession(server.url, cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def get(self, path: str, **headers: str) -> tuple[int, str, Any]:
        """Status, body and headers."""
        async with self.session.get(path, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.text(), answer.headers

    async def post(self, path: str, headers: dict[str, str], **form: str) -> tuple[int, str, Any]:
        """The same, of a form."""
        async with self.session.post(path, data=form, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.text(), answer.headers

    async def sign_in(self, key: str = ADMIN_KEY, headers: dict[str, str] = SAME, **form: str) -> int:
        """The status of the attempt."""
        return (await self.post("/sign-in", headers, key=key, **form))[0]

    async def __aenter__(self) -> "Visitor":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()


def token_in(page: str) -> str:
    """The token of the first form."""
    match = re.search(r'name="token" value="([^"]+)"', page)
    assert match
    return match[1]


async def test_a_change_comes_from_our_own_pages(server: Server) -> None:
    project = {"slug": "other"}
    async with Visitor(server) as me:
        assert await me.sign_in() == 303
        _, page, _ = await me.get("/projects")
        own = server.url
        assert (await me.post("/projects", {"Sec-Fetch-Site": "same-origin"}, **project))[0] == 303
        # If the browser says so, it is believed beside any other header.
        assert (await me.post("/projects", {"Sec-Fetch-Site": "cross-site", "Origin": own}, **project))[0] == 403
        assert (await me.post("/projects", {"Sec-Fetch-Site": "same-site"}, token=token_in(page), **project))[0] == 403
        # Over http to another machine it says nothing; then Origin, and where that is kept back the token.
        assert (await me.post("/projects", {"Origin": own}, slug="second"))[0] == 303
        assert (await me.post("/projects", {"Origin": "http://evil.example"}, **project))[0] == 403
        assert (await me.post("/projects", {"Origin": "null"}, **project))[0] == 403
        assert (await me.post("/projects", {}, **project))[0] == 403
        assert (await me.post("/projects", {"Origin": "null"}, token=token_in(page), slug="third"))[0] == 303
        forged = token_in(page)[:-1] + ("0" if token_in(page)[-1] != "0" else "1")
        assert (await me.post("/projects", {"Origin": "null"}, token=forged, **project))[0] == 403
        async with Visitor(server) as another:
            await another.sign_in()
            status, _, _ = await another.post("/projects", {"Origin": "null"}, token=token_in(page), **project)
            assert status == 403, "a token is good for one session only"


@pytest.mark.quick
async def test_signing_in_and_out(server: Server, database: asyncpg.Connection, database_url: str) -> None:
    async with Visitor(server) as me:
        status, _, headers = await me.get("/audit?kind=key")
        assert (status, headers["Location"]) == (303, "/sign-in?back=%2Faudit%3Fkind%3Dkey")
        assert (await me.get("/", **{"X-Part": "list"}))[0] == 401
        assert await me.sign_in("wrong") == 403
        status, _, headers = await me.post("/sign-in", SAME, key=ADMIN_KEY, back="//evil.example/")
        assert (status, headers["Location"]) == (303, "/"), "no redirect to another site"
        cookie = headers["Set-Cookie"]
        assert cookie.startswith("offbeat=") and "HttpOnly" in cookie and "SameSite=Lax" in cookie
        assert "Secure" not in cookie and "Domain" not in cookie
        value = re.match(r"offbeat=([^;]+)", cookie)
        assert value and not await database.fetchval("select count(*) from sessions where id = $1", value[1].encode())
        assert (await me.get("/"))[0] == 200
        # Too long without a page; too old.
        for column, age in (("seen_at", "13 hours"), ("created_at", "8 days")):
            await database.execute(f"update sessions set {column} = now() - interval '{age}'")
            assert (await me.get("/"))[0] == 303
            await database.execute("update sessions set seen_at = now(), created_at = now()")
            assert (await me.get("/"))[0] == 200
        assert (await me.post("/sign-out", SAME))[0] == 303
        assert await database.fetchval("select count(*) from sessions") == 0
        assert (await me.get("/"))[0] == 303
    async with Visitor(server) as me:  # behind a proxy that speaks https
        _, _, headers = await me.post("/sign-in", {**SAME, "X-Forwarded-Proto": "https"}, key=ADMIN_KEY)
        assert headers["Set-Cookie"].startswith("__Host-offbeat=") and "Secure" in headers["Set-Cookie"]
        assert "Path=/" in headers["Set-Cookie"]
    async with Visitor(server) as me:
        await me.sign_in()
        await server.stop()
        cookies = {cookie.key: cookie.value for cookie in me.session.cookie_jar}
    async with Server(database_url, env={"OFFBEAT_ADMIN_KEY": "another-admin-key"}) as changed:
        answer = await changed.session.get("/", cookies=cookies, allow_redirects=False)
        assert answer.status == 303, "a session ends with the key that it stands on"


async def test_the_page_of_alerts_has_a_filter_by_state(server: Server) -> None:
    async with Visitor(server) as me:
        await me.sign_in()
        for name in ("collapsed", "cancelled"):  # the second is a further name of the first
            status, page, _ = await me.get(f"/alerts?state={name}")
            assert status == 200 and "<option selected>collapsed</option>" in page
        assert (await me.get("/alerts?state=superseded"))[0] == 404
        assert "<option selected>" not in (await me.get("/alerts"))[1]


@pytest.mark.quick
async def test_every_answer_is_guarded(server: Server) -> None:
    async with Visitor(server) as me:
        await me.sign_in()
        for path in ("/", "/monitors/none", "/sign-in", "/static/none/offbeat.js", "/preview?kind=every&text=5m"):
            _, body, headers = await me.get(path)
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy and "form-action 'self'" in policy
            assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cache-Control"] == "no-store"
            assert not re.search(r"<script(?![^>]*\bsrc=)|\bstyle=|\bon\w+=|https?://(?!127\.0\.0\.1)", body), path
        _, page, _ = await me.get("/")
        for address in set(re.findall(r'(?:href|src)="(/static/[^"]+)"', page)):
            status, _, headers = await me.get(address)
            assert status == 200 and "immutable" in headers["Cache-Control"], address


async def test_a_key_of_one_project_sees_nothing_else(server: Server) -> None:
    await server.api("PUT", "/api/v1/projects/mine", {"status_page": True})
    await server.api("PUT", "/api/v1/monitors/theirs", {"every": "1h", "description": "<script>alert(1)</script>"})
    mine = await server.api("PUT", "/api/v1/monitors/job?project=mine", {"every": "1h", "name": "A <b>job</b>"})
    key = (await server.api("POST", "/api/v1/keys", {"name": "m", "role": "admin", "project": "mine"})).body["key"]
    await server.session.get(mine.body["ping_url"] + "?run=x", data=None)
    await server.session.post(mine.body["ping_url"] + "/fail", data="<img src=x onerror=alert(1)>")
    async with Visitor(server) as me:
        await me.sign_in(key)
        status, page, _ = await me.get("/")
        assert status == 200 and "theirs" not in page and "A &lt;b&gt;job&lt;/b&gt;" in page
        assert (await me.get("/monitors/theirs"))[0] == 404
        assert (await me.get("/?project=default"))[0] == 404
        assert (await me.get("/live/monitor?id=1"))[0] == 404
        assert (await me.get("/system"))[0] == (await me.get("/live/system"))[0] == 403
        status, page, _ = await me.get("/monitors/job?project=mine")
        assert status == 200 and "<img src=x" not in page and "&lt;img src=x" in page
        assert (await me.post("/projects", SAME, slug="new"))[0] == 403
    async with Visitor(server) as stranger:
        status, page, _ = await stranger.get("/status/mine")
        assert status == 200 and "A &lt;b&gt;job&lt;/b&gt;" in page
        assert mine.body["key"] not in page and "img src" not in page and "/monitors/" not in page
        assert (await stranger.get("/status/default"))[0] == 404


async def test_a_follower_that_has_followed_is_late_nowhere(server: Server) -> None:
    await server.api("PUT", "/api/v1/projects/default", {"status_page": True})
    follows = {"after": {"monitor": "upstream", "within": "1s"}, "grace": "10m"}
    urls = {}
    for slug, definition in (("upstream", {"every": "1h"}), ("followed", follows), ("waiting", follows)):
        urls[slug] = (await server.api("PUT", f"/api/v1/monitors/{slug}", definition)).body["ping_url"]
    for slug in ("upstream", "followed", "waiting", "upstream", "followed"):
        await server.session.get(urls[slug])

    async def is_past() -> bool:  # what was due of one that has not followed
        return bool((await server.api("GET", "/api/v1/monitors/waiting")).body["status"] == "late")

    await eventually(is_past)
    shown = (await server.api("GET", "/api/v1/monitors/followed")).body
    assert (shown["status"], shown["due_at"], shown["deadline_at"]) == ("up", None, None)
    async with Visitor(server) as me:
        await me.sign_in()
        for path, line in (("/", "tr"), ("/status/default", "li")):

            async def states(path: str = path, line: str = line) -> bool:  # the status page may be some seconds old
                lines = re.findall(rf"<{line}\b.*?</{line}>", (await me.get(path))[1], re.DOTALL)
                states_by_name = {
                    name: "late" in each for each in lines for name in ("followed", "waiting") if name in each
                }
                return states_by_name == {"followed": False, "waiting": True}

            await eventually(states)


async def events(me: Visitor, path: str, count: int, first: asyncio.Event | None = None) -> list[tuple[str, Any]]:
    """The first events of a stream; `first` is set with the first of them."""
    received: list[tuple[str, Any]] = []
    async with asyncio.timeout(HANG_S), me.session.get(path) as answer:
        assert answer.status == 200 and answer.content_type == "text/event-stream"
        name = ""
        async for line in answer.content:
            text = line.decode().rstrip("\n")
            if text.startswith("event: "):
                name = text[7:]
            elif text.startswith("data: "):
                received.append((name, orjson.loads(text[6:])))
                if first is not None:
                    first.set()
                if len(received) == count:
                    return received
    raise AssertionError(f"only {received}")


async def test_a_stream_sends_what_the_page_does_not_show(server: Server, database: asyncpg.Connection) -> None:
    urls = {}
    for slug in ("alpha", "beta"):
        answer = await server.api("PUT", f"/api/v1/monitors/{slug}", {"every": "1h"})
        urls[slug] = answer.body["ping_url"]
    async with Visitor(server) as me:
        await me.sign_in()
        # The first evaluation of a monitor by the scheduler is a change as well.
        await eventually(lambda: database.fetchval("select count(*) = 2 from states"))
        _, page, _ = await me.get("/")
        lines = dict(re.findall(r'<tr id="m(\d+)" data-v="(\w+)"', page))
        assert len(lines) == 2
        shown = "_".join(f"{id}.{version}" for id, version in lines.items())
        # A change between the page and its stream is sent at once, and only that.
        await server.session.get(urls["beta"])
        received = await events(me, f"/live/overview?lines={shown}", 4)
        assert [name for name, _ in received] == ["hello", "patch", "patch", "patch"]
        changed = {patch[0] for _, patches in received[1:] for patch in patches}
        beta = re.search(r'id="(m\d+)"[^>]*data-name="beta"', page)
        assert beta and changed == {"trouble", "counts", beta[1]}
        assert (await me.get("/live/overview?lines=nonsense"))[0] == 422
        assert (await me.get("/live/overview?lines=" + "_".join(f"{n}.a" for n in range(1, 500))))[0] == 422
        assert (await me.get("/live/runs/1-1"))[0] == 404


async def test_one_reader_cannot_take_all_streams(server: Server) -> None:
    await server.api("PUT", "/api/v1/projects/mine", {})
    key = (await server.api("POST", "/api/v1/keys", {"name": "m", "role": "read", "project": "mine"})).body["key"]

    async with AsyncExitStack() as stack:

        async def opened(key: str, count: int) -> list[aiohttp.ClientResponse]:
            """Streams of one session that stay open."""
            me = await stack.enter_async_context(Visitor(server))
            await me.sign_in(key)
            return [await me.session.get("/live/overview") for _ in range(count)]

        first = await opened(key, STREAMS_PER_SESSION_MAX + 5)
        assert [each.status for each in first] == [200] * STREAMS_PER_SESSION_MAX + [503] * 5
        assert first[-1].headers["Retry-After"] == "10"
        others = [await opened(key, STREAMS_PER_SESSION_MAX) for _ in range(5)]
        taken = sum(each.status == 200 for each in [*first, *(each for batch in others for each in batch)])
        assert taken == STREAMS_PER_PROJECT_MAX < STREAMS_MAX
        assert [each.status for each in await opened(ADMIN_KEY, 1)] == [200], "the operator has room"
        first[0].close()  # one browser goes, and its place is free

        async def free() -> bool:
            return (await opened(key, 1))[0].status == 200

        await eventually(free)


async def test_streams_end_with_the_server(server: Server) -> None:
    async with Visitor(server) as me:
        await me.sign_in()
        began = asyncio.Event()
        streams = [asyncio.create_task(events(me, "/live/system", 10**6, began)) for _ in range(3)]
        await began.wait()
        code = await server.stop()
        assert code == 0
        ended = await asyncio.gather(*streams, return_exceptions=True)
        assert all(isinstance(each, AssertionError) for each in ended), ended


async def test_the_database_may_go_away(database_url: str) -> None:
    async with Link(database_url) as link, Server(link.url) as server, Visitor(server) as me:
        await me.sign_in()
        began = asyncio.Event()
        stream = asyncio.create_task(events(me, "/live/system", 10**6, began))
        await began.wait()
        link.cut(stay=True)

        async def away() -> bool:
            status, page, headers = await me.get("/")
            return status == 503 and "Retry-After" in headers and "Temporarily unavailable" in page

        await eventually(away)
        assert not stream.done(), "a stream waits for the database to come back"
        link.mend()

        async def back() -> bool:
            return (await me.get("/"))[0] == 200

        await eventually(back)
        stream.cancel()
