"""Use cases without HTTP: what they return, what they raise, and which revisions they accept."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from offbeat_server.common.errors import ConflictError, NotFoundError, PreconditionError
from offbeat_server.common.instants import SECOND, to_datetime
from offbeat_server.db.repositories import projects as stored_projects
from offbeat_server.db.repositories import windows as stored_windows
from offbeat_server.db.repositories.changes import ANY_REV, NO_REV, REV_MAX
from offbeat_server.engine.model.enums import Verdict
from offbeat_server.engine.model.ping import Ping
from offbeat_server.engine.model.runs import REMEMBERED_FOR
from offbeat_server.engine.schedule.maintenance_windows import Window
from offbeat_server.services import access_keys, channels, incidents, monitors, projects, runs, windows
from offbeat_server.services.context import Context
from offbeat_server.services.documents import ChannelBody, MonitorBody, ProjectBody
from offbeat_server.services.revisions import changes_since
from tests.support.servers.api_server import Api, serving

PROJECT_ID = 1
WINDOW = Window.model_validate({"cron": "0 3 * * 7", "duration": "2h"})
# Kind -> create or replace "x", with a name or text that makes a difference, if it has the expected revision.
PUTS: dict[str, Callable[[Context, str, int | None], Awaitable[Any]]] = {
    "monitor": lambda context, text, rev: monitors.put_monitor(
        context, monitors.PutMonitor(PROJECT_ID, "x", MonitorBody(every="1h", name=text), rev), "me"
    ),
    "channel": lambda context, text, rev: channels.put_channel(
        context, channels.PutChannel(PROJECT_ID, "x", ChannelBody(kind="ntfy", topic=text), rev), "me"
    ),
    "project": lambda context, text, rev: projects.put_project(
        context, projects.PutProject("x", ProjectBody(name=text), rev), "me"
    ),
    "window": lambda context, text, rev: windows.put_window(
        context, windows.PutWindow(PROJECT_ID, "x", WINDOW.model_copy(update={"name": text}), rev), "me"
    ),
}
DELETES: dict[str, Callable[[Context, int | None], Awaitable[None]]] = {
    "monitor": lambda context, rev: monitors.delete_monitor(
        context, monitors.DeleteMonitor(PROJECT_ID, "x", rev), "me"
    ),
    "channel": lambda context, rev: channels.delete_channel(
        context, channels.DeleteChannel(PROJECT_ID, "x", rev), "me"
    ),
    "project": lambda context, rev: projects.delete_project(context, projects.DeleteProject("x", rev), "me"),
    "window": lambda context, rev: windows.delete_window(context, windows.DeleteWindow(PROJECT_ID, "x", rev), "me"),
}


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with serving(database_url) as api:
        yield api


@pytest.fixture
def context(api: Api) -> Context:
    return api.deps.context


async def rev_of(context: Context, kind: str) -> int:
    """The stored revision of "x"."""
    if kind == "monitor":
        rev: int = await context.pool.fetchval("select rev from monitors where slug = 'x'")
        return rev
    row = (
        await stored_projects.find_channel(context.pool, PROJECT_ID, "x")
        if kind == "channel"
        else await stored_projects.find_project(context.pool, "x")
        if kind == "project"
        else await stored_windows.find_window(context.pool, PROJECT_ID, "x")
    )
    assert row is not None
    return int(row["rev"])


@pytest.mark.parametrize("kind", PUTS)
async def test_an_object_is_written_only_if_it_has_the_expected_revision(context: Context, kind: str) -> None:
    put, delete = PUTS[kind], DELETES[kind]
    for expected in (ANY_REV, REV_MAX, 0):
        with pytest.raises(PreconditionError):
            await put(context, "a", expected)
    assert (await put(context, "a", NO_REV)).created
    first = await rev_of(context, kind)
    for expected in (NO_REV, first + 1, REV_MAX, 0):
        with pytest.raises(PreconditionError):
            await put(context, "b", expected)
        with pytest.raises(PreconditionError):
            await delete(context, expected)
    assert await rev_of(context, kind) == first
    assert not (await put(context, "a", first)).created
    assert await rev_of(context, kind) == first, "an object that is as wanted is not written"
    assert not (await put(context, "b", first)).created
    second = await rev_of(context, kind)
    assert second > first
    with pytest.raises(PreconditionError):
        await put(context, "c", first)
    await put(context, "c", ANY_REV)
    await put(context, "d", None)
    project_id = await context.pool.fetchval("select coalesce((select id from projects where slug = 'x'), 1)")
    since = await changes_since(context, kind, project_id, "x", first)
    assert [change.actor for change in since] == ["me"] * 3
    assert [(field.old, field.new) for change in since for field in change.fields] == [
        ("a", "b"),
        ("b", "c"),
        ("c", "d"),
    ]
    await delete(context, await rev_of(context, kind))
    with pytest.raises(NotFoundError):
        await delete(context, None)


async def test_a_row_without_a_revision_has_one_that_a_form_can_send(context: Context) -> None:
    """The first channel of a project, and the rows of an older version, have revision 0."""
    row = await stored_projects.find_channel(context.pool, PROJECT_ID, "log")
    assert row is not None and row["rev"] == 0
    await channels.put_channel(
        context, channels.PutChannel(PROJECT_ID, "log", ChannelBody(kind="log", default=False), 0), "me"
    )
    with pytest.raises(PreconditionError):
        await channels.put_channel(
            context, channels.PutChannel(PROJECT_ID, "log", ChannelBody(kind="log", default=True), 0), "me"
        )


async def test_what_does_not_exist_is_named(context: Context) -> None:
    note = incidents.NoteIncident(1, 1, None)
    missing: list[tuple[Awaitable[Any], str]] = [
        (monitors.pause_monitor(context, monitors.PauseMonitor(PROJECT_ID, "no", True), "me"), "monitor no"),
        (monitors.snooze_monitor(context, monitors.SnoozeMonitor(PROJECT_ID, "no"), "me"), "monitor no"),
        (monitors.ping_monitor(context, monitors.PingMonitor(PROJECT_ID, "no", Ping("success"))), "monitor no"),
        (channels.send_test(context, channels.SendTest(PROJECT_ID, "no"), "me"), "channel no"),
        (channels.generate_secret(context, channels.GenerateSecret(PROJECT_ID, "no"), "me"), "channel no"),
        (channels.resend_alert(context, channels.ResendAlert(7, None)), "alert 7"),
        (access_keys.revoke_key(context, access_keys.RevokeKey(7, None), "me"), "key 7"),
        (access_keys.create_key(context, access_keys.CreateKey("k", "read", "no"), "me"), "project no"),
        (incidents.acknowledge(context, note, "me"), f"incident {note.monitor_id}-{note.number}"),
        (incidents.resolve(context, note, "me"), f"incident {note.monitor_id}-{note.number}"),
        (runs.close_run(context, runs.CloseRun(1, 7, None, Verdict.FAILED), "me"), "run 1-7"),
        (incidents.comment(context, note, "me"), f"incident {note.monitor_id}-{note.number}"),
    ]
    for call, what in missing:
        with pytest.raises(NotFoundError, match=f"There is no {what}"):
            await call


async def test_other_data_stands_against_a_command(context: Context) -> None:
    await PUTS["channel"](context, "a", NO_REV)
    await monitors.put_monitor(
        context, monitors.PutMonitor(PROJECT_ID, "m", MonitorBody(every="1h", channels=("x",))), "me"
    )
    refused: list[tuple[Awaitable[Any], str]] = [
        (DELETES["channel"](context, None), "x is named by m"),
        (channels.generate_secret(context, channels.GenerateSecret(PROJECT_ID, "x"), "me"), "only webhook channels"),
        (projects.delete_project(context, projects.DeleteProject("default"), "me"), "always there"),
    ]
    for call, says in refused:
        with pytest.raises(ConflictError, match=says):
            await call


async def test_a_key_of_another_project_does_not_exist(context: Context) -> None:
    created = await access_keys.create_key(context, access_keys.CreateKey("k", "read", "default"), "me")
    assert created.key is not None and created.key.startswith("obr_")
    with pytest.raises(NotFoundError):
        await access_keys.revoke_key(context, access_keys.RevokeKey(created.id, PROJECT_ID + 1), "me")
    await access_keys.revoke_key(context, access_keys.RevokeKey(created.id, PROJECT_ID), "me")


async def test_a_run_is_closed_once_until_the_scheduler_has_acted(context: Context) -> None:
    """There is no scheduler here: the rows are written as it would write them."""
    await PUTS["monitor"](context, "a", NO_REV)
    pool = context.pool
    monitor_id = await pool.fetchval("select id from monitors where slug = 'x'")
    for number in (1, 2):
        await pool.execute(
            "insert into runs (monitor_id, number, project_id, run, last_ping_at) values ($1, $2, 1, 'r', now())",
            monitor_id,
            number,
        )

    async def close(number: int, verdict: Verdict, project_id: int | None = None) -> None:
        await runs.close_run(context, runs.CloseRun(monitor_id, number, project_id, verdict), "me")

    await close(1, Verdict.FAILED)
    with pytest.raises(ConflictError, match="being closed already"):
        await close(1, Verdict.IGNORED)
    await close(2, Verdict.FAILED)
    with pytest.raises(NotFoundError):
        await close(2, Verdict.FAILED, project_id=99)
    rev, ended = await pool.fetchval("select max(rev) from changes"), context.now() - 30 * SECOND
    state = {"rev": rev, "runs": {"n": 2, "c": [["r", 1, "failed", ended, True]], "f": [2, "failed", ended, True]}}
    await pool.execute(
        "insert into states (monitor_id, project_id, at, seq, writer, status, since, state)"
        " values ($1, 1, now(), 1, 1, 'up', now(), $2)",
        monitor_id,
        state,
    )
    await pool.execute("update runs set verdict = 'failed', finished_at = $1", to_datetime(ended))
    for number in (1, 2):
        with pytest.raises(ConflictError, match="has ended as failed already"):
            await close(number, Verdict.FAILED)
        await close(number, Verdict.IGNORED)
    state["rev"], state["runs"]["c"][0][3] = rev + 2, ended - REMEMBERED_FOR
    await pool.execute("update states set state = $1", state)
    with pytest.raises(ConflictError, match="10 minutes"):
        await close(1, Verdict.SUCCEEDED)


async def test_a_definition_of_the_version_before_is_written_again_with_what_is_required(
    api: Api, context: Context
) -> None:
    """Fields that it does not know are stored beside the definition, and a change names them."""
    stages = [{"name": "load"}]
    await api.pool.execute("""
        insert into monitors (project_id, rev, slug, name, definition)
          values (1, 0, 'etl', 'etl', '{"stages": [{"name": "load"}]}')
    """)
    shown = (await api("GET", "/monitors/etl")).body
    assert shown["complete"] is None and shown["stages"][0]["name"] == "load"
    planned = (await api("POST", "/apply", {"monitors": {"etl": {"stages": stages}}, "dry_run": True})).body
    (change,) = planned["changes"]
    assert [(each["field"], each["new"]) for each in change["fields"]] == [("complete", "required")]
    await monitors.put_monitor(context, monitors.PutMonitor(1, "etl", MonitorBody(stages=stages)), "me")
    assert (await api("GET", "/monitors/etl")).body["complete"] == "required"
    row = await api.pool.fetchrow("select definition, newer_fields from monitors where slug = 'etl'")
    assert row is not None and row["newer_fields"] == {"complete": "required"} and "complete" not in row["definition"]
    exported = (await api("GET", "/export")).body
    assert [each["complete"] for each in exported["monitors"]] == ["required"]


@pytest.mark.parametrize("asked", ["unverified", "incomplete"])
async def test_an_unverified_run_may_have_the_former_word_in_its_row(api: Api, context: Context, asked: str) -> None:
    """Nodes of two versions write it differently during an upgrade."""
    await PUTS["monitor"](context, "a", NO_REV)
    for number, stored in enumerate(("unverified", "incomplete", "hung"), start=1):
        await api.pool.execute(
            "insert into runs (monitor_id, number, project_id, last_ping_at, verdict)"
            " select id, $1, 1, now(), $2 from monitors where slug = 'x'",
            number,
            stored,
        )
    found = (await api("GET", f"/monitors/x/runs?verdict={asked}")).body["items"]
    assert [(run["number"], run["verdict"]) for run in found] == [(2, "unverified"), (1, "unverified")]
