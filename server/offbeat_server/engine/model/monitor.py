"""The engine's state of a monitor: no history, only the values that the next ping or deadline needs.

A million of these live in memory, so everything that a healthy heartbeat does not need (runs, an incident, a fleet,
awaited signals) lies in an object that only those monitors have that need it, and equal things are one. `dump` and
`load` are the JSON in `states.state`; keys are short and absent where they hold the default, because the row is
rewritten with every decision; for the same reason the members of a fleet are rows of their own. Values that depend
on order are a list there: jsonb sorts the keys of an object.
"""

from collections.abc import Hashable, Iterable
from functools import lru_cache
from itertools import chain, repeat
from operator import attrgetter
from sys import intern
from typing import Any, Protocol, TypeVar

from offbeat_server.common.instants import Micros
from offbeat_server.engine.model.definition import Definition
from offbeat_server.engine.model.enums import CauseKind, HoldKind, Resolution, Status, read_enum
from offbeat_server.engine.model.fleet import Fleet
from offbeat_server.engine.model.ping import START, Position
from offbeat_server.engine.model.run_detail import CauseDetail, HoldDetail, RunEvidence
from offbeat_server.engine.model.runs import MonitorRuns

RANKS = {
    CauseKind.TOO_OFTEN: 1,
    CauseKind.TOO_EARLY: 2,
    CauseKind.OVERLAP: 2,
    CauseKind.MEMBERS: 3,
    CauseKind.MISSED: 4,
    CauseKind.STAGE: 5,
    CauseKind.TASKS: 5,
    CauseKind.HUNG: 6,
    CauseKind.INCOMPLETE: 7,
    CauseKind.FAILED: 7,
}
RUNS_COUNTED_MAX = 100  # of one incident
EXPECTED = frozenset((CauseKind.MISSED, CauseKind.MEMBERS))  # pings did not come; all other kinds are explicit failures
CLOSED_MAX = 20  # explicit failures that an incident keeps for an alert although they are over; first the worst
HOLDS_MAX = 20  # of an incident; beyond, the oldest is no longer shown
T = TypeVar("T")
H = TypeVar("H", bound=Hashable)
# Kind, run number (0: none), and the stage, awaited run or member if there is one.
CauseKey = tuple[CauseKind, int, str]
MISSED: CauseKey = (CauseKind.MISSED, 0, "")
MEMBERS: CauseKey = (CauseKind.MEMBERS, 0, "")
# The program of schema version 5 does not know these. It reads such a cause as that of a run that failed.
NEWER_CAUSES = frozenset((CauseKind.INCOMPLETE,))
# The key of each stored value and the attribute that holds it. Keys stay as they are: nodes of two versions read them.
_CAUSE_KEYS = {
    "blamed_at": "last_failed_at",
    "due": "due",
    "goods": "consecutive_successes",
    "kind": "kind",
    "lacking": "shortfall",
    "number": "number",
    "opened_at": "opened_at",
    "reason": "reason",
    "run": "run",
    "stage": "stage",
}


