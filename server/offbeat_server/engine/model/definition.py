"""The definition of a monitor: what Offbeat expects of it, as people send it and as the engine reads it.

One model for both, so that a field, its limits, its documentation and its meaning stand in one place. Definitions are
frozen and shared: a million monitors with equal definitions hold one object (`load_definition` memoises by content).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from offbeat_server.common.errors import DefinitionError
from offbeat_server.common.instants import SECOND, Micros
from offbeat_server.engine.model.definition_problems import problems_of
from offbeat_server.engine.model.ping import STAGE_CHARS_MAX, TASK_CHARS_MAX
from offbeat_server.engine.schedule.calendar import check_cron, check_oncalendar, check_zone
from offbeat_server.engine.schedule.durations import read_duration, write_duration
from offbeat_server.engine.schedule.run_date_patterns import check_run_date

SLUG_PATTERN = r"^[a-z0-9](?:[a-z0-9_.-]{0,98}[a-z0-9])?$|^[a-z0-9]$"
STAGES_MAX = 100
TASKS_MAX = 20_000  # per run; the names of later ones are not kept
RUNTIME_DEFAULT: Micros = 86_400 * SECOND  # of a run that said `start`, if no limit notices that it died
REPEAT_MAX: Micros = 30 * SECOND  # the same ping with the same run id within this is a retry


def _join_lines(value: object) -> object:
    """A list of expressions as one text, one expression per line."""
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return "\n".join(value)
    return value


Duration = Annotated[
    Micros,
    BeforeValidator(read_duration),
    PlainSerializer(write_duration, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "examples": ["90s", "15m", "1h30m"]}, {"type": "number", "minimum": 0}],
            "description": "A duration: 90s, 15m, 1h30m, 7d, or a number of seconds.",
        }
    ),
]
Cron = Annotated[str, Field(max_length=200), AfterValidator(check_cron)]
CALENDAR_CHARS_MAX = 2000
CalendarText = Annotated[
    str,
    BeforeValidator(_join_lines),
    Field(max_length=CALENDAR_CHARS_MAX),
    AfterValidator(check_oncalendar),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "maxLength": CALENDAR_CHARS_MAX, "examples": ["Mon..Fri 02:30"]},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
            ],
            "description": "systemd OnCalendar: one expression, or several as a list or one per line.",
        },
        mode="validation",
    ),
]
Zone = Annotated[str, Field(max_length=60), AfterValidator(check_zone)]
Slug = Annotated[str, Field(pattern=SLUG_PATTERN, max_length=100)]
ProjectSlug = tuple[int, str]  # the id of a project, and a slug in it
StageName = Annotated[str, Field(min_length=1, max_length=STAGE_CHARS_MAX)]
_task_count: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=1, le=TASKS_MAX)])
_task_names: TypeAdapter[tuple[str, ...]] = TypeAdapter(
    tuple[Annotated[str, Field(min_length=1, max_length=TASK_CHARS_MAX)], ...]
)


def _count_or_names(value: object) -> int | tuple[str, ...]:
    """The expected tasks of a group: their number, or their names."""
    if isinstance(value, list | tuple):
        return _names_of_tasks(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and value.strip().isdigit()):
        raise ValueError("must be a whole number or a list of names, such as [a, b]")
    return _task_count.validate_python(value)


def _names_of_tasks(value: Sequence[object]) -> tuple[str, ...]:
    if not 1 <= len(value) <= TASKS_MAX:
        raise ValueError(f"must have 1 to {TASKS_MAX} names; got {len(value)}")
    names = _task_names.validate_python(value)
    if len(set(names)) < len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise ValueError(f"must have each name once; the list has this one twice: {twice}")
    return names


ExpectedTasks = Annotated[
    int | tuple[str, ...],
    BeforeValidator(_count_or_names),
    WithJsonSchema(
        {
            "anyOf": [
                _task_count.json_schema(),
                _task_names.json_schema() | {"minItems": 1, "maxItems": TASKS_MAX, "uniqueItems": True},
            ],
            "description": "A number of tasks, or a list of their names.",
        }
    ),
]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def at_least_a_second(value: Micros | None) -> Micros | None:
    """A length of time that is not too short to be watched. Raises ValueError."""
    if value is not None and value < SECOND:
        raise ValueError("must be at least 1s")
    return value


class Tasks(_Model):
    """N parallel pieces of a run or of one of its stages."""

    expected: ExpectedTasks | None = Field(
        None,
        description="Number of tasks, or a list of their names. With names, a task with another name is *unexpected*: "
        "it never replaces a missing one. None: a ping reports the number with `total`.",
    )
    within: Duration | None = Field(
        None, description="All tasks must end within this time after the start of the run or stage."
    )
    each_within: Duration | None = Field(
        None,
        description="Each task must end within this time after its first ping, or after its `start` if it had failed. "
        "Otherwise the run is hung until the task ends.",
    )
    quiet_for: Duration | None = Field(
        None,
        description="A task that has started and not ended must ping at least this often. Otherwise the run is hung "
        "until the task pings.",
    )
    tolerate: int = Field(0, ge=0, description="More failed tasks than this fail the run.")

    @field_validator("each_within", "quiet_for")
    @classmethod
    def _at_least_a_second(cls, value: Micros | None) -> Micros | None:
        return at_least_a_second(value)

    @cached_property
    def follows(self) -> bool:
        """Whether single tasks have a limit."""
        return self.each_within is not None or self.quiet_for is not None

    @cached_property
    def expected_count(self) -> int | None:
        """The number of expected tasks. None: a ping reports it."""
        return len(self.expected) if isinstance(self.expected, tuple) else self.expected

    @cached_property
    def expected_names(self) -> frozenset[str] | None:
        """The names of the expected tasks; one set for all runs. None: no names are defined."""
        return frozenset(self.expected) if isinstance(self.expected, tuple) else None


class Stage(_Model):
    """A named step of a run, in the order in which it is listed."""

    name: StageName = Field(description="Pings name the stage by it, in `stage`.")
    within: Duration | None = Field(
        None, description="Time limit, counted from the end of the previous stage or the start of the run."
    )
    optional: bool = Field(False, description="The stage may be skipped.")
    tasks: Tasks | None = Field(None, description="The stage is done when all of its tasks have ended.")


_FORMER_SCHEMA = {
    "type": "boolean",
    "deprecated": True,
    "description": "Deprecated: the former name of `count_outages`.",
}


class _OrName:
    """Says in the schema of requests that a stage may be its name alone."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        whole = handler(schema)
        if handler.mode == "serialization":
            return whole
        name = {"type": "string", "minLength": 1, "maxLength": STAGE_CHARS_MAX}
        return {"anyOf": [whole, name], "description": "A stage, or its name alone."}


