"""The page of the command line, from the commands themselves."""

import click

from docs.generate.markdown import described, table
from offbeat.cli import cli
from offbeat.exec import EXEC_HELP, PING_HELP

TEXTS = {"exec": EXEC_HELP, "ping": PING_HELP}


def page() -> str:
    """The page."""
    context = click.Context(cli, info_name="offbeat")
    sections = "\n".join(_command(name, context) for name in cli.list_commands(context))
    return f"""# Command line

One command, `offbeat`, with subcommands. `serve`, `import` and `doctor` are part of the package `offbeat-server`, all
others of the package `offbeat`. `offbeat exec` and `offbeat ping` need only Python; the commands that manage a
server need `offbeat[cli]`.

- The address of the server is `--url`, else `OFFBEAT_URL`, else `http://127.0.0.1:8080`. The access key is
  `--api-key`, else `OFFBEAT_ADMIN_KEY`, else the key in the data directory of a server on the same machine (`--data-dir`).
  [Settings](settings.md#client) lists the variables.
- `--url`, `--api-key` and `--data-dir` may stand before or after the names of a command that manages a server:
  `offbeat --url URL monitors show job` and `offbeat monitors show job --url URL` are the same. All other options follow the
  last name of the command, and all options of `exec`, `ping`, `serve` and `import` follow that name.
- `--json` prints the answer of the API, for programs. `--help` explains each command.
- Exit codes: 0 done; 1 the server refused, or a check failed; 2 the command could not be tried (a wrong flag, a file
  that cannot be read, no server at the address).

{sections}"""


def _command(name: str, parent: click.Context, level: int = 2) -> str:
    heading = f"{'#' * level} {parent.command_path} {name}\n\n"
    if level == 2 and name in TEXTS:
        return f"{heading}```text\n{TEXTS[name].rstrip()}\n```\n"
    assert isinstance(parent.command, click.Group)
    command = parent.command.get_command(parent, name)
    assert command is not None, name
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)]).rstrip()
    text = "\n\n".join(" ".join(part.split()) for part in described(name, command.help).replace("\b", "").split("\n\n"))
    parts = [heading, f"```text\n{usage}\n```\n\n", f"{text}\n\n"]
    if name == "serve":
        parts.append("The options are the [settings](settings.md).\n\n")
    elif rows := [_option(context.command_path, each) for each in command.params if isinstance(each, click.Option)]:
        parts.append(table(("option", "description"), rows) + "\n")
    if isinstance(command, click.Group):
        parts += [_command(each, context, level + 1) for each in command.list_commands(context)]
    return "".join(parts).rstrip() + "\n\n"


def _option(path: str, option: click.Option) -> tuple[str, str]:
    names = ", ".join(option.opts + option.secondary_opts)
    value = "" if option.is_flag else f" {option.make_metavar(click.Context(click.Command('x')))}"
    text = described(f"{path} {names}", option.help)
    return f"`{names}{value}`".replace("|", " or ") if "[" not in value else f"`{names}` {_choices(option)}", text


def _choices(option: click.Option) -> str:
    assert isinstance(option.type, click.Choice)
    return " or ".join(f"`{each}`" for each in option.type.choices)
