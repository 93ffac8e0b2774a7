"""Which host of a --database-url with several is the primary.

`postgresql://user@h1,h2/offbeat` names the members of one replication group. A host that hangs accepts connections and
never answers, so each host is tried with a bound of its own. Two hosts can call themselves primary: a standby was
promoted while the old primary hung, and then the old one continues. The one with the higher timeline is right, because
a promotion begins a new timeline; the process never goes back to an older one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from weakref import WeakSet

import asyncpg
import structlog

from offbeat_server.common.clock import monotonic
from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.db.copy_connection import CopyConnection
from offbeat_server.db.sql_loader import load

HOST_TIMEOUT_S = 3.0  # for each host
OTHERS_WAIT_S = 0.5  # for the other hosts, once one has answered as a primary
PORT = "5432"
_SQL = load("pool")

log = structlog.get_logger("hosts")


class Host(NamedTuple):
    """One host of the URL: a name, an address or the directory of a socket."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


class TimelinePosition(NamedTuple):
    """The position of a primary in the history of its cluster. Timelines of different systems cannot be compared."""

    system: int
    timeline: int


class Found(NamedTuple):
    """A connection to a host that accepts writes."""

    host: Host
    place: TimelinePosition
    connection: CopyConnection


# Connects to one host if it accepts writes.
ConnectOne = Callable[[Host], Awaitable[CopyConnection]]


def hosts_of(url: str) -> Sequence[Host]:
    """The hosts of a URL in their order, read as libpq does. Raises ValueError."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    place = parts.netloc.rpartition("@")[2]
    if place:
        pairs = [_split(each) for each in place.split(",")]
    else:
        pairs = [(name, "") for name in query.get("host", [""])[-1].split(",")]
    ports = query.get("port", [""])[-1].split(",")
    if len(ports) == 1:
        ports *= len(pairs)
    return [Host(name, int(port or given or PORT)) for (name, port), given in zip(pairs, ports, strict=True)]


def _split(place: str) -> tuple[str, str]:
    if place.startswith("["):  # an address of IPv6
        name, _, port = place[1:].partition("]")
        return name, port.removeprefix(":")
    name, _, port = unquote(place).partition(":")
    return name, port


class HostGroup:
    """The hosts of one URL, and what this process knows of them."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = hosts
        self.primary: Host | None = None
        self.place = TimelinePosition(0, 0)  # of the primary; its timeline only rises
        self._connections: WeakSet[CopyConnection] = WeakSet()  # to the primary, on that timeline

    async def connect(self, connect_one: ConnectOne) -> CopyConnection:
        """A connection to the primary. Raises what the hosts raise; DatabaseDownError if none of them is a primary."""
        if self.primary is not None:
            try:
                async with asyncio.timeout(HOST_TIMEOUT_S):
                    found = await self._examined(self.primary, connect_one)
            except (
                OSError,
                TimeoutError,
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                DatabaseDownError,
                _NOT_PRIMARY,
            ):
                pass  # all hosts are asked
            else:
                return self._chosen(found)
        return self._chosen(await self._survey(connect_one))

    async def look(self, connect_one: ConnectOne) -> None:
        """Find out whether another host has become the primary; then leave the old one."""
        connection = self._chosen(await self._survey(connect_one))
        self._connections.discard(connection)
        await connection.close()

    def _chosen(self, found: Found) -> CopyConnection:
        """Take this host for the primary, unless a newer one was chosen while the others were asked."""
        host, place, connection = found
        try:
            self._refuse_older(host, place)
        except DatabaseDownError:
            connection.terminate()
            raise
        if host != self.primary or place != self.place:
            log.info("hosts.primary_found", host=str(host), timeline=place.timeline)
            for former in list(self._connections):
                former.terminate()
            self._connections.clear()
        self.primary, self.place = host, place
        self._connections.add(connection)
        return connection

    async def _survey(self, connect_one: ConnectOne) -> Found:
        """Ask all hosts at once; the primary with the highest timeline."""
        began_s = monotonic()
        bounds: list[asyncio.Timeout] = []  # of the hosts that have not answered
        found: list[Found] = []

        async def ask(host: Host) -> None:
            async with asyncio.timeout(HOST_TIMEOUT_S) as bound:
                bounds.append(bound)
                try:
                    found.append(await self._examined(host, connect_one))
                finally:
                    bounds.remove(bound)
            early_s = HOST_TIMEOUT_S - (monotonic() - began_s) - OTHERS_WAIT_S
            for other in bounds if early_s > 0 else ():
                end_s = bound.when()  # all of them began together
                assert end_s is not None
                other.reschedule(end_s - early_s)

        try:
            errors = await asyncio.gather(*map(ask, self.hosts), return_exceptions=True)
        except BaseException:
            for each in found:
                each.connection.terminate()
            raise
        # A timeline of another system proves nothing; such a host counts only if no host of the known system is there.
        found.sort(key=lambda each: (each.place.system == self.place.system, each.place.timeline))
        for each in found[:-1]:
            each.connection.terminate()
        if found:
            return found[-1]
        # The error of a host that refuses us says more than that of one which is a standby or away.
        raise min(
            (error for error in errors if error is not None),
            key=lambda error: isinstance(error, OSError | TimeoutError | DatabaseDownError | _NOT_PRIMARY),
        )

    async def _examined(self, host: Host, connect_one: ConnectOne) -> Found:
        connection = await connect_one(host)
        try:
            place = await _place_of(connection)
            self._refuse_older(host, place)
        except BaseException:
            connection.terminate()
            raise
        return Found(host, place, connection)

    def _refuse_older(self, host: Host, place: TimelinePosition) -> None:
        if place.system == self.place.system and place.timeline < self.place.timeline:
            raise DatabaseDownError(
                f"{host} was the primary before: it is on timeline {place.timeline} of {self.place.timeline}"
            )


_NOT_PRIMARY = asyncpg.TargetServerAttributeNotMatched
_groups: dict[str, HostGroup | None] = {}


def group_of(url: str) -> HostGroup | None:
    """Return the state of the hosts of this URL, as this process knows it; None for one host. Raises ValueError."""
    if url not in _groups:
        hosts = hosts_of(url)
        _groups[url] = HostGroup(hosts) if len(hosts) > 1 else None
    return _groups[url]


async def _place_of(connection: CopyConnection) -> TimelinePosition:
    try:
        row = await connection.fetchrow(_SQL["timeline"])
    except (asyncpg.SyntaxOrAccessError, asyncpg.FeatureNotSupportedError):
        return TimelinePosition(0, 0)  # not every service that looks like Postgres has it
    assert row is not None
    return TimelinePosition(row["system_identifier"], row["timeline"])
