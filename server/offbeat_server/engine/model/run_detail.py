"""Stages, tasks and progress of a run, and causes of an incident, as tables, the API and alerts show them.

`At` is how an instant is written: `Micros` in the engine and in the tables `runs` and `incidents`, RFC 3339 in the API
and in alerts.
"""

from typing import Annotated, Any, Generic, NotRequired, TypeVar

from pydantic import Field

# Pydantic cannot read the one of `typing` before Python 3.12.
from typing_extensions import TypedDict

from offbeat_server.engine.model.enums import CauseKind, HoldKind, StageStatus

At = TypeVar("At")
_PROGRESS = {"done": 45, "total": 100, "rate": 0.5, "eta": "2026-11-24T01:45:00Z"}
_STAGE = {"name": "load", "status": "running", "started_at": "2026-11-24T01:04:00Z", "finished_at": None}
_TASKS = {"expected": 8, "started": 8, "done": 6, "failed": 1, "failed_names": ["part-3"], "missing_count": 1}
_TASKS |= {"missing": ["part-4"]}
Rfc3339 = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


def field(description: str, example: Any, unit: str | None = None) -> Any:
    """The documentation of a field in JSON Schema: a sentence, an example and the unit of a quantity."""
    return Field(description=description, examples=[example], json_schema_extra={"x-unit": unit} if unit else None)


class ProgressDetail(TypedDict, Generic[At]):
    """How far a run or a task has come, by the numbers that its client sent."""

    done: Annotated[int, field("The latest count.", 45)]
    total: Annotated[int | None, field("The count at the end. Null: not known.", 100)]
    rate: Annotated[
        float | None, field("Counts per second since the first count. Null: not known yet.", 0.5, "1/second")
    ]
    eta: Annotated[
        At | None,
        field("The estimated instant of the end. Null: not known, or the run has ended.", "2026-11-24T01:45:00Z"),
    ]


class TaskProgressDetail(ProgressDetail[At], Generic[At]):
    """How far one running task has come."""

    task: Annotated[str, field("The name of the task.", "part-4")]


class TasksDetail(TypedDict, Generic[At]):
    """The tasks of a run or of a stage: how many have started and ended, and which of them did not end well."""

    expected: Annotated[int | None, field("The number of tasks that should come. Null: not known.", 8, "tasks")]
    started: Annotated[
        int,
        field("The number of tasks that have sent a ping, without those of `unexpected`.", 8, "tasks"),
    ]
    done: Annotated[int, field("The number of tasks that have ended well, without those of `unexpected`.", 6, "tasks")]
    failed: Annotated[int, field("The number of tasks that have failed and have not succeeded since.", 1, "tasks")]
    failed_names: Annotated[
        list[str], field("The names of failed tasks, in the order of their failures. An alert lists 20.", ["part-3"])
    ]
    missing_count: Annotated[int, field("The number of tasks that have not ended.", 1, "tasks")]
    missing: Annotated[
        list[str],
        field(
            "The names of tasks that have not ended: first those that have started, then expected names or numbers "
            "without any ping. An alert lists 20.",
            ["part-4"],
        ),
    ]
    unexpected: NotRequired[
        Annotated[
            int,
            field(
                "The number of tasks that have sent a ping and whose names are not expected. Absent: the definition "
                "lists no names.",
                1,
                "tasks",
            ),
        ]
    ]
    unexpected_names: NotRequired[
        Annotated[
            list[str],
            field("Their names. An alert lists 20.", ["part-9"]),
        ]
    ]
    progress: NotRequired[
        Annotated[
            list[TaskProgressDetail[At]],
            field(
                "The progress of running tasks that send counts. Absent: none does.",
                [{"task": "part-4", "done": 45, "total": 100, "rate": None, "eta": None}],
            ),
        ]
    ]


class StageDetail(TypedDict, Generic[At]):
    """A stage of a run."""

    name: Annotated[str, field("The name of the stage.", "load")]
    status: Annotated[
        StageStatus,
        field(
            "`waiting`: no ping yet. `running`, `done`, `failed`, `skipped`: by its latest ping. `unfinished` (it had "
            "started) and `not started`: only in a run that has ended.",
            "running",
        ),
    ]
    started_at: Annotated[At | None, field("When it started. Null: not known.", "2026-11-24T01:04:00Z")]
    finished_at: Annotated[At | None, field("When it ended. Null: it has not ended.", "2026-11-24T01:20:00Z")]
    tasks: NotRequired[Annotated[TasksDetail[At], field("The tasks of the stage. Absent: it has none.", _TASKS)]]


class RunDetail(TypedDict, Generic[At]):
    """How far a run has come. A part that the run does not have is absent."""

    stages: NotRequired[
        Annotated[
            list[StageDetail[At]],
            field("The stages: first the defined ones in their order, then others by their first ping.", [_STAGE]),
        ]
    ]
    tasks: NotRequired[Annotated[TasksDetail[At], field("The tasks of the run itself.", _TASKS)]]
    progress: NotRequired[Annotated[ProgressDetail[At], field("The progress of the run.", _PROGRESS)]]


class CauseDetail(TypedDict, Generic[At]):
    """One reason why a monitor is, or was, down."""

    kind: Annotated[CauseKind, field("The kind of the cause.", "failed")]
    opened_at: Annotated[At, field("When it was first recorded.", "2026-11-24T01:30:00Z")]
    reason: Annotated[str, field("The cause as a sentence.", "stage load failed with exit code 3 (run 42)")]
    number: NotRequired[Annotated[int, field("The number of the run. Absent: the cause is about no run.", 17)]]
    run: NotRequired[Annotated[str, field("The run id that the client sent. Absent: none.", "42")]]
    stage: NotRequired[Annotated[str, field("The stage of the run. Absent: the cause is about no stage.", "load")]]
    business_date: NotRequired[
        Annotated[str, field("The business date of the occurrence that failed. Absent: it has none.", "2026-11-30")]
    ]


class HoldDetail(TypedDict, Generic[At]):
    """Something that holds an alert back, or held it back."""

    kind: Annotated[
        HoldKind,
        field(
            "`dependency`: a monitor that this one depends on has an open incident, has just recovered, or has not "
            "been evaluated yet. `maintenance`: a maintenance window. `snooze`, `pause`: a person snoozed "
            "or paused the monitor.",
            "dependency",
        ),
    ]
    by: Annotated[
        str | None, field("The slug of that monitor, or the name of that window. Null: it has no name.", "database")
    ]
    started_at: Annotated[At, field("The instant from which it holds the alert back.", "2026-11-24T01:30:00Z")]
    ends_at: Annotated[
        At | None,
        field(
            "The instant up to which it holds the alert back: in the future while it does. Null: until the incident of "
            "that monitor is resolved, or the monitor is resumed.",
            "2026-11-24T06:00:00Z",
        ),
    ]


class RunEvidence(TypedDict, Generic[At], total=False):
    """The facts of an alert about the run or the ping that is its cause."""

    stage: str | None  # the stage at work, if it is the only one
    last_ping_at: At
    run_started_at: At | None
    run_finished_at: At | None
    last_message: str | None
    detail: RunDetail[At]
