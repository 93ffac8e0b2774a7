"""`offbeat import`: monitors for what a crontab or a Healthchecks project already does."""

import sys
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

import click

from offbeat.cli.apply import APPLY_TIMEOUT_S, working, write_changes
from offbeat.cli.client import ApiClient, json_option, path_of, project_option, with_client, write_json
from offbeat.strict_json import read_json
from offbeat_server.cli.importers import crontab
from offbeat_server.cli.importers.healthchecks import read_checks
from offbeat_server.common.errors import SettingsError
from offbeat_server.engine.model.slugs import free_slug
from offbeat_server.engine.schedule.calendar import check_cron
from offbeat_server.ingest.protocols.parsing.encodings import guessed

_NO_KEY = "KEY"
ZONE_LINK = Path("/etc/localtime")
ZONES = "zoneinfo/"


@click.group("import", short_help="Import a crontab, or checks of Healthchecks.")
def import_command() -> None:
    """Import existing jobs. Nothing is deleted, and a repeated import changes nothing."""


@import_command.command("crontab")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--timezone", help="Time zone of lines without CRON_TZ; default: this machine's.")
@click.option("--system", is_flag=True, default=None, help="Lines have a user before the command (as in /etc/crontab).")
@click.option("--grace", default="10m", show_default=True, help="Grace period: how late a job may start.")
@click.option(
    "--max-runtime",
    help="How long a job may run before it is hung; default: half the shortest time between two runs, at least 1h, "
    "at most 24h.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be created, and create nothing.")
@click.option(
    "--write", type=click.Path(path_type=Path), help="Write the new crontab to this file; default: standard output."
)
@project_option
@json_option
@with_client
def import_crontab(
    client: ApiClient,
    file: Path,
    timezone: str | None,
    system: bool | None,
    grace: str,
    max_runtime: str | None,
    dry_run: bool,
    write: Path | None,
    project: str | None,
    as_json: bool,
) -> None:
    """Create one monitor per line of FILE (- for standard input, as in `crontab -l | offbeat import crontab -`).

    Prints the crontab with every job under `offbeat exec`: look at it, then install it with `crontab NEW`. A condition
    in front of a job (`[ ... ] && job`) becomes `if [ ... ]; then job; fi`: if it does not hold, that is no failure.
    """
    # Bytes that are not UTF-8 come out as they went in: the new crontab runs the same commands.
    raw = sys.stdin.buffer.read() if str(file) == "-" else _read(file)
    text = raw.removeprefix(BOM_UTF8).decode(errors="surrogateescape")
    if system is None:
        system = str(file).startswith(("/etc/crontab", "/etc/cron.d/"))
    jobs, wrapped, left = crontab.read_crontab(text, system)
    _check(jobs)
    for number, reason in left:
        click.echo(f"warning: line {number}: {reason}", err=True)
    if not system and any(job.command.split()[0] == "root" for job in jobs):
        click.echo("warning: commands begin with `root`: if this crontab has a column of users, add --system", err=True)
    taken: set[str] = set()
    # Lines that were imported before come first: they keep their slugs, wherever a new line stands.
    commands = [*sorted(wrapped.items()), *((job.number, job.command) for job in jobs)]
    slugs = {number: free_slug(crontab.program_of(_clean(command)), taken, "job") for number, command in commands}
    zone = timezone or _own_zone()
    monitors = [
        {
            "slug": slugs[job.number],
            "cron": job.schedule,
            "timezone": job.timezone or zone,
            "grace": grace,
            "max_runtime": max_runtime or crontab.proposed_runtime(job.schedule),
            "description": _clean(job.command[:1000]),
        }
        for job in jobs
    ]
    answer = _apply(client, monitors, dry_run, project)
    # Each asked for by its slug: so it is looked for where it was made, in the key's own project as well.
    keys = {} if dry_run else {slugs[job.number]: _key_of(client, slugs[job.number], project) for job in jobs}
    lines = crontab.lines_of(text)
    for job in jobs:
        if crontab.is_guarded(job.command):
            click.echo(
                f"warning: line {job.number} ({slugs[job.number]}) runs its job on a condition. If that is false, the "
                "line ends with exit code 1, which is a failure. Write `if CONDITION; then JOB; fi` instead.",
                err=True,
            )
        lines[job.number - 1] = crontab.under_exec(job, keys.get(slugs[job.number], _NO_KEY), url=client.url)
    new = "\n".join(lines) + "\n"
    if as_json:
        write_json({**answer, "crontab": _clean(new)})
        return
    # Standard output is the new crontab alone, so that it can go into a file.
    write_changes(answer, to_stderr=write is None)
    if write is not None:
        write.write_bytes(new.encode(errors="surrogateescape"))
    else:
        click.echo(new.encode(errors="surrogateescape"), nl=False)


@import_command.command("healthchecks")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show what would be created, and create nothing.")
@project_option
@json_option
@with_client
def import_healthchecks(client: ApiClient, file: Path, dry_run: bool, project: str | None, as_json: bool) -> None:
    """Import the checks of FILE: the answer of Healthchecks to `GET /api/v3/checks/` with a read-write key.

    Jobs keep their addresses: only the host name changes.
    """
    try:
        export = read_json(_read(file))
    except ValueError as error:
        raise SettingsError(f"{file}: not JSON: {error}") from None
    checks = read_checks(export)
    if strange := [check["slug"] for check in checks if not ("key" in check or "keys" in check)]:
        click.echo(
            f"warning: no ping_url is given for {', '.join(strange[:10])}{', …' if strange[10:] else ''}: jobs that "
            "ping them by UUID will be answered 404. Export the checks with a read-write key of Healthchecks.",
            err=True,
        )
    answer = _apply(client, checks, dry_run, project)
    if as_json:
        write_json(answer)
    else:
        write_changes(answer)


def _check(jobs: list[crontab.CrontabJob]) -> None:
    problems = []
    for job in jobs:
        try:
            check_cron(job.schedule)
        except ValueError as error:
            problems.append(f"line {job.number}: {error}")
    if problems:
        raise SettingsError("\n".join(problems))


def _clean(text: str) -> str:
    """As text for people and JSON."""
    return guessed(text.encode(errors="surrogateescape"))


def _key_of(client: ApiClient, slug: str, project: str | None) -> str:
    monitor: dict[str, Any] = client("GET", path_of("monitors", slug), project=project)
    return str(monitor["key"])


def _apply(client: ApiClient, monitors: list[dict[str, Any]], dry_run: bool, project: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {"monitors": monitors, "dry_run": dry_run}
    if project is not None:
        body["project"] = project
    with working("importing"):
        answer: dict[str, Any] = client("POST", "/apply", body, timeout_s=APPLY_TIMEOUT_S)
    return answer


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read ({error.strerror or error}): name a readable file") from None


def _own_zone() -> str:
    """The zone of this machine by name, as cron here uses it."""
    try:
        target = str(ZONE_LINK.resolve())
    except OSError:
        return "UTC"
    return target.split(ZONES, 1)[1].removeprefix("posix/") if ZONES in target else "UTC"