class Cause:
    """One open reason of an incident. `number` is the run's; `run` the id that its client gave it.

    `opened_at` is when it first was one, `last_failed_at` when it last was; `due` is what was missed, None for other
    kinds; `consecutive_successes` counts the successes in a row that speak against it; `shortfall` is how many members
    of a fleet are too few. `business_date` is that of the occurrence that failed, None if it is none;
    `is_date_named`: its client named it.
    `worst` is the reason for the record once it is over: of a fleet, its worst moment with `worst_missing` members.
    `evidence` is what its alert says of a run that has ended or of a heartbeat, until that alert is made.
    """

    __slots__ = (*_CAUSE_KEYS.values(), "business_date", "evidence", "is_date_named", "worst", "worst_missing")

    def __init__(
        self,
        kind: CauseKind,
        opened_at: Micros,
        reason: str,
        number: int = 0,
        run: str | None = None,
        stage: str | None = None,
        due: Micros | None = None,
        shortfall: int = 0,
        evidence: RunEvidence[Micros] | None = None,
        business_date: str | None = None,
    ) -> None:
        self.kind, self.opened_at, self.reason, self.due, self.shortfall = kind, opened_at, reason, due, shortfall
        self.number, self.run, self.stage = number, run, stage
        self.last_failed_at: Micros = opened_at
        self.consecutive_successes = 0
        self.business_date, self.is_date_named = business_date, False
        self.worst, self.worst_missing = "", 0
        self.evidence = evidence

    @property
    def key(self) -> CauseKey:
        """The identity of a cause: equal for the same cause when it occurs again."""
        which = self.stage or (self.run if not self.number else None)
        if which is None and self.due is not None:
            which = self.business_date  # several occurrences of a schedule may be missed
        return (self.kind, self.number, which or "")

    def show(self) -> CauseDetail[Micros]:
        """The cause as alerts and the API show it."""
        shown: CauseDetail[Micros] = {"kind": self.kind, "opened_at": self.opened_at, "reason": self.reason}
        if self.number:
            shown["number"] = self.number
        if self.run is not None:
            shown["run"] = self.run
        if self.stage is not None:
            shown["stage"] = self.stage
        if self.business_date is not None:
            shown["business_date"] = self.business_date
        return shown

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        state = {key: value for key, name in _CAUSE_KEYS.items() if (value := getattr(self, name))}
        return {**state, "kind": CauseKind.FAILED} if self.kind in NEWER_CAUSES else state

    @classmethod
    def load(cls, state: dict[str, Any], newer_kind: str = "") -> "Cause":
        """From `dump`. `newer_kind`: its kind, if that is one of `NEWER_CAUSES`."""
        cause = cls(read_enum(CauseKind, newer_kind or state["kind"]), state["opened_at"], state["reason"])
        for key, value in state.items():
            if key != "kind":
                setattr(cause, _CAUSE_KEYS[key], value)
        return cause


