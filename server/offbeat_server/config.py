"""Every setting, once: the flag `--x-y`, the variable `OFFBEAT_X_Y` and the default are the same field.

Precedence: flag, variable, default. A secret may also come from the file that `OFFBEAT_X_Y_FILE` names. The only module
of the server that reads the environment. The options of `offbeat serve` (cli/serve.py) and the page
docs/reference/settings.md are generated from these fields.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from offbeat.cli.settings import SERVICE_LINK, environment_in_upper_case, unknown_among
from offbeat_server.common.errors import SettingsError, without_secrets
from offbeat_server.common.ip_address import IpNetwork
from offbeat_server.engine.model.definition_problems import reason_of

S = TypeVar("S", bound=BaseSettings)
PORT = 8080
# Settings that may also come from a file, which the variable OFFBEAT_…_FILE names.
SECRETS = ("database_url", "admin_key", "metrics_token", "smtp_url", "watchdog_url")
# Former names of settings. Flags and variables with these names still work, with a warning.
FORMER_NAMES = {
    "door": "http_server",
    "beat_url": "watchdog_url",
    "beat_every": "watchdog_every",
    "root_dialect": "root_protocol",
    "ack_timeout": "commit_timeout",
    "stop_delay": "drain_delay",
}
PLACEHOLDER = re.compile(r"\$\{[^{}]*\}")
WILDCARDS = ("", "0.0.0.0", "::")  # hosts that mean all addresses of this machine


class Settings(BaseSettings):
    """Settings of `offbeat serve`."""

    model_config = SettingsConfigDict(env_prefix="OFFBEAT_", extra="ignore", frozen=True)

    host: str = Field(
        "127.0.0.1", description="Address to listen on. 0.0.0.0 or :: means all addresses of this machine."
    )
    port: int = Field(PORT, ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it.")
    database_url: str | None = Field(
        None,
        description="URL of a Postgres >= 15. With several hosts (h1,h2) the primary is used. Default: an embedded "
        "Postgres in the data directory, which needs the extra offbeat-server[embedded].",
    )
    data_dir: Path = Field(
        Path(".offbeat"), description="Directory of the embedded Postgres and of the generated admin key."
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="1: one process does everything; N >= 2: one process evaluates deadlines and sends alerts, "
        "and N processes serve HTTP (pings, API, pages).",
    )
    http_server: Literal["fast", "aiohttp"] = Field(
        "fast",
        description="HTTP server for pings: fast (our own, with aiohttp for unusual requests), or aiohttp alone.",
    )
    config: Path | None = Field(None, description="A file of monitors, channels and projects applied at the start.")
    public_url: str | None = Field(
        None, description="Address that people and jobs use if there is a proxy: scheme and host, no path."
    )
    trusted_proxies: Annotated[list[IpNetwork], NoDecode] = Field(
        default_factory=list,
        description="Networks of proxies whose X-Forwarded-For, -Proto and -Host are trusted, separated by commas.",
    )
    admin_key: str | None = Field(
        None,
        description="Access key with all rights. Default: the first node of a database generates one, shows it once "
        "and keeps it in its data directory; it is valid at all nodes.",
    )
    metrics_token: str | None = Field(
        None, description="Bearer token for /metrics and /sd/prometheus. Default: no token is needed."
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, description="First port of the /metrics of the workers with --workers. 0 takes free ports."
    )
    keep_days: int = Field(
        30, ge=1, le=3650, description="Days that pings, finished runs and resolved incidents are kept."
    )
    watchdog_url: str | None = Field(
        None,
        description="URL of an external watchdog. It is pinged only while deadlines are evaluated and alerts are sent.",
    )
    watchdog_every: float = Field(30, ge=1, description="Seconds between two pings of --watchdog-url.")
    allow_private_destinations: bool = Field(
        False, description="Let channels send to private, loopback and link-local addresses."
    )
    allow_destinations: Annotated[list[IpNetwork], NoDecode] = Field(
        default_factory=list,
        description="Private networks that channels may send to even without --allow-private-destinations, separated "
        "by commas.",
    )
    smtp_url: str | None = Field(
        None,
        description="Mail server for e-mail channels without one of their own: "
        "smtps://user:password@host/?from=sender@host (smtp: with STARTTLS; smtp+insecure: not encrypted).",
    )
    smtp_ehlo: str | None = Field(
        None,
        description="Name for EHLO at mail servers, such as beat.example.org or [192.0.2.1]. Default: the host name if "
        "it has a domain, else its address.",
    )
    auto_provision: bool = Field(
        True, description="Let pings create monitors (Healthchecks create=1, Cronitor, Sentry)."
    )
    root_protocol: Literal["none", "snitch"] = Field(
        "none", description="Protocol served at /{token}: none, or snitch (Dead Man's Snitch)."
    )
    pgbouncer: bool = Field(
        False, description="The database is behind a pooler in transaction mode: no prepared statements."
    )
    log_format: Literal["json", "console"] = Field(
        "console", description="Format of log lines: json for programs, console for people."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level of log lines that are written."
    )

    # Limits. The table of limits in the documentation has the effect of each.
    pings_pending_max: int = Field(
        20_000, ge=1, description="Maximum number of pings that wait for their commit. Further pings are answered 503."
    )
    bytes_pending_max: int = Field(
        64_000_000,
        ge=1_000_000,
        description="Maximum size in bytes of the pings that wait. Further pings are answered 503.",
    )
    batch_pings_max: int = Field(2_000, ge=1, description="Maximum number of pings in one COPY.")
    batch_bytes_max: int = Field(1_000_000, ge=20_000, description="Maximum size in bytes of one COPY.")
    commit_timeout: float = Field(
        8.0, gt=0, description="Seconds after which a ping that is not committed is answered 503."
    )
    body_bytes_max: int = Field(
        1_000_000,
        ge=10_000,
        description="Bytes of a ping's body that are kept whole. Of a longer body, both ends are kept.",
    )
    key_pings_per_minute_max: int = Field(
        0,
        ge=0,
        description="Maximum pings of one key per minute, in each process. Further pings are answered 429. "
        "0: no limit.",
    )
    provisioned_max: int = Field(
        10_000, ge=0, description="Pings create no monitor in a project that has this many monitors."
    )
    header_timeout: float = Field(
        10.0, gt=0, description="Seconds for a request's line and headers; then the connection is closed."
    )
    body_timeout: float = Field(
        10.0, gt=0, description="Seconds for a request's body; then 408 and the connection is closed."
    )
    idle_timeout: float = Field(75.0, gt=0, description="Seconds that a connection may be idle between requests.")
    connections_max: int = Field(
        20_000, ge=10, description="Maximum open connections of one process. Further connections are closed at once."
    )
    connections_per_address_max: int | None = Field(
        None,
        ge=0,
        description="Maximum connections per client address, except trusted proxies. "
        "Default: 75 % of --connections-max; 0: no limit.",
    )
    writer_silent_max: float = Field(
        3.0, gt=0, description="Seconds after which a writer that shows no activity is declared dead."
    )
    drain_delay: float = Field(
        0.0,
        ge=0,
        description="Seconds before a stop in which pings are still taken and `/readyz` is 503, for load balancers.",
    )
    stop_timeout: float = Field(10.0, gt=0, description="Maximum seconds of an orderly stop, after --drain-delay.")

    @field_validator("*", mode="before")
    @classmethod
    def _is_replaced(cls, value: Any) -> Any:
        if isinstance(value, str) and (left := PLACEHOLDER.search(value)):
            raise ValueError(
                f"contains the placeholder {left[0]}, which was not replaced: set the variable, or give the value"
            )
        return value

    @field_validator("port", mode="before")
    @classmethod
    def _is_no_service_link(cls, value: Any) -> Any:
        # Kubernetes sets OFFBEAT_PORT=tcp://… in every pod beside a Service that is named offbeat.
        return PORT if isinstance(value, str) and SERVICE_LINK.match(value) else value

    @field_validator("trusted_proxies", "allow_destinations", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("watchdog_url")
    @classmethod
    def _is_web_address(cls, value: str | None) -> str | None:
        if not value:
            return None
        try:
            parts = urlsplit(value)
            wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
        except ValueError:  # a port that is no number, a bracket that is not closed
            wrong = True
        if wrong:
            raise ValueError("must begin with http:// or https:// and a host name, such as https://watchdog.example/id")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, value: str | None) -> str | None:
        if not value:
            return None
        try:
            parts = urlsplit(value)
            known = parts.port is None or parts.port > 0
        except ValueError:  # a port that is no number, a bracket that is not closed
            raise ValueError(
                "must be a URL with a scheme and a host name, such as https://offbeat.example.org"
            ) from None
        if parts.scheme not in ("http", "https") or not parts.hostname or not known:
            raise ValueError("must begin with http:// or https:// and a host name")
        if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
            raise ValueError(
                f"must end after the host name: pages are served at the root of one, never below a path; give Offbeat "
                f"a name of its own, such as {parts.scheme}://offbeat.{parts.hostname}"
            )
        return f"{parts.scheme}://{parts.netloc}"


def read_settings(flags: dict[str, Any]) -> Settings:
    """The settings from flags (None: not given) over the environment over the defaults.

    A former name counts as the present one. Raises SettingsError that names the flag, the value and what is allowed, or
    variables that are no setting.
    """
    if unknown := unknown_variables():
        raise SettingsError("\n".join(unknown))
    given = _with_present_names({name: value for name, value in flags.items() if value is not None})
    return _read(Settings, {**_read_variables(given), **given})


def former_names_in(flags: dict[str, Any]) -> list[str]:
    """A sentence for each flag and variable that is given by its former name."""
    warnings = []
    for former, present in FORMER_NAMES.items():
        if flags.get(former) is not None:
            warnings.append(f"{flag_of(former)} is now called {flag_of(present)}; the former name will be removed")
        warnings += [
            f"{_variable(former)}{end} is now called {_variable(present)}{end}; the former name will be removed"
            for end in ("", "_FILE")
            if f"{_variable(former)}{end}" in environment_in_upper_case()
        ]
    return warnings


def _with_present_names(given: dict[str, Any]) -> dict[str, Any]:
    for former, present in FORMER_NAMES.items():
        if former in given and present in given:
            raise SettingsError(
                f"{flag_of(former)} and {flag_of(present)} are the same setting: give only {flag_of(present)}"
            )
    return {FORMER_NAMES.get(name, name): value for name, value in given.items()}


def flag_of(name: str) -> str:
    """Return the flag of a setting."""
    return f"--{name.replace('_', '-')}"


def _variable(name: str) -> str:
    return f"OFFBEAT_{name.upper()}"


def unknown_variables() -> list[str]:
    """A sentence for each variable OFFBEAT_… of the environment that no setting reads, with the nearest name."""
    return unknown_among(variables_of_server())


def variables_of_server() -> set[str]:
    """The names of all variables of settings, without OFFBEAT_."""
    names = {*Settings.model_fields, *FORMER_NAMES}
    secrets = {*SECRETS, *(former for former, present in FORMER_NAMES.items() if present in SECRETS)}
    return {name.upper() for name in names} | {f"{name.upper()}_FILE" for name in secrets}


def _read_variables(given: dict[str, Any]) -> dict[str, str]:
    """Settings from variables that pydantic does not read: with former names, and with `_FILE`, which name a file.

    Raises SettingsError if one setting is set twice.
    """
    environment, found = environment_in_upper_case(), {}
    for name in dict.fromkeys((*SECRETS, *FORMER_NAMES.values())):
        names = (name, *(former for former, present in FORMER_NAMES.items() if present == name))
        ends = ("", "_FILE") if name in SECRETS else ("",)
        used = [variable for each in names for end in ends if environment.get(variable := f"{_variable(each)}{end}")]
        if name in given or not used:
            continue
        if len(used) > 1 and used[-1].startswith(_variable(name)):
            raise SettingsError(f"{used[0]} and {used[1]} are both set: unset one of them")
        if len(used) > 1:
            raise SettingsError(f"{used[-1]} and {used[0]} are the same setting: unset {used[-1]}")
        value = environment[used[0]]
        if used[0].endswith("_FILE"):
            found[name] = _read_file(used[0], value)
        elif used[0] != _variable(name):
            found[name] = value
    return found


def _read_file(variable: str, path: str) -> str:
    try:
        text = Path(path).read_text().strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or ("it is not UTF-8" if isinstance(error, UnicodeError) else error)
        raise SettingsError(
            f"{variable}: the file {path} cannot be read ({reason}): name a readable file that contains only the "
            f"value, or unset {variable}"
        ) from None
    if not text:
        raise SettingsError(f"{variable}: the file is empty: write the value into {path}, or unset {variable}")
    return text


def _read(model: type[S], flags: dict[str, Any]) -> S:
    try:
        return model(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = str(problem["loc"][0]) if problem["loc"] else "?"
            lines.append(
                f"{flag_of(name)} ({_variable(name)}): {reason_of(problem)}{_not_this(name, problem['input'])}"
            )
        raise SettingsError("\n".join(dict.fromkeys(lines))) from None


def _not_this(name: str, value: object) -> str:
    """The wrong value for an error message, without what is secret in it."""
    if name not in SECRETS:
        return f", not {value!r}"
    return f", not {without_secrets(str(value))!r}" if name.endswith("_url") else ""


class ServiceEnvironment(NamedTuple):
    """The variables that systemd sets for a service of `Type=notify`; both None without it."""

    notify_socket: str | None = None
    watchdog_s: float | None = None  # systemd kills the process after this time without a sign of life


def read_service_environment() -> ServiceEnvironment:
    """systemd's variables of this process, as sd_notify(3) and sd_watchdog_enabled(3) describe them."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    meant_for = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    watched = microseconds.isdigit() and meant_for == str(os.getpid())
    return ServiceEnvironment(
        notify_socket=os.environ.get("NOTIFY_SOCKET") or None,
        watchdog_s=int(microseconds) / 1_000_000 if watched else None,
    )
