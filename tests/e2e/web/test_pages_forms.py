"""The forms: what they show is what is stored, what they send is what the API would be sent."""

import re
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from offbeat_server.engine.model.definition import Definition
from offbeat_server.web.ui import monitor_form as monitor_form
from tests.support.clients.pages import FormReader, Pages, signed_in
from tests.support.harness import Server

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
        {"name": "regions", "tasks": {"expected": ["eu, north", "us"], "tolerate": 1}},
    ],
    "tasks": {"expected": 10, "within": "1h", "each_within": "20m", "quiet_for": "90s", "tolerate": 2},
    "at_most": {"count": 3, "per": "1h"},
    "fail_after": 2,
    "recover_after": 3,
    "depends_on": ["base"],
    "dependency_wait": "1m",
    "channels": ["log"],
    "remind_every": "4h",
    "methods": "POST",
    "keywords": {"fail": ["no space", "killed"], "default": "ignore"},
    "count_outages": True,
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
    {"tasks": {"expected": ["eu north", "<us>", "7"], "within": "1h"}},
    {"tasks": {"expected": ["7"]}, "stages": [{"name": "s", "tasks": {"expected": ["8"]}}]},
]


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    """A server without monitors."""
    async with Server(database_url) as running:
        yield running


@pytest.fixture
async def pages(server: Server) -> AsyncIterator[Pages]:
    """A session of the admin."""
    async with signed_in(server) as session:
        yield session


async def test_a_form_sent_as_it_came_changes_nothing(server: Server, pages: Pages) -> None:
    await server.api("PUT", "/api/v1/monitors/base", {"every": "1h"})
    for number, definition in enumerate([RICH, *OTHERS]):
        path = f"/api/v1/monitors/m{number}"
        answer = await server.api("PUT", path, definition)
        assert answer.status == 201, answer.body
        fields = FormReader(await pages.get(f"/monitors/m{number}/settings"), "settings").found
        status, text = await pages.send(f"/monitors/m{number}/settings", fields)
        assert status == 303, text
        after = (await server.api("GET", path)).body
        assert _defined(after) == _defined(answer.body), definition
        assert after["rev"] == answer.body["rev"], "not even a change that changes nothing"
        # And the other way: what differs is changed, and nothing else is.
        fields = [(name, "a new name" if name == "name" else value) for name, value in fields]
        assert (await pages.send(f"/monitors/m{number}/settings", fields))[0] == 303
        after = (await server.api("GET", path)).body
        assert _defined(after) == {**_defined(answer.body), "name": "a new name"}
        # By now another user has changed it.
        status, text = await pages.send(f"/monitors/m{number}/settings", fields)
        assert status == 422 and "This monitor was changed after you opened the form" in text
        assert (await server.api("GET", path)).body["rev"] == after["rev"]


def _defined(answer: dict[str, Any]) -> dict[str, Any]:
    """The definition of a monitor, without its state."""
    return {name: answer[name] for name in (*Definition.model_fields, "slug", "paused", "key", "keys")}


async def test_an_error_is_shown_beside_its_field(server: Server, pages: Pages) -> None:
    fields = FormReader(await pages.get("/new-monitor"), "settings").found
    wrong = {"f-every": "soon", "f-timezone": "Mars/Olympus", "f-tasks-expected": "0", "f-fail_after": "0"}
    sent = [(name, wrong.get("f-" + name.replace(".", "-"), value)) for name, value in fields]
    sent = [(name, "some name" if name == "name" else value) for name, value in sent]
    sent += [("stage.name", "one"), ("stage.within", "x"), ("stage.tasks", ""), ("stage.kind", "required")]
    status, text = await pages.send("/new-monitor", sent)
    assert status == 422
    for id in wrong:
        assert f'id="{id}-wrong"' in text, id
    assert 'value="soon"' in text and 'value="some name"' in text, "nothing that was typed is lost"
    assert "0.within" in text
    assert (await pages.send("/new-monitor", [*sent, ("schedule", "\x00")]))[0] == 422
    assert (await server.api("GET", "/api/v1/monitors")).body["items"] == []


async def test_names_of_tasks_are_typed_one_per_line(server: Server, pages: Pages) -> None:
    await server.api("PUT", "/api/v1/monitors/fan", {"tasks": {"expected": 3}})

    async def send(text: str) -> tuple[int, Any]:
        fields = FormReader(await pages.get("/monitors/fan/settings"), "settings").found
        typed = [(name, text if name == "tasks.expected" else value) for name, value in fields]
        status, answer = await pages.send("/monitors/fan/settings", typed)
        shown = (await server.api("GET", "/api/v1/monitors/fan")).body["tasks"]
        return status, shown["expected"] if status == 303 else answer

    assert await send(" eu north \r\n\r\nus\r\n") == (303, ["eu north", "us"])
    assert await send("one") == (303, ["one"])
    assert await send("12") == (303, 12)
    assert await send("1\r\n2") == (303, ["1", "2"])
    status, text = await send("us\r\nus")
    assert status == 422 and "must have each name once; the list has this one twice: us" in text
    status, text = await send("-3")
    assert status == 422 and "must be a whole number or a list of names" in text
    status, text = await send("us\r\n" + "x" * 256)
    assert status == 422 and "1: must have at most 255 characters" in text


