"""Where the commands that talk to a server find it: flag, variable, default, in this order.

`offbeat exec` and `offbeat ping` read the same variables themselves, because they import nothing but themselves.
"""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from offbeat.errors import SettingsError

URL_DEFAULT = "http://127.0.0.1:8080"
VARIABLES_OF_JOBS = ("RUN", "RUN_KEYS", "ENVIRONMENT_FD")  # set by `offbeat exec` for its command and for itself


class ClientSettings(NamedTuple):
    """`url` of the server, `admin_key` (None: the key in `data_dir`), and `data_dir` of a server on this machine."""

    url: str = URL_DEFAULT
    admin_key: str | None = None
    data_dir: Path = Path(".offbeat")


def read_client_settings(flags: dict[str, Any]) -> ClientSettings:
    """The settings from flags (None: not given) over the environment over the defaults.

    Raises SettingsError that names the flag, the variable and the value.
    """

    def given(name: str) -> str | None:
        value: str | None = flags.get(name)
        return value if value is not None else _environment().get(f"OFFBEAT_{name.upper()}")

    url = (given("url") or "").strip() or URL_DEFAULT
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"--url (OFFBEAT_URL): must begin with http:// or https://, not {url!r}")
    data_dir = given("data_dir")
    return ClientSettings(
        url.rstrip("/"), given("admin_key"), Path(data_dir) if data_dir else ClientSettings().data_dir
    )


def misspelt_variables() -> list[str]:
    """A sentence for each variable of the environment that nearly has the name of one of these settings."""
    known = {*(name.upper() for name in ClientSettings._fields), *VARIABLES_OF_JOBS}
    found = []
    for name in sorted(_environment()):
        setting = name.removeprefix("OFFBEAT_")
        if setting != name and setting not in known and (near := get_close_matches(setting, known, 1, 0.8)):
            found.append(f"{name}: there is no such setting; did you mean OFFBEAT_{near[0]}?")
    return found


def read_variable(name: str) -> str | None:
    """An environment variable that a file of monitors and channels refers to."""
    return os.environ.get(name)


def _environment() -> dict[str, str]:
    """By name in upper case."""
    return {name.upper(): value for name, value in os.environ.items()}
