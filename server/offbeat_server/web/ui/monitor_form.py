"""A monitor's definition as a form: every field with its label and hint, filled from what is stored and read back.

Fields that the form does not know stay as they are stored. A problem stands beside its field, in the words of the model
that the API uses too.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from offbeat_server.common.errors import Problem
from offbeat_server.engine.model.definition import NOT_OF_FLEETS
from offbeat_server.web.ui.page_base import Form

SCHEDULES = {
    "every": "Every N minutes",
    "cron": "Cron",
    "oncalendar": "systemd OnCalendar",
    "after": "After another job",
    "members": "Fleet of workers",
    "none": "No schedule: watch runs only",
}
STAGES_SPARE = 2  # empty rows that are offered
STAGES_ADDED = 5  # and after the button for more was pressed


class Field(NamedTuple):
    """One input. `kind`: text, number, check, lines, names (or a number), area, or select with `options`."""

    name: str
    label: str
    hint: str = ""
    kind: str = "text"
    options: tuple[tuple[str, str], ...] = ()
    example: str = ""


ABOUT = (
    Field("name", "Name", "The display name."),
    Field("tags", "Tags", "Separated by spaces.", example="nightly billing"),
    Field("description", "Description", "Describe the job, and what to do when it fails.", "area"),
)
WHEN: dict[str, tuple[Field, ...]] = {
    "every": (Field("every", "Every", "The next ping is due this long after the last.", example="15m"),),
    "cron": (Field("cron", "Cron", "Minute, hour, day, month, weekday.", example="30 2 * * *"),),
    "oncalendar": (
        Field(
            "oncalendar",
            "OnCalendar",
            "As in a systemd timer, such as Mon..Fri 02:30. Several expressions: one per line.",
            "lines",
        ),
    ),
    "after": (
        Field("after.monitor", "Monitor", "Its slug."),
        Field(
            "after.signal",
            "On",
            "",
            "select",
            (("success", "success"), ("start", "start"), ("fail", "fail")),
        ),
        Field("after.within", "Must ping within", "Time after that signal.", example="1h"),
    ),
    "members": (
        Field("members.every", "Ping interval", "", example="30s"),
        Field("members.grace", "Grace period", "A worker is silent after interval and grace period.", example="1m"),
        Field("members.min_alive", "Minimum alive", "Number or %; empty: all.", example="95%"),
        Field("members.expected", "Expected workers", "Empty: the highest number seen.", "number"),
        Field("members.forget_after", "Forget after", "Remove a silent worker after this.", example="1d"),
    ),
    "none": (),
}
ALWAYS = (
    Field("timezone", "Time zone", "Used for the schedule and for times in alerts.", example="Europe/Berlin"),
    Field("grace", "Grace period", "Time after due until a missing ping counts as missed.", example="5m"),
    Field(
        "first_within",
        "First ping within",
        "Alert if the first ping has not arrived this long after creation. Empty: no alert before the first ping.",
        example="1d",
    ),
)
RUNS = (
    Field("max_runtime", "Maximum runtime", "Longer runs count as hung.", example="2h"),
    Field("min_runtime", "Minimum runtime", "A success faster than this counts as a failure.", example="10s"),
    Field("quiet_for", "Maximum silence", "A run without a ping for this time counts as hung.", example="15m"),
    Field("stall_for", "Maximum stall", "A run without progress for this time counts as hung.", example="10m"),
    Field(
        "overlap",
        "Overlapping runs",
        "",
        "select",
        (("allow", "allow"), ("alert", "alert")),
    ),
    Field(
        "run_date",
        "Business date in run ids",
        "auto, none, or a pattern with %Y, %m and %d.",
        example="etl-%Y%m%d",
    ),
    Field("business_date_offset", "Business date offset", "Days from the slot to its business date.", "number"),
    Field(
        "recover_by",
        "A failure ends with",
        "",
        "select",
        (
            ("", "the default for its schedule"),
            ("same", "a success for the same business date"),
            ("any", "any later success"),
        ),
    ),
    Field(
        "tasks.expected",
        "Expected tasks",
        "Their number, or their names: one per line. Leave empty if the job sends total.",
        "names",
    ),
    Field("tasks.within", "All tasks within", "All tasks must finish this long after the run starts.", example="1h"),
    Field("tasks.each_within", "Each task within", "A task must end this long after its first ping.", example="20m"),
    Field(
        "tasks.quiet_for", "Maximum silence of a task", "A running task must ping at least this often.", example="5m"
    ),
    Field("tasks.tolerate", "Allowed failed tasks", "", "number"),
    Field(
        "complete",
        "Success with missing stages or tasks",
        "Whether a run fails if it sends success before its stages and expected tasks have ended.",
        "select",
        (("", "default"), ("required", "the run fails"), ("trust", "the run succeeds")),
    ),
    Field("at_most.count", "Maximum pings", "Alert on more runs or heartbeats than this in the period.", "number"),
    Field("at_most.per", "Period of that maximum", "Time in which the runs and heartbeats are counted.", example="1h"),
)
ALERTS = (
    Field("fail_after", "Alert after", "Consecutive misses or failures before alerting (default 1).", "number"),
    Field("recover_after", "Resolve after", "Consecutive successes before resolving (default 1).", "number"),
    Field(
        "depends_on",
        "Depends on",
        "Slugs, separated by spaces. While any of these is down, don't alert for this monitor.",
    ),
    Field(
        "dependency_wait",
        "Dependency wait",
        "Maximum time to wait for a dependency to report before alerting anyway.",
        example="2m",
    ),
    Field(
        "remind_every", "Remind every", "Repeat the alert while the incident is open. Empty: alert once.", example="4h"
    ),
)
SPECIAL = (
    Field("methods", "Accepted HTTP methods", "", "select", (("any", "any method"), ("POST", "POST only"))),
    Field("keywords.start", "Keywords for start", "One per line; matched in the message.", "lines"),
    Field("keywords.success", "Keywords for success", "", "lines"),
    Field("keywords.fail", "Keywords for failure", "", "lines"),
    Field(
        "keywords.default",
        "Messages without a keyword",
        "",
        "select",
        (("as_sent", "count as sent"), ("fail", "are failures"), ("ignore", "are ignored")),
    ),
    Field(
        "count_outages",
        "Count outages of Offbeat",
        "They neither extend deadlines nor excuse missing pings.",
        "check",
    ),
    Field(
        "manual_resume",
        "Stay paused until resumed manually",
        "Otherwise a Healthchecks-style ping resumes it.",
        "check",
    ),
)
SECTIONS: tuple[tuple[str, tuple[Field, ...]], ...] = (
    ("Alerts", ALERTS),
    ("Runs and tasks", RUNS),
    ("Advanced", SPECIAL),
)
_FLAT = (*ABOUT, *ALWAYS, *RUNS, *ALERTS, *SPECIAL)
_HIDDEN_FOR_FLEETS = (*NOT_OF_FLEETS, "overlap", "fail_after", "recover_after")
_SPACED = ("tags", "depends_on")
_LISTS = ("stages", "channels", "tasks.expected")  # a problem of one of them is shown with its place
_STAGE = ("name", "within", "kind", "tasks")
_STAGE_TASKS = Field("tasks", "Tasks", kind="names")
_number = re.compile(r"[+-]?[0-9][0-9.,]{0,11}")


class Filled(NamedTuple):
    """The form as it is shown: values by field, the stages, and what is wrong by field."""

    values: Mapping[str, str]
    schedule: str
    stages: Sequence[Mapping[str, str]]
    channels: Sequence[str] | None
    problems: Mapping[str, str] = {}
    other_problems: Sequence[str] = ()


def fill(definition: Mapping[str, Any]) -> Filled:
    """The form for a definition as JSON."""
    values = {}
    for field in (*_FLAT, *(field for fields in WHEN.values() for field in fields)):
        values[field.name] = _text(field, _stored_value(definition, field.name))
    schedule = next((kind for kind in SCHEDULES if definition.get(kind) is not None), "none")
    return Filled(values, schedule, _stage_rows(definition.get("stages") or ()), definition.get("channels"))


def read(form: Form, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The definition that the form describes, on top of what is stored: as `documents.MonitorBody` reads it."""
    schedule = form.get("schedule", "none")
    definition = {name: value for name, value in stored.items() if name not in SCHEDULES}
    for field in (*_FLAT, *WHEN.get(schedule, ())):
        if not _is_unchanged(field, form, stored):
            _put(definition, field.name, _value(field, form.get(field.name, "")))
    definition["stages"] = _read_stages(form, stored)
    definition["channels"] = form.getall("channel", []) if form.get("channels") == "these" else None
    if schedule == "members":
        definition = {name: value for name, value in definition.items() if name not in _HIDDEN_FOR_FLEETS}
    return {name: value for name, value in definition.items() if value not in (None, "", {}, [])} | (
        {"channels": []} if definition.get("channels") == [] else {}
    )


