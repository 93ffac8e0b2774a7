"""The ideal outcome: one engine that reads the final log once, from the start; and the differences to it."""

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import orjson

from offbeat_server.common.instants import Micros
from offbeat_server.db.scheduler_store.scheduler_rows import ChangeSeen
from offbeat_server.engine.decisions import Alert, IncidentChanged, RunChanged
from offbeat_server.engine.engine import Engine
from offbeat_server.scheduler.config_changes import _apply
from tests.simulation.world.people import STEADY
from tests.simulation.world.world import World

Key = tuple[int, ...]  # the monitor first


def verdict(world: World) -> list[str]:
    """Every invariant that does not hold."""
    return list(
        dict.fromkeys(
            [*world.wrong, *_of_log(world), *_of_schedulers(world), *_of_engine(world), *world.receivers.verdict()]
        )
    )


def _of_log(world: World) -> Iterator[str]:
    tokens: dict[str, int] = {}
    for entry in world.tables.pings.values():
        token = entry.ping.message or ""
        tokens[token] = tokens.get(token, 0) + 1
    yield from (f"ping {token} is in the log {count} times" for token, count in tokens.items() if count > 1)
    yield from (
        f"false alarm: {vars(incident)}"
        for (monitor_id, _), incident in world.tables.incidents.items()
        if monitor_id == STEADY
    )
    yield from (f"ping {token} was acknowledged and is lost" for token in world.acked if token not in tokens)


def _of_schedulers(world: World) -> Iterator[str]:
    for node in [*world.nodes.values(), *world.graveyard]:
        if node.scheduler.mismatches:
            yield f"{node.process.name}: SQL and engine held different incidents"
        if node.scheduler.decision_writer.dropped:
            yield f"{node.process.name}: a decision could not be stored"
        if node.writer.rows_rejected:
            yield f"{node.process.name}: a ping could not be stored"


def _of_engine(world: World) -> Iterator[str]:
    tables = world.tables
    if tables.checkpoint is None:
        yield "there is no checkpoint"
        return
    yield from (
        f"change {change.rev} of monitor {change.about} never took effect"
        for changes in world.effective.unsettled.values()
        for change in changes
        if change.kind not in ("resolve", "close") and change.about in tables.monitors
    )
    wrong = _compare(world, _ideal(world, tables.checkpoint.at, foreseen=()))
    for known in range(1, len(tables.outages) + 1):
        # An outage was known beforehand to a scheduler that evaluated a monitor again after it, and not to the one
        # before: as much of it as there was by then.
        if wrong:
            other = _compare(world, _ideal(world, tables.checkpoint.at, foreseen=tables.outages[:known]))
            wrong = {monitor_id: texts for monitor_id, texts in wrong.items() if monitor_id in other}
    for texts in wrong.values():
        yield from texts


def _compare(world: World, engine: Engine) -> dict[int, list[str]]:
    """The differences, by monitor."""
    tables = world.tables
    runs: dict[Key, Any] = {}
    incidents: dict[Key, Any] = {}
    alerts: dict[Key, Any] = {}
    for d in engine.drain(1 << 30):
        for effect in d.effects:
            if isinstance(effect, RunChanged):
                runs[d.monitor_id, effect.number] = effect
            elif isinstance(effect, IncidentChanged):
                incidents[d.monitor_id, effect.number] = effect
            elif isinstance(effect, Alert):
                alerts[d.monitor_id, effect.incident, effect.ordinal] = effect
    wrong: dict[int, list[str]] = {}
    for monitor_id, text in (
        *_differences("incident", tables.incidents, incidents),
        *_differences("run", tables.runs, runs),
        *_differences("alert", tables.alerts, alerts),
        *_of_states(world, engine),
    ):
        wrong.setdefault(monitor_id, []).append(text)
    return wrong


