"""The decisions of the engine. Each effect is a whole row; the scheduler writes it with the state of its monitor."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from offbeat_server.common.instants import Micros
from offbeat_server.engine.model.alert_payload import AlertPayload
from offbeat_server.engine.model.enums import AlertKind, CauseKind, Status, Verdict
from offbeat_server.engine.model.fleet import MemberRow
from offbeat_server.engine.model.ping import Position
from offbeat_server.engine.model.run_detail import CauseDetail, HoldDetail, RunDetail

NO_PING: Micros = 0  # as `last_ping_at` of a run that a person revised


class RunChanged(NamedTuple):
    """A row of `runs`, opened, closed or revised.

    If `last_ping_at` is NO_PING, the last ping and the exit code stay as they are: no ping has changed the run.
    """

    number: int
    run: str | None
    started_at: Micros | None
    finished_at: Micros | None
    last_ping_at: Micros
    duration: Micros | None
    verdict: Verdict | None
    reason: str | None
    exit_code: int | None
    detail: RunDetail[Micros]
    business_date: str | None = None
    backfill: bool = False
    attempt: int | None = None  # as the client numbers it
    execution: str | None = None
    ended: list[Any] | None = None  # of an ended run with an id, for `MonitorRuns.recall`; None: as it was


class IncidentChanged(NamedTuple):
    """A row of `incidents`."""

    number: int
    opened_at: Micros
    resolved_at: Micros | None
    decided_at: Micros
    cause: CauseKind
    reason: str
    run: str | None
    stage: str | None
    causes: list[CauseDetail[Micros]]
    suppressed_by: int | None
    held: list[HoldDetail[Micros]]  # what holds or held its alerts back


class Alert(NamedTuple):
    """A message about an incident, for every channel of the monitor; `facts` are frozen here."""

    incident: int
    ordinal: int
    kind: AlertKind  # opened, worse or resolved
    decided_at: Micros
    channels: tuple[str, ...] | None  # slugs; None: the project's defaults
    facts: AlertPayload[Micros]


class MonitorResumed(NamedTuple):
    """A ping ended the pause of this monitor."""

    at: Micros


class MonitorMoved(NamedTuple):
    """The monitor is in another project from now on: the one of its decision."""

    at: Micros


Effect = RunChanged | IncidentChanged | Alert | MonitorResumed | MonitorMoved


@dataclass(slots=True)
class Decision:
    """Everything decided about one monitor since the last one, and the state that followed."""

    monitor_id: int
    project_id: int
    position: Position
    status: Status
    since: Micros
    state: dict[str, Any] | None  # None: the monitor is gone
    effects: list[Effect] = field(default_factory=list)
    members: list[MemberRow] = field(default_factory=list)  # the rows of its fleet that were changed
    disbanded: bool = False  # all rows of its fleet go, before those come