class Incident:
    """The open incident of a monitor, or one that is over and of which an alert is still held back.

    `announced`: the alert about its opening was sent. `announce_at`: when the next alert about it is due; None: no
    alert is due, or it waits for the end of the incident of `suppressed_by`, the monitor that explains this one.
    `known_runs`: numbers of runs that a person closed as failed, so no alert is about them.
    `holds`: the holds of its alerts. `notified_at`: the last alert. `silent`: no ping came since the schedule was last
    missed, so nothing further is expected. `closed`: explicit failures that no alert has reported and a later success
    has closed, with the instants at which it did; the first is the worst. `resolved_at` and `resolution`: None while it
    is open.
    `runs`: the runs that ever were a cause, the first `RUNS_COUNTED_MAX`: their ids by their numbers. An awaited run
    has no number, so its id is the key, too.
    """

    __slots__ = (
        "announce_at",
        "announced",
        "causes",
        "closed",
        "holds",
        "known_runs",
        "notified_at",
        "notified_dates",
        "notified_rank",
        "notified_runs",
        "notified_shortfall",
        "number",
        "opened_at",
        "ordinal",
        "recovered_by",
        "resolution",
        "resolved_at",
        "runs",
        "silent",
        "suppressed_by",
    )

    def __init__(self, number: int, opened_at: Micros) -> None:
        self.number, self.opened_at = number, opened_at
        self.causes: dict[CauseKey, Cause] = {}
        self.ordinal = 0  # of its alerts
        self.announced = False
        self.announce_at: Micros | None = None
        self.suppressed_by: int | None = None
        self.holds: list[HoldDetail[Micros]] = []
        self.closed: list[tuple[Micros, Cause]] = []
        self.resolved_at: Micros | None = None
        self.resolution: Resolution | None = None
        self.recovered_by: str | None = None  # the run or ping that ended its last cause, as words
        self.silent = False
        self.notified_at: Micros | None = None
        self.notified_rank = 0
        self.notified_shortfall = 0
        self.notified_runs: set[int] = set()
        self.runs: dict[int | str, str | None] = {}
        self.known_runs: set[int] = set()
        self.notified_dates: set[str] = set()

    def count_run(self, cause: Cause) -> None:
        """Note the run of a cause, if it is about one."""
        run = cause.number or cause.run
        if run and len(self.runs) < RUNS_COUNTED_MAX:
            self.runs.setdefault(run, cause.run)

    @property
    def worst_first(self) -> list[Cause]:
        """Its causes; the first gives it its name, among equals the one that opened first."""
        if len(self.causes) == 1:
            return list(self.causes.values())
        return sorted(self.causes.values(), key=lambda cause: (-RANKS[cause.kind], cause.opened_at))

    def is_known(self, cause: Cause) -> bool:
        """Whether a cause is about a run that a person closed as failed: no alert needs to say so."""
        return cause.number in self.known_runs

    def is_news(self, cause: Cause) -> bool:
        """Whether no alert has reported this cause yet, or one like it: of its run, or as bad."""
        if self.is_known(cause):
            return False
        another = cause.number > 0 and cause.number not in self.notified_runs
        if cause.kind == CauseKind.MISSED and cause.business_date is not None:
            another = cause.business_date not in self.notified_dates
        return another or cause.shortfall > self.notified_shortfall or RANKS[cause.kind] > self.notified_rank

    @property
    def tells_explicit_failure(self) -> bool:
        """Whether the next alert reports an explicit failure, and not only that pings did not come."""
        if self.closed:
            return True
        causes = [each for each in self.causes.values() if each.kind not in EXPECTED and not self.is_known(each)]
        return any(not self.announced or self.is_news(each) for each in causes)

    def keep_closed(self, causes: Iterable[Cause], at: Micros) -> None:
        """A later success closes these causes. If no alert has reported the explicit ones, the next one does."""
        if self.announced:
            return
        self.closed += [(at, cause) for cause in causes if cause.kind not in EXPECTED and not self.is_known(cause)]
        self.closed.sort(key=lambda each: (-RANKS[each[1].kind], -each[1].last_failed_at))
        del self.closed[CLOSED_MAX:]
        for _, cause in self.closed[1:]:
            cause.evidence = None

    def take_over(self, earlier: "Incident") -> None:
        """The alert about `earlier`, which is over, is still held back: the one about this incident reports both."""
        self.closed, self.holds, self.announce_at = earlier.closed, earlier.holds, earlier.announce_at
        earlier.closed, earlier.holds = [], [*earlier.holds]
        earlier.announce_at = earlier.suppressed_by = None

    def dump(self) -> dict[str, Any]:
        """As JSON, 0 for no instant.

        Later fields of causes have a key of their own: the program before reads exactly the first ones.
        """
        causes = [_dump_cause(cause) for cause in self.causes.values()]
        newer = [kind for _, kind, *_ in causes]
        more = [rest for _, _, *rest in causes]
        dates = [[cause.business_date, cause.is_date_named] for cause in self.causes.values()]
        return {
            "n": self.number,
            "o": self.opened_at,
            "c": [cause for cause, *_ in causes],
            **({"x": more} if any(map(any, more)) else {}),
            **({"i": newer} if any(newer) else {}),
            **({"b": dates} if any(map(any, dates)) else {}),
            "d": self.ordinal,
            "a": self.announced,
            "w": self.announce_at,
            "s": self.suppressed_by,
            "q": self.silent,
            "t": [self.notified_at or 0, self.notified_rank, *sorted(self.notified_runs)],
            **({"l": self.notified_shortfall} if self.notified_shortfall else {}),
            **({"r": [[*each] for each in self.runs.items()]} if self.runs else {}),
            **({"k": sorted(self.known_runs)} if self.known_runs else {}),
            **({"holds": self.holds} if self.holds else {}),
            **(
                {"closed": [[at, *_dump_cause(cause), cause.business_date] for at, cause in self.closed]}
                if self.closed
                else {}
            ),
            **(
                {"resolved": [self.resolved_at, self.resolution, self.recovered_by]}
                if self.resolution is not None
                else {}
            ),
            **({"z": sorted(self.notified_dates)} if self.notified_dates else {}),
        }

    def drop_evidence(self) -> None:
        """Keep evidence only of the two causes that the next alert may begin with: there may be many causes.

        Here and not in `dump`: if another cause is first later, it must be the same with a state that was loaded since.
        """
        first, last = self.worst_first[0], max(self.causes.values(), key=lambda cause: cause.last_failed_at)
        for cause in self.causes.values():
            if cause is not first and cause is not last:
                cause.evidence = None

    @classmethod
    def load(cls, state: dict[str, Any]) -> "Incident":
        """From `dump`."""
        incident = cls(state["n"], state["o"])
        extra = chain(state.get("x", ()), repeat((None, "", 0)))
        kinds = chain(state.get("i", ()), repeat(""))
        dates = chain(state.get("b", ()), repeat((None, False)))
        for each, more, newer_kind, date in zip(state["c"], extra, kinds, dates, strict=False):
            cause = _load_cause(each, newer_kind, *more)
            cause.business_date, cause.is_date_named = date
            incident.causes[cause.key] = cause
        incident.ordinal, incident.announced, incident.announce_at = state["d"], state["a"], state["w"]
        incident.suppressed_by, incident.silent = state["s"], state["q"]
        notified_at, incident.notified_rank, *notified_runs = state["t"]
        incident.notified_at = notified_at or None
        incident.holds = state.get("holds") or _former_hold(incident.opened_at, *state.get("h", ("", 0)))
        incident.closed = [(at, _load_cause(*more)) for at, *more in state.get("closed", ())]
        if resolved := state.get("resolved"):
            incident.resolved_at, incident.resolution = resolved[0], read_enum(Resolution, resolved[1])
            incident.recovered_by = resolved[2]
        incident.notified_runs, incident.notified_shortfall = set(notified_runs), state.get("l", 0)
        incident.runs = dict(state.get("r", ()))
        incident.known_runs = set(state.get("k", ()))
        incident.notified_dates = set(state.get("z", ()))
        return incident


