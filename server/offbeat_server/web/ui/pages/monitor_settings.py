"""Making and changing a monitor by form, and what its schedule means while one types it."""

from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from aiohttp import web
from cronsim import CronSim

from offbeat_server.common.errors import CommandError, DefinitionError, PreconditionError
from offbeat_server.common.instants import Micros, to_datetime
from offbeat_server.db.read_models import overview
from offbeat_server.db.repositories import projects
from offbeat_server.engine.model.definition import read_definition, with_present_names
from offbeat_server.engine.schedule.calendar import calendar
from offbeat_server.engine.schedule.durations import say_duration
from offbeat_server.services import documents, monitors
from offbeat_server.services.revisions import ChangeSince, changes_since
from offbeat_server.web.api.schemas import requests
from offbeat_server.web.api.schemas.answers import monitor_answer
from offbeat_server.web.framework.params import project_id_for_list, project_of
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.framework.routing import validate
from offbeat_server.web.ui import monitor_form as forms
from offbeat_server.web.ui.page_base import HEADERS, UiRoute, Visit, address_of, redirect, show
from offbeat_server.web.ui.pages.monitor import find
from offbeat_server.web.ui.template_filters import iso

TIMES_SHOWN = 5
NAMES_OFFERED = 500  # of monitors and tags, while one types
_NEW = {"every": "5m", "grace": "1m", "timezone": "UTC"}


async def new_page(visit: Visit) -> web.StreamResponse:
    """An empty form."""
    return await _form(visit, None, forms.fill(_NEW))


async def create(visit: Visit) -> web.StreamResponse:
    """Make a monitor of the form."""
    if visit.form_field("add"):
        return await _form(visit, None, forms.refill(visit.form, []), spare=forms.STAGES_ADDED)
    fields = {**forms.read(visit.form, {}), **({"slug": slug} if (slug := visit.form_field("slug")) else {})}
    project = await project_of(visit, visit.form_field("project") or None)
    try:
        body = validate(requests.NewMonitor, fields)
        command = monitors.CreateMonitor(project.id, body.slug, body)
        created = await monitors.create_monitor(visit.context, command, visit.actor)
    except (ApiError, CommandError, DefinitionError, PreconditionError) as error:
        return await _form(visit, None, _wrong(visit, error))
    return redirect(address_of("monitors", created.slug, project.slug))


async def settings_page(visit: Visit) -> web.StreamResponse:
    """The form of a monitor that is there."""
    row = await find(visit)
    answer = await monitor_answer(visit, row["project_id"], row["slug"])
    return await _form(visit, answer, forms.fill(answer))


async def change(visit: Visit) -> web.StreamResponse:
    """Change a monitor as the form says. A later change of another user is not overwritten."""
    row = await find(visit)
    rev = visit.form_field("rev")
    if visit.form_field("add"):
        answer = await monitor_answer(visit, row["project_id"], row["slug"])
        return await _form(visit, answer, forms.refill(visit.form, []), rev, forms.STAGES_ADDED)
    try:
        stored = with_present_names(orjson.loads(row["definition"]))
        body = validate(documents.MonitorBody, forms.read(visit.form, stored))
        command = monitors.PutMonitor(row["project_id"], row["slug"], body, expected_rev=visit.opened_rev)
        await monitors.put_monitor(visit.context, command, visit.actor)
    except PreconditionError:
        return await _changed_meanwhile(visit)
    except (ApiError, DefinitionError) as error:
        answer = await monitor_answer(visit, row["project_id"], row["slug"])
        return await _form(visit, answer, _wrong(visit, error), rev)
    return redirect(address_of("monitors", row["slug"], row["project"]))


async def _changed_meanwhile(visit: Visit) -> web.StreamResponse:
    """The form as it was sent, with what was changed since it was opened. It can be sent again for the new revision."""
    row = await find(visit)
    answer = await monitor_answer(visit, row["project_id"], row["slug"])
    meanwhile = await changes_since(visit.context, "monitor", row["project_id"], row["slug"], visit.opened_rev)
    filled = forms.refill(visit.form, [])._replace(
        other_problems=["This monitor was changed after you opened the form. Review it before saving."]
    )
    return await _form(visit, answer, filled, meanwhile=meanwhile)


