"""Where channels may send to: public addresses only, unless the operator says otherwise.

Names are no protection, because a name can answer with another address the second time; so the check is made on the
address of the very socket that is about to be connected (`Guard.socket`), and the resolver's check only gives the
clearer message. `ipaddress.is_global` is not enough: on Python 3.11 it is true for NAT64, 6to4 and multicast addresses.
"""

import asyncio
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from offbeat_server.common.ip_address import IpAddress, IpNetwork, unmapped

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
LOOKUPS_MAX = 32  # threads: a name whose servers are silent holds one of them for ten seconds or more

# IANA's special-purpose registries, and what clouds answer metadata on.
_DENIED_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # connects to this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT; also Alibaba's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host, though it looks public
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# Of IPv6 only global unicast is open. Addresses outside of it need no list: loopback, NAT64 (64:ff9b::/96 and
# 64:ff9b:1::/48), discard, SRv6, unique local, link-local, site-local, multicast.
_GLOBAL_6 = IPv6Network("2000::/3")
_DENIED_6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",
        "2002::/16",  # 6to4: carries any IPv4 address inside
        "3fff::/20",
    )
)


class BlockedDestinationError(OSError):
    """This address may not be sent to."""


class Guard:
    """Decides on final addresses. `allow_private` opens all of them, `allowed` the listed networks."""

    def __init__(self, allow_private: bool = False, allowed: Sequence[IpNetwork] = ()) -> None:
        self._allow_private = allow_private
        self._allowed = tuple(allowed)

    def permits(self, host: str) -> bool:
        """Whether this IP address (in text, a scope allowed) may be connected to."""
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return self._allow_private or _is_public(address) or self._is_listed(address)

    def check(self, host: str) -> None:
        """Raises DestinationRefused."""
        if not self.permits(host):
            raise BlockedDestinationError(
                f"{host} is not a public address; see --allow-destinations and --allow-private-destinations"
            )

    def socket(self, info: AddressInfo) -> socket.socket:
        """A socket for that address, or DestinationRefused: aiohttp's `socket_factory`.

        Called for every attempt with the final address, also where the host of the URL is a literal.
        """
        family, kind, protocol, _, address = info
        self.check(str(address[0]))
        created = socket.socket(family, kind, protocol)
        created.setblocking(False)
        return created

    def _is_listed(self, address: IpAddress) -> bool:
        address = unmapped(address)
        return any(address.version == network.version and address in network for network in self._allowed)


class Resolver(AbstractResolver):
    """Looks names up in threads of its own, so that silent name servers of one channel do not starve the others.

    (The default executor has as few as five threads, and the lookups of all libraries share it.)
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._threads = ThreadPoolExecutor(LOOKUPS_MAX, thread_name_prefix="lookup")

    async def look_up(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> list[AddressInfo]:
        """All addresses of a name. Raises OSError."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port, family)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The permitted addresses, for aiohttp. Raises DestinationRefused where there is none."""
        found = await self.look_up(host, port, family)
        permitted = [info for info in found if self._guard.permits(str(info[4][0]))]
        if not permitted:
            self._guard.check(str(found[0][4][0]))
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in permitted
        ]

    async def close(self) -> None:
        """Let go of the threads; one that still waits for a name server ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: int) -> list[AddressInfo]:
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    return [(int(info[0]), int(info[1]), info[2], info[3], info[4]) for info in found]


def _is_public(address: IpAddress) -> bool:
    address = unmapped(address)
    if isinstance(address, IPv4Address):
        return not _in_any(address, _DENIED_4)
    return address in _GLOBAL_6 and not _in_any(address, _DENIED_6)


def _in_any(address: IpAddress, networks: Iterable[IpNetwork]) -> bool:
    return any(address in network for network in networks)