def _stage_of(value: object) -> object:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict | Stage):
        raise ValueError(f"must be a name or an object with a name, not {value!r}")
    return value


class Members(_Model):
    """A fleet of long-lived workers, each of which pings with its name as the task."""

    every: Duration = Field(description="Each member pings at least this often.")
    grace: Duration = Field(60 * SECOND, description="A member is missing if it is silent for `every` and this time.")
    forget_after: Duration = Field(86_400 * SECOND, description="A silent member is removed after this time.")
    min_alive: Annotated[str, Field(pattern=r"^(100|[1-9]?\d)(\.\d+)?%$")] | int | None = Field(
        None, description="A number, or a percentage such as 95%. None: every known member."
    )
    expected: int | None = Field(
        None, ge=1, description="Expected number of members. None: for a percentage, the highest number alive at once."
    )

    @model_validator(mode="after")
    def _remembers_the_silent(self) -> Self:
        if self.forget_after <= self.every + self.grace:
            raise ValueError("forget_after must be longer than every and grace together")
        return self


class After(_Model):
    """Due after a signal of another monitor."""

    monitor: Slug = Field(description="The slug of the other monitor, in the same project.")
    signal: Literal["start", "success", "fail"] = Field("success", description="The signal that starts the time limit.")
    within: Duration = Field(description="A ping is due this long after the signal.")


class AtMost(_Model):
    """The most runs and heartbeats (`count`) in a period (`per`) before the monitor alerts."""

    count: int = Field(ge=1, le=1_000, description="Allowed number of runs and heartbeats.")
    per: Duration = Field(description="The time in which they are counted.")


def _present_value(value: object) -> object:
    """`as_sent` for its former spelling. It is the default, so it is never stored."""
    return "as_sent" if value == "as sent" else value


