"""The reference model: the tables of docs/semantics.md, built a second time and as plainly as possible.

It holds lists of inputs and computes everything else again whenever it is needed: no heap, no memory of the next
deadline, no incremental counts. It was written from the tables, not from the engine, and shares with it only the
reading of definitions. Slow, and meant to be.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from offbeat_server.common.instants import Micros
from offbeat_server.engine.model.definition import Definition, Tasks, renamed_within
from offbeat_server.engine.model.ping import Ping

S = 1_000_000
DAY = 86_400 * S
RUNTIME_DEFAULT = 24 * 3600 * S
SATISFYING = ("start", "success", "fail", "skip")
RANK = {
    "too_often": 1,
    "too_early": 2,
    "overlap": 2,
    "members": 3,
    "missed": 4,
    "stage": 5,
    "tasks": 5,
    "hung": 6,
    "incomplete": 7,
    "failed": 7,
}
OUTCOMES = {"success": "done", "fail": "failed", "skip": "skipped"}


# ------------------------------------------------------------------------------------------------- what is remembered


class Dated(NamedTuple):
    """The business date of a run or heartbeat, and whether its client named that date."""

    date: str | None = None
    named: bool = False
    backfill: bool = False


NO_DATE = Dated()


@dataclass
class Cause:
    """A cause that is held. `of` is the stage, awaited run or member."""

    kind: str
    number: int
    of: str
    opened: Micros
    due: Micros = 0
    met_at: Micros = 0
    consecutive_successes: int = 0
    shortfall: float = 0  # members
    date: str | None = None
    named: bool = False  # the client named that date

    def is_same(self, other: "Cause") -> bool:
        """Each missed occurrence is a cause of its own."""
        return self.key == other.key and (self.kind != "missed" or self.date == other.date)

    @property
    def key(self) -> tuple[str, int, str]:
        return (self.kind, self.number, self.of)


@dataclass
class Incident:
    number: int
    opened: Micros
    causes: list[Cause]
    resolved: Micros | None = None
    notified: bool = False
    plan: Micros | None = None
    suppressed_by: int | None = None
    silent: bool = False
    notified_at: Micros = 0
    notified_rank: int = 0
    notified_shortfall: float = 0
    notified_runs: set[int] = field(default_factory=set)
    known_runs: set[int] = field(default_factory=set)
    notified_dates: set[str | None] = field(default_factory=set)
    alerts: int = 0
    kept: bool = False  # an explicit failure closed that no alert has reported
    unreported: bool = False  # it is over, and its alert is still to come

    def holds(self, key: tuple[str, int, str]) -> bool:
        return any(cause.key == key for cause in self.causes)

    @property
    def shown(self) -> Cause:
        return max(self.causes, key=lambda cause: (RANK[cause.kind], -cause.opened))


@dataclass
class Run:
    """`events` holds its pings and evaluations, in order."""

    number: int
    id: str | None
    started: Micros
    events: list[tuple[Any, ...]] = field(default_factory=list)
    ended: Micros | None = None
    verdict: str | None = None
    late: bool = False
    counted: bool = False
    by_steps: bool = False
    by_hand: bool = False  # a person decided its verdict
    finished_by: int = 0  # the writer of its finish
    begun: bool = True  # it had a ping before its end
    finish: Ping | None = None  # its own last one
    has_own_finish: bool = False  # its own word has come, or can no longer come
    restarted: Micros = 0
    unended: Micros = 0  # since when no run without an id has ended
    start_received: bool = True  # its start was received
    trusted: bool = False  # more was required of a run by an edit while it was open
    hung: bool = False
    hung_to_the_end: bool = False  # by another limit than those of single tasks
    overdue: bool = False  # hung by a deadline, and not only by a silence or a stall
    unknown: bool = False
    duration: Micros | None = None
    dated: Dated = NO_DATE
    execution: str | None = None  # of the ping that opened it
    client: bytes | None = None  # the address of its first start


@dataclass
class Stage:
    status: str
    started: Micros
    ended: Micros = 0
    again: Micros = 0


@dataclass
class Count:
    done: int
    changed: Micros


@dataclass
class Work:
    """An active task. `end` and `pings` say what became of its two limits: "", "broken" or "excused"."""

    begun: Micros
    last: Micros
    end: str = ""
    pings: str = ""


@dataclass
class Group:
    outcomes: dict[str, bool | None] = field(default_factory=dict)
    counts: dict[str, Count] = field(default_factory=dict)
    stalled: set[str] = field(default_factory=set)
    active: dict[str, Work] = field(default_factory=dict)
    sent_total: int | None = None

    def expected(self, tasks: Tasks | None) -> int | None:
        if tasks and tasks.expected:
            return len(tasks.expected) if isinstance(tasks.expected, tuple) else tasks.expected
        return self.sent_total

    @property
    def ended(self) -> int:
        return sum(1 for outcome in self.outcomes.values() if outcome is not None)

    def too_many(self, tasks: Tasks | None) -> bool:
        return sum(1 for outcome in self.outcomes.values() if outcome is False) > (tasks.tolerate if tasks else 0)

    def well(self, tasks: Tasks | None) -> bool:
        if tasks and isinstance(tasks.expected, tuple):
            return not self.outstanding(tasks) and not self.too_many(tasks)
        expected = self.expected(tasks)
        return expected is not None and self.ended >= expected and not self.too_many(tasks)

    def outstanding(self, tasks: Tasks | None) -> bool:
        if tasks and isinstance(tasks.expected, tuple):
            return any(self.outcomes.get(name) is None for name in tasks.expected)
        expected = self.expected(tasks)
        return any(outcome is None for outcome in self.outcomes.values()) if expected is None else self.ended < expected


@dataclass
class Seen:
    """The result of a run's events."""

    stages: dict[str, Stage] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    count: Count | None = None
    last: Micros = 0
    broken: set[tuple[str, str]] = field(default_factory=set)


@dataclass
class Monitor:
    id: int
    project: int
    slug: str
    tags: tuple[str, ...]
    d: Definition
    created: Micros
    paused: bool = False
    snoozed: Micros = 0
    touched: Micros = 0  # its last input
    last_ping_at: Micros = 0
    due: Micros = 0
    excused: int = 0
    status: str = "new"
    since: Micros = 0
    runs: list[Run] = field(default_factory=list)
    limits_from: tuple[Micros, int] = (0, 0)  # for runs up to that number
    incidents: list[Incident] = field(default_factory=list)
    streak: int = 0
    streak_since: Micros = 0
    awaited: list[tuple[str, Micros]] = field(default_factory=list)
    happened: list[Micros] = field(default_factory=list)
    last: tuple[Ping, bytes | None, Micros] | None = None  # the last ping of a whole run that was no repeat
    news: bool = False  # something was met or resolved since
    heartbeat: int = 0  # the writer of the last one, if it was a heartbeat
    writer: int = 0  # of the ping at hand
    members: dict[str, Micros] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    members_from: Micros = 0
    peak: int = 0
    peak_at: Micros = 0

    @property
    def incident(self) -> Incident | None:
        return self.incidents[-1] if self.incidents and self.incidents[-1].resolved is None else None

    @property
    def subject(self) -> Incident | None:
        """The incident of the next alert."""
        return self.incident or next((each for each in self.incidents[-1:] if each.unreported), None)

    @property
    def open(self) -> list[Run]:
        return [run for run in self.runs if run.ended is None]


@dataclass
class Alert:
    monitor: int
    incident: int
    ordinal: int
    kind: str
    at: Micros
    date: str | None  # of the cause that it is about


# ----------------------------------------------------------------------------------------------------------- calendars


def _values(text: str, limit: int) -> list[int]:
    if text == "*" or text.startswith("*/"):
        return list(range(0, limit, int(text[2:] or 1)))
    return sorted(int(each) for each in text.split(","))


@lru_cache(maxsize=10_000)
def _slots_around(cron: str, timezone: str, day: int) -> list[Micros]:
    """The slots of the local days around a day in UTC. The model knows no changes of the clock."""
    minutes, hours, *rest = cron.split()
    assert rest == ["*", "*", "*"]
    zone, first = ZoneInfo(timezone), datetime.fromtimestamp(day * 86_400, UTC)
    return [
        round(datetime(at.year, at.month, at.day, hour, minute, tzinfo=zone).timestamp()) * S
        for at in (first + timedelta(days=extra) for extra in range(-3, 4))
        for hour in _values(hours, 24)
        for minute in _values(minutes, 60)
    ]


