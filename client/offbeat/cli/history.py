"""`offbeat runs` and `offbeat incidents`: what happened, and what to do about it."""

from typing import Any

import click

from offbeat.cli.client import (
    ApiClient,
    connection_options,
    json_option,
    path_of,
    project_filter_option,
    project_option,
    remember_connection,
    say,
    when,
    with_client,
    write_json,
    write_table,
)

_LIMIT = click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="Maximum number of results."
)


class _ByName(click.Group):
    """A group whose first word may also be the slug of a monitor: `offbeat runs backup`.

    The command for that is listed as `SLUG`. Its former name `of` still works: `offbeat runs of backup`.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] == "of" and any(not argument.startswith("-") for argument in args[1:]):
            args = args[1:]
        if args[0] not in self.commands:
            return super().resolve_command(ctx, ["SLUG", *args])
        return super().resolve_command(ctx, args)


@click.group("runs", cls=_ByName)
@connection_options
@click.pass_context
def runs_command(context: click.Context, url: str | None, api_key: str | None, data_dir: str | None) -> None:
    """List the runs of a monitor (`offbeat runs SLUG`); show or close one run (`offbeat runs show ID`)."""
    remember_connection(context, url=url, admin_key=api_key, data_dir=data_dir)


@runs_command.command("SLUG")
@click.argument("slug", metavar="")
@click.option("--open", "is_open", is_flag=True, default=None, help="Only open runs.")
@click.option(
    "--verdict",
    help="Only runs with this verdict: succeeded, failed, hung, unverified, superseded, ignored, unknown.",
)
@click.option("--for", "business_date", metavar="DATE", help="Only runs for this business date.")
@_LIMIT
@project_option
@json_option
@with_client
def runs_of(client: ApiClient, slug: str, is_open: bool | None, limit: int, as_json: bool, **query: Any) -> None:
    """The runs of the monitor SLUG, the newest first.

    With --for also the business date and the attempt of each.
    """
    wanted = {"open": "true" if is_open else None, **query}
    runs = client.pages(path_of("monitors", slug, "runs"), limit, **wanted)
    if as_json:
        write_json(list(runs))
        return
    with_dates = query["business_date"] is not None
    dates = ("for", "attempt") if with_dates else ()
    rows = (
        (
            r["id"],
            r["run"],
            *((r["business_date"], r["attempt"]) if with_dates else ()),
            r["verdict"] or "open",
            when(r["started_at"]),
            when(r["finished_at"]),
            r["duration"],
            r["reason"],
        )
        for r in runs
    )
    write_table(("id", "run", *dates, "verdict", "started", "finished", "seconds", "reason"), rows, "no runs")


@runs_command.command("show")
@click.argument("run_id", metavar="ID")
@json_option
@with_client
def run_show(client: ApiClient, run_id: str, as_json: bool) -> None:
    """Show one run with its stages, tasks and progress."""
    run = client("GET", path_of("runs", run_id))
    if as_json:
        write_json(run)
        return
    apart = ("stages", "tasks", "progress", "detail_as_of")
    plain = [(name, run[name]) for name in run if name not in apart and run[name] is not None]
    write_table((f"run {run['id']}", ""), plain, "")
    if run["stages"]:
        stages = [(s["name"], s["status"], when(s["started_at"]), when(s["finished_at"])) for s in run["stages"]]
        write_table(("stage", "status", "started", "finished"), stages, "")
    for name in ("tasks", "progress"):
        if run[name]:
            write_table((name, ""), [(each, value) for each, value in run[name].items()], "")
    if as_of := run.get("detail_as_of"):
        say(f"Stages, tasks and progress include only the pings until {when(as_of)}.")


@runs_command.command("close")
@click.argument("run_id", metavar="ID")
@click.option(
    "--as", "verdict", type=click.Choice(("failed", "ignored", "succeeded")), required=True, help="The verdict."
)
@click.option("--reason", help="Why, at most 500 characters; required with --as succeeded.")
@json_option
@with_client
def run_close(client: ApiClient, run_id: str, verdict: str, reason: str | None, as_json: bool) -> None:
    """Close a run by hand, such as one whose job has died, or change the verdict of one that has just ended.

    failed: the run has failed, and no alert is sent about it. ignored: it counts neither as a success nor as a failure.
    succeeded: it counts as a success.
    """
    run = client("POST", path_of("runs", run_id, "close"), {"verdict": verdict, "reason": reason})
    if as_json:
        write_json(run)
    else:
        say(f"run {run['id']} of {run['monitor']}: closed as {verdict}")


@click.group("incidents", invoke_without_command=True)
@click.option("--open", "is_open", is_flag=True, default=None, help="Only open incidents.")
@click.option("--monitor", help="Only incidents of this monitor, in the key's own project, `default` or --project.")
@_LIMIT
@project_filter_option
@json_option
@with_client
def incidents_command(
    client: ApiClient, is_open: bool | None, monitor: str | None, limit: int, project: str | None, as_json: bool
) -> None:
    """List incidents, the newest first."""
    path = path_of("monitors", monitor, "incidents") if monitor else "/incidents"
    incidents = client.pages(path, limit, open="true" if is_open else None, project=project)
    if as_json:
        write_json(list(incidents))
        return
    rows = (
        (i["id"], i["monitor"], i["cause"], when(i["opened_at"]), when(i["resolved_at"]) or "open", i["reason"])
        for i in incidents
    )
    write_table(("id", "monitor", "cause", "opened", "resolved", "reason"), rows, "no incidents")


@incidents_command.command("show")
@click.argument("incident_id", metavar="ID")
@json_option
@with_client
def incident_show(client: ApiClient, incident_id: str, as_json: bool) -> None:
    """Show one incident with its notes and alerts."""
    _show(client("GET", path_of("incidents", incident_id)), as_json)


@incidents_command.command("acknowledge")
@click.argument("incident_id", metavar="ID")
@click.argument("comment", required=False)
@json_option
@with_client
def acknowledge(client: ApiClient, incident_id: str, comment: str | None, as_json: bool) -> None:
    """Acknowledge an incident."""
    _show(client("POST", path_of("incidents", incident_id, "acknowledge"), {"comment": comment}), as_json)


@incidents_command.command("resolve")
@click.argument("incident_id", metavar="ID")
@click.argument("comment", required=False)
@json_option
@with_client
def resolve(client: ApiClient, incident_id: str, comment: str | None, as_json: bool) -> None:
    """Resolve an incident manually."""
    _show(client("POST", path_of("incidents", incident_id, "resolve"), {"comment": comment}), as_json)


@incidents_command.command("comment")
@click.argument("incident_id", metavar="ID")
@click.argument("comment")
@json_option
@with_client
def comment_on(client: ApiClient, incident_id: str, comment: str, as_json: bool) -> None:
    """Add a comment to an incident."""
    _show(client("POST", path_of("incidents", incident_id, "comments"), {"comment": comment}), as_json)


def _show(incident: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(incident)
        return
    listed = ("causes", "notes", "alerts")
    plain = [(name, incident[name]) for name in incident if name not in listed and incident[name] not in (None, False)]
    write_table((f"incident {incident['id']}", ""), plain, "")
    if len(incident["causes"]) > 1:
        write_table(("cause", "reason"), [(c.get("kind"), c.get("reason")) for c in incident["causes"]], "")
    if incident["notes"]:
        write_table(
            ("at", "by", "", "comment"),
            [(when(n["at"]), n["by"], n["kind"], n["comment"]) for n in incident["notes"]],
            "",
        )
    if incident["alerts"]:
        rows = [(a["channel"] or "log", a["kind"], a["state"], a["attempts"], a["error"]) for a in incident["alerts"]]
        write_table(("channel", "alert", "state", "attempts", "error"), rows, "")
