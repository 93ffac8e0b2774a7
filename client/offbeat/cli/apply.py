"""`offbeat apply` and `offbeat export`: all monitors, channels and windows as a file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import yaml

from offbeat.cli.client import (
    ApiClient,
    RequestRejected,
    json_option,
    project_filter_option,
    project_option,
    with_client,
    write_json,
)
from offbeat.cli.config_file import read_config, write_config
from offbeat.errors import OffbeatError
from offbeat.readable import one_line

APPLY_TIMEOUT_S = 300.0
_MARKS = {"create": ("+", "green"), "change": ("~", "yellow"), "delete": ("-", "red")}


class ConfigFileError(OffbeatError):
    """The server refused what the file says; nothing was changed."""

    exit_code = 1


@click.command("apply")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--prune", is_flag=True, help="Delete monitors, channels and windows that the file does not list.")
@click.option("--yes", is_flag=True, help="With --prune: do not ask, and accept empty sections of the file.")
@project_option
@json_option
@with_client
def apply_command(
    client: ApiClient, file: Path, dry_run: bool, prune: bool, yes: bool, project: str | None, as_json: bool
) -> None:
    """Create and change what FILE lists, or change nothing if a part of it is wrong.

    FILE is YAML or JSON. Its parts `monitors`, `channels`, `windows` and `projects` are each a mapping from slug to
    fields, or a list of items with a `slug`. On a terminal, --prune shows what it would delete and asks. In channels
    and keys, ${NAME} stands for an environment variable. A key that is given twice is refused, and in YAML also 24:00
    and 0600 without quotes. Exit code 1: the server has refused the file, and the error names every wrong field.
    """
    body: dict[str, Any] = {**read_config(file), "dry_run": dry_run, "prune": prune}
    if project is not None:
        body["project"] = project
    try:
        if prune and not (dry_run or yes):
            _check_prune(client, file, body)
        with working("applying"):
            answer = client("POST", "/apply", body, timeout_s=APPLY_TIMEOUT_S)
    except RequestRejected as refusal:
        lines = [f"{each['field']}: {each['reason']}" for each in refusal.problem.get("errors", ())]
        if as_json:
            write_json(refusal.problem)
        raise ConfigFileError(
            "\n  ".join([f"{file}: refused, nothing was changed", *(lines or [str(refusal)])])
        ) from None
    if as_json:
        write_json(answer)
    else:
        write_changes(answer)


def _check_prune(client: ApiClient, file: Path, body: dict[str, Any]) -> None:
    """Ask on a terminal before something is deleted. Raises FileRefused if an empty part would delete everything."""
    empty = [name for name in ("monitors", "channels", "windows") if body.get(name) in ({}, [])]
    if not empty and not sys.stdin.isatty():
        return
    with working("comparing"):
        planned = client("POST", "/apply", {**body, "dry_run": True}, timeout_s=APPLY_TIMEOUT_S)
    deleted = [change["kind"] + "s" for change in planned["changes"] if change["action"] == "delete"]
    if emptied := [name for name in empty if name in deleted]:
        raise ConfigFileError(
            f"{file}: {' and '.join(emptied)}: empty, so --prune would delete all of them; pass --yes to confirm"
        )
    if deleted and sys.stdin.isatty():
        write_changes(planned, to_stderr=True)
        click.confirm(f"Delete {len(deleted)} of them permanently?", abort=True, err=True)


@click.command("export")
@project_filter_option
@json_option
@with_client
def export_command(client: ApiClient, project: str | None, as_json: bool) -> None:
    """Write all definitions in the format of `apply`.

    It holds the keys of all monitors; secrets of channels are masked, and `apply` leaves masked secrets unchanged.
    """
    config = client("GET", "/export", timeout_s=APPLY_TIMEOUT_S, project=project)
    if as_json:
        write_json(config)
    else:
        write_config(config, sys.stdout)


def write_changes(answer: dict[str, Any], to_stderr: bool = False) -> None:
    """Print the changes, object by object and field by field."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True, stderr=to_stderr)
    for change in answer["changes"]:
        mark, colour = _MARKS[change["action"]]
        name = (
            change["slug"]
            if change["project"] in ("default", change["slug"])
            else f"{change['project']}/{change['slug']}"
        )
        console.print(Text(one_line(f"{mark} {change['kind']} {name}"), style=colour))
        if change["action"] != "delete":
            for field in change["fields"]:
                console.print(Text(one_line(f"    {field['field']}: " + _old_to_new(change["action"], field))))
    for new_secret in answer.get("new_secrets", ()):
        console.print(Text(one_line(f"! channel {new_secret['channel']}: signing secret {new_secret['secret']}")))
        console.print("    Save it: it is not shown again.")
    counts = answer["counts"]
    summary = ", ".join(f"{counts[name]} {name}" for name in ("created", "changed", "deleted", "unchanged"))
    console.print(f"{summary}" + (" (dry run: nothing was changed)" if answer["dry_run"] else ""))


def _old_to_new(action: str, field: dict[str, Any]) -> str:
    new = _value_text(field["new"])
    return new if action == "create" else f"{_value_text(field['old'])} → {new}"


def _value_text(value: Any) -> str:
    if value is None:
        return "(default)"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ", ".join(value) or "(none)"
    if isinstance(value, (dict, list)):
        return str(yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)).strip()
    return str(value)


@contextmanager
def working(what: str) -> Iterator[None]:
    """A sign of life on a terminal while something takes its time."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), transient=True) as progress:
        progress.add_task(what, total=None)
        yield
