"""The address where a process takes connections: bound before anything is said about it, so that what is said is true.

A writer registers where its metrics can be scraped before the first connection is accepted; with `--port 0` only the
bound socket knows.
"""

import socket

from offbeat_server.common.errors import SettingsError
from offbeat_server.config import WILDCARDS


def bind_socket(host: str, port: int) -> socket.socket:
    """A TCP socket bound to this address (0: a free port), not listening yet. Raises SettingsError."""
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = addresses[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(f"--host {host}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise SettingsError(f"--port {port} on --host {host}: {error.strerror}; choose another") from error
    return listener


def seen_from_outside(host: str, node: str, port: int) -> str:
    """host:port for Prometheus: the node's name where we listen on all of its addresses."""
    name = node if host in WILDCARDS else host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
