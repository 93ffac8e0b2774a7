"""`python -m tests.screenshots`: pictures of every page with the demo data, into docs/screenshots."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
from playwright.async_api import Browser

from offbeat_server.db.pool import connect
from tests.support.clients.browser import PHONE, Person, chromium, person
from tests.support.demo_data import build
from tests.support.harness import ROOT, Behaviour, Postgres, Receiver, Server, eventually

INTO = ROOT / "docs" / "screenshots"
# Name, address, and whether the whole page is wanted or what fits a window.
PAGES = (
    ("monitor", "/monitors/warehouse-load", True),
    ("settings", "/monitors/warehouse-load/settings", True),
    ("run", "/runs/{run}", True),
    ("fleet", "/monitors/render-workers", False),
    ("maintenance", "/windows", False),
    ("alerts", "/alerts", False),
    ("incident", "/incidents/{incident}", False),
    ("incidents", "/incidents", False),
    ("channels", "/channels", False),
    ("channel", "/channels/on-call", False),
    ("projects", "/projects", False),
    ("keys", "/keys", False),
    ("audit", "/audit", False),
    ("system", "/system", False),
    ("status-page", "/status/default", False),
)


async def main() -> None:
    """All of them."""
    INTO.mkdir(parents=True, exist_ok=True)
    postgres = Postgres(fsync="off")
    await postgres.start()
    try:
        async with postgres.fresh() as url, demo(url) as server, chromium() as browser:
            await _take(server, browser)
    finally:
        await postgres.stop()


@contextlib.asynccontextmanager
async def demo(database_url: str, refusals: int = 2) -> AsyncIterator[Server]:
    """A server with the demo data, after it has sent the alerts of the present. The receiver refuses the first ones."""
    async with Receiver() as receiver:
        receiver.script.extend([Behaviour(status=503)] * refusals)
        async with Server(database_url, "--allow-private-destinations") as server:
            database = await connect(database_url)
            try:
                await _prepare(server, database, receiver.url)
                yield server
            finally:
                await database.close()


async def pages_of(server: Server) -> list[tuple[str, str, bool]]:
    """`PAGES` with the addresses of the open run and the open incident."""
    runs = (await server.api("GET", "/api/v1/monitors/warehouse-load/runs")).body["items"]
    incidents = (await server.api("GET", "/api/v1/monitors/search-reindex/incidents")).body["items"]
    run = next(each["id"] for each in runs if each["finished_at"] is None)
    incident = next(each["id"] for each in incidents if each["resolved_at"] is None)
    return [(name, path.format(run=run, incident=incident), full_page) for name, path, full_page in PAGES]


async def _prepare(server: Server, database: asyncpg.Connection, receiver: str) -> None:
    for slug, body in (
        ("on-call", {"kind": "webhook", "url": f"{receiver}/hook"}),
        ("team", {"kind": "slack", "url": "https://hooks.slack.com/services/T0/B0/xyz", "default": False}),
        ("office", {"kind": "email", "to": ["ops@example.org"], "host": "mail.example.org", "default": False}),
    ):
        answer = await server.api("PUT", f"/api/v1/channels/{slug}", body)
        assert answer.status == 201, answer.body
    for name, role in (("wall screen", "read"), ("deploy pipeline", "admin"), ("cron hosts", "ping")):
        await server.api("POST", "/api/v1/keys", {"name": name, "role": role})
    window = {"name": "Index host moves", "tags": ["search"], "cron": "0 22 * * 6", "duration": "3h"}
    await server.api("PUT", "/api/v1/windows/index-host", window)
    await build(server, database)

    async def monitors() -> bool:
        open_incidents = await server.api("GET", "/api/v1/incidents?open=true")
        alerts = await server.api("GET", "/api/v1/alerts?state=delivered")
        return len(open_incidents.body["items"]) >= 3 and len(alerts.body["items"]) >= 4

    await eventually(monitors)
    for each in (await server.api("GET", "/api/v1/incidents?open=true")).body["items"]:
        if each["monitor"] == "search-reindex":
            note = {"comment": "The index host is out of memory; restarting it."}
            await server.api("POST", f"/api/v1/incidents/{each['id']}/acknowledge", note)


async def _take(server: Server, browser: Browser) -> None:
    async def walk(me: Person) -> None:
        for name, path, full_page in await pages_of(server):
            await me.go(path)
            await _save(me, name, full_page)

    async def overview(name: str, me: Person) -> None:
        await me.go("/")
        await _save(me, name)

    windows: list[tuple[Callable[[Person], Awaitable[None]], dict[str, object]]] = [
        (lambda me: overview("overview", me), {}),
        (lambda me: overview("overview-dark", me), {"color_scheme": "dark"}),
        (lambda me: overview("overview-phone", me), {"size": PHONE}),
        (walk, {}),
    ]
    for act, options in windows:
        async with person(browser, server, **options) as me:  # type: ignore[arg-type]
            await act(me)
    async with person(browser, server, key=None) as me:
        await me.go("/sign-in")
        await _save(me, "sign-in")


async def _save(me: Person, name: str, full_page: bool = False) -> None:
    if "live" in await me.page.evaluate("Object.keys(document.getElementById('main').dataset)"):
        await me.live()
    await me.page.screenshot(path=INTO / f"{name}.png", full_page=full_page, animations="disabled")
    print(f"docs/screenshots/{name}.png")


if __name__ == "__main__":
    asyncio.run(main())
