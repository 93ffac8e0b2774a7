"""Response types of the management API: the OpenAPI document is generated from them, and tests validate responses.

Handlers build plain dicts (a page of a thousand monitors is not validated a second time on its way out). Instants are
RFC 3339 in UTC.
"""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from offbeat_server.engine.model.definition import Definition
from offbeat_server.engine.model.enums import AlertKind, AlertState, CauseKind, Status, Verdict
from offbeat_server.engine.model.ping import Signal
from offbeat_server.engine.model.run_detail import (
    CauseDetail,
    HoldDetail,
    ProgressDetail,
    Rfc3339,
    StageDetail,
    TasksDetail,
)
from offbeat_server.engine.schedule.maintenance_windows import Window

ListItem = TypeVar("ListItem")
ChangeKind = Literal[
    "monitor",
    "channel",
    "project",
    "window",
    "key",
    "move",
    "pause",
    "resume",
    "snooze",
    "acknowledge",
    "resolve",
    "comment",
    "close",
]


class Answer(BaseModel):
    """Fields may be added in later versions; clients must ignore fields that they do not know."""


class Page(Answer, Generic[ListItem]):
    """One page of a list. The list ends when `next_cursor` is null; a short page is not the end."""

    items: list[ListItem] = Field(description="The items of this page.")
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page. Null: this is the last page.")


class KeyAnswer(Answer):
    """An additional ping key of a monitor. `key` and `ping_url` are null if the access key is read-only."""

    key: str | None = Field(description="The key.")
    ping_url: str | None = Field(description="The address that takes pings with this key.")
    signal: Signal | None = Field(description="The only signal that the key stands for. Null: any.")
    stage: str | None = Field(description="The only stage that the key stands for. Null: any.")


