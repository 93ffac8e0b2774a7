"""Request bodies and query parameters of the management API, with their limits.

The same types validate a request, name the invalid fields, and describe themselves in the OpenAPI document. Monitors,
channels, windows and projects are in services/documents.py, because forms and files have the same fields.
"""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from offbeat_server.engine.model.definition import Duration, Slug, StageName
from offbeat_server.engine.model.enums import AlertState, Status, Verdict
from offbeat_server.engine.model.ping import (
    ATTEMPT_MAX,
    BUSINESS_DATE_CHARS_MAX,
    EXECUTION_CHARS_MAX,
    EXIT_CODE_MAX,
    EXIT_CODE_MIN,
    Ping,
    PingOptions,
    Signal,
)
from offbeat_server.ingest.protocols.parsing.ids import canonical_run, read_id
from offbeat_server.services.documents import InputDocument, MonitorBody, Name

CLOSE_REASON_CHARS_MAX = 500

# As pings store it, for any length and any encoding of `+` and spaces.
RunSought = Annotated[str, Field(max_length=2_000), AfterValidator(lambda run: read_id("run", run)[0])]


class NewMonitor(MonitorBody):
    """A monitor to create. An omitted slug is generated from the name."""

    slug: Slug | None = Field(None, description="None: generated from the name.")


class NewAddress(InputDocument):
    """The new address of a monitor. A field that is left out stays as it is."""

    slug: Slug | None = Field(None, description="The new slug. None: as it is.")
    project: Slug | None = Field(None, description="Slug of the new project. None: as it is.")
    drop_references: bool = Field(
        False,
        description="Into another project: remove the `after` and `depends_on` by which this monitor and others of its "
        "former project name one another. Otherwise such a move is refused.",
    )


class NewSecretBody(InputDocument):
    """How to generate a signing secret."""

    keep_former: bool = Field(
        True, description="Sign with the former secrets too, five in all. False: only the new one signs from now on."
    )


class Pause(InputDocument):
    """How a monitor is paused."""

    drop: bool = Field(
        False, description="Also resolve the open incident, and forget runs for which the monitor expects a ping."
    )


class Snooze(InputDocument):
    """How long alerts are held back. If both fields are None, the snooze ends."""

    until: datetime | None = Field(None, description="End of the snooze.")
    duration: Duration | None = Field(None, description="Length of the snooze, counted from now.")


class Note(InputDocument):
    """An optional comment on an incident."""

    comment: Annotated[str, Field(min_length=1, max_length=2000)] | None = Field(
        None, description="Text that is shown with the incident."
    )


class Comment(InputDocument):
    """A comment on an incident."""

    comment: Annotated[str, Field(min_length=1, max_length=2000, description="Text that is shown with the incident.")]


class RunVerdict(InputDocument):
    """The verdict of a person about a run."""

    verdict: Literal["failed", "succeeded", "ignored"] = Field(
        description="`failed`: the run has failed; no alert is sent about it. `succeeded`: it counts as a success. "
        "`ignored`: it counts neither as a success nor as a failure."
    )
    reason: Annotated[str, Field(min_length=1, max_length=CLOSE_REASON_CHARS_MAX)] | None = Field(
        None, description="Why, for people who look at the run later. Required for `succeeded`."
    )

    @model_validator(mode="after")
    def _says_why_it_succeeded(self) -> Self:
        if self.verdict == "succeeded" and not (self.reason or "").strip():
            raise ValueError("reason: required if the verdict is succeeded")
        return self


class NewKey(InputDocument):
    """An access key to create. Role admin may do everything, read may only view, ping may only send pings."""

    name: Name = Field(description="The person or program that uses the key.")
    role: Literal["admin", "read", "ping"] = Field(description="Rights of the key.")
    project: Slug | None = Field(None, description="None: all projects.")


