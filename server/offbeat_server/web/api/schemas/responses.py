"""Response types of the management API: the OpenAPI document is generated from them, and tests validate responses.

Handlers build plain dicts (a page of a thousand monitors is not validated a second time on its way out). Instants are
RFC 3339 in UTC.
"""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from offbeat_server.engine.model.definition import Definition
from offbeat_server.engine.model.enums import Status, Verdict
from offbeat_server.engine.model.ping import Signal
from offbeat_server.engine.schedule.maintenance_windows import Window

Item = TypeVar("Item")
Instant = str


class Answer(BaseModel):
    """Fields may be added in later versions; clients must ignore fields that they do not know."""


class Page(Answer, Generic[Item]):
    """One page of a list. The list ends when `next_cursor` is null; a short page is not the end."""

    items: list[Item]
    next_cursor: str | None


class KeyAnswer(Answer):
    """An additional ping key of a monitor. `key` and `ping_url` are null if the access key is read-only."""

    key: str | None
    ping_url: str | None
    signal: Signal | None
    stage: str | None


class MonitorAnswer(Definition):
    """A monitor: its definition and its current state."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    slug: str
    project: str
    name: str
    status: Status = Field(description="`unwatched`: nothing is expected, so only a `fail` can make it `down`.")
    since: Instant | None = Field(description="When the current status began; null if not evaluated yet.")
    paused: bool
    snoozed_until: Instant | None
    key: str | None = Field(description="The main key; null if the access key is read-only.")
    ping_url: str | None
    keys: list[KeyAnswer] = Field(description="All keys except the main one.")
    last_ping_at: Instant | None
    last_signal: Signal | None
    due_at: Instant | None = Field(description="When the next ping is expected.")
    deadline_at: Instant | None = Field(description="When the expected ping counts as missed.")
    open_runs: int
    open_incident: str | None = Field(description="The id of the open incident.")
    alerts_to: list[str] = Field(description="The channels that receive its alerts.")
    warnings: list[str]
    rev: int
    created_at: Instant
    updated_at: Instant


class PingAnswer(Answer):
    """A ping in the log."""

    at: Instant
    signal: Signal
    run: str | None
    stage: str | None
    task: str | None
    done: int | None
    total: int | None
    exit_code: int | None
    duration: float | None
    message: str | None
    source: str | None
    dialect: str | None = Field(description="Null: Offbeat's own protocol.")


class RunAnswer(Answer):
    """One execution."""

    id: str
    monitor: str
    project: str
    number: int
    run: str | None = Field(description="The run id that the client sent.")
    verdict: Verdict | None = Field(
        description="Null: open. Runs that are `hung` or `incomplete` (pings may be lost in an outage) are open too."
    )
    reason: str | None
    started_at: Instant | None
    finished_at: Instant | None
    last_ping_at: Instant
    duration: float | None = Field(description="Seconds.")
    exit_code: int | None
    stages: list[dict[str, Any]]
    tasks: dict[str, Any] | None
    progress: dict[str, Any] | None


class MemberAnswer(Answer):
    """One worker of a fleet."""

    name: str
    last_ping_at: Instant
    silent_since: Instant | None = Field(description="The deadline that the member missed; null if it is alive.")


class Lengths(Answer):
    """Durations in seconds; null if there is none."""

    count: int
    median: float | None
    p95: float | None
    last: float | None


class StageLengths(Lengths):
    """Durations of one stage."""

    name: str


class DurationsAnswer(Answer):
    """Durations of the latest successful runs and of their stages."""

    runs: Lengths
    stages: list[StageLengths]


class IncidentAnswer(Answer):
    """An incident of a monitor."""

    id: str
    monitor: str
    project: str
    number: int
    opened_at: Instant
    resolved_at: Instant | None
    decided_at: Instant
    cause: str
    reason: str
    run: str | None
    stage: str | None
    causes: list[dict[str, Any]]
    suppressed_by: str | None
    revised: bool
    acknowledged_at: Instant | None
    acknowledged_by: str | None


class NoteAnswer(Answer):
    """A manual action on an incident, or a comment."""

    at: Instant
    by: str
    kind: Literal["acknowledge", "resolve", "comment"]
    comment: str | None


class AlertAnswer(Answer):
    """A message about an incident to one channel."""

    id: int
    project: str
    monitor: str | None
    incident: str | None
    channel: str | None
    kind: str
    state: str = Field(
        description="pending, delivered, dead, expired; collapsed: the recovery of an incident that is reported "
        "by the recovery of its digest, or whose opening did not reach this channel."
    )
    attempts: int
    error: str | None
    digest_alerts: int | None = Field(
        description="Number of alerts in the digest that contained it; null if sent by itself."
    )
    recovered_unsent: bool = Field(
        description="The incident was resolved before this opening was sent; the digest reports both."
    )
    created_at: Instant
    next_attempt_at: Instant | None
    settled_at: Instant | None
    expires_at: Instant | None


class IncidentDetail(IncidentAnswer):
    """An incident with its notes and alerts."""

    notes: list[NoteAnswer]
    alerts: list[AlertAnswer]


class ChannelAnswer(BaseModel):
    """A channel. Secrets are masked; a masked value that is sent back leaves the secret unchanged."""

    model_config = ConfigDict(extra="allow")

    slug: str
    project: str
    kind: str
    default: bool
    created_at: Instant
    updated_at: Instant
    failing_since: Instant | None = Field(description="When the channel was marked as failing; null if it is not.")
    failing_why: str | None
    new_secret: str | None = Field(
        None, description="The signing secret that this request has generated. It is shown only in this answer."
    )


class TestAnswer(Answer):
    """The result of a test message."""

    id: int
    state: str
    attempts: int
    error: str | None


class ProjectAnswer(Answer):
    """A project. `ping_key` and `badge_key` are null if the access key is read-only."""

    slug: str
    name: str
    ping_key: str | None
    badge_key: str | None
    metrics: bool
    badges: bool
    status_page: bool
    created_at: Instant


class WindowAnswer(Window):
    """A maintenance window."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    slug: str
    project: str
    open_until: Instant | None = Field(description="When the window that is open now ends; null if none is open.")
    created_at: Instant
    updated_at: Instant