def _slots(d: Definition, at: Micros) -> list[Micros]:
    assert d.cron is not None
    return _slots_around(d.cron, d.timezone, at // DAY)


def slot_after(d: Definition, at: Micros) -> Micros:
    slots = _slots(d, at)
    return slots[bisect_right(slots, at)]


def slot_before(d: Definition, at: Micros) -> Micros:
    """The last slot that is not later."""
    slots = _slots(d, at)
    return slots[bisect_right(slots, at) - 1]


# ------------------------------------------------------------------------------------------------------ business dates

_TIME = r"(?:[T_ ](\d\d)[:.]?(\d\d)(?:[:.]?(\d\d)(?:[.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?)?"
_FOR = re.compile(r"(\d{4})-(\d\d)-(\d\d)" + _TIME, re.ASCII)
_IN_RUN_ID = re.compile(r"(?<!\d)(?:(\d{4})-(\d\d)-(\d\d)|(\d{4})(\d\d)(\d\d))" + _TIME + r"(?!\d)", re.ASCII)


def by_date_alone(d: Definition) -> bool:
    slots = _slots(d, 0)
    return min(later - slot for slot, later in pairwise(slots)) >= 20 * 3600 * S


def _label(d: Definition, numbers: list[int], time: bool, zone: str | None) -> str | None:
    """The business date of a year, month, day, hour, minute and second; None: there is no such date."""
    local = ZoneInfo(d.timezone)
    try:
        offset = datetime.fromisoformat("2026-01-05T00:00" + zone.replace("Z", "+00:00")).tzinfo if zone else local
        year, month, day, hour, minute, second = numbers
        at = datetime(year, month, day, hour, minute, second, tzinfo=offset).astimezone(local).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
    if not time or (d.cron is not None and by_date_alone(d)):
        return at.date().isoformat()
    return at.isoformat(timespec="seconds" if at.second else "minutes")


def date_of_slot(d: Definition, slot: Micros) -> str:
    at = datetime.fromtimestamp(slot // S, ZoneInfo(d.timezone)).replace(tzinfo=None)
    at += timedelta(days=d.business_date_offset)
    if by_date_alone(d):
        return at.date().isoformat()
    return at.isoformat(timespec="seconds" if at.second else "minutes")


def named_date(d: Definition, ping: Ping, now: Micros) -> str | None:
    text = ping.options.business_date if ping.options is not None else None
    if text is not None:
        found = _FOR.fullmatch(text.strip())
        return (_read(d, list(found.groups())) if found else None) or text
    for year, groups in _dates_in(d, ping.run or ""):
        if abs(year - datetime.fromtimestamp(now // S, UTC).year) <= 10 and (date := _read(d, groups)) is not None:
            return date
    return None


def _dates_in(d: Definition, run: str) -> Iterator[tuple[int, list[str | None]]]:
    """The dates in a run id, as year and groups of an expression, from left to right."""
    if d.run_date == "auto":
        for found in _IN_RUN_ID.finditer(run):
            groups = [each for each in found.groups()[:6] if each is not None] + list(found.groups()[6:])
            yield int(groups[0] or 0), groups
    elif d.run_date != "none":
        pattern = re.escape(d.run_date)
        for code, digits in (("%Y", 4), ("%m", 2), ("%d", 2), ("%H", 2), ("%M", 2)):
            pattern = pattern.replace(code, rf"(?P<{code[1]}>\d{{{digits}}})")
        for found in re.finditer(rf"(?<!\d){pattern}(?!\d)", run, re.ASCII):
            parts = found.groupdict()
            yield int(parts["Y"]), [*(parts.get(each) for each in "YmdHM"), None, None]


def _read(d: Definition, groups: list[str | None]) -> str | None:
    return _label(d, [int(each or 0) for each in groups[:6]], groups[3] is not None, groups[6])


def is_earlier(one: str | None, other: str | None) -> bool:
    date = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?)?", re.ASCII)
    if one is None or other is None or not date.fullmatch(one) or not date.fullmatch(other):
        return False
    both = min(len(one), len(other))
    return one[:both] < other[:both]


def _content(ping: Ping) -> tuple[Any, ...]:
    """The values that are equal for a ping that is sent again."""
    return ping.signal, ping.run, ping.exit_code, ping.message, ping.options


def _is_of_another_execution(run: Run, ping: Ping) -> bool:
    """Whether an id was sent by this execution and by the one that opened the run, and they are two."""
    execution = ping.options.execution if ping.options is not None else None
    return ping.run is not None and None not in (execution, run.execution) and execution != run.execution


def is_scheduled(d: Definition) -> bool:
    return d.every is not None or d.cron is not None


def is_explicit(cause: Cause) -> bool:
    return cause.kind not in ("missed", "members")


def expects_nothing(m: "Monitor") -> bool:
    d = m.d
    lengths = [d.max_runtime, d.min_runtime, d.quiet_for, d.stall_for]
    for tasks in (d.tasks, *(stage.tasks for stage in d.stages)):
        lengths += [tasks.within, tasks.each_within, tasks.quiet_for] if tasks else []
    lengths += [stage.within for stage in d.stages]
    if not m.last_ping_at:
        lengths.append(d.first_within)
    others = (d.every, d.cron, d.oncalendar, d.after, d.members, d.at_most, *lengths)
    return d.overlap == "allow" and all(each is None for each in others)


def early(d: Definition, slot: Micros) -> Micros:
    return min(d.grace, (slot_after(d, slot) - slot) // 2)


def window_of(m: Monitor) -> tuple[Micros, Micros]:
    d, due = m.d, m.due
    if not m.last_ping_at:
        return due - (d.first_within or 0), due
    if d.every is not None:
        return due - min(d.grace, d.every // 2), due + d.grace
    return due - early(d, due), due + d.grace


def due_if_counts(d: Definition, due: Micros, at: Micros, silent: bool) -> Micros:
    """The due time after an event that counts at `at`, if `due` was due before (0: nothing)."""
    if d.every is not None:
        return at + d.every
    if d.cron is None:
        return 0
    due = expected_slot(d, due, at, silent)
    return slot_after(d, max(due, at)) if is_present(d, due, at) else due


def expected_slot(d: Definition, due: Micros, at: Micros, silent: bool) -> Micros:
    return max(due, slot_after(d, at - d.grace - 1)) if silent or not due else due


def is_present(d: Definition, due: Micros, at: Micros) -> bool:
    """Whether a ping at `at` counts for the expected slot."""
    return at >= due or (due == slot_after(d, at) and due - at <= early(d, due))


def first_due_asked(d: Definition, wanted: Micros, before: Micros, now: Micros) -> Micros:
    """An edit came at `now`, after `wanted`; `before` was due until then."""
    if d.every is not None:
        if 0 < before < now:
            return max(wanted, before)
        return min([now + d.every, *([before] if before else [])])
    if wanted <= before < now and before == slot_after(d, before - 1):
        return before
    return slot_after(d, now - 1)


def period_and_grace(d: Definition, at: Micros) -> Micros:
    if d.every is not None:
        return at + d.every + d.grace
    if d.members is not None:
        return at + d.members.every + d.members.grace
    if d.after is not None:
        return at + d.after.within + d.grace
    return (slot_after(d, at) if d.cron is not None else at) + d.grace


# --------------------------------------------------------------------------------------------------------------- runs


def see(run: Run) -> Seen:
    """The result of a run's events, from the first to the last."""
    seen = Seen(last=run.started)
    for kind, at, *rest in run.events:
        if kind == "broken":
            seen.broken.add((rest[0], rest[1]))
        elif kind == "task stalled":
            seen.groups[rest[0]].stalled.add(rest[1])
        elif kind == "unbroken":
            seen.broken -= rest[0]
            for stage, name in rest[1]:
                seen.groups[stage].stalled.discard(name)
        elif kind == "task broken":
            limit, stage, name, what = rest
            work = seen.groups[stage].active[name]
            if limit == "task overdue":
                work.end = what
            else:
                work.pings = what
        elif kind == "tasks reset":
            _reset_tasks(seen, at, rest[0])
        else:
            _see_ping(seen, at, *rest)
    return seen


def _reset_tasks(seen: Seen, at: Micros, followed: dict[str, tuple[set[str], set[str]]]) -> None:
    """`followed`: by stage, the tasks that stay overdue and silent. The tasks of all other groups are forgotten."""
    for stage, group in seen.groups.items():
        if stage not in followed:
            group.active = {}
            continue
        overdue, silent = followed[stage]
        for name, work in group.active.items():
            if work.end == "broken" and name not in overdue:
                work.end = ""
            if work.pings == "broken" and name not in silent:
                work.pings = ""
        if not stage or seen.stages[stage].status == "running":
            for name, outcome in group.outcomes.items():
                if outcome is None:
                    group.active.setdefault(name, Work(at, at))


def tasks_at_fault(seen: Seen, stage: str | None = None) -> bool:
    """Whether a task is overdue or silent: of one group, or of any."""
    groups = [group for name, group in seen.groups.items() if stage in (None, name)]
    return any("broken" in (work.end, work.pings) for group in groups for work in group.active.values())


def _see_ping(seen: Seen, at: Micros, ping: Ping, followed: bool = False) -> None:
    seen.last = at
    seen.broken.discard(("quiet", ""))
    name = ping.stage or ""
    if ping.task is not None:
        group = seen.groups.setdefault(name, Group())
        outcome = {"success": True, "skip": True, "fail": False}.get(ping.signal, group.outcomes.get(ping.task))
        group.outcomes[ping.task] = outcome
        if name and name not in seen.stages:
            seen.stages[name] = Stage("running", at)
        if ping.signal in OUTCOMES:
            group.active.pop(ping.task, None)
        elif followed and (not name or seen.stages[name].status == "running"):
            if (work := group.active.get(ping.task)) is not None:
                work.begun = at if work.end == "excused" else work.begun
                work.end = "" if work.end == "excused" else work.end
                work.last, work.pings = at, ""
            elif outcome is None or (outcome is False and ping.signal == "start"):
                group.active[ping.task] = Work(at, at)
        if ping.done is not None and outcome is None:
            before = group.counts.get(ping.task)
            if before is None or before.done != ping.done:
                group.counts[ping.task] = Count(ping.done, at)
                group.stalled.discard(ping.task)
        if outcome is not None:
            group.counts.pop(ping.task, None)
            group.stalled.discard(ping.task)
    elif ping.stage is not None:
        _see_stage(seen, at, name, ping.signal)
    if ping.done is not None:
        if ping.task is None and (seen.count is None or seen.count.done != ping.done):
            seen.count = Count(ping.done, at)
            seen.broken.discard(("stalled", ""))
    elif ping.total is not None:
        seen.groups.setdefault(name, Group()).sent_total = ping.total


def _see_stage(seen: Seen, at: Micros, name: str, signal: str) -> None:
    stage = seen.stages.get(name)
    outcome = OUTCOMES.get(signal)
    if stage is None:
        seen.stages[name] = Stage("running", at) if outcome is None else Stage(outcome, 0, ended=at)
    elif signal == "start" and not stage.started and at - stage.ended < S:
        stage.started = stage.ended
    elif signal == "start" and stage.status != "running":
        seen.stages[name] = Stage("running", at, again=at)
        seen.broken -= {("stage", name), ("tasks", name)}
    elif outcome is not None and outcome != stage.status:
        stage.status, stage.ended = outcome, at
        if name in seen.groups:
            seen.groups[name].active = {}


def tasks_of(d: Definition, stage: str) -> Tasks | None:
    if not stage:
        return d.tasks
    return next((each.tasks for each in d.stages if each.name == stage), None)


def limits_of(d: Definition, run: Run, seen: Seen) -> Iterator[tuple[str, str, str, Micros, Micros]]:
    """All limits that watch a run, in order, broken or not: kind, stage, task, base, length."""
    if d.max_runtime is not None:
        yield "runtime", "", "", run.restarted or run.started, d.max_runtime
    elif d.quiet_for is None and d.stall_for is None and run.start_received:
        yield "runtime", "", "", run.restarted or run.unended or run.started, RUNTIME_DEFAULT
    if d.quiet_for is not None:
        yield "quiet", "", "", seen.last, d.quiet_for
    if d.stall_for is not None:
        if seen.count is not None:
            yield "stalled", "", "", seen.count.changed, d.stall_for
        for stage, group in seen.groups.items():
            counting = [(n, c) for n, c in group.counts.items() if n not in group.stalled]
            if counting:
                name, count = min(counting, key=lambda each: each[1].changed)
                yield "task stalled", stage, name, count.changed, d.stall_for
    for stage, group in seen.groups.items():
        each_within = tasks.each_within if (tasks := tasks_of(d, stage)) else None
        for name, work in sorted(group.active.items(), key=lambda each: each[1].begun):
            if each_within is not None and not work.end:
                yield "task overdue", stage, name, work.begun, each_within
    for stage, group in seen.groups.items():
        quiet_for = tasks.quiet_for if (tasks := tasks_of(d, stage)) else None
        for name, work in sorted(group.active.items(), key=lambda each: each[1].last):
            if quiet_for is not None and not work.pings:
                yield "task silent", stage, name, work.last, quiet_for
    if d.tasks is not None and d.tasks.within is not None and seen.groups.get("", Group()).outstanding(d.tasks):
        yield "tasks", "", "", run.started, d.tasks.within
    base, found = run.started, False
    for each in d.stages:
        stage_seen = seen.stages.get(each.name)
        status = stage_seen.status if stage_seen else None
        if stage_seen is not None and status == "running" and each.tasks is not None:
            group = seen.groups.get(each.name, Group())
            if each.tasks.within is not None and group.outstanding(each.tasks):
                yield "tasks", each.name, "", stage_seen.started, each.tasks.within
        if found:
            continue
        if stage_seen is not None and status in ("done", "skipped"):
            base = max(base, stage_seen.ended)
        elif stage_seen is not None or not each.optional:
            found = True
            if status != "failed" and each.within is not None:
                yield "stage", each.name, "", max(base, stage_seen.again if stage_seen else 0), each.within


def failing(d: Definition, seen: Seen) -> set[tuple[str, str]]:
    """Why a run fails as it is."""
    stages = {("stage", name) for name, stage in seen.stages.items() if stage.status == "failed"}
    return stages | {("tasks", name) for name, group in seen.groups.items() if group.too_many(tasks_of(d, name))}


def _outcomes(seen: Seen) -> tuple[Any, ...]:
    """All that late pings may change."""
    return (
        {name: stage.status for name, stage in seen.stages.items()},
        {name: (group.outcomes, group.sent_total) for name, group in seen.groups.items()},
    )


def is_complete(d: Definition, seen: Seen) -> bool:
    if not d.stages:
        return "" in seen.groups and seen.groups[""].well(d.tasks)

    def over(name: str) -> bool:
        return name in seen.stages and seen.stages[name].status in ("done", "skipped")

    return over(d.stages[-1].name) and all(
        over(each.name) or (each.optional and each.name not in seen.stages) for each in d.stages
    )


def missing_of(d: Definition, run: Run, seen: Seen, all_heard: bool) -> tuple[bool, set[str]]:
    """Whether a part of a run is missing at its `success`, and its failed stages. Lost pings: not `all_heard`."""
    if d.complete != "required" or run.trusted or (not seen.stages and not seen.groups):
        return False, set()
    status = {name: stage.status for name, stage in seen.stages.items()}
    listed = {each.name for each in d.stages}
    failed = {name for name in listed if status.get(name) == "failed"}
    lost = any(not each.optional and each.name not in status for each in d.stages)
    for name in listed:
        group = seen.groups.get(name)
        well = group is not None and group.ended > 0 and not group.outstanding(tasks_of(d, name))
        lost |= status.get(name) == "running" and not well
    for name in {"", *listed, *seen.groups}:
        if not name or status.get(name) not in (None, "skipped"):
            group, tasks = seen.groups.get(name, Group()), tasks_of(d, name)
            lost |= group.expected(tasks) is not None and group.outstanding(tasks)
    return bool(failed) or (lost and all_heard), failed


def asks_more(old: Definition, new: Definition) -> bool:
    """Whether more is required of a run by the new definition."""
    if new.complete != "required" or old.complete != "required":
        return new.complete == "required"
    mandatory = {each.name for each in old.stages if not each.optional}
    named = {each.name for each in old.stages}
    if any(each.name not in (named if each.optional else mandatory) for each in new.stages):
        return True
    for name in ("", *(each.name for each in new.stages)):
        before, after = ((t.expected if t else None) or 0 for t in (tasks_of(old, name), tasks_of(new, name)))
        if isinstance(after, tuple):
            if not isinstance(before, tuple) or set(after) - set(before):
                return True
        elif after > (len(before) if isinstance(before, tuple) else before):
            return True
    return False


# ---------------------------------------------------------------------------------------------------------- the model


class Model:
    """Takes inputs in order; `monitors`, `gone` and `alerts` hold the results."""

    def __init__(self) -> None:
        self.now: Micros = 0
        self.monitors: dict[int, Monitor] = {}
        self.gone: dict[int, Monitor] = {}
        self.outages: list[tuple[Micros, Micros]] = []
        self.windows: dict[int, tuple[int, tuple[str, ...], tuple[str, ...], Micros, Micros]] = {}
        self.alerts: list[Alert] = []
        self.releases: list[tuple[Micros, int]] = []

    # ------------------------------------------------------------------------------------------------------- inputs

    def ping(self, at: Micros, writer: int, monitor_id: int, source: bytes | None, ping: Ping) -> None:
        self.judge_before(at)
        self.now = max(self.now, at)
        m = self.monitors.get(monitor_id)
        if m is not None:
            m.touched, m.writer = self.now, writer
            self._apply(m, source, ping)

    def judge_through(self, at: Micros, touched: int = 0) -> None:
        """Everything up to `at`; then comes a change of the monitor `touched`."""
        self.judge_before(at + 1)
        self.now = max(self.now, at)
        if touched in self.monitors:
            self.monitors[touched].touched = self.now

    def judge_before(self, at: Micros) -> None:
        while True:
            if self.releases and self.releases[0][0] < at:
                self._release(*self.releases.pop(0))
                continue
            due = [(max(when, m.touched), m.id) for m in self.monitors.values() for when in self._deadlines(m)]
            if not due or min(due)[0] >= at:
                return
            when, monitor_id = min(due)
            self.now = max(self.now, when)
            self._judge(self.monitors[monitor_id], when)

    # ---------------------------------------------------------------------------------------------------- outages

    def add_outage(self, start: Micros, end: Micros) -> None:
        self.outages.append((start, end))
        self.outages.sort()
        merged: list[tuple[Micros, Micros]] = []
        for low, high in self.outages:
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], high))
            else:
                merged.append((low, high))
        self.outages = merged

    def _moved(self, d: Definition, start: Micros, deadline: Micros) -> Micros:
        for low, high in () if d.count_outages else self.outages:
            if high > start and low <= deadline:
                deadline += high - max(low, start)
        return deadline

    def _outage_time(self, d: Definition, start: Micros, end: Micros) -> Micros:
        return 0 if d.count_outages else sum(max(0, min(high, end) - max(low, start)) for low, high in self.outages)

    # ---------------------------------------------------------------------------------------------------- deadlines

    def _schedule_deadline(self, m: Monitor) -> Micros | None:
        silent = m.incident is not None and m.incident.silent
        if not m.due or silent or (not m.last_ping_at and m.d.first_within is None):
            return None
        if m.last_ping_at and not is_scheduled(m.d):
            return None
        return self._moved(m.d, *window_of(m))

    def _awaited_deadline(self, m: Monitor, due: Micros) -> Micros:
        assert m.d.after is not None
        return self._moved(m.d, due - m.d.after.within, due + m.d.grace)

    def _limits(self, m: Monitor, run: Run) -> list[tuple[str, str, str, Micros, Micros]]:
        """The limits that are not broken yet: kind, stage, task, base, deadline."""
        seen = see(run)
        floor = m.limits_from[0] if run.number <= m.limits_from[1] else 0
        return [
            (kind, stage, task, base, max(self._moved(m.d, base, base + length), floor))
            for kind, stage, task, base, length in limits_of(m.d, run, seen)
            if (kind, stage) not in seen.broken
        ]

    def _member_deadline(self, m: Monitor, name: str) -> Micros:
        members = m.d.members
        assert members is not None
        at = m.members[name]
        return max(self._moved(m.d, at, at + members.every + members.grace), m.members_from)

    def _deadlines(self, m: Monitor) -> Iterator[Micros]:
        if m.paused:
            return
        if (when := self._schedule_deadline(m)) is not None:
            yield when
        yield from (self._awaited_deadline(m, due) for _, due in m.awaited)
        for run in m.open:
            yield from (limit[4] for limit in self._limits(m, run))
        if m.d.members is not None:
            yield from (self._member_deadline(m, name) for name in m.members if name not in m.silent)
            if not self._too_few_open(m):
                yield from (m.members[name] + m.d.members.forget_after for name in m.silent)
        if m.subject is not None and m.subject.plan is not None:
            yield self._notify_at(m, m.subject)

    # ------------------------------------------------------------------------------------------------------ evaluation

    def _judge(self, m: Monitor, when: Micros) -> None:
        deadline = self._schedule_deadline(m)
        if deadline is not None and deadline <= when:
            self._evaluate_schedule(m, deadline)
        for run_id, due in list(m.awaited):
            deadline = self._awaited_deadline(m, due)
            if deadline <= when:
                assert m.d.after is not None
                m.awaited.remove((run_id, due))
                start = due - m.d.after.within
                if not self._excuse(m, start, deadline, due + m.d.grace - start):
                    self._miss(m, Cause("missed", 0, run_id, deadline, due))
        for run in m.open:
            while due_limits := [limit for limit in self._limits(m, run) if limit[4] <= when]:
                for limit in due_limits:
                    self._break(m, run, limit)
        if m.d.members is not None:
            self._evaluate_members(m, when)
        self._notify_if_due(m)

    def _evaluate_schedule(self, m: Monitor, deadline: Micros) -> None:
        d, due = m.d, m.due
        start, end = window_of(m)
        if self._excuse(m, start, deadline, end - start):
            if not m.last_ping_at:
                m.due = deadline + (d.first_within or 0)
            else:
                m.due = deadline + d.every if d.every is not None else slot_after(d, deadline)
            return
        date = date_of_slot(d, due) if d.cron is not None and m.last_ping_at else None
        self._miss(m, Cause("missed", 0, "", deadline, due, date=date))
        if m.incident is not None and m.incident.holds(("missed", 0, "")):
            m.incident.silent = True
        elif not m.last_ping_at:
            m.due = deadline + (d.first_within or 0)
        else:
            m.due = due + d.every if d.every is not None else slot_after(d, due)

    def _excuse(self, m: Monitor, start: Micros, deadline: Micros, window: Micros) -> bool:
        if self._outage_time(m.d, start, deadline) * 2 <= window or m.excused >= 2:
            return False
        m.excused += 1
        self._restate(m)
        return True

    def _miss(self, m: Monitor, cause: Cause) -> None:
        m.excused = 0
        self._meet(m, cause)
        self._restate(m)

    def _break(self, m: Monitor, run: Run, limit: tuple[str, str, str, Micros, Micros]) -> None:
        kind, stage, task, base, deadline = limit
        if kind in ("task overdue", "task silent"):
            excused = self._may_hide_a_task(m, run, limit)
            run.events.append(("task broken", self.now, kind, stage, task, "excused" if excused else "broken"))
            if not excused:
                run.hung = True
                self._meet(m, Cause("hung", run.number, stage, deadline), run)
            return
        if kind == "task stalled":
            run.events.append(("task stalled", self.now, stage, task))
        else:
            run.events.append(("broken", self.now, kind, stage))
        outage_time = self._outage_time(m.d, base, deadline)
        if outage_time * 2 > deadline - base or self._may_be_lost(m, run, limit, outage_time):
            run.unknown = True
            return
        run.hung = run.hung_to_the_end = True
        run.overdue |= kind in ("runtime", "stage", "tasks")
        of = stage if kind in ("stage", "tasks") else ""
        if kind == "task stalled":
            of = stage
        self._meet(m, Cause(kind if kind in ("stage", "tasks") else "hung", run.number, of, deadline), run)

    def _may_hide_a_task(self, m: Monitor, run: Run, limit: tuple[str, str, str, Micros, Micros]) -> bool:
        _, stage, task, base, deadline = limit
        if m.d.count_outages:
            return False
        if run.unknown:
            return True
        outages = [each for each in self.outages if each[0] < deadline and each[1] > base and each[1] - each[0] >= S]
        if not outages or see(run).groups[stage].active[task].last >= outages[-1][1]:
            return False
        return 100 * self._outage_time(m.d, base, deadline) >= deadline - base

    def _may_be_lost(
        self, m: Monitor, run: Run, limit: tuple[str, str, str, Micros, Micros], outage_time: Micros
    ) -> bool:
        kind, stage, _, base, deadline = limit
        if m.d.count_outages or run.unknown:
            return run.unknown and not m.d.count_outages
        long = [each for each in self.outages if each[0] < deadline and each[1] - each[0] >= S]
        outages = [each for each in long if each[1] > base]
        seen = see(run)
        expecting = [(tasks_of(m.d, name), group) for name, group in seen.groups.items()]
        if any(g.expected(t) and g.outstanding(t) for t, g in expecting) and any(e[1] > run.started for e in long):
            return True
        if not outages:
            return False
        names = [each.name for each in m.d.stages]
        if kind == "tasks" or (
            kind == "stage" and any(name in seen.stages for name in names[names.index(stage) + 1 :])
        ):
            return True
        return seen.last < outages[-1][1] and 100 * outage_time >= deadline - base

    def _restate(self, m: Monitor) -> None:
        if m.paused:
            status = "paused"
        elif m.incident is not None:
            status = "down"
        elif expects_nothing(m):
            status = "unwatched"
        elif m.excused:
            status = "unknown"
        else:
            status = "up" if m.last_ping_at else "new"
        if status != m.status:
            m.status, m.since = status, self.now

    # ---------------------------------------------------------------------------------------------------- incidents

    def _meet(
        self,
        m: Monitor,
        cause: Cause,
        run: Run | None = None,
        counts: bool = True,
        known: bool = False,
        dated: Dated | None = None,
    ) -> None:
        if m.paused and not is_explicit(cause):
            return
        m.news = True
        cause.met_at = self.now
        if cause.number and run is not None:
            dated = run.dated
        alone = dated is not None and dated.backfill
        if dated is not None:
            cause.date, cause.named = dated.date, dated.named
        if alone:
            counts = False
        elif run is not None:
            counts = counts and not run.counted
            run.counted = True
        incident = m.incident
        if counts:
            if m.streak == 0:
                m.streak_since = cause.opened
            m.streak += 1
            for each in incident.causes if incident else ():
                each.consecutive_successes = 0
        if incident is None:
            if (1 if alone else m.streak) >= m.d.fail_after:
                incident = Incident(len(m.incidents) + 1, cause.opened if alone else m.streak_since, [cause])
                if (before := m.subject) is not None:
                    before.unreported, incident.kept, incident.plan = False, True, before.plan
                m.incidents.append(incident)
                if known:
                    incident.known_runs.add(cause.number)
                if incident.kept or not known:
                    plan = self._plan(m, incident, cause)
                    incident.plan = min(plan, incident.plan or plan)
        else:
            if known:
                incident.known_runs.add(cause.number)
            waits = incident.notified or incident.plan is not None or incident.suppressed_by is not None
            if not waits and not known:
                incident.plan = self._plan(m, incident, cause)
            held = next((each for each in incident.causes if each.is_same(cause)), None)
            if held is not None:
                cause.opened = held.opened
                incident.causes = [cause if each is held else each for each in incident.causes]
            else:
                incident.causes.append(cause)
            if (
                incident.notified
                and run is not None
                and cause.kind == "failed"
                and self._is_confirmed(m, incident, run)
            ):
                incident.notified_rank = RANK["failed"]
            if incident.notified and self._is_news(incident, cause):
                worse = RANK[cause.kind] > incident.notified_rank
                wait = 60 * S if cause.shortfall > 2 * incident.notified_shortfall else 600 * S
                at = self.now if worse else max(self.now, incident.notified_at + wait)
                incident.plan = at if incident.plan is None else min(at, incident.plan)
            if not incident.notified and incident.plan is not None and is_explicit(cause) and not known:
                incident.plan = min(incident.plan, self._plan(m, incident, cause))
        self._restate(m)
        self._notify_if_due(m)

    def _good(self, m: Monitor, run: Run | None, dated: Dated, ping: Ping | None) -> None:
        """A success that counts; `run` is None for a heartbeat and for a finish never started."""
        if not dated.backfill:
            m.streak = 0
        closed, same = list[int](), list[int]()
        for cause in list(m.incident.causes) if m.incident else ():
            if run is None:
                speaks = True
            elif cause.number:
                speaks = run.number > cause.number
            else:
                speaks = run.started > cause.met_at or (
                    cause.kind == "missed" and m.d.every is not None and ping is not None
                )
            if speaks and self._is_about(m, cause, dated, ping):
                cause.consecutive_successes += 1
                is_same = cause.date is not None and cause.date == dated.date
                enough = cause.consecutive_successes >= m.d.recover_after
                if enough or (is_same and self._is_bound(m, cause, ping)):
                    closed.append(id(cause))
                    if is_same:
                        same.append(id(cause))
        self._over(m, lambda cause: id(cause) in closed, keeps=True, own=same)

    def _is_about(self, m: Monitor, cause: Cause, dated: Dated, ping: Ping | None) -> bool:
        if cause.date is not None and cause.date == dated.date:
            return True
        if dated.backfill:
            return False
        if cause.date is None:
            return True
        if is_earlier(dated.date, cause.date):
            return False
        return not self._is_bound(m, cause, ping)

    def _is_bound(self, m: Monitor, cause: Cause, ping: Ping | None) -> bool:
        if m.d.recover_by is not None:
            return m.d.recover_by == "same"
        if ping is not None and ping.dialect is not None:
            return False
        return cause.named or (bool(m.runs) and m.d.cron is not None and by_date_alone(m.d))

    def _over(self, m: Monitor, which: Any, keeps: bool = False, own: Sequence[int] = ()) -> None:
        incident = m.incident
        if incident is None:
            return
        told = [c for c in incident.causes if which(c) and is_explicit(c) and c.number not in incident.known_runs]
        told = [c for c in told if id(c) not in own]
        if keeps and told and not incident.notified:
            incident.kept = True
        left = [cause for cause in incident.causes if not which(cause)]
        misses = [cause for cause in incident.causes if cause.kind == "missed" and not cause.of]
        last = max(misses, key=lambda cause: cause.opened, default=None)
        if incident.silent and last is not None and last not in left:
            incident.silent = False
            if m.last_ping_at:
                self._begin_anew(m)
        if left:
            incident.causes = left
        else:
            self._resolve(m)

    def _resolve(self, m: Monitor, by_person: bool = False) -> None:
        incident = m.incident
        if incident is None:
            return
        incident.resolved = self.now
        incident.unreported = incident.kept and not incident.notified and not by_person
        m.streak = 0
        m.news = True
        for run in m.open:
            run.counted = False
        if incident.notified:
            self._alert(m, incident, "resolved", incident.shown)
        self._restate(m)
        self.releases.append((self.now, m.id))

    def _drop(self, m: Monitor) -> None:
        """S13.18"""
        self._resolve(m, by_person=True)
        for incident in m.incidents:
            incident.unreported = False

    # ------------------------------------------------------------------------------------------------------ alerts

    def _plan(self, m: Monitor, incident: Incident, cause: Cause) -> Micros:
        plan = self.now
        for up in self._upstreams(m):
            if up.paused or up.incident is not None:
                continue
            deadlines = [self._awaited_deadline(up, due) for _, due in up.awaited]
            if (schedule := self._schedule_deadline(up)) is not None:
                deadlines.append(schedule)
            if up.d.members is not None and len(up.members) > len(up.silent):
                deadlines = [self.now + up.d.members.every + up.d.members.grace]
            if deadlines and up.last_ping_at <= incident.opened:
                plan = max(plan, min(min(deadlines) + 1, self.now + m.d.dependency_wait))
            if cause.due and up.status in ("up", "unwatched") and up.incidents and cause.due <= up.since:
                plan = max(plan, period_and_grace(m.d, up.since))
        if cause.due:
            for end in self._window_ends(m, cause.due):
                plan = max(plan, period_and_grace(m.d, end))
        return plan

    def _upstreams(self, m: Monitor) -> list[Monitor]:
        found: list[Monitor] = []
        line = [m]
        while line:
            for slug in line.pop(0).d.depends_on:
                up = next((x for x in self.monitors.values() if (x.project, x.slug) == (m.project, slug)), None)
                if up is not None and up is not m and up not in found:
                    found.append(up)
                    line.append(up)
        return found

    def _window_ends(self, m: Monitor, at: Micros) -> list[Micros]:
        ends = []
        for project, slugs, tags, start, end in self.windows.values():
            meant = not (slugs or tags) or any(fnmatchcase(m.slug, s) for s in slugs) or set(tags) & set(m.tags)
            if project == m.project and meant and start <= at < end:
                ends.append(end)
        return ends

    def _reports_explicit(self, incident: Incident) -> bool:
        """S13.14"""
        causes = [c for c in incident.causes if not incident.notified or self._is_news(incident, c)]
        explicit = any(is_explicit(c) and c.number not in incident.known_runs for c in causes)
        return explicit or (incident.kept and not incident.notified)

    def _notify_at(self, m: Monitor, incident: Incident) -> Micros:
        at = incident.plan or 0
        explicit = self._reports_explicit(incident)
        while True:
            ends = [end if explicit else period_and_grace(m.d, end) for end in self._window_ends(m, at)]
            later = max([at, m.snoozed, *ends])
            if later == at:
                return at
            at = later

    def _is_news(self, incident: Incident, cause: Cause) -> bool:
        if cause.number in incident.known_runs:
            return False
        another_run = cause.number > 0 and cause.number not in incident.notified_runs
        if cause.kind == "missed" and cause.date is not None:
            another_run = cause.date not in incident.notified_dates
        return RANK[cause.kind] > incident.notified_rank or another_run or cause.shortfall > incident.notified_shortfall

    def _is_confirmed(self, m: Monitor, incident: Incident, run: Run) -> bool:
        """Whether the `fail` of a run only repeats what the alerts have said about its stages and tasks."""
        seen = see(run)
        alerted = {
            (cause.kind, cause.of)
            for cause in incident.causes
            if cause.number == run.number and cause.met_at <= incident.notified_at
        }
        why = failing(m.d, seen)
        return bool(why) and why <= alerted and all(stage.status != "running" for stage in seen.stages.values())

    def _notify_if_due(self, m: Monitor) -> None:
        incident = m.subject
        if m.paused or incident is None or incident.plan is None or self._notify_at(m, incident) > self.now:
            return
        incident.plan = None
        if not incident.kept and all(cause.number in incident.known_runs for cause in incident.causes):
            return
        if incident.notified:
            news = [cause for cause in incident.causes if self._is_news(incident, cause)]
            if news:
                self._notify(m, incident, "worse", max(news, key=lambda cause: cause.met_at))
            return
        up = next((up for up in self._upstreams(m) if up.incident is not None and not up.paused), None)
        if up is not None:
            incident.suppressed_by = up.id
        else:
            incident.notified = True
            self._notify(m, incident, "opened", incident.shown)
            if incident.unreported:
                incident.unreported = False
                self._alert(m, incident, "resolved", incident.shown)

    def _notify(self, m: Monitor, incident: Incident, kind: str, about: Cause) -> None:
        incident.notified_at = self.now
        incident.notified_rank = max([incident.notified_rank, *(RANK[cause.kind] for cause in incident.causes)])
        incident.notified_runs = {cause.number for cause in incident.causes if cause.number}
        incident.notified_dates = {cause.date for cause in incident.causes}
        shortfalls = [cause.shortfall for cause in incident.causes]
        incident.notified_shortfall = max([incident.notified_shortfall, *shortfalls])
        self._alert(m, incident, kind, about)

    def _alert(self, m: Monitor, incident: Incident, kind: str, about: Cause) -> None:
        incident.alerts += 1
        self.alerts.append(Alert(m.id, incident.number, incident.alerts, kind, self.now, about.date))

    def _release(self, at: Micros, up_id: int) -> None:
        up = self.monitors.get(up_id) or self.gone.get(up_id)
        for m in self.monitors.values():
            if m.subject is not None and m.subject.suppressed_by == up_id and up is not None:
                self._let_go(m, at)

    def _let_go(self, m: Monitor, at: Micros) -> None:
        incident = m.subject
        if incident is not None and not incident.notified and incident.suppressed_by is not None:
            incident.suppressed_by = None
            incident.plan = at if self._reports_explicit(incident) else period_and_grace(m.d, at)

    def _look_at_explanations(self) -> None:
        for m in self.monitors.values():
            incident = m.subject
            if incident is None or incident.notified or incident.suppressed_by is None:
                continue
            up = self.monitors.get(incident.suppressed_by)
            if up is None or up.incident is None or up.paused or up not in self._upstreams(m):
                self._let_go(m, self.now)

    # ------------------------------------------------------------------------------------------------------ pings

    def _apply(self, m: Monitor, source: bytes | None, ping: Ping) -> None:
        if (
            m.paused
            and ping.dialect in ("healthchecks", "snitch")
            and ping.signal in ("success", "fail")
            and not m.d.manual_resume
        ):
            self._resume(m)
            if ping.signal == "fail" and m.incident is not None and m.incident.notified:
                self._resolve(m)
        if m.d.members is not None:
            self._apply_member(m, ping)
            return
        whole = ping.signal in SATISFYING and ping.stage is None and ping.task is None
        overtaken = whole and ping.signal == "start" and ping.run is None and self._was_overtaken(m, source)
        repeat = whole and not overtaken and self._is_repeat(m, source, ping)
        dated, known = self._date(m, ping), self._find(m, ping.run)
        own = known.dated if known is not None else dated
        says_so = ping.options is not None and ping.options.backfill
        satisfying = ping.signal in SATISFYING and not own.backfill and not says_so
        if satisfying:
            self._count_ping(m)
        counts = False
        if ping.stage is not None or ping.task is not None:
            counts = self._apply_step(m, ping, dated)
        elif overtaken:
            m.heartbeat = 0
            self._say(m, "start", None)
        elif repeat:
            self._apply_repeat(m, source, ping, dated)
        elif whole:
            m.heartbeat = 0
            counts = (
                self._apply_start(m, source, ping, dated) if ping.signal == "start" else self._apply_end(m, ping, dated)
            )
            m.last, m.news = (ping, source, self.now), False
        elif ping.signal in ("log", "progress"):
            counts = self._apply_life_sign(m, ping, dated)
        if (counts or (satisfying and m.d.every is not None)) and m.d.recover_after == 1:
            self._over(
                m,
                lambda c: (
                    c.kind == "missed"
                    and (ping.run is None or c.of in ("", ping.run))
                    and self._is_about(m, c, dated if counts else own, ping)
                ),
            )

    def _date(self, m: Monitor, ping: Ping) -> Dated:
        """The business date of the run that a ping opens, or of a heartbeat."""
        date = named_date(m.d, ping, self.now)
        backfill = ping.options is not None and ping.options.backfill
        if m.d.cron is None:
            return Dated(date, date is not None, backfill)
        due = self._expected_slot(m)
        present = date_of_slot(m.d, due if is_present(m.d, due, self.now) else slot_before(m.d, self.now))
        if date is None:
            return Dated(present, False, backfill)
        return Dated(date, True, backfill or is_earlier(date, present))

    def _expected_slot(self, m: Monitor) -> Micros:
        silent = m.incident is not None and m.incident.silent
        return expected_slot(m.d, m.due if m.last_ping_at else 0, self.now, silent)

    def _count_ping(self, m: Monitor) -> None:
        if m.d.every is not None:
            m.due = self.now + m.d.every
        elif not m.last_ping_at:
            m.due = 0
        if m.incident is not None and (not m.last_ping_at or m.d.every is not None):
            m.incident.silent = False
        m.last_ping_at, m.excused = self.now, 0
        self._restate(m)

    def _is_repeat(self, m: Monitor, source: bytes | None, ping: Ping) -> bool:
        if m.last is None or m.news or _content(m.last[0]) != _content(ping):
            return False
        _, address, at = m.last
        if source is not None and address == source:
            outage = next((each for each in self.outages if each[1] > at), None)
            if outage is not None and at >= outage[0] - S and self.now <= outage[1] + 30 * S:
                m.last = (ping, source, self.now)
                return True
        within = 30 * S if m.d.every is None else min(30 * S, m.d.every // 2)
        return ping.run is not None and self.now - at <= within and not self._slot_has_come(m)

    def _apply_repeat(self, m: Monitor, source: bytes | None, ping: Ping, dated: Dated) -> None:
        """A repeat changes only an open run that it names."""
        run = self._find(m, ping.run) if ping.signal == "start" else self._to_end(m, ping)
        if run is None or _is_of_another_execution(run, ping):
            return
        if ping.signal == "start":
            self._start_again(m, run, source, ping)
        else:
            self._apply_end(m, ping, dated)

    def _slot_has_come(self, m: Monitor) -> bool:
        return m.d.cron is not None and bool(m.last_ping_at) and 0 < m.due <= self.now

    def _was_overtaken(self, m: Monitor, source: bytes | None) -> bool:
        if m.last is None or m.heartbeat in (0, m.writer) or source is None:
            return False
        return m.last[1] == source and self.now - m.last[2] < S

    def _count_for_schedule(self, m: Monitor, run_id: str | None, dated: Dated) -> None:
        if m.d.every is not None:
            return
        if m.d.after is not None:
            answered = [each for each in m.awaited if run_id is None or each[0] == run_id]
            answered = answered or [each for each in m.awaited if each[0] == ""]
            if answered:
                m.awaited.remove(answered[0])
            return
        silent = m.incident is not None and m.incident.silent
        if m.d.cron is not None and dated.named:
            due = self._expected_slot(m)
            if not dated.backfill and dated.date == date_of_slot(m.d, due):
                m.due = slot_after(m.d, max(due, self.now))
            elif (not m.due and not dated.backfill) or (
                silent and m.last_ping_at and dated.date == date_of_slot(m.d, m.due)
            ):
                m.due = due
            else:
                return
        elif dated.backfill:
            return
        else:
            m.due = due_if_counts(m.d, m.due, self.now, silent)
        if m.incident is not None:
            m.incident.silent = False

    def _note(self, m: Monitor, run: Run, ping: Ping) -> None:
        """A ping of an open run. If it is unverified, this shows that it still runs."""
        if run.unknown and not run.hung:
            run.events.append(("unbroken", self.now, {("runtime", ""), ("quiet", "")}, set()))
            seen = see(run)
            run.unknown = bool(seen.broken)
        run.events.append(("ping", self.now, ping, self._follows(m, ping)))

    def _follows(self, m: Monitor, ping: Ping) -> bool:
        """Whether single tasks of the ping's group have a limit."""
        tasks = tasks_of(m.d, ping.stage or "")
        return tasks is not None and (tasks.each_within is not None or tasks.quiet_for is not None)

    def _find(self, m: Monitor, run_id: str | None) -> Run | None:
        return next((run for run in reversed(m.open) if run.id == run_id), None)

    def _ended(self, m: Monitor, run_id: str) -> Run | None:
        ended = [run for run in m.runs if run.id == run_id and run.ended is not None and self._find(m, run_id) is None]
        return ended[-1] if ended and self.now - (ended[-1].ended or 0) <= 600 * S else None

    def _superseded(self, m: Monitor, ping: Ping) -> Run | None:
        """The last run with this id that ended at most ten minutes ago, if it is of the execution of a ping."""
        same = [run for run in m.runs if run.id == ping.run and run.ended is not None]
        last = same[-1] if same else None
        if last is None or ping.options is None or last.execution != ping.options.execution:
            return None
        return last if self.now - (last.ended or 0) <= 600 * S else None

    def _auto_completed(self, m: Monitor) -> Run | None:
        """The last run without an id, where its pieces or a person ended it and it has not said so itself."""
        last = next((run for run in reversed(m.runs) if run.id is None), None)
        if last is None or not (last.by_steps or last.by_hand) or last.has_own_finish:
            return None
        return last

    def _goes_on(self, m: Monitor, run: Run, ping: Ping) -> bool:
        """Whether a `start` is of the open run."""
        return ping.run is not None and not (run.start_received and (run.hung or run.unknown or self._slot_has_come(m)))

    def _start_again(self, m: Monitor, run: Run, source: bytes | None, ping: Ping) -> None:
        run.start_received = True
        self._note(m, run, ping)
        if m.d.overlap == "alert" and run.client is None:
            run.client = source
        elif m.d.overlap == "alert" and not run.dated.backfill and source and run.client and source != run.client:
            self._meet(m, Cause("overlap", run.number, "", self.now), run)
        self._decide_total(m, run, ping)

    def _apply_start(self, m: Monitor, source: bytes | None, ping: Ping, dated: Dated) -> bool:
        run = self._find(m, ping.run)
        if run is not None and not _is_of_another_execution(run, ping) and self._goes_on(m, run, ping):
            if run.start_received and ping.dialect in ("sentry", "healthchecks") and m.d.max_runtime is not None:
                run.restarted = self.now
            self._start_again(m, run, source, ping)
            return False
        ended = self._ended(m, ping.run) if ping.run is not None else None
        if ended is not None and not ended.begun and self.now - (ended.ended or 0) <= 10 * S:
            ended.begun = True
            self._say(m, "start", ping.run)
            return False
        run = self._open(m, ping, dated)
        run.client = source if m.d.overlap == "alert" else None
        self._decide_total(m, run, ping)
        return True

    def _to_end(self, m: Monitor, ping: Ping) -> Run | None:
        run = self._find(m, ping.run)
        if run is None and ping.run is None and ping.dialect in ("sentry", "healthchecks") and m.open:
            return m.open[-1]
        return run

    def _apply_end(self, m: Monitor, ping: Ping, dated: Dated) -> bool:
        run = self._to_end(m, ping)
        foreign = run is not None and _is_of_another_execution(run, ping)
        if run is not None and not foreign:
            self._note(m, run, ping)
            self._end(m, run, ping)
            run.finished_by, run.finish = m.writer, ping
            return False
        if ping.run is None:
            return self._apply_heartbeat(m, ping, dated)
        ended = self._superseded(m, ping) if foreign else self._ended(m, ping.run)
        if ended is not None and ended.begun and self._is_of_ended(m, ended, ping):
            self._finish_ended(m, ended, ping)
            return False
        if foreign:
            return False
        started = self.now - round(ping.duration * S) if ping.duration is not None else 0
        run = Run(len(m.runs) + 1, ping.run, started, [("ping", self.now, ping)], begun=False, finish=ping, dated=dated)
        run.execution = ping.options.execution if ping.options is not None else None
        m.runs.append(run)
        self._end(m, run, ping, created_by_finish=True)
        return True

    def _apply_heartbeat(self, m: Monitor, ping: Ping, dated: Dated) -> bool:
        failed = ping.signal == "fail"
        own = self._auto_completed(m)
        if own is not None and self.now - (own.ended or 0) <= 600 * S:
            own.has_own_finish = True
            differs = failed != (own.verdict == "failed") and own.verdict != "ignored"
            if differs and (failed or own.by_hand):
                self._revise(m, own, ping)
            return False
        m.heartbeat = m.writer
        self._count_for_schedule(m, None, dated)
        excess = not dated.backfill and self._too_often(m, None)
        if failed:
            self._meet(m, Cause("failed", 0, "", self.now), counts=not excess, dated=dated)
        elif not excess:
            self._good(m, None, dated, ping)
        self._say(m, "fail" if failed else "success", None)
        return True

    def _is_of_ended(self, m: Monitor, run: Run, ping: Ping) -> bool:
        """Whether a finish with the id of a run that was begun and has ended is about that one."""
        before = run.finish
        if before is None:
            return True
        another = ping.dialect == "healthchecks" and ping.signal == before.signal != "fail"
        return not self._slot_has_come(m) and not another

    def _finish_ended(self, m: Monitor, run: Run, ping: Ping) -> None:
        before, failed = run.finish, ping.signal == "fail"
        if run.by_hand:
            if run.verdict == "ignored" or (before is not None and before.signal == ping.signal):
                return
            run.by_hand, before = False, None
        if before is None:
            run.finish = ping
            if run.verdict != ("failed" if failed else "succeeded"):
                self._revise(m, run, ping)
        elif before.signal != ping.signal or (failed and m.streak == 0):
            run.finish = ping
            self._revise(m, run, ping)
        elif failed and _content(before) != _content(ping):
            run.finish = ping
            self._meet(m, Cause("failed", run.number, "", self.now), counts=False, dated=run.dated)

    def _apply_life_sign(self, m: Monitor, ping: Ping, dated: Dated) -> bool:
        run = self._find(m, ping.run)
        if run is not None and _is_of_another_execution(run, ping):
            return False
        if run is not None:
            self._note(m, run, ping)
            self._decide_total(m, run, ping)
            return False
        if ping.signal == "log" or ping.run is None or self._ended(m, ping.run) is not None:
            return False
        self._decide_total(m, self._open(m, ping, dated), ping)
        return True

    def _open(self, m: Monitor, ping: Ping, dated: Dated) -> Run:
        at_work = any(not run.hung and not run.unknown and not run.dated.backfill for run in m.open)
        unended = 0
        before = self._find(m, ping.run)
        if before is not None:
            if not before.hung and before.start_received:
                unended = before.unended or before.started
            failed = bool(failing(m.d, see(before)))
            before.ended, before.verdict = self.now, "failed" if failed else "superseded"
            before.duration = self.now - before.started
        if ping.run is None and (ping.signal != "start" or ping.stage is not None or ping.task is not None):
            m.last, m.heartbeat = None, 0
        if len(m.open) >= 1000:
            oldest = m.open[0]
            oldest.ended, oldest.verdict = self.now, "unknown"
            oldest.duration = self.now - oldest.started
            self._over(m, lambda cause: cause.number == oldest.number, keeps=True)
        run = Run(len(m.runs) + 1, ping.run, self.now, [("ping", self.now, ping, self._follows(m, ping))])
        run.start_received = ping.signal == "start" and ping.stage is None and ping.task is None
        run.unended, run.dated = unended, dated
        run.execution = ping.options.execution if ping.options is not None else None
        m.runs.append(run)
        if not dated.backfill:
            self._count_ping(m)
        self._count_for_schedule(m, ping.run, dated)
        if not dated.backfill:
            self._too_often(m, run)
        if at_work and m.d.overlap == "alert" and not dated.backfill:
            self._meet(m, Cause("overlap", run.number, "", self.now), run)
        self._say(m, "start", ping.run)
        return run

    def _end(self, m: Monitor, run: Run, ping: Ping, created_by_finish: bool = False) -> None:
        seen = see(run)
        if created_by_finish:
            self._count_for_schedule(m, run.id, run.dated)
            if not run.dated.backfill:
                self._too_often(m, run)
        run.duration = self.now - run.started if run.started else None
        cause = None
        stay: set[tuple[str, int, str]] = set()
        if ping.signal == "fail":
            cause = Cause("failed", run.number, "", self.now)
        elif ping.signal != "skip":
            group = next((name for name, g in seen.groups.items() if g.too_many(tasks_of(m.d, name))), None)
            least = m.d.min_runtime
            incomplete = False
            if not created_by_finish and not run.by_steps:
                incomplete, failed_stages = missing_of(m.d, run, seen, not self._may_lose(m, run))
            if group is not None:
                cause = Cause("tasks", run.number, group, self.now)
            elif incomplete:
                cause = Cause("incomplete", run.number, "", self.now)
                stay = {("stage", run.number, name) for name in failed_stages}
            elif least is not None and run.duration is not None and run.duration < least:
                cause = Cause("too_early", run.number, "", self.now)
        run.ended, run.verdict = self.now, "failed" if cause else "succeeded"
        limited = m.d.max_runtime is not None or m.d.quiet_for is not None or m.d.stall_for is not None
        by_others = run.hung and run.unended and not limited and self.now - run.started < RUNTIME_DEFAULT
        by_others = by_others and see(run).broken == {("runtime", "")}
        run.late = run.hung and run.overdue and not by_others and cause is None and ping.signal != "skip"
        if cause is not None:
            self._meet(m, cause, run)
        self._over(m, lambda c: c.number == run.number and c.key not in stay and (cause is None or c.key != cause.key))
        any_success = ping.dialect == "healthchecks"
        if cause is None and (any_success or not run.counted or by_others):
            self._good(m, None if created_by_finish or any_success else run, run.dated, ping)
        self._say(m, "fail" if cause else "success", run.id)

    def _may_lose(self, m: Monitor, run: Run) -> bool:
        """Whether an outage may have lost pings of this run."""
        parts = [min(high, self.now) - max(low, run.started) for low, high in self.outages]
        return not m.d.count_outages and any(part >= S and part * 100 >= self.now - run.started for part in parts)

    def _revise(self, m: Monitor, run: Run, ping: Ping) -> None:
        if ping.signal == "fail":
            self._fail_after_all(m, run, Cause("failed", run.number, "", self.now))
        else:
            self._succeed_after_all(m, run, ping)

    def _too_often(self, m: Monitor, run: Run | None) -> bool:
        at_most = m.d.at_most
        if at_most is None:
            return False
        m.happened.append(self.now)
        if sum(1 for at in m.happened if at > self.now - at_most.per) <= at_most.count:
            return False
        self._meet(m, Cause("too_often", 0, "", self.now), run)
        return True

    def _say(self, m: Monitor, signal: str, run_id: str | None) -> None:
        for follower in sorted(self.monitors.values(), key=lambda x: x.id):
            after = follower.d.after
            if after is None or follower.project != m.project or after.monitor != m.slug or after.signal != signal:
                continue
            knows = run_id is not None and (self._find(follower, run_id) or self._ended(follower, run_id))
            if follower.paused or knows or any(each[0] == (run_id or "") for each in follower.awaited):
                continue
            follower.touched = self.now
            if len(follower.awaited) < 1000:
                follower.awaited.append((run_id or "", self.now + after.within))

    # ------------------------------------------------------------------------------------------------------- pieces

    def _apply_step(self, m: Monitor, ping: Ping, dated: Dated) -> bool:
        if ping.signal == "leave":
            return False
        run = self._find(m, ping.run)
        if run is not None and _is_of_another_execution(run, ping):
            return False
        begins = run is None
        status = None
        was_failing: set[tuple[str, str]] = set()
        if run is None:
            known = [each for each in m.runs if each.id == ping.run and ping.run is not None]
            if known:
                self._apply_late(m, known[-1], ping)
                return False
            last = self._auto_completed(m) if ping.run is None else None
            if last is not None and ping.signal != "start" and self.now - (last.ended or 0) <= 10 * S:
                self._apply_late(m, last, ping)
                return False
            unnamed = [run for run in m.runs if run.id is None]
            end = unnamed[-1] if unnamed and ping.run is None and ping.signal != "start" else None
            if end is not None and end.finished_by not in (0, m.writer) and self.now - (end.ended or 0) < S:
                self._apply_late(m, end, ping)
                return False
            if ping.signal == "log":
                return False
            run = self._open(m, ping, dated)
        else:
            before = see(run)
            was_failing = failing(m.d, before)
            stage = before.stages.get(ping.stage or "")
            status = stage.status if stage else None
            self._note(m, run, ping)
        seen = see(run)
        number, name = run.number, ping.stage or ""
        if ping.task is None:
            if ping.signal == "fail" and status != "failed":
                self._meet(m, Cause("stage", number, name, self.now), run)
            elif ping.signal in ("success", "skip"):
                self._over(m, lambda c: c.key == ("stage", number, name))
        else:
            self._evaluate_task(m, run, seen, ping, name, was_failing)
        self._decide_total(m, run, ping)
        if run.ended is None and ping.signal in ("success", "skip", "fail"):
            self._end_if_complete(m, run)
        if run.ended is None and run.hung and not run.hung_to_the_end:
            seen = see(run)
            run.hung = tasks_at_fault(seen)
            if not run.hung:
                self._over(m, lambda c: c.key[:2] == ("hung", number))
            elif not tasks_at_fault(seen, name):
                self._over(m, lambda c: c.key == ("hung", number, name))
        return begins

    def _apply_late(self, m: Monitor, run: Run, ping: Ping) -> None:
        """S9.15 to S9.18: a ping of a stage or task of a run that has ended."""
        before, length, name = see(run), len(run.events), ping.stage or ""
        run.events.append(("ping", self.now, ping))
        seen = see(run)
        outcome = ping.task is not None and ping.signal in OUTCOMES
        total = ping.total is not None and ping.done is None
        status = seen.stages[name].status if name in seen.stages else None
        decided = bool(name) and name in seen.groups and (outcome or (total and status != "failed"))
        if decided and seen.groups[name].well(tasks_of(m.d, name)) and status not in ("done", "skipped"):
            run.events.append(("ping", self.now, Ping("success", run.id, name)))
            seen = see(run)
        if _outcomes(before) == _outcomes(seen):
            del run.events[length:]
            return
        own = run.finish.signal if run.finish is not None else ""
        least = m.d.min_runtime
        if run.by_hand:
            return
        if ping.signal == "fail" and run.verdict != "failed" and own != "skip":
            waited = run.verdict != "succeeded" or any(each.name == name for each in m.d.stages)
            if own:
                waited = run.begun and name in missing_of(m.d, run, seen, True)[1]
            if ping.task is not None and seen.groups[name].too_many(tasks_of(m.d, name)):
                self._fail_after_all(m, run, Cause("tasks", run.number, name, self.now))
            elif ping.task is None and waited:
                self._fail_after_all(m, run, Cause("stage", run.number, name, self.now))
        elif ping.signal in ("success", "skip") and run.verdict == "failed":
            too_early = least is not None and run.duration is not None and run.duration < least
            was_wrong, is_wrong = (self._parts_are_wrong(m, run, each, own) for each in (before, seen))
            if own in ("", "success") and not too_early and was_wrong and not is_wrong:
                self._succeed_after_all(m, run, ping)

    def _parts_are_wrong(self, m: Monitor, run: Run, seen: Seen, own: str) -> bool:
        if any(group.too_many(tasks_of(m.d, each)) for each, group in seen.groups.items()):
            return True
        return (run.begun and missing_of(m.d, run, seen, True)[0]) if own else not is_complete(m.d, seen)

    def _fail_after_all(self, m: Monitor, run: Run, cause: Cause) -> None:
        if m.incident is not None and run.verdict != "failed":
            m.incident.known_runs.discard(run.number)
        run.verdict, run.late = "failed", False
        self._meet(m, cause, dated=run.dated)

    def _succeed_after_all(self, m: Monitor, run: Run, ping: Ping) -> None:
        if m.incident is not None and run.verdict != "succeeded":
            m.incident.known_runs.discard(run.number)
        run.verdict, run.late = "succeeded", False
        self._over(m, lambda cause: cause.number == run.number)
        self._good(m, None if ping.dialect == "healthchecks" else run, run.dated, ping)

    def _evaluate_task(
        self, m: Monitor, run: Run, seen: Seen, ping: Ping, name: str, was_failing: set[tuple[str, str]]
    ) -> None:
        number, group, tasks = run.number, seen.groups[name], tasks_of(m.d, name)
        if group.too_many(tasks):
            if ping.signal == "fail" or ("tasks", name) not in was_failing:
                self._meet(m, Cause("tasks", number, name, self.now), run)
        elif ("tasks", name) in was_failing and ("tasks", name) not in seen.broken:
            self._over(m, lambda c: c.key == ("tasks", number, name))
        if ping.signal in ("success", "skip", "fail") and group.well(tasks):
            self._over(m, lambda c: c.key == ("tasks", number, name))
            if name:
                self._end_stage(m, run, name)

    def _decide_total(self, m: Monitor, run: Run, ping: Ping) -> None:
        """S10.12: a total is looked at when it comes, except that it does not undo the failure of a stage."""
        if ping.total is None or ping.done is not None:
            return
        seen, name = see(run), ping.stage or ""
        failed = name in seen.stages and seen.stages[name].status == "failed"
        if name in seen.groups and seen.groups[name].well(tasks_of(m.d, name)) and not failed:
            self._over(m, lambda c: c.key == ("tasks", run.number, name))
            if name:
                self._end_stage(m, run, name)
        self._end_if_complete(m, run)

    def _end_stage(self, m: Monitor, run: Run, name: str) -> None:
        if see(run).stages[name].status not in ("done", "skipped"):
            run.events.append(("ping", self.now, Ping("success", run.id, name)))
            self._over(m, lambda c: c.key == ("stage", run.number, name))

    def _end_if_complete(self, m: Monitor, run: Run) -> None:
        if is_complete(m.d, see(run)):
            run.by_steps = True
            self._end(m, run, Ping("success", run.id))

    # ------------------------------------------------------------------------------------------------------- fleets

    def _too_few_open(self, m: Monitor) -> bool:
        return m.incident is not None and m.incident.holds(("members", 0, ""))

    def _alive(self, m: Monitor) -> int:
        return len(m.members) - len(m.silent)

    def _lower_peak(self, m: Monitor) -> None:
        assert m.d.members is not None
        stale = self.now - m.peak_at > m.d.members.forget_after
        if self._alive(m) < m.peak and stale and not self._too_few_open(m):
            m.peak, m.peak_at = self._alive(m), self.now

    def _forget(self, m: Monitor, name: str) -> None:
        del m.members[name]
        m.silent.discard(name)

    def _apply_member(self, m: Monitor, ping: Ping) -> None:
        name = ping.task or ping.run or ""
        self._lower_peak(m)
        if ping.signal == "leave":
            self._over(m, lambda c: c.key == ("failed", 0, name), keeps=True)
            if name in m.members:
                if self._alive(m) == m.peak:
                    m.peak_at = self.now
                self._forget(m, name)
                m.peak = max(m.peak - 1, self._alive(m))
                self._evaluate_fleet(m, worse=True)
            return
        if not m.last_ping_at and m.incident is not None:
            m.incident.silent = False
        if not m.last_ping_at:
            m.due = 0
        m.last_ping_at, m.excused = self.now, 0
        self._restate(m)
        changed = name not in m.members or name in m.silent
        m.members[name] = self.now
        m.silent.discard(name)
        if changed and self._alive(m) >= m.peak:
            m.peak, m.peak_at = self._alive(m), self.now
        if ping.signal == "fail":
            self._meet(m, Cause("failed", 0, name, self.now))
        elif ping.signal in ("start", "success", "skip"):
            self._over(m, lambda c: c.key == ("failed", 0, name), keeps=True)
        self._over(m, lambda c: c.kind == "missed")
        if changed:
            self._evaluate_fleet(m, worse=False)

    def _evaluate_members(self, m: Monitor, when: Micros) -> None:
        members = m.d.members
        assert members is not None
        due = [(self._member_deadline(m, name), name) for name in m.members if name not in m.silent]
        if not self._too_few_open(m):
            due += [(m.members[name] + members.forget_after, name) for name in m.silent]
        fallen = forgotten = False
        for deadline, name in sorted(due):
            if deadline > when:
                continue
            if name in m.silent:
                self._forget(m, name)
                self._over(m, lambda c, name=name: c.key == ("failed", 0, name), keeps=True)
                forgotten = True
            else:
                self._lower_peak(m)
                if self._alive(m) == m.peak:
                    m.peak_at = self.now
                m.silent.add(name)
                fallen = True
        if fallen or forgotten:
            self._evaluate_fleet(m, worse=fallen or not m.members)

    def _evaluate_fleet(self, m: Monitor, worse: bool) -> None:
        members = m.d.members
        assert members is not None
        if members.min_alive is None:
            required: float = max(len(m.members), members.expected or 0)
        elif isinstance(members.min_alive, int):
            required = members.min_alive
        else:
            of = members.expected or m.peak
            required = of * round(float(members.min_alive.rstrip("%")) * 1000) / 100_000  # not rounded: alive is whole
        is_open = self._too_few_open(m)
        if not m.members or self._alive(m) < required:
            if is_open or worse:
                shortfall = max(0, math.ceil(required) - self._alive(m))
                self._meet(m, Cause("members", 0, "", self.now, shortfall=shortfall), counts=not is_open)
        elif is_open:
            self._over(m, lambda c: c.key == ("members", 0, ""))
            self._forget_those_past(m)

    def _forget_those_past(self, m: Monitor) -> None:
        members = m.d.members
        if members is None:
            return
        for name in sorted(m.silent):
            if m.members[name] + members.forget_after <= self.now:
                self._forget(m, name)
                self._over(m, lambda c, name=name: c.key == ("failed", 0, name), keeps=True)

    # ------------------------------------------------------------------------------------------------------ changes

    def create(self, at: Micros, m: Monitor) -> None:
        self.judge_through(at)
        m.created = m.since = m.touched = self.now
        self._begin_anew(m)
        self.monitors[m.id] = m
        self._restate(m)

    def edit(self, at: Micros, monitor_id: int, new: Definition) -> None:
        self.judge_through(at, monitor_id)
        m = self.monitors.get(monitor_id)
        if m is None or m.d == new:
            return
        old, m.d, m.tags = m.d, new, new.tags
        if (old.members is None) != (new.members is None):
            m.members, m.silent, m.peak, m.peak_at, m.members_from = {}, set(), 0, 0, 0
            for run in m.open:
                run.ended, run.verdict, run.duration = self.now, "unknown", self.now - run.started
            self._resolve(m)
        if old.after != new.after:
            m.awaited = []
            self._over(m, lambda c: c.kind == "missed" and c.of)
        self._edit_schedule(m, old)
        if (
            (old.members != new.members or old.count_outages != new.count_outages)
            and new.members is not None
            and m.members
        ):
            shorter = old.members is not None and new.members.every < old.members.every
            wait = new.members.grace + (new.members.every if shorter else 0)
            m.members_from = max(m.members_from, self.now + wait)
        for run in m.open:
            run.trusted |= asks_more(old, new)
        fields = ("max_runtime", "quiet_for", "stall_for", "stages", "tasks", "count_outages")
        if any(getattr(old, name) != getattr(new, name) for name in fields):
            self._put_off(m)
            for run in m.open:
                self._reevaluate_run(m, run)
        if old.at_most != new.at_most:
            m.happened = []
            self._over(m, lambda c: c.kind == "too_often")
        if new.overlap == "allow":
            self._over(m, lambda c: c.kind == "overlap")
        if old.depends_on != new.depends_on:
            self._look_at_explanations()
        self._restate(m)
        self._notify_if_due(m)

    def _edit_schedule(self, m: Monitor, old: Definition) -> None:
        new, now = m.d, self.now
        if old.grace != new.grace or old.count_outages != new.count_outages:
            m.awaited = [(run, max(each, now)) for run, each in m.awaited]
        if not m.last_ping_at:
            if old.first_within == new.first_within:
                return
            due = wanted = m.created + new.first_within if new.first_within is not None else 0
            late = 0 < wanted <= now
            if late:
                due = now + (new.first_within or 0)
                if old.first_within is not None and m.due > now:
                    due = min(due, m.due)
            m.due = max(due, now + new.grace) if due else 0
        else:
            if new.after is not None and old.after == new.after:
                return
            anew = any(getattr(old, name) != getattr(new, name) for name in ("every", "cron", "oncalendar"))
            if not anew and all(
                getattr(old, name) == getattr(new, name) for name in ("grace", "after", "count_outages")
            ):
                return
            wanted = due = due_if_counts(new, 0, m.last_ping_at, False) if anew else m.due
            if not is_scheduled(new):
                wanted = due = 0
            elif anew and due < now:
                due = first_due_asked(new, wanted, m.due if is_scheduled(old) else 0, now)
            late = bool(wanted) and wanted + new.grace <= now
            m.due = max(due, now) if due else 0
        incident = m.incident
        if incident is not None and incident.holds(("missed", 0, "")) and not late:
            incident.silent = False
            self._over(m, lambda c: c.key == ("missed", 0, ""))
        elif incident is not None and incident.silent:
            m.due = wanted

    def _reevaluate_run(self, m: Monitor, run: Run) -> None:
        d, now = m.d, self.now
        seen = see(run)
        still = {
            (kind, stage)
            for kind, stage, _, base, length in limits_of(d, run, seen)
            if self._moved(d, base, base + length) <= now
        }
        gone = seen.broken - still
        moving = {
            (stage, name)
            for stage, group in seen.groups.items()
            for name in group.stalled
            if d.stall_for is None or group.counts[name].changed + d.stall_for > now
        }
        run.events.append(("unbroken", now, gone, moving))
        seen = see(run)
        stalled = any(group.stalled for group in seen.groups.values())
        self._reset_tasks_by_definition(m, run, seen)
        seen = see(run)
        at_fault = tasks_at_fault(seen)
        if not seen.broken and not stalled:
            run.hung_to_the_end = run.overdue = False
            run.hung = run.hung and at_fault
        as_it_is = failing(d, seen)

        def upheld(cause: Cause) -> bool:
            if cause.kind == "hung":
                return stalled or at_fault or bool(seen.broken & {("runtime", ""), ("quiet", ""), ("stalled", "")})
            return (cause.kind, cause.of) in seen.broken | as_it_is

        self._over(m, lambda c: c.number == run.number and c.kind in ("hung", "stage", "tasks") and not upheld(c))
        for name, group in seen.groups.items():
            if name and group.well(tasks_of(d, name)):
                self._end_stage(m, run, name)
        self._end_if_complete(m, run)

    def _reset_tasks_by_definition(self, m: Monitor, run: Run, seen: Seen) -> None:
        def is_over(at: Micros, length: Micros | None) -> bool:
            return length is not None and self._moved(m.d, at, at + length) <= self.now

        followed = {}
        for stage, group in seen.groups.items():
            if self._follows(m, Ping("log", None, stage)):
                tasks = tasks_of(m.d, stage)
                assert tasks is not None
                works = group.active.items()
                overdue = {n for n, work in works if work.end == "broken" and is_over(work.begun, tasks.each_within)}
                silent = {n for n, work in works if work.pings == "broken" and is_over(work.last, tasks.quiet_for)}
                followed[stage] = (overdue, silent)
        run.events.append(("tasks reset", self.now, followed))

    def pause(self, at: Micros, monitor_id: int, drop: bool = False) -> None:
        self.judge_through(at, monitor_id)
        m = self.monitors.get(monitor_id)
        if m is None:
            return
        if not m.paused:
            m.paused = True
            if m.incident is not None:
                self.releases.append((self.now, m.id))
        if drop:
            self._drop(m)
            m.streak, m.awaited = 0, []
        self._restate(m)

    def resume(self, at: Micros, monitor_id: int) -> None:
        self.judge_through(at, monitor_id)
        m = self.monitors.get(monitor_id)
        if m is not None and m.paused:
            self._resume(m)
            self._notify_if_due(m)

    def _resume(self, m: Monitor) -> None:
        m.paused, m.excused = False, 0
        m.awaited = [(run, max(due, self.now)) for run, due in m.awaited]
        incident = m.subject
        planned = self._notify_at(m, incident) if incident is not None and incident.plan is not None else None
        if incident is not None and planned is not None and planned <= self.now:
            incident.plan = incident.plan if self._reports_explicit(incident) else period_and_grace(m.d, self.now)
        self._begin_anew(m)
        if m.d.members is not None and m.members:
            m.members_from = max(m.members_from, self.now + m.d.members.every + m.d.members.grace)
        self._put_off(m)
        for run in m.open:
            run.hung = run.hung_to_the_end = run.overdue = run.unknown = False
            seen = see(run)
            stalled = {(stage, name) for stage, group in seen.groups.items() for name in group.stalled}
            run.events.append(("unbroken", self.now, seen.broken, stalled))
            for stage, group in seen.groups.items():
                for name, work in group.active.items():
                    for kind, what in (("task overdue", work.end), ("task silent", work.pings)):
                        if what == "broken":
                            run.events.append(("task broken", self.now, kind, stage, name, ""))
        self._restate(m)

    def _put_off(self, m: Monitor) -> None:
        if m.open:
            m.limits_from = (max(m.limits_from[0], self.now + m.d.grace), len(m.runs))

    def _begin_anew(self, m: Monitor) -> None:
        if not m.last_ping_at:
            m.due = self.now + m.d.first_within if m.d.first_within is not None else 0
        elif m.d.every is not None:
            m.due = self.now + m.d.every
        elif m.d.cron is not None:
            m.due = max(m.due, slot_after(m.d, self.now))
        else:
            m.due = 0

    def snooze(self, at: Micros, monitor_id: int, until: Micros) -> None:
        self.judge_through(at, monitor_id)
        m = self.monitors.get(monitor_id)
        if m is not None:
            m.snoozed = until
            self._notify_if_due(m)

    def settle(self, at: Micros, monitor_id: int) -> None:
        self.judge_through(at, monitor_id)
        m = self.monitors.get(monitor_id)
        if m is None or (incident := m.incident) is None:
            return
        self._resolve(m, by_person=True)
        if incident.silent:
            self._begin_anew(m)
        self._forget_those_past(m)

    def close(self, at: Micros, monitor_id: int, number: int, verdict: str, had_ended: bool) -> None:
        self.judge_through(at, monitor_id)
        m = self.monitors.get(monitor_id)
        run = next((run for run in m.runs if run.number == number), None) if m is not None else None
        if m is None or run is None or m.d.members is not None:
            return
        was_open = run.ended is None
        if was_open:
            run.ended, run.duration = self.now, self.now - run.started
        elif not had_ended or run.verdict == verdict or not self._is_remembered(m, run):
            return
        run.verdict, run.by_hand, run.late = verdict, True, False
        failed = Cause("failed", number, "", self.now)
        if verdict == "failed":
            self._meet(m, failed, run if was_open else None, known=True, dated=run.dated)
            self._over(m, lambda cause: cause.number == number and cause.key != failed.key)
        else:
            if m.incident is not None:
                m.incident.known_runs.discard(number)
            self._over(m, lambda cause: cause.number == number)
        if verdict == "succeeded":
            self._good(m, run, run.dated, None)
        if was_open and verdict != "ignored":
            self._say(m, "fail" if verdict == "failed" else "success", run.id)

    def _is_remembered(self, m: Monitor, run: Run) -> bool:
        if self.now - (run.ended or 0) > 600 * S:
            return False
        if run.id is None:
            return self._auto_completed(m) is run
        return [each for each in m.runs if each.id == run.id and each.ended is not None][-1] is run

    def rename(self, at: Micros, monitor_id: int, slug: str) -> None:
        """A new slug in the same project: the references to the former one are changed with it."""
        self.judge_through(at, monitor_id)
        m = self.monitors.get(monitor_id)
        if m is None:
            return
        for other in self.monitors.values():
            if other.project == m.project:
                other.d = renamed_within(other.d, m.slug, slug)
        m.slug = slug
        self._look_at_explanations()
        self._notify_if_due(m)

    def move(self, at: Micros, monitor_id: int, project: int) -> None:
        """To another project, under the same slug."""
        self.judge_through(at, monitor_id)
        m = self.monitors.get(monitor_id)
        if m is None:
            return
        m.project = project
        self._look_at_explanations()
        self._notify_if_due(m)

    def remove(self, at: Micros, monitor_id: int) -> None:
        self.judge_through(at, monitor_id)
        m = self.monitors.get(monitor_id)
        if m is None:
            return
        self._drop(m)
        for run in m.open:
            run.ended, run.verdict, run.duration = self.now, "unknown", self.now - run.started
        self.gone[monitor_id] = self.monitors.pop(monitor_id)
        self._look_at_explanations()

    def put_window(
        self, at: Micros, id: int, project: int, slugs: tuple[str, ...], tags: tuple[str, ...], s: Micros, e: Micros
    ) -> None:
        self.judge_through(at)
        self.windows[id] = (project, slugs, tags, s, e)
        for m in list(self.monitors.values()):
            self._notify_if_due(m)

    def remove_window(self, at: Micros, id: int) -> None:
        self.judge_through(at)
        self.windows.pop(id, None)
        for m in list(self.monitors.values()):
            self._notify_if_due(m)
