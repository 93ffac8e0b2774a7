"""A person at a browser: Debian's Chromium, signed in, and stern: any error in a script, any failed request and any
answer that is not expected fails the test.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, Page, Request, Response, async_playwright

from tests.support.harness import ADMIN_KEY, HANG_S, ROOT, Server, eventually, needs, refuse

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
WIDE, PHONE, SMALL_PHONE = (1280, 900), (390, 740), (320, 640)
ELSEWHERE = "offbeat.test"  # a name of the test's machine: over plain http no secure context, as loopback is
WAIT_MS = HANG_S * 1000


@dataclass
class Person:
    """One window. `expected` are statuses of answers that the test brings about on purpose."""

    page: Page
    server: Server
    expected: set[int] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    async def go(self, path: str) -> None:
        """Open a page of the server."""
        await self.page.goto(self.server.url + path)

    async def sign_in(self, key: str = ADMIN_KEY) -> None:
        """As anybody does it."""
        await self.go("/sign-in")
        await self.page.fill("#key", key)
        await self.page.click("text=Sign in >> visible=true >> nth=-1")
        await self.page.wait_for_selector("nav")

    async def see(self, selector: str, timeout_ms: float = WAIT_MS) -> str:
        """Wait until it is there and visible; its words."""
        element = self.page.locator(selector).first
        await element.wait_for(timeout=timeout_ms)
        return await element.inner_text()

    async def live(self) -> None:
        """Wait until the page is live."""
        await self.see("#live:not(.away)")

    async def fits(self) -> None:
        """Nothing is wider than the window."""
        wide, window = await self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= window, f"{self.page.url} is {wide} pixels wide in a window of {window}"

    async def accessible(self, *rules: str, within: str = "html") -> None:
        """axe-core finds nothing in the part that `within` selects; with `rules` it checks those alone."""
        if not AXE.exists():
            refuse("axe-core is not installed (`make test` installs it where there is npm)")
        if not await self.page.evaluate("'axe' in window"):
            # Not as a script of the page: the page's own policy would refuse it.
            await self.page.evaluate(AXE.read_text(encoding="utf-8"))
        options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
        audit = await self.page.evaluate("([within, options]) => axe.run(within, options)", [within, options])
        violations = [
            f"{self.page.url}: {each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes'][:3]]}"
            for each in audit["violations"]
        ]
        assert not violations, "\n".join(violations)

    def _listen(self) -> None:
        self.page.on("pageerror", lambda error: self.faults.append(f"error in a script: {error}"))
        self.page.on("console", self._on_console)
        self.page.on("requestfailed", self._on_request_failed)
        self.page.on("response", self._on_response)

    def _on_console(self, message: Any) -> None:
        # The browser reports a refused request here; the test checks its answer.
        # A header without effect over plain http is there on purpose: it is for https.
        known = ("Failed to load resource", "Cross-Origin-Opener-Policy header has been ignored")
        if message.type in ("error", "warning") and not any(each in message.text for each in known):
            self.faults.append(f"console: {message.text}")

    def _on_request_failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # left by us: another page was opened, another filter typed
            self.faults.append(f"failed: {request.method} {request.url}: {request.failure}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.faults.append(f"{response.status}: {response.request.method} {response.url}")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The browser."""
    program = needs("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"]
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def person(
    browser: Browser, server: Server, size: tuple[int, int] = WIDE, key: str | None = ADMIN_KEY, **options: Any
) -> AsyncIterator[Person]:
    """A user in front of it, signed in unless `key` is None. At the end no error may have occurred."""
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]}, permissions=["clipboard-read", "clipboard-write"], **options
    )
    context.set_default_timeout(WAIT_MS)
    somebody = Person(await context.new_page(), server)
    somebody._listen()
    try:
        if key is not None:
            await somebody.sign_in(key)
        yield somebody
        assert not somebody.faults, "\n".join(somebody.faults)
    finally:
        await context.close()


async def create_monitor(server: Server, slug: str, **definition: Any) -> str:
    """A monitor; the path to ping it."""
    answer = await server.api("PUT", f"/api/v1/monitors/{slug}", definition)
    assert answer.status == 201, answer.body
    return f"/api/v1/heartbeat/{answer.body['key']}"


async def address(server: Server, slug: str, what: str, number: int = 1, project: str = "default") -> str:
    """The path of a page about one of a monitor's `runs` or `incidents`, once there is one."""

    async def found() -> str | None:
        items = (await server.api("GET", f"/api/v1/monitors/{slug}/{what}?project={project}")).body["items"]
        return str(items[0]["id"]) if items else None

    monitor_id = str(await eventually(found)).partition("-")[0]
    return f"/{what}/{monitor_id}-{number}"


async def emptied(server: Server) -> Server:
    """The same server without the monitors, projects and keys of the test before: a new one takes longer to start."""
    for project in (await server.api("GET", "/api/v1/projects")).body["items"]:
        slug = project["slug"]
        answer = await server.api("POST", "/api/v1/apply", {"project": slug, "prune": True, "monitors": {}})
        assert answer.status == 200, answer.body
        if slug != "default":
            assert (await server.api("DELETE", f"/api/v1/projects/{slug}")).status == 204
    await server.api("PUT", "/api/v1/projects/default", {"name": "Default"})
    for key in (await server.api("GET", "/api/v1/keys")).body["items"]:
        await server.api("DELETE", f"/api/v1/keys/{key['id']}")
    return server


async def ping(server: Server, path: str, **params: str) -> None:
    """One ping, committed."""
    async with server.session.get(path, params=params) as response:
        assert response.status == 200, await response.text()