async def test_a_signing_secret_is_generated_and_shown_once(server: Server, pages: Pages) -> None:
    webhook = {"kind": "webhook", "slug": "signed", "url": "https://example.org/x", "generate_secret": "on"}
    assert "generate_secret" in await pages.get("/new-channel?kind=webhook")
    assert "generate_secret" not in await pages.get("/new-channel?kind=email")
    status, text = await pages.send("/new-channel", {**webhook, "method": "DELETE"})
    assert status == 422 and re.search(r'name="generate_secret" value="on" checked', text)
    seen = []
    for path in ("/new-channel", "/channels/signed"):
        form = webhook if path == "/new-channel" else await pages.form(path, path, generate_secret="on")
        assert (await pages.send(path, form))[0] == 303
        seen += re.findall(r"whsec_[A-Za-z0-9+/=]+", await pages.get("/channels/signed"))
        assert "whsec_" not in (await pages.get("/channels/signed")).replace("(whsec_…)", "")
    assert len(set(seen)) == 2
    assert (await server.api("GET", "/api/v1/channels/signed")).body["secrets"] == ["•••", "•••"]


async def test_channels_keys_projects_and_windows(server: Server, pages: Pages) -> None:
    webhook = {"kind": "webhook", "slug": "hook", "url": "https://example.org/x?secret=1", "headers": '{"X-A": "b"}'}
    assert (await pages.send("/new-channel", {**webhook, "default": "on", "secrets": ""}))[0] == 303
    text = await pages.get("/channels/hook")
    assert "secret=1" not in text and "https://example.org/" in text
    # The mask that comes back keeps the secret.
    masked = await pages.form("/channels/hook", "/channels/hook", method="PUT")
    assert masked["url"] == "https://example.org/•••" and orjson.loads(masked["headers"]) == {"X-A": "•••"}
    del masked["default"]
    assert (await pages.send("/channels/hook", masked))[0] == 303
    shown = (await server.api("GET", "/api/v1/channels/hook")).body
    assert shown["method"] == "PUT" and shown["default"] is False
    status, text = await pages.send("/new-channel", {"kind": "email", "slug": "mail", "to": "nobody"})
    assert status == 422 and 'value="mail"' in text
    assert (await pages.send("/channels/log/test", {}))[0] == 303
    assert (await pages.send("/channels/hook/delete", {}))[0] == 303

    status, text = await pages.send("/keys", {"name": "wall", "role": "read", "project": ""})
    assert status == 303 and not text
    assert (await pages.send("/keys/1/revoke", {}))[0] == 303
    assert "revoked" in await pages.get("/keys")
    assert (await pages.send("/keys", {"name": "", "role": "king"}))[0] == 422

    assert (await pages.send("/projects", {"slug": "two", "name": "Two", "status_page": "on"}))[0] == 303
    assert (await server.api("GET", "/api/v1/projects/two")).body["status_page"] is True
    assert (await pages.send("/projects", {"slug": "Not a slug"}))[0] == 422

    window = {"slug": "sunday", "when": "again", "cron": "0 3 * * 7", "duration": "2h", "timezone": "UTC"}
    assert (await pages.send("/windows", window))[0] == 303
    assert "sunday" in await pages.get("/windows")
    assert (await pages.send("/windows", window))[0] == 422
    assert (await pages.send("/windows/sunday/delete", await pages.form("/windows", "/windows/sunday/delete")))[
        0
    ] == 303
    assert "created" in await pages.get("/audit?kind=window")
    hook = {"kind": "slack", "url": "https://hooks.slack.com/services/T0/B0/a-secret"}
    assert (await server.api("PUT", "/api/v1/channels/ops", hook)).status == 201
    assert (await server.api("PUT", "/api/v1/channels/ops", {**hook, "url": f"{hook['url']}-2"})).status == 200
    audit = await pages.get("/audit?kind=channel")
    assert "hidden, changed" in audit and "a-secret" not in audit


def test_the_form_knows_every_field_of_a_monitor() -> None:
    flat = [*monitor_form.ABOUT, *monitor_form.ALWAYS, *monitor_form.RUNS, *monitor_form.ALERTS, *monitor_form.SPECIAL]
    known = {field.name.partition(".")[0] for field in flat} | set(monitor_form.SCHEDULES) | {"stages", "channels"}
    assert set(Definition.model_fields) <= known
