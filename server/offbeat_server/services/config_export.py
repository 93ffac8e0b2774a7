"""All definitions in the form in which `apply` reads them back."""

import asyncio
from dataclasses import dataclass

from offbeat_server.db.pool import Record
from offbeat_server.db.read_models import overview
from offbeat_server.db.repositories import projects, windows
from offbeat_server.engine.model.definition import with_present_names
from offbeat_server.services.config_diff import Document
from offbeat_server.services.context import Context
from offbeat_server.services.projects import SWITCHES

_ROWS = 500  # read and written in one go


@dataclass(frozen=True)
class Exported:
    """The definitions as a file lists them. It is the answer of `GET /export`."""

    projects: list[Document]
    channels: list[Document]
    windows: list[Document]
    monitors: list[Document]


async def export(context: Context, project_id: int | None) -> Exported:
    """Read the definitions of one project, or of all with None. They hold keys; secrets of channels are masked."""
    pool = context.pool
    all_projects = [row for row in await projects.all_projects(pool) if project_id in (None, row["id"])]
    channels = await projects.all_channels(pool, project_id)
    all_windows = await windows.all_windows(pool, project_id)
    monitors: list[Document] = []
    after = (0, "")
    while rows := await overview.exported(pool, project_id, after, _ROWS):
        monitors += [_monitor(row) for row in rows]
        after = (rows[-1]["project_id"], rows[-1]["slug"])
        await asyncio.sleep(0)
    return Exported(
        [_project(row) for row in all_projects],
        [_channel(context, row) for row in channels],
        [{"slug": row["slug"], "project": row["project"], **row["definition"]} for row in all_windows],
        monitors,
    )


def _project(row: Record) -> Document:
    return {
        "slug": row["slug"],
        "name": row["name"],
        "ping_key": row["ping_key"],
        **{name: row["definition"].get(name, False) for name in SWITCHES},
    }


def _channel(context: Context, row: Record) -> Document:
    document = {
        **context.channel_kinds.shown(row["kind"], row["definition"]),
        "slug": row["slug"],
        "project": row["project"],
        "kind": row["kind"],
        "default": row["is_default"],
    }
    return {name: value for name, value in document.items() if value is not None}


def _monitor(row: Record) -> Document:
    """A monitor without what is at its default."""
    keys = row["keys"] or []
    monitor = {
        "slug": row["slug"],
        "project": row["project"],
        **({"name": row["name"]} if row["name"] != row["slug"] else {}),
        **({"tags": row["tags"]} if row["tags"] else {}),
        **with_present_names(row["definition"]),
        **({"paused": True} if row["paused"] else {}),
        "key": next((key["key"] for key in keys if key["main"]), None),
    }
    others = [
        {name: key[name] for name in ("key", "signal", "stage") if key[name] is not None}
        for key in keys
        if not key["main"]
    ]
    if others:
        monitor["keys"] = others
    return monitor
