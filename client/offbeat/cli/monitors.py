"""`offbeat monitors`: list, show, pause, resume, snooze, rename, move, delete."""

from typing import Any

import click

from offbeat.cli.client import (
    ApiClient,
    json_option,
    path_of,
    project_filter_option,
    project_option,
    say,
    status_text,
    when,
    with_client,
    write_json,
    write_table,
)

# As the server has them; a test compares both.
STATUSES = ("down", "late", "unknown", "up", "new", "unwatched", "paused")
# Fields that `show` leaves out: computed ones, and `strict`, the former name of `count_outages`.
_LEFT_OUT = ("warnings", "alerts_to", "keys", "slug", "project", "rev", "created_at", "updated_at", "strict")


@click.group("monitors", invoke_without_command=True)
@click.option(
    "--status", multiple=True, type=click.Choice(STATUSES), help="Only monitors with this status; may be repeated."
)
@click.option("--tag", multiple=True, help="Only monitors with all of these tags.")
@click.option("--search", "q", help="Only monitors with this text in slug or name.")
@click.option("--limit", type=click.IntRange(1), help="Maximum number of results.")
@project_filter_option
@json_option
@with_client
def monitors_command(client: ApiClient, as_json: bool, limit: int | None, **query: Any) -> None:
    """List monitors."""
    monitors = client.pages("/monitors", limit, **query)
    if as_json:
        write_json(list(monitors))
        return
    rows = (
        (
            m["slug"] if m["project"] == "default" else f"{m['project']}/{m['slug']}",
            status_text(m["status"]),
            m["open_runs"] or "",
            when(m["last_ping_at"]),
            when(m["due_at"]),
            ", ".join(m["tags"]),
        )
        for m in monitors
    )
    write_table(("monitor", "status", "runs", "last ping", "due", "tags"), rows, "no monitors")


@monitors_command.command("show")
@click.argument("slug")
@project_option
@json_option
@with_client
def show(client: ApiClient, slug: str, project: str | None, as_json: bool) -> None:
    """Show one monitor."""
    _show(client("GET", path_of("monitors", slug), project=project), as_json)


@monitors_command.command("pause")
@click.argument("slug")
@click.option("--drop", is_flag=True, help="Also resolve the open incident, and forget runs that are awaited.")
@project_option
@json_option
@with_client
def pause(client: ApiClient, slug: str, drop: bool, project: str | None, as_json: bool) -> None:
    """Pause monitoring until it is resumed. An open incident stays open, and failures are reported at the resume."""
    body = {"drop": True} if drop else None
    _show(client("POST", path_of("monitors", slug, "pause"), body, project=project), as_json)


@monitors_command.command("resume")
@click.argument("slug")
@project_option
@json_option
@with_client
def resume(client: ApiClient, slug: str, project: str | None, as_json: bool) -> None:
    """Resume monitoring."""
    _show(client("POST", path_of("monitors", slug, "resume"), project=project), as_json)


@monitors_command.command("snooze")
@click.argument("slug")
@click.argument("duration", required=False)
@project_option
@json_option
@with_client
def snooze(client: ApiClient, slug: str, duration: str | None, project: str | None, as_json: bool) -> None:
    """Hold back alerts for DURATION (such as 2h). Without DURATION, end the snooze."""
    body = {} if duration is None else {"duration": duration}
    _show(client("POST", path_of("monitors", slug, "snooze"), body, project=project), as_json)


@monitors_command.command("rename")
@click.argument("slug", metavar="OLD")
@click.argument("new")
@project_option
@json_option
@with_client
def rename(client: ApiClient, slug: str, new: str, project: str | None, as_json: bool) -> None:
    """Change the slug of a monitor from OLD to NEW. Its key and its history stay.

    Monitors and maintenance windows of the project that name it get the new slug. Pings by the old slug still reach it
    until another monitor takes that slug.
    """
    _move(client, slug, project, {"slug": new}, "changed", as_json)


@monitors_command.command("move")
@click.argument("slug")
@click.option("--to", required=True, metavar="PROJECT", help="Slug of the new project.")
@click.option("--drop-references", is_flag=True, help="Remove `after` and `depends_on` between it and the old project.")
@project_option
@json_option
@with_client
def move(client: ApiClient, slug: str, to: str, drop_references: bool, project: str | None, as_json: bool) -> None:
    """Move a monitor to another project. Its key and its history stay.

    The channels that it names must exist there. While monitors or maintenance windows of the old project name it, or it
    names monitors of that project, the move is refused without --drop-references.
    """
    _move(client, slug, project, {"project": to, "drop_references": drop_references}, "removed", as_json)


@monitors_command.command("delete")
@click.argument("slug")
@project_option
@with_client
def delete(client: ApiClient, slug: str, project: str | None) -> None:
    """Delete a monitor."""
    client("DELETE", path_of("monitors", slug), project=project)
    say(f"deleted {slug}")


def _move(client: ApiClient, slug: str, project: str | None, body: dict[str, Any], done: str, as_json: bool) -> None:
    """Send a monitor to its new address. `done`: what this does to the references to it, for people."""
    answer = client("POST", path_of("monitors", slug, "move"), body, project=project)
    if as_json:
        write_json(answer)
        return
    _show(answer["monitor"], as_json)
    for each in answer["references"]:
        say(f"{done}: {each['field']} of {each['kind']} {each['slug']}")


def _show(monitor: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(monitor)
        return
    rows = [(name, status_text(value) if name == "status" else _value_text(value)) for name, value in monitor.items()]
    write_table((monitor["slug"], ""), (row for row in rows if row[0] not in _LEFT_OUT and row[1] != ""), "")
    for key in monitor["keys"]:
        bound = " ".join(part for part in (key["signal"], key["stage"]) if part) or "any signal"
        say(f"key for {bound}: {key['ping_url'] or '(hidden)'}")
    for warning in monitor["warnings"]:
        say(f"warning: {warning}")


def _value_text(value: Any) -> str:
    if value in (None, False, [], ()):
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
