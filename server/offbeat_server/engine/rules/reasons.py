"""Sentences for alerts: what was expected, what happened instead, and since when.

Times are written in the monitor's own time zone, with the date only where it is not the same day.
"""

import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from itertools import islice
from zoneinfo import ZoneInfo

from offbeat.readable import says_one_line
from offbeat_server.common.instants import SECOND, Micros, to_datetime
from offbeat_server.common.plural import plural
from offbeat_server.engine.model.definition import Definition, Members, Tasks
from offbeat_server.engine.model.enums import HoldKind, StageStatus, Verdict
from offbeat_server.engine.model.fleet import Fleet
from offbeat_server.engine.model.missing_parts import MissingParts
from offbeat_server.engine.model.ping import Ping
from offbeat_server.engine.model.run import PAUSES, TASK_LIMITS, Limit, Run, tasks_of
from offbeat_server.engine.model.run_detail import HoldDetail
from offbeat_server.engine.model.tasks import TaskCount, TaskGroup
from offbeat_server.engine.schedule.due_times import period_of
from offbeat_server.engine.schedule.durations import say_duration
from offbeat_server.engine.schedule.outage_intervals import OutageIntervals

NAMES_SHOWN_MAX = 20
STAGES_SAID_MAX = 10
EXPECTS_NOTHING = (
    "This monitor has no deadline, so nothing can be missed. Set every, cron, oncalendar, after or members."
)
NO_RUN_LIMIT = "A run that starts and does not end is noticed only after 24 hours. Set max_runtime."
LONG_GRACE_PERIODS = 10  # a grace period longer than this many periods, and than LONG_GRACE_MIN, is a mistake
LONG_GRACE_MIN: Micros = 3_600 * SECOND
MESSAGE_SHOWN_CHARS = 200
MISSING_CHARS_MAX = 1000  # of the sentence about the missing parts of a run
_HOLDS = {
    HoldKind.DEPENDENCY: "dependency",
    HoldKind.MAINTENANCE: "maintenance window",
    HoldKind.SNOOZE: "snooze",
    HoldKind.PAUSE: "pause",
}


