"""The record of the holds that delay the alerts of an incident. It is for people and decides nothing."""

from collections.abc import Iterable

from offbeat_server.common.instants import Micros
from offbeat_server.engine.engine_state import EngineState
from offbeat_server.engine.model.enums import HoldKind
from offbeat_server.engine.model.monitor import HOLDS_MAX, Incident, Monitor
from offbeat_server.engine.model.run_detail import HoldDetail

Key = tuple[HoldKind, str | None]


def hold(kind: HoldKind, by: str | None, started_at: Micros, ends_at: Micros | None) -> HoldDetail[Micros]:
    """One of them. `ends_at`: None if it is not known."""
    return {"kind": kind, "by": by, "started_at": started_at, "ends_at": ends_at}


def update_holds(state: EngineState, m: Monitor, incident: Incident) -> None:
    """Note what holds the next alert back, after something has changed; repeated, it changes nothing."""
    now, planned = state.now, incident.announce_at
    if m.at > now:
        return  # a change is applied again that the state knows already
    if incident.suppressed_by is not None:
        up = state.monitors.get(incident.suppressed_by)
        present = _by_key([hold(HoldKind.DEPENDENCY, up.slug if up is not None else None, now, None)])
    elif planned is not None:
        present = _by_key(hold(*each) for each in state.mutes(m, incident))
    else:
        return
    if m.paused:
        present[HoldKind.PAUSE, None] = hold(HoldKind.PAUSE, None, now, None)
    holds, recent = _reported(incident)
    for old in recent:
        start, end = old["started_at"], old["ends_at"]
        if (new := present.pop(_key(old), None)) is not None:
            start, end = min(start, new["started_at"]), new["ends_at"]
        elif (planned is not None and start >= planned) or (
            old["kind"] == HoldKind.PAUSE and end is None
        ):  # a snooze or a window that was there and no longer is
            end = now if end is None else min(end, now)
        else:  # a wait that has its end in the plan
            plan_end = now if planned is None else max(now, planned)
            end = plan_end if end is None else min(end, plan_end)
        if end is None or end > start:
            holds.append(hold(*_key(old), start, end))
    holds += present.values()
    holds.sort(key=lambda each: (each["started_at"], *map(str, _key(each))))
    if holds != incident.holds:
        incident.holds = holds[-HOLDS_MAX:]
        state.record_incident(m, incident)


def extend_pause(incident: Incident, until: Micros) -> None:
    """After a pause, the alert about a missing ping has to wait until then."""
    incident.holds = [
        {**each, "ends_at": until} if each["kind"] == HoldKind.PAUSE and each["ends_at"] is None else each
        for each in incident.holds
    ]


def end_holds(state: EngineState, incident: Incident) -> list[HoldDetail[Micros]]:
    """Nothing holds the alert back any longer, because it is issued now or never. Return what held it back."""
    holds, recent = _reported(incident)
    ended = [
        hold(*_key(each), each["started_at"], min(each["ends_at"] or state.now, state.now))
        for each in recent
        if each["started_at"] < state.now
    ]
    incident.holds = holds + ended
    return ended


def _reported(incident: Incident) -> tuple[list[HoldDetail[Micros]], list[HoldDetail[Micros]]]:
    """Those of alerts that were sent, and those of the next one."""
    since = incident.notified_at or 0
    return (
        [each for each in incident.holds if each["started_at"] < since],
        [each for each in incident.holds if each["started_at"] >= since],
    )


def _key(each: HoldDetail[Micros]) -> Key:
    return each["kind"], each["by"]


def _by_key(holds: Iterable[HoldDetail[Micros]]) -> dict[Key, HoldDetail[Micros]]:
    """One for each key: a window that returns, from its first beginning to its last end."""
    found: dict[Key, HoldDetail[Micros]] = {}
    for each in holds:
        if (known := found.setdefault(_key(each), each)) is not each:
            known["ends_at"] = each["ends_at"]
    return found
