"""The effect of each SQL statement, in plain Python over plain rows: the scheduler's, the writer's and the lease's.

Checks that only the database can make are made here as they happen: an incident that opens twice, an alert that is
written with another meaning, a term that writes after a later one.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil, floor
from types import SimpleNamespace
from typing import Any

import asyncpg
import orjson

from offbeat_server.common.instants import SECOND, Micros, to_datetime, to_micros
from offbeat_server.db.repositories.lease_row import SCHEDULER
from offbeat_server.db.sql_loader import load
from offbeat_server.engine.decisions import NO_PING
from offbeat_server.engine.model.ping import Entry
from tests.simulation.database.outbox import CHANNELS, Outbox
from tests.simulation.database.sessions import Later, Lock, Row, Server, Session, rows_of, wait_for

_WRITER = rows_of("id seq started_at accepted_through fenced seen_at silent_s")
_OUTAGE = rows_of("id started_at ended_at reason pings")
_MONITOR = rows_of(
    "id project_id slug name tags paused snoozed_until definition rev at writer seq status since state before changed"
)
_CHECKPOINT = rows_of("at applied_rev cursors set_aside")
_NEWS = rows_of("rev refusal_id")
_ID = rows_of("id")
_ENDED = rows_of("id effective_at")
_ENDED_RUN = rows_of("monitor_id run number verdict finished_at business_date backfill execution ended")
_MEMBER = rows_of("monitor_id name at silent_since")
_WINDOW = rows_of("id project_id slug definition")
_ONE = rows_of("one")
_STANDING = rows_of("seq accepted_through")
_REGISTERED = rows_of("id started_at")
_OPEN = rows_of("monitor_id number")
_SLUG = rows_of("id slug")
_USUAL = rows_of("monitor_id count median p95")


class FencedByTrigger(asyncpg.PostgresError):
    sqlstate = "OB001"


def _may_be_taken(lease: SimpleNamespace, holder: str, now: Micros, life_s: float) -> bool:
    """The part of this name in lease.sql."""
    return lease.holder == holder or not now <= lease.expires <= now + round(2 * life_s * SECOND)


class Statements:
    """The tables, and the statements by their text."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.writers: dict[int, SimpleNamespace] = {}
        self.pings: dict[tuple[int, int], Entry] = {}
        self.by_writer: dict[int, list[Entry]] = {}
        self.refusals: list[SimpleNamespace] = []
        self.outages: list[SimpleNamespace] = []
        self.monitors: dict[int, SimpleNamespace] = {}
        self.windows: dict[int, SimpleNamespace] = {}
        self.changes: list[SimpleNamespace] = []
        self.states: dict[int, SimpleNamespace] = {}
        self.state_locks: dict[int, Lock] = {}
        self.members: dict[int, dict[str, tuple[Micros, Micros | None]]] = {}
        self.runs: dict[tuple[int, int], SimpleNamespace] = {}
        self.incidents: dict[tuple[int, int], SimpleNamespace] = {}
        self.alerts: dict[tuple[int, int, int], SimpleNamespace] = {}
        self.checkpoint: SimpleNamespace | None = None
        self.lease = SimpleNamespace(term=0, holder="", node="", expires=-1, lock=Lock())
        self.set_at, self.ahead = server.clock, 0  # the row of `clock`
        self.watermark: Micros = 0  # the latest instant up to which any reader of the writers may evaluate
        self.wrong: list[str] = []  # what must never happen, as it happened
        self.on_states: Callable[[Session, int, int], None] = lambda session, monitor_id, rev: None
        self.on_outage: Callable[[Session, SimpleNamespace], None] = lambda session, outages: None
        self.on_copy: Callable[[list[Entry]], None] = lambda entries: None
        self.on_window: Callable[[Session, SimpleNamespace], None] = lambda session, change: None
        self._ids: Counter[str] = Counter()
        self.outbox = Outbox(server)
        self._named = {
            text: getattr(self, f"{subject}_{name}")
            for subject in ("scheduler", "entries", "lease", "decisions", "ping_log", "pool")
            for name, text in load(subject).items()
            if hasattr(self, f"{subject}_{name}")
        }
        for name, text in load("outbox").items():
            if hasattr(self.outbox, name):
                self._named[text] = getattr(self.outbox, name)

    @property
    def log_time(self) -> Micros:
        """`log_time()` of schema.sql."""
        clock = self.server.clock
        return clock + max(0, self.ahead - round(max(0, clock - self.set_at) / 10))

    @property
    def names(self) -> set[str]:
        """The methods that stand for statements."""
        return {statement.__name__ for statement in self._named.values()}

    def named(self, sql: str) -> Callable[..., Any]:
        statement: Callable[..., Any] = self._named[sql]
        return statement

    def _next(self, table: str) -> int:
        self._ids[table] += 1
        return self._ids[table]

    def _write(self, session: Session, write: Callable[[], None]) -> None:
        """Now, or at the commit."""
        if session.writes is None:
            write()
        else:
            session.writes.append(write)

    # ------------------------------------------------------------------------------------------------ the log

    def ping_log_register(
        self,
        session: Session,
        node: str,
        address: Any,
        former: int | None,
        first_ages: Sequence[int],
        last_ages: Sequence[int],
        pings: Sequence[int],
        reasons: Sequence[str],
        jumped: bool,
        lost_since: Any,
        lost_pings: int,
    ) -> list[Row]:
        clock, at = self.server.clock, self.log_time
        latest = max((w.through for w in self.writers.values()), default=None)
        jump = jumped or (latest is not None and at < latest - 2_000_000)
        at = max(clock, latest or 0) if jump else at

        def rest(session: Session) -> list[Row]:
            was = self.writers.get(former or 0)
            if was is not None:
                wait_for(session, was.lock)
            if jump:
                self.set_at, self.ahead = clock, at - clock
                self.lease.expires = min(self.lease.expires, at + 10 * SECOND)
                self.outbox.clock_jumped(at)
            # One transaction: no session has seen the new writer yet, nor that the former one is fenced.
            new = self._next("writers")
            for first, last, count, reason in zip(first_ages, last_ages, pings, reasons, strict=True):
                self._refused(new, at - first, at - last, count, reason)
            if lost_since is not None:
                self._refused(new, min(to_micros(lost_since), at), at, lost_pings, "lost")
            if was is not None and not was.fenced:
                was.fenced, was.seen = True, clock
                if jumped:
                    self._refused(new, was.through, at, 0, "clock")
            self.writers[new] = SimpleNamespace(
                id=new,
                seq=0,
                started=at,
                visible=self.log_time,
                alone=not any(not w.fenced for w in self.writers.values()),
                through=at,
                seen=clock,
                fenced=False,
                lock=Lock(),
            )
            return [_REGISTERED(new, to_datetime(at))]

        raise Later(self.server.rng.choice((0.0, 0.002, 0.05, 0.5)), rest)

    def ping_log_standing(self, session: Session, writer: int, started_at: Any) -> list[Row]:
        w = self.writers.get(writer)
        return [] if w is None or w.started != to_micros(started_at) else [_STANDING(w.seq, to_datetime(w.through))]

    def ping_log_latest(self, session: Session) -> list[Row]:
        return [_ONE(to_datetime(max(w.through for w in self.writers.values())))]

    def ping_log_pulse(self, session: Session, writer: int, through: Any) -> list[Row]:
        w = self.writers[writer]
        wait_for(session, w.lock)
        if w.fenced:
            return []
        w.through, w.seen = max(w.through, to_micros(through)), self.server.clock
        return [_ONE(to_datetime(self.log_time))]

    def ping_log_report_refusals(self, session: Session, writer: int, started: Any, ended: Any, *rest: Any) -> None:
        for first, last, count, reason in zip(started, ended, *rest, strict=True):
            self._refused(writer, to_micros(first), to_micros(last), count, reason)

    def ping_log_end_writer(self, session: Session, writer: int, through: Any) -> None:
        w = self.writers[writer]
        wait_for(session, w.lock)
        if not w.fenced:
            w.through, w.fenced = max(w.through, to_micros(through)), True
            w.seen = self.server.clock

    def ping_log_end_backend(self, session: Session, pid: int, name: str, timeout_ms: int) -> None:
        other = self.server.sessions.get(pid)
        if other is not None and other.name == name:
            self.server.end(other)

    def pool_confirm(self, session: Session) -> None:
        """There is no standby here: what was committed is confirmed."""

    def copy(self, session: Session, entries: list[Entry]) -> None:
        w = self.writers[entries[0].writer]
        wait_for(session, w.lock)
        if any((entry.writer, entry.seq) in self.pings for entry in entries):
            raise asyncpg.UniqueViolationError("duplicate key value violates unique constraint")
        if w.fenced:
            raise FencedByTrigger(f"writer {w.id} is fenced")
        self.on_copy(entries)
        for entry in entries:
            self.pings[entry.writer, entry.seq] = entry
        self.by_writer.setdefault(w.id, []).extend(entries)
        self.by_writer[w.id].sort(key=lambda entry: entry.seq)
        w.seq, w.through = max(w.seq, entries[-1].seq), max(w.through, entries[-1].at)
        w.seen = self.server.clock

    def _lock_states(self, session: Session, monitor_ids: Sequence[int]) -> None:
        """The row locks of a transaction: what it wrote, another one writes again only after its end."""
        locks = [self.state_locks.setdefault(monitor_id, Lock()) for monitor_id in monitor_ids]
        for lock in locks:
            wait_for(session, lock)
        for lock in locks:
            self.server.lock(session, lock)

    def _refused(self, writer: int, started: Micros, ended: Micros, pings: int, reason: str) -> None:
        # A refusal before a watermark that was read is reported too late; this is no fault.
        # Those of a registration (its writer is not there yet) become visible together with the writer.
        in_time = started >= self.watermark
        if writer in self.writers:
            in_time = in_time and started >= self.writers[writer].visible
        self.refusals.append(
            SimpleNamespace(
                id=self._next("refusals"),
                writer=writer,
                started=started,
                ended=ended,
                pings=pings,
                reason=reason,
                in_time=in_time,
            )
        )

    # ---------------------------------------------------------------------------------------------- the lease

    def _lease(self, name: str) -> SimpleNamespace:
        return self.lease if name == SCHEDULER else self.outbox.lease

    def lease_take(self, session: Session, name: str, holder: str, node: str, life_s: float, address: Any) -> list[Row]:
        lease, now = self._lease(name), self.log_time
        if not _may_be_taken(lease, holder, now, life_s):
            return []
        wait_for(session, lease.lock)
        lease.term, lease.holder, lease.node = lease.term + 1, holder, node
        lease.expires = now + round(life_s * SECOND)
        return [_ONE(lease.term)]

    def lease_take_or_renew(self, session: Session, name: str, holder: str, node: str, life_s: float) -> list[Row]:
        lease, now = self._lease(name), self.log_time
        keeper = self.lease
        is_beside_keeper = lease.node != node and keeper.node == node and keeper.expires > now
        if not (_may_be_taken(lease, holder, now, life_s) or is_beside_keeper):
            return []
        lease.term += lease.holder != holder
        lease.holder, lease.node, lease.expires = holder, node, now + round(life_s * SECOND)
        return [_ONE(lease.term)]

    def lease_renew(self, session: Session, name: str, term: int, holder: str, life_s: float) -> list[Row]:
        lease, now = self.lease, self.log_time
        if (lease.term, lease.holder) != (term, holder) or lease.expires < now:
            return []
        lease.expires = now + round(life_s * SECOND)
        return [_ONE(term)]

    def lease_release(self, session: Session, name: str, holder: str, term: int) -> None:
        if self._lease(name).term == term:
            self.lease_release_in_any_term(session, name, holder)

    def lease_release_in_any_term(self, session: Session, name: str, holder: str) -> None:
        lease = self._lease(name)
        if lease.holder == holder:
            lease.expires = -1

    def lease_end_stuck_sessions(self, session: Session) -> None:
        """Here a frozen session is idle: see the server."""

    def lease_bound_idle(self, session: Session) -> None:
        """See the server."""

    def lease_hold(self, session: Session, name: str, term: int, holder: str) -> list[Row]:
        session.held = (name, term, holder)
        if not self.is_held(term, holder):
            return []
        self.server.lock(session, self.lease.lock)
        self._write(session, lambda: self._note_term(term))
        return [_ONE(1)]

    def lease_outlast(self, session: Session, name: str, term: int, holder: str) -> list[Row]:
        wait_for(session, self.lease.lock)
        return [_ONE(1)] if self.is_held(term, holder) else []

    def is_held(self, term: int, holder: str) -> bool:
        """The `where` of the first statement of a decision."""
        return (self.lease.term, self.lease.holder) == (term, holder)

    def _note_term(self, term: int) -> None:
        if term < self.lease.term:
            self.wrong.append(f"term {term} writes after term {self.lease.term} was taken")

    # --------------------------------------------------------------------------------------- the scheduler reads

    def scheduler_checkpoint(self, session: Session) -> list[Row]:
        c = self.checkpoint
        if c is None:
            return []
        return [_CHECKPOINT(to_datetime(c.at), c.applied_rev, c.cursors, c.set_aside)]

    def scheduler_write_checkpoint(
        self, session: Session, at: Any, applied_rev: int, cursors: dict[str, int], set_aside: list[int]
    ) -> None:
        new = SimpleNamespace(
            at=to_micros(at), applied_rev=applied_rev, cursors=dict(cursors), set_aside=list(set_aside)
        )

        def write() -> None:
            if self.checkpoint is None or self.checkpoint.at <= new.at:
                self.checkpoint = new
                for change in self.changes[:applied_rev]:
                    if change.kind == "window":
                        self.on_window(session, change)

        self._write(session, write)

    def scheduler_load_monitors(self, session: Session, applied_rev: int) -> list[Row]:
        gone = []
        for monitor_id, s in self.states.items():
            if monitor_id not in self.monitors and self._before(monitor_id, max(applied_rev, s.rev)) is not None:
                nothing = dict.fromkeys(("slug", "paused", "snoozed_until", "definition"))
                gone.append(SimpleNamespace(id=monitor_id, project_id=1, rev=1 << 62, **nothing))
        return [self._loaded(m, applied_rev) for m in [*self.monitors.values(), *gone]]

    def _before(self, monitor_id: int, floor: int) -> Any:
        earlier = (c for c in self.changes if c.monitor_id == monitor_id and c.rev > floor and c.kind != "resolve")
        return next((c.before for c in earlier), None)

    def _loaded(self, m: SimpleNamespace, applied_rev: int) -> Row:
        s = self.states.get(m.id)
        floor = max(applied_rev, s.rev if s is not None else 0)
        before = self._before(m.id, floor)
        state = (None,) * 6 if s is None else (s.at, s.writer, s.seq, s.status, s.since, s.text)
        return _MONITOR(
            m.id,
            m.project_id,
            m.slug,
            m.slug,
            [],
            m.paused,
            m.snoozed_until,
            m.definition,
            m.rev,
            *state,
            before if m.rev > applied_rev else None,
            m.rev > floor,
        )

    def scheduler_load_members(self, session: Session) -> list[Row]:
        rows = [(id, name, *row) for id, members in sorted(self.members.items()) for name, row in members.items()]
        rows.sort(key=lambda row: (row[0], row[3] is None, row[3] or 0, row[1]))
        return [_MEMBER(*row) for row in rows]

    def scheduler_deleted_since(self, session: Session, rev: int) -> list[Row]:
        return [
            _ENDED(c.monitor_id, c.effective_at)
            for c in self.changes
            if c.rev > rev and c.kind == "monitor" and c.after is None and c.monitor_id not in self.states
        ]

    def scheduler_windows(self, session: Session, applied_rev: int) -> list[Row]:
        rows = [_WINDOW(w.id, 1, w.slug, w.definition) for w in self.windows.values() if w.rev <= applied_rev]
        first: dict[str, Any] = {}
        for c in self.changes:
            if c.kind == "window" and c.rev > applied_rev:
                first.setdefault(c.subject, c.before)
        was = [orjson.loads(before) for before in first.values() if before is not None]
        return rows + [_WINDOW(w["id"], 1, w["slug"], w["definition"]) for w in was]

    def scheduler_windows_applied(self, session: Session, rev: int) -> list[tuple[Any, ...]]:
        taken = [c for c in self.changes if c.rev > rev and c.kind == "window" and c.effective_at is not None]
        return [(c.rev, c.kind, 1, None, c.subject, c.before, c.after, c.effective_at) for c in taken]

    def scheduler_changes_since(self, session: Session, rev: int, limit: int) -> list[tuple[Any, ...]]:
        changes = [c for c in self.changes if c.rev > rev][:limit]
        return [(c.rev, c.kind, c.project_id, c.about, c.subject, c.before, c.after) for c in changes]

    def scheduler_writers(self, session: Session, known: list[int], newest: int) -> list[Row]:
        live = [w.through for w in self.writers.values() if not w.fenced]
        readable = min(live) if live else max((w.through for w in self.writers.values()), default=0)
        self.watermark = max(self.watermark, readable)
        return [
            _WRITER(
                w.id,
                w.seq,
                to_datetime(w.started),
                to_datetime(w.through),
                w.fenced,
                to_datetime(w.seen),
                (self.server.clock - w.seen) / SECOND,
            )
            for w in self.writers.values()
            if not w.fenced or w.id in known or w.id > newest
        ]

    def scheduler_ended_runs(self, session: Session, monitor_ids: list[int], ids: list[str]) -> list[Row]:
        rows = []
        for key in zip(monitor_ids, ids, strict=True):
            ended = [
                (number, run)
                for (monitor_id, number), run in sorted(self.runs.items())
                if (monitor_id, run.run) == key and run.finished_at is not None
            ]
            if ended and ended[-1][1].ended is not None:
                number, run = ended[-1]
                which = (run.business_date, run.backfill, run.execution)
                state = orjson.dumps(run.ended).decode()
                rows.append(_ENDED_RUN(*key, number, run.verdict, to_datetime(run.finished_at), *which, state))
        return rows

    def scheduler_state_at(self, session: Session, monitor_id: int) -> list[Row]:
        state = self.states.get(monitor_id)
        return [] if state is None else [_ONE(to_datetime(state.at))]

    def scheduler_news(self, session: Session) -> list[Row]:
        rev = self.changes[-1].rev if self.changes else 0
        return [_NEWS(rev, self.refusals[-1].id if self.refusals else 0)]

    def scheduler_unfinished_writers(self, session: Session, ids: list[int], seqs: list[int]) -> list[Row]:
        cursors = dict(zip(ids, seqs, strict=True))
        return [_ID(w.id) for w in self.writers.values() if not w.fenced or w.seq > cursors.get(w.id, 0)]

    def entries_of_writer(
        self, session: Session, writer: int, seq: int, after: Any, through: Any, horizon: Any, limit: int
    ) -> list[tuple[Any, ...]]:
        low, high = to_micros(after), to_micros(horizon)
        entries = [e for e in self.by_writer.get(writer, ()) if e.seq > seq and low < e.at <= high][:limit]
        entries = [e for e in entries if e.at <= to_micros(through)]
        heads = [
            (e.writer, e.at, e.seq, e.monitor_id, e.project_id, _inet(e.source), e.ping.signal, _is_plain(e))
            for e in entries
        ]
        others = [(*e.ping[1:-1], _options(e)) for e in entries if not _is_plain(e)]
        return [(*_columns(heads, 8), *_columns(others, 10))]

    def scheduler_fence(self, session: Session, writer: int, seen_at: Any, decided: Any) -> list[Row]:
        w = self.writers[writer]
        wait_for(session, w.lock)
        if w.fenced or w.seen != to_micros(seen_at):
            return []
        self.server.lock(session, w.lock)
        self._write(session, lambda: setattr(w, "fenced", True))
        ended = max(self.log_time, w.through + 1, *(other.through for other in self.writers.values()))
        return [self._add_outage(session, w.through, ended, w.id, "crash", decided)]

    def scheduler_outages_by_refusals(self, session: Session, after: int, decided: Any) -> list[Row]:
        known = {d.refusal for d in self.outages}
        return [
            self._add_outage(session, r.started, max(r.ended, r.started + 1), r.writer, r.reason, decided, r)
            for r in self.refusals
            if r.id > after and r.id not in known
        ]

    def scheduler_outage_before_writer(self, session: Session, writer: int, decided: Any) -> list[Row]:
        w = self.writers[writer]
        earlier = [o for o in self.writers.values() if o.id < writer]
        since = max((o.through for o in earlier), default=None)
        if since is None or since >= w.started or any(not o.fenced for o in earlier):
            return []
        if any(d.writer == writer and d.reason == "stopped" for d in self.outages):
            return []
        if any(d.started <= since and d.ended >= w.started for d in self.outages):
            return []
        if any(r.writer == writer and r.reason == "clock" and r.started <= since for r in self.refusals):
            return []
        return [self._add_outage(session, since, w.started, writer, "stopped", decided)]

    def _add_outage(
        self,
        session: Session,
        started: Micros,
        ended: Micros,
        writer: int,
        reason: str,
        decided: Any,
        refusal: SimpleNamespace | None = None,
    ) -> Row:
        outages = SimpleNamespace(
            id=self._next("outages"),
            started=started,
            ended=ended,
            writer=writer,
            reason=reason,
            refusal=refusal.id if refusal else None,
            in_time=refusal.in_time if refusal else self._is_in_time(writer, reason),
            pings=refusal.pings if refusal else 0,
            decided=to_micros(decided),
        )

        def write() -> None:
            self.outages.append(outages)
            self.on_outage(session, outages)

        self._write(session, write)
        return _OUTAGE(outages.id, to_datetime(started), to_datetime(ended), reason, outages.pings)

    def _is_in_time(self, writer: int, reason: str) -> bool:
        """Whether no scheduler can have evaluated before this was known."""
        w = self.writers[writer]
        return bool(w.alone) if reason == "stopped" else w.seq > 0

    def scheduler_now(self, session: Session) -> list[Row]:
        return [_ONE(to_datetime(self.log_time))]

    def scheduler_known_outages(self, session: Session) -> list[Row]:
        return [_OUTAGE(d.id, to_datetime(d.started), to_datetime(d.ended), d.reason, d.pings) for d in self.outages]

    def scheduler_refusals_applied(self, session: Session) -> list[Row]:
        return [_ONE(max((d.refusal or 0 for d in self.outages), default=0))]

    def scheduler_last_writer(self, session: Session, at: Any) -> list[Row]:
        through = to_micros(at)
        return [_ONE(max((w.id for w in self.writers.values() if w.through <= through), default=0))]

    def scheduler_open_incidents(self, session: Session) -> list[Row]:
        return [_OPEN(*key) for key, incident in self.incidents.items() if incident.resolved_at is None]

    def scheduler_channels(self, session: Session) -> list[tuple[Any, ...]]:
        return [(id, 1, f"c{id}", True) for id in CHANNELS]

    def scheduler_projects(self, session: Session) -> list[Row]:
        return [_SLUG(1, "default")]

    # -------------------------------------------------------------------------------------- the scheduler writes

    def decisions_put_states(self, session: Session, *columns: list[Any]) -> None:
        self._lock_states(session, columns[0])

        def write() -> None:
            for monitor_id, _, at, writer, seq, status, since, text in zip(*columns, strict=True):
                state = orjson.loads(text)
                self.states[monitor_id] = SimpleNamespace(
                    at=to_micros(at),
                    writer=writer,
                    seq=seq,
                    status=status,
                    since=to_micros(since),
                    rev=state.get("rev", 0),
                    text=orjson.dumps(_as_jsonb(state)),
                )
                self.on_states(session, monitor_id, state.get("rev", 0))

        self._write(session, write)

    def decisions_delete_states(self, session: Session, ids: list[int], instants: list[Any]) -> None:
        self._lock_states(session, ids)

        def write() -> None:
            for monitor_id, at in zip(ids, instants, strict=True):
                self.states.pop(monitor_id, None)
                for change in self.changes:
                    if change.monitor_id == monitor_id and change.after is None:
                        change.effective_at = at
                self.on_states(session, monitor_id, 1 << 62)

        self._write(session, write)

    def decisions_put_effective(self, session: Session, revs: list[int], instants: list[Any]) -> None:
        def write() -> None:
            for change in self.changes:
                if change.rev in revs:
                    change.effective_at = instants[revs.index(change.rev)]
                    self.on_window(session, change)

        self._write(session, write)

    def decisions_put_members(self, session: Session, *columns: list[Any]) -> None:
        def write() -> None:
            for monitor_id, name, at, silent_since in zip(*columns, strict=True):
                self.members.setdefault(monitor_id, {})[name] = (to_micros(at), _micros(silent_since))

        self._write(session, write)

    def decisions_delete_members(self, session: Session, *columns: list[Any]) -> None:
        def write() -> None:
            for monitor_id, name in zip(*columns, strict=True):
                self.members.get(monitor_id, {}).pop(name, None)

        self._write(session, write)

    def decisions_disband(self, session: Session, ids: list[int]) -> None:
        def write() -> None:
            for monitor_id in ids:
                self.members.pop(monitor_id, None)

        self._write(session, write)

    def decisions_put_runs(self, session: Session, *columns: list[Any]) -> None:
        new: dict[tuple[int, int], SimpleNamespace] = {}
        for monitor_id, number, _, run, started, finished, last, duration, verdict, reason, code, detail, *which in zip(
            *columns, strict=True
        ):
            date, backfill, attempt, execution, ended = which
            was = self.runs.get((monitor_id, number))
            if was is None:
                was = SimpleNamespace(run=run, started_at=None, duration=None, detail={}, last_ping_at=NO_PING)
                was.business_date, was.backfill, was.attempt, was.execution, was.ended = None, False, None, None, None
                was.exit_code = code
            by_person = to_micros(last) == NO_PING
            new[monitor_id, number] = SimpleNamespace(
                run=was.run,
                started_at=was.started_at if started is None else to_micros(started),
                finished_at=_micros(finished),
                duration=was.duration if duration is None else duration,
                verdict=verdict,
                reason=reason,
                last_ping_at=was.last_ping_at if by_person else to_micros(last),
                exit_code=was.exit_code if by_person else code,
                detail=was.detail if detail == "{}" else orjson.loads(detail),
                business_date=was.business_date if date is None else date,
                backfill=was.backfill or backfill,
                attempt=was.attempt if attempt is None else attempt,
                execution=was.execution if execution is None else execution,
                ended=was.ended if ended is None else orjson.loads(ended),
            )
        session.runs = new
        self._write(session, lambda: self.runs.update(new))

    def decisions_put_incidents(self, session: Session, *columns: list[Any]) -> None:
        def write() -> None:
            for monitor_id, number, _, opened, resolved, _, cause, _, run, stage, _, by, held in zip(
                *columns, strict=True
            ):
                was, opened_at = self.incidents.get((monitor_id, number)), to_micros(opened)
                if was is not None and was.opened_at != opened_at:
                    self.wrong.append(f"incident {monitor_id}/{number} was opened twice")
                self.incidents[monitor_id, number] = SimpleNamespace(
                    opened_at=opened_at,
                    resolved_at=_micros(resolved),
                    cause=cause,
                    run=run,
                    stage=stage,
                    suppressed_by=by,
                    held=orjson.loads(held) if held is not None else [],
                )
                if sum(k[0] == monitor_id and i.resolved_at is None for k, i in self.incidents.items()) > 1:
                    self.wrong.append(f"monitor {monitor_id} has two open incidents")

        self._write(session, write)

    def decisions_usual(self, session: Session, monitor_ids: list[int]) -> list[Row]:
        rows = []
        for monitor_id in monitor_ids:
            successes = [
                (number, run.duration)
                for (of, number), run in (self.runs | session.runs).items()
                if of == monitor_id and run.verdict == "succeeded" and run.duration is not None
            ]
            durations = sorted(duration for _, duration in sorted(successes, reverse=True)[:100])
            if durations:
                rows.append(_USUAL(monitor_id, len(durations), _quantile(durations, 0.5), _quantile(durations, 0.95)))
        return rows

    def decisions_notes(self, session: Session, monitor_ids: list[int], numbers: list[int], latest: int) -> list[Row]:
        return []  # people do not acknowledge or comment in a simulated world

    def decisions_put_alerts(self, session: Session, *columns: list[Any]) -> None:
        def write() -> None:
            rows = [(*row, orjson.loads(facts)) for _, *row, facts in zip(*columns, strict=True)]
            for channels, (_, monitor_id, incident, ordinal, kind, _) in zip(
                self.outbox.put_all(rows), rows, strict=True
            ):
                if not channels:
                    continue  # an end goes to every channel that received an alert of the incident
                was = self.alerts.setdefault((monitor_id, incident, ordinal), SimpleNamespace(kind=kind))
                if was.kind != kind:
                    self.wrong.append(f"alert {monitor_id}/{incident}/{ordinal} was {was.kind} and is {kind}")

        self._write(session, write)

    def decisions_put_operator_alert(self, session: Session, facts: Any) -> None:
        def write() -> None:
            for channel_id in CHANNELS:
                self.outbox.put(channel_id, None, None, 0, "operator", facts, urgent=True)

        self._write(session, write)

    def decisions_close_incident(self, session: Session, monitor_id: int, number: int, at: Any) -> None:
        def write() -> None:
            incident = self.incidents.get((monitor_id, number))
            if incident is not None and incident.resolved_at is None:
                incident.resolved_at = to_micros(at)

        self.wrong.append(f"incident {monitor_id}/{number} is open in SQL alone")
        self._write(session, write)


def _quantile(ordered: list[float], part: float) -> float:
    """`percentile_cont`."""
    place = part * (len(ordered) - 1)
    low, high = ordered[floor(place)], ordered[ceil(place)]
    return low + (place - floor(place)) * (high - low)


def _is_plain(entry: Entry) -> bool:
    return all(value is None for value in entry.ping[1:])


def _inet(source: bytes | None) -> bytes | None:
    return None if source is None else b"\2\x20\0\4" + source


def _options(entry: Entry) -> str | None:
    options = entry.ping.options
    return None if options is None else orjson.dumps(options.dump()).decode()


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[Any]:
    """As array_agg gives them."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [None] * width


def _micros(at: Any) -> Micros | None:
    return None if at is None else to_micros(at)


def _as_jsonb(value: Any) -> Any:
    """Objects lose the order of their keys."""
    if isinstance(value, dict):
        return {key: _as_jsonb(value[key]) for key in sorted(value, key=lambda key: (len(key), key))}
    return [_as_jsonb(each) for each in value] if isinstance(value, list) else value
