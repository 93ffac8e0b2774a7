"""What a ping does to its monitor.

A ping is a sign of life for the schedule, a step of a run, or both. The table of what satisfies what is in the README;
`hear` follows it from top to bottom.
"""

from server.engine import sentences
from server.engine.desk import Desk
from server.engine.effects import Resumed
from server.engine.expectation import SATISFYING, due_after
from server.engine.fleet import Fleet
from server.engine.incidents import blame, clear
from server.engine.ping import SECOND, Entry, Micros, Ping
from server.engine.run import RUNS_OPEN_MAX, Run, Runs
from server.engine.state import Cause, CauseKey, Monitor

REPEAT_MAX: Micros = 10 * SECOND  # the same signal from the same address within this is a retry
_RESUMING_DIALECTS = ("healthchecks", "snitch")  # their services end a pause with the next ping
_RESTARTING_DIALECTS = ("sentry",)  # a further start of an open run asks for another `max_runtime`


def hear(desk: Desk, m: Monitor, entry: Entry) -> None:
    """Apply one ping, after every deadline before it was judged."""
    ping = entry.ping
    if m.paused and not _resumes(desk, m, ping):
        return
    if m.definition.members is not None:
        _hear_member(desk, m, ping)
        return
    repeat = _is_repeat(m, entry)
    if ping.stage is not None or ping.task is not None:
        _hear_piece(desk, m, ping)
    elif ping.signal == "start":
        _hear_start(desk, m, ping, repeat)
    elif ping.signal in ("success", "fail", "skip"):
        _hear_finish(desk, m, ping, repeat)
    elif ping.signal in ("log", "progress"):
        _hear_sign(desk, m, ping)


def satisfy(desk: Desk, m: Monitor, ping: Ping, early: bool = True) -> None:
    """The schedule is served: what was due is no longer, the next one is expected."""
    at = desk.now
    first = not m.heard_at
    m.heard_at = at
    m.due = due_after(m.definition, m.due, at, early)
    if m.awaited:
        key = ping.run if ping.run in m.awaited else next(iter(m.awaited))
        assert key is not None
        del m.awaited[key]
    if m.excused or first:
        m.excused = 0
        desk.restate(m)


def good(desk: Desk, m: Monitor, number: int) -> None:
    """A success; `number` is that of its run, 0 for a plain heartbeat. Older troubles close after `recover_after`."""
    m.streak = 0
    m.goods += 1
    enough = m.goods >= m.definition.recover_after
    clear(desk, m, lambda key: (not number or key[1] < number) and enough and key[0] != "members")


def follow(desk: Desk, m: Monitor, signal: str, run: str | None) -> None:
    """Tell those that come `after` this monitor that it was heard."""
    for listener_id in sorted(desk.listeners.get((m.project_id, m.slug), ())):
        listener = desk.monitors.get(listener_id)
        if listener is None or listener.paused:
            continue
        after = listener.definition.after
        if after is None or after.signal != signal:
            continue
        if listener.awaited is None:
            listener.awaited = {}
        if len(listener.awaited) < RUNS_OPEN_MAX:
            listener.awaited.setdefault(run or "", desk.now + after.within)
        desk.open_for(listener)
        desk.arm(listener)


def close_run(desk: Desk, m: Monitor, run: Run, verdict: str, reason: str | None, counts: bool = True) -> None:
    """An open run ends. `reason` is for people; a failed one is blamed by the caller."""
    assert m.runs is not None
    late = verdict == "succeeded" and bool(run.broken)
    run.finished_at, run.verdict = desk.now, verdict
    run.reason = reason or (sentences.finished_late(run) if late else None)
    m.runs.remove(run, verdict)
    desk.record_run(m, run)


# -------------------------------------------------------------------------------------------- the whole run


