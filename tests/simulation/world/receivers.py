"""The receivers of alerts: they answer, fail, hang and lose answers; and the invariants of everything that arrives."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import orjson

from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.notify.transport.delivery import DeliveryError, DeliveryReply
from tests.simulation.database.outbox import is_explicit

if TYPE_CHECKING:
    from tests.simulation.world.node import Node
    from tests.simulation.world.world import World

TIMEOUT_S = 2.0
TROUBLE_LASTS_S = 15.0  # a fault, and its effects: a claim that no process renews and that lapsed before


def message_id(a: SimpleNamespace) -> str:
    """Of the message that an alert went in."""
    return f"digest_{UUID(int=a.digest).hex}" if a.digest is not None else f"alert_{a.uid.hex}"


def _of_digest(digest: SimpleNamespace, data: dict[str, Any]) -> Iterator[str]:
    """A digest's text must agree with its members, and every explicit failure is named with its reason."""
    for kind in ("opened", "worse", "resolved"):
        count = sum(a.kind == kind for a in digest.members)
        if data[kind] != count:
            yield f"digest {digest.id} says {data[kind]} {kind} and holds {count}"
    for a in filter(is_explicit, digest.members):
        if f" {a.facts['name']}" not in data["text"] or "FAILED" not in data["text"]:
            yield f"no alert: digest {digest.id} does not name the failure of monitor {a.monitor_id}: {data['text']}"


class Arrival(NamedTuple):
    """A message at its receiver."""

    at_s: float
    node: str
    url: str
    id: str
    body: bytes
    taken: bool  # and its answer, 200, has arrived too: it must not come again without a reason


class Receivers:
    """All receivers, and the alerts that they got."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.arrivals: list[Arrival] = []
        self.last_alert = 0  # later ones may wait for the next dispatcher

    async def _post(self, node: str, url: str, body: bytes, id: str) -> DeliveryReply:
        world, rng = self._world, self._world.rng
        what = 1.0 if world.ended else rng.random()
        await asyncio.sleep(rng.uniform(0.001, 0.1))
        if what < 0.05:
            await asyncio.sleep(TIMEOUT_S)
            raise DeliveryError("no answer")
        taken = what >= 0.2
        self.arrivals.append(Arrival(world.loop.time(), node, url, id, body, taken and what >= 0.25))
        if not taken:
            raise DeliveryError("500")
        if what < 0.25:  # the answer is lost
            await asyncio.sleep(TIMEOUT_S)
            raise DeliveryError("no answer")
        await asyncio.sleep(rng.choice((0.001, 0.05, 0.5)))
        return DeliveryReply(200, b"")

    # ---------------------------------------------------------------- what must hold

    def verdict(self) -> Iterator[str]:
        """Every alert arrives, in its words and in its order, and again only for a reason."""
        outbox = self._world.tables.outbox
        taken: dict[str, list[Arrival]] = {}
        bodies: dict[str, bytes] = {}
        for arrival in self.arrivals:
            if arrival.taken:
                taken.setdefault(arrival.id, []).append(arrival)
            if bodies.setdefault(arrival.id, arrival.body) != arrival.body:
                yield f"{arrival.id} came in other words"
        for id, copies in taken.items():
            if len(copies) - 1 > self._reasons(copies):
                yield f"{id} came {len(copies)} times: {[(copy.node, round(copy.at_s, 3)) for copy in copies]}"
        first_s: dict[tuple[Any, ...], float] = {}
        for a in sorted(outbox.alerts.values(), key=lambda a: a.ordinal):
            id = message_id(a)
            if a.state == "pending" and a.id > self.last_alert:
                continue
            if a.state != "delivered":
                yield f"alert {a.id} of {a.subject} is {a.state}"
            else:
                arrived_s = taken[id][0].at_s if id in taken else None
                if arrived_s is None:
                    yield f"{id} of {a.subject} is settled and was never taken"
                elif a.incident is not None:
                    episode = (a.monitor_id, a.incident, a.lane)
                    if arrived_s < first_s.get(episode, 0.0):
                        yield f"{id} of {a.subject} was sent before an earlier alert"
                    first_s[episode] = arrived_s
        for digest in outbox.digests.values():
            if digest.committed and (body := bodies.get(f"digest_{digest.uid.hex}")) is not None:
                yield from _of_digest(digest, orjson.loads(body)["data"])
        yield from self.without_alert()

    def without_alert(self) -> Iterator[str]:
        """Openings of incidents that no message has brought to their receiver."""
        arrived = {arrival.id for arrival in self.arrivals if arrival.taken}
        for a in self._world.tables.outbox.alerts.values():
            if a.kind == "opened" and a.id <= self.last_alert and message_id(a) not in arrived:
                yield f"no alert: incident {a.incident} of monitor {a.monitor_id} in lane {a.lane}"

    def _reasons(self, copies: list[Arrival]) -> int:
        """How many faults may have kept the sender of the first of them from recording it."""
        began_s, ended_s = copies[0].at_s - TROUBLE_LASTS_S, copies[-1].at_s
        nodes = {copy.node for copy in copies}
        return sum(
            began_s <= fault.at_s <= ended_s and (fault.node is None or fault.node in nodes)
            for fault in self._world.faults.happened
        )


class WayOut:
    """The transport of channels, from one process."""

    mail_server = None

    def __init__(self, receivers: Receivers, node: "Node") -> None:
        self._receivers, self._node = receivers, node

    async def post(self, url: str, body: bytes, headers: dict[str, str], **how: Any) -> DeliveryReply:
        """One request."""
        return await self._receivers._post(self._node.name, url, body, headers["webhook-id"])

    def now(self) -> Micros:
        """Log time."""
        return self._node.clock.now() if self._node.clock.ready else 0

    def now_s(self) -> int:
        """In seconds."""
        return self.now() // SECOND
