"""The command line: which commands there are, and how the program ends.

Commands are imported when they are called. `offbeat exec` and `offbeat ping` stand in front of every job of a crontab:
`client/offbeat/__main__.py` starts them before this module is imported, and here they are only listed.

Exit codes: 0 done; 1 the server refused, or a check failed; 2 the command could not be tried (a wrong flag, a file that
cannot be read, no server at the address).
"""

import importlib
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import cast

import click

from offbeat.cli.client import connection_options, remember_connection
from offbeat.errors import OffbeatError
from offbeat.readable import readable

# name: (module; None: see above, one line for `--help`)
_COMMANDS = {
    "apply": ("offbeat.cli.apply", "Create and change what a file lists."),
    "export": ("offbeat.cli.apply", "Write all definitions in the format of `apply`."),
    "monitors": ("offbeat.cli.monitors", "List, show, pause, snooze, rename, move and delete monitors."),
    "runs": ("offbeat.cli.history", "List the runs of a monitor."),
    "incidents": ("offbeat.cli.history", "List, acknowledge and resolve incidents."),
    "channels": ("offbeat.cli.admin", "List, test and delete channels, and generate their signing secrets."),
    "keys": ("offbeat.cli.admin", "Create, list and revoke access keys."),
    "ping": (None, "Send one ping."),
    "exec": (None, "Run a command and report its start, its end and its output."),
}
# Commands of the package offbeat-server, which adds them by entry points of this group.
ENTRY_POINTS = "offbeat.commands"
_OF_SERVER = {
    "serve": "Run the server.",
    "import": "Import a crontab, or checks of Healthchecks.",
    "doctor": "Check the installation and report problems.",
}


class _Commands(click.Group):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*sorted(_added(), key=_order), *_COMMANDS]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in _COMMANDS:
            module, _ = _COMMANDS[name]
            return None if module is None else _command(importlib.import_module(module), name)
        if (added := _added().get(name)) is not None:
            return cast(click.Command, added.load())
        if name in _OF_SERVER:
            raise OffbeatError(f"`offbeat {name}` is part of the server: pip install offbeat-server")
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in _COMMANDS and _COMMANDS[args[0]][0] is None:  # only an option can stand before them
            raise click.UsageError(f"options must follow the command: offbeat {args[0]} --url … …")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            added = [
                (name, _OF_SERVER.get(name) or point.load().get_short_help_str(100)) for name, point in _added().items()
            ]
            own = [(name, line) for name, (_, line) in _COMMANDS.items()]
            formatter.write_dl([*sorted(added, key=lambda row: _order(row[0])), *own])


def _command(module: object, name: str) -> click.Command:
    return cast(click.Command, getattr(module, f"{name}_command"))


def _added() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _order(name: str) -> tuple[int, str]:
    return (list(_OF_SERVER).index(name) if name in _OF_SERVER else len(_OF_SERVER)), name


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="offbeat", prog_name="offbeat")
@connection_options
@click.pass_context
def cli(context: click.Context, url: str | None, api_key: str | None, data_dir: str | None) -> None:
    """Offbeat: a heartbeat server. It alerts people when an expected ping does not arrive.

    Commands that manage a server take --url, --api-key and --data-dir before or after their name.
    """
    given = remember_connection(context, url=url, admin_key=api_key, data_dir=data_dir)
    assert isinstance(context.command, click.Group)
    command = context.command.get_command(context, context.invoked_subcommand or "")
    if given and command is not None and not any(option.name == "url" for option in command.params):
        raise click.UsageError(f"options must follow the command: offbeat {command.name} …")


def main() -> int:
    """Run a command; its exit code."""
    try:
        return cli.main(standalone_mode=False) or 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:  # `offbeat monitors | head`
        sys.stderr.close()
        return 0
    except OffbeatError as error:
        click.echo(f"offbeat: {readable(str(error))}", err=True)
        return getattr(error, "exit_code", 2)
