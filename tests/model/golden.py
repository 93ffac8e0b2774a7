"""Read the examples in docs/semantics.md, and run them against the engine and the reference model.

An example is a block of text in the document, with the ids of the rows that it shows. It says what happens and what
must follow; both were written by hand from the tables. The language is described in the document's introduction,
and `read_examples` refuses everything else.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from offbeat_server.common.clock import to_rfc3339
from offbeat_server.common.instants import SECOND, Micros, to_micros
from offbeat_server.engine.decisions import Alert, RunChanged
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.model.enums import Verdict
from offbeat_server.engine.model.monitor import Monitor
from offbeat_server.engine.model.ping import SIGNALS, Ping, PingOptions
from offbeat_server.engine.schedule.due_times import status_at
from offbeat_server.engine.schedule.durations import read_duration
from offbeat_server.engine.schedule.maintenance_windows import read_window
from tests.model import reference
from tests.support.engine import PROJECT, Scene

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "semantics.md"
BEGIN: Micros = to_micros(datetime.fromisoformat("2026-01-05T00:00Z"))  # a Monday

_BLOCK = re.compile(r"^```example\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| ([A-Z]\d+\.\d+) \|", re.MULTILINE)
_ID = re.compile(r"^S\d+\.\d+$")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_DEFINED = re.compile(r"^(?:(\S+) +)?([a-z]\w*): (\{.*\})$")
_RUN = re.compile(r'^run (?:([a-z]\w*) )?(\d+)(?: ([^:]+))?: (\S+) to (\S+?)(?:, (\w+))?(?: "(.+)")?(?: \((.+)\))?$')
_INCIDENT = re.compile(
    r'^incident (?:([a-z]\w*) )?(\d+): (\S+) to ([^\s,]+), ([^",]+?)(?:, suppressed by (\w+))?'
    r'(?:, shown as (\w+))?(?: "(.+)")?$'
)
_ALERT = re.compile(r"^alert (?:([a-z]\w*) )?(\d+)\.(\d+): (opened|worse|resolved) at (\S+)(?: (\{.+\}))?$")
_CAUSE = re.compile(r"^(\w+)(?: of run (\d+))?(?: from (\S+))?$")
_ACTS = ("pause", "resume", "resolve", "delete", "snooze")
_PROJECTS = {"here": PROJECT, "elsewhere": PROJECT + 1}  # all monitors and windows are made here

Value = Any  # of a YAML document


@dataclass
class Step:
    """One line with a time. `kind`: define, ping, outage, window, close, check, or one of the acts of a person."""

    at: Micros
    kind: str
    slug: str
    value: Value
    line: str


@dataclass
class Example:
    """Inputs and their expected outcome; instants are microseconds after the begin."""

    rows: tuple[str, ...]
    title: str
    begin: Micros = BEGIN
    engine_only: str = ""  # why the reference model cannot run it
    steps: list[Step] = field(default_factory=list)
    slugs: list[str] = field(default_factory=list)
    incidents: dict[tuple[str, int], Value] = field(default_factory=dict)
    alerts: dict[tuple[str, int, int], tuple[str, Micros]] = field(default_factory=dict)
    runs: dict[tuple[str, int], Value] | None = None  # None: the example says nothing about runs
    texts: dict[tuple[str, str, int], str] = field(default_factory=dict)  # parts of reasons, and stages of ended runs
    facts: dict[tuple[str, int, int], dict[str, Value]] = field(default_factory=dict)  # some of those of an alert

    def __str__(self) -> str:
        return f"{' '.join(self.rows)} {self.title}"


# ------------------------------------------------------------------------------------------------------------- reading


def rows_of(text: str) -> list[str]:
    """The ids of the rows of all tables, in order."""
    return _ROW.findall(text)


def read_examples(text: str) -> list[Example]:
    """All examples of the document. Raises ValueError with the line that cannot be read."""
    examples: list[Example] = []
    for block in _BLOCK.findall(text):
        for line in (each.strip() for each in block.splitlines()):
            if not line:
                continue
            words = line.split()
            if _ID.match(words[0]):
                rows = tuple(word for word in words if _ID.match(word))
                examples.append(Example(rows, line.partition(rows[-1])[2].strip(" :")))
                continue
            try:
                _read_line(examples[-1], line)
            except (ValueError, LookupError, yaml.YAMLError) as error:
                raise ValueError(f"{examples[-1] if examples else ''}: {line!r}: {error}") from error
    for example in examples:
        _check_order(example)
    return examples


def _next_of(numbers: Iterator[int], found: re.Match[str]) -> str:
    return str(next(numbers))


def _read_line(example: Example, line: str) -> None:
    if line.startswith("incident "):
        line = _expand_causes(line)
    if (ranges := _RANGE.findall(line)) and not line.startswith("incident "):
        for numbers in zip(*(range(int(low), int(high) + 1) for low, high in ranges), strict=True):
            _read_line(example, _RANGE.sub(partial(_next_of, iter(numbers)), line))
    elif line.startswith("begin "):
        example.begin = to_micros(datetime.fromisoformat(line.removeprefix("begin ")))
    elif line.startswith("engine only: "):
        example.engine_only = line.removeprefix("engine only: ")
    elif (found := _DEFINED.match(line)) is not None:
        when, slug, definition = found.groups()
        at = read_duration(when) if when else -1
        if slug not in example.slugs:
            example.slugs.append(slug)
        example.steps.append(Step(at, "define", slug, yaml.safe_load(definition), line))
    elif line in ("no incident", "no alert", "no run"):
        if line == "no run":
            example.runs = {}
    elif line.startswith(("incident ", "alert ", "run ")):
        _read_outcome(example, line)
    else:
        _read_step(example, line)


def _expand_causes(line: str) -> str:
    """`failed of run {1..3}` as three causes."""
    return re.sub(
        r"(\w+ of run )\{(\d+)\.\.(\d+)\}",
        lambda found: " and ".join(f"{found[1]}{number}" for number in range(int(found[2]), int(found[3]) + 1)),
        line,
    )


def _read_outcome(example: Example, line: str) -> None:
    if (found := _INCIDENT.match(line)) is not None:
        slug, number, opened, resolved, causes, by, shown, reason = found.groups()
        begin = _time(opened)
        held = sorted(_read_cause(each, begin) for each in causes.split(" and "))
        example.incidents[slug or example.slugs[0], int(number)] = (begin, _time(resolved), held, by)
        if reason:
            example.texts["incident", slug or example.slugs[0], int(number)] = reason
        if shown:
            example.texts["shown", slug or example.slugs[0], int(number)] = shown
    elif (found := _ALERT.match(line)) is not None:
        slug, number, ordinal, kind, at, facts = found.groups()
        key = (slug or example.slugs[0], int(number), int(ordinal))
        example.alerts[key] = (kind, read_duration(at))
        if facts:
            example.facts[key] = yaml.safe_load(facts)
    elif (found := _RUN.match(line)) is not None:
        slug, number, run_id, started, ended, verdict, reason, stages = found.groups()
        if example.runs is None:
            example.runs = {}
        of_run = (slug or example.slugs[0], int(number))
        example.runs[of_run] = (run_id, _time(started), _time(ended), verdict)
        if reason:
            example.texts["run", *of_run] = reason
        if stages:
            example.texts["stages", *of_run] = stages
    else:
        raise ValueError("not an incident, an alert or a run")


def _read_cause(text: str, begin: Micros | None) -> tuple[str, int, Micros]:
    if (found := _CAUSE.match(text)) is None or found[1] not in reference.RANK:
        raise ValueError(f"not a cause: {text!r}")
    return found[1], int(found[2] or 0), read_duration(found[3]) if found[3] else begin or 0


def _time(text: str) -> Micros | None:
    return None if text in ("open", "?") else read_duration(text)


def _read_step(example: Example, line: str) -> None:
    when, *words = line.split()
    at = read_duration(when)
    slug = example.slugs[0]
    if words[0] in example.slugs:
        slug = words.pop(0)
    kind, rest = words[0], words[1:]
    value: Value = None
    if kind in SIGNALS:
        value, kind = dict(word.split("=", 1) for word in rest), "ping"
        value["signal"] = words[0]
    elif kind == "outage":
        value = read_duration(_after(rest, "to"))
    elif kind == "window":
        value = (int(rest[0]), None)
        if rest[1:] != ["removed"]:
            end, _, more = line.partition(" to ")[2].partition(" ")
            value = (int(rest[0]), (read_duration(_after(rest[1:], "from")), read_duration(end), yaml.safe_load(more)))
    elif kind == "is":
        value, kind = line.partition(" is ")[2].split(", "), "check"
    elif kind == "snooze":
        value = read_duration(_after(rest, "to"))
    elif kind == "close":
        seen_open = rest[3:] == ["seen", "open"]
        if rest[1] != "as" or (rest[3:] and not seen_open):
            raise ValueError("not `close NUMBER as VERDICT`, with or without `seen open`")
        value = (int(rest[0]), Verdict(rest[2]), not seen_open)
    elif kind == "pause" and rest == ["drop"]:
        value = True
    elif kind == "rename":
        value = _after(rest, "to")
        example.slugs[example.slugs.index(slug)] = value
    elif kind == "move":
        value = _PROJECTS[rest[0]]
    elif kind not in _ACTS or rest:
        raise ValueError("not a signal, an act of a person, an outage, a window or `is`")
    example.steps.append(Step(at, kind, slug, value, line))


def _after(words: list[str], word: str) -> str:
    return words[words.index(word) + 1]


def _check_order(example: Example) -> None:
    """Lines stand in the order of time; at one instant outages come first, then pings, then changes and checks."""
    order = {"outage": 0, "ping": 1}
    before = (-2, 0)
    example.steps.sort(key=lambda step: step.at >= 0)  # definitions without a time may stand between others
    for step in example.steps:
        key = (step.at, order.get(step.kind, 2))
        if key < before:
            raise ValueError(f"{example}: {step.line!r} is out of order")
        before = key
    if not any(step.kind == "check" for step in example.steps) and not example.runs:
        raise ValueError(f"{example}: expects nothing")
    example.steps.sort(key=lambda step: (step.at, order.get(step.kind, 2), _writer(step)))


def _writer(step: Step) -> int:
    return int(step.value.get("writer", 1)) if step.kind == "ping" else 0


def _ping_of(value: dict[str, str]) -> tuple[Ping, int, bytes | None]:
    """A ping, its writer and the address of its client."""
    fields: dict[str, Any] = {**value}
    writer = int(fields.pop("writer", 1))
    client = fields.pop("client", None)
    fields["dialect"] = fields.pop("protocol", None)
    sent = {name: fields.pop(name) for name in ("for", "backfill", "attempt", "execution") if name in fields}
    if sent:
        attempt = int(sent["attempt"]) if "attempt" in sent else None
        fields["options"] = PingOptions(sent.get("for"), "backfill" in sent, attempt, sent.get("execution"))
    for name in ("done", "total", "exit_code"):
        if name in fields:
            fields[name] = int(fields[name])
    if "duration" in fields:
        fields["duration"] = read_duration(fields["duration"]) / SECOND
    return Ping(**fields), writer, client.encode().ljust(4) if client else None


# ------------------------------------------------------------------------------------------------------------- running


@dataclass
class Outcome:
    """The outcome of an example, from the engine or from the reference model."""

    checks: list[tuple[str, str, str]] = field(default_factory=list)  # the line, what it expects, what there is
    incidents: dict[tuple[str, int], Value] = field(default_factory=dict)
    alerts: dict[tuple[str, int, int], Value] = field(default_factory=dict)
    runs: dict[tuple[str, int], Value] = field(default_factory=dict)
    texts: dict[tuple[str, str, int], str] = field(default_factory=dict)
    facts: dict[tuple[str, int, int], dict[str, Value]] = field(default_factory=dict)

    def check(self, line: str, item: str, actual: str) -> None:
        """Note what there is, for one item of a line with `is`."""
        what, _, value = item.partition(" ")
        is_time = what in ("due", "end") and value != "nothing"
        expected = str(read_duration(value)) if is_time else value or what
        self.checks.append((line, expected, actual))

    def differences(self, example: Example) -> list[str]:
        """The differences to the expectation of the example; empty if there is none."""
        found = [f"{line!r}: {actual}" for line, expected, actual in self.checks if expected != actual]
        for name in ("incidents", "alerts", "runs"):
            expected, actual = getattr(example, name), getattr(self, name)
            found += [
                f"{name} {key}: expected {_say(expected.get(key))}, got {_say(actual.get(key))}"
                for key in sorted({*expected, *actual} if expected is not None else ())
                if expected.get(key) != actual.get(key)
            ]
        for place, text in example.texts.items():
            if text not in self.texts.get(place, ""):
                found.append(f"{place}: {self.texts.get(place)!r}")
        late = {
            key for key, run in (example.runs or {}).items() if "finished late" in self.texts.get(("run", *key), "")
        }
        found += [f"run {key} finished late" for key in sorted(late) if example.texts.get(("run", *key)) is None]
        for alert, facts in example.facts.items():
            actual = self.facts.get(alert, {})
            found += [f"{alert} {name}: {actual.get(name)!r}" for name in facts if facts[name] != actual.get(name)]
        return found


def _say(value: Value) -> Value:
    """Instants as seconds, for a failed test."""
    if isinstance(value, tuple | list):
        return [_say(each) for each in value]
    return value / SECOND if isinstance(value, int) and value >= 1000 else value


def run_engine(example: Example) -> Outcome:
    """The outcome by the engine."""
    return EngineRun(example).outcome


def run_model(example: Example) -> Outcome:
    """The outcome by the reference model."""
    return ModelRun(example).outcome


class EngineRun:
    """One example on the stage for engines."""

    def __init__(self, example: Example) -> None:
        self.scene = Scene(example.begin)
        self.outcome = Outcome()
        self.defined: dict[str, dict[str, Any]] = {}
        for step in example.steps:
            getattr(self, f"_{step.kind}")(step)
        self.scene.tick(example.steps[-1].at / SECOND)
        self._collect(example)

    def _put(self, slug: str, at: Micros, **flags: Any) -> None:
        scene = self.scene
        known = scene.ids.get(slug)
        if known is not None:
            m = scene.engine.monitors[known]
            flags = {"paused": m.paused, **flags}
            if m.snoozed_until is not None:
                flags.setdefault("snoozed_until", (m.snoozed_until - scene.begin) / SECOND)
        scene.monitor(slug, at / SECOND, exact=True, **self.defined[slug], **flags)

    def _define(self, step: Step) -> None:
        self.defined[step.slug] = step.value
        if step.at < 0:
            self.scene.monitor(step.slug, **step.value)
        else:
            self._put(step.slug, step.at)

    def _ping(self, step: Step) -> None:
        ping, writer, client = _ping_of(step.value)
        self.scene.send(step.at / SECOND, ping, step.slug, client, writer)

    def _outage(self, step: Step) -> None:
        self.scene.outage(step.at / SECOND, step.value / SECOND)

    def _pause(self, step: Step) -> None:
        self._put(step.slug, step.at, paused=True, drop=bool(step.value))

    def _resume(self, step: Step) -> None:
        self._put(step.slug, step.at, paused=False)

    def _snooze(self, step: Step) -> None:
        self._put(step.slug, step.at, snoozed_until=step.value / SECOND)

    def _rename(self, step: Step) -> None:
        self.scene.rename(step.at / SECOND, step.slug, step.value)
        self.defined[step.value] = self.defined.pop(step.slug)

    def _move(self, step: Step) -> None:
        self.scene.move(step.at / SECOND, step.slug, step.value)

    def _resolve(self, step: Step) -> None:
        self.scene.resolve(step.at / SECOND, step.slug)

    def _close(self, step: Step) -> None:
        number, verdict, had_ended = step.value
        self.scene.close(step.at / SECOND, number, verdict, had_ended, step.slug)

    def _delete(self, step: Step) -> None:
        self.scene.delete(step.at / SECOND, step.slug)

    def _window(self, step: Step) -> None:
        number, value = step.value
        window = None if value is None else read_window(_window_of(self.scene.begin, *value))
        self.scene.window(step.at / SECOND, number, window)

    def _check(self, step: Step) -> None:
        self.scene.tick(step.at / SECOND)
        m = self.scene.engine.monitors[self.scene.ids[step.slug]]
        for item in step.value:
            what, _, value = item.partition(" ")
            if what == "due":
                actual = str(m.due - self.scene.begin) if m.due else "nothing"
            elif what == "awaits":
                actual = " ".join(run or "-" for run in m.awaited or ()) or "nothing"
            elif what == "alive":
                actual = f"{m.fleet.alive} of {len(m.fleet.members)}" if m.fleet is not None else "0 of 0"
            elif what == "stage":
                actual = self._stage(m, value.split()[0])
            elif what == "end":
                actual = self._estimated_end(m)
            elif what == "failures":
                actual = str(m.streak)
            else:
                actual = status_at(m.definition, m.status, m.dump(), None, self.scene.engine.now).status
            self.outcome.check(step.line, item, actual)

    def _stage(self, m: Monitor, name: str) -> str:
        run = m.runs.latest if m.runs is not None else None
        seen = run.stages.get(name) if run is not None else None
        return f"{name} {seen.status if seen is not None else 'waiting'}"

    def _estimated_end(self, m: Monitor) -> str:
        run = m.runs.latest if m.runs is not None else None
        at = run.count.show()["eta"] if run is not None and run.count is not None else None
        return str(at - self.scene.begin) if at is not None else "nothing"

    def _collect(self, example: Example) -> None:
        scene, outcome = self.scene, self.outcome
        slugs = {number: slug for slug, number in scene.ids.items()}
        for slug in example.slugs:
            for number, row in scene.incidents(slug).items():
                causes = sorted((c["kind"], c.get("number", 0), c["opened_at"] - scene.begin) for c in row.causes)
                by = slugs[row.suppressed_by] if row.suppressed_by and not row.resolved_at else None
                ended = row.resolved_at - scene.begin if row.resolved_at else None
                outcome.incidents[slug, number] = (row.opened_at - scene.begin, ended, causes, by)
                outcome.texts["incident", slug, number] = row.reason
                outcome.texts["shown", slug, number] = row.cause
            for effect in scene.effects(Alert, slug):
                key = (slug, effect.incident, effect.ordinal)
                outcome.alerts[key] = (effect.kind, effect.decided_at - scene.begin)
                outcome.facts[key] = {
                    name: scene.seconds(value) if name.endswith("_at") else value
                    for name, value in effect.facts.items()
                }
            for number in scene.runs(slug):
                run = _row_of_run([each for each in scene.effects(RunChanged, slug) if each.number == number])
                started, ended = run.started_at, run.finished_at
                outcome.runs[slug, number] = (
                    run.run,
                    started - scene.begin if started is not None else None,
                    ended - scene.begin if ended is not None else None,
                    run.verdict,
                )
                outcome.texts["run", slug, number] = run.reason or ""
                stages = [f"{stage['name']} {stage['status']}" for stage in run.detail.get("stages", ())]
                outcome.texts["stages", slug, number] = ", ".join(stages)


def _row_of_run(changes: list[RunChanged]) -> RunChanged:
    """The row in the table after these changes: a revision leaves the start as it was."""
    started = next((each.started_at for each in reversed(changes) if each.started_at is not None), None)
    return changes[-1]._replace(started_at=started)


class ModelRun:
    """One example in the reference model."""

    def __init__(self, example: Example) -> None:
        self.begin = example.begin
        self.model = reference.Model()
        self.model.now = example.begin - SECOND
        self.outcome = Outcome()
        self.ids: dict[str, int] = {}
        for step in example.steps:
            getattr(self, f"_{step.kind}")(step)
        self.model.judge_through(self.begin + example.steps[-1].at)
        self._collect()

    def _define(self, step: Step) -> None:
        at, definition = self.begin + step.at, read_definition(step.value)
        if step.slug in self.ids:
            self.model.edit(at, self.ids[step.slug], definition)
            return
        number = self.ids[step.slug] = len(self.ids) + 1
        tags = definition.tags
        self.model.create(at, reference.Monitor(number, PROJECT, step.slug, tags, definition, at))

    def _ping(self, step: Step) -> None:
        ping, writer, client = _ping_of(step.value)
        self.model.ping(self.begin + step.at, writer, self.ids[step.slug], client, ping)

    def _outage(self, step: Step) -> None:
        self.model.add_outage(self.begin + step.at, self.begin + step.value)

    def _pause(self, step: Step) -> None:
        self.model.pause(self.begin + step.at, self.ids[step.slug], bool(step.value))

    def _resume(self, step: Step) -> None:
        self.model.resume(self.begin + step.at, self.ids[step.slug])

    def _snooze(self, step: Step) -> None:
        self.model.snooze(self.begin + step.at, self.ids[step.slug], self.begin + step.value)

    def _rename(self, step: Step) -> None:
        self.ids[step.value] = self.ids.pop(step.slug)
        self.model.rename(self.begin + step.at, self.ids[step.value], step.value)

    def _move(self, step: Step) -> None:
        self.model.move(self.begin + step.at, self.ids[step.slug], step.value)

    def _resolve(self, step: Step) -> None:
        self.model.settle(self.begin + step.at, self.ids[step.slug])

    def _close(self, step: Step) -> None:
        self.model.close(self.begin + step.at, self.ids[step.slug], *step.value)

    def _delete(self, step: Step) -> None:
        self.model.remove(self.begin + step.at, self.ids[step.slug])

    def _window(self, step: Step) -> None:
        at, (number, value) = self.begin + step.at, step.value
        if value is None:
            self.model.remove_window(at, number)
            return
        start, end, covers = value
        monitors, tags = tuple(covers.get("monitors", ())), tuple(covers.get("tags", ()))
        self.model.put_window(at, number, PROJECT, monitors, tags, self.begin + start, self.begin + end)

    def _check(self, step: Step) -> None:
        self.model.judge_through(self.begin + step.at)
        m = self.model.monitors[self.ids[step.slug]]
        for item in step.value:
            what, _, value = item.partition(" ")
            if what == "due":
                follows = m.d.after is not None and (m.last_ping_at or m.d.first_within is None)
                due = min((each for _, each in m.awaited), default=0) if follows else m.due
                actual = str(due - self.begin) if due else "nothing"
            elif what == "awaits":
                actual = " ".join(run or "-" for run, _ in m.awaited) or "nothing"
            elif what == "alive":
                actual = f"{len(m.members) - len(m.silent)} of {len(m.members)}"
            elif what == "stage":
                name = value.split()[0]
                seen = reference.see(m.open[-1]).stages.get(name) if m.open else None
                actual = f"{name} {seen.status if seen is not None else 'waiting'}"
            elif what == "failures":
                actual = str(m.streak)
            else:
                late = m.status in ("up", "unknown") and 0 < m.due < self.model.now
                actual = "late" if late else m.status
            self.outcome.check(step.line, item, actual)

    def _collect(self) -> None:
        slugs = {number: slug for slug, number in self.ids.items()}
        outcome, begin = self.outcome, self.begin

        def after(at: Micros | None) -> Micros | None:
            return at - begin if at else None

        for m in (*self.model.monitors.values(), *self.model.gone.values()):
            for i in m.incidents:
                causes = sorted((cause.kind, cause.number, cause.opened - begin) for cause in i.causes)
                by = slugs[i.suppressed_by] if i.suppressed_by and not i.resolved else None
                outcome.incidents[m.slug, i.number] = (i.opened - begin, after(i.resolved), causes, by)
                outcome.texts["shown", m.slug, i.number] = i.shown.kind
            for run in m.runs:
                verdict = run.verdict or provisional_verdict(m, run)
                outcome.runs[m.slug, run.number] = (run.id, after(run.started), after(run.ended), verdict)
                outcome.texts["run", m.slug, run.number] = "finished late" if run.late else ""
        for alert in self.model.alerts:
            key = (slugs[alert.monitor], alert.incident, alert.ordinal)
            outcome.alerts[key] = (alert.kind, alert.at - begin)
            outcome.facts[key] = {"business_date": alert.date}


def provisional_verdict(m: reference.Monitor, run: reference.Run) -> str | None:
    """The provisional verdict of an open run in the reference model."""
    if reference.failing(m.d, reference.see(run)):
        return "failed"
    return "hung" if run.hung else "unverified" if run.unknown else None


def _window_of(begin: Micros, start: Micros, end: Micros, covers: dict[str, Any]) -> dict[str, Any]:
    return {"start": to_rfc3339(begin + start), "end": to_rfc3339(begin + end), **covers}