class MonitorAnswer(Definition):
    """A monitor: its definition and its current state."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    slug: str = Field(description="Its name in addresses, unique in the project.")
    project: str = Field(description="The slug of the project.")
    name: str = Field(description="The display name.")
    status: Status = Field(description="`unwatched`: nothing is expected, so only a `fail` can make it `down`.")
    since: Rfc3339 | None = Field(description="When the current status began; null if not evaluated yet.")
    paused: bool = Field(description="True: nothing is evaluated.")
    snoozed_until: Rfc3339 | None = Field(description="No alerts before this instant. Null: not snoozed.")
    key: str | None = Field(description="The main key; null if the access key is read-only.")
    ping_url: str | None = Field(
        description="The address that takes pings with the main key; null if the access key is read-only."
    )
    keys: list[KeyAnswer] = Field(description="All keys except the main one.")
    last_ping_at: Rfc3339 | None = Field(description="The last ping. Null: none yet.")
    last_signal: Signal | None = Field(description="The signal of the last ping. Null: none yet.")
    due_at: Rfc3339 | None = Field(description="When the next ping is expected.")
    deadline_at: Rfc3339 | None = Field(description="When the expected ping counts as missed.")
    open_runs: int = Field(description="The number of open runs.")
    open_incident: str | None = Field(description="The id of the open incident.")
    alerts_to: list[str] = Field(description="The channels that receive its alerts.")
    warnings: list[str] = Field(description="Problems of the definition that are no errors, as sentences.")
    rev: int = Field(description="The number of its last change; it grows with every change in the installation.")
    created_at: Rfc3339 = Field(description="When it was created.")
    updated_at: Rfc3339 = Field(description="When its definition was last changed.")


class PingAnswer(Answer):
    """A ping in the log."""

    at: Rfc3339 = Field(description="When it was accepted, in log time.")
    signal: Signal = Field(description="The signal of the ping.")
    run: str | None = Field(description="The run id that the client sent. Null: none.")
    stage: str | None = Field(description="The stage that it belongs to. Null: none.")
    task: str | None = Field(description="The task that it belongs to. Null: none.")
    done: int | None = Field(description="The count so far. Null: not sent.")
    total: int | None = Field(description="The count at the end. Null: not sent.")
    exit_code: int | None = Field(description="The exit code of the job. Null: not sent.")
    duration: float | None = Field(description="The duration that the client sent, in seconds. Null: not sent.")
    message: str | None = Field(description="The output of the job, shortened in the middle. Null: none.")
    source: str | None = Field(description="The address of the client. Null: not recorded.")
    dialect: str | None = Field(description="Null: Offbeat's own protocol.")
    business_date: str | None = Field(description="The business date that the client sent. Null: none.")
    backfill: bool = Field(description="Whether the client sent `backfill`.")
    attempt: int | None = Field(description="The number of the attempt that the client sent. Null: none.")
    execution: str | None = Field(description="The id of the execution that the client sent. Null: none.")


class RunAnswer(Answer):
    """One execution."""

    id: str = Field(description="Its id in addresses.")
    monitor: str = Field(description="The slug of the monitor.")
    project: str = Field(description="The slug of the project.")
    number: int = Field(description="Its number; it counts per monitor, from 1.")
    run: str | None = Field(description="The run id that the client sent.")
    business_date: str | None = Field(
        description="Its business date: `2026-11-30`, `2026-11-30T02:00` or any label that the client sent. Null: none."
    )
    backfill: bool = Field(description="Whether it makes up for an earlier occurrence.")
    attempt: int | None = Field(
        description="Which attempt at its business date it is: as the client sent it, otherwise counted. Null: no date."
    )
    execution: str | None = Field(description="The id of the execution that started it. Null: not sent.")
    verdict: Verdict | None = Field(
        description="Null: open. Runs that are `hung` or `unverified` (pings may be lost in an outage) are open too."
    )
    reason: str | None = Field(description="Why the verdict is what it is. Null: no reason is needed.")
    started_at: Rfc3339 | None = Field(description="When it started. Null: its start was not received.")
    finished_at: Rfc3339 | None = Field(description="When it ended. Null: it is open.")
    last_ping_at: Rfc3339 = Field(description="Its last ping.")
    duration: float | None = Field(description="Seconds.")
    exit_code: int | None = Field(description="The exit code of the job. Null: not sent.")
    stages: list[StageDetail[Rfc3339]] = Field(
        description="Its stages: first the defined ones in their order, then others by their first ping."
    )
    tasks: TasksDetail[Rfc3339] | None = Field(description="Its tasks that belong to no stage. Null: it has none.")
    progress: ProgressDetail[Rfc3339] | None = Field(description="Its progress. Null: it has sent no counts.")
    detail_as_of: Rfc3339 | None = Field(
        description="`stages`, `tasks` and `progress` include only the pings until this instant: the run has sent more "
        "than 60,000 pings since its last stored state, or it is not among the first 50 open runs of the list. Null: "
        "they include all pings."
    )


class MemberAnswer(Answer):
    """One worker of a fleet."""

    name: str = Field(description="The name of the member.")
    last_ping_at: Rfc3339 = Field(description="Its last ping.")
    silent_since: Rfc3339 | None = Field(description="The deadline that the member missed; null if it is alive.")


class Lengths(Answer):
    """Durations in seconds; null if there is none."""

    count: int = Field(description="The number of runs that were measured.")
    median: float | None = Field(description="The median, in seconds.")
    p95: float | None = Field(description="95 % of them took at most this long, in seconds.")
    last: float | None = Field(description="The latest, in seconds.")


class StageLengths(Lengths):
    """Durations of one stage."""

    name: str = Field(description="The name of the stage.")


class DurationsAnswer(Answer):
    """Durations of the latest successful runs and of their stages."""

    runs: Lengths = Field(description="Durations of whole runs.")
    stages: list[StageLengths] = Field(description="Durations of each stage.")


class IncidentAnswer(Answer):
    """An incident of a monitor."""

    id: str = Field(description="Its id in addresses.")
    monitor: str = Field(description="The slug of the monitor.")
    project: str = Field(description="The slug of the project.")
    number: int = Field(description="Its number; it counts per monitor, from 1.")
    opened_at: Rfc3339 = Field(
        description="When it opened: the deadline that was missed, or the ping that reported the failure."
    )
    resolved_at: Rfc3339 | None = Field(description="When it ended. Null: it is open.")
    decided_at: Rfc3339 = Field(description="When Offbeat decided the last change of it.")
    cause: CauseKind = Field(description="The kind of its worst cause.")
    reason: str = Field(description="Its worst cause as a sentence.")
    run: str | None = Field(description="The run id of the worst cause. Null: it is about no run.")
    stage: str | None = Field(description="The stage of the worst cause. Null: it is about no stage.")
    causes: list[CauseDetail[Rfc3339]] = Field(description="Its causes, the worst first.")
    suppressed_by: str | None = Field(
        description="The monitor whose own incident explains this one, so that no alert is sent. Null: none."
    )
    held: list[HoldDetail[Rfc3339]] = Field(
        description="The holds that delay or delayed its alerts, in order. One holds the next alert back now if "
        "`ends_at` is null or in the future."
    )
    revised: bool = Field(description="True: a later ping or a repair has changed it after it was recorded.")
    acknowledged_at: Rfc3339 | None = Field(description="When a person acknowledged it. Null: not acknowledged.")
    acknowledged_by: str | None = Field(description="The person or key that acknowledged it. Null: not acknowledged.")


class ReferenceAnswer(Answer):
    """A reference to a monitor that was renamed (it has the new slug now) or moved (it was removed)."""

    kind: Literal["monitor", "window"] = Field(description="The kind of the object that names the monitor.")
    slug: str = Field(description="The slug of that object.")
    field: Literal["after", "depends_on", "monitors"] = Field(description="Its field.")


class MovedAnswer(Answer):
    """A monitor at its new address."""

    monitor: MonitorAnswer = Field(description="The monitor.")
    references: list[ReferenceAnswer] = Field(
        description="References that were changed by a rename, or removed by a move to another project."
    )


class NoteAnswer(Answer):
    """A manual action on an incident, or a comment."""

    at: Rfc3339 = Field(description="When it was recorded.")
    by: str = Field(description="The person or key that acted.")
    kind: Literal["acknowledge", "resolve", "comment"] = Field(description="The action.")
    comment: str | None = Field(description="The text. Null: none.")


class AlertAnswer(Answer):
    """A message about an incident to one channel."""

    id: int = Field(description="Its id in addresses.")
    project: str = Field(description="The slug of the project.")
    monitor: str | None = Field(description="The slug of the monitor. Null: the alert is about no monitor.")
    incident: str | None = Field(description="The id of the incident. Null: the alert is about no incident.")
    channel: str | None = Field(description="The slug of the channel. Null: the log of the server.")
    kind: AlertKind = Field(description="The kind of the alert.")
    state: AlertState = Field(
        description="`dead`: given up after failed attempts. `expired`: too old to be sent. `collapsed`: cancelled, "
        "because the recovery of a digest reports this recovery, or because the opening did not reach this channel."
    )
    attempts: int = Field(description="The number of attempts to send it.")
    error: str | None = Field(description="Why the last attempt failed. Null: it did not.")
    digest_alerts: int | None = Field(
        description="Number of alerts in the digest that contained it; null if sent by itself."
    )
    recovered_unsent: bool = Field(
        description="The incident was resolved before this opening was sent; the digest reports both."
    )
    created_at: Rfc3339 = Field(description="When it was decided.")
    next_attempt_at: Rfc3339 | None = Field(description="When the next attempt may begin. Null: there is none.")
    settled_at: Rfc3339 | None = Field(description="When its final state was reached. Null: it is pending.")
    expires_at: Rfc3339 | None = Field(description="When attempts end. Null: not set.")


class IncidentDetail(IncidentAnswer):
    """An incident with its notes and alerts."""

    notes: list[NoteAnswer] = Field(description="Manual actions and comments, the oldest first.")
    alerts: list[AlertAnswer] = Field(description="Its latest 200 alerts, the oldest first.")


class ChannelAnswer(BaseModel):
    """A channel. Secrets are masked; a masked value that is sent back leaves the secret unchanged."""

    model_config = ConfigDict(extra="allow")

    slug: str = Field(description="Its name in addresses, unique in the project.")
    project: str = Field(description="The slug of the project.")
    kind: str = Field(description="The kind of the channel.")
    default: bool = Field(description="Used by every monitor of the project whose `channels` is null.")
    created_at: Rfc3339 = Field(description="When it was created.")
    updated_at: Rfc3339 = Field(description="When it was last changed.")
    failing_since: Rfc3339 | None = Field(description="When the channel was marked as failing; null if it is not.")
    failing_reason: str | None = Field(description="The error that marked it as failing. Null: it is not marked.")
    failing_why: str | None = Field(deprecated=True, description="Deprecated: the former name of `failing_reason`.")
    new_secret: str | None = Field(
        None, description="The signing secret that this request has generated. It is shown only in this answer."
    )


class TestAnswer(Answer):
    """The result of a test message."""

    id: int = Field(description="The id of the test message.")
    state: AlertState = Field(description="The state after the first attempt; `pending`: not finished within 20 s.")
    attempts: int = Field(description="The number of attempts.")
    error: str | None = Field(description="Why the attempt failed. Null: it did not.")


class ProjectAnswer(Answer):
    """A project. `ping_key` and `badge_key` are null if the access key is read-only."""

    slug: str = Field(description="Its name in addresses.")
    name: str = Field(description="The display name.")
    ping_key: str | None = Field(description="The key of pings that name a monitor by its slug.")
    badge_key: str | None = Field(description="The key in the addresses of badges and of the status page.")
    metrics: bool = Field(description="Whether the metrics of its monitors are served.")
    badges: bool = Field(description="Whether its badges are served.")
    status_page: bool = Field(description="Whether its status page is served.")
    created_at: Rfc3339 = Field(description="When it was created.")


class WindowAnswer(Window):
    """A maintenance window."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    slug: str = Field(description="Its name in addresses, unique in the project.")
    project: str = Field(description="The slug of the project.")
    open_until: Rfc3339 | None = Field(description="When the window that is open now ends; null if none is open.")
    created_at: Rfc3339 = Field(description="When it was created.")
    updated_at: Rfc3339 = Field(description="When it was last changed.")


