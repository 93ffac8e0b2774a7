"""The address and key of the server for the commands that call it: flag, variable, default, in this order.

`offbeat exec` and `offbeat ping` read the same variables themselves, because they import no other module.
"""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from offbeat.errors import SettingsError

URL_DEFAULT = "http://127.0.0.1:8080"
# Variables that Kubernetes sets in every pod for Services whose names begin with offbeat.
_SERVICE = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
# Without OFFBEAT_. The client does not warn about the settings of a server on the same machine; a test compares both.
VARIABLES_OF_SERVER = (
    "ACK_TIMEOUT",
    "ADMIN_KEY",
    "ADMIN_KEY_FILE",
    "ALLOW_DESTINATIONS",
    "ALLOW_PRIVATE_DESTINATIONS",
    "AUTO_PROVISION",
    "BATCH_BYTES_MAX",
    "BATCH_PINGS_MAX",
    "BEAT_EVERY",
    "BEAT_URL",
    "BEAT_URL_FILE",
    "BODY_BYTES_MAX",
    "BODY_TIMEOUT",
    "BYTES_PENDING_MAX",
    "COMMIT_TIMEOUT",
    "CONFIG",
    "CONNECTIONS_MAX",
    "CONNECTIONS_PER_ADDRESS_MAX",
    "DATABASE_URL",
    "DATABASE_URL_FILE",
    "DATA_DIR",
    "DOOR",
    "DRAIN_DELAY",
    "HEADER_TIMEOUT",
    "HOST",
    "HTTP_SERVER",
    "IDLE_TIMEOUT",
    "KEEP_DAYS",
    "KEY_PINGS_PER_MINUTE_MAX",
    "LOG_FORMAT",
    "LOG_LEVEL",
    "METRICS_PORT",
    "METRICS_TOKEN",
    "METRICS_TOKEN_FILE",
    "PGBOUNCER",
    "PINGS_PENDING_MAX",
    "PORT",
    "PROVISIONED_MAX",
    "PUBLIC_URL",
    "ROOT_DIALECT",
    "ROOT_PROTOCOL",
    "SMTP_EHLO",
    "SMTP_URL",
    "SMTP_URL_FILE",
    "STOP_DELAY",
    "STOP_TIMEOUT",
    "TRUSTED_PROXIES",
    "WATCHDOG_EVERY",
    "WATCHDOG_URL",
    "WATCHDOG_URL_FILE",
    "WORKERS",
    "WRITER_SILENT_MAX",
)
# Former names of some of them, which still work; suggestions name the present ones.
FORMER_VARIABLES_OF_SERVER = {
    "ACK_TIMEOUT": "COMMIT_TIMEOUT",
    "BEAT_EVERY": "WATCHDOG_EVERY",
    "BEAT_URL": "WATCHDOG_URL",
    "BEAT_URL_FILE": "WATCHDOG_URL_FILE",
    "DOOR": "HTTP_SERVER",
    "ROOT_DIALECT": "ROOT_PROTOCOL",
    "STOP_DELAY": "DRAIN_DELAY",
}
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
        return value if value is not None else environment_in_upper_case().get(f"OFFBEAT_{name.upper()}")

    url = (given("url") or "").strip() or URL_DEFAULT
    try:
        parts = urlsplit(url)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        wrong = True
    if wrong:
        raise SettingsError(
            f"--url (OFFBEAT_URL): must begin with http:// or https:// and a host, such as {URL_DEFAULT}, not {url!r}"
        )
    data_dir = given("data_dir")
    return ClientSettings(
        url.rstrip("/"), given("admin_key"), Path(data_dir) if data_dir else ClientSettings().data_dir
    )


def unknown_variables() -> list[str]:
    """A sentence for each variable OFFBEAT_… of the environment that neither the client nor the server reads."""
    return unknown_among(set(VARIABLES_OF_SERVER))


def unknown_among(of_server: set[str]) -> list[str]:
    """A sentence for each variable OFFBEAT_… of the environment that is none of these, nor of the client."""
    known = of_server | {name.upper() for name in ClientSettings._fields} | set(VARIABLES_OF_JOBS)
    sentences = []
    for name, value in sorted(os.environ.items()):
        prefix, setting = name.upper()[:8], name.upper()[8:]
        if prefix != "OFFBEAT_" or setting in known or _SERVICE.search(name.upper()) or SERVICE_LINK.match(value):
            continue
        near = get_close_matches(setting, sorted(known), 1)
        present = [FORMER_VARIABLES_OF_SERVER.get(name, name) for name in near]
        hint = (
            f"did you mean OFFBEAT_{present[0]}?"
            if present
            else "`offbeat serve --help` lists the settings of the server"
        )
        sentences.append(f"{name}: there is no such setting; {hint}")
    return sentences


def read_variable(name: str) -> str | None:
    """An environment variable that a file of monitors and channels refers to."""
    return os.environ.get(name)


def environment_in_upper_case() -> dict[str, str]:
    """The environment by name in upper case, as pydantic reads it."""
    return {name.upper(): value for name, value in os.environ.items()}
