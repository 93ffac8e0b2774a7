"""The data of an alert: decided by the engine, kept in the outbox, rendered, and sent as the body of a webhook.

One type has the fields of every kind, all optional: a row that an older version wrote may be without any of them, and a
program that reads must expect that. `CONTENT` lists which fields each kind has today. The published JSON Schema
(docs/reference/alert-payload.schema.json) is generated from both. Fields are added, never renamed or removed.

A word that an enum types is a plain string after it was JSON: compare it with `==`, not with `is`.
"""

from typing import Annotated, Generic, Literal, NamedTuple, NotRequired

from typing_extensions import TypedDict

from offbeat_server.engine.model.enums import AlertKind, CauseKind, Resolution, Status
from offbeat_server.engine.model.run_detail import At, HoldDetail, RunDetail, field

_AT = "2026-11-24T01:30:00.120000Z"
_CAUSE = {
    "cause": "failed",
    "reason": "stage load failed with exit code 3 (run 42)",
    "run": "42",
    "stage": "load",
    "business_date": "2026-11-23",
}
_DETAIL = {"progress": {"done": 45, "total": 100, "rate": 0.5, "eta": "2026-11-24T01:31:50.120000Z"}}
_HOLD = {"kind": "maintenance", "by": "deploy", "started_at": _AT, "ends_at": "2026-11-24T06:00:00Z"}
_FLAPPING = {"incidents": 5, "hold_s": 600.0, "held": False}
_FIRST = {"monitor": "nightly-etl", "name": "Nightly ETL", "kind": "opened", "incidents": 1, "explicit": True}


class CausePayload(TypedDict, Generic[At]):
    """One reason why the monitor is down, or was while the alert was held back."""

    cause: Annotated[CauseKind, field("The kind of the cause.", "failed")]
    reason: Annotated[str, field("The cause as a sentence.", "stage load failed with exit code 3 (run 42)")]
    run: Annotated[str | None, field("The run id that the client sent. Null: the cause is about no run.", "42")]
    stage: Annotated[str | None, field("The stage of the run. Null: the cause is about no stage.", "load")]
    business_date: NotRequired[
        Annotated[
            str | None, field("The business date of the occurrence that failed. Null: it has none.", "2026-11-23")
        ]
    ]
    opened_at: NotRequired[Annotated[At, field("When it was first recorded.", _AT)]]
    closed_at: NotRequired[
        Annotated[
            At,
            field(
                "When a later success closed the cause, while the alert was held back. Absent: it is open.",
                "2026-11-24T03:05:00Z",
            ),
        ]
    ]


class RunPayload(TypedDict):
    """A run that was a cause of the incident."""

    run: Annotated[str | None, field("The run id that the client sent. Null: it sent none.", "2026-11-23")]
    number: Annotated[int | None, field("The number of the run. Null: it was awaited and never began.", 41)]


class CommentPayload(TypedDict, Generic[At]):
    """A comment on the incident, also one that was given when it was acknowledged or resolved manually."""

    at: Annotated[At, field("When it was written.", "2026-11-24T02:10:00Z")]
    by: Annotated[str, field("The person or key that wrote it.", "admin")]
    text: Annotated[str, field("The text without secrets, on one line, at most 300 characters.", "disk replaced")]


class FlappingPayload(TypedDict):
    """How often the monitor has gone down, and what Offbeat does about it."""

    incidents: Annotated[int, field("The number of incidents of the monitor within an hour.", 5, "incidents")]
    hold_s: Annotated[
        float, field("How long the openings of further incidents are held back before they are sent.", 600.0, "seconds")
    ]
    held: Annotated[
        bool, field("True: this alert was held back. False: this one is sent, later ones are held back.", False)
    ]


class DigestItem(TypedDict, Generic[At], total=False):
    """The most important incident of one monitor in a digest."""

    monitor: Annotated[str, field("The slug of the monitor.", "nightly-etl")]
    name: Annotated[str, field("The name of the monitor.", "Nightly ETL")]
    project: Annotated[str, field("The slug of the project.", "default")]
    incident: Annotated[int, field("The number of the incident; it counts per monitor.", 12)]
    reason: Annotated[str, field("The worst cause as a sentence.", "failed with exit code 1")]
    cause: Annotated[CauseKind, field("The kind of the worst cause.", "failed")]
    opened_at: Annotated[At, field("When the incident opened.", _AT)]
    resolved_at: Annotated[At, field("When it was resolved. Absent: it is open.", "2026-11-24T03:05:00Z")]
    timezone: Annotated[str, field("The time zone of the monitor.", "Europe/Berlin")]
    kind: Annotated[AlertKind, field("The kind of its first alert in the digest.", "opened")]
    incidents: Annotated[int, field("The number of incidents of this monitor in the digest.", 1, "incidents")]
    explicit: Annotated[bool, field("Whether the job itself reported a failure.", True)]
    recovered: Annotated[bool, field("True: the digest has the opening and the recovery.", True)]
    last_message: Annotated[str, field("The end of the last message of the job, on one line.", "disk full")]
    said: Annotated[str, field("Deprecated: the former name of `last_message`.", "disk full")]
    other_reasons: Annotated[
        list[str], field("The other causes and incidents of this monitor, as sentences.", ["no ping by 02:10:00"])
    ]