def _dump_cause(cause: Cause) -> tuple[dict[str, Any], str, RunEvidence[Micros] | None, str, int]:
    newer_kind = cause.kind if cause.kind in NEWER_CAUSES else ""
    return cause.dump(), newer_kind, cause.evidence, cause.worst, cause.worst_missing


def _load_cause(
    state: dict[str, Any],
    newer_kind: str,
    evidence: RunEvidence[Micros] | None,
    worst: str,
    worst_missing: int,
    business_date: str | None = None,
) -> Cause:
    cause = Cause.load(state, newer_kind)
    cause.evidence, cause.worst, cause.worst_missing = evidence, worst, worst_missing
    cause.business_date = business_date
    return cause


def _former_hold(since: Micros, by: str, until: Micros) -> list[HoldDetail[Micros]]:
    """The hold in a state of an older program, which knew only the one of a dependency, without its beginning."""
    hold: HoldDetail[Micros] = {"kind": HoldKind.DEPENDENCY, "by": by, "started_at": since, "ends_at": until}
    return [hold] if by else []


class RareState:
    """State that a healthy heartbeat does not have.

    All monitors without it share `EMPTY_RARE_STATE`, which never changes.
    """

    __slots__ = (
        "awaited",
        "excused",
        "fleet",
        "incident",
        "incidents",
        "paused",
        "recent",
        "rev",
        "runs",
        "snoozed_until",
        "streak",
        "streak_since",
        "unreported",
    )

    def __init__(self) -> None:
        self.rev = 0  # the last change in this state
        self.paused = False
        self.snoozed_until: Micros | None = None
        self.excused = 0  # occurrences in a row that outages excused
        self.streak = 0  # misses and failures in a row
        self.streak_since: Micros | None = None  # when the first of them was; None: there never was one
        self.incidents = 0
        self.incident: Incident | None = None
        self.unreported: Incident | None = None  # it is over, its alert is held back, and no other incident is open
        self.runs: MonitorRuns | None = None
        self.fleet: Fleet | None = None
        self.awaited: dict[str, Micros] | None = None  # run id or "" -> due, for `after`
        self.recent: list[Micros] | None = None  # what counts for `at_most`, the newest last

    @property
    def current_incident(self) -> Incident | None:
        """See `Monitor`."""
        return self.incident or self.unreported

    @property
    def affects_plain_success(self) -> bool:
        """Whether a plain success has anything to do with this."""
        return bool(self.streak) or (self.runs is not None and bool(self.runs.open or self.runs.own_finish_due))


