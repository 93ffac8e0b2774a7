"""Faults that people have found on the pages, in the real browser on the real server."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from offbeat_server.web.ui.routes import PAGES
from offbeat_server.web.ui.template_filters import preview
from tests.support.clients.browser import (
    ELSEWHERE,
    PHONE,
    Person,
    address,
    chromium,
    create_monitor,
    emptied,
    person,
    ping,
)
from tests.support.harness import ADMIN_KEY, Postgres, Server, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
PG_DUMP = 'pg_dump: error: connection to server at "db-1" (10.20.0.7), port 5432 failed: timeout expired!'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(postgres: Postgres) -> AsyncIterator[Server]:
    """The server of all tests."""
    async with postgres.fresh() as url, Server(url) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def server(shared: Server) -> Server:
    """The same, empty."""
    return await emptied(shared)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """The browser of all tests."""
    async with chromium() as running:
        yield running


async def down(server: Server, *slugs: str) -> None:
    """Wait until all of these have an incident."""

    async def are_down() -> bool:
        listed = (await server.api("GET", "/api/v1/monitors?status=down&limit=500")).body["items"]
        return set(slugs) <= {each["slug"] for each in listed}

    await eventually(are_down)


# ------------------------------------------------------------------------------- what is counted and what is shown


async def test_the_status_page_counts_all_and_shows_what_is_down_first(server: Server, browser: Browser) -> None:
    monitors = [{"slug": f"job-{number:03}", "every": "1h"} for number in range(510)]
    assert (await server.api("POST", "/api/v1/apply", {"monitors": monitors})).status == 200
    await server.api("PUT", "/api/v1/projects/default", {"name": "Shop", "status_page": True})
    key = (await server.api("GET", "/api/v1/monitors/job-509")).body["key"]
    await ping(server, f"/api/v1/heartbeat/{key}/fail")
    await down(server, "job-509")
    async with person(browser, server, key=None) as me:

        async def is_current() -> bool:  # what the page says may be a few seconds old
            await me.go("/status/default")
            return "1 service down" in await me.see(".headline")

        await eventually(is_current)
        assert (await me.see("ul.public li:first-child .name")) == "job-509"
        assert await me.see(".cut") == "The first 500 of 510 services."


async def test_every_cut_says_so(server: Server, browser: Browser) -> None:
    path = await create_monitor(server, "wide", max_runtime="1h")
    await ping(server, f"{path}/start", run="big", total="20000")
    await ping(server, f"{path}/fail", run="big", task="19999")
    for number in range(25):
        await ping(server, f"{path}/start", run=f"r{number}")
    flapping = await create_monitor(server, "flapping", every="1h", tags=list("abcdef"))
    for _ in range(7):
        await ping(server, f"{flapping}/fail")
        await down(server, "flapping")
        number = (await server.api("GET", "/api/v1/monitors/flapping/incidents")).body["items"][0]["id"]
        await server.api("POST", f"/api/v1/incidents/{number}/resolve")

        async def resolved(id: str = number) -> bool:
            return bool((await server.api("GET", f"/api/v1/incidents/{id}")).body["resolved_at"])

        await eventually(resolved)
        await ping(server, flapping)
    async with person(browser, server) as me:
        await me.go("/monitors/wide")
        assert await me.see("h2:has-text('open')") == "26 runs open"
        assert await me.see("section[aria-label='Open runs'] .cut") == "The first 20 of 26 open runs."
        await me.go(await address(server, "wide", "runs"))
        assert "The grid shows the first 10 000 of 20 000 tasks" in await me.see("section[aria-label=Tasks] .cut")
        assert "19999" in await me.see("p:has-text('Failed:')")
        await me.go("/monitors/flapping")
        assert await me.see("section[aria-labelledby=incidents] .cut") == "The latest 5 of 7 incidents."
        await me.go("/")
        assert await me.see("tr.line:has-text('flapping') .tag[title='e, f']") == "+2"


# ------------------------------------------------------------------------------- previews


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (PG_DUMP, PG_DUMP[:89].rstrip() + "…"),
        ("short", "short"),
        ("Traceback\n  File x\nValueError: the end\n\n", "ValueError: the end"),
        ("a\n" + "word " * 40, ("word " * 40)[:89].rstrip() + "…"),
        ("\n \n", ""),
    ],
)
async def test_a_preview_begins_with_the_beginning_of_the_last_line(message: str, expected: str) -> None:
    assert preview(message) == expected


async def test_messages_are_previewed(server: Server, browser: Browser) -> None:
    path = await create_monitor(server, "dump", every="1h")
    await ping(server, f"{path}/fail", message=PG_DUMP)
    async with person(browser, server) as me:
        for page in ("/monitors/dump", "/monitors/dump/pings"):
            await me.go(page)
            assert (await me.see("td.message summary")).startswith('pg_dump: error: connection to server at "db-1"')


# ------------------------------------------------------------------------------- the tab


async def test_the_title_follows_the_card(server: Server, browser: Browser) -> None:
    path = await create_monitor(server, "tab", max_runtime="1h", fail_after=1)
    async with person(browser, server) as me:
        page = me.page
        await me.go("/")
        await me.live()
        assert await page.title() == "Offbeat"
        await ping(server, f"{path}/fail", run="first")
        await expect(page).to_have_title("(1) Offbeat")
        await me.go(await address(server, "tab", "incidents"))
        assert await page.title() == "Incident 1 of tab · open · Offbeat"
        await me.live()
        await page.click("text=Acknowledge")
        await expect(page).to_have_title("Incident 1 of tab · acknowledged · Offbeat")
        await me.live()
        await ping(server, f"{path}/start", run="second")
        await ping(server, f"{path}/success", run="second")
        await expect(page).to_have_title("Incident 1 of tab · resolved · Offbeat")
        await ping(server, f"{path}/start", run="third")

        async def begun() -> bool:
            return "third" in str((await server.api("GET", "/api/v1/monitors/tab/runs")).body)

        await eventually(begun)
        await me.go(await address(server, "tab", "runs", 3))
        assert await page.title() == "third of tab · running · Offbeat"
        await me.live()
        await ping(server, f"{path}/success", run="third")
        await expect(page).to_have_title("third of tab · succeeded · Offbeat")
        await me.go("/monitors/tab")
        assert await page.title() == "tab · up · Offbeat"
        await me.live()
        await ping(server, f"{path}/fail")
        await expect(page).to_have_title("tab · down · Offbeat")
        await server.api("DELETE", "/api/v1/monitors/tab")
        await expect(page).to_have_title("Deleted · Offbeat")


# ------------------------------------------------------------------------------- sessions that end


async def test_live_pages_end_with_their_key_and_their_session(server: Server, browser: Browser) -> None:
    path = await create_monitor(server, "seen", every="1h")
    await ping(server, f"{path}/start", run="r")
    await ping(server, f"{path}/fail", run="r")
    await down(server, "seen")
    run, incident = await address(server, "seen", "runs"), await address(server, "seen", "incidents")
    for way, pages in {"revoked": ("/", "/monitors/seen", run, incident), "closed": ("/", incident)}.items():
        for shown_path in pages:
            made_key = (await server.api("POST", "/api/v1/keys", {"name": "wall", "role": "read"})).body
            async with person(browser, server, key=made_key["key"]) as me:
                me.expected.add(401)
                await me.go(shown_path)
                await me.live()
                if way == "revoked":
                    await server.api("DELETE", f"/api/v1/keys/{made_key['id']}")
                else:
                    other = await me.page.context.new_page()
                    await other.goto(server.url + "/audit")
                    await other.click("text=Sign out")
                    await other.wait_for_selector("#key")
                await me.page.wait_for_url("**/sign-in*")
                where = urlsplit(me.page.url).query
                assert shown_path == "/" or where == "back=" + shown_path.replace("/", "%2F")


async def test_a_page_that_comes_back_after_its_key_was_revoked(server: Server, browser: Browser) -> None:
    made_key = (await server.api("POST", "/api/v1/keys", {"name": "wall", "role": "read"})).body
    async with person(browser, server, key=made_key["key"]) as me:
        me.expected.add(401)
        await me.go("/")
        await me.live()
        await me.page.evaluate("dispatchEvent(new Event('pagehide'))")  # its stream is closed, as in the background
        await server.api("DELETE", f"/api/v1/keys/{made_key['id']}")
        await me.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
        await me.page.wait_for_url("**/sign-in*")


async def _signed_out_elsewhere(me: Person) -> None:
    other = await me.page.context.new_page()
    await other.goto(me.server.url + "/audit")
    await other.click("text=Sign out")
    await other.wait_for_selector("#key")
    await other.close()


async def test_what_was_typed_survives_the_end_of_the_session(server: Server, browser: Browser) -> None:
    await create_monitor(server, "typed", every="1h")
    async with person(browser, server) as me:
        page = me.page
        me.expected |= {401, 403}
        await me.go("/monitors/typed/settings")
        text = 'Runbook:\n  first <look>, then "think"\n'
        await page.fill("#f-description", text)
        await page.fill("#f-name", "Typed & kept")
        await _signed_out_elsewhere(me)
        await page.click("button.main:visible")
        assert "Your input is kept" in await me.see("main")
        assert "first <look>" in await me.see(".entered")
        await me.accessible()
        await me.fits()
        await page.fill("#key", "wrong")
        await page.click("button.main")
        await me.see("#key-wrong")
        await page.fill("#key", ADMIN_KEY)
        await page.click("button.main")
        await me.see("text=You are signed in again")
        await me.accessible()
        assert (await server.api("GET", "/api/v1/monitors/typed")).body["name"] == "typed", "not before they say so"
        await page.click("text=Send it again")
        assert await me.see("h1") == "Typed & kept"
        saved = (await server.api("GET", "/api/v1/monitors/typed")).body
        assert saved["description"].strip() == text.strip().replace("\n", "\r\n")


async def test_an_open_form_stays_when_the_session_ends(server: Server, browser: Browser) -> None:
    path = await create_monitor(server, "talk", every="1h")
    await ping(server, f"{path}/fail")
    await down(server, "talk")
    async with person(browser, server) as me:
        me.expected |= {401}
        await me.go(await address(server, "talk", "incidents"))
        await me.live()
        await me.page.fill("#comment", "half a sentence")
        await _signed_out_elsewhere(me)
        assert "signed out" in await me.see("#live.away a")
        assert await me.page.input_value("#comment") == "half a sentence"
        await me.page.click("button:has-text('Comment')")
        assert "half a sentence" in await me.see(".entered")
        await me.page.fill("#key", ADMIN_KEY)
        await me.page.click("button.main")
        await me.page.click("text=Send it again")
        await me.see("ol.events >> text=half a sentence")


async def test_what_a_refused_form_held_is_not_lost(server: Server, browser: Browser) -> None:
    path = await create_monitor(server, "long", every="1h")
    await ping(server, f"{path}/fail")
    await down(server, "long")
    async with person(browser, server) as me:
        me.expected |= {422}
        await me.go(await address(server, "long", "incidents"))
        await me.page.evaluate("document.getElementById('comment').removeAttribute('maxlength')")
        await me.page.fill("#comment", "word " * 1_000)
        await me.page.click("button:has-text('Comment')")
        assert (await me.see(".entered pre")).count("word") == 1_000
        await me.go("/keys")
        await me.page.fill("#name", "n" * 150)
        await me.page.evaluate("document.querySelector('#role option').value = 'king'")
        await me.page.click("button.main")
        await me.see("[role=alert]")
        assert await me.page.input_value("#name") == "n" * 150
        await me.go("/projects")
        await me.page.fill("#slug", "Not a slug")
        await me.page.fill("#name", "A name")
        await me.page.click("button.main")
        await me.see("[role=alert]")
        assert await me.page.input_value("#slug") == "Not a slug" and await me.page.input_value("#name") == "A name"


# ------------------------------------------------------------------------------- the overview


async def test_never_pinged_is_not_without_trouble(server: Server, browser: Browser) -> None:
    await create_monitor(server, "silent", every="1h")
    await ping(server, await create_monitor(server, "pinged", every="1h"))
    await server.api("PUT", "/api/v1/projects/default", {"name": "Shop", "status_page": True})
    async with person(browser, server) as me:
        for page, line in (("/", "tr.line"), ("/status/default", "ul.public li")):

            async def shown(page: str = page, line: str = line) -> int:  # a page for all may be a few seconds old
                await me.go(page)
                return await me.page.locator(f"{line}:has-text('silent')").count()

            await eventually(shown)
            strip = me.page.locator(f"{line}:has-text('silent') svg.strip")
            assert await strip.get_attribute("aria-label") == "no pings yet"
            assert await strip.locator("path.well").get_attribute("d") == ""
            pinged = me.page.locator(f"{line}:has-text('pinged') svg.strip")
            assert await pinged.get_attribute("aria-label") == "1 day without trouble"
        await me.go("/monitors/silent")
        assert "waiting for first ping" in await me.see("#now .facts")


async def test_a_search_is_about_what_is_down_too(server: Server, browser: Browser) -> None:
    paths = {
        slug: await create_monitor(server, slug, every="1h", tags=[slug[0]])
        for slug in ("alpha", "beta", "gamma", "bravo")
    }
    for slug in ("alpha", "beta"):
        await ping(server, f"{paths[slug]}/fail")
    await down(server, "alpha", "beta")
    async with person(browser, server) as me:
        page = me.page
        await me.go("/?q=zzz")
        assert await page.locator(".trouble").count() == 0
        assert "2 monitors down" in await me.see("#trouble .headline")
        assert "No monitor matches" in await me.see("#list")
        box = await page.locator("#list .empty").bounding_box()
        assert box is not None and box["y"] < 900
        await me.go("/")
        await me.live()
        assert await page.locator(".trouble").count() == 2
        await page.fill("#q", "b")
        await me.see(".headline >> text=1 of them matches the filter")
        await expect(page.locator(".trouble")).to_have_count(1)
        await me.live()
        await page.evaluate("window.untouched = true")
        for slug in ("gamma", "bravo"):
            await ping(server, f"{paths[slug]}/fail")
        await me.see(".headline >> text=4 monitors down")
        await expect(page.locator(".trouble")).to_have_count(2)
        assert "gamma" not in await me.see(".troubles")
        await expect(page).to_have_title("(4) Offbeat")
        await page.fill("#q", "")
        await expect(page.locator(".trouble")).to_have_count(4)
        await page.check("input[value=up]", force=True)
        await expect(page.locator(".trouble")).to_have_count(0)
        assert await page.evaluate("window.untouched")


# ------------------------------------------------------------------------------- forms


@pytest.mark.parametrize("scripts", [True, False])
async def test_a_monitor_of_many_stages_in_one_go(server: Server, browser: Browser, scripts: bool) -> None:
    async with person(browser, server, java_script_enabled=scripts) as me:
        page = me.page
        await me.go("/new-monitor")
        await page.fill("#f-name", "etl")
        await page.click("summary:has-text('Runs and tasks')")
        names = page.locator("input[name='stage.name']")
        for number in range(8):
            if await names.count() <= number:
                await page.click("text=Add stages")
            await names.nth(number).fill(f"stage-{number}")
        assert await page.input_value("#f-name") == "etl"
        await page.locator("input[name='stage.within']").nth(7).fill("10m")
        await page.locator("input[name='stage.within']").nth(7).press("Enter")
        assert await me.see("h1") == "etl"
        stages = (await server.api("GET", "/api/v1/monitors/etl")).body["stages"]
        assert [stage["name"] for stage in stages] == [f"stage-{number}" for number in range(8)]
        assert stages[7]["within"] == "10m"
        await me.go("/monitors/etl/settings")
        rows = await names.count()
        await page.click("text=Add stages")
        await names.nth(rows).wait_for()
        await names.last.fill("last")
        await page.click("button.main:visible")
        assert (await server.api("GET", "/api/v1/monitors/etl")).body["stages"][-1]["name"] == "last"


async def test_no_form_leaves_an_address_that_cannot_be_loaded(server: Server, browser: Browser) -> None:
    await server.api("PUT", "/api/v1/projects/other", {"name": "Other"})
    path = await create_monitor(server, "job?project=other", every="1h")
    await ping(server, f"{path}/fail", run="r")
    await down(server, "job")
    async with person(browser, server) as me:
        page = me.page
        await me.go("/channels/log")
        await page.click("text=Send a test message")
        assert "The test message was delivered" in await me.see("[role=status].good")
        alerts = (await server.api("GET", "/api/v1/alerts?limit=100")).body["items"]
        await page.reload()
        assert "The test message was delivered" in await me.see("[role=status].good")
        assert len((await server.api("GET", "/api/v1/alerts?limit=100")).body["items"]) == len(alerts)

        await me.go("/keys")
        await page.fill("#name", "once")
        await page.click("button.main")
        assert (await me.see("#made")).startswith("obr_")
        assert "obr_" not in page.url
        await page.reload()
        assert await page.locator("#made").count() == 0
        assert [each["name"] for each in (await server.api("GET", "/api/v1/keys")).body["items"]].count("once") == 1

        incident = await address(server, "job", "incidents", project="other")
        run = await address(server, "job", "runs", project="other")
        nearest_pages = {
            "/monitors/job/pause?project=other": "/monitors/job?project=other",
            "/monitors/job/snooze?project=other": "/monitors/job?project=other",
            "/monitors/job/ping?project=other": "/monitors/job?project=other",
            "/monitors/job/delete?project=other": "/monitors/job?project=other",
            "/channels/log/test": "/channels/log",
            "/channels/log/delete": "/channels/log",
            f"{incident}/acknowledge": incident,
            f"{incident}/resolve": incident,
            f"{incident}/comment": incident,
            "/alerts/1/resend": "/alerts",
            f"{run}/close": run,
            "/keys/1/revoke": "/keys",
            "/windows/x/delete": "/windows",
            "/projects/other/delete": "/projects",
            "/sign-out": "/",
        }
        posts, gets = ({page.path for page in PAGES if page.method == method} for method in ("POST", "GET"))
        assert len(nearest_pages) == len(posts - gets), "each is named"
        for path, shown in nearest_pages.items():
            await me.go(path)
            assert page.url == server.url + shown
            await me.see("nav")
    headers = {"Accept": "text/html"}
    async with server.session.put("/channels", headers=headers) as answer:
        assert answer.status == 405 and "does not take PUT" in await answer.text() and "GET" in answer.headers["Allow"]


# ------------------------------------------------------------------------------- copying


async def test_copying_works_over_plain_http_too(server: Server, browser: Browser) -> None:
    await create_monitor(server, "copied", every="1h")
    async with person(browser, server, key=None) as me:
        page = me.page
        base_url = f"http://{ELSEWHERE}:{urlsplit(server.url).port}"
        await page.goto(base_url + "/sign-in")
        await page.fill("#key", ADMIN_KEY)
        await page.click("button.main")
        await page.goto(base_url + "/monitors/copied")
        assert not await page.evaluate("isSecureContext")
        for name in ("url", "snippet-1"):
            await page.click(f"[data-copy={name}]")
            await me.see(f"[data-copy={name}]:has-text('Copied')")
            assert await page.locator("#says").inner_text() == "Copied"
            await page.evaluate(
                "document.body.prepend(Object.assign(document.createElement('textarea'), {id: 'pasted'}))"
            )
            await page.focus("#pasted")
            await page.keyboard.press("Control+V")
            pasted = await page.input_value("#pasted")
            assert pasted == await page.locator(f"#{name}").text_content()
            await page.evaluate("document.getElementById('pasted').remove()")


async def test_what_fingers_press_is_large_enough(server: Server, browser: Browser) -> None:
    path = await create_monitor(server, "touch", every="1h")
    await ping(server, f"{path}/fail")
    await down(server, "touch")
    async with person(browser, server, PHONE, has_touch=True, is_mobile=True) as me:
        for shown_path in ("/", "/monitors/touch", await address(server, "touch", "incidents")):
            await me.go(shown_path)
            button = await me.page.locator("text=Acknowledge >> visible=true").bounding_box()
            assert button is not None and button["height"] >= 40, shown_path
