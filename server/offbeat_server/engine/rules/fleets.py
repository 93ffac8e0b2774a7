"""Rules for fleets: the ping of a member, a silent member, and the evaluation of the whole fleet.

One incident follows the fleet as members go and come. It can only begin when a member becomes silent or leaves; other
events can only change or end it, so that an incident that was resolved by hand does not begin again by itself.
"""

from offbeat_server.common.instants import Micros
from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.definition import Members
from offbeat_server.engine.model.enums import CauseKind
from offbeat_server.engine.model.fleet import Fleet
from offbeat_server.engine.model.monitor import MEMBERS, Cause, Monitor
from offbeat_server.engine.model.ping import Entry, Ping
from offbeat_server.engine.rules import reasons
from offbeat_server.engine.rules.incidents import clear, record_failure
from offbeat_server.engine.rules.schedule_state import apply_heartbeat, end_absence


def apply_member_ping(state: EngineState, m: Monitor, ping: Ping) -> None:
    """A ping of a fleet. Its member is named by the task or the run; every signal but `leave` says that it lives."""
    members = m.definition.members
    assert members is not None
    if m.fleet is None:
        m.fleet = Fleet()
    fleet = m.fleet
    name = _name(ping)
    _forget_peak(m, fleet, members, state.now)
    if ping.signal == "leave":
        changed = fleet.leave(name, state.now)
        _clear_failure(state, m, name)
        if changed:
            state.open_for(m)
            evaluate_fleet(state, m, worse=True)
        return
    if m.last_ping_at is None or m.excused:
        apply_heartbeat(state, m)
    m.last_ping_at = state.now
    changed = fleet.record_ping(name, state.now, members.every + members.grace)
    if ping.signal == "fail":
        cause = Cause(CauseKind.FAILED, state.now, reasons.member_failed(name, ping), run=name or None)
        cause.evidence = {"last_message": ping.message}
        record_failure(state, m, cause)
    if m.incident is not None:
        if ping.signal in ("start", "success", "skip"):
            _clear_failure(state, m, name)
        end_absence(state, m, None)
    if changed:
        evaluate_fleet(state, m, worse=False)


def apply_late_ping(fleet: Fleet, entry: Entry) -> None:
    """A ping of before the stored state, after a start: the row of its member may be older."""
    if entry.ping.signal != "leave":
        fleet.record_late_ping(_name(entry.ping), entry.at)


def evaluate_members(state: EngineState, m: Monitor, when: Micros) -> None:
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
            deadline = state.moved(m, at, at + members.every + members.grace)
            deadline = deadline if fleet.not_before is None else max(deadline, fleet.not_before)
        if deadline > when:
            fleet.queue(name, deadline)
        else:
            due.append((deadline, name))
    fallen: dict[str, Micros] = {}
    forgotten = False
    for deadline, name in sorted(due):
        if name not in fleet.silent:
            _forget_peak(m, fleet, members, state.now)
            fallen[name] = fleet.members[name].at + members.forget_after
            fleet.fall_silent(name, deadline, state.now)
        elif not _is_short(m):  # while the incident is open no member is forgotten; its end does that
            _forget(state, m, fleet, name)
            forgotten = True
    if fallen or forgotten:
        state.open_for(m)
        evaluate_fleet(state, m, worse=bool(fallen) or not fleet.members)
    # Evaluated first: an outage may have been longer than even `forget_after`.
    for name, when_forgotten in fallen.items():
        if name in fleet.members:
            fleet.queue(name, max(when_forgotten, when))


def evaluate_fleet(state: EngineState, m: Monitor, worse: bool) -> None:
    """Compare who is alive with who must be, after something changed. `worse`: an incident may begin by it."""
    fleet, members = m.fleet, m.definition.members
    assert fleet is not None and members is not None
    is_open = _is_short(m)
    if fleet.short(members):
        if is_open or worse:
            record_failure(state, m, _shortage(state, m, fleet, members), counts=not is_open)
    elif is_open:
        clear(state, m, lambda key: key == MEMBERS)
        forget_silent(state, m)


def _shortage(state: EngineState, m: Monitor, fleet: Fleet, members: Members) -> Cause:
    """That too few are alive; its worst moment stays on the record while members come back."""
    reason = reasons.silent_members(fleet, members)
    cause = Cause(CauseKind.MEMBERS, state.now, reason, shortfall=fleet.shortfall(members))
    missing, _ = fleet.missing(members)
    known = m.incident.causes.get(MEMBERS) if m.incident is not None else None
    if known is not None and known.worst_missing > missing:
        cause.worst, cause.worst_missing = known.worst, known.worst_missing
        cause.reason += f"; {known.worst.partition(', at ')[0]}"
    else:
        cause.worst, cause.worst_missing = reasons.worst_loss(fleet, members, m.definition, state.now), missing
    return cause


def forget_silent(state: EngineState, m: Monitor) -> None:
    """The incident in which they were silent is over: forget those whose time has passed since."""
    fleet, members = m.fleet, m.definition.members
    if fleet is None or members is None:
        return
    for name in sorted(fleet.silent):
        if fleet.members[name].at + members.forget_after <= state.now:
            _forget(state, m, fleet, name)
            state.open_for(m)


def _name(ping: Ping) -> str:
    return ping.task or ping.run or ""


def _forget(state: EngineState, m: Monitor, fleet: Fleet, name: str) -> None:
    fleet.forget(name)
    _clear_failure(state, m, name)


def _clear_failure(state: EngineState, m: Monitor, name: str) -> None:
    """A member that failed has pinged well, left or is forgotten."""
    clear(state, m, lambda key: key == (CauseKind.FAILED, 0, name), is_later=True)


def _is_short(m: Monitor) -> bool:
    return m.incident is not None and MEMBERS in m.incident.causes


def _forget_peak(m: Monitor, fleet: Fleet, members: Members, at: Micros) -> None:
    """Before something changes: a peak of long ago is no measure, but never while too few are alive by it."""
    if not _is_short(m):
        fleet.lower_peak(at, members.forget_after)