class AccessKeyAnswer(Answer):
    """An access key. `key` is returned only by the request that creates it."""

    id: int = Field(description="Its id in addresses.")
    name: str = Field(description="The name that its creator gave it.")
    role: Literal["admin", "read", "ping"] = Field(description="The rights of the key.")
    project: str | None = Field(description="The slug of the only project that it may use. Null: all projects.")
    prefix: str = Field(description="The beginning of the key, by which a person recognizes it.")
    created_at: Rfc3339 = Field(description="When it was created.")
    last_used_at: Rfc3339 | None = Field(description="When it was last used. Null: never.")
    revoked_at: Rfc3339 | None = Field(description="When it was revoked. Null: it is valid.")
    key: str | None = Field(
        None, description="The key itself. Null: except in the answer of the request that created it."
    )


class FieldChange(Answer):
    """One field of a change."""

    field: str = Field(description="The name of the field.")
    old: Any = Field(description="The value before. Null: not set. Secrets are hidden.")
    new: Any = Field(description="The value after. Null: not set. Secrets are hidden.")


class ItemChange(Answer):
    """The change of one monitor, channel, project or window."""

    kind: Literal["monitor", "channel", "project", "window"] = Field(description="The kind of the item.")
    project: str = Field(description="The slug of the project.")
    slug: str = Field(description="The slug of the item.")
    action: Literal["create", "change", "delete"] = Field(description="The kind of change.")
    fields: list[FieldChange] = Field(description="The fields that differ.")


