"""Two people edit one object: the second one to save sees the changes of the first, and overwrites nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import pytest

from tests.support.clients.browser import chromium, person
from tests.support.clients.pages import FormReader, Pages, signed_in
from tests.support.harness import Server, eventually

CHANGES_LOCK = 6238142001  # db/sql/changes.sql


class Case(NamedTuple):
    """A thing that two people edit.

    `page` and `action` are of its form, `sent` is what the first one types, `says` how the form refuses it; `path` is
    of the API, `change` what the second one does there, `stored` and `warning` what is seen of that.
    """

    path: str
    definition: dict[str, Any]
    page: str
    action: str
    sent: dict[str, str]
    says: str
    change: dict[str, Any]
    stored: tuple[str, Any]
    warning: str


CASES = {
    "monitor": Case(
        "/monitors/job",
        {"every": "5m", "grace": "2m"},
        "/monitors/job/settings",
        "",
        {"name": "typed <here>"},
        "This monitor was changed after you opened the form.",
        {"every": "5m", "grace": "7m"},
        ("grace", "7m"),
        "grace 2m → 7m",
    ),
    "channel": Case(
        "/channels/hook",
        {"kind": "webhook", "url": "https://example.org/x"},
        "/channels/hook",
        "/channels/hook",
        {"url": "https://example.org/typed"},
        "This channel was changed after you opened the form.",
        {"kind": "webhook", "url": "https://example.org/x", "per_minute": 17},
        ("per_minute", 17),
        "per_minute none → 17",
    ),
    "project": Case(
        "/projects/two",
        {"name": "Two"},
        "/projects",
        "/projects",
        {"name": "typed <here>"},
        "Project two was changed after you opened the page.",
        {"name": "Two", "status_page": True},
        ("status_page", True),
        "status_page none → True",
    ),
    "window": Case(
        "/windows/sunday",
        {"cron": "0 3 * * 7", "duration": "2h"},
        "/windows",
        "/windows/sunday/delete",
        {},
        "Window sunday was changed after you opened the page.",
        {"cron": "0 3 * * 7", "duration": "5h"},
        ("duration", "5h"),
        "duration 2h → 5h",
    ),
}


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url) as running:
        yield running


@pytest.fixture
async def pages(server: Server) -> AsyncIterator[Pages]:
    async with signed_in(server) as session:
        yield session


async def opened(pages: Pages, case: Case) -> list[tuple[str, str]]:
    """The fields of the form as it was opened, with the text that is typed."""
    text = await pages.get(case.page)
    if case.page == "/projects":  # the form of a new project and of every one have the same address
        text = text[text.index('name="slug" value="two"') - 300 :]
        text = text[text.index("<form") :]
    fields = FormReader(text, id="settings" if not case.action else "", action=case.action).found
    assert "rev" in dict(fields)
    return [(name, case.sent.get(name, value)) for name, value in fields]


def address(case: Case) -> str:
    return case.action or case.page


@pytest.mark.parametrize("kind", CASES)
async def test_what_was_changed_after_a_form_was_opened_is_not_overwritten(
    server: Server, pages: Pages, kind: str
) -> None:
    case = CASES[kind]
    assert (await server.api("PUT", f"/api/v1{case.path}", case.definition)).status == 201
    fields = await opened(pages, case)
    assert (await server.api("PUT", f"/api/v1{case.path}", case.change)).status == 200
    before = await changes(server)
    status, text = await pages.send(address(case), fields)
    assert_refused(case, status, text)
    assert await changes(server) == before
    # The form that came back has the new revision: it can be saved.
    again = dict(FormReader(text, id="settings" if not case.action else "", action=case.action).found)
    if kind != "project":
        assert (await pages.send(address(case), again))[0] == 303


async def changes(server: Server) -> list[Any]:
    """The audit log."""
    items: list[Any] = (await server.api("GET", "/api/v1/changes")).body["items"]
    return items


def assert_refused(case: Case, status: int, text: str) -> None:
    assert status == 422 and case.says in text, text
    assert case.warning in text and "admin" in text, text
    for typed in case.sent.values():
        assert typed.replace("<", "&lt;").replace(">", "&gt;") in text, "what was typed is lost"


@asynccontextmanager
async def locked_changes(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Nothing can be changed within the block; `waiting` counts those who wait for it."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("select pg_advisory_lock($1)", CHANGES_LOCK)
        yield connection
    finally:
        await connection.close()


async def waiting(connection: asyncpg.Connection, count: int) -> bool:
    """Whether `count` sessions wait for the lock."""
    sql = """select count(*) from pg_locks where locktype = 'advisory' and not granted
                and database = (select oid from pg_database where datname = current_database())"""
    return bool(await connection.fetchval(sql) == count)


@pytest.mark.parametrize("kind", CASES)
async def test_a_write_between_the_read_and_the_write_of_a_form_is_not_overwritten(
    server: Server, pages: Pages, database_url: str, kind: str
) -> None:
    """Both requests have read the row. Postgres lets the other one write first; the form's transaction comes after."""
    case = CASES[kind]
    assert (await server.api("PUT", f"/api/v1{case.path}", case.definition)).status == 201
    fields = await opened(pages, case)
    async with locked_changes(database_url) as connection:
        other = asyncio.create_task(server.api("PUT", f"/api/v1{case.path}", case.change))
        await eventually(lambda: waiting(connection, 1))
        form = asyncio.create_task(pages.send(address(case), fields))
        await eventually(lambda: waiting(connection, 2))
        assert not other.done() and not form.done()
    assert (await other).status == 200
    assert_refused(case, *await form)
    name, value = case.stored
    assert (await server.api("GET", f"/api/v1{case.path}")).body[name] == value


