"""`offbeat doctor`: looks at everything that has ever been wrong, and says what to do about it."""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

import click

from offbeat.cli.client import (
    ApiClient,
    RequestRejected,
    ServerUnreachable,
    json_option,
    with_client,
    write_json,
    write_table,
)
from offbeat_server.common.errors import OffbeatError
from offbeat_server.config import former_names_in, read_settings
from offbeat_server.db.diagnosis import examine
from offbeat_server.db.schema import SCHEMA_VERSION, check_version

POSTGRES_MIN = 150_000
PROBE_TIMEOUT_S = 10.0
KEYS_OF_MONITORS_MAX = 20_000  # the keys and fields of further monitors are not looked at
_COLOURS = {"ok": "green", "warning": "yellow", "wrong": "bold red"}
# Former names of findings. They are deprecated: `--json` lists a finding by both names, for programs that read it.
FORMER_FINDINGS = {"scheduler": "keeper"}


class Finding(NamedTuple):
    """One check: its subject, its result (ok, warning, wrong), and a sentence."""

    check: str
    status: str
    message: str

    def as_json(self) -> dict[str, str]:
        """The fields, also by their former names."""
        return {**self._asdict(), "what": self.check, "state": self.status, "said": self.message}


@click.command("doctor", short_help="Check the installation and report problems.")
@click.option("--database-url", help="Check the database, too.  [OFFBEAT_DATABASE_URL]")
@json_option
@with_client
def doctor_command(client: ApiClient, database_url: str | None, as_json: bool) -> None:
    """Check the installation and report problems. Exit code 1: a check has failed."""
    findings = [*_server(client), *_database(database_url)]
    if as_json:
        former = [f._replace(check=FORMER_FINDINGS[f.check]) for f in findings if f.check in FORMER_FINDINGS]
        write_json([finding.as_json() for finding in [*findings, *former]])
    else:
        from rich.text import Text

        rows = [(f.check, Text(f.status, style=_COLOURS[f.status]), f.message) for f in findings]
        write_table(("", "", ""), rows, "")
    if any(finding.status == "wrong" for finding in findings):
        raise click.exceptions.Exit(1)


def _server(client: ApiClient) -> Iterator[Finding]:
    try:
        with urlopen(f"{client.url}/readyz?verbose", timeout=PROBE_TIMEOUT_S) as response:
            report = response.read().decode(errors="replace")
    except HTTPError as error:
        yield Finding("server", "wrong", f"{client.url} is not ready: {error.read().decode(errors='replace').strip()}")
    except OSError as error:
        yield Finding("server", "wrong", f"no answer from {client.url}: {error}; set OFFBEAT_URL or --url")
        return
    else:
        repeated = tuple(f"[-] {name}:" for name in FORMER_FINDINGS.values())
        lines = [line for line in report.splitlines() if line.startswith("[-]")]
        missing = [line for line in lines if not line.startswith(repeated)]
        yield Finding("server", "warning" if missing else "ok", "; ".join(missing) or f"{client.url} is ready")
    if client.key is None:
        yield Finding("key", "wrong", "no key: set OFFBEAT_ADMIN_KEY, or --data-dir where the server keeps it")
        return
    try:
        client("GET", "/projects")
        yield Finding("key", "ok", "accepted")
        yield from _configuration(client)
    except (RequestRejected, ServerUnreachable) as error:
        yield Finding("key", "wrong", str(error))


def _configuration(client: ApiClient) -> Iterator[Finding]:
    channels = [c["slug"] for c in client.pages("/channels") if c["kind"] != "log"]
    if channels:
        yield Finding("channels", "ok", f"{len(channels)}; try them with `offbeat channels test SLUG`")
    else:
        yield Finding("channels", "warning", "no channel except the log: no alert leaves the server")
    trouble = [m["slug"] for m in client.pages("/monitors", 1000, status=("down", "unknown"))]
    yield Finding(
        "monitors",
        "warning" if trouble else "ok",
        f"down: {', '.join(trouble[:10])}" if trouble else "no monitor is down",
    )
    unwatched = [m["slug"] for m in client.pages("/monitors", 1000, status="unwatched")]
    if unwatched:
        yield Finding(
            "monitors",
            "warning",
            f"{len(unwatched)} expect nothing, so no missing ping is noticed: {', '.join(unwatched[:10])}; set every, "
            "cron, oncalendar, after or members",
        )
    new = [m["slug"] for m in client.pages("/monitors", 1000, status="new")]
    if new:
        yield Finding("monitors", "warning", f"{len(new)} never pinged, so not monitored yet: {', '.join(new[:10])}")
    yield from _written_before(client)
    yield from _hidden_keys(client)
    dead = list(client.pages("/alerts", 100, state="dead"))
    yield Finding(
        "alerts",
        "warning" if dead else "ok",
        f"{len(dead)} failed; the last: {dead[0]['error']}" if dead else "none failed",
    )
    for monitor in client.pages("/monitors", 1):
        if monitor["ping_url"] and any(f"//{host}" in monitor["ping_url"] for host in ("127.0.0.1", "localhost")):
            yield Finding(
                "address",
                "warning",
                f"pings go to {monitor['ping_url']}: set --public-url so that other machines can reach it",
            )


