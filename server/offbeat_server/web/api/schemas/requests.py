"""Request bodies and query parameters of the management API, with their limits.

The same types validate a request, name the invalid fields, and describe themselves in the OpenAPI document.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from offbeat_server.config import PLACEHOLDER
from offbeat_server.db.repositories.definitions import WantedKey, WantedMonitor
from offbeat_server.engine.model.definition import Definition, Duration, Slug, StageName
from offbeat_server.engine.model.enums import AlertState, Status, Verdict
from offbeat_server.engine.model.ping import EXIT_CODE_MAX, EXIT_CODE_MIN, Signal
from offbeat_server.engine.schedule.maintenance_windows import Window
from offbeat_server.ingest.protocols.ids import canonical_run, read_id

MONITORS_MAX = 20_000  # of one apply; more come in parts
# Any shape that a client may have been given elsewhere: one path segment, or two as in `{ping key}/{slug}`.
_SEGMENT = r"[^/?#\x00-\x20\x7f]{1,150}"


def _no_dots(key: str) -> str:
    if any(part in (".", "..") for part in key.split("/")):
        raise ValueError("no part of a key may be . or ..: HTTP clients remove them from URLs")
    if left := PLACEHOLDER.search(key):
        raise ValueError(f"contains the placeholder {left[0]}, which was not replaced: enter the key itself")
    return key


KeyText = Annotated[str, Field(max_length=200, pattern=rf"^{_SEGMENT}(/{_SEGMENT})?$"), AfterValidator(_no_dots)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
# As pings store it, for any length and any encoding of `+` and spaces.
RunSought = Annotated[str, Field(max_length=2_000), AfterValidator(lambda run: read_id("run", run)[0])]


class Body(BaseModel):
    """A request body. Unknown fields are rejected, because most of them are typing errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyBody(Body):
    """An additional key. If it is bound to a signal or stage, pings that name none count as that signal or stage."""

    key: KeyText | None = Field(None, description="A key taken over from another service. None: kept or generated.")
    signal: Signal | None = Field(None, description="Signal of pings by this key that name none.")
    stage: StageName | None = Field(None, description="Stage of pings by this key that name none.")


class MonitorBody(Definition):
    """The wanted definition of a monitor. Omitted fields get defaults; omitted keys and `paused` stay unchanged."""

    key: KeyText | None = Field(None, description="The main key. None: kept or generated.")
    keys: tuple[KeyBody, ...] | None = Field(
        None, max_length=200, description="All keys except the main one. None: unchanged."
    )
    paused: bool | None = Field(None, description="None: unchanged.")

    def wanted(self, project_id: int, slug: str, path: str = "", if_rev: int | None = None) -> WantedMonitor:
        """As the store takes it."""
        fields = {name: getattr(self, name) for name in Definition.model_fields}
        return WantedMonitor(
            project_id,
            slug,
            Definition.model_construct(**fields),
            self.key,
            None if self.keys is None else tuple(WantedKey(k.key, k.signal, k.stage) for k in self.keys),
            self.paused,
            path,
            if_rev,
        )


class NewMonitor(MonitorBody):
    """A monitor to create. An omitted slug is generated from the name."""

    slug: Slug | None = Field(None, description="None: generated from the name.")


class ListedMonitor(MonitorBody):
    """A monitor in a file or a list, with its address."""

    slug: Slug = Field(description="Its name in addresses, unique in the project.")
    project: Slug | None = Field(None, description="Slug of the project. None: the key's own project, or `default`.")


