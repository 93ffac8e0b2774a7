"""The web pages as people use them: the real server, the real browser, and no page is reloaded."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.support.clients.browser import (
    PHONE,
    SMALL_PHONE,
    WIDE,
    Person,
    address,
    chromium,
    create_monitor,
    emptied,
    person,
    ping,
)
from tests.support.harness import Postgres, Server, eventually

MONITORS = 10_000  # of a large installation
FEW = 200
PAGES = (
    *("/", "/incidents", "/channels", "/new-channel?kind=webhook", "/channels/log", "/projects", "/keys", "/audit"),
    *("/system", "/new-monitor", "/monitors/nightly", "/monitors/nightly/settings", "/monitors/nightly/runs"),
    *(
        "/windows",
        "/alerts",
        "/monitors/nightly/pings",
        "/monitors/workers",
        "/status/default",
    ),
)


# One loop for all, so that they can share the browser: it takes longer to start than most of them.
pytestmark = pytest.mark.asyncio(loop_scope="module")


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
    """The browser of all tests; each has windows of its own."""
    async with chromium() as running:
        yield running


async def test_a_monitor_from_its_form_to_its_incident(server: Server, browser: Browser) -> None:
    async with person(browser, server) as me:
        page = me.page
        # Made by the form, which says what a schedule means while one types it.
        await page.click("text=New monitor")
        await page.fill("#f-name", "Sync <b>of</b> orders")
        await page.check("#schedule-cron")
        await page.fill("#f-cron", "30 2 * * 1-5")
        await page.fill("#f-timezone", "Europe/Berlin")
        await me.see("#preview .said:has-text('At 02:30 on Monday through Friday')")
        assert await page.locator("#preview li").count() == 5
        await page.fill("#f-cron", "99 2 * * *")
        await me.see("#preview .said.wrong")
        me.expected.add(422)
        await page.click("text=Create")
        assert "not a cron expression" in await me.see("[role=alert]")
        await page.check("#schedule-every")
        await page.fill("#f-every", "2s")
        await page.fill("#f-grace", "1s")
        await page.click("text=Create")
        assert await me.see("h1") == "Sync <b>of</b> orders"

        # Pinged, it turns up; silent, it turns down; acknowledged, it says by whom. No page is reloaded.
        await me.live()
        url = await page.locator("#url").inner_text()
        await page.click("[data-copy=url]")
        assert await page.evaluate("navigator.clipboard.readText()") == url
        await me.see("#now .is-new")
        await page.evaluate("window.untouched = true")
        await ping(server, url.removeprefix(server.url))
        await me.see("#now .state.is-up")
        await me.see("table.pings tbody tr >> text=success")
        await me.see("#now .state.is-down")
        assert "is down" in await page.locator("#says").inner_text()  # a screen reader says it
        await page.click("#now >> text=Acknowledge")
        await me.see("#now >> text=acknowledged by admin")

        # On the overview it is the first thing one sees; a ping takes it away again.
        await page.click("nav >> text=Overview")
        await me.live()
        assert "1 monitor down" in await me.see("#trouble .headline")
        assert await page.title() == "(1) Offbeat"
        await page.evaluate("window.untouched = true")

        async def lives() -> None:  # from now on, however slow this machine is
            while True:
                await ping(server, url.removeprefix(server.url))
                await asyncio.sleep(1)  # sleep: the pace of the pings

        job = asyncio.create_task(lives())
        await me.see("#trouble >> text=No monitor is down")
        await me.see("tr.line.is-up")
        # One that is created now appears by itself, and is counted.
        new = int(await page.locator("[data-count=new]").inner_text() or 0)
        assert (await server.api("PUT", "/api/v1/monitors/made-meanwhile", {"every": "1h"})).status == 201
        await me.see("tr.line >> text=made-meanwhile")
        await me.see(f"[data-count=new]:text-is('{new + 1}')")
        assert await page.evaluate("window.untouched")

        # The incident's story is whole, and has what was said.
        await page.goto(server.url + "/incidents")
        await page.click("tbody th a:text('#1')")
        await me.see(".state >> text=resolved")
        await page.fill("#comment", "the <i>disk</i> was full")
        await page.click("button:has-text('Comment')")
        assert "the <i>disk</i> was full" in await me.see("ol.events >> text=disk")
        assert await me.see("ol.events >> text=Alert sent to channel log")
        job.cancel()


async def test_a_run_is_followed_live(server: Server, browser: Browser) -> None:
    path = await create_monitor(
        server,
        "etl",
        max_runtime="1h",
        stages=[{"name": "extract", "within": "10m"}, {"name": "transform"}, {"name": "load", "optional": True}],
        tasks={"expected": 12, "tolerate": 2},
        complete="trust",
    )
    await ping(server, f"{path}/start", run="r-1")
    async with person(browser, server) as me:
        await me.go("/monitors/etl")
        await me.page.click("text=r-1")
        await me.live()
        await me.page.evaluate("window.untouched = true")
        await me.see("li.stage:has-text('extract') >> text=waiting")
        await ping(server, f"{path}/start", run="r-1", stage="extract")
        await me.see("li.stage:has-text('extract') >> text=running")
        await ping(server, f"{path}/success", run="r-1", stage="extract")
        await me.see("li.stage:has-text('extract') >> text=done")
        for task in ("1", "2", "5"):
            await ping(server, f"{path}/success", run="r-1", task=task)
        await ping(server, f"{path}/fail", run="r-1", task="7")
        await me.see("text=3 of 12 done, 1 failed")
        assert "3–4, 6, 8–12" in await me.see(".missing-names")
        label = await me.page.locator("svg.grid").get_attribute("aria-label")
        assert label == "3 done, 1 failed, 8 missing"
        await ping(server, f"{path}/progress", run="r-1", done="10", total="100")
        await ping(server, f"{path}/progress", run="r-1", done="30", total="100")
        await me.see("text=30 of 100")
        await me.see("section[aria-labelledby=progress] .hint:has-text('/s')")
        await ping(server, f"{path}/success", run="r-1")
        await me.see(".state.is-up >> text=succeeded")
        assert await me.page.evaluate("window.untouched")


async def test_who_may_look_may_not_change(server: Server, browser: Browser) -> None:
    path = await create_monitor(server, "nightly", every="1h")
    key = (await server.api("POST", "/api/v1/keys", {"name": "wall", "role": "read"})).body["key"]
    ping_key = (await server.api("POST", "/api/v1/keys", {"name": "job", "role": "ping"})).body["key"]
    async with person(browser, server, key=None) as me:
        me.expected |= {403}
        await me.go("/monitors/nightly")
        await me.page.wait_for_url("**/sign-in?back=*")
        for wrong in ("nonsense", ping_key):
            await me.page.fill("#key", wrong)
            await me.page.click("button.main")
            await me.see("#key-wrong")
        await me.page.fill("#key", key)
        await me.page.click("button.main")
        assert await me.see("h1") == "nightly"  # where one wanted to go
        content = await me.page.content()
        assert path.rsplit("/", 1)[1] not in content  # a reader with the key could ping
        assert not await me.page.locator("text=Settings").count()
        await me.go("/monitors/nightly/settings")
        assert "has read access only" in await me.see("main")
        await me.go("/")
        # Revoked, the key's sessions are over at once; the page that is open may only now ask for its stream.
        me.expected.add(401)
        keys = (await server.api("GET", "/api/v1/keys")).body["items"]
        await server.api("DELETE", f"/api/v1/keys/{next(k['id'] for k in keys if k['name'] == 'wall')}")
        await me.page.wait_for_url("**/sign-in")


async def _large_installation(server: Server) -> tuple[str, ...]:
    """Something of everything, in trouble and not; the addresses of all pages."""
    path = await create_monitor(
        server,
        "nightly",
        cron="30 2 * * *",
        timezone="Europe/Berlin",
        tags=["night"],
        description="Makes the books.",
        stages=[{"name": "extract", "within": "10m"}, {"name": "load", "tasks": {"expected": 30}}],
        tasks={"expected": 40, "tolerate": 1},
    )
    await ping(server, f"{path}/start", run="2026-11-24")
    await ping(server, f"{path}/start", run="2026-11-24", stage="extract")
    await ping(server, f"{path}/fail", run="2026-11-24", stage="extract", message="line one\n" + "no space left " * 20)
    await ping(server, f"{path}/success", run="2026-11-24", task="3")
    await ping(server, f"{path}/progress", run="2026-11-24", done="3", total="40")
    workers = await create_monitor(server, "workers", members={"every": "1s", "grace": "1s"})
    for number in range(80):  # more than fit: a list that scrolls must be reachable by keyboard
        await ping(server, workers, task=f"w-{number}")
    for slug in ("alpha", "beta"):
        await ping(server, await create_monitor(server, slug, every="1h", tags=["night", "day"]))
    await server.api("POST", "/api/v1/monitors/beta/pause")
    await server.api("PUT", "/api/v1/projects/default", {"name": "Default", "status_page": True})

    async def trouble() -> bool:
        open_incidents = await server.api("GET", "/api/v1/incidents?open=true")
        return len(open_incidents.body["items"]) == 2

    await eventually(trouble)
    return *PAGES, await address(server, "nightly", "runs"), await address(server, "nightly", "incidents")


async def _with_everything_open(me: Person) -> None:
    """Every part of a page that can be opened."""
    await me.page.evaluate("document.querySelectorAll('details:not(.menu)').forEach((each) => (each.open = true))")


@pytest.mark.slow
async def test_every_page_is_accessible_and_fits_a_telephone(server: Server, browser: Browser) -> None:
    pages = await _large_installation(server)
    async with person(browser, server, PHONE, color_scheme="light") as me:
        for path in pages:
            await me.go(path)
            await me.see("main")
            await _with_everything_open(me)
            for width, height in (SMALL_PHONE, PHONE, WIDE):
                await me.page.set_viewport_size({"width": width, "height": height})
                await me.fits()
                if (width, height) != SMALL_PHONE:
                    await me.accessible()
                for menu in await me.page.locator("details.menu > summary").all():
                    await menu.click()
                    await me.fits()
                    card = await me.page.locator("details.menu[open] > .card").bounding_box()
                    assert card is not None and card["x"] >= 0 and card["x"] + card["width"] <= width, path
                    await me.accessible(within="details.menu[open]")
                    await me.page.keyboard.press("Escape")
        await _by_keyboard(me)
    # In the dark only the colours differ.
    async with person(browser, server, WIDE, color_scheme="dark") as me:
        for path in pages:
            await me.go(path)
            await me.see("main")
            await _with_everything_open(me)
            await me.accessible("color-contrast")
            for menu in await me.page.locator("details.menu > summary").all():
                await menu.click()
                await me.accessible("color-contrast", within="details.menu[open]")
                await me.page.keyboard.press("Escape")


async def _by_keyboard(me: Person) -> None:
    """Search, filter, and open a monitor without a mouse."""
    await me.go("/")
    await me.page.keyboard.press("/")
    await me.page.keyboard.type("alp")
    await me.page.wait_for_url("**/?q=alp")
    assert await me.page.locator("tr.line").count() == 1
    await me.page.focus("tr.line a")
    await me.page.keyboard.press("Enter")
    assert await me.see("h1") == "alpha"


async def least(act: Callable[[], Awaitable[float]]) -> float:
    """The least of five times: the others' seconds on this machine are not the page's."""
    return min([await act() for _ in range(5)])


async def painted(me: Person) -> float:
    """Seconds until something is to be seen."""
    await me.go("/")
    milliseconds: float = await me.page.evaluate(
        """new Promise((done) => new PerformanceObserver((list) => done(list.getEntries()[0].startTime))
           .observe({type: "paint", buffered: true}))"""
    )
    return milliseconds / 1000


async def test_ten_thousand_monitors(server: Server, browser: Browser) -> None:
    """They are shown about as soon as two hundred, in the same browser on the same machine."""

    async def apply(count: int) -> None:
        monitors = [
            {"slug": f"job-{number:05}", "every": "5m", "tags": ["even" if number % 2 == 0 else "odd"]}
            for number in range(count)
        ]
        answer = await server.api("POST", "/api/v1/apply", {"monitors": monitors})
        assert answer.status == 200, answer.body

    await apply(FEW)
    key = (await server.api("GET", "/api/v1/monitors/job-00007")).body["key"]
    await ping(server, f"/api/v1/heartbeat/{key}")
    async with person(browser, server) as me:
        page = me.page

        async def all_shown() -> None:
            await page.goto(f"{server.url}/")
            await me.see("text=job-00000")

        async def filtered(act: Callable[[], Awaitable[Any]], slug: str) -> float:
            await all_shown()
            began = time.monotonic()
            await act()
            await me.see(f"tr.line:first-child:has-text('{slug}')")
            return time.monotonic() - began

        acts = {
            "the first paint": lambda: painted(me),
            "a search": lambda: filtered(lambda: page.fill("#q", "job-00199"), "job-00199"),
            "a tag": lambda: filtered(lambda: page.select_option("#tag", "odd"), "job-00001"),
            "a status": lambda: filtered(lambda: page.check("input[value=up]", force=True), "job-00007"),
        }
        few = {name: await least(act) for name, act in acts.items()}
        await apply(MONITORS)
        many = {name: await least(act) for name, act in acts.items()}
        assert await page.locator("tr.line").count() == 1 and page.url.endswith("/?status=up")
        print(*(f"{name}: {few[name]:.3f} s and {many[name]:.3f} s" for name in acts), sep="\n")
        assert [name for name in acts if many[name] > 5 * few[name]] == []
        await all_shown()
        assert await page.locator("tr.line").count() == 100
        await page.select_option("#tag", "odd")
        await me.see("tr.line:first-child:has-text('job-00001')")
        # Scrolling loads more of the list, and rows far down are live too.
        await page.locator("#more").scroll_into_view_if_needed()
        await me.see("text=job-00399")
        await me.live()