@pytest.mark.parametrize("kind", ["channel", "project", "window"])
async def test_a_tag_of_the_api_holds_until_the_write(
    server: Server, pages: Pages, database_url: str, kind: str
) -> None:
    """If-Match is compared with what is read; what is written between that and the write is not overwritten either."""
    case = CASES[kind]
    definition = await server.api("PUT", f"/api/v1{case.path}", case.definition)
    condition = {"If-Match": definition.headers["ETag"]}
    async with locked_changes(database_url) as connection:
        first = asyncio.create_task(server.api("PUT", f"/api/v1{case.path}", case.change, headers=condition))
        await eventually(lambda: waiting(connection, 1))
        second = asyncio.create_task(server.api("PUT", f"/api/v1{case.path}", case.definition, headers=condition))
        await eventually(lambda: waiting(connection, 2))
    assert (await first).status == 200
    refused = await second
    assert (
        refused.status == 412
        and refused.body["detail"]
        == f"The {kind} {case.path.rpartition('/')[2]} was changed by another request: read it again."
    )


@pytest.mark.parametrize("kind", ["monitor", "channel", "project", "window"])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_tag_of_nothing_never_fits_an_object_that_is_created_at_that_moment(
    server: Server, database_url: str, kind: str, method: str
) -> None:
    case = CASES[kind]
    await server.api("DELETE", f"/api/v1{case.path}")
    body = case.change if method == "PUT" else None
    async with locked_changes(database_url) as connection:
        creates = asyncio.create_task(server.api("PUT", f"/api/v1{case.path}", case.definition))
        await eventually(lambda: waiting(connection, 1))
        condition = {"If-Match": '"0123456789abcdef0123"' if kind != "monitor" else '"123456"'}
        late = asyncio.create_task(server.api(method, f"/api/v1{case.path}", body, headers=condition))
        await asyncio.wait([late], timeout=0.5)  # it waits for the lock, or is refused already
    assert (await creates).status in (200, 201)
    assert (await late).status in ((412,) if method == "PUT" else (404, 412))
    assert (await server.api("GET", f"/api/v1{case.path}")).status == 200
    assert (await server.api("DELETE", f"/api/v1{case.path}")).status == 204


