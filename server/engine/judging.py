"""What the passing of time does to a monitor: a deadline has come and nothing was heard.

A monitor is looked at when the earliest of its deadlines pops. Most often a ping has moved that deadline meanwhile and
nothing is wrong. Deaf time counts against nobody: where more than half of what was watched was deaf, the occurrence is
excused, twice in a row at most.
"""

from server.engine import sentences
from server.engine.desk import Desk
from server.engine.expectation import next_due, window_start
from server.engine.hearing import close_run, judge_fleet
from server.engine.incidents import announce, blame
from server.engine.ping import Micros
from server.engine.run import Limit, Run
from server.engine.state import Cause, Monitor

EXCUSED_MAX = 2  # occurrences in a row


def judge(desk: Desk, m: Monitor, when: Micros) -> None:
    """Judge everything of this monitor whose time has come at `when`."""
    deadline = desk.schedule_deadline(m)
    if deadline and deadline <= when:
        _judge_schedule(desk, m, deadline)
    if m.awaited:
        _judge_awaited(desk, m, when)
    if m.runs is not None:
        while (run := m.runs.pop_until(when)) is not None:
            _judge_run(desk, m, run, when)
    if m.fleet is not None:
        _judge_members(desk, m, when)
    if m.incident is not None and m.incident.announce_at is not None and m.incident.announce_at <= when:
        announce(desk, m)


def _judge_schedule(desk: Desk, m: Monitor, deadline: Micros) -> None:
    definition = m.definition
    if not m.heard_at:
        start, due, reason = m.created_at, m.created_at, sentences.never_heard(definition, deadline)
    else:
        start, due = window_start(definition, m.due), m.due
        reason = sentences.missed(definition, due, deadline, m.heard_at)
    deaf = 0 if definition.strict else desk.deaf.within(start, deadline)
    if deaf * 2 > deadline - start - deaf and m.excused < EXCUSED_MAX:
        m.excused += 1
        desk.excused += 1
        # An interval begins anew where the deafness ended; a calendar goes on to its next slot.
        m.due = deadline + definition.every if definition.every is not None else next_due(definition, due)
        if not m.heard_at:
            m.not_before = deadline + (definition.first_within or 0)
        desk.restate(m)
        desk.open_for(m)
        return
    m.excused = 0
    desk.missed += 1
    if m.heard_at:
        m.due = next_due(definition, due)
    else:
        m.not_before = deadline + (definition.first_within or 0)
    reason += sentences.deaf_note(definition, desk.deaf, start, deadline) if deaf else ""
    blame(desk, m, Cause("missed", deadline, reason))
    desk.restate(m)


def _judge_awaited(desk: Desk, m: Monitor, when: Micros) -> None:
    """The monitor before was heard; this one should have been by now."""
    assert m.awaited is not None and m.definition.after is not None
    for run, due in list(m.awaited.items()):
        deadline = desk.awaited_deadline(m, due)
        if deadline > when:
            continue
        del m.awaited[run]
        desk.missed += 1
        reason = sentences.awaited(m.definition, deadline, run)
        blame(desk, m, Cause("missed", deadline, reason, run=run or None))


def _judge_run(desk: Desk, m: Monitor, run: Run, when: Micros) -> None:
    """A limit of an open run may be broken; judge those that are, and arm the next."""
    for limit in list(run.limits(m.definition)):
        deadline = desk.limit_deadline(m, limit.base, limit.length)
        if deadline > when:
            continue
        run.broken.add((limit.kind, limit.stage or ""))
        deaf = 0 if m.definition.strict else desk.deaf.within(limit.base, deadline)
        if deaf * 2 > deadline - limit.base:
            note = sentences.deaf_note(m.definition, desk.deaf, limit.base, deadline)
            close_run(desk, m, run, "unknown", f"cannot be judged{note}")
            desk.excused += 1
            return
        _blame_run(desk, m, run, limit, deadline, deaf)
    desk.arm_run(m, run)


def _blame_run(desk: Desk, m: Monitor, run: Run, limit: Limit, deadline: Micros, deaf: Micros) -> None:
    reason = sentences.broken(m.definition, run, limit, deadline)
    if deaf:
        reason += sentences.deaf_note(m.definition, desk.deaf, limit.base, deadline)
    kind = limit.kind if limit.kind in ("stage", "tasks") else "hung"
    first = run.verdict is None
    run.verdict, run.reason = "hung", reason
    desk.record_run(m, run)
    blame(desk, m, Cause(kind, deadline, reason, run.number, run.run, limit.stage), counts=first)


def _judge_members(desk: Desk, m: Monitor, when: Micros) -> None:
    fleet, members = m.fleet, m.definition.members
    assert fleet is not None
    if members is None:
        return
    length = members.every + members.grace
    changed = False
    while (name := fleet.pop_until(when)) is not None:
        deadline = desk.limit_deadline(m, fleet.members[name], length)
        if name in fleet.silent:
            _forget(m, name, when)
        elif deadline > when:
            fleet.arm(deadline, name)
        else:
            fleet.silent[name] = deadline
            fleet.arm(fleet.members[name] + members.forget_after, name)
            changed = True
    if changed:
        desk.open_for(m)
        judge_fleet(desk, m, when)


def _forget(m: Monitor, name: str, when: Micros) -> None:
    """A silent member is forgotten in time, but never while the incident in which it is silent is open."""
    fleet, members = m.fleet, m.definition.members
    assert fleet is not None and members is not None
    if m.incident is not None and ("members", 0, "") in m.incident.causes:
        fleet.arm(when + members.every + members.grace, name)
    else:
        fleet.forget(name, when - members.forget_after)