class AlertPayload(TypedDict, Generic[At], total=False):
    """The fields of an alert. Which of them a kind has is in `CONTENT`."""

    kind: Annotated[
        AlertKind,
        field(
            "`opened`: an incident begins. `worse`: it became worse. `reminder`: it is still open. `resolved`: it is "
            "over. `operator`: about Offbeat itself or a channel. `test`: a test message. `digest`: several alerts in "
            "one message. `over`: every incident of an earlier digest is resolved.",
            "opened",
        ),
    ]
    project: Annotated[str | None, field("The slug of the project. Null: it was deleted.", "default")]
    monitor: Annotated[str, field("The slug of the monitor.", "nightly-etl")]
    name: Annotated[str, field("The name of the monitor.", "Nightly ETL")]
    tags: Annotated[list[str], field("The tags of the monitor.", ["etl", "prod"])]
    timezone: Annotated[str, field("The time zone of the monitor, in which sentences write times.", "Europe/Berlin")]
    incident: Annotated[int, field("The number of the incident; it counts per monitor, from 1.", 12)]
    status: Annotated[
        Literal[Status.DOWN, Status.UP],
        field("The status of the monitor: `down`, or `up` if the incident is resolved.", "down"),
    ]
    cause: Annotated[
        CauseKind | Literal["deaf", "channel"],
        field(
            "The kind of the worst cause, or the subject of an operator alert: `deaf` (Offbeat could not receive "
            "pings) or `channel` (alerts do not arrive).",
            "failed",
        ),
    ]
    reason: Annotated[str, field("The worst cause as a sentence.", "stage load failed with exit code 3 (run 42)")]
    run: Annotated[str | None, field("The run id that the client sent. Null: the cause is about no run.", "42")]
    stage: Annotated[str | None, field("The stage that failed or was running. Null: there is none.", "load")]
    business_date: Annotated[
        str | None, field("The business date of the worst cause. Null: it has none.", "2026-11-23")
    ]
    causes: Annotated[
        list[CausePayload[At]],
        field(
            "The open causes of the incident, and the failures that were closed while the alert was held back; the one "
            "of `reason` first.",
            [_CAUSE],
        ),
    ]
    opened_at: Annotated[At, field("When the incident opened, or the outage began.", _AT)]
    resolved_at: Annotated[At | None, field("When it ended. Null: it is open.", "2026-11-24T03:05:00Z")]
    resolution: Annotated[Resolution | None, field("How the incident ended. Null: it is open.", "recovered")]
    recovered_by: Annotated[
        str, field("The run or ping that ended the last cause. Absent: no ping did.", "run 43 for 2026-11-23")
    ]
    decided_at: Annotated[
        At, field("When Offbeat decided to send the alert; of a digest, the latest of its alerts.", _AT)
    ]
    due_at: Annotated[At | None, field("When the next ping is expected. Null: at no certain time.", _AT)]
    last_ping_at: Annotated[At | None, field("The last ping of the monitor or the run. Null: there was none.", _AT)]
    expected: Annotated[str, field("The expectation of the monitor, as a sentence.", "a ping every 5 min")]
    held_back: Annotated[
        str,
        field(
            "How long the alert was held back, and by what, as a sentence.",
            "1 h 10 min, by dependency db until 00:11:40",
        ),
    ]
    held: Annotated[list[HoldDetail[At]], field("The holds that delayed the alert, in order.", [_HOLD])]
    run_started_at: Annotated[At | None, field("When the run of the cause started. Null: not known.", _AT)]
    run_finished_at: Annotated[At | None, field("When the run of the cause ended. Null: it has not ended.", _AT)]
    last_message: Annotated[
        str | None, field("The end of the last message of the job, without secrets. Null: none.", "ValueError: boom")
    ]
    detail: Annotated[RunDetail[At], field("The stages, tasks and progress of the run of the cause.", _DETAIL)]
    usual: Annotated[
        str, field("How long successful runs usually take, and this one.", "usually 12 min, this one has taken 30 min")
    ]
    flapping: Annotated[
        FlappingPayload, field("Present if the monitor has at least 5 incidents within an hour.", _FLAPPING)
    ]
    runs: Annotated[
        list[RunPayload],
        field(
            "The first 10 runs that were a cause of the incident, also those whose causes closed before it resolved. "
            "Absent: no cause was about a run.",
            [{"run": "2026-11-23", "number": 41}],
        ),
    ]
    runs_count: Annotated[
        int, field("The number of runs that were a cause. At most 100 are counted for each incident.", 2, "runs")
    ]
    acknowledged_at: Annotated[
        At | None, field("When the incident was acknowledged. Null: it was not.", "2026-11-24T02:00:00Z")
    ]
    acknowledged_by: Annotated[
        str | None, field("The person or key that acknowledged the incident. Null: it was not acknowledged.", "admin")
    ]
    comments: Annotated[
        list[CommentPayload[At]],
        field(
            "The last 3 comments on the incident, the oldest first.",
            [{"at": "2026-11-24T02:10:00Z", "by": "admin", "text": "disk replaced"}],
        ),
    ]
    comments_count: Annotated[int, field("The number of comments on the incident.", 1, "comments")]
    channels: Annotated[list[str], field("The slugs of the channels at which alerts do not arrive.", ["oncall"])]
    by: Annotated[str, field("The person or key that asked for the test message.", "admin")]
    alerts: Annotated[int, field("The number of alerts in the digest.", 17, "alerts")]
    opened: Annotated[int, field("The number of `opened` alerts in the digest.", 12, "alerts")]
    worse: Annotated[int, field("The number of `worse` alerts in the digest.", 1, "alerts")]
    reminder: Annotated[int, field("The number of `reminder` alerts in the digest.", 0, "alerts")]
    resolved: Annotated[int, field("The number of `resolved` alerts in the digest.", 4, "alerts")]
    recovered: Annotated[
        int, field("The number of incidents whose opening and recovery are both in the digest.", 3, "incidents")
    ]
    since: Annotated[At | None, field("The first opening or recovery in the digest.", _AT)]
    until: Annotated[At | None, field("The last opening or recovery in the digest.", _AT)]
    first: Annotated[
        list[DigestItem[At]], field("The most important incidents of the digest, at most 20 monitors.", [_FIRST])
    ]
    closes: Annotated[int, field("The internal number of the digest whose incidents are all resolved.", 3)]


