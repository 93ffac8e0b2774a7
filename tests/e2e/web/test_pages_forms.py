"""The forms: what they show is what is stored, what they send is what the API would be sent."""

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any

import aiohttp
import pytest

from offbeat_server.engine.model.definition import Definition
from offbeat_server.web.ui import monitor_form as monitor_form
from tests.support.harness import ADMIN_KEY, Server

# Something in every field that a monitor without members can have, and one of each other kind.
RICH: dict[str, Any] = {
    "name": "A & B",
    "description": "What <it> does\nand what to do.",
    "tags": ["x", "y"],
    "cron": "30 2 * * 1-5",
    "timezone": "Europe/Berlin",
    "grace": "5m",
    "first_within": "1d",
    "max_runtime": "2h",
    "min_runtime": "10s",
    "quiet_for": "15m",
    "stall_for": "10m",
    "overlap": "alert",
    "stages": [
        {"name": "extract all", "within": "10m"},
        {"name": "load", "optional": True, "tasks": {"expected": 4, "within": "5m", "tolerate": 1}},
        {"name": "fan", "tasks": {"within": "7m"}},
    ],
    "tasks": {"expected": 10, "within": "1h", "tolerate": 2},
    "at_most": {"count": 3, "per": "1h"},
    "fail_after": 2,
    "recover_after": 3,
    "depends_on": ["base"],
    "dependency_wait": "1m",
    "channels": ["log"],
    "remind_every": "4h",
    "methods": "POST",
    "keywords": {"fail": ["no space", "killed"], "default": "ignore"},
    "strict": True,
    "manual_resume": True,
}
OTHERS: list[dict[str, Any]] = [
    {"every": "90s", "channels": []},
    {"oncalendar": "Mon..Fri 02:30", "keywords": {"success": ["done"]}},
    {"oncalendar": "Mon..Fri 02:30\nSun 04:00 Europe/Berlin"},
    {"after": {"monitor": "base", "signal": "start", "within": "20m"}},
    {"members": {"every": "30s", "grace": "10s", "min_alive": "95.5%", "expected": 40, "forget_after": "2d"}},
    {"members": {"every": "30s", "min_alive": 3}},
    {"max_runtime": "1h"},
]