class ChannelBody(BaseModel):
    """A channel: its kind and the fields of that kind."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: Annotated[str, Field(min_length=1, max_length=30)] = Field(description="webhook, log, email, slack, …")
    default: bool = Field(True, description="Used by every monitor of the project whose `channels` is null.")

    def fields(self) -> dict[str, Any]:
        """The fields of the kind."""
        return dict(self.model_extra or {})


class NewSecret(Body):
    """How to generate a signing secret."""

    keep_former: bool = Field(
        True, description="Sign with the former secrets too, five in all. False: only the new one signs from now on."
    )


class ListedChannel(ChannelBody):
    """A channel in a file or a list, with its address."""

    slug: Slug = Field(description="Its name in addresses, unique in the project.")
    project: Slug | None = Field(None, description="Slug of the project. None: the key's own project, or `default`.")


class ListedWindow(Window):
    """A maintenance window in a file or a list, with its address."""

    slug: Slug = Field(description="Its name in addresses, unique in the project.")
    project: Slug | None = Field(None, description="Slug of the project. None: the key's own project, or `default`.")

    def window(self) -> Window:
        """The window itself."""
        return Window.model_construct(**{name: getattr(self, name) for name in Window.model_fields})


class ProjectBody(Body):
    """The wanted settings of a project."""

    name: Name | None = Field(None, description="Display name. None: the slug.")
    ping_key: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,100}$")] | None = Field(
        None, description="The key for pings by slug. None: kept or generated."
    )
    metrics: bool = Field(False, description="Serve the status of each monitor to Prometheus.")
    badges: bool = Field(False, description="Serve badges to clients that have the badge key.")
    status_page: bool = Field(False, description="Serve a public page with the status of the monitors.")


class ListedProject(ProjectBody):
    """A project in a file or a list, with its slug."""

    slug: Slug = Field(description="Its name in addresses.")


LISTED: tuple[type[BaseModel], ...] = (ListedMonitor, ListedChannel, ListedWindow, ListedProject)


class Snooze(Body):
    """How long alerts are held back. If both fields are None, the snooze ends."""

    until: datetime | None = Field(None, description="End of the snooze.")
    duration: Duration | None = Field(None, description="Length of the snooze, counted from now.")


class Note(Body):
    """An optional comment on an incident."""

    comment: Annotated[str, Field(min_length=1, max_length=2000)] | None = Field(
        None, description="Text that is shown with the incident."
    )


class Comment(Body):
    """A comment on an incident."""

    comment: Annotated[str, Field(min_length=1, max_length=2000, description="Text that is shown with the incident.")]


class NewKey(Body):
    """An access key to create. Role admin may do everything, read may only view, ping may only send pings."""

    name: Name = Field(description="Who or what uses the key.")
    role: Literal["admin", "read", "ping"] = Field(description="Rights of the key.")
    project: Slug | None = Field(None, description="None: all projects.")


class PingBody(Body):
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


class Query(BaseModel):
    """Query parameters; unknown ones are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class InProject(Query):
    """Which project is meant."""

    project: Slug | None = Field(None, description="None: the key's own project, or `default`.")


class Page(Query):
    """Which part of a list."""

    limit: int = Field(100, ge=1, le=1000, description="Maximum number of items in the answer.")
    cursor: str | None = Field(None, max_length=500, description="`next_cursor` of the previous page.")


class ProjectPage(Page):
    """A part of a list of one project, or of all that the key may see."""

    project: Slug | None = Field(None, description="None: all projects that the key may see.")


class MonitorsQuery(ProjectPage):
    """Which monitors."""

    status: tuple[Status, ...] = Field((), description="Only monitors with one of these statuses.")
    tag: tuple[Annotated[str, Field(max_length=50)], ...] = Field(
        (), description="Only monitors that have all of these tags."
    )
    q: Annotated[str, Field(max_length=200)] | None = Field(None, description="Text to find in the slug or the name.")


class PingsQuery(Page):
    """Which pings of a monitor."""

    project: Slug | None = Field(None, description="None: the key's own project, or `default`.")
    signal: Signal | None = Field(None, description="Only pings with this signal.")
    run: RunSought | None = Field(None, description="Only pings of the run with this id.")
    since: datetime | None = Field(None, description="Only pings at or after this instant.")
    until: datetime | None = Field(None, description="Only pings before this instant.")


class RunsQuery(Page):
    """Which runs of a monitor."""

    project: Slug | None = Field(None, description="None: the key's own project, or `default`.")
    open: bool | None = Field(None, description="True: only open runs. False: only finished runs.")
    verdict: Verdict | None = Field(None, description="Only runs with this verdict.")
    run: RunSought | None = Field(None, description="Only the run with this id.")


class MembersQuery(Page):
    """Which members of a fleet."""

    project: Slug | None = Field(None, description="None: the key's own project, or `default`.")
    silent: bool | None = Field(None, description="True: only missing members. False: only members that ping.")


class IncidentsQuery(ProjectPage):
    """Which incidents."""

    open: bool | None = Field(None, description="True: only open incidents. False: only resolved incidents.")


class AlertsQuery(ProjectPage):
    """Which alerts."""

    state: AlertState | None = Field(
        None, description="Only alerts in this state. `dead`: given up. `collapsed`: combined into a digest."
    )


class ChangesQuery(ProjectPage):
    """Which changes."""

    kind: Annotated[str, Field(max_length=30)] | None = Field(
        None, description="Only changes of this kind of thing, such as `monitor`."
    )
    subject: Annotated[str, Field(max_length=130)] | None = Field(
        None, description="Only changes of the thing with this name."
    )