class PingBody(InputDocument):
    """A ping sent through the management API."""

    signal: Signal = Field("success", description="The reported signal.")
    run: Annotated[str, Field(min_length=1, max_length=255), AfterValidator(canonical_run)] | None = Field(
        None, description="Id of the run."
    )
    stage: StageName | None = Field(None, description="Stage of the run.")
    task: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        None, description="Task of the run or stage, or member of a fleet."
    )
    done: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(None, description="Progress: what is done.")
    total: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None, description="Progress: the whole; with `done` absent, the number of tasks."
    )
    exit_code: Annotated[int, Field(ge=EXIT_CODE_MIN, le=EXIT_CODE_MAX)] | None = Field(
        None, description="Exit code of the job. It does not decide the signal here."
    )
    duration: Annotated[float, Field(ge=0, le=1e9)] | None = Field(None, description="Duration of the job in seconds.")
    message: Annotated[str, Field(max_length=100_000)] | None = Field(None, description="Output of the job.")
    business_date: Annotated[str, Field(min_length=1, max_length=BUSINESS_DATE_CHARS_MAX)] | None = Field(
        None, alias="for", description="Business date of the run: a date, a date and time, or any other label."
    )
    backfill: bool | None = Field(
        None, description="The run makes up for an earlier date. The schedule does not wait for it."
    )
    attempt: Annotated[int, Field(ge=1, le=ATTEMPT_MAX)] | None = Field(
        None, description="Which attempt at its business date the run is."
    )
    execution: Annotated[str, Field(min_length=1, max_length=EXECUTION_CHARS_MAX)] | None = Field(
        None, description="Id of the process, pod or job that sends the ping."
    )

    def ping(self) -> Ping:
        """The ping that it describes."""
        options = PingOptions(self.business_date, bool(self.backfill), self.attempt, self.execution)
        fields = self.model_dump(exclude=set(PingOptions._fields))
        return Ping(**fields, options=None if options == PingOptions() else options)


class Query(BaseModel):
    """Query parameters; unknown ones are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class InProject(Query):
    """Which project is meant."""

    project: Slug | None = Field(None, description="None: the key's own project, or `default`.")


class PageQuery(Query):
    """Which part of a list."""

    limit: int = Field(100, ge=1, le=1000, description="Maximum number of items in the answer.")
    cursor: str | None = Field(None, max_length=500, description="`next_cursor` of the previous page.")


class ProjectPage(PageQuery):
    """A part of a list of one project, or of all that the key may see."""

    project: Slug | None = Field(None, description="None: all projects that the key may see.")


class MonitorsQuery(ProjectPage):
    """Which monitors."""

    status: tuple[Status, ...] = Field((), description="Only monitors with one of these statuses.")
    tag: tuple[Annotated[str, Field(max_length=50)], ...] = Field(
        (), description="Only monitors that have all of these tags."
    )
    q: Annotated[str, Field(max_length=200)] | None = Field(None, description="Text to find in the slug or the name.")


class PingsQuery(PageQuery):
    """Which pings of a monitor."""

    project: Slug | None = Field(None, description="None: the key's own project, or `default`.")
    signal: Signal | None = Field(None, description="Only pings with this signal.")
    run: RunSought | None = Field(None, description="Only pings of the run with this id.")
    since: datetime | None = Field(None, description="Only pings at or after this instant.")
    until: datetime | None = Field(None, description="Only pings before this instant.")


class RunsQuery(PageQuery):
    """Which runs of a monitor."""

    project: Slug | None = Field(None, description="None: the key's own project, or `default`.")
    open: bool | None = Field(None, description="True: only open runs. False: only finished runs.")
    verdict: Verdict | None = Field(None, description="Only runs with this verdict.")
    run: RunSought | None = Field(None, description="Only the run with this id.")
    business_date: Annotated[str, Field(max_length=BUSINESS_DATE_CHARS_MAX)] | None = Field(
        None, description="Only runs for this business date."
    )


class MembersQuery(PageQuery):
    """Which members of a fleet."""

    project: Slug | None = Field(None, description="None: the key's own project, or `default`.")
    silent: bool | None = Field(None, description="True: only missing members. False: only members that ping.")


class IncidentsQuery(ProjectPage):
    """Which incidents."""

    open: bool | None = Field(None, description="True: only open incidents. False: only resolved incidents.")


class AlertsQuery(ProjectPage):
    """Which alerts."""

    state: AlertState | None = Field(
        None,
        description="Only alerts in this state. `dead`: given up. `collapsed`: cancelled; `cancelled` is accepted too.",
    )


class ChangesQuery(ProjectPage):
    """Which changes."""

    kind: Annotated[str, Field(max_length=30)] | None = Field(
        None, description="Only changes of this kind of thing, such as `monitor`."
    )
    subject: Annotated[str, Field(max_length=130)] | None = Field(
        None, description="Only changes of the thing with this name."
    )