def _of_states(world: World, engine: Engine) -> Iterator[tuple[int, str]]:
    stored = world.tables.states
    for monitor_id in sorted(stored.keys() | engine.monitors.keys()):
        if monitor_id not in stored:
            yield monitor_id, f"monitor {monitor_id} has no state"
        elif monitor_id not in engine.monitors:
            yield monitor_id, f"monitor {monitor_id} is gone and has a state"
        else:
            m, s = engine.monitors[monitor_id], stored[monitor_id]
            actual = orjson.loads(s.text) | {"status": s.status, "since": s.since}
            wanted = orjson.loads(orjson.dumps(m.dump())) | {"status": m.status, "since": m.since}
            for each in (actual, wanted):  # only a scheduler knows how old the rows of its members may be
                each.get("fleet", {}).pop("w", None)
            # A value that the checkpoint has for all, a state need not have for itself.
            actual["members"] = world.tables.members.get(monitor_id, {})
            wanted["members"] = (
                {} if m.fleet is None else {n: (each.at, m.fleet.silent.get(n)) for n, each in m.fleet.members.items()}
            )
            if (
                actual.get("incident")
                and wanted.get("incident")
                and _was_notified(actual["incident"], wanted["incident"])
            ):
                actual["incident"]["w"] = None
            for name in sorted((actual.keys() | wanted.keys()) - {"rev"}):
                if _sorted(actual.get(name)) != _sorted(wanted.get(name)):
                    text = f"{name} is {actual.get(name)} and should be {wanted.get(name)}"
                    yield monitor_id, f"monitor {monitor_id}: {text}"


def _sorted(value: Any) -> Any:
    """Names of tasks come in another order from a state, and only people see it."""
    if isinstance(value, dict):
        return {key: _sorted(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted(value) if all(isinstance(each, str) for each in value) else [_sorted(each) for each in value]
    return value


def _was_notified(actual: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether every planned alert is one that an evaluation has found to be sent already, which is not written."""
    return bool(actual["a"] and actual["w"] is not None and wanted["w"] is None)


# Columns of a run that say more about it; a revision leaves some of them as they were.
_OF_PEOPLE = ("started_at", "duration", "reason", "exit_code", "detail", "last_ping_at", "attempt")


def _differences(
    what: str, stored: Mapping[Any, SimpleNamespace], wanted: Mapping[Any, Any]
) -> Iterator[tuple[int, str]]:
    for key in sorted(stored.keys() | wanted.keys()):
        if key not in stored:
            yield key[0], f"{what} {key} is missing: {wanted[key]}"
        elif key not in wanted:
            yield key[0], f"{what} {key} should not be: {vars(stored[key])}"
        else:
            for name, value in vars(stored[key]).items():
                if name in _OF_PEOPLE:
                    continue
                should_be = getattr(wanted[key], name)
                if name == "ended":  # JSON
                    should_be = orjson.loads(orjson.dumps(should_be))
                if value != should_be:
                    yield key[0], f"{what} {key}: {name} is {value} and should be {should_be}"


def _ideal(world: World, end: Micros, foreseen: Sequence[SimpleNamespace]) -> Engine:
    engine = Engine()
    engine.loaded(0)
    for outage in foreseen:
        engine.add_outage(outage.started, outage.ended)
    entries = sorted(world.tables.pings.values())
    index = 0

    def apply_through(through: Micros) -> None:
        nonlocal index
        high = index
        while high < len(entries) and entries[high].at <= through:
            high += 1
        part = entries[index:high]
        done = 0
        while done < len(part):
            done = engine.apply(part, done, 1 << 30)
            if done < len(part):
                engine.ignore(part[done].monitor_id)
        index = high
        engine.advance(through, 1 << 30)

    for at, _, act in sorted(world.effective.inputs, key=lambda each: each[:2]):
        if at > end:
            continue
        apply_through(at)
        if hasattr(act, "kind"):
            c = act
            _apply(
                engine,
                ChangeSeen(c.rev, c.kind, c.project_id, c.about, c.subject, c.before, c.after),
                at,
            )
        else:
            engine.add_outage(act.started, act.ended)
    apply_through(end)
    return engine
