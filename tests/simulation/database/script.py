"""A random sequence of calls to the database, with the arguments that writers, schedulers and dispatchers give them."""

from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from random import Random
from typing import Any

import orjson

from offbeat_server.common.errors import OffbeatError
from offbeat_server.common.instants import SECOND, Micros, to_datetime
from offbeat_server.db.pool import open_cursor
from offbeat_server.db.repositories import lease_row
from offbeat_server.db.repositories.lease_row import Held, held_by
from offbeat_server.db.repositories.outbox import Attached, ChannelRow, DigestSelection, SettledAlert, WantedAlerts
from offbeat_server.db.repositories.ping_log import LostPings, RefusedPings, Registered
from offbeat_server.db.scheduler_store import decision_rows, log_entries, scheduler_rows, states
from offbeat_server.db.scheduler_store.decision_rows import WindowsApplied
from offbeat_server.db.scheduler_store.scheduler_rows import ChangeSeen, Checkpoint
from offbeat_server.db.sql_loader import load
from offbeat_server.engine.decisions import NO_PING, Alert, Decision, Effect, IncidentChanged, RunChanged
from offbeat_server.engine.model.enums import AlertKind, AlertState, CauseKind, Status, Verdict
from offbeat_server.engine.model.fleet import MemberRow
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.engine.model.ping import PLAIN, SIGNALS, Entry, Ping, PingOptions, Position
from tests.simulation.database.differential import DAYS, HOLDERS, Both, Call, Shown, Side
from tests.simulation.database.sessions import BEGIN
from tests.simulation.world.people import PROJECT

LEASE_NAME = lease_row.SCHEDULER
LIFE_S = 3.0
MINUTE: Micros = 60 * SECOND
HOUR: Micros = 60 * MINUTE
TICKS = (0, 1, 999, 50_000, 50_003, SECOND, 3 * SECOND, 7 * SECOND, 12 * SECOND, 70 * SECOND)
LONG_TICKS = (11 * MINUTE, 61 * MINUTE, 25 * HOUR)
MONITORS = 6
HELD: tuple[Any, ...] = ([], [{"kind": "snooze", "by": None, "started_at": BEGIN, "ends_at": BEGIN + SECOND}])
DETAILS: tuple[Any, ...] = ({}, {"stages": {"load": "ok"}})
DEFINITIONS: tuple[dict[str, Any], ...] = (
    {"every": 60}, {"every": 61, "grace": 5}, {"cron": "* * * * *"}, {"every": 90, "fail_after": 2},
)  # fmt: skip


