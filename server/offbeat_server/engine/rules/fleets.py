"""Fleets: what a ping of a member does, what its silence does, and how the fleet is judged as a whole.

One incident follows the fleet as members go and come. It can only begin when somebody falls silent or leaves; whatever
else happens can only change or end it, so that one that was resolved by hand does not begin again by itself.
"""

from offbeat_server.common.instants import Micros
from offbeat_server.engine.engine_state import Desk
from offbeat_server.engine.model.definition import Members
from offbeat_server.engine.model.fleet import Fleet
from offbeat_server.engine.model.monitor import MEMBERS, Cause, Monitor
from offbeat_server.engine.model.ping import Entry, Ping
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.rules.incidents import blame, clear
from offbeat_server.engine.rules.schedule_state import end_absence, heard


def hear_member(desk: Desk, m: Monitor, ping: Ping) -> None:
    """A ping of a fleet. Its member is named by the task or the run; every signal but `leave` says that it lives."""
    members = m.definition.members
    assert members is not None
    if m.fleet is None:
        m.fleet = Fleet()
    fleet = m.fleet
    name = _name(ping)
    _forget_peak(m, fleet, members, desk.now)
    if ping.signal == "leave":
        changed = fleet.leave(name, desk.now)
        clear(desk, m, lambda key: key == ("failed", 0, name))
        if changed:
            desk.open_for(m)
            judge_fleet(desk, m, worse=True)
        return
    if not m.heard_at or m.excused:
        heard(desk, m)
    m.heard_at = desk.now
    changed = fleet.hear(name, desk.now, members.every + members.grace)
    if ping.signal == "fail":
        reason, said = reasons.member_failed(name, ping), {"last_message": ping.message}
        blame(desk, m, Cause("failed", desk.now, reason, run=name or None, evidence=said))
    if m.incident is not None:
        if ping.signal in ("start", "success", "skip"):
            clear(desk, m, lambda key: key == ("failed", 0, name))
        end_absence(desk, m, None)
    if changed:
        judge_fleet(desk, m, worse=False)


def hear_again(fleet: Fleet, entry: Entry) -> None:
    """A ping of before the stored state, after a start: the row of its member may be older."""
    if entry.ping.signal != "leave":
        fleet.hear_again(_name(entry.ping), entry.at)


def judge_members(desk: Desk, m: Monitor, when: Micros) -> None:
    """Members whose time has come: they fall silent, or are forgotten."""
    fleet, members = m.fleet, m.definition.members
    assert fleet is not None
    if members is None:
        return
    due: list[tuple[Micros, str]] = []
    for name in fleet.take_until(when):
        at = fleet.members[name].at
        if name in fleet.silent:
            deadline = at + members.forget_after
        else:
            deadline = max(desk.moved(m, at, at + members.every + members.grace), fleet.not_before)
        if deadline > when:
            fleet.arm(name, deadline)
        else:
            due.append((deadline, name))
    fallen: dict[str, Micros] = {}
    forgotten = False
    for deadline, name in sorted(due):
        if name not in fleet.silent:
            _forget_peak(m, fleet, members, desk.now)
            fallen[name] = fleet.members[name].at + members.forget_after
            fleet.fall_silent(name, deadline, desk.now)
        elif not _is_short(m):  # while the incident is open nobody is forgotten; its end sees to it
            _forget(desk, m, fleet, name)
            forgotten = True
    if fallen or forgotten:
        desk.open_for(m)
        judge_fleet(desk, m, worse=bool(fallen) or not fleet.members)
    for name, when_forgotten in fallen.items():  # judged first: deaf time may have outlasted even `forget_after`
        if name in fleet.members:
            fleet.arm(name, max(when_forgotten, when))


def judge_fleet(desk: Desk, m: Monitor, worse: bool) -> None:
    """Compare who is alive with who must be, after something changed. `worse`: an incident may begin by it."""
    fleet, members = m.fleet, m.definition.members
    assert fleet is not None and members is not None
    is_open = _is_short(m)
    if fleet.short(members):
        if is_open or worse:
            blame(desk, m, _shortage(desk, m, fleet, members), counts=not is_open)
    elif is_open:
        clear(desk, m, lambda key: key == MEMBERS)
        forget_silent(desk, m)


def _shortage(desk: Desk, m: Monitor, fleet: Fleet, members: Members) -> Cause:
    """That too few are alive; its worst moment stays on the record while members come back."""
    reason = reasons.silent_members(fleet, members)
    cause = Cause("members", desk.now, reason, lacking=fleet.lacking(members))
    missing, _ = fleet.missing(members)
    known = m.incident.causes.get(MEMBERS) if m.incident is not None else None
    if known is not None and known.worst_missing > missing:
        cause.worst, cause.worst_missing = known.worst, known.worst_missing
        cause.reason += f"; {known.worst.partition(', at ')[0]}"
    else:
        cause.worst, cause.worst_missing = reasons.worst_loss(fleet, members, m.definition, desk.now), missing
    return cause


def forget_silent(desk: Desk, m: Monitor) -> None:
    """The incident in which they were silent is over: those whose time has passed meanwhile are forgotten."""
    fleet, members = m.fleet, m.definition.members
    if fleet is None or members is None:
        return
    for name in sorted(fleet.silent):
        if fleet.members[name].at + members.forget_after <= desk.now:
            _forget(desk, m, fleet, name)
            desk.open_for(m)


def _name(ping: Ping) -> str:
    return ping.task or ping.run or ""


def _forget(desk: Desk, m: Monitor, fleet: Fleet, name: str) -> None:
    fleet.forget(name)
    clear(desk, m, lambda key: key == ("failed", 0, name))


def _is_short(m: Monitor) -> bool:
    return m.incident is not None and MEMBERS in m.incident.causes


def _forget_peak(m: Monitor, fleet: Fleet, members: Members, at: Micros) -> None:
    """Before something changes: a peak of long ago is no measure, but never while too few are alive by it."""
    if not _is_short(m):
        fleet.lower_peak(at, members.forget_after)