class Keywords(_Model):
    """Words in a ping's message that decide its signal (Healthchecks' body filters). Substrings, case-sensitive."""

    start: tuple[str, ...] = Field((), description="Words of a message that make it a `start`.")
    success: tuple[str, ...] = Field((), description="Words of a message that make it a `success`.")
    fail: tuple[str, ...] = Field((), description="Words of a message that make it a `fail`.")
    default: Annotated[Literal["as_sent", "fail", "ignore"], BeforeValidator(_present_value)] = Field(
        "as_sent", description="How a message without any of the words is treated."
    )


def _expects_parts(stages: tuple[Stage, ...], tasks: Tasks | None) -> bool:
    """Whether a run has parts that are known beforehand: stages, or expected tasks."""
    return bool(stages) or (tasks is not None and tasks.expected is not None)


_STORED = "stored"  # the context of a validation: the value comes from the database and not from a person
_SCHEDULES = ("every", "cron", "oncalendar", "after", "members")
_EXPECTATIONS = (*_SCHEDULES, "max_runtime", "min_runtime", "quiet_for", "stall_for", "at_most")
# The former name of `count_outages`. It is read everywhere. It is also the name in the database, because nodes of the
# previous version read only this one.
FORMER_COUNT_OUTAGES = "strict"
# The program of schema version 5 rejects these in `monitors.definition`, so they are stored beside it.
NEWER_FIELDS = ("complete", "run_date", "business_date_offset", "recover_by")
NOT_OF_FLEETS = ("max_runtime", "min_runtime", "quiet_for", "stall_for", "stages", "tasks", "complete", "at_most")