def say_time(at: Micros, definition: Definition, near: Micros | None = None) -> str:
    """An instant in the monitor's zone: `02:14:05`, or with the date when `near` is not on the same day."""
    date, time, zone = _local(at // SECOND, definition.timezone)
    if near is not None and _local(near // SECOND, definition.timezone)[0] == date:
        return time
    return f"{date} {time} {zone}"


@lru_cache(maxsize=10_000)  # where much goes wrong at once, it does so in few seconds
def _local(at_s: int, timezone: str) -> tuple[str, str, str | None]:
    local = to_datetime(at_s * SECOND).astimezone(ZoneInfo(timezone))
    return local.date().isoformat(), local.time().isoformat("seconds"), local.tzname()


def say_names(names: list[str], count: int | None = None) -> str:
    """The first names, and how many more there are."""
    total = len(names) if count is None else count
    shown = ", ".join(names[:NAMES_SHOWN_MAX])
    more = total - min(len(names), NAMES_SHOWN_MAX)
    return f"{shown} and {more} more" if more > 0 and shown else shown or str(total)


def missed(definition: Definition, due: Micros, deadline: Micros, last_ping_at: Micros | None) -> str:
    """No ping arrived by the deadline."""
    text = f"no ping by {say_time(deadline, definition)}: it was due at {say_time(due, definition, deadline)}"
    if definition.grace:
        text += f", with a grace period of {say_duration(definition.grace)}"
    if last_ping_at is None:
        return f"{text}; no ping was ever received"
    return f"{text}; last ping at {say_time(last_ping_at, definition, deadline)}"


def never_pinged(definition: Definition, deadline: Micros) -> str:
    """The first ping did not arrive in time."""
    assert definition.first_within is not None
    first_within = say_duration(definition.first_within)
    return f"no first ping by {say_time(deadline, definition)}, {first_within} after the monitor was created"


@says_one_line
def awaited(definition: Definition, due: Micros, deadline: Micros, run: str) -> str:
    """The upstream monitor pinged, and this one did not follow in time."""
    assert definition.after is not None
    after = definition.after
    return (
        f"monitor {after.monitor} sent {after.signal} at {say_time(due - after.within, definition, deadline)}"
        f"{_of_run(run or None)}; no ping followed by {say_time(deadline, definition)}: it was due within "
        f"{say_duration(after.within)} of that {after.signal}"
        + (f", with a grace period of {say_duration(definition.grace)}" if definition.grace else "")
    )


@says_one_line
def failed(ping: Ping, run: Run | None) -> str:
    """The client reported a failure."""
    text = f"run {run.run} failed" if run is not None and run.run is not None else "failed"
    if run is not None and run.current_work is not None:
        text += f" in stage {run.current_work}"
    if ping.stage is not None:
        text = f"stage {ping.stage} failed" + _of_run(ping.run)
    if ping.exit_code:
        text += f" with exit code {say_exit_code(ping.exit_code)}"
    message = ping.message if ping.message is not None else (run.message if run is not None else None)
    return text + (f": {tail(message)}" if message else "")


def say_exit_code(code: int) -> str:
    """An exit code, with its meaning: `3`, `-9 (SIGKILL)` as Python says it, `-1073741819 (0xC0000005)` of Windows."""
    if -64 <= code < 0:
        with suppress(ValueError):
            return f"{code} ({signal.Signals(-code).name})"
    return f"{code} (0x{code % 2**32:08X})" if not -255 <= code <= 255 else str(code)


def tail(message: str, chars_max: int = MESSAGE_SHOWN_CHARS) -> str:
    """The end of a message as one line: its last whole lines, where errors usually are.

    If the last line is longer than that, its beginning: there it says what went wrong.
    """
    lines = [" ".join(line.split()) for line in message.splitlines()]
    lines = [line for line in lines if line]
    shown = ""
    while lines and len(lines[-1]) + 1 + len(shown) <= chars_max:
        shown = f"{lines.pop()} {shown}"
    if not lines:
        return shown.rstrip()
    return f"… {shown.rstrip()}" if shown else _beginning(lines[-1], chars_max)


def _beginning(line: str, chars_max: int) -> str:
    """The beginning of a line, cut between two words if one ends near the bound."""
    kept = line[: chars_max - 1]
    at_a_word = kept.rpartition(" ")[0]
    return (at_a_word if len(at_a_word) > chars_max // 2 else kept) + "…"


@says_one_line
def broken(definition: Definition, run: Run, limit: Limit, deadline: Micros) -> str:
    """A run exceeded a limit: when it started, what was expected, and how far it got."""
    by = say_time(deadline, definition)
    who = f"run {run.run}" if run.run is not None else "the run"
    started = (
        f"started {say_time(run.started_at, definition, deadline)}"
        if run.started_at is not None
        else "of unknown start"
    )
    if limit.kind == "stage":
        assert limit.stage is not None
        seen = run.stages.get(limit.stage)
        text = f"stage {limit.stage} was expected to finish by {by}, {_after_base(definition, run, limit, deadline)}"
        if seen is not None and seen.started_at is not None and seen.status == StageStatus.RUNNING:
            text += f"; it started {say_time(seen.started_at, definition, deadline)}"
        return text + _stages(definition, run, limit.stage) + _of_run(run.run)
    if limit.kind == "quiet":
        last = say_time(run.last_at, definition)
        silent = say_duration(limit.length)
        return f"{who}, {started}, sent its last ping at {last} and has been silent for {silent}" + _where(run)
    if limit.kind == "stalled":
        assert run.count is not None
        return f"{who}, {started}, {_stands(run.count, limit, definition)}" + _where(run, but_count=True)
    if limit.kind == "task stalled":
        group = run.tasks[limit.stage]
        assert group.counts is not None
        others = len(group.stalled or ()) - 1
        text = f"task {limit.task} {_stands(group.counts[limit.task], limit, definition)}"
        more = f"; {plural(others, 'more task is', 'more tasks are')} stalled" if others > 0 else ""
        return text + _of_stage(limit.stage) + _of_run(run.run) + more
    if limit.kind == "tasks":
        return _tasks_overdue(definition, run, limit, by)
    if definition.max_runtime is None:
        since = say_time(limit.base, definition, deadline)
        several = run.started_at is not None and limit.base < run.started_at and run.unended_since == limit.base
        text = f"no run has ended since {since}; {who}, {started}" if several else f"{who}, {started}, has not ended"
        return f"{text}: without max_runtime, a run must end within {say_duration(limit.length)}" + _where(run)
    return f"{who}, {started}, was expected to finish by {by}, after {say_duration(limit.length)}" + _where(run)


def _after_base(definition: Definition, run: Run, limit: Limit, deadline: Micros) -> str:
    """How long the time of a stage is, and from when it counts: `8 s after the end of stage extract at 00:31:55`."""
    before = [stage.name for stage in definition.stages if stage.name != limit.stage]
    ends = [name for name in before if name in run.stages and run.stages[name].finished_at == limit.base]
    if limit.base == run.started_at:
        since = "the start of the run"
    elif ends:
        since = f"the end of stage {ends[-1]}"
    else:
        since = "its retry"
    return f"{say_duration(limit.length)} after {since} at {say_time(limit.base, definition, deadline)}"


def _stands(count: TaskCount, limit: Limit, definition: Definition) -> str:
    of = f" of {count.total}" if count.total is not None else ""
    since = say_time(count.at, definition)
    return f"has made no progress for {say_duration(limit.length)}: it has been at {count.done}{of} since {since}"


@says_one_line
def tasks_hung(definition: Definition, run: Run, stage: str) -> str:
    """Single tasks of a group that have not ended or not pinged in time."""
    tasks, work = tasks_of(definition, stage), run.tasks[stage].active
    assert tasks is not None and work is not None
    parts: list[str] = []
    if work.overdue and tasks.each_within is not None:
        length = say_duration(tasks.each_within)
        name, at = next(iter(work.overdue.items()))
        one = f"task {name} has not ended within {length} of its start at {say_time(at, definition)}"
        parts.append(_of_tasks(work.overdue, one, f"have not ended within {length} of their start"))
    if work.silent and tasks.quiet_for is not None:
        length = say_duration(tasks.quiet_for)
        name, at = next(iter(work.silent.items()))
        one = f"task {name} has sent no ping for {length}: its last was at {say_time(at, definition)}"
        parts.append(_of_tasks(work.silent, one, f"have sent no ping for {length}"))
    return "; ".join(parts) + _of_stage(stage) + _of_run(run.run)


def _of_tasks(broken: dict[str, Micros], one: str, several: str) -> str:
    if len(broken) == 1:
        return one
    return f"{len(broken)} tasks {several}: {say_names(list(islice(broken, NAMES_SHOWN_MAX)), len(broken))}"


def _tasks_overdue(definition: Definition, run: Run, limit: Limit, by: str) -> str:
    tasks = tasks_of(definition, limit.stage)
    group = run.tasks.get(limit.stage) or TaskGroup()
    counted = group.show(tasks, NAMES_SHOWN_MAX)
    expected = counted["expected"] if counted["expected"] is not None else len(group.by_name)
    unexpected = group.unexpected(tasks) or ()
    started = group.running - sum(group.by_name[name] is None for name in unexpected)
    text = f"{counted['done']} of {plural(expected, 'task')} done by {by}, {group.failed} failed"
    text += f" ({tasks.tolerate} tolerated)" if tasks is not None and tasks.tolerate else ""
    text += f", {counted['missing_count']} missing ({started or 'none'} of them started)"
    text += f": {say_names(counted['missing'], counted['missing_count'])}" if counted["missing"] else ""
    if unexpected:
        text += f"; {len(unexpected)} unexpected: {say_names(counted['unexpected_names'], len(unexpected))}"
    return text + _of_stage(limit.stage) + _of_run(run.run)


@says_one_line
def tasks_failed(group: TaskGroup, tasks: Tasks | None, stage: str, run: Run) -> str:
    """More tasks failed than are tolerated."""
    tolerate = tasks.tolerate if tasks is not None else 0
    names = say_names(list(islice(group.failing, NAMES_SHOWN_MAX)), group.failed)
    allowed = f"at most {tolerate} may fail" if tolerate else "none may fail"
    return f"{plural(group.failed, 'task')} failed: {names}; {allowed}" + _of_stage(stage) + _of_run(run.run)


@says_one_line
def incomplete(definition: Definition, run: Run, missing: MissingParts) -> str:
    """A run sent `success`, and some of its stages or tasks have not ended well."""
    tasks = [_missing_tasks(definition, run, stage) for stage in missing.groups]
    stages = [
        f"{_stages_named(list(names))} {what}"
        for names, what in (
            (missing.never_started, "never started"),
            (missing.running, "still running"),
            (missing.failed, "failed"),
        )
        if names
    ]
    text = ("success with " if tasks else "success, but ") + "; ".join([*tasks, *stages])
    return _cut(text) + _of_run(run.run)


@says_one_line
def not_heard(definition: Definition, run: Run, missing: MissingParts, outage: Micros) -> str:
    """A run sent `success`, and the pings of its missing parts may be lost."""
    parts = [
        _share_of_tasks(run.tasks.get(stage) or TaskGroup(), tasks_of(definition, stage), stage)
        for stage in missing.groups
    ]
    if names := [*missing.never_started, *missing.running]:
        parts.append(_stages_named(names))
    text = _cut(f"no end received of {' and '.join(parts)}")
    return f"{text}: an outage of Offbeat of {say_duration(outage)} may have lost the pings"


def _share_of_tasks(group: TaskGroup, tasks: Tasks | None, stage: str) -> str:
    """How many of the expected tasks of a group have not ended: `3 of 10 tasks of stage load`."""
    share = f"{group.missing_count(tasks)} of {plural(group.expected_of(tasks) or 0, 'task')}"
    return share + (f" of stage {stage}" if stage else "")


def _missing_tasks(definition: Definition, run: Run, stage: str) -> str:
    group, tasks = run.tasks.get(stage) or TaskGroup(), tasks_of(definition, stage)
    names = list(islice(group.missing(tasks), NAMES_SHOWN_MAX))
    text = f"{_share_of_tasks(group, tasks, stage)} missing"
    return text + (f": {say_names(names, group.missing_count(tasks))}" if names else "")


def _stages_named(names: list[str]) -> str:
    return f"stage{'s' if len(names) > 1 else ''} {say_names(names)}"


def _cut(text: str) -> str:
    return text if len(text) <= MISSING_CHARS_MAX else text[: MISSING_CHARS_MAX - 1] + "…"


@says_one_line
def member_failed(name: str, ping: Ping) -> str:
    """A member of a fleet reported a failure."""
    text = f"member {name} failed" if name else "a member failed"
    if ping.exit_code:
        text += f" with exit code {say_exit_code(ping.exit_code)}"
    return text + (f": {tail(ping.message)}" if ping.message else "")


@says_one_line
def silent_members(fleet: Fleet, members: Members) -> str:
    """Too few members of a fleet are alive."""
    if not fleet.members:
        return "the fleet has no members left"
    names = list(islice(fleet.silent, NAMES_SHOWN_MAX))
    text = f"{fleet.alive} of {plural(len(fleet.members), 'member')} alive, {fleet.required(members)} required"
    text += f" ({members.min_alive})" if isinstance(members.min_alive, str) else ""
    return f"{text}; silent: {say_names(names, len(fleet.silent))}" if names else text


def worst_loss(fleet: Fleet, members: Members, definition: Definition, at: Micros) -> str:
    """How many of a fleet were missing at its worst moment, and who: for the record, once it is over."""
    missing, expected = fleet.missing(members)
    were = "was" if missing == 1 else "were"
    text = f"{missing} of {expected} {were} missing at the worst, at {say_time(at, definition)}"
    names = list(islice(fleet.silent, NAMES_SHOWN_MAX))
    return text + (f": {say_names(names, len(fleet.silent))}" if names else "")


@says_one_line
def closed_by_hand(verdict: Verdict, by: str, text: str | None) -> str:
    """A person has closed a run."""
    return f"closed as {verdict} by {by}" + (f": {text}" if text else "")


@says_one_line
def too_early(definition: Definition, run: Run, length: Micros) -> str:
    """A run succeeded before its minimum runtime."""
    assert definition.min_runtime is not None
    text = (
        f"sent success {say_duration(length)} after its start, before {say_duration(definition.min_runtime)} had passed"
    )
    return (f"run {run.run} " if run.run is not None else "") + text


def too_often(definition: Definition, at: Micros) -> str:
    """More pings than allowed."""
    assert definition.at_most is not None
    most = definition.at_most
    period = f"{say_duration(most.per)} before {say_time(at, definition)}"
    return f"more than {plural(most.count, 'run or heartbeat', 'runs or heartbeats')} within the {period}"


@says_one_line
def overlapping(definition: Definition, run: Run, other: Run, at: Micros) -> str:
    """A run began while another was open."""
    new = f"run {run.run}" if run.run is not None else "another run"
    old = f"run {other.run}" if other.run is not None else "the run before it"
    since = say_time(other.started_at or other.last_at, definition, at)
    return f"{new} started {say_time(at, definition)} while {old}, started {since}, was still open"


def for_another_date(run: str | None, business_date: str) -> str:
    """A run came, but names a date for which nothing is due: the dates of the schedule may be shifted."""
    who = f"run {run}" if run is not None else "a run"
    return f"; {who} came for {business_date}, which is not due (see business_date_offset)"


@says_one_line
def recovered_by(run: str | None, business_date: str | None) -> str:
    """The run or heartbeat that ended a failure, and the business date that it is for."""
    text = f"run {run}" if run is not None else "a ping"
    return text if business_date is None or business_date in text else f"{text} for {business_date}"


@says_one_line
def started_twice(definition: Definition, run: Run, first: bytes, second: bytes, at: Micros) -> str:
    """A run was started from two addresses."""
    name = f"run {run.run}" if run.run is not None else "the run"
    since = say_time(run.started_at or run.last_at, definition, at)
    return (
        f"{name} was started twice: at {since} from {ip_address(first)}, and at {say_time(at, definition)} from "
        f"{ip_address(second)}"
    )


@says_one_line
def held_back(definition: Definition, holds: Sequence[HoldDetail[Micros]]) -> str:
    """How long the alert was held back, and by what. Every hold has its end."""
    ends = [each["ends_at"] or each["started_at"] for each in holds]
    text = say_duration(max(ends) - min(each["started_at"] for each in holds))
    for each, end in zip(holds, ends, strict=True):
        text += f", by {say_hold(each['kind'], each['by'])} until {say_time(end, definition)}"
    return text


def say_hold(kind: HoldKind, by: str | None) -> str:
    """Something that holds an alert back, with its name if it has one."""
    what = _HOLDS.get(kind, kind)
    return what if by is None else f"{what} {by}"


def usual(median: Micros, p95: Micros, count: int, elapsed: Micros | None = None) -> str:
    """How long runs usually take. `elapsed`: the duration of this run so far."""
    text = f"usually {say_duration(median)}, 95 % within {say_duration(p95)} ({plural(count, 'run')})"
    return text if elapsed is None else f"{say_duration(elapsed)}; {text}"


def finished_after_all(definition: Definition, run: Run) -> str:
    """A hung run has ended: late if it had missed a deadline, else after a pause."""
    took = say_duration(run.duration) if run.duration is not None else ""
    if run.hung_by in TASK_LIMITS:
        return "finished" + (f" in {took}" if took else "") + ", after a task was silent or overdue"
    if run.hung_by not in PAUSES:
        return "finished late" + (f", after {took}" if took else "")
    what, length = ("silence", definition.quiet_for) if run.hung_by == "quiet" else ("stall", definition.stall_for)
    text = "finished" + (f" in {took}" if took else "") + f", after a {what}"
    return text + (f" of more than {say_duration(length)}" if length is not None else "")


@says_one_line
def expected(definition: Definition) -> str:
    """The expectation of the monitor in one sentence."""
    parts: list[str] = []
    if definition.every is not None:
        parts.append(f"a ping every {say_duration(definition.every)}")
    elif definition.cron is not None:
        parts.append(f"a ping at {definition.cron} ({definition.timezone})")
    elif definition.oncalendar is not None:
        expressions = " and ".join(definition.oncalendar.splitlines())
        parts.append(f"a ping at {expressions} ({definition.timezone})")
    elif definition.after is not None:
        parts.append(f"a ping within {say_duration(definition.after.within)} of {definition.after.monitor}")
    elif definition.members is not None:
        parts.append(f"a ping of every member every {say_duration(definition.members.every)}")
    grace = definition.grace if definition.members is None else definition.members.grace
    if parts and grace:
        parts.append(f"with a grace period of {say_duration(grace)}")
    if definition.members is not None and definition.members.min_alive is not None:
        parts.append(f"at least {definition.members.min_alive} alive")
    return ", ".join([*parts, *_expected_of_runs(definition)])


def warnings(definition: Definition, has_pinged: bool, open_runs: int) -> list[str]:
    """Problems that this monitor cannot detect although its owner may expect it to."""
    if not definition.expects(has_pinged):
        return [EXPECTS_NOTHING]
    found = [NO_RUN_LIMIT] if open_runs and definition.runtime_default is not None else []
    return found + long_grace(definition)


def long_grace(definition: Definition) -> list[str]:
    """A warning if the grace period is much longer than the time between two pings."""
    members = definition.members
    period = period_of(definition) if members is None else members.every
    grace = definition.grace if members is None else members.grace
    if period is None or grace <= max(LONG_GRACE_PERIODS * period, LONG_GRACE_MIN):
        return []
    field = "grace" if members is None else "members.grace"
    return [
        f"{field} is {say_duration(grace)}, but a ping is due about every {say_duration(period)}: "
        f"{plural(grace // period, 'ping')} can be missed before there is an alert."
    ]


def _expected_of_runs(definition: Definition) -> Iterator[str]:
    for length, text in (
        (definition.max_runtime, "runs of at most"),
        (definition.min_runtime, "runs of at least"),
        (definition.quiet_for, "a ping at least every"),
        (definition.stall_for, "progress at least every"),
    ):
        if length is not None:
            yield f"{text} {say_duration(length)}"
    if definition.at_most is not None:
        most = plural(definition.at_most.count, "run or heartbeat", "runs or heartbeats")
        yield f"at most {most} in {say_duration(definition.at_most.per)}"
    if definition.overlap == "alert":
        yield "no overlapping runs"
    if definition.tasks is not None:
        yield _expected_tasks(definition.tasks)
    for stage in definition.stages[:STAGES_SAID_MAX]:
        words = [say_duration(stage.within)] if stage.within is not None else []
        words += [_expected_tasks(stage.tasks)] if stage.tasks is not None else []
        words += ["optional"] if stage.optional else []
        yield f"stage {stage.name}" + (f" ({', '.join(words)})" if words else "")
    if (more := len(definition.stages) - STAGES_SAID_MAX) > 0:
        yield plural(more, "more stage")


def _expected_tasks(tasks: Tasks) -> str:
    text = plural(tasks.expected_count, "task") if tasks.expected_count is not None else "all tasks"
    text += f" within {say_duration(tasks.within)}" if tasks.within is not None else ""
    text += f", each within {say_duration(tasks.each_within)}" if tasks.each_within is not None else ""
    text += f", a ping of each at least every {say_duration(tasks.quiet_for)}" if tasks.quiet_for is not None else ""
    return text + (f" of which {tasks.tolerate} may fail" if tasks.tolerate else "")


def outage_note(definition: Definition, outages: OutageIntervals, start: Micros, end: Micros) -> str:
    """A note about the longest outage of Offbeat between two instants; empty if there was none."""
    if (interval := outages.longest(start, end)) is None:
        return ""
    low, high = interval
    return f" (Offbeat could not receive pings for {say_duration(high - low)} from {say_time(low, definition, end)})"


def _of_run(run: str | None) -> str:
    return f" (run {run})" if run else ""


def _stages(definition: Definition, run: Run, but: str) -> str:
    """The other stages in short: how long each took, or its status."""
    facts: list[str] = []
    for stage in definition.stages:
        if stage.name == but:
            continue
        seen = run.stages.get(stage.name)
        if seen is None:
            if not stage.optional:
                facts.append(f"{stage.name} {StageStatus.WAITING}")
        elif seen.status == StageStatus.DONE and seen.started_at is not None and seen.finished_at is not None:
            facts.append(f"{stage.name} took {say_duration(seen.finished_at - seen.started_at)}")
        else:
            facts.append(f"{stage.name} {seen.status}")
    return "; " + ", ".join(facts) if facts else ""


def _of_stage(stage: str) -> str:
    return f", in stage {stage}" if stage else ""


def _where(run: Run, but_count: bool = False) -> str:
    """The last progress that an overdue run reported."""
    facts = [f"stage {name} is running" for name, seen in run.stages.items() if seen.status == StageStatus.RUNNING]
    if run.count is not None and not but_count:
        total = run.count.total
        facts.append(f"at {run.count.done}" + (f" of {total}" if total is not None else ""))
    return "; " + ", ".join(facts) if facts else ""
