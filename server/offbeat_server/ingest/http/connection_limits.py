"""Limits of connections: in all, and for one client address, so that no client takes all of them.

An IPv6 client owns its whole /64, so that counts as one address. A trusted proxy speaks for many clients and has no
limit of its own: what is behind it, it has to limit itself.
"""

from collections import Counter
from collections.abc import Iterable

from offbeat_server.ingest.http.client_address import Peer

IPV6_PREFIX_BYTES = 8
ADDRESS_SHARE = 0.75  # where nothing else is said: room for one machine's ten thousand, and for others beside it


class ConnectionLimiter:
    """Counts connections. `per_address_max` 0: one address may have them all; None: `ADDRESS_SHARE` of them."""

    def __init__(self, connections_max: int, per_address_max: int | None = None) -> None:
        self._connections_max = connections_max
        self._per_address_max = int(connections_max * ADDRESS_SHARE) if per_address_max is None else per_address_max
        self.open_count = 0
        self.refused: Counter[str] = Counter()  # by reason: `full`, `address`
        self._by_address: dict[bytes, int] = {}

    @property
    def addresses(self) -> int:
        """How many addresses are counted."""
        return len(self._by_address)

    def open(self, peer: Peer) -> bool:
        """Whether there is room for one more connection of this peer; then it is counted."""
        if self.open_count >= self._connections_max:
            self.refused["full"] += 1
            return False
        if (address := self._counted(peer)) is not None:
            count = self._by_address.get(address, 0)
            if count >= self._per_address_max:
                self.refused["address"] += 1
                return False
            self._by_address[address] = count + 1
        self.open_count += 1
        return True

    def release(self, peers: Iterable[Peer]) -> None:
        """Connections of these peers, counted before, are closed."""
        for peer in peers:
            self.open_count -= 1
            if (address := self._counted(peer)) is None:
                continue
            if self._by_address[address] > 1:
                self._by_address[address] -= 1
            else:
                del self._by_address[address]

    def _counted(self, peer: Peer) -> bytes | None:
        """The client under which a connection of this peer is counted; None: it is not counted."""
        if not self._per_address_max or peer.trusted or peer.source is None:
            return None
        return network_of(peer.source)


def network_of(source: bytes) -> bytes:
    """The unit that counts as one client: an IPv4 address, or an IPv6 /64."""
    return source[:IPV6_PREFIX_BYTES] if len(source) == 16 else source
