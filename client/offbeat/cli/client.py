"""How commands talk to a server and to people: one small client, tables for people, JSON for programs."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import click
import orjson
from click.core import ParameterSource

from offbeat import admin_key
from offbeat.cli.settings import ClientSettings, read_client_settings, unknown_variables
from offbeat.errors import OffbeatError
from offbeat.readable import one_line, readable, readable_json

TIMEOUT_S = 30.0
F = TypeVar("F", bound=Callable[..., Any])


class ServerUnreachable(OffbeatError):
    """No server answers there."""


class RequestRejected(OffbeatError):
    """The server refused; the message holds every field that it named."""

    exit_code = 1

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status, self.problem = status, problem
        lines = [f"{e['field']}: {e['reason']}" if e["field"] else e["reason"] for e in problem.get("errors", ())]
        super().__init__(
            "\n  ".join([str(problem.get("detail", f"status {status}")) if not lines else "refused:", *lines])
        )


class ApiClient:
    """A server's management API, with a key."""

    def __init__(self, settings: ClientSettings) -> None:
        self.url = settings.url
        self.key = settings.admin_key or admin_key.stored(settings.data_dir)

    def __call__(self, method: str, path: str, body: Any = None, timeout_s: float = TIMEOUT_S, **query: Any) -> Any:
        """One request below /api/v1. Parameters that are None are left out.

        Raises RequestRejected, ServerUnreachable.
        """
        given = {name: value for name, value in query.items() if value not in (None, ())}
        url = f"{self.url}/api/v1{path}" + (f"?{urlencode(given, doseq=True)}" if given else "")
        headers = {"Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        content = None
        if body is not None:
            content, headers["Content-Type"] = orjson.dumps(body), "application/json"
        try:
            with urlopen(Request(url, content, headers, method=method), timeout=timeout_s) as response:
                text = response.read()
        except HTTPError as error:
            problem = _problem(error)
            if error.code == 401:
                problem = {**problem, "detail": _key_rejected(self.key)}
            raise RequestRejected(error.code, problem) from None
        except (URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ServerUnreachable(f"no answer from {self.url}: {reason}; set OFFBEAT_URL or --url") from None
        return orjson.loads(text) if text else None

    def pages(self, path: str, most: int | None = None, **query: Any) -> Iterator[dict[str, Any]]:
        """The items of a list, over all its pages. `most`: the maximum number of items."""
        cursor, count = None, 0
        while True:
            limit = 1000 if most is None else min(1000, most - count)
            page = self("GET", path, limit=limit, cursor=cursor, **query)
            yield from page["items"]
            count += len(page["items"])
            cursor = page["next_cursor"]
            if cursor is None or (most is not None and count >= most):
                return


def _key_rejected(key: str | None) -> str:
    """Return the error of a request whose access key the server rejects, or that had none (`key` is None)."""
    reason = "no access key was found" if key is None else "the server does not know the access key, or it is revoked"
    return f"{reason}: set --api-key or OFFBEAT_ADMIN_KEY, or --data-dir if the server runs on this machine"


def _problem(error: HTTPError) -> dict[str, Any]:
    try:
        problem = orjson.loads(error.read())
    except (orjson.JSONDecodeError, OSError, HTTPException):
        problem = None
    if isinstance(problem, dict):
        return problem
    return {"detail": f"{error.url} answered {error.code} {error.reason}"}


_GIVEN = "offbeat.connection"  # key of `click.Context.meta`, which a command shares with its groups


def connection_options(command: F) -> F:
    """Add the options that name a server and its access key."""
    for option in (
        click.option(
            "--data-dir",
            help="Directory with the admin key of a server on this machine.  [OFFBEAT_DATA_DIR; default: .offbeat]",
        ),
        click.option("--api-key", help="The access key.  [OFFBEAT_ADMIN_KEY; default: the one in the data directory]"),
        click.option("--url", help="The server's address.  [OFFBEAT_URL; default: http://127.0.0.1:8080]"),
    ):
        command = option(command)
    return command


def remember_connection(context: click.Context, **options: str | None) -> dict[str, str | None]:
    """Keep the connection options of this command for its subcommands.

    Returns the options that hold here: its own, else those of the groups before it.
    """
    given: dict[str, str | None] = context.meta.setdefault(_GIVEN, {})
    given.update({name: value for name, value in options.items() if value is not None})
    return given


def _refuse_others(context: click.Context, subcommand: str) -> None:
    """Refuse options of a list in front of a subcommand, which would not see them: it might change another project."""
    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) == ParameterSource.COMMANDLINE
        if given and name not in ("url", "api_key", "data_dir"):
            raise click.UsageError(
                f"{option.opts[0]} must follow the subcommand: {context.command_path} {subcommand} … {option.opts[0]} …"
            )


def with_client(command: F) -> F:
    """Add the connection options. The command gets a `client` for the server that they name."""

    def run(url: str | None, api_key: str | None, data_dir: str | None, **rest: Any) -> Any:
        context = click.get_current_context()
        given = remember_connection(context, url=url, admin_key=api_key, data_dir=data_dir)
        if isinstance(context.command, click.Group) and context.invoked_subcommand is not None:
            _refuse_others(context, context.invoked_subcommand)
            return None  # the subcommand makes the client
        for unknown in unknown_variables():
            click.echo(f"offbeat: warning: {unknown}", err=True)
        return command(client=ApiClient(read_client_settings(given)), **rest)

    run.__doc__, run.__name__ = command.__doc__, command.__name__
    run = connection_options(run)
    # The parameters that click has put on the command itself are kept; click reads the list from its end.
    own = run.__click_params__  # type: ignore[attr-defined]
    run.__click_params__ = [*own, *getattr(command, "__click_params__", [])]  # type: ignore[attr-defined]
    return run  # type: ignore[return-value]


json_option = click.option("--json", "as_json", is_flag=True, help="JSON output.")
project_option = click.option("--project", help="The project; default: the key's own, or `default`.")
project_filter_option = click.option("--project", help="Only this project; default: all projects that the key may see.")


def path_of(*parts: str) -> str:
    """A path of the API, each part as it must be written in an address."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def write_json(value: Any) -> None:
    """Indented where a person reads it, in one line in a pipe."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    click.echo(readable_json(orjson.dumps(value, option=option).decode()))


def write_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """A table for people; `empty` is said where there are no rows."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(Text(one_line(column)), overflow="fold")
    for row in rows:
        table.add_row(*(each if isinstance(each, Text) else Text(_cell(each)) for each in row))
    # In a pipe there is no width to fit: lines stay whole for grep and awk.
    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    if table.row_count:
        console.print(table)
    else:
        click.echo(empty)


def _cell(value: Any) -> str:
    return "" if value is None else one_line(str(value))


def say(text: str, err: bool = False) -> None:
    """Print a line for people. It may hold text that jobs have sent: no escape sequence in it reaches the terminal."""
    click.echo(readable(text), err=err)


def status_text(status: str) -> Any:
    """A status with its colour; it is readable without."""
    from rich.text import Text

    colours = {"up": "green", "down": "bold red", "late": "yellow", "unknown": "magenta", "paused": "dim"}
    colours |= {"unwatched": "yellow"}
    return Text(status, style=colours.get(status, ""))


def when(at: str | None) -> str:
    """An instant to the second; the whole is in `--json`."""
    return "" if at is None else at[:19].replace("T", " ") + "Z"