class Script:
    """Draws one call after another. It knows what the callers would know: results of earlier calls."""

    def __init__(self, both: Both, rng: Random) -> None:
        self.both, self.tables, self.rng = both, both.tables, rng
        self.writers: list[Registered] = []
        self.batches: list[list[Entry]] = []
        self.leases: list[Held] = []
        self.claimed: dict[str, list[int]] = {holder: [] for holder in HOLDERS}
        self.digests: list[int] = []
        self.story: list[str] = []
        self._runs = count(1)
        self._steps: dict[Callable[[], Awaitable[None]], int] = {
            self.tick: 14, self.jump: 1,
            self.register: 3, self.copy: 8, self.pulse: 3, self.refuse: 2, self.end: 1, self.ask_log: 2,
            self.take: 3, self.renew: 3, self.release: 1, self.outlast: 1,
            self.people: 5, self.decide: 16, self.operators: 1, self.checkpoint: 3, self.close: 1,
            self.outages: 4, self.read_scheduler: 6, self.load: 3, self.read_log: 3,
            self.take_over: 3, self.claim: 9, self.settle: 8, self.hold: 2, self.note: 2, self.renew_claims: 2,
            self.give_back: 1, self.make_digest: 5, self.resume_digests: 3, self.settle_digest: 3,
        }  # fmt: skip

    async def run(self, steps: int) -> None:
        """Make this number of calls; raises AssertionError at the first difference."""
        await self.both.compare()
        await self.register()
        await self.take()
        await self.end_session()
        names = list(self._steps)
        for _ in range(steps):
            (step,) = self.rng.choices(names, list(self._steps.values()))
            self.story.append(step.__name__)
            await step()

    @property
    def log_time(self) -> Micros:
        """As a process's own clock would say it."""
        return self.tables.log_time

    def _held(self) -> Held:
        """Mostly the lease that is good, sometimes one that was lost."""
        return self.leases[-1] if self.rng.random() < 0.9 else self.rng.choice(self.leases)

    def _writer(self) -> Registered:
        return self.writers[-1] if self.rng.random() < 0.6 else self.rng.choice(self.writers)

    async def _step(self, call: Call, shown: Shown = lambda result: result) -> Any:
        """Something that writes. None if it was refused."""
        result = await self.both.step(call, shown)
        return None if isinstance(result, OffbeatError) else result

    async def _ask(self, call: Call, shown: Shown = lambda result: result) -> Any:
        """Something that only reads."""
        return await self.both.ask(call, shown)

    # ---------------------------------------------------------------------------------------------------- the clock

    async def tick(self) -> None:
        """Time passes."""
        tick = self.rng.choice(TICKS) if self.rng.random() < 0.93 else self.rng.choice(LONG_TICKS)
        if self.both.now + tick < BEGIN + (DAYS - 2) * 24 * HOUR:
            await self.both.set_clock(self.both.now + tick)

    async def jump(self) -> None:
        """The database's clock is set, mostly back."""
        by = self.rng.choice((-3 * SECOND, -MINUTE, -2 * HOUR, 30 * MINUTE))
        await self.both.set_clock(self.both.now + by)

    # ---------------------------------------------------------------------------------------------------- writers

    async def register(self) -> None:
        """A process starts, or writes again after a lost connection."""
        rng = self.rng
        former = self._writer().writer if self.writers and rng.random() < 0.7 else None
        ages = [RefusedPings(age := rng.randint(1, 9_000_000), rng.randint(0, age), rng.randint(0, 5), "database")
                for _ in range(rng.choice((0, 0, 1, 2)))]  # fmt: skip
        jumped = former is not None and rng.random() < 0.2
        lost = None
        if former is not None and rng.random() < 0.15:
            lost = LostPings(self.log_time - rng.randint(0, 2_000_000), rng.randint(1, 9))
        node = rng.choice(HOLDERS)
        registered = await self._step(lambda side: side.log.register(node, None, former, ages, jumped, lost))
        self.writers.append(registered)

    async def copy(self) -> None:
        """A batch of pings is committed, or one whose commit was in doubt comes again."""
        if self.batches and self.rng.random() < 0.15:
            batch = self.rng.choice(self.batches)
        else:
            batch = self._batch(self._writer())
            self.batches.append(batch)
        await self._step(lambda side: side.log.copy(batch))
        await self.both.compare_log()

    def _batch(self, writer: Registered) -> list[Entry]:
        rng, w = self.rng, self.tables.writers[writer.writer]
        at = max(self.log_time, w.through + 1)
        batch = []
        for seq in range(w.seq + 1, w.seq + rng.randint(2, 5)):
            signal = rng.choice(SIGNALS)
            ping = PLAIN[signal]
            if rng.random() < 0.5:
                ping = Ping(
                    signal, run=rng.choice((None, "r1")), stage=rng.choice((None, "load")),
                    exit_code=rng.choice((0, 2**31)), duration=rng.choice((None, 1.5)),
                    message=rng.choice((None, "ok")), dialect=rng.choice((None, "snitch")),
                    options=rng.choice((None, PingOptions("2026-11-30", True, 2, "pod-1"))),
                )  # fmt: skip
            source = rng.choice((None, b"\x0a\0\0\x01"))
            batch.append(Entry(at, writer.writer, seq, rng.randint(1, MONITORS), PROJECT, source, ping))
            at += rng.randint(1, 1000)
        return batch

    async def pulse(self) -> None:
        """An idle writer shows that it is alive."""
        writer, through = self._writer(), self.log_time - self.rng.choice((0, SECOND))
        await self._step(lambda side: side.log.pulse(writer.writer, through))

    async def refuse(self) -> None:
        """A writer reports pings that it had to refuse."""
        writer, at = self._writer(), self.log_time
        refused = [RefusedPings(at - self.rng.randint(0, 5_000_000), at, self.rng.randint(1, 9), "full")
                   for _ in range(self.rng.randint(1, 3))]  # fmt: skip
        await self._step(lambda side: side.log.report_refusals(writer.writer, refused))

    async def end(self) -> None:
        """A writer stops in an orderly way."""
        writer, through = self._writer(), self.log_time
        await self._step(lambda side: side.log.end(writer.writer, through))

    async def end_session(self) -> None:
        """A session is ended by its number and name; afterwards its connection is good for nothing."""
        await self._step(lambda side: side.log.end_session(side.victim.session._replace(name="another")))
        await self._ask(lambda side: side.victim.latest())
        await self._step(lambda side: side.log.end_session(side.victim.session))
        await self._ask(lambda side: side.victim.latest())

    async def ask_log(self) -> None:
        """The queries of a writer after a lost connection."""
        writer = self._writer()
        await self._ask(lambda side: side.log.standing(writer))
        await self._ask(lambda side: side.log.standing(writer._replace(started_at=writer.started_at + 1)))
        await self._ask(lambda side: side.log.latest())
        await self._ask(lambda side: side.log.confirm())

    # ---------------------------------------------------------------------------------------------------- the lease

    async def take(self) -> None:
        """A node tries to become the scheduler."""
        holder = self.rng.choice(HOLDERS)
        held = await self._step(lambda side: lease_row.take(side.scheduler, LEASE_NAME, holder, holder, LIFE_S))
        if held is not None:
            self.leases.append(held)

    async def renew(self) -> None:
        """A scheduler renews its lease."""
        held = self._held()
        await self._step(lambda side: lease_row.renew(side.scheduler, held, LIFE_S))

    async def release(self) -> None:
        """A scheduler stops."""
        held = self._held()
        await self._step(lambda side: lease_row.release(side.scheduler, held))

    async def outlast(self) -> None:
        """A scheduler waits for what a lost connection was doing."""
        held = self._held()
        await self._step(lambda side: lease_row.outlast(side.scheduler, held))

    # ---------------------------------------------------------------------------------------------------- people

    async def people(self) -> None:
        """A user changes a definition."""
        rng, both, monitors, windows = self.rng, self.both, self.tables.monitors, self.tables.windows
        what = rng.random()
        monitor_id = rng.choice([*monitors, 0])
        if not monitors or what < 0.2:
            await both.define(
                max([*monitors, *(c.monitor_id or 0 for c in self.tables.changes)], default=0) + 1,
                rng.choice(DEFINITIONS),
            )
        elif what < 0.3:
            window_id = rng.choice([*windows, max([0, *windows]) + len(self.tables.changes) + 1])
            definition = {"cron": f"{len(self.tables.changes) % 60} * * * *", "duration": 60, "monitors": []}
            await both.put_window(window_id, definition)
        elif what < 0.35 and windows:
            await both.delete_window(rng.choice(list(windows)))
        elif not monitor_id:
            return
        elif what < 0.5:
            m = monitors[monitor_id]
            await both.alter(monitor_id, "resume" if m.paused else "pause", paused=not m.paused)
        elif what < 0.6:
            await both.alter(monitor_id, "snooze", snoozed_until=to_datetime(self.log_time + MINUTE))
        elif what < 0.66:
            await both.resolve(monitor_id)
        elif what < 0.7:
            await both.close_run(monitor_id, rng.randint(1, 5))
        elif what < 0.8:
            await both.delete(monitor_id)
        else:
            await both.define(monitor_id, {"every": 100 + len(self.tables.changes)})

    # ---------------------------------------------------------------------------------------------------- decisions

    async def decide(self) -> None:
        """The scheduler writes what it has decided; sometimes twice, since a commit can be in doubt."""
        rng = self.rng
        subjects = rng.sample(range(1, MONITORS + 1), rng.randint(1, 3))
        decided = [self._decision(monitor_id) for monitor_id in subjects]
        windows = [
            WindowsApplied(c.rev, self.log_time)
            for c in self.tables.changes
            if c.kind == "window" and c.effective_at is None and rng.random() < 0.5
        ]
        held = self._held()
        for _ in range(rng.choice((1, 1, 2))):
            await self._step(
                lambda side: decision_rows.write(
                    side.scheduler,
                    held,
                    decided,
                    lambda project, slugs: self._channels(slugs),
                    {PROJECT: "default"},
                    windows,
                )
            )

    def _channels(self, slugs: tuple[str, ...] | None) -> Sequence[int]:
        return (1, 2) if slugs is None else [int(slug[1:]) for slug in slugs]

    def _decision(self, monitor_id: int) -> Decision:
        rng, at = self.rng, self.log_time
        revs = [c.rev for c in self.tables.changes if c.monitor_id == monitor_id]
        state: dict[str, Any] = {"created": at, "due": at + MINUTE}
        if revs and rng.random() < 0.5:
            state["rev"] = rng.choice(revs)
        d = Decision(
            monitor_id, PROJECT, Position(at, self.writers[-1].writer, rng.randint(1, 99)),
            rng.choice((Status.UP, Status.DOWN)), at, state, disbanded=rng.random() < 0.1,
        )  # fmt: skip
        if revs and monitor_id not in self.tables.monitors and rng.random() < 0.6:
            d.state, d.disbanded = None, True
        d.members = [
            MemberRow(name, None if rng.random() < 0.2 else at, rng.choice((None, at - SECOND)))
            for name in rng.sample("abc", rng.choice((0, 0, 1, 3)))
        ]
        d.effects = [*self._runs_of(monitor_id), *self._incident(monitor_id)]
        return d

    def _runs_of(self, monitor_id: int) -> list[Effect]:
        rng, at = self.rng, self.log_time
        if rng.random() < 0.4:
            return []
        number = rng.randint(1, 5)
        finished = at if rng.random() < 0.6 else None
        return [
            RunChanged(
                number, f"run-{number}", rng.choice((None, at - SECOND)), finished, rng.choice((at, at, NO_PING)),
                rng.choice((None, 1_500_000, 2_250_000)),
                rng.choice((Verdict.SUCCEEDED, Verdict.FAILED)) if finished else None,
                rng.choice((None, "why")), rng.choice((None, 1, 2**31)), rng.choice(DETAILS),
                rng.choice((None, "2026-11-30")), rng.random() < 0.3, rng.choice((None, 2)), rng.choice((None, "pod")),
                [True, 0, "", None, False, False] if finished and rng.random() < 0.7 else None,
            )
        ]  # fmt: skip

    def _incident(self, monitor_id: int) -> list[Effect]:
        """An incident opens, gets worse, or ends; or all of it in one decision."""
        rng, at, effects = self.rng, self.log_time, list[Effect]()
        known = {number: i for (id, number), i in self.tables.incidents.items() if id == monitor_id}
        number = next((number for number, i in known.items() if i.resolved_at is None), 0)
        opened_at = known[number].opened_at if number else at
        ordinal = max(
            (
                a.ordinal
                for a in self.tables.outbox.alerts.values()
                if (a.monitor_id, a.incident) == (monitor_id, number)
            ),
            default=0,
        )
        kinds = ["worse"] if number else ["opened"]
        if not number:
            number = max(known, default=0) + 1
            if rng.random() < 0.3:
                kinds += ["worse"]
            if rng.random() < 0.2:
                kinds += ["resolved"]
        elif rng.random() < 0.5:
            kinds = ["resolved"]
        if rng.random() < 0.25:
            kinds = [kind for kind in kinds if kind != "worse"]
        resolved_at = at if "resolved" in kinds else None
        cause = rng.choice((CauseKind.MISSED, CauseKind.FAILED, CauseKind.STAGE, CauseKind.HUNG))
        effects.append(
            IncidentChanged(
                number,
                opened_at,
                resolved_at,
                at,
                cause,
                "why",
                None,
                None,
                [],
                rng.choice((None, 1)),
                rng.choice(HELD),
            )
        )
        channels = rng.choice((None, ("c1",), ("c2",), ()))
        for kind in kinds:
            ordinal += 1
            facts: Any = {
                "monitor": f"m{monitor_id}", "name": f"M{monitor_id}", "incident": number, "kind": kind,
                "cause": cause, "reason": "why", "causes": [{"cause": cause, "reason": "why"}],
                "opened_at": opened_at, "resolved_at": at if kind == "resolved" else None, "decided_at": at,
                "run_started_at": at - SECOND if rng.random() < 0.3 else None,
            }  # fmt: skip
            effects.append(Alert(number, ordinal, AlertKind(kind), at, channels, facts))
        return effects

    async def operators(self) -> None:
        """An alert about Offbeat itself."""
        facts: Any = {"kind": "operator", "cause": "deaf", "reason": "why", "decided_at": "x"}
        held = self._held()

        async def alert(side: Side) -> None:
            async with held_by(side.scheduler, held):
                await decision_rows.alert_operators(side.scheduler, facts)

        await self._step(alert)

    async def checkpoint(self) -> None:
        """The scheduler writes how far it has come; sometimes late."""
        at = self.log_time - self.rng.choice((0, 0, MINUTE))
        rev = self.rng.randint(0, len(self.tables.changes))
        cursors = {w.writer: self.tables.writers[w.writer].seq for w in self.writers}
        held, new = self._held(), Checkpoint(at, rev, cursors, self.rng.choice(([], [1, 2])))

        async def write(side: Side) -> None:
            async with held_by(side.scheduler, held):
                await scheduler_rows.write_checkpoint(side.scheduler, new)

        await self._step(write)
        await self._ask(lambda side: scheduler_rows.read_checkpoint(side.scheduler))

    async def close(self) -> None:
        """The scheduler closes an incident that it does not know."""
        held, at = self._held(), self.log_time
        monitor_id, number = self.rng.choice([*self.tables.incidents, (1, 99)])
        await self._step(lambda side: decision_rows.close_incident(side.scheduler, held, monitor_id, number, at))

    # ---------------------------------------------------------------------------------------- what a scheduler reads

    async def outages(self) -> None:
        """New and silent writers and refusals become outages, in one transaction."""
        held, now, writers = self._held(), self.log_time, [w.writer for w in self.writers]
        new = self.rng.sample(writers, min(len(writers), self.rng.randint(0, 2)))
        silent = self.tables.writers[self.rng.choice(writers)]
        seen_at = silent.seen - self.rng.choice((0, 0, 1))
        after = max(0, len(self.tables.refusals) - self.rng.randint(0, 4))

        async def record(side: Side) -> list[scheduler_rows.Outage | None]:
            async with held_by(side.scheduler, held):
                recorded = [await scheduler_rows.outage_before_writer(side.scheduler, writer, now) for writer in new]
                recorded.append(await scheduler_rows.fence(side.scheduler, silent.id, seen_at, now))
                recorded += await scheduler_rows.outages_by_refusals(side.scheduler, after, now)
            return recorded

        await self._step(record, lambda recorded: [outage and outage._replace(id=0) for outage in recorded])

    async def read_scheduler(self) -> None:
        """All the small things that a scheduler reads."""
        rng, rows = self.rng, scheduler_rows
        known, rev, at = (
            [w.writer for w in self.writers if rng.random() < 0.5],
            rng.randint(0, len(self.tables.changes)),
            self.log_time,
        )
        newest = max(known, default=0)
        cursors = {writer: rng.randint(0, self.tables.writers[writer].seq) for writer in known}
        monitor_id = rng.randint(1, MONITORS)
        for read in (
            lambda side: rows.writers(side.scheduler, known, newest),
            lambda side: _sorted(rows.unfinished_writers(side.scheduler, cursors)),
            lambda side: rows.known_outages(side.scheduler),
            lambda side: rows.refusals_applied(side.scheduler),
            lambda side: rows.last_writer(side.scheduler, at - SECOND),
            lambda side: rows.now(side.scheduler),
            lambda side: rows.news(side.scheduler),
            lambda side: rows.open_incidents(side.scheduler),
            lambda side: _sorted(rows.channels(side.scheduler)),
            lambda side: rows.projects(side.scheduler),
            lambda side: rows.state_at(side.scheduler, monitor_id),
            lambda side: _sorted(rows.ended_runs(side.scheduler, [(monitor_id, f"run-{n}") for n in range(1, 5)])),
            lambda side: rows.deleted_since(side.scheduler, rev),
            lambda side: rows.read_checkpoint(side.scheduler),
        ):
            await self._ask(read)
        await self._ask(
            lambda side: rows.windows(side.scheduler, rev), lambda rows_read: sorted(rows_read, key=lambda row: row[0])
        )
        await self._ask(
            lambda side: rows.changes_since(side.scheduler, rev),
            lambda rows_read: [_change(change) for change in rows_read],
        )
        await self._ask(
            lambda side: rows.windows_applied(side.scheduler, rev),
            lambda rows_read: [(at, _change(c)) for at, c in rows_read],
        )

    async def load(self) -> None:
        """A scheduler starts: all monitors with their states."""
        applied_rev = self.rng.randint(0, len(self.tables.changes))

        async def load(side: Side) -> list[Any]:
            unreadable: list[int] = []
            loaded = [
                _monitor(m, has_state)
                async for part in states.load_monitors(
                    side.scheduler, applied_rev, lambda id, error: unreadable.append(id)
                )
                for m, has_state in part
            ]
            return [*sorted(loaded), sorted(unreadable)]

        await self._ask(load)
        await self._ask(_members)

    async def read_log(self) -> None:
        """The next entries of a writer."""
        writer, rng = self._writer(), self.rng
        seq = rng.randint(0, self.tables.writers[writer.writer].seq)
        horizon = self.log_time
        through, after = horizon - rng.choice((0, 10 * SECOND)), writer.started_at - rng.choice((1, -SECOND))
        await self._ask(lambda side: log_entries.of_writer(side.scheduler, writer.writer, seq, after, through, horizon))

    # ---------------------------------------------------------------------------------------------------- the outbox

    async def take_over(self) -> None:
        """A dispatcher takes or renews its lease, or gives it up."""
        holder = self.rng.choice(HOLDERS)
        if self.rng.random() < 0.3:
            await self._step(lambda side: side.outboxes[holder].give_up())
        else:
            await self._step(lambda side: side.outboxes[holder].take_over(LIFE_S))
        await self._ask(lambda side: side.outboxes[holder].identity(), len)

    async def claim(self) -> None:
        """A round of a dispatcher: what is due, and a claim of some of it."""
        rng, holder = self.rng, self.rng.choice(HOLDERS)
        skip, only = rng.choice(([], [], [1])), rng.choice((None, None, [2]))
        due = await self._ask(lambda side: side.outboxes[holder].due(-1, skip, 50, 10, only))
        await self._ask(lambda side: side.outboxes[holder].channels([1, 2, 3]), _channels)
        await self._step(lambda side: side.outboxes[holder].claim_tests(5, 10.0))
        wanted = [
            WantedAlerts(each.lane, rng.randint(0, 3), rng.randint(0, 3), rng.randint(0, 2), rng.random() < 0.5)
            for each in due
        ]
        if wanted:
            rows = await self._step(
                lambda side: side.outboxes[holder].claim(wanted, 10.0),
                # Two sides of one alert may have another thread and secrets: the simulation has neither.
                lambda rows: sorted(row._replace(thread=None, secrets=()) for row in rows),
            )
            self.claimed[holder] += [row.id for row in rows]
            if opened := [row.id for row in rows if row.kind == "opened"]:
                await self._ask(lambda side: side.outboxes[holder].flapping(opened))

    def _claims(self, holder: str) -> list[int]:
        claimed = list(dict.fromkeys(self.claimed[holder][-12:]))
        return self.rng.sample(claimed, self.rng.randint(0, len(claimed)))

    async def settle(self) -> None:
        """The results of some attempts."""
        rng, holder = self.rng, self.rng.choice(HOLDERS)
        outcomes = []
        for id in self._claims(holder):
            state = rng.choice(("delivered", *AlertState))
            outcomes.append(
                SettledAlert(id, AlertState(state), rng.uniform(1, 90) if state == "pending" else 0.0, "why")
            )
        if outcomes:
            await self._step(lambda side: side.outboxes[holder].settle(outcomes))

    async def hold(self) -> None:
        """Alerts of flapping monitors are put back."""
        holder, wait_s = self.rng.choice(HOLDERS), self.rng.uniform(1, 300)
        ids = self._claims(holder)
        await self._step(lambda side: side.outboxes[holder].hold(ids, wait_s))

    async def note(self) -> None:
        """Facts about flapping are added."""
        holder = self.rng.choice(HOLDERS)
        notes: Any = {id: {"incidents": self.rng.randint(2, 9)} for id in self._claims(holder)}
        await self._step(lambda side: side.outboxes[holder].note(notes))

    async def renew_claims(self) -> None:
        """A dispatcher keeps what it is sending."""
        holder = self.rng.choice(HOLDERS)
        ids, digests = self._claims(holder), self.digests[-2:]
        await self._step(lambda side: side.outboxes[holder].renew(ids, digests, 10.0))

    async def give_back(self) -> None:
        """A dispatcher stops."""
        holder = self.rng.choice(HOLDERS)
        await self._step(lambda side: side.outboxes[holder].release())

    async def make_digest(self) -> None:
        """A digest is made of what waits in a lane."""
        rng, holder = self.rng, self.rng.choice(HOLDERS)
        wanted = DigestSelection(
            rng.choice((1, 2)), rng.choice((2, 50)), rng.choice((1, 1, 3)), rng.random() < 0.5, rng.random() < 0.7,
            rng.choice(("all", "rest", "over")),
        )  # fmt: skip
        named = (rng.choice((1, 2, 30)), rng.choice((1, 3)))

        async def make(side: Side) -> Attached | None:
            outbox = side.outboxes[holder]
            async with outbox.transaction() as connection:
                attached = await outbox.attach(connection, wanted, named, 0)
                if attached is not None:
                    facts: Any = {"alerts": attached.alerts}
                    await outbox.write_digest(connection, attached, facts, b"body", 10.0)
            return attached

        attached = await self._step(make, _attached)
        if attached is not None:
            self.digests.append(attached.id)

    async def resume_digests(self) -> None:
        """Digests that are to be sent again are claimed."""
        holder, first = self.rng.choice(HOLDERS), self.rng.random() < 0.7
        skip = self.rng.choice(([], [1]))
        await self._ask(lambda side: side.outboxes[holder].lanes_in_digests())
        await self._step(
            lambda side: side.outboxes[holder].claim_digests(skip, 10, 10.0, first),
            lambda digests: sorted(digest._replace(uid=None) for digest in digests),
        )

    async def settle_digest(self) -> None:
        """The result of a digest."""
        if not self.digests:
            return
        rng, holder = self.rng, self.rng.choice(HOLDERS)
        outcome = SettledAlert(
            rng.choice(self.digests[-3:]),
            AlertState(rng.choice(("delivered", "pending", "pending", "dead", "expired"))),
            rng.uniform(1, 90),
            "why",
        )
        await self._step(lambda side: side.outboxes[holder].settle_digest(outcome))