class Counts(Answer):
    """The number of items by outcome."""

    created: int = Field(description="The number of new items.")
    changed: int = Field(description="The number of changed items.")
    deleted: int = Field(description="The number of deleted items.")
    unchanged: int = Field(description="The number of items that were as wanted.")


class NewSecret(Answer):
    """A signing secret that was generated for a channel."""

    project: str = Field(description="The slug of the project.")
    channel: str = Field(description="The slug of the channel.")
    secret: str = Field(description="The signing secret.")


class ApplyAnswer(Answer):
    """The changes that an apply made, or would make in a dry run."""

    dry_run: bool = Field(description="True: nothing was changed.")
    counts: Counts = Field(description="How many items had each outcome.")
    changes: list[ItemChange] = Field(description="The changes, item by item.")
    new_secrets: list[NewSecret] = Field(description="Signing secrets that were generated. They are shown only here.")


# `x-list` names the type of an item; web/api/openapi.py writes the reference to it.
class ExportAnswer(Answer):
    """All definitions, in the format that `apply` accepts."""

    projects: Annotated[list[dict[str, Any]], WithJsonSchema({"x-list": "ListedProject"})] = Field(
        description="The projects."
    )
    channels: Annotated[list[dict[str, Any]], WithJsonSchema({"x-list": "ListedChannel"})] = Field(
        description="The channels; their secrets are masked."
    )
    windows: Annotated[list[dict[str, Any]], WithJsonSchema({"x-list": "ListedWindow"})] = Field(
        description="The maintenance windows."
    )
    monitors: Annotated[list[dict[str, Any]], WithJsonSchema({"x-list": "ListedMonitor"})] = Field(
        description="The monitors with their ping keys."
    )


class ChangeAnswer(Answer):
    """An entry of the audit log, without keys and secrets."""

    rev: int = Field(description="The number of the change.")
    at: Rfc3339 = Field(description="When it was made.")
    project: str | None = Field(description="The slug of the project. Null: it concerns no project.")
    actor: str = Field(description="The person, key or part of Offbeat that made it.")
    kind: ChangeKind = Field(description="The kind of the item, or the action.")
    subject: str = Field(description="The slug or name of the item.")
    action: Literal["create", "change", "delete"] = Field(description="The kind of change.")
    fields: list[FieldChange] = Field(description="The fields that differ.")


class BadgeAnswer(Answer):
    """A badge in the format of shields.io."""

    schemaVersion: Literal[1] = Field(description="The version of the format of shields.io.")
    label: str = Field(description="The left side of the badge.")
    message: str = Field(description="The right side of the badge.")
    color: str = Field(description="The colour of the right side, as `#rrggbb`.")


class ErrorItem(Answer):
    """An invalid field and the reason."""

    field: str = Field(description="The path of the field, such as `stages.2.within`. Empty: the whole body.")
    reason: str = Field(description="Why it is invalid.")


class ProblemAnswer(Answer):
    """A problem as in RFC 9457. `errors` lists each invalid field and the reason."""

    type: str = Field(description="A URN that names the kind of problem.")
    title: str = Field(description="The phrase of the status.")
    status: int = Field(description="The status of the response.")
    detail: str = Field(description="This problem, as a sentence.")
    instance: str = Field(description="The path of the request.")
    errors: list[ErrorItem] = Field(default_factory=list, description="Each invalid field and the reason.")