def _written_before(client: ApiClient) -> Iterator[Finding]:
    """Monitors that an earlier version wrote, and whose runs are evaluated otherwise once they are written again.

    The API shows no `complete` for them, although they list stages or expected tasks.
    """
    found = [
        monitor["slug"]
        for monitor in client.pages("/monitors", KEYS_OF_MONITORS_MAX)
        if monitor.get("complete", "trust") is None
        and (monitor["stages"] or (monitor["tasks"] or {}).get("expected") is not None)
    ]
    if found:
        yield Finding(
            "monitors",
            "warning",
            f"{len(found)} were written by an earlier version, and a success of their runs is trusted: "
            f"{', '.join(found[:10])}; once they are written again, a run fails if it sends success and stages or "
            "tasks are missing: apply them again, or set complete to trust to keep the present meaning",
        )


def _hidden_keys(client: ApiClient) -> Iterator[Finding]:
    """Keys that begin with another project's ping key: they were added before this was refused, and are not used."""
    ping_keys = {project["ping_key"]: project["slug"] for project in client("GET", "/projects")["items"]}
    if len(ping_keys) < 2:
        return
    for monitor in client.pages("/monitors", KEYS_OF_MONITORS_MAX):
        for key in (monitor["key"], *(each["key"] for each in monitor["keys"])):
            owner = ping_keys.get((key or "").partition("/")[0]) if key else None
            if owner is not None and owner != monitor["project"]:
                yield Finding(
                    "keys",
                    "wrong",
                    f"a key of {monitor['project']}/{monitor['slug']} begins with the ping key of {owner}: remove it",
                )


def _schema(version: int, usable_from: int, partitions: int) -> Finding:
    state = f"version {version}, {partitions} partitions"
    if why := check_version(version, usable_from):
        return Finding("schema", "wrong", why)
    if version > SCHEMA_VERSION:
        return Finding(
            "schema", "warning", f"{state}; newer than this program ({SCHEMA_VERSION}), which can work with it"
        )
    if version < SCHEMA_VERSION:
        return Finding("schema", "warning", f"{state}; the next start of this program brings it to {SCHEMA_VERSION}")
    return Finding("schema", "ok", state)


def _database(url: str | None) -> Iterator[Finding]:
    try:
        settings = read_settings({"database_url": url})
        for former in former_names_in({}):
            yield Finding("settings", "warning", former)
        if settings.database_url is None:
            return
        found, state = asyncio.run(examine(settings.database_url, settings.pgbouncer))
    except OffbeatError as error:
        yield Finding("database", "wrong", str(error))
        return
    version = found["version"] >= POSTGRES_MIN
    yield Finding(
        "database",
        "ok" if version else "wrong",
        f"Postgres {found['version_name']}" + ("" if version else "; version 15 or later is required"),
    )
    if found["standby"]:
        yield Finding("database", "wrong", "the server is a standby: it accepts no writes")
    for setting in ("fsync", "full_page_writes"):
        if found[setting] != "on":
            yield Finding("database", "wrong", f"{setting} is {found[setting]}: an accepted ping can be lost")
    if state is None:
        yield Finding("schema", "warning", "not created yet; `offbeat serve` creates it")
        return
    yield _schema(state["schema_version"], state["usable_from"] or 1, state["partitions"])
    scheduler = state["scheduler"]
    yield Finding(
        "scheduler",
        "ok" if scheduler else "wrong",
        scheduler or "no scheduler holds the lease: deadlines are not evaluated",
    )