async def _sorted(rows: Awaitable[Sequence[Any]]) -> list[Any]:
    """SQL does not say in which order they come."""
    return sorted(await rows)


async def _members(side: Side) -> list[Any]:
    """All members of fleets, as a start reads them."""
    async with side.scheduler.transaction(readonly=True):
        cursor = await open_cursor(side.scheduler, load("scheduler")["load_members"])
        return [tuple(row) for row in await cursor.fetch(1000)]


def _monitor(m: Monitor, has_state: bool) -> Any:
    return (m.id, has_state, m.slug, m.name, m.tags, m.paused, m.snoozed_until, repr(m.definition), m.status, m.since,
            (m.at, m.writer, m.seq), str(sorted(m.dump().items())))  # fmt: skip


def _change(change: ChangeSeen) -> Any:
    return change._replace(before=_document(change.before), after=_document(change.after))


def _document(text: str | bytes | None) -> Any:
    """A change, without the columns that only the pages read."""
    if text is None:
        return None
    document = orjson.loads(text)
    return {name: value for name, value in document.items() if name not in ("keys", "created_at")}


def _channels(rows: dict[int, ChannelRow]) -> Any:
    return {id: row._replace(definition=orjson.loads(row.definition)) for id, row in rows.items()}


def _attached(attached: Attached | None) -> Any:
    """Without what was made by it, and what the simulation does not have."""
    if attached is None:
        return None
    return attached._replace(id=0, uid=None, named=[named._replace(secrets=()) for named in attached.named])
