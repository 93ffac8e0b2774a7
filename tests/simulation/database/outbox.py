"""The outbox's statements over plain rows, and a pool of simulated sessions."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import orjson

from offbeat_server.common.instants import SECOND, Micros, to_datetime
from tests.simulation.database.sessions import Connection, Lock, Server, Session, rows_of, wait_for

CHANNELS = {1: "http://one/", 2: "http://two/"}
GATHERING = (2,)  # of what comes at once these make a digest
_DAY: Micros = 24 * 3600 * SECOND
_INSTANCE = rows_of("instance")
_DUE = rows_of("lane urgent urgent_over fresh fresh_over again")
_CHANNEL = rows_of("id kind definition slug project")
_LANE = rows_of("lane")
_IN_DIGESTS = rows_of("lane first")
_CLAIMED = rows_of(
    "id lane channel_id project_id monitor_id incident attempts lapses kind facts uid urgent created_at expired secrets"
)
_EARLIER = rows_of("id earlier")
_MADE = rows_of("id created_at uid alerts left")
_COUNTS = rows_of("opened worse reminder resolved recovered since until decided_at")
_NAMED = rows_of("monitor_id incident kind facts incidents explicit opened resolved_at secrets")
_DIGEST = rows_of("id lane kind attempts alerts closes facts body created_at expired uid")
_ID = rows_of("id")


def is_explicit(a: SimpleNamespace) -> bool:
    """Whether an alert is of something that a job itself said has failed."""
    causes = {a.facts.get("cause"), *(each["cause"] for each in a.facts.get("causes", ()))}
    return a.kind in ("opened", "worse") and bool(causes & {"failed", "stage", "tasks", "incomplete"})


def channel_definition(id: int) -> dict[str, Any]:
    """The definition of a channel."""
    return {"url": CHANNELS[id], "digest": id in GATHERING, "per_minute": 60_000}


class Outbox:
    """Alerts and digests, and the dispatcher's lease."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.alerts: dict[int, SimpleNamespace] = {}
        self.digests: dict[int, SimpleNamespace] = {}
        self.lease = SimpleNamespace(term=0, holder="", node="", expires=-1)

    def put_all(self, rows: Sequence[tuple[int | None, int, int, int, str, Any]]) -> list[list[int]]:
        """Write the alerts of one statement of a decision: channel, monitor, incident, ordinal, kind and facts of each
        alert.

        The end of an incident has no channel: it goes to those that an alert has reached or may still reach. Returns
        the channels of each row.
        """
        # Both as of before the statement, to which its own rows are not there yet.
        urgent = [self._is_urgent(*row[:3]) for row in rows]
        reached = {
            (a.monitor_id, a.incident, a.lane) for a in self.alerts.values() if a.state in ("pending", "delivered")
        } | {(monitor_id, incident, lane) for lane, monitor_id, incident, _, kind, _ in rows if kind != "resolved"}
        channels: list[list[Any]] = [
            [lane] if lane is not None else sorted(to for *of, to in reached if of == [monitor_id, incident])
            for lane, monitor_id, incident, *_ in rows
        ]
        for is_end in (False, True):
            for each, is_urgent, (_, monitor_id, incident, ordinal, kind, facts) in zip(
                channels, urgent, rows, strict=True
            ):
                if (kind == "resolved") == is_end:
                    for lane in each:
                        self.put(lane, monitor_id, incident, ordinal, kind, facts, urgent=is_urgent and not is_end)
        return channels

    def _is_urgent(self, lane: int | None, monitor_id: int, incident: int) -> bool:
        return not any(
            (a.monitor_id, a.lane) == (monitor_id, lane)
            and incident - 3 <= a.incident <= incident
            and a.kind in ("opened", "worse")
            and a.created > self.server.clock - 600 * SECOND
            for a in self.alerts.values()
        )

    def put(
        self,
        channel_id: int,
        monitor_id: int | None,
        incident: int | None,
        ordinal: int,
        kind: str,
        facts: Any,
        urgent: bool,
    ) -> None:
        """One alert, committed just now."""
        subject = (monitor_id, incident, ordinal, channel_id)
        if incident is not None and any(subject == a.subject for a in self.alerts.values()):
            return
        now = self.server.clock
        id = max(self.alerts, default=0) + 1
        self.alerts[id] = SimpleNamespace(
            id=id, subject=subject, lane=channel_id, episode=(monitor_id, incident, channel_id), monitor_id=monitor_id,
            incident=incident, ordinal=ordinal, kind=kind, facts=facts, created=now, next=now, expires=now + _DAY,
            digest=None, attempts=0, lapses=0, state="pending", claimed_by=None, lock=Lock(), urgent=urgent,
            uid=UUID(int=id),
        )  # fmt: skip

    def clock_jumped(self, at: Micros) -> None:
        """The effects of a registration that has seen it. `at` is log time from now on."""
        self.lease.expires = min(self.lease.expires, at + 10 * SECOND)
        for each in (*self.alerts.values(), *self.digests.values()):
            if each.state == "pending":
                each.next = min(each.next, self.server.clock + 60 * SECOND)

    def identity(self, session: Session) -> list[Any]:
        return [_INSTANCE("00000000")]

    def own_plans(self, session: Session) -> None:
        """Plans are alike here."""

    # ---------------------------------------------------------------- single alerts

    def _may_go(self, lane: int, again: bool) -> list[SimpleNamespace]:
        now = self.server.clock
        waiting = [a for a in self.alerts.values() if a.lane == lane and a.state == "pending"]
        return sorted(
            (
                a
                for a in waiting
                if a.digest is None
                and (a.attempts > 0) == again
                and a.next <= now
                and not any(
                    b.incident is not None and b.episode == a.episode and b.ordinal < a.ordinal for b in waiting
                )
            ),
            key=lambda a: (a.next, a.id),
        )

    def _is_over(self, a: SimpleNamespace) -> bool:
        return a.kind == "opened" and any(
            r.episode == a.episode and r.kind == "resolved" and r.state == "pending" and not r.attempts
            for r in self.alerts.values()
        )

    def _is_without_opening(self, a: SimpleNamespace) -> bool:
        others = [o for o in self.alerts.values() if o.episode == a.episode and o is not a]
        return a.kind == "resolved" and bool(others) and all(o.state in ("dead", "expired") for o in others)

    def due(
        self, session: Session, after: int, skip: list[int], count: int, lanes: int, only: list[int] | None
    ) -> list[Any]:
        selected = []
        for lane in CHANNELS:
            if lane > after and lane not in skip and (only is None or lane in only):
                never, again = (self._may_go(lane, again) for again in (False, True))
                urgent, fresh = ([a for a in never if a.urgent is which][:count] for which in (True, False))
                if never or again:
                    over = [sum(map(self._is_over, each)) for each in (urgent, fresh)]
                    selected.append(_DUE(lane, len(urgent), over[0], len(fresh), over[1], min(count, len(again))))
        return selected[:lanes]

    def channels_of(self, session: Session, ids: list[int]) -> list[Any]:
        def text(id: int) -> str:
            return orjson.dumps(channel_definition(id)).decode()

        return [_CHANNEL(id, "webhook", text(id), f"c{id}", "default") for id in CHANNELS if id in ids]

    def claim(
        self,
        session: Session,
        lanes: list[int],
        urgent: list[int],
        fresh: list[int],
        again: list[int],
        alone: list[bool],
        holder: str,
        lease_s: float,
    ) -> list[Any]:
        picked = []
        for lane, *counts, also_over in zip(lanes, urgent, fresh, again, alone, strict=True):
            never, retries = (
                [a for a in self._may_go(lane, again) if not a.lock.held_by_others(session)] for again in (False, True)
            )
            never = [a for a in never if also_over or not self._is_over(a)]
            of_each = ([a for a in never if a.urgent], [a for a in never if not a.urgent], retries)
            for ready, count in zip(of_each, counts, strict=True):
                picked += ready[:count]
        now = self.server.clock
        rows = []
        for a in picked:
            lapses = a.lapses + (a.claimed_by is not None)
            wait_s = lease_s * 2 ** max(0, min(lapses, 7) - 2)
            claimed = {"attempts": a.attempts + 1, "lapses": lapses, "claimed_by": holder}
            self._change(session, [a], lambda a, c=claimed, w=wait_s: c | {"next": now + round(w * SECOND)})  # type: ignore[misc]
            rows.append(
                _CLAIMED(
                    a.id, a.lane, a.lane, 1, a.monitor_id, a.incident, a.attempts + 1, lapses, a.kind, a.facts,
                    a.uid, a.urgent, to_datetime(a.created), a.expires < now, None,
                )
            )  # fmt: skip
        return rows

    def claim_tests(self, session: Session, most: int, holder: str, lease_s: float) -> list[Any]:
        return []

    def flapping(self, session: Session, ids: list[int]) -> list[Any]:
        def earlier(a: SimpleNamespace) -> int:
            return sum(
                o.lane == a.lane
                and o.monitor_id == a.monitor_id
                and o.kind == "opened"
                and o.incident < a.incident
                and o.created > a.created - 3600 * SECOND
                for o in self.alerts.values()
            )

        return [_EARLIER(id, earlier(self.alerts[id])) for id in ids]

    def note(self, session: Session, ids: list[int], notes: list[Any], holder: str) -> None:
        notes_by_id = dict(zip(ids, notes, strict=True))
        held = [a for a in self._held(ids, holder) if a.attempts == 1]
        self._change(session, held, lambda a: {"facts": a.facts | {"flapping": notes_by_id[a.id]}})

    def hold(self, session: Session, ids: list[int], holder: str, wait_s: float) -> None:
        now = self.server.clock
        first_tries = [a for a in self._held(ids, holder) if a.attempts == 1]

        def until(a: SimpleNamespace) -> Micros:
            held = (
                h.next
                for h in self.alerts.values()
                if (h.monitor_id, h.lane, h.kind) == (a.monitor_id, a.lane, "opened")
                and h.state == "pending"
                and not h.attempts
                and h.next > now
            )
            return min(held, default=now + round(wait_s * SECOND))

        self._change(session, first_tries, lambda a: {"attempts": 0, "claimed_by": None, "next": until(a)})

    def renew(self, session: Session, ids: list[int], holder: str, lease_s: float) -> None:
        until = self.server.clock + round(lease_s * SECOND)
        self._change(session, self._held(ids, holder), lambda a: {"next": max(a.next, until)})

    def settle(
        self,
        session: Session,
        ids: list[int],
        states: list[str],
        waits_s: list[float],
        errors: list[str | None],
        holder: str,
    ) -> None:
        now = self.server.clock
        outcomes = {id: (state, round(wait_s * SECOND)) for id, state, wait_s in zip(ids, states, waits_s, strict=True)}
        pending = [a for id in ids if (a := self.alerts[id]).state == "pending"]
        pending = [a for a in pending if a.claimed_by == holder or outcomes[a.id][0] == "delivered"]

        def settled(a: SimpleNamespace) -> dict[str, Any]:
            state, wait = outcomes[a.id]
            return {"state": state, "claimed_by": None, "next": now + wait if state == "pending" else a.next}

        self._change(session, pending, settled)

    def release(self, session: Session, holder: str) -> None:
        now = self.server.clock
        held = [a for a in (*self.alerts.values(), *self.digests.values()) if a.claimed_by == holder]
        self._change(session, [a for a in held if a.state == "pending"], lambda a: {"claimed_by": None, "next": now})

    def _held(self, ids: Iterable[int], holder: str) -> list[SimpleNamespace]:
        return [a for id in ids if (a := self.alerts[id]).claimed_by == holder and a.state == "pending"]

    def _change(
        self, session: Session, rows: Sequence[SimpleNamespace], new: Callable[[SimpleNamespace], dict[str, Any]]
    ) -> None:
        """Now, or locked now and changed at the commit."""
        for row in rows:
            wait_for(session, row.lock)
        for row in rows:
            values = new(row)
            if session.writes is None:
                vars(row).update(values)
            else:
                self.server.lock(session, row.lock)
                session.writes.append(partial(row.__dict__.update, values))

    # ---------------------------------------------------------------- digests

    def attach(
        self,
        session: Session,
        lane: int,
        most: int,
        least: int,
        following: bool,
        resolves: bool,
        which: str,
        named: int,
    ) -> list[Any]:
        now = self.server.clock
        ready = [
            a
            for a in self._may_go(lane, False)
            if a.kind != "operator"
            and a.expires > now
            and (resolves or a.kind != "resolved")
            and not self._is_without_opening(a)
            and (which == "all" or (which == "rest" and not a.urgent) or self._is_over(a))
            and not a.lock.held_by_others(session)
        ][:most]
        explicit = {a.episode for a in self.alerts.values() if a.state == "pending" and is_explicit(a)}
        first: dict[int, Micros] = {}
        for a in ready:
            if a.episode in explicit:
                first[a.monitor_id] = min(first.get(a.monitor_id, a.next), a.next)
        failing = sorted(first, key=lambda monitor_id: (first[monitor_id], monitor_id))[:named]
        picked = [a for a in ready if a.episode not in explicit or a.monitor_id in failing]
        left = len(picked) < len(ready)
        if following:
            of = {a.episode for a in picked}
            picked += [
                b
                for b in self.alerts.values()
                if b.episode in of and b not in picked and b.state == "pending" and b.digest is None and not b.attempts
            ]
        if len(picked) < least or not picked:
            return []
        id = max(self.digests, default=0) + 1
        digest = SimpleNamespace(
            id=id, lane=lane, members=picked, alerts=len(picked), created=now, next=now,
            expires=now + _DAY, attempts=0, lapses=0, state="pending", claimed_by=None, facts={}, body=b"",
            lock=Lock(), committed=False, uid=UUID(int=id),
        )  # fmt: skip
        self.digests[digest.id] = digest
        self._change(session, [digest], lambda d: {"committed": True})
        self._change(session, picked, lambda a: {"digest": digest.id})
        return [_MADE(digest.id, to_datetime(now), digest.uid, len(picked), left)]

    def members_counted(self, session: Session, id: int) -> list[Any]:
        members = self.digests[id].members
        kinds = [sum(a.kind == kind for a in members) for kind in ("opened", "worse", "reminder", "resolved")]
        begun, ended = ({a.episode for a in members if a.kind == kind} for kind in ("opened", "resolved"))
        instants = sorted(
            a.facts.get("resolved_at" if a.kind == "resolved" else "opened_at") or a.facts["decided_at"]
            for a in members
        )
        decided = max(a.facts["decided_at"] for a in members)
        return [_COUNTS(*kinds, len(begun & ended), instants[0], instants[-1], decided)]

    def members_named(self, session: Session, id: int, limit: int, of_each: int) -> list[Any]:
        by_monitor: dict[int, dict[int, list[SimpleNamespace]]] = {}
        for a in sorted(self.digests[id].members, key=lambda a: a.id):
            by_monitor.setdefault(a.monitor_id, {}).setdefault(a.incident, []).append(a)

        def spokesman(alerts: list[SimpleNamespace]) -> SimpleNamespace:
            return next(filter(is_explicit, alerts), alerts[0])

        def has_trouble(alerts: list[SimpleNamespace]) -> bool:
            return any(a.kind != "resolved" for a in alerts)

        def is_over(alerts: list[SimpleNamespace]) -> bool:
            return any(a.kind == "resolved" for a in alerts)

        def place(alerts: list[SimpleNamespace]) -> int:
            """Explicit failures, then what is still down, then what has recovered, then mere ends."""
            if any(map(is_explicit, alerts)):
                return 0
            return 3 if not has_trouble(alerts) else 2 if is_over(alerts) else 1

        def place_of_monitor(incidents: dict[int, list[SimpleNamespace]]) -> tuple[int, int]:
            return min(map(place, incidents.values())), min(spokesman(alerts).id for alerts in incidents.values())

        def turn(each: tuple[int, list[SimpleNamespace]]) -> tuple[bool, bool, int]:
            incident, alerts = each
            return not any(map(is_explicit, alerts)), not has_trouble(alerts), -incident

        rows = []
        for incidents in sorted(by_monitor.values(), key=place_of_monitor)[:limit]:
            for incident, alerts in sorted(incidents.items(), key=turn)[:of_each]:
                end = next((a.facts["resolved_at"] for a in alerts if a.kind == "resolved"), None)
                a = spokesman(alerts)
                opened = any(a.kind == "opened" for a in alerts)
                rows.append(
                    _NAMED(a.monitor_id, incident, a.kind, a.facts, len(incidents), is_explicit(a), opened, end, None)
                )
        return rows

    def write_digest(
        self, session: Session, id: int, facts: Any, body: bytes, holder: str, lease_s: float, alerts: int
    ) -> None:
        until = self.server.clock + round(lease_s * SECOND)
        values = {"facts": facts, "body": body, "claimed_by": holder, "attempts": 1, "next": until}
        self._change(session, [self.digests[id]], lambda d: values)

    def _digests_pending(self) -> list[SimpleNamespace]:
        return [d for d in self.digests.values() if d.committed and d.state == "pending"]

    def lanes_in_digests(self, session: Session, attempts: int) -> list[Any]:
        pending = self._digests_pending()
        first = {d.lane for d in pending if d.attempts < attempts}
        return [_IN_DIGESTS(lane, lane in first) for lane in sorted({d.lane for d in pending})]

    def claim_digests(
        self, session: Session, skip: list[int], most: int, holder: str, lease_s: float, attempts: int, first: bool
    ) -> list[Any]:
        now, pending = self.server.clock, self._digests_pending()
        picked = [
            d
            for d in sorted(pending, key=lambda d: d.next)
            if d.next <= now
            and d.lane not in skip
            and (d.attempts < attempts) == first
            and not any(b.lane == d.lane and b.id < d.id and b.attempts < attempts for b in pending)
            and not d.lock.held_by_others(session)
        ][:most]
        rows = []
        for d in picked:
            lapses = d.lapses + (d.claimed_by is not None)
            wait_s = lease_s * 2 ** max(0, min(lapses, 7) - 2)
            claimed = {"attempts": d.attempts + 1, "lapses": lapses, "claimed_by": holder}
            self._change(session, [d], lambda d, c=claimed, w=wait_s: c | {"next": now + round(w * SECOND)})  # type: ignore[misc]
            rows.append(
                _DIGEST(
                    d.id, d.lane, "digest", d.attempts + 1, d.alerts, None, d.facts, d.body, to_datetime(d.created),
                    d.expires < now, d.uid,
                )
            )  # fmt: skip
        return rows

    def renew_digests(self, session: Session, ids: list[int], holder: str, lease_s: float) -> None:
        until = self.server.clock + round(lease_s * SECOND)
        held = [d for id in ids if (d := self.digests[id]).claimed_by == holder and d.state == "pending"]
        self._change(session, held, lambda d: {"next": max(d.next, until)})

    def settle_digest(
        self, session: Session, id: int, state: str, wait_s: float, error: str | None, holder: str
    ) -> list[Any]:
        digest, until = self.digests[id], self.server.clock + round(wait_s * SECOND)
        if digest.state != "pending" or not (digest.claimed_by == holder or state == "delivered"):
            return []
        new = {"state": state, "claimed_by": None, "next": until if state == "pending" else digest.next}
        self._change(session, [digest], lambda d: new)
        return [_ID(id)]

    def settle_members(self, session: Session, id: int, state: str, error: str | None) -> None:
        members = [a for a in self.alerts.values() if a.digest == id and a.state == "pending"]
        self._change(session, members, lambda a: {"state": state})


class Pool:
    """As asyncpg's: sessions are made when they are needed, kept while they are good, and few."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._idle: list[Connection] = []

    @asynccontextmanager
    async def acquire(self, timeout: float) -> AsyncIterator[Connection]:
        """A session for one use."""
        connection = self._idle.pop() if self._idle else await self._connect()
        try:
            yield connection
        finally:
            if connection.is_good:
                self._idle.append(connection)
            else:
                connection.terminate()