async def _form(
    visit: Visit,
    answer: dict[str, Any] | None,
    filled: forms.Filled,
    rev: str = "",
    spare: int = forms.STAGES_SPARE,
    meanwhile: Sequence[ChangeSince] = (),
) -> web.StreamResponse:
    """`answer`: the monitor as the API shows it; None for a new one. `rev`: the one that the form was opened with."""
    wrong = bool(filled.problems or filled.other_problems)
    project = answer["project"] if answer else visit.form_field("project") or visit.query_param("project")
    project_id = await project_id_for_list(visit, project or None)
    channels = await projects.all_channels(visit.deps.pool, project_id)
    known = await overview.monitors(visit.deps.pool, project_id=project_id, limit=NAMES_OFFERED)
    every_project = await projects.all_projects(visit.deps.pool)
    return show(
        visit,
        "settings.html",
        422 if wrong else 200,
        answer=answer,
        filled=filled,
        meanwhile=meanwhile,
        form=forms,
        slug=visit.form_field("slug"),
        rev=rev or (answer["rev"] if answer else ""),
        spare=spare,
        project=project or visit.principal.project or "default",
        projects=[p["slug"] for p in every_project if visit.principal.project_id in (None, p["id"])],
        channels=sorted({channel["slug"] for channel in channels}),
        monitors=[row["slug"] for row in known if answer is None or row["slug"] != answer["slug"]],
    )


def _wrong(visit: Visit, error: Exception) -> forms.Filled:
    problems = list(getattr(error, "errors", ()) or getattr(error, "problems", ()))
    filled = forms.refill(visit.form, problems)
    if filled.problems or filled.other_problems:
        return filled
    return filled._replace(other_problems=[str(error)])


# ------------------------------------------------------------------------------------------------------ while one types


async def preview(visit: Visit) -> web.StreamResponse:
    """The next due times of a schedule, or what is wrong with it, as JSON."""
    kind, text = visit.query_param("kind"), visit.query_param("text").strip()
    zone, grace = visit.query_param("timezone").strip() or "UTC", visit.query_param("grace").strip() or "0s"
    try:
        answer = _preview(kind, text, zone, grace, visit.now)
    except DefinitionError as error:
        answer = {"error": "; ".join(problem.reason for problem in error.problems)}
    return web.Response(body=orjson.dumps(answer), content_type="application/json", headers=HEADERS)


def _preview(kind: str, text: str, zone: str, grace: str, now: Micros) -> dict[str, Any]:
    if kind not in ("every", "cron", "oncalendar") or not text:
        return {"times": [], "said": ""}
    definition = read_definition({kind: text, "timezone": zone, "grace": grace})
    times: list[Micros] = []
    if definition.every is not None:
        times = [now + definition.every * count for count in range(1, TIMES_SHOWN + 1)]
        description = f"Every {say_duration(definition.every)}, counted from the last ping"
    else:
        written = definition.cron or definition.oncalendar
        assert written is not None
        slots, at = calendar(kind, written, definition.timezone), now
        while len(times) < TIMES_SHOWN and (slot := slots.next_after(at)) is not None:
            times.append(slot)
            at = slot
        description = CronSim(definition.cron, to_datetime(now)).explain() if definition.cron else ""
    tzinfo = ZoneInfo(definition.timezone)
    return {
        "said": description,
        "grace": say_duration(definition.grace),
        "zone": definition.timezone,
        "times": [
            {"at": iso(at), "there": f"{to_datetime(at).astimezone(tzinfo):%a %Y-%m-%d %H:%M:%S %Z}"} for at in times
        ],
    }


PAGES = [
    UiRoute("GET", "/new-monitor", new_page, "write"),
    UiRoute("POST", "/new-monitor", create, "write"),
    UiRoute("GET", "/monitors/{slug}/settings", settings_page, "write"),
    UiRoute("POST", "/monitors/{slug}/settings", change, "write"),
    UiRoute("GET", "/preview", preview),
]
