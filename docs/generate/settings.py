"""The page of settings, from the settings of server and client."""

import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from docs.generate.markdown import code, described, number, table, words
from offbeat.cli.settings import VARIABLES_OF_JOBS, ClientSettings
from offbeat_server.config import FORMER_NAMES, SECRETS, Settings

FIRST_LIMIT = "pings_pending_max"
OF_CLIENT = {
    "url": ("`--url`", "Address of the server, for every command that talks to one."),
    "admin_key": (
        "`--api-key`",
        "Access key of the commands that manage a server. Default: the key that the server keeps in its data directory.",
    ),
    "data_dir": (
        "`--data-dir`",
        "Data directory of a server on the same machine. The commands read its admin key there.",
    ),
}
OF_JOBS = {
    "RUN": "The id of the run. `offbeat exec` sets it for its command, and both `exec` and `ping` use it.",
    "RUN_KEYS": "The keys that `offbeat exec` reports already. It sets the variable for its command and reads it itself.",
    "ENVIRONMENT_FD": "The environment of the caller, from `client/bin/offbeat` to `offbeat exec`.",
}
HEAD = ("flag", "variable", "value", "default", "description")


def page() -> str:
    """The page."""
    fields = list(Settings.model_fields.items())
    cut = [name for name, _ in fields].index(FIRST_LIMIT)
    former = [(f"`{_flag(old)}`", f"`{_variable(old)}`", f"`{_flag(new)}`") for old, new in FORMER_NAMES.items()]
    defaults = ClientSettings()
    client = [
        (f"`{_variable(name)}`", OF_CLIENT[name][0], _default(getattr(defaults, name)), OF_CLIENT[name][1])
        for name in ClientSettings._fields
    ]
    jobs = [(f"`{_variable(name)}`", described(name, OF_JOBS.get(name))) for name in VARIABLES_OF_JOBS]
    return f"""# Settings

`offbeat serve` reads each setting from its flag, else from the variable of the same name, else it uses the default.
`--keep-days` and `OFFBEAT_KEEP_DAYS` are the same setting.

Some settings may also come from a file: {words(map(_flag, SECRETS), "and")}.
The variable is the name with `_FILE` at its end, and its value is the path:
`OFFBEAT_ADMIN_KEY_FILE=/run/secrets/admin-key`. Secrets of Docker, Kubernetes and systemd are such files.

The server does not start if

- a variable `OFFBEAT_…` is no setting. The error names the nearest one;
- a value contains a placeholder such as `${{ADMIN_KEY}}` that was not replaced;
- a setting is given twice, for example by its variable and by its `_FILE` variable;
- a value is outside its range. The error names the flag, the variable, the value and the range.

The commands of the client warn about an unknown variable and continue. Variables that Kubernetes sets for a Service
named `offbeat` (`OFFBEAT_SERVICE_HOST`, `OFFBEAT_PORT=tcp://…`) are ignored.

## Server

{table(HEAD, map(_row, fields[:cut]))}
## Limits and timeouts

[Limits](limits.md) lists what happens at each.

{table(HEAD, map(_row, fields[cut:]))}
## Client

{table(("variable", "flag", "default", "description"), client)}
`offbeat exec` and `offbeat ping` also use these variables, which `offbeat exec` sets itself:

{table(("variable", "description"), jobs)}
## Former names

These names still work. The server logs a warning with the present name.

{table(("former flag", "former variable", "present flag"), former)}"""


def _row(item: tuple[str, FieldInfo]) -> tuple[str, ...]:
    name, field = item
    flag = f"`{_flag(name)}`"
    if _kind(field) is bool:
        flag += f" `--no-{name.replace('_', '-')}`"
    default = _default(field.get_default(call_default_factory=True))
    return flag, f"`{_variable(name)}`", _value(name, field), default, described(name, field.description)


def _value(name: str, field: FieldInfo) -> str:
    kind = _kind(field)
    if kind is bool:
        return "on or off"
    if get_origin(kind) is Literal:
        return words(get_args(kind))
    if kind is Path:
        return "path"
    if get_origin(kind) is list:
        return "networks, separated by commas"
    if kind not in (int, float):
        return "URL" if name.endswith("url") else "text"
    unit = "seconds" if kind is float else "bytes" if "bytes" in name else "days" if "days" in name else "number"
    limits = {type(each).__name__.lower(): getattr(each, type(each).__name__.lower()) for each in field.metadata}
    low, high = limits.get("ge"), limits.get("le")
    if low is not None and high is not None:
        return f"{unit}, {number(low)} to {number(high)}"
    if low is not None:
        return f"{unit}, at least {number(low)}"
    return f"{unit}, more than {number(limits['gt'])}" if "gt" in limits else unit


def _kind(field: FieldInfo) -> Any:
    """The type without `| None`."""
    if get_origin(field.annotation) in (Union, types.UnionType):
        (kind,) = (each for each in get_args(field.annotation) if each is not type(None))
        return kind
    return field.annotation


def _default(value: Any) -> str:
    return "" if value is None or value == [] else code(value)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _variable(name: str) -> str:
    return f"OFFBEAT_{name.upper()}"
