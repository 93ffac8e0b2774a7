"""The command line: which commands there are, and how the program ends.

Commands are imported when they are called. `offbeat exec` and `offbeat ping` stand in front of every job of a crontab:
`server/__main__.py` starts them before this module is imported, and here they are only listed.

Exit codes: 0 done; 1 the server refused, or a check failed; 2 the command could not be tried (a wrong flag, a file that
cannot be read, no server at the address).
"""

import importlib
import sys

import click

from server.engine.readable import readable
from server.errors import OffbeatError

# name: (module; None: see above, one line for `--help`)
_COMMANDS = {
    "serve": ("server.cli_serve", "Run the server."),
    "apply": ("server.cli_estate", "Create and change what a file lists."),
    "export": ("server.cli_estate", "Write all definitions in the format of `apply`."),
    "import": ("server.cli_import", "Import a crontab, or checks of Healthchecks."),
    "monitors": ("server.cli_monitors", "List, show, pause, snooze and delete monitors."),
    "runs": ("server.cli_history", "List the runs of a monitor."),
    "incidents": ("server.cli_history", "List, acknowledge and resolve incidents."),
    "channels": ("server.cli_admin", "List and test channels."),
    "keys": ("server.cli_admin", "Create, list and revoke access keys."),
    "ping": (None, "Send one ping."),
    "exec": (None, "Run a command and report its start, its end and its output."),
    "doctor": ("server.cli_doctor", "Check the installation and report problems."),
}


class _Commands(click.Group):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        module, _ = _COMMANDS.get(name, (None, ""))
        if module is None:
            return None
        command: click.Command = getattr(importlib.import_module(module), f"{name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="offbeat", prog_name="offbeat")
def cli() -> None:
    """Offbeat: a heartbeat server. It alerts people when an expected ping does not arrive."""


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
