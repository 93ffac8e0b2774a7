"""From which address a ping came, also behind proxies that we trust.

`X-Forwarded-For` is believed only as far as it was written by configured networks: read from the right, the first
address that is none of theirs is the client; what stands before it anybody may have made up.
"""

import ipaddress
from collections.abc import Sequence
from typing import Any, NamedTuple

from server.settings import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Peer(NamedTuple):
    """The other end of a connection: its packed address (None: not an IP connection), and whether it is a proxy."""

    source: bytes | None
    trusted: bool


class Sources:
    """Reads addresses; `trusted` is the setting `trusted_proxies`."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)

    def peer(self, peername: Any) -> Peer:
        """Of a socket's `peername`."""
        address = _address(peername[0]) if isinstance(peername, tuple) and peername else None
        return Peer(None, False) if address is None else Peer(address.packed, self._is_trusted(address))

    def client(self, peer: Peer, forwarded_for: str | None) -> bytes | None:
        """The client behind a peer, by the `X-Forwarded-For` of its request (several joined by commas)."""
        source = peer.source
        if forwarded_for is None or not peer.trusted:
            return source
        for hop in reversed(forwarded_for.split(",")):
            address = _address(_without_port(hop.strip()))
            if address is None:
                break
            source = address.packed
            if not self._is_trusted(address):
                break
        return source

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # An IPv4 client of a socket that listens on both.
    return getattr(address, "ipv4_mapped", None) or address


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
