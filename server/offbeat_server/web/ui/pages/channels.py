"""Channels as forms: one input for each field of a kind, made from the same model that the API reads."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from offbeat.strict_json import read_json
from offbeat_server.common.errors import DefinitionError, PreconditionError
from offbeat_server.db.pool import Record
from offbeat_server.db.read_models import history
from offbeat_server.db.repositories import projects
from offbeat_server.db.repositories.changes import NO_REV
from offbeat_server.engine.model.enums import AlertKind
from offbeat_server.notify.channel import Channel
from offbeat_server.notify.channels.registry import KINDS, kinds
from offbeat_server.notify.channels.webhook import Webhook
from offbeat_server.services import channels, documents
from offbeat_server.services.revisions import ChangeSince, changes_since
from offbeat_server.web.api.schemas.answers import channel_answer
from offbeat_server.web.framework.params import ProjectRef, new_slug, project_id_for_list, project_of, slug_in
from offbeat_server.web.framework.problems import ApiError, not_found
from offbeat_server.web.framework.routing import validate
from offbeat_server.web.ui.page_base import UiRoute, Visit, address_of, hand_secret_to_page, redirect, show

_NEW_SECRET = "offbeat_new_secret"  # a cookie: the signing secret that the next page shows once
LINE_CHARS_MAX = 5_000  # a text that may be longer gets a field of several lines


class ChannelInput(NamedTuple):
    """One field of a kind. `shape`: text, area, number, check, select, lines (a list), json (anything else)."""

    name: str
    shape: str
    about: str
    options: list[str]
    value: str
    required: bool


async def channels_page(visit: Visit) -> web.StreamResponse:
    """All channels."""
    project_id = await project_id_for_list(visit, visit.query_param("project") or None)
    rows = await projects.all_channels(visit.deps.pool, project_id)
    return show(visit, "channels.html", channels=[channel_answer(row) for row in rows], kinds=list(KINDS))


async def channel_page(visit: Visit) -> web.StreamResponse:
    """The form of one, and what became of a test message that was sent from here."""
    row = await _find(visit)
    number = visit.query_param("test")
    tested = await history.find_alert(visit.deps.pool, int(number)) if re.fullmatch(r"\d{1,18}", number) else None
    if tested is not None and (tested["channel_id"] != row["id"] or tested["kind"] != AlertKind.TEST):
        tested = None
    test_alert = dict(tested) if tested is not None else None
    place, _, secret = visit.request.cookies.get(_NEW_SECRET, "").partition(" ")
    secret = secret if place == _place(row["project"], row["slug"]) else ""
    response = await _form(visit, row, row["kind"], channel_answer(row), tested=test_alert, new_secret=secret)
    if secret:
        response.del_cookie(_NEW_SECRET, path="/channels")
    return response


async def new_page(visit: Visit) -> web.StreamResponse:
    """An empty form of the kind in the address."""
    return await _form(visit, None, _kind(visit.query_param("kind")), {})


async def create(visit: Visit) -> web.StreamResponse:
    """Make a channel."""
    kind = _kind(visit.form_field("kind"))
    slug = visit.form_field("slug")
    fields = _read(visit, kind)
    try:
        project = await project_of(visit, visit.form_field("project") or None)
        await _put(visit, fields, project.id, new_slug(slug), NO_REV)
    except PreconditionError:
        return await _form(visit, None, kind, fields, PreconditionError(f"Channel {slug} already exists."))
    except (ApiError, DefinitionError) as error:
        return await _form(visit, None, kind, fields, error)
    response = redirect(address_of("channels", slug, project.slug))
    return await _generate(visit, kind, project, slug, response)


async def change(visit: Visit) -> web.StreamResponse:
    """Change a channel; masked secrets stay as they are. A later change of another user is not overwritten."""
    row = await _find(visit)
    fields = _read(visit, row["kind"])
    try:
        await _put(visit, fields, row["project_id"], row["slug"], visit.opened_rev)
    except PreconditionError:
        return await _changed_meanwhile(visit, fields)
    except (ApiError, DefinitionError) as error:
        return await _form(visit, row, row["kind"], fields, error, rev=visit.form_field("rev"))
    saved = redirect(address_of("channels", row["slug"], row["project"], saved="yes"))
    return await _generate(visit, row["kind"], ProjectRef(row["project_id"], row["project"]), row["slug"], saved)


async def _changed_meanwhile(visit: Visit, fields: Mapping[str, Any]) -> web.StreamResponse:
    """The form as it was sent, with what was changed since it was opened. It can be sent again for the new revision."""
    row = await _find(visit)
    meanwhile = await changes_since(visit.context, "channel", row["project_id"], row["slug"], visit.opened_rev)
    error = PreconditionError("This channel was changed after you opened the form. Review it before saving.")
    return await _form(visit, row, row["kind"], fields, error, meanwhile=meanwhile)


async def test(visit: Visit) -> web.StreamResponse:
    """Send a test message; the channel's page says what became of it."""
    row = await _find(visit)
    tested = await channels.send_test(visit.context, channels.SendTest(row["project_id"], row["slug"]), visit.actor)
    return redirect(address_of("channels", row["slug"], row["project"], test=tested.alert_id))


async def delete(visit: Visit) -> web.StreamResponse:
    """Refused while a monitor names it."""
    row = await _find(visit)
    await channels.delete_channel(visit.context, channels.DeleteChannel(row["project_id"], row["slug"]), visit.actor)
    return redirect("/channels")


async def _find(visit: Visit) -> Record:
    slug = slug_in(visit, "channel")
    project = await project_of(visit, visit.query_param("project") or visit.form_field("project") or None)
    row = await projects.find_channel(visit.deps.pool, project.id, slug)
    if row is None:
        raise not_found(f"channel {slug}")
    return row