def _hear_start(desk: Desk, m: Monitor, ping: Ping, repeat: bool) -> None:
    runs = _runs(m)
    run = runs.find(ping.run)
    if run is not None and (ping.run is not None or repeat):
        if run.implicit:  # its stages were heard before its start
            run.implicit = False
            desk.record_run(m, run)
        elif ping.dialect in _RESTARTING_DIALECTS:
            run.restarted_at = desk.now
        run.hear(desk.now, ping)
        desk.arm_run(m, run)
        return
    if ping.run is not None and ping.run in runs.closed:
        return  # a start that comes after its finish
    if run is not None:
        close_run(desk, m, run, "superseded", "another run started before this one finished")
        if m.definition.overlap == "allow":
            clear(desk, m, lambda key: key[1] == run.number)
    other = run or next(iter(runs.open.values()), None)
    opened = _open_run(desk, m, ping)
    satisfy(desk, m, ping)
    if not _too_often(desk, m) and m.definition.recover_after == 1:
        clear(desk, m, _is_absence)
    if other is not None and m.definition.overlap == "alert":
        reason = sentences.overlapping(m.definition, other, desk.now)
        blame(desk, m, Cause("overlap", desk.now, reason, opened.number, opened.run))
    follow(desk, m, "start", ping.run)


def _hear_finish(desk: Desk, m: Monitor, ping: Ping, repeat: bool) -> None:
    runs = m.runs
    run = runs.find(ping.run) if runs is not None else None
    if run is not None:
        run.hear(desk.now, ping)
        finish(desk, m, run, ping)
        return
    if ping.run is None:
        if repeat:
            m.heard_at = desk.now
            m.due = due_after(m.definition, m.due, desk.now)
            return
        _plain(desk, m, ping)
        return
    runs = _runs(m)
    if (known := runs.closed.get(ping.run)) is not None:
        if ping.signal == "fail" and known[1] == "succeeded":
            _revise(desk, m, ping, known[0])
        return
    started_at = desk.now - round(ping.duration * SECOND) if ping.duration else 0
    run = runs.add(ping.run, started_at, desk.now)
    run.implicit = True
    run.hear(desk.now, ping)
    finish(desk, m, run, ping)


def _plain(desk: Desk, m: Monitor, ping: Ping) -> None:
    """A heartbeat that belongs to no run."""
    if ping.signal == "fail":
        blame(desk, m, Cause("failed", desk.now, sentences.failed(ping, None)))
        satisfy(desk, m, ping)
        clear(desk, m, _is_absence)
    else:
        satisfy(desk, m, ping)
        if not _too_often(desk, m):
            good(desk, m, 0)
    follow(desk, m, "success" if ping.signal == "skip" else ping.signal, None)


def finish(desk: Desk, m: Monitor, run: Run, ping: Ping) -> None:
    """An open run says that it ended, or all of its stages or tasks did."""
    definition = m.definition
    number = run.number
    run.exit_code = ping.exit_code
    run.finished_at = desk.now
    if not run.started_at and ping.duration:
        run.started_at = desk.now - round(ping.duration * SECOND)
    cause: Cause | None = None
    if ping.signal == "fail":
        cause = Cause("failed", desk.now, sentences.failed(ping, run), number, run.run, ping.stage)
    elif run.tasks_failed(definition):
        cause = Cause("tasks", desk.now, sentences.tasks_failed(definition, run), number, run.run)
    elif definition.min_runtime is not None and run.duration is not None and run.duration < definition.min_runtime:
        cause = Cause("too_early", desk.now, sentences.too_early(definition, run.duration), number, run.run)
    verdict = "succeeded" if cause is None else "failed"
    reason = cause.reason if cause is not None else ("skipped" if ping.signal == "skip" else None)
    close_run(desk, m, run, verdict, reason)
    if cause is not None:
        blame(desk, m, cause)
        satisfy(desk, m, ping, early=run.implicit)
        clear(desk, m, lambda key: _is_absence(key) or (key[1] == number and key != cause.key))
    else:
        satisfy(desk, m, ping, early=run.implicit)
        clear(desk, m, lambda key: key[1] == number and key[0] != "overlap")
        if not run.implicit or not _too_often(desk, m):
            good(desk, m, number)
            clear(desk, m, lambda key: m.definition.recover_after == 1 and (_is_absence(key) or not key[1]))
    follow(desk, m, "success" if verdict == "succeeded" else "fail", run.run)