def refill(form: Form, problems: Sequence[Problem]) -> Filled:
    """The form as it was sent, with what is wrong."""
    fields = (*_FLAT, *(field for fields in WHEN.values() for field in fields))
    values = {field.name: form.get(field.name, "") for field in fields}
    names = sorted((*values, "slug", "stages", "channels"), key=len, reverse=True)
    errors: dict[str, str] = {}
    others = []
    for problem in problems:
        name = next(
            (n for n in sorted(names, key=len, reverse=True) if (problem.field + ".").startswith(n + ".")), None
        )
        if name is None:
            others.append(f"{problem.field}: {problem.reason}" if problem.field else problem.reason)
        elif name not in errors:
            where = problem.field[len(name) + 1 :]
            errors[name] = f"{where}: {problem.reason}" if where and name in _LISTS else problem.reason
    stages = [dict(zip(_STAGE, row, strict=True)) for row in _columns(form) if any(row[i] for i in (0, 1, 3))]
    channels = form.getall("channel", []) if form.get("channels") == "these" else None
    return Filled(values, form.get("schedule", "none"), stages, channels, errors, others)


def _stored_value(definition: Mapping[str, Any], name: str) -> Any:
    """The value of a field, also of one inside another; None: it has none."""
    value: Any = definition
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _is_unchanged(field: Field, form: Form, stored: Mapping[str, Any]) -> bool:
    """Whether names stay as they are stored: a list with the name 5 looks like the number 5."""
    if field.kind != "names" or (value := _stored_value(stored, field.name)) is None:
        return False
    return _count_or_names(_text(field, value)) == _count_or_names(form.get(field.name, "").replace("\x00", ""))


