"""What the management API answers, as types: the OpenAPI document is made of them, and the tests hold answers to them.

Handlers build plain dicts (a page of a thousand monitors is not validated a second time on its way out). Instants are
RFC 3339 in UTC.
"""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from server.engine.expectation import Status
from server.engine.monitor import Definition
from server.engine.ping import Signal
from server.engine.windows import Window

Item = TypeVar("Item")
Instant = str


class Answer(BaseModel):
    """Fields may be added in later versions; clients pass over what they do not know."""


class Page(Answer, Generic[Item]):
    """A part of a list. The end is where there is no `next_cursor`, not where a page is short."""

    items: list[Item]
    next_cursor: str | None


class KeyAnswer(Answer):
    """A key beside the main one. Key and address are null for who may only read."""

    key: str | None
    ping_url: str | None
    signal: Signal | None
    stage: str | None


class MonitorAnswer(Definition):
    """A monitor: its definition and how it is."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    slug: str
    project: str
    name: str
    status: Status = Field(description="`unwatched`: it expects nothing, so only a `fail` can make it `down`.")
    since: Instant | None = Field(description="Since when the keeper has called it so; null: not judged yet.")
    paused: bool
    snoozed_until: Instant | None
    key: str | None = Field(description="The main key; null for who may only read.")
    ping_url: str | None
    keys: list[KeyAnswer] = Field(description="The keys beside the main one.")
    last_ping_at: Instant | None
    last_signal: Signal | None
    due_at: Instant | None = Field(description="When the next ping is expected.")
    deadline_at: Instant | None = Field(description="When its absence is judged.")
    open_runs: int
    open_incident: str | None = Field(description="The id of the open incident.")
    alerts_to: list[str] = Field(description="The channels that its alerts go to.")
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
    dialect: str | None = Field(description="Null: Offbeat's own.")


class RunAnswer(Answer):
    """One execution."""

    id: str
    monitor: str
    project: str
    number: int
    run: str | None = Field(description="The id that the client gave it.")
    verdict: Literal["succeeded", "failed", "hung", "incomplete", "superseded", "unknown"] | None = Field(
        description="Null: open. `hung` and `incomplete` (pings may be lost in an outage) are open too."
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
    silent_since: Instant | None = Field(description="The deadline that it missed; null: it is alive.")


class Lengths(Answer):
    """How long something took, in seconds; null where it never happened."""

    count: int
    median: float | None
    p95: float | None
    last: float | None


class StageLengths(Lengths):
    """How long a stage took."""

    name: str


class DurationsAnswer(Answer):
    """How long the latest successful runs took, and their stages."""

    runs: Lengths
    stages: list[StageLengths]


class IncidentAnswer(Answer):
    """An episode of trouble."""

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
    """What somebody did to an incident."""

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
        description="pending, delivered, dead, expired; collapsed: the end of an incident that the end of its digest "
        "reports, or whose opening did not reach this channel."
    )
    attempts: int
    error: str | None
    digest_alerts: int | None = Field(description="Sent in a digest of so many alerts. Null: sent by itself.")
    recovered_unsent: bool = Field(
        description="The incident was over before this opening was sent; the digest reports both."
    )
    created_at: Instant
    next_attempt_at: Instant | None
    settled_at: Instant | None
    expires_at: Instant | None


class IncidentDetail(IncidentAnswer):
    """An episode of trouble with what people did and what was sent."""

    notes: list[NoteAnswer]
    alerts: list[AlertAnswer]


class ChannelAnswer(BaseModel):
    """A channel; what is secret is masked, and a masked value that is sent back stays as it is."""

    model_config = ConfigDict(extra="allow")

    slug: str
    project: str
    kind: str
    default: bool
    created_at: Instant
    updated_at: Instant
    failing_since: Instant | None = Field(description="Since when the channel is marked as failing. Null: it is not.")
    failing_why: str | None


class TestAnswer(Answer):
    """How the test message fared."""

    id: int
    state: str
    attempts: int
    error: str | None


class ProjectAnswer(Answer):
    """A project. Ping key and badge key are null for who may only read."""

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
    open_until: Instant | None = Field(description="When the window that is open now ends; null: none is open.")
    created_at: Instant
    updated_at: Instant


class AccessKeyAnswer(Answer):
    """An access key; the key itself is shown only in the answer to its creation."""

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
    """What happens to one thing of an estate."""

    kind: Literal["monitor", "channel", "project", "window"]
    project: str
    slug: str
    action: Literal["create", "change", "delete"]
    fields: list[FieldChange]


class Counts(Answer):
    """How many of each."""

    created: int
    changed: int
    deleted: int
    unchanged: int


class ApplyAnswer(Answer):
    """What an estate changed, or would change."""

    dry_run: bool
    counts: Counts
    changes: list[ItemChange]


class EstateAnswer(Answer):
    """An estate, as `apply` reads it back."""

    projects: list[dict[str, Any]]
    channels: list[dict[str, Any]]
    windows: list[dict[str, Any]]
    monitors: list[dict[str, Any]]


class ChangeAnswer(Answer):
    """A row of the audit log; keys and secrets are left out."""

    rev: int
    at: Instant
    project: str | None
    actor: str
    kind: str
    subject: str
    action: Literal["create", "change", "delete"]
    fields: list[FieldChange]


class BadgeAnswer(Answer):
    """A badge as shields.io reads it."""

    schemaVersion: Literal[1]
    label: str
    message: str
    color: str


class ErrorItem(Answer):
    """One thing that is wrong with one field."""

    field: str
    reason: str


class ProblemAnswer(Answer):
    """RFC 9457. `errors` names each field and why."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[ErrorItem] = Field(default_factory=list)