class Definition(_Model):
    """Everything a monitor expects. At most one of every, cron, oncalendar, after and members."""

    name: str | None = Field(None, max_length=200, description="Display name. None: the slug.")
    description: str | None = Field(
        None,
        max_length=10_000,
        description="Text about the job, such as its purpose and how to repair it. The page shows it.",
    )
    tags: tuple[Annotated[str, Field(min_length=1, max_length=50, pattern=r"^\S+$")], ...] = Field(
        (), max_length=50, description="Words for filters, badges and maintenance windows."
    )

    every: Duration | None = Field(None, description="The next ping is due this long after the last.")
    cron: Cron | None = Field(None, description="Five fields, in `timezone`.")
    oncalendar: CalendarText | None = Field(
        None,
        description="systemd OnCalendar, in `timezone`. Several expressions: as a list, or one per line; a ping is due "
        "at the times of each.",
    )
    timezone: Zone = Field("UTC", description="IANA time zone of the schedule and of times in alerts.")
    after: After | None = Field(None, description="A ping is due after a signal of another monitor.")
    members: Members | None = Field(None, description="The monitor is a fleet of workers that ping by name.")
    grace: Duration = Field(60 * SECOND, description="Added to the due time to get the deadline.")
    first_within: Duration | None = Field(
        None, description="The first ping must arrive within this time after creation."
    )

    max_runtime: Duration | None = Field(
        None,
        description="A run that is open longer than this is hung. Default: 24 hours for a run that sent `start`, "
        "unless `quiet_for` or `stall_for` is set.",
    )
    min_runtime: Duration | None = Field(None, description="A run that succeeds faster than this counts as failed.")
    quiet_for: Duration | None = Field(None, description="A run without a ping for longer than this is hung.")
    stall_for: Duration | None = Field(None, description="A run without progress for longer than this is hung.")
    overlap: Literal["allow", "alert"] = Field(
        "allow", description="Whether a run that starts while another one is open causes an incident."
    )
    stages: tuple[Annotated[Stage, BeforeValidator(_stage_of), _OrName()], ...] = Field(
        (), max_length=STAGES_MAX, description="In the order in which they run: names, or objects with a name."
    )
    tasks: Tasks | None = Field(None, description="The run is done when all of its tasks have ended.")
    complete: Literal["required", "trust"] | None = Field(
        None,
        validate_default=True,
        description="Whether a run that sends `success` fails if a stage or an expected task has not ended. Default: "
        "`required` if the definition lists stages or has `tasks.expected`, otherwise null, which means "
        "`trust`. It is also null for a definition that an earlier version wrote.",
    )
    at_most: AtMost | None = Field(None, description="More runs and heartbeats than this cause an incident.")

    run_date: Annotated[str, Field(max_length=100), AfterValidator(check_run_date)] = Field(
        "auto",
        description="The place of the business date in a run id. `auto`: a date such as 2026-11-30 or 20261130, "
        "perhaps with a time. `none`: nowhere. Or a pattern such as etl-%Y%m%d.",
    )
    business_date_offset: int = Field(
        0,
        ge=-31,
        le=31,
        description="Days from the date of a slot to its business date: -1 if a run is for the day before its slot.",
    )
    recover_by: Literal["same", "any"] | None = Field(
        None,
        description="`same`: only a success for the same business date ends a failure. `any`: one for a later date "
        "ends it too. None: `same` for dates that a client names, and for runs of a schedule with at most one slot a "
        "day; otherwise `any`.",
    )

    fail_after: int = Field(1, ge=1, le=1000, description="Consecutive misses or failures before an incident opens.")
    recover_after: int = Field(
        1, ge=1, le=1000, description="Consecutive successes before the incident is resolved. See `recover_by`."
    )
    depends_on: tuple[Slug, ...] = Field(
        (), max_length=50, description="Slugs of monitors. While one of them is down, this monitor sends no alerts."
    )
    dependency_wait: Duration = Field(
        120 * SECOND, description="Maximum time that an alert waits for the result of the monitors in `depends_on`."
    )
    count_outages: bool = Field(
        False,
        validation_alias=AliasChoices("count_outages", FORMER_COUNT_OUTAGES),
        description="Count Offbeat's own outages against the monitor: they neither extend deadlines nor excuse missing "
        "pings.",
    )

    channels: tuple[Slug, ...] | None = Field(None, max_length=50, description="None: the project's default channels.")
    remind_every: Duration | None = Field(
        None, description="Repeat the alert of an open incident at this interval. None: no reminders."
    )
    methods: Literal["any", "POST"] = Field(
        "any", description="HTTP methods of pings. With `POST`, a ping by another method is stored as `log`."
    )
    keywords: Keywords | None = Field(None, description="Words in a message that decide the signal.")
    manual_resume: bool = Field(
        False, description="A paused monitor stays paused until it is resumed. False: a Healthchecks ping resumes it."
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the former name beside the present one, without a default: clients need not send it."""
        described = handler(schema)
        properties = {}
        for name, field in handler.resolve_ref_schema(described)["properties"].items():
            properties[name] = field
            if name == "count_outages":
                properties[FORMER_COUNT_OUTAGES] = _FORMER_SCHEMA
        handler.resolve_ref_schema(described)["properties"] = properties
        if handler.mode == "serialization":  # the API sends both
            handler.resolve_ref_schema(described).setdefault("required", []).append(FORMER_COUNT_OUTAGES)
        return described

    @model_validator(mode="before")
    @classmethod
    def _one_value_for_two_names(cls, value: object) -> object:
        """Both names may be given if they have the same value, as in an answer of the API that is sent back."""
        if not isinstance(value, dict) or not {"count_outages", FORMER_COUNT_OUTAGES} <= value.keys():
            return value
        if value["count_outages"] != value[FORMER_COUNT_OUTAGES]:
            both = "is the former name of count_outages, which has another value: leave one out"
            error = PydanticCustomError("two_values", both)
            raise ValidationError.from_exception_data(
                cls.__name__, [{"type": error, "loc": (FORMER_COUNT_OUTAGES,), "input": value[FORMER_COUNT_OUTAGES]}]
            )
        return {name: each for name, each in value.items() if name != FORMER_COUNT_OUTAGES}

    @field_validator("every", "max_runtime", "quiet_for", "stall_for", "remind_every")
    @classmethod
    def _at_least_a_second(cls, value: Micros | None) -> Micros | None:
        return at_least_a_second(value)

    @field_validator("complete")
    @classmethod
    def _complete_by_default(cls, value: str | None, info: ValidationInfo) -> str | None:
        """The default depends on the other fields. A definition of an earlier version keeps its meaning, until it is
        written again.
        """
        if info.context == _STORED:
            return value
        if not _expects_parts(info.data.get("stages", ()), info.data.get("tasks")):
            return None if value == "trust" else value
        return value or "required"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        kinds = [name for name in _SCHEDULES if getattr(self, name) is not None]
        if len(kinds) > 1:
            raise ValueError(f"at most one of every, cron, oncalendar, after and members; got {' and '.join(kinds)}")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError("stages: two stages have the same name")
        if self.min_runtime and self.max_runtime and self.min_runtime >= self.max_runtime:
            raise ValueError("min_runtime must be shorter than max_runtime")
        if self.members is not None and (extra := [name for name in NOT_OF_FLEETS if getattr(self, name)]):
            raise ValueError(f"members: a fleet has no runs, so {' and '.join(extra)} would watch nothing")
        if self.members is not None and (self.fail_after, self.recover_after) != (1, 1):
            raise ValueError("members: use min_alive instead of fail_after and recover_after")
        return self

    @cached_property
    def repeat_within(self) -> Micros:
        """The same ping with the same run id within this is a retry.

        Never more than half the interval: a client may send one run id for ever.
        """
        return REPEAT_MAX if self.every is None else min(REPEAT_MAX, self.every // 2)

    @cached_property
    def runtime_default(self) -> Micros | None:
        """How long a run that said `start` may be open if no limit of the definition notices that it died."""
        limited = self.max_runtime is not None or self.quiet_for is not None or self.stall_for is not None
        return None if limited else RUNTIME_DEFAULT

    @cached_property
    def watches(self) -> bool:
        """Whether the definition holds an expectation that can be broken again and again; see `expects`."""
        within = (*(stage.within for stage in self.stages), *(each.within for each in self._groups))
        bounds = (*(getattr(self, name) for name in _EXPECTATIONS), *within)
        return self.overlap == "alert" or self.follows_tasks or any(each is not None for each in bounds)

    @property
    def _groups(self) -> list[Tasks]:
        return [each for each in (self.tasks, *(stage.tasks for stage in self.stages)) if each is not None]

    @cached_property
    def follows_tasks(self) -> bool:
        """Whether single tasks of the run or of a stage have a limit."""
        return any(each.follows for each in self._groups)

    def expects(self, has_pinged: bool) -> bool:
        """Whether anything is expected now. If not, only a `fail` opens an incident."""
        return self.watches or (self.first_within is not None and not has_pinged)

    @cached_property
    def is_plain(self) -> bool:
        """Whether a success of a healthy monitor changes only its last ping and its due time."""
        return self.members is None and self.at_most is None and self.after is None

    @cached_property
    def last_stage(self) -> str | None:
        """With it, and all before it, a run is complete."""
        return self.stages[-1].name if self.stages else None

    @cached_property
    def optional_stages(self) -> frozenset[str]:
        """Stages that are expected only after their first ping."""
        return frozenset(stage.name for stage in self.stages if stage.optional)

    @cached_property
    def stage_soonest(self) -> Micros | None:
        """No limit that begins with a ping of a stage ends sooner after it; None: none begins."""
        tasks = (stage.tasks.within for stage in self.stages if stage.tasks is not None)
        lengths = [length for length in (*(stage.within for stage in self.stages), *tasks) if length is not None]
        return min(lengths, default=None)

    def dump(self) -> dict[str, Any]:
        """As stored JSON, without what is at its default; `read_definition` gives the same definition back."""
        dumped = self.model_dump(mode="json", exclude_defaults=True)
        if "count_outages" in dumped:
            dumped[FORMER_COUNT_OUTAGES] = dumped.pop("count_outages")
        return dumped


def with_present_names(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A definition as it is stored, with the names that people see."""
    return {"count_outages" if name == FORMER_COUNT_OUTAGES else name: value for name, value in stored.items()}


def with_renamed_reference(stored: Mapping[str, Any], former: str, slug: str) -> dict[str, Any]:
    """A stored definition in which `after` and `depends_on` name a monitor by its new slug."""
    renamed = dict(stored)
    if "after" in renamed and renamed["after"]["monitor"] == former:
        renamed["after"] = {**renamed["after"], "monitor": slug}
    if "depends_on" in renamed:
        renamed["depends_on"] = list(dict.fromkeys(slug if each == former else each for each in renamed["depends_on"]))
    return renamed


def renamed_within(definition: Definition, former: str, slug: str) -> Definition:
    """The same for a definition that was read."""
    return load_definition(orjson.dumps(with_renamed_reference(definition.dump(), former, slug)).decode())


def read_definition(value: object) -> Definition:
    """A definition as people send it. Raises DefinitionError that names every wrong field and why."""
    try:
        return Definition.model_validate(value)
    except ValidationError as error:
        raise DefinitionError(problems_of(error, model=Definition)) from None


@lru_cache(maxsize=100_000)
def load_definition(text: str) -> Definition:
    """A definition from its stored JSON; equal texts give the same object."""
    return Definition.model_validate(orjson.loads(text), context=_STORED)
