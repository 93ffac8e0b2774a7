"""The outbox in Postgres: the dispatcher claims, renews and settles its alerts, and people query it.

Delivery is at least once: a row is claimed with a lease before anything is sent and settled afterwards. After a crash
between the two the alert is sent again, with the same id and the same body.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple, cast
from uuid import UUID

import asyncpg

from offbeat_server.common.instants import Micros
from offbeat_server.db.pool import Connection, database_trouble
from offbeat_server.db.repositories import lease_row
from offbeat_server.db.sql_loader import load
from offbeat_server.engine.model.alert_payload import AlertPayload, FlappingPayload
from offbeat_server.engine.model.enums import AlertKind, AlertState, member_or
from offbeat_server.engine.schedule.maintenance_windows import Window, read_window

ACQUIRE_TIMEOUT_S = 5.0
BULK_TIMEOUT_S = 60.0  # statements over all members of a digest
INTRODUCE_MAX = 1_000  # openings in one statement, whose incidents no decision can change until it ends
DIGEST_FIRST_ATTEMPTS = 4  # attempts of a digest before any other alert of its lane is sent
_SQL = load("outbox")


class Due(NamedTuple):
    """A lane with alerts that may go now, each counted up to the limit asked for."""

    lane: int
    urgent: int  # never tried, and the first of their monitors for a while
    urgent_over: int  # of these, openings whose incident is over
    fresh: int  # others that were never tried
    fresh_over: int
    again: int  # retries


class WantedAlerts(NamedTuple):
    """How many alerts of a lane to claim."""

    lane: int
    urgent: int
    fresh: int
    again: int
    alone: bool  # also openings whose incident is over


class ChannelRow(NamedTuple):
    """The channel of a lane. `definition` is JSON with its secrets."""

    id: int
    kind: str
    definition: str
    slug: str
    project: str


class FailingChannel(NamedTuple):
    """A channel at which alerts do not arrive, when it was marked as failing, and the error of one of them."""

    id: int
    project_id: int
    slug: str
    since: datetime
    why: str | None


class Claimed(NamedTuple):
    """One alert that is ours to send now. `secrets` are keys to be taken out of its words."""

    id: int
    lane: int
    channel_id: int | None
    project_id: int
    monitor_id: int | None
    incident: int | None
    attempts: int
    lapses: int
    kind: str
    facts: AlertPayload[str]
    uid: UUID | None  # None: the row is of an older version
    urgent: bool
    created_at: datetime
    expired: bool
    secrets: tuple[str, ...]
    thread: UUID | None = None  # the id of the incident's first alert; None: of an older version


class DigestMember(NamedTuple):
    """One alert inside a digest, or one that an Alertmanager gets again."""

    id: int
    monitor_id: int | None
    incident: int | None
    kind: str
    facts: AlertPayload[str]
    uid: UUID | None
    secrets: tuple[str, ...]
    thread: UUID | None = None  # as in Claimed


class Named(NamedTuple):
    """An incident as a digest names it. `incidents`: how many of its monitor are in the digest."""

    monitor_id: int
    incident: int
    kind: str  # of its first alert in the digest, or of the first about an explicit failure
    facts: AlertPayload[str]
    incidents: int
    explicit: bool  # a job itself said that something failed
    opened: bool  # its beginning is in the digest
    resolved_at: str | None
    secrets: tuple[str, ...]


class Digest(NamedTuple):
    """Many alerts in one message, claimed. `body` is what will be, and may have been, sent."""

    id: int
    lane: int
    kind: AlertKind  # digest or over
    attempts: int
    alerts: int
    closes: int | None
    facts: AlertPayload[str]
    body: bytes
    created_at: datetime
    expired: bool
    uid: UUID | None
    left: bool = False  # more explicit failures wait than one message can name
    closes_uid: UUID | None = None  # of the digest that it closes


class SettledAlert(NamedTuple):
    """The result of an attempt: `state` as in the table; `pending` is a retry after `wait_s`."""

    id: int
    state: AlertState
    wait_s: float = 0.0
    error: str | None = None


class Attached(NamedTuple):
    """A digest in the making, inside its transaction."""

    id: int
    created_at: datetime
    uid: UUID | None
    alerts: int
    left: bool
    counts: AlertPayload[str]  # opened, worse, reminder, resolved, recovered, since, until, decided_at
    named: list[Named]
    members: list[DigestMember]  # only for channels that want each


class DigestSelection(NamedTuple):
    """The alerts of a lane that a digest may contain, and their minimum and maximum number."""

    lane: int
    most: int
    least: int
    following: bool  # with each alert what follows about its incident
    resolves: bool  # also mere ends
    which: str  # all; rest: without urgent ones; over: only openings whose incident is over


class Outbox:
    """The outbox for one dispatcher. `holder` names the claimer and is new with every start of a process."""

    def __init__(self, pool: asyncpg.Pool, holder: str, node: str) -> None:
        self._pool = pool
        self.holder = holder
        self.node = node
        self._may_hold_lease = False  # also after a take whose answer was lost

    async def take_over(self, life_s: float) -> bool:
        """Become or stay the active dispatcher for the next `life_s` seconds. Raises DatabaseDownError."""
        with database_trouble():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                self._may_hold_lease = True
                self._may_hold_lease = await lease_row.take_or_renew(
                    connection, lease_row.DISPATCHER, self.holder, self.node, life_s
                )
        return self._may_hold_lease

    async def give_up(self) -> None:
        """Let another begin at once. Raises DatabaseDownError."""
        if not self._may_hold_lease:
            return
        with database_trouble():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                await lease_row.release_in_any_term(connection, lease_row.DISPATCHER, self.holder)
        self._may_hold_lease = False

    async def identity(self) -> str:
        """Eight hexadecimal digits that are this database's alone."""
        return str(await self._value("identity"))

    async def due(
        self, after: int, skip: Sequence[int], count_max: int, lanes_max: int, only: Sequence[int] | None = None
    ) -> list[Due]:
        """Lanes behind `after`, in their order, or of `only`, that have something to send now."""
        allowed = None if only is None else list(only)
        return [Due(*row) for row in await self._planned("due", after, list(skip), count_max, lanes_max, allowed)]

    async def channels(self, ids: Sequence[int]) -> dict[int, ChannelRow]:
        """The channels that exist, by id."""
        return {row["id"]: ChannelRow(*row) for row in await self._fetch("channels_of", list(ids))}

    async def cover_resolves(self, lanes: Sequence[int]) -> list[int]:
        """Settle resolves that the end of a digest reports, in lanes of services that keep incidents; their lanes."""
        return [row["lane"] for row in await self._planned("cover_resolves", list(lanes))]

    async def claim(self, wanted: Sequence[WantedAlerts], lease_s: float) -> list[Claimed]:
        """Claim up to this number of alerts of each lane for `lease_s`."""
        columns = [list(column) for column in zip(*wanted, strict=True)]
        return [_claimed(row) for row in await self._planned("claim", *columns, self.holder, lease_s)]

    async def claim_tests(self, most: int, lease_s: float) -> list[Claimed]:
        """Claim test messages: a person waits for their result."""
        return [_claimed(row) for row in await self._fetch("claim_tests", most, self.holder, lease_s)]

    async def flapping(self, ids: Sequence[int]) -> dict[int, int]:
        """How many incidents of the same monitor the lane had in the hour before each of these opens."""
        return {row["id"]: row["earlier"] for row in await self._planned("flapping", list(ids))}

    async def note(self, flapping: dict[int, FlappingPayload]) -> None:
        """Write what is said about flapping into the facts, before the first attempt."""
        await self._execute("note", list(flapping), list(flapping.values()), self.holder)

    async def hold(self, ids: Sequence[int], wait_s: float) -> None:
        """Put claimed alerts back as never tried, until later."""
        await self._execute("hold", list(ids), self.holder, wait_s)

    async def change_channel(self, id: int, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Change fields of a channel's definition that are still as they were `before`."""
        await self._execute("change_channel", id, before, after)

    async def ends_without_opening(self, ids: Sequence[int]) -> list[int]:
        """Return the ids, of these alerts, of recoveries whose opening alert did not reach the channel."""
        return [row["id"] for row in await self._planned("ends_without_opening", list(ids))]

    async def introduce(self, now: Micros) -> int:
        """Queue what is open for channels that have no alert of it, because they were added later; how many."""
        maintained = await self._maintained(now)
        count, monitor_id = 0, 0
        while True:
            rows = await self._planned("introduce", maintained, monitor_id, INTRODUCE_MAX)
            count += len(rows)
            if len(rows) < INTRODUCE_MAX:
                return count
            monitor_id = max(row["monitor_id"] for row in rows)

    async def revive(self) -> int:
        """Unmark channels at which alerts arrive again, and queue the alerts again that they missed; their number.

        These are the dead openings of open incidents, also in channels that were changed.
        """
        async with self.transaction() as connection:
            lanes = [row["id"] for row in await connection.fetch(_SQL["working"])]
            if lanes:
                await connection.execute(_SQL["hurry"], lanes)
            return len(await connection.fetch(_SQL["revive"], lanes))

    async def last_change(self) -> int:
        """The number of the last change of monitors and channels."""
        return int(await self._value("last_change"))

    async def unreported(self, connection: Connection) -> list[FailingChannel]:
        """Mark channels at which alerts do not arrive; all that are marked and not reported yet."""
        await connection.execute(_SQL["mark_failing"])
        return [FailingChannel(*row) for row in await connection.fetch(_SQL["unreported"])]

    async def report_failing(
        self, connection: Connection, ids: Sequence[int], project_id: int, facts: AlertPayload[str]
    ) -> None:
        """An alert about these channels to the others of their project, or to the log where there is none."""
        await connection.execute(_SQL["report_failing"], list(ids), project_id, facts)

    async def renew(self, alerts: Sequence[int], digests: Sequence[int], lease_s: float) -> None:
        """Keep what is still being sent."""
        if alerts:
            await self._execute("renew", list(alerts), self.holder, lease_s)
        if digests:
            await self._execute("renew_digests", list(digests), self.holder, lease_s)

    async def settle(self, outcomes: Sequence[SettledAlert]) -> None:
        """Write what became of attempts, in bulk."""
        columns = [list(column) for column in zip(*outcomes, strict=True)]
        await self._execute("settle", *columns, self.holder)

    async def settle_digest(self, outcome: SettledAlert) -> None:
        """Write what became of a digest, and with it of its members."""
        async with self.transaction() as connection:
            id, state, wait_s, error = outcome
            settled = await connection.fetchval(_SQL["settle_digest"], id, state, wait_s, error, self.holder)
            if settled is not None and state != AlertState.PENDING:
                await connection.execute(_SQL["settle_members"], id, state, error, timeout=BULK_TIMEOUT_S)

    async def release(self) -> None:
        """Give all claims back."""
        await self._execute("release", self.holder)

    async def expire(self) -> list[str]:
        """Settle what is too old; the channel kind of each alert that went."""
        return [row["kind"] for row in await self._fetch("expire")]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One transaction whose statements are planned for the tables as they are now."""
        with database_trouble():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection, connection.transaction():
                await connection.execute(_SQL["own_plans"])
                yield connection

    async def attach(
        self, connection: Connection, wanted: DigestSelection, named: tuple[int, int], members: int
    ) -> Attached | None:
        """Make what may go of a lane part of a new digest, unless it is fewer than `least`.

        `named`: how many monitors the message names, and how many incidents of each. `members`: how many alerts it
        holds whole.
        """
        digest = await connection.fetchrow(_SQL["attach"], *wanted, named[0], timeout=BULK_TIMEOUT_S)
        if digest is None:
            return None
        id = digest["id"]
        counts = await connection.fetchrow(_SQL["members_counted"], id, timeout=BULK_TIMEOUT_S)
        first = await connection.fetch(_SQL["members_named"], id, *named, timeout=BULK_TIMEOUT_S)
        complete = await connection.fetch(_SQL["members_whole"], id, members, timeout=BULK_TIMEOUT_S) if members else []
        assert counts is not None
        return Attached(
            id, digest["created_at"], digest["uid"], digest["alerts"], digest["left"],
            cast(AlertPayload[str], dict(counts)),
            [Named(**_with_secrets(row)) for row in first], [_member(row) for row in complete],
        )  # fmt: skip

    async def write_digest(
        self, connection: Connection, attached: Attached, facts: AlertPayload[str], body: bytes, lease_s: float
    ) -> None:
        """Store what will be sent, claimed."""
        await connection.execute(_SQL["write_digest"], attached.id, facts, body, self.holder, lease_s, attached.alerts)

    async def lanes_in_digests(self) -> dict[int, bool]:
        """Lanes with a digest to send, and whether they send it before all else."""
        return {row["lane"]: row["first"] for row in await self._fetch("lanes_in_digests", DIGEST_FIRST_ATTEMPTS)}

    async def claim_digests(self, skip: Sequence[int], most: int, lease_s: float, first: bool) -> list[Digest]:
        """Digests to send now, at most one new one of each lane: those that go `first`, or those that no longer do."""
        rows = await self._planned(
            "claim_digests", list(skip), most, self.holder, lease_s, DIGEST_FIRST_ATTEMPTS, first
        )
        # The body is stored, so a kind of a newer version is sent like a digest.
        return [Digest(**{**row, "kind": member_or(AlertKind, row["kind"], AlertKind.DIGEST)}) for row in rows]

    async def channels_of_kinds(self, kinds: Sequence[str]) -> list[tuple[int, str, str]]:
        """Id, kind and definition of all channels of these kinds."""
        return [(row["id"], row["kind"], row["definition"]) for row in await self._fetch("lanes_of_kinds", list(kinds))]

    async def all_over(self, lanes: Sequence[int]) -> list[tuple[int, int, int, UUID | None]]:
        """Digests (id, lane, alerts, uid) whose every member is resolved, and whose service did not get the end."""
        rows = await self._planned("all_over", list(lanes))
        return [(row["id"], row["lane"], row["alerts"], row["uid"]) for row in rows]

    async def close_digest(self, id: int, facts: AlertPayload[str], body: bytes) -> None:
        """Queue the message that says so."""
        await self._execute("close_digest", id, facts, body)

    async def remind(self, most: int, now: Micros) -> int:
        """Queue the reminders that are due, of monitors that are not under maintenance at `now`; how many."""
        return len(await self._planned("remind", most, await self._maintained(now)))

    async def _maintained(self, now: Micros) -> list[int]:
        open_now: dict[int, list[Window]] = {}
        for row in await self._fetch("windows"):
            window = read_window(row["definition"])
            if window.end_at(now) is not None:
                open_now.setdefault(row["project_id"], []).append(window)
        if not open_now:
            return []
        rows = await self._fetch("maintained", list(open_now))
        return [
            row["id"]
            for row in rows
            if any(window.covers(row["slug"], tuple(row["tags"])) for window in open_now[row["project_id"]])
        ]

    async def firing(self, lane: int, after: int, most: int) -> list[DigestMember]:
        """Open incidents as one channel knows them, by monitor, behind the monitor `after`."""
        return [_member(row) for row in await self._planned("firing", lane, after, most)]

    async def just_resolved(self, lane: int, within_s: float, after: int, most: int) -> list[DigestMember]:
        """Resolutions that one channel received within the last `seconds`, by id, behind the alert `after`."""
        return [_member(row) for row in await self._planned("just_resolved", lane, within_s, after, most)]

    async def sweep(self, keep_days: int, most: int) -> int:
        """Delete what was settled that long ago; how many alerts went."""
        gone = int((await self._execute("sweep", keep_days, most)).split()[-1])
        await self._execute("sweep_digests", keep_days)
        return gone

    async def _value(self, name: str, *arguments: Any) -> Any:
        with database_trouble():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                return await connection.fetchval(_SQL[name], *arguments)

    async def _fetch(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        with database_trouble():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                rows: list[asyncpg.Record] = await connection.fetch(_SQL[name], *arguments)
                return rows

    async def _planned(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self.transaction() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(_SQL[name], *arguments)
            return rows

    async def _execute(self, name: str, *arguments: Any) -> str:
        with database_trouble():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                return str(await connection.execute(_SQL[name], *arguments))


def _claimed(row: asyncpg.Record) -> Claimed:
    return Claimed(**_with_secrets(row))


def _member(row: asyncpg.Record) -> DigestMember:
    return DigestMember(**_with_secrets(row))


def _with_secrets(row: asyncpg.Record) -> dict[str, Any]:
    return {**dict(row), "secrets": tuple(row["secrets"] or ())}


async def resend(pool: asyncpg.Pool, alert_id: int) -> bool:
    """Send a settled alert again, under the same id. False: there is none, or it is still pending."""
    with database_trouble():
        async with pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
            return await connection.fetchval(_SQL["resend"], alert_id) is not None


async def page_alerts(
    pool: asyncpg.Pool,
    *,
    project_id: int | None = None,
    states: Sequence[str] | None = None,
    monitor_id: int | None = None,
    incident: int | None = None,
    channel_id: int | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Alerts for people, the newest first; `before` is the id of the last one of the page before."""
    with database_trouble():
        async with pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
            rows = await connection.fetch(
                _SQL["page"],
                project_id,
                list(states) if states is not None else None,
                monitor_id,
                incident,
                channel_id,
                before,
                limit,
            )
    return [dict(row) for row in rows]
