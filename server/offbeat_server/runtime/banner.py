"""The text that a start prints for people: the address, the admin key once, and three lines to try.

The lines work when pasted, again and again: the monitor that they make has a key that is always the same in this
installation.
"""

import uuid
from shlex import quote
from typing import Protocol
from urllib.parse import urlsplit

import click

from offbeat.admin_key import path_in
from offbeat_server.config import WILDCARDS, Settings

SLUG = "hello"


class ShownKey(Protocol):
    """The admin key as this process knows it; see db/repositories/shared_admin_key.py."""

    @property
    def key(self) -> str | None:
        """None where another node has it."""

    @property
    def home(self) -> str:
        """The place of the key."""

    @property
    def is_new(self) -> bool:
        """Whether it was made just now."""


def show(url: str, settings: Settings, admin_key: ShownKey, secret: bytes) -> None:
    """Print it. `url` is where a client on this machine reaches the server. `secret` is that of the installation;
    nothing of it can be read from what is printed.
    """
    click.echo(f"listening on {_listening(url, settings.host)}")
    base = settings.public_url or _reachable(url)
    if admin_key.is_new:
        click.echo(f"admin key (shown once, kept in {path_in(settings.data_dir)}): {admin_key.key}")
    elif admin_key.key is None:
        click.echo(
            f"admin key: that of this database, first shown on another node and kept in {admin_key.home}. If it is "
            "lost, start with --admin-key."
        )
    key_is_here = not settings.admin_key and admin_key.key is not None
    given = f"$(cat {quote(str(path_in(settings.data_dir)))})" if key_is_here else "$OFFBEAT_ADMIN_KEY"
    key = uuid.uuid5(uuid.UUID(bytes=secret[:16]), SLUG)
    click.echo(
        f"""
Make a monitor that expects a ping every minute, ping it, and look at it:
  curl -X PUT -H "X-Api-Key: {given}" -H 'Content-Type: application/json' \\
       -d '{{"every": "1m", "grace": "30s", "key": "{key}"}}' {base}/api/v1/monitors/{SLUG}
  curl {base}/api/v1/heartbeat/{key}
  curl -H "X-Api-Key: {given}" {base}/api/v1/monitors/{SLUG}
Or open {base} and sign in with the admin key.
"""
    )


def _listening(url: str, host: str) -> str:
    """The address that is really listened on."""
    if host not in WILDCARDS:
        return url
    shown = "[::]" if host == "::" else "0.0.0.0"
    return f"http://{shown}:{urlsplit(url).port} (all addresses of this machine)"


def _reachable(url: str) -> str:
    """An address that works from here: one cannot connect to "all addresses" everywhere."""
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    if host == "localhost":
        return f"http://localhost:{parts.port}"
    return url