EMPTY_RARE_STATE = RareState()


class _LazyField(Protocol[T]):
    """An attribute of a monitor that lies in its `rare`, which is created when the first is set to something."""

    def __get__(self, m: "Monitor", owner: type) -> T: ...
    def __set__(self, m: "Monitor", value: T) -> None: ...


def _lazy_field(name: str) -> _LazyField[Any]:
    """Without Python between in reading: a miss reads some thirty of them (0.05 µs instead of 0.13 each)."""

    def write(m: "Monitor", value: object) -> None:
        if m.rare is EMPTY_RARE_STATE:
            if value == getattr(EMPTY_RARE_STATE, name):
                return
            m.rare = RareState()
        setattr(m.rare, name, value)

    return property(attrgetter(f"rare.{name}"), write)


class Monitor:
    """A monitor as the engine knows it. Instants are Micros, None if there is none."""

    __slots__ = (
        "at",
        "counted_at",
        "counted_source",
        "counted_writer",
        "created_at",
        "definition",
        "due",
        "id",
        "is_saved",
        "last_ping_at",
        "last_repeat_key",
        "name",
        "project_id",
        "queued_at",
        "rare",
        "seq",
        "since",
        "slug",
        "status",
        "tags",
        "writer",
    )

    rev: _LazyField[int] = _lazy_field("rev")
    paused: _LazyField[bool] = _lazy_field("paused")
    snoozed_until: _LazyField[Micros | None] = _lazy_field("snoozed_until")
    excused: _LazyField[int] = _lazy_field("excused")
    streak: _LazyField[int] = _lazy_field("streak")
    streak_since: _LazyField[Micros | None] = _lazy_field("streak_since")
    incidents: _LazyField[int] = _lazy_field("incidents")
    incident: _LazyField[Incident | None] = _lazy_field("incident")
    unreported: _LazyField[Incident | None] = _lazy_field("unreported")
    runs: _LazyField[MonitorRuns | None] = _lazy_field("runs")
    fleet: _LazyField[Fleet | None] = _lazy_field("fleet")
    awaited: _LazyField[dict[str, Micros] | None] = _lazy_field("awaited")
    recent: _LazyField[list[Micros] | None] = _lazy_field("recent")

    def __init__(
        self, id: int, project_id: int, slug: str, name: str, definition: Definition, created_at: Micros
    ) -> None:
        self.id, self.project_id, self.slug = id, project_id, slug
        self.name = slug if name == slug else name  # one string, not two
        self.definition = definition
        self.tags: tuple[str, ...] = definition.tags
        self.created_at: Micros | None = created_at  # until its first ping; None: no longer known
        self.at, self.writer, self.seq = START  # the last input in this state
        self.is_saved = False  # whether the stored row is as new
        self.status = Status.NEW
        self.since: Micros = created_at
        self.last_ping_at: Micros | None = None  # last satisfying ping
        self.due: Micros | None = (
            None  # None: nothing is expected at a time; before the first ping: when it must have come
        )
        self.queued_at: Micros | None = None  # its entry in the queue of deadlines
        self.last_repeat_key = ""  # `repeat_key` of the last ping of a whole run, to know a repeat; "": forgotten
        self.counted_at: Micros | None = None  # when it came
        self.counted_source: bytes | None = None
        self.counted_writer = 0  # of it, where it was a heartbeat: its start may still come through another
        self.rare = EMPTY_RARE_STATE

    @property
    def current_incident(self) -> Incident | None:
        """The incident that the next alert is about: the open one, or one that is over and was not reported yet."""
        return self.rare.current_incident

    @property
    def position(self) -> Position:
        """The last input in this state."""
        return Position(self.at, self.writer, self.seq)

    @property
    def follow_from(self) -> Position:
        """From where on the log adds to what is stored: all after it, and what is before its position again."""
        if self.fleet is None:
            return self.position
        whole_at = self.fleet.whole_at
        return START if whole_at is None else min(self.position, Position(whole_at, 0, 0))

    def dump(self) -> dict[str, Any]:
        """As JSON, without what is at its default."""
        state: dict[str, Any] = {key: value for key, name in _SCALARS.items() if (value := getattr(self, name))}
        if self.last_ping_at is None:
            state["created"] = self.created_at
        if self.counted_source:
            state["counted_source"] = self.counted_source.hex()
        if self.rare is EMPTY_RARE_STATE:
            return state
        rare = self.rare
        for name in _RARE_SCALARS:
            if value := getattr(rare, name):
                state[name] = value
        if rare.incident:
            state["incident"] = rare.incident.dump()
        if rare.unreported:
            state["unreported"] = rare.unreported.dump()
        if rare.runs and (runs := rare.runs.dump()):
            state["runs"] = runs
        if rare.fleet:
            state["fleet"] = rare.fleet.dump()
        if rare.awaited:
            state["awaited"] = list(rare.awaited.items())
        if rare.recent:
            state["recent"] = rare.recent
        return state

    def load(self, status: str, since: Micros, position: Position, state: dict[str, Any]) -> None:
        """From a stored row."""
        # A start does this for every monitor: of a healthy heartbeat nothing is looked at but what it has.
        stored = state.get
        self.status, self.since = _STATUS_OF.get(status) or read_enum(Status, status), since
        self.at, self.writer, self.seq = position
        self.is_saved = True
        self.last_ping_at, self.due, self.counted_at = stored("heard_at"), stored("due"), stored("counted_at")
        self.last_repeat_key, self.counted_writer = intern(stored("last_word", "")), stored("counted_writer", 0)
        self.created_at = state["created"] if self.last_ping_at is None else None
        # One integer where they are equal, as after a plain ping.
        if self.counted_at == self.last_ping_at:
            self.counted_at = self.last_ping_at
        if self.last_ping_at == self.at:
            self.last_ping_at = self.at
        if source := stored("counted_source"):
            self.counted_source = one_of_equal(bytes.fromhex(source))
        if not state.keys() <= _COMMON_KEYS:
            self._load_rare(state)

    def _load_rare(self, state: dict[str, Any]) -> None:
        for name in _RARE_NUMBERS:
            setattr(self, name, state.get(name, 0))
        self.streak_since = state.get("streak_since")
        if incident := state.get("incident"):
            self.incident = Incident.load(incident)
        if unreported := state.get("unreported"):
            self.unreported = Incident.load(unreported)
        if runs := state.get("runs"):
            self.runs = MonitorRuns.load(runs)
        if fleet := state.get("fleet"):
            self.fleet = Fleet.load(fleet)
        if awaited := state.get("awaited"):
            self.awaited = dict(awaited)
        self.recent = state.get("recent")


_STATUS_OF = {status.value: status for status in Status}
# The key of each stored value and the attribute that holds it, as of `_CAUSE_KEYS`.
_SCALARS = {
    "heard_at": "last_ping_at",
    "due": "due",
    "counted_at": "counted_at",
    "last_word": "last_repeat_key",
    "counted_writer": "counted_writer",
}
_RARE_NUMBERS = ("rev", "excused", "streak", "incidents")
_RARE_SCALARS = ("rev", "excused", "streak", "streak_since", "incidents")
_COMMON_KEYS = frozenset((*_SCALARS, "counted_source", "created"))


@lru_cache(maxsize=10_000)
def one_of_equal(value: H) -> H:
    """The first that was equal to it: few addresses, and few combinations of tags, belong to many monitors."""
    return value
