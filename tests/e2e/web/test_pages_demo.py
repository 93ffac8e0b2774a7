"""The demo data of `make screenshots`: it loads, and each of its pages opens without an error, on a telephone too."""

from tests.screenshots import demo, pages_of
from tests.support.clients.browser import PHONE, chromium, person


async def test_every_page_of_the_screenshots_opens(database_url: str) -> None:
    async with (
        demo(database_url, refusals=0) as server,
        chromium() as browser,
        person(browser, server, size=PHONE) as me,
    ):
        for _, path, _ in [("overview", "/", False), *await pages_of(server)]:
            await me.go(path)
            assert await me.page.locator("h1").first.inner_text(), path
            await me.fits()
        members = (await server.api("GET", "/api/v1/monitors/render-workers/members")).body["items"]
        assert len(members) == 48 and sum(each["silent_since"] is not None for each in members) == 4