async def _put(visit: Visit, fields: Mapping[str, Any], project_id: int, slug: str, expected_rev: int) -> None:
    body = validate(documents.ChannelBody, {**fields, "default": visit.form_field("default") == "on"})
    command = channels.PutChannel(project_id, slug, body, expected_rev)
    await channels.put_channel(visit.context, command, visit.actor)


async def _generate(visit: Visit, kind: str, project: ProjectRef, slug: str, response: web.Response) -> web.Response:
    """Generate a signing secret if the form asks for it; the page that `response` leads to shows it once."""
    if kind == Webhook.kind and visit.form_field("generate_secret") == "on":
        secret = await channels.generate_secret(visit.context, channels.GenerateSecret(project.id, slug), visit.actor)
        value = f"{_place(project.slug, slug)} {secret}"
        hand_secret_to_page(visit, response, _NEW_SECRET, value, "/channels")
    return response


def _place(project: str, slug: str) -> str:
    return f"{project}/{slug}"


async def _form(
    visit: Visit,
    row: Record | None,
    kind: str,
    values: Mapping[str, Any],
    error: Exception | None = None,
    tested: Mapping[str, Any] | None = None,
    new_secret: str = "",
    rev: str = "",
    meanwhile: Sequence[ChangeSince] = (),
) -> web.StreamResponse:
    problems = list(getattr(error, "errors", ()) or getattr(error, "problems", ()))
    every_project = await projects.all_projects(visit.deps.pool)
    return show(
        visit,
        "channel.html",
        422 if error is not None else 200,
        row=row,
        rev=rev or (row["rev"] if row is not None else ""),
        meanwhile=meanwhile,
        kind=kind,
        inputs=_inputs(kind, values),
        is_default=row["is_default"]
        if row is not None and error is None
        else visit.form_field("default") == "on" or not error,
        problems={problem.field.split(".")[0]: problem.reason for problem in problems},
        wrong=str(error) if error is not None else "",
        tested=tested,
        new_secret=new_secret,
        signs=kind == Webhook.kind,
        generate_secret=error is not None and visit.form_field("generate_secret") == "on",
        saved=visit.query_param("saved") == "yes",
        slug=visit.form_field("slug"),
        projects=[p["slug"] for p in every_project if visit.principal.project_id in (None, p["id"])],
        project=row["project"]
        if row is not None
        else visit.form_field("project") or visit.principal.project or "default",
    )


def _kind(name: str) -> str:
    if name not in KINDS:
        raise not_found(f"kind of channel called {name[:30]}")
    return name


def _inputs(kind: str, values: Mapping[str, Any]) -> list[ChannelInput]:
    schema = kinds()[kind]
    required = schema.get("required", ())
    # Required fields first, fields of every kind last.
    names = sorted(schema["properties"], key=lambda name: (name in Channel.model_fields, name not in required))
    return [_input(name, schema["properties"][name], values.get(name), name in required) for name in names]


def _input(name: str, schema: Mapping[str, Any], value: Any, required: bool) -> ChannelInput:
    shape, options = _shape(schema)
    shown = value if value is not None else schema.get("default")
    if shown is None:
        text = ""
    elif shape == "lines" and isinstance(shown, list | tuple):
        text = "\n".join(map(str, shown))
    elif shape == "json":
        text = shown if isinstance(shown, str) else orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode()
        text = "" if text in ("{}", "[]") else text
    else:
        text = {True: "on", False: ""}.get(shown, str(shown)) if isinstance(shown, bool) else str(shown)
    return ChannelInput(name, shape, schema.get("description", ""), options, text, required)


def _shape(schema: Mapping[str, Any]) -> tuple[str, list[str]]:
    choices = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    first = choices[0] if choices else schema
    if "enum" in first:
        return "select", [str(each) for each in first["enum"]]
    kind = first.get("type")
    if len(choices) > 1 or kind == "string":
        return ("area" if kind == "string" and first.get("maxLength", 0) > LINE_CHARS_MAX else "text"), []
    if kind == "array" and first.get("items", {}).get("type") == "string":
        return "lines", []
    return {"boolean": "check", "integer": "number", "number": "number"}.get(str(kind), "json"), []


def _read(visit: Visit, kind: str) -> dict[str, Any]:
    """The fields of the form as the API reads them; what is empty is left out."""
    fields: dict[str, Any] = {"kind": kind}
    for each in _inputs(kind, {}):
        text = visit.form_field(each.name)
        if each.shape == "check":
            fields[each.name] = text == "on"
        elif not text:
            continue
        elif each.shape == "lines":
            fields[each.name] = [line.strip() for line in text.splitlines() if line.strip()]
        elif each.shape in ("json", "number", "select"):
            fields[each.name] = _loads(text)
        else:
            fields[each.name] = int(text) if each.name == "chat" and text.lstrip("-").isdecimal() else text
    return fields


def _loads(text: str) -> Any:
    """JSON where it is some; else the text, about which the model will say what is wrong."""
    try:
        return read_json(text.encode())
    except ValueError:
        return text


PAGES = [
    UiRoute("GET", "/channels", channels_page),
    UiRoute("GET", "/new-channel", new_page, "write"),
    UiRoute("POST", "/new-channel", create, "write"),
    UiRoute("GET", "/channels/{slug}", channel_page),
    UiRoute("POST", "/channels/{slug}", change, "write"),
    UiRoute("POST", "/channels/{slug}/test", test, "write"),
    UiRoute("POST", "/channels/{slug}/delete", delete, "write"),
]