class AccessKeyAnswer(Answer):
    """An access key. `key` is returned only by the request that creates it."""

    id: int
    name: str
    role: Literal["admin", "read", "ping"]
    project: str | None
    prefix: str
    created_at: Instant
    last_used_at: Instant | None
    revoked_at: Instant | None
    key: str | None = None


class FieldChange(Answer):
    """One field of a change."""

    field: str
    old: Any
    new: Any


class ItemChange(Answer):
    """The change of one monitor, channel, project or window."""

    kind: Literal["monitor", "channel", "project", "window"]
    project: str
    slug: str
    action: Literal["create", "change", "delete"]
    fields: list[FieldChange]


class Counts(Answer):
    """The number of items by outcome."""

    created: int
    changed: int
    deleted: int
    unchanged: int


class NewSecret(Answer):
    """A signing secret that was generated for a channel."""

    project: str
    channel: str
    secret: str


class ApplyAnswer(Answer):
    """The changes that an apply made, or would make in a dry run."""

    dry_run: bool
    counts: Counts
    changes: list[ItemChange]
    new_secrets: list[NewSecret] = Field(description="Signing secrets that were generated. They are shown only here.")


class EstateAnswer(Answer):
    """All definitions, in the format that `apply` accepts."""

    projects: list[dict[str, Any]]
    channels: list[dict[str, Any]]
    windows: list[dict[str, Any]]
    monitors: list[dict[str, Any]]


class ChangeAnswer(Answer):
    """An entry of the audit log, without keys and secrets."""

    rev: int
    at: Instant
    project: str | None
    actor: str
    kind: str
    subject: str
    action: Literal["create", "change", "delete"]
    fields: list[FieldChange]


class BadgeAnswer(Answer):
    """A badge in the format of shields.io."""

    schemaVersion: Literal[1]
    label: str
    message: str
    color: str


class ErrorItem(Answer):
    """An invalid field and the reason."""

    field: str
    reason: str


class ProblemAnswer(Answer):
    """A problem as in RFC 9457. `errors` lists each invalid field and the reason."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[ErrorItem] = Field(default_factory=list)