def _revise(desk: Desk, m: Monitor, ping: Ping, number: int) -> None:
    """A run that had succeeded (by its last stage or task, say) turns out to have failed."""
    assert m.runs is not None and ping.run is not None
    run = Run(number, ping.run, 0, desk.now)
    run.hear(desk.now, ping)
    run.finished_at, run.verdict, run.exit_code = desk.now, "failed", ping.exit_code
    run.reason = sentences.failed(ping, run)
    m.runs.remember(ping.run, number, "failed")
    desk.record_run(m, run)
    blame(desk, m, Cause("failed", desk.now, run.reason, number, ping.run))


# -------------------------------------------------------------------------------------------- parts of a run


def _hear_piece(desk: Desk, m: Monitor, ping: Ping) -> None:
    """A ping of a stage or a task."""
    runs = _runs(m)
    run = runs.find(ping.run)
    if run is None:
        if ping.signal == "log" or (ping.run is not None and ping.run in runs.closed):
            return  # of a closed run: in the log, and nothing more
        run = _open_run(desk, m, ping, implicit=True)
    else:
        run.hear(desk.now, ping)
        if ping.task is None or ping.total is not None or run.broken or not run.armed:
            desk.arm_run(m, run)
    if ping.signal in SATISFYING:
        satisfy(desk, m, ping, early=run.implicit)
        clear(desk, m, _is_absence)
    _judge_piece(desk, m, run, ping)


def _judge_piece(desk: Desk, m: Monitor, run: Run, ping: Ping) -> None:
    definition, number = m.definition, run.number
    if ping.task is not None:
        if run.tasks_failed(definition):
            blame_once(desk, m, run, Cause("tasks", desk.now, sentences.tasks_failed(definition, run), number, run.run))
        elif ping.signal == "success":
            run.broken.discard(("tasks failed", ""))
            clear(desk, m, lambda key: key == ("tasks", number, "") and ("tasks", "") not in run.broken)
    elif ping.signal == "fail":
        blame(desk, m, Cause("stage", desk.now, sentences.failed(ping, None), number, run.run, ping.stage))
    elif ping.signal in ("success", "skip"):
        clear(desk, m, lambda key: key == ("stage", number, ping.stage or ""))
    if ping.signal not in ("success", "skip", "fail"):
        return
    if definition.stages:
        if ping.task is not None and ping.stage is not None and run.tasks_complete(definition):
            run.hear(desk.now, Ping("success", ping.run, ping.stage))
            desk.arm_run(m, run)
        complete = run.stages_complete(definition)
    else:
        complete = ping.task is not None and run.tasks_complete(definition)
    if complete:
        finish(desk, m, run, Ping("success", ping.run))


def blame_once(desk: Desk, m: Monitor, run: Run, cause: Cause) -> None:
    """Too many failed tasks: counted once for the run, while the sentence follows every further one."""
    mark = ("tasks failed", "")
    counts = mark not in run.broken
    run.broken.add(mark)
    if counts or m.incident is not None:
        blame(desk, m, cause, counts)


def _hear_sign(desk: Desk, m: Monitor, ping: Ping) -> None:
    """`log` and `progress`: a sign of life for a run, nothing for the schedule."""
    runs = m.runs
    run = runs.find(ping.run) if runs is not None else None
    if run is not None:
        first_count = run.counted_at == 0
        run.hear(desk.now, ping)
        if run.broken or (first_count and run.counted_at) or not run.armed:
            desk.arm_run(m, run)
    elif ping.signal == "progress" and ping.run is not None and ping.run not in _runs(m).closed:
        run = _open_run(desk, m, ping, implicit=True)
        satisfy(desk, m, ping)


# -------------------------------------------------------------------------------------------- fleets