class Fields(HTMLParser):
    """The fields that a browser would send of the form with this id, untouched."""

    def __init__(self, page: str, form: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._form, self._inside = form, False
        self._select: str | None = None
        self._option: str | None = None
        self._area: list[str] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Inputs, options that are selected, the beginning of a text."""
        said = dict(attributes)
        name = said.get("name") or ""
        if tag == "form":
            self._inside = said.get("id") == self._form
        elif not self._inside:
            return
        elif tag == "input" and (said.get("type") not in ("checkbox", "radio") or "checked" in said):
            self.found.append((name, said.get("value") or ""))
        elif tag == "select":
            self._select, self._option = name, None
        elif tag == "option" and self._select is not None and ("selected" in said or self._option is None):
            self._option = said.get("value") or ""
        elif tag == "textarea":
            self._area = []
            self.found.append((name, ""))

    def handle_data(self, data: str) -> None:
        """The words of a text."""
        if self._area is not None:
            self._area.append(data)

    def handle_endtag(self, tag: str) -> None:
        """The value of a select or text."""
        if tag == "select" and self._select is not None:
            self.found.append((self._select, self._option or ""))
            self._select = None
        elif tag == "textarea" and self._area is not None:
            self.found[-1] = (self.found[-1][0], "".join(self._area))
            self._area = None


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    """A server, and a session of the admin in its client."""
    async with Server(database_url) as running:
        headers = {"Sec-Fetch-Site": "same-origin"}
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(running.url, headers=headers, cookie_jar=jar) as session:
            await session.post("/sign-in", data={"key": ADMIN_KEY})
            running.pages = session  # type: ignore[attr-defined]
            yield running


async def send(server: Server, path: str, fields: Any) -> tuple[int, str]:
    """A form; its answer is not followed."""
    async with server.pages.post(path, data=fields, allow_redirects=False) as answer:  # type: ignore[attr-defined]
        return answer.status, await answer.text()


async def page(server: Server, path: str) -> str:
    """A page."""
    async with server.pages.get(path) as answer:  # type: ignore[attr-defined]
        text: str = await answer.text()
        assert answer.status == 200, text
        return text


async def test_a_form_sent_as_it_came_changes_nothing(server: Server) -> None:
    await server.api("PUT", "/api/v1/monitors/base", {"every": "1h"})
    for number, definition in enumerate([RICH, *OTHERS]):
        path = f"/api/v1/monitors/m{number}"
        answer = await server.api("PUT", path, definition)
        assert answer.status == 201, answer.body
        fields = Fields(await page(server, f"/monitors/m{number}/settings"), "settings").found
        status, text = await send(server, f"/monitors/m{number}/settings", fields)
        assert status == 303, text
        after = (await server.api("GET", path)).body
        assert _defined(after) == _defined(answer.body), definition
        assert after["rev"] == answer.body["rev"], "not even a change that changes nothing"
        # And the other way: what differs is changed, and nothing else is.
        fields = [(name, "a new name" if name == "name" else value) for name, value in fields]
        assert (await send(server, f"/monitors/m{number}/settings", fields))[0] == 303
        after = (await server.api("GET", path)).body
        assert _defined(after) == {**_defined(answer.body), "name": "a new name"}
        # By now another user has changed it.
        status, text = await send(server, f"/monitors/m{number}/settings", fields)
        assert status == 422 and "This monitor was changed after you opened the form" in text


def _defined(answer: dict[str, Any]) -> dict[str, Any]:
    """The definition of a monitor, without its state."""
    return {name: answer[name] for name in (*Definition.model_fields, "slug", "paused", "key", "keys")}


async def test_what_is_wrong_is_said_beside_its_field(server: Server) -> None:
    fields = Fields(await page(server, "/new-monitor"), "settings").found
    wrong = {"f-every": "soon", "f-timezone": "Mars/Olympus", "f-tasks-expected": "many", "f-fail_after": "0"}
    sent = [(name, wrong.get("f-" + name.replace(".", "-"), value)) for name, value in fields]
    sent = [(name, "some name" if name == "name" else value) for name, value in sent]
    sent += [("stage.name", "one"), ("stage.within", "x"), ("stage.tasks", ""), ("stage.kind", "required")]
    status, text = await send(server, "/new-monitor", sent)
    assert status == 422
    for id in wrong:
        assert f'id="{id}-wrong"' in text, id
    assert 'value="soon"' in text and 'value="some name"' in text, "nothing that was typed is lost"
    assert "0.within" in text
    assert (await send(server, "/new-monitor", [*sent, ("schedule", "\x00")]))[0] == 422
    assert (await server.api("GET", "/api/v1/monitors")).body["items"] == []


async def test_a_signing_secret_is_generated_and_shown_once(server: Server) -> None:
    webhook = {"kind": "webhook", "slug": "signed", "url": "https://example.org/x", "generate_secret": "on"}
    assert "generate_secret" in await page(server, "/new-channel?kind=webhook")
    assert "generate_secret" not in await page(server, "/new-channel?kind=email")
    status, text = await send(server, "/new-channel", {**webhook, "method": "DELETE"})
    assert status == 422 and re.search(r'name="generate_secret" value="on" checked', text)
    seen = []
    for path, form in (("/new-channel", webhook), ("/channels/signed", {**webhook, "secrets": "•••"})):
        assert (await send(server, path, form))[0] == 303
        seen += re.findall(r"whsec_[A-Za-z0-9+/=]+", await page(server, "/channels/signed"))
        assert "whsec_" not in (await page(server, "/channels/signed")).replace("(whsec_…)", "")
    assert len(set(seen)) == 2
    assert (await server.api("GET", "/api/v1/channels/signed")).body["secrets"] == ["•••", "•••"]


async def test_channels_keys_projects_and_windows(server: Server) -> None:
    webhook = {"kind": "webhook", "slug": "hook", "url": "https://example.org/x?secret=1", "headers": '{"X-A": "b"}'}
    assert (await send(server, "/new-channel", {**webhook, "default": "on", "secrets": ""}))[0] == 303
    text = await page(server, "/channels/hook")
    assert "secret=1" not in text and "https://example.org/" in text
    # The mask that comes back keeps the secret.
    masked = {"url": "https://example.org/•••", "method": "PUT", "headers": '{"X-A": "•••"}'}
    assert (await send(server, "/channels/hook", masked))[0] == 303
    shown = (await server.api("GET", "/api/v1/channels/hook")).body
    assert shown["method"] == "PUT" and shown["default"] is False
    status, text = await send(server, "/new-channel", {"kind": "email", "slug": "mail", "to": "nobody"})
    assert status == 422 and 'value="mail"' in text
    assert (await send(server, "/channels/log/test", {}))[0] == 303
    assert (await send(server, "/channels/hook/delete", {}))[0] == 303

    status, text = await send(server, "/keys", {"name": "wall", "role": "read", "project": ""})
    assert status == 303 and not text
    assert (await send(server, "/keys/1/revoke", {}))[0] == 303
    assert "revoked" in await page(server, "/keys")
    assert (await send(server, "/keys", {"name": "", "role": "king"}))[0] == 422

    assert (await send(server, "/projects", {"slug": "two", "name": "Two", "status_page": "on"}))[0] == 303
    assert (await server.api("GET", "/api/v1/projects/two")).body["status_page"] is True
    assert (await send(server, "/projects", {"slug": "Not a slug"}))[0] == 422

    window = {"slug": "sunday", "when": "again", "cron": "0 3 * * 7", "duration": "2h", "timezone": "UTC"}
    assert (await send(server, "/windows", window))[0] == 303
    assert "sunday" in await page(server, "/windows")
    assert (await send(server, "/windows", window))[0] == 422
    assert (await send(server, "/windows/sunday/delete", {"project": "default"}))[0] == 303
    assert "created" in await page(server, "/audit?kind=window")
    hook = {"kind": "slack", "url": "https://hooks.slack.com/services/T0/B0/a-secret"}
    assert (await server.api("PUT", "/api/v1/channels/ops", hook)).status == 201
    assert (await server.api("PUT", "/api/v1/channels/ops", {**hook, "url": f"{hook['url']}-2"})).status == 200
    audit = await page(server, "/audit?kind=channel")
    assert "hidden, changed" in audit and "a-secret" not in audit


def test_the_form_knows_every_field_of_a_monitor() -> None:
    flat = [*monitor_form.ABOUT, *monitor_form.ALWAYS, *monitor_form.RUNS, *monitor_form.ALERTS, *monitor_form.SPECIAL]
    known = {field.name.partition(".")[0] for field in flat} | set(monitor_form.SCHEDULES) | {"stages", "channels"}
    assert set(Definition.model_fields) <= known