class Content(NamedTuple):
    """Which fields an alert has, for the kinds that have the same ones."""

    about: str
    kinds: tuple[AlertKind, ...]
    always: tuple[str, ...]
    sometimes: tuple[str, ...] = ()


CONTENT: dict[str, Content] = {
    "IncidentAlert": Content(
        "An alert about an incident of a monitor.",
        (AlertKind.OPENED, AlertKind.WORSE, AlertKind.REMINDER, AlertKind.RESOLVED),
        (
            *("kind", "project", "monitor", "name", "tags", "timezone", "incident", "status", "cause", "reason", "run"),
            *("stage", "causes", "opened_at", "resolved_at", "resolution", "decided_at", "due_at", "last_ping_at"),
            "expected",
        ),
        (
            *("held_back", "held", "run_started_at", "run_finished_at", "last_message", "detail", "usual", "flapping"),
            *("runs", "runs_count", "acknowledged_at", "acknowledged_by", "comments", "comments_count"),
            *("business_date", "recovered_by"),
        ),
    ),
    "OperatorAlert": Content(
        "An alert about Offbeat itself or about one of its channels.",
        (AlertKind.OPERATOR,),
        ("kind", "project", "cause", "reason"),
        ("opened_at", "resolved_at", "channels"),
    ),
    "TestMessage": Content("A test message that a person asked for.", (AlertKind.TEST,), ("kind", "project", "by")),
    "Digest": Content(
        "Several alerts in one message.",
        (AlertKind.DIGEST,),
        (
            *("kind", "project", "alerts", "opened", "worse", "reminder", "resolved", "recovered", "since", "until"),
            *("decided_at", "first"),
        ),
    ),
    "DigestRecovered": Content(
        "Every incident of an earlier digest is resolved.", (AlertKind.OVER,), ("kind", "alerts", "closes")
    ),
}