def _hear_member(desk: Desk, m: Monitor, ping: Ping) -> None:
    members = m.definition.members
    assert members is not None
    if m.fleet is None:
        m.fleet = Fleet()
    name = ping.task or ping.run or ""
    if ping.signal == "leave":
        m.fleet.leave(name)
        clear(desk, m, lambda key: key == ("failed", 0, name))
    else:
        m.fleet.hear(name, desk.now, members.every + members.grace)
        first = not m.heard_at
        m.heard_at = desk.now
        if first:
            desk.restate(m)
        if ping.signal == "fail":
            blame(desk, m, Cause("failed", desk.now, f"{name or 'a member'} failed", run=name or None))
        elif ping.signal in SATISFYING and m.incident is not None:
            clear(desk, m, lambda key: key == ("failed", 0, name))
    judge_fleet(desk, m, desk.now)


def judge_fleet(desk: Desk, m: Monitor, since: Micros) -> None:
    """Compare who is alive with who must be; one incident follows the fleet as members go and come."""
    fleet = m.fleet
    assert fleet is not None
    key: CauseKey = ("members", 0, "")
    required = fleet.required(m.definition)
    short = fleet.alive < required or (not fleet.members and fleet.count_max > 0)
    open_before = m.incident is not None and key in m.incident.causes
    if short:
        blame(desk, m, Cause("members", since, sentences.silent_members(fleet, required)), counts=not open_before)
    elif open_before:
        m.streak = 0
        clear(desk, m, lambda each: each == key)


# -------------------------------------------------------------------------------------------- small questions


def _runs(m: Monitor) -> Runs:
    if m.runs is None:
        m.runs = Runs()
    return m.runs


def _open_run(desk: Desk, m: Monitor, ping: Ping, implicit: bool = False) -> Run:
    runs = _runs(m)
    if len(runs.open) >= RUNS_OPEN_MAX:
        oldest = next(iter(runs.open.values()))
        close_run(desk, m, oldest, "unknown", f"more than {RUNS_OPEN_MAX} runs were open")
        clear(desk, m, lambda key: key[1] == oldest.number)
    run = runs.add(ping.run, desk.now, desk.now)
    run.implicit = implicit
    run.hear(desk.now, ping)
    desk.arm_run(m, run)
    desk.record_run(m, run)
    return run


def _is_absence(key: CauseKey) -> bool:
    return key[0] == "missed"


def _too_often(desk: Desk, m: Monitor) -> bool:
    """Count this ping against `at_most`; blames and answers True when it is one too many."""
    at_most = m.definition.at_most
    if at_most is None:
        return False
    recent = [at for at in m.recent or () if at > desk.now - at_most.per]
    recent.append(desk.now)
    m.recent = recent[-at_most.count - 1 :]
    if len(recent) <= at_most.count:
        clear(desk, m, _is_excess)
        return False
    blame(desk, m, Cause("too_often", desk.now, sentences.too_often(m.definition)))
    return True


def _is_excess(key: CauseKey) -> bool:
    return key[0] == "too_often"


def _is_repeat(m: Monitor, entry: Entry) -> bool:
    """Whether a ping without a run id is the retry of one that counted, its answer lost.

    Ten seconds, but never more than half the interval: a monitor that is due every second pings every second.
    """
    ping = entry.ping
    if ping.run is not None or ping.stage is not None or ping.task is not None:
        return False
    window = REPEAT_MAX if m.definition.every is None else min(REPEAT_MAX, m.definition.every // 2)
    if (
        ping.signal == m.counted_signal
        and entry.source is not None
        and entry.source == m.counted_source
        and entry.at - m.counted_at < window
    ):
        return True
    m.counted_signal, m.counted_source, m.counted_at = ping.signal, entry.source, entry.at
    return False


def _resumes(desk: Desk, m: Monitor, ping: Ping) -> bool:
    """Whether this ping ends the pause, as the service promises whose dialect it speaks."""
    if m.definition.manual_resume or ping.dialect not in _RESUMING_DIALECTS or ping.signal not in SATISFYING:
        return False
    m.paused = False
    m.not_before = desk.now + m.definition.grace
    desk.open_for(m).resumed = Resumed(desk.now)
    desk.restate(m)
    return True
