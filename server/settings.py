"""Every setting, once: the flag `--x-y`, the variable `OFFBEAT_X_Y` and the default are the same field.

Precedence: flag, variable, default. The only module that reads the environment. The command line is made from these
fields (server/cli.py), and a test holds the README's table against them.
"""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server.errors import SettingsError

S = TypeVar("S", bound=BaseSettings)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(BaseSettings):
    """What `offbeat serve` can be told."""

    model_config = SettingsConfigDict(env_prefix="OFFBEAT_", extra="ignore", frozen=True)

    host: str = Field("0.0.0.0", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it.")
    database_url: str | None = Field(
        None, description="Postgres >= 15 to use; none: an embedded Postgres in the data directory."
    )
    data_dir: Path = Field(
        Path(".offbeat"), description="Where the embedded Postgres and the generated admin key live."
    )
    workers: int = Field(
        1, ge=1, le=64, description="1: one process does everything; N >= 2: a keeper process and N ingest processes."
    )
    door: Literal["fast", "aiohttp"] = Field(
        "fast", description="How pings are taken: the fast door, or aiohttp alone."
    )
    config: Path | None = Field(None, description="A file of monitors, channels and projects applied at the start.")
    public_url: str | None = Field(
        None, description="The address people and jobs use, where a proxy stands in front: scheme and host, no path."
    )
    trusted_proxies: Annotated[list[Network], NoDecode] = Field(
        default_factory=list, description="Networks whose X-Forwarded-For and -Proto are believed, separated by commas."
    )
    admin_key: str | None = Field(
        None, description="The key that may do everything; none: generated, shown once, kept in the data directory."
    )
    metrics_token: str | None = Field(
        None, description="Bearer token that /metrics and /sd/prometheus ask for; none: open."
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, description="First port of the workers' own /metrics with --workers; 0 takes free ones."
    )
    keep_days: int = Field(
        30, ge=1, le=3650, description="How many days of pings, finished runs and resolved incidents are kept."
    )
    beat_url: str | None = Field(
        None, description="An outside watchdog, pinged only while the watermark moves and the outbox drains."
    )
    beat_every: float = Field(30, ge=1, description="Seconds between two pings of --beat-url.")
    allow_private_destinations: bool = Field(
        False, description="Let channels send to private, loopback and link-local addresses."
    )
    allow_destinations: Annotated[list[Network], NoDecode] = Field(
        default_factory=list,
        description="Private networks that channels may send to all the same, separated by commas.",
    )
    smtp_url: str | None = Field(
        None,
        description="Mail server for e-mail channels that name none: smtps://user:password@host/?from=sender@host "
        "(smtp: STARTTLS, smtp+insecure: neither).",
    )
    auto_provision: bool = Field(True, description="Let pings of the dialects that know it create monitors.")
    root_dialect: Literal["none", "snitch"] = Field(
        "none", description="A dialect served at /{token}: none, or snitch."
    )
    pgbouncer: bool = Field(
        False, description="The database is behind a pooler in transaction mode: no prepared statements."
    )
    log_format: Literal["json", "console"] = Field("console", description="Lines for programs or for people.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much to say.")

    # Limits. What happens at each is in the README's table of limits.
    pings_pending_max: int = Field(20_000, ge=1, description="Pings that may wait for their commit; beyond: 503.")
    bytes_pending_max: int = Field(64_000_000, ge=1_000_000, description="Bytes of them; beyond: 503.")
    batch_pings_max: int = Field(2_000, ge=1, description="Pings in one COPY.")
    batch_bytes_max: int = Field(1_000_000, ge=20_000, description="Bytes in one COPY.")
    ack_timeout: float = Field(
        8.0, gt=0, description="Seconds until a ping that could not be committed is answered 503."
    )
    body_bytes_max: int = Field(1_000_000, ge=10_000, description="Body of one ping; beyond: 413.")
    key_pings_per_minute_max: int = Field(
        0, ge=0, description="Pings of one key a minute, in each process; beyond: 429. 0: as many as it likes."
    )
    header_timeout: float = Field(
        10.0, gt=0, description="Seconds for a request's line and headers; then the connection is closed."
    )
    body_timeout: float = Field(
        10.0, gt=0, description="Seconds for a request's body; then 408 and the connection is closed."
    )
    idle_timeout: float = Field(75.0, gt=0, description="Seconds a connection may be silent between requests.")
    connections_max: int = Field(20_000, ge=10, description="Open connections of one process; beyond: closed at once.")
    connections_per_address_max: int | None = Field(
        None,
        ge=0,
        description="Of these, those of one address that is no trusted proxy; none: three quarters, 0: all.",
    )
    writer_silent_max: float = Field(3.0, gt=0, description="Seconds after which a silent writer is fenced.")
    stop_timeout: float = Field(10.0, gt=0, description="Seconds for an orderly stop.")

    @field_validator("trusted_proxies", "allow_destinations", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with http:// or https:// and a host name")
        if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
            raise ValueError(
                f"must end after the host name: pages are served at the root of one, never below a path; give Offbeat "
                f"a name of its own, such as {parts.scheme}://offbeat.{parts.hostname}"
            )
        return f"{parts.scheme}://{parts.netloc}"


def read_settings(flags: dict[str, Any]) -> Settings:
    """The settings from flags (None: not given) over the environment over the defaults.

    Raises SettingsError that names the flag, the value and what is allowed.
    """
    return _read(Settings, flags)


def _read(model: type[S], flags: dict[str, Any]) -> S:
    try:
        return model(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = str(problem["loc"][0]) if problem["loc"] else "?"
            lines.append(
                f"--{name.replace('_', '-')} (OFFBEAT_{name.upper()}): {problem['msg']}, not {problem['input']!r}"
            )
        raise SettingsError("\n".join(lines)) from None


class ClientSettings(BaseSettings):
    """Where the commands that talk to a server find it, and what a job under `offbeat exec` is told."""

    model_config = SettingsConfigDict(env_prefix="OFFBEAT_", extra="ignore", frozen=True)

    url: str = Field("http://127.0.0.1:8080", description="The server's address.")
    admin_key: str | None = Field(None, description="The key to show; none: the one in the data directory.")
    data_dir: Path = Field(Path(".offbeat"), description="Where a server on this machine keeps its admin key.")
    run: str | None = Field(None, description="The run that pings belong to; set by `offbeat exec` for its command.")

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")


def read_client_settings(flags: dict[str, Any]) -> ClientSettings:
    """As `read_settings`, for the commands that talk to a server."""
    return _read(ClientSettings, flags)


def environment_for(command: dict[str, str]) -> dict[str, str]:
    """The environment of a command that is started: ours, and what is added for it."""
    return {**os.environ, **command}


class ServiceEnvironment(NamedTuple):
    """What systemd says to a service of `Type=notify`; both None without it."""

    notify_socket: str | None = None
    watchdog_s: float | None = None  # without a sign of life for so long, it is killed


def read_service_environment() -> ServiceEnvironment:
    """systemd's variables of this process, as sd_notify(3) and sd_watchdog_enabled(3) describe them."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    meant_for = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    watched = microseconds.isdigit() and meant_for == str(os.getpid())
    return ServiceEnvironment(
        notify_socket=os.environ.get("NOTIFY_SOCKET") or None,
        watchdog_s=int(microseconds) / 1_000_000 if watched else None,
    )