def _count_or_names(text: str) -> int | str | list[str]:
    """Expected tasks as they were typed: a number, or one name per line. The model refuses other numbers."""
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if len(names) == 1 and _number.fullmatch(names[0]):
        return int(names[0]) if names[0].isdigit() else names[0]
    return names


def _text(field: Field, value: Any) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return "on"
    if isinstance(value, list | tuple):
        return (" " if field.name in _SPACED else "\n").join(str(each) for each in value)
    return str(value)


def _value(field: Field, text: str) -> Any:
    text = text.replace("\x00", "").strip()
    if field.kind == "check":
        return text == "on" or None
    if not text:
        return None
    if field.name in _SPACED:
        return text.replace(",", " ").split()
    if field.kind == "names":
        return _count_or_names(text)
    if field.kind == "lines":
        return [line.strip() for line in text.splitlines() if line.strip()]
    if field.kind == "number" or field.name == "members.min_alive":
        return int(text) if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 12 else text
    return text


def _put(definition: dict[str, Any], name: str, value: Any) -> None:
    """Set or clear a field, also one inside another."""
    outer, _, inner = name.partition(".")
    if not inner:
        definition[outer] = value
        return
    inside = dict(definition.get(outer) or {})
    inside[inner] = value
    kept = {key: each for key, each in inside.items() if each is not None}
    # A default alone has no meaning: without keywords it is never used.
    alone = {"keywords": {"default"}, "after": {"signal"}}.get(outer, set())
    definition[outer] = kept if kept.keys() - alone else None


def _columns(form: Form) -> Iterator[tuple[str, ...]]:
    """The rows of the table of stages."""
    return zip(*(form.getall(f"stage.{part}", []) for part in _STAGE), strict=False)


def _stage_rows(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "name": stage["name"],
            "within": stage.get("within") or "",
            "kind": "optional" if stage.get("optional") else "required",
            "tasks": _text(_STAGE_TASKS, (stage.get("tasks") or {}).get("expected")),
        }
        for stage in stages
    ]


def _read_stages(form: Form, stored: Mapping[str, Any]) -> list[dict[str, Any]]:
    before = {stage["name"]: stage for stage in stored.get("stages") or ()}
    stages = []
    for name, within, kind, tasks in _columns(form):
        if not (name := name.replace("\x00", "").strip()):
            continue
        known = before.get(name, {}).get("tasks") or {}
        count_or_names = _count_or_names(tasks.replace("\x00", ""))
        stage: dict[str, Any] = {"name": name}
        if within.strip():
            stage["within"] = within.strip()
        if kind == "optional":
            stage["optional"] = True
        if count_or_names:
            unchanged = _count_or_names(_text(_STAGE_TASKS, known.get("expected"))) == count_or_names
            stage["tasks"] = {**known, "expected": known["expected"] if unchanged else count_or_names}
        elif known.get("expected") is None and known:
            stage["tasks"] = known
        stages.append(stage)
    return stages
