"""`offbeat serve`: the flags are generated from the settings, so that both always have the same names."""

import types
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from offbeat_server.config import FORMER_NAMES, Settings, flag_of, former_names_in, read_settings

ALIKE_MIN = 0.75  # from 0 to 1, by difflib: a flag with a letter too many or too few; --bogus is not like --host


def _type_of(field: FieldInfo) -> Any:
    """The type without `| None`."""
    annotation = field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (each for each in get_args(annotation) if each is not type(None))
    return annotation


def _help_of(name: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    default_text = (
        ""
        if default in (None, [])
        else f"; default: {str(default).lower() if default is True or default is False else default}"
    )
    return f"{field.description}  [OFFBEAT_{name.upper()}{default_text}]"


def _option(name: str, field: FieldInfo, hidden: bool = False) -> Callable[[Any], Any]:
    flag, kind = flag_of(name), _type_of(field)
    # Every value is checked by the settings, which say what is allowed; click only has to find it.
    extra: dict[str, Any] = {"metavar": "TEXT"}
    if kind is bool:
        flag, extra = f"{flag}/--no-{name.replace('_', '-')}", {}
    elif get_origin(kind) is Literal:
        extra = {"metavar": "|".join(get_args(kind))}
    elif kind in (int, float):
        extra = {"metavar": "NUMBER"}
    elif kind is Path:
        extra = {"metavar": "PATH"}
    return click.option(flag, name, default=None, help=_help_of(name, field), hidden=hidden, **extra)


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    for name, field in reversed(Settings.model_fields.items()):
        command = _option(name, field)(command)
    for former, name in FORMER_NAMES.items():
        command = _option(former, Settings.model_fields[name], hidden=True)(command)
    return command


class _ServeCommand(click.Command):
    """Suggests no former name for a flag that does not exist, but the present one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = [flag for option in self.params for flag in (*option.opts, *option.secondary_opts)]
            names = get_close_matches(error.option_name.lstrip("-"), [flag.lstrip("-") for flag in known], 3, ALIKE_MIN)
            near = [_PRESENT_FLAGS.get(f"--{name}", f"--{name}") for name in names]
            hint = f" Did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
            raise click.UsageError(f"No such option {error.option_name}.{hint}", ctx) from None


_PRESENT_FLAGS = {flag_of(former): flag_of(name) for former, name in FORMER_NAMES.items()}


@click.command("serve", cls=_ServeCommand, short_help="Run the server.")
@_with_settings
def serve_command(**flags: Any) -> None:
    """Run the server until it receives SIGTERM or SIGINT."""
    settings = read_settings(flags)
    from offbeat_server.runtime.app import serve

    raise click.exceptions.Exit(serve(settings, former_names_in(flags)) or 0)