@pytest.mark.parametrize(
    ("path", "form", "says"),
    [
        ("/new-channel", {"kind": "ntfy", "slug": "new", "topic": "x"}, "Channel new already exists."),
        ("/projects", {"slug": "new", "name": "New"}, "Project new already exists."),
        ("/windows", {"slug": "new", "when": "again", "cron": "0 3 * * 7", "duration": "2h"}, "Window new already"),
        ("/new-monitor", {"slug": "new", "schedule": "every", "every": "5m"}, "new exists already"),
    ],
)
async def test_of_two_that_make_the_same_one_does(
    server: Server, pages: Pages, database_url: str, path: str, form: dict[str, str], says: str
) -> None:
    async with locked_changes(database_url) as connection:
        both = [asyncio.create_task(pages.send(path, {**form, "name": name})) for name in ("one", "other")]
        await eventually(lambda: waiting(connection, 2))
    answers = sorted([await each for each in both])
    assert [status for status, _ in answers] == [303, 422]
    assert says in answers[1][1]


async def test_an_object_that_was_deleted_in_between_is_not_created_again(server: Server, pages: Pages) -> None:
    for kind in ("monitor", "channel", "project"):
        case = CASES[kind]
        await server.api("PUT", f"/api/v1{case.path}", case.definition)
        fields = await opened(pages, case)
        assert (await server.api("DELETE", f"/api/v1{case.path}")).status == 204
        status, text = await pages.send(address(case), fields)
        assert status == 404, kind
        assert all(typed.replace("<", "&lt;").replace(">", "&gt;") in text for typed in case.sent.values())
        assert (await server.api("GET", f"/api/v1{case.path}")).status == 404


async def test_a_form_without_a_revision_changes_nothing(server: Server, pages: Pages) -> None:
    for case in CASES.values():
        await server.api("PUT", f"/api/v1{case.path}", case.definition)
    before = await changes(server)
    for kind, case in CASES.items():
        for rev in (None, "", "x", "9" * 40):
            if kind == "project" and not rev:
                continue  # the form of a new project has none
            fields = [(name, value) for name, value in await opened(pages, case) if name != "rev"]
            fields += [("rev", rev)] if rev is not None else []
            status, text = await pages.send(address(case), fields)
            assert status == 422 and case.says in text, (kind, rev)
    assert await changes(server) == before


async def test_a_mistake_does_not_hide_that_the_monitor_was_changed(server: Server, pages: Pages) -> None:
    """A form that comes back for a mistake keeps the revision with which it was opened."""
    case = CASES["monitor"]
    await server.api("PUT", f"/api/v1{case.path}", case.definition)
    fields = [(name, "soon" if name == "every" else value) for name, value in await opened(pages, case)]
    await server.api("PUT", f"/api/v1{case.path}", case.change)
    status, text = await pages.send(address(case), fields)
    assert status == 422 and 'id="f-every-wrong"' in text
    mended = [(name, "6m" if name == "every" else value) for name, value in FormReader(text, id="settings").found]
    assert_refused(case, *await pages.send(address(case), mended))


async def test_two_browsers_edit_one_monitor(server: Server) -> None:
    await server.api("PUT", "/api/v1/monitors/job", {"every": "5m", "grace": "2m"})
    async with chromium() as browser, person(browser, server) as one, person(browser, server) as other:
        for each in (one, other):
            await each.go("/monitors/job/settings")
        await one.page.fill("#f-grace", "7m")
        await other.page.fill("#f-name", "Typed by the other")
        await one.page.click(".acts button.main")
        await one.see("h1:has-text('job')")
        other.expected.add(422)
        await other.page.click(".acts button.main")
        assert "grace 2m → 7m" in await other.see(".alarm")
        assert await other.page.input_value("#f-name") == "Typed by the other"
        await other.accessible()
        assert (await server.api("GET", "/api/v1/monitors/job")).body["name"] == "job"
        await other.page.fill("#f-grace", "7m")
        await other.page.click(".acts button.main")
        await other.see("h1:has-text('Typed by the other')")
    answer = (await server.api("GET", "/api/v1/monitors/job")).body
    assert (answer["name"], answer["grace"]) == ("Typed by the other", "7m")
