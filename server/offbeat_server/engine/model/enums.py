"""The words for states and kinds that are stored, sent and shown. The values never change. A program that meets a
word of a newer version shows `unknown` or leaves the row out: so a new member must be readable one version before a
program writes it.

A value that comes from the database or from another process becomes a member with `read_enum`. `Signal`
(engine/model/ping.py) is a `Literal` instead: ingest compares it several times for each ping, and on Python 3.11 a
comparison with a member of an enum takes twice as long as one of two strings, and six times as long by its class.
"""

from enum import StrEnum
from typing import Literal, TypeVar

from offbeat_server.common.errors import UnknownValueError

EnumMember = TypeVar("EnumMember", bound=StrEnum)

# A bound on a run: engine/model/run.py.
LimitKind = Literal["runtime", "quiet", "stalled", "task stalled", "task overdue", "task silent", "tasks", "stage"]


class Status(StrEnum):
    """The status of a monitor, the most urgent first.

    `late` is computed when it is shown and never stored. `unwatched`: nothing is expected, so only a `fail` can make
    the monitor `down`. `unknown`: an outage of Offbeat hid whether the ping came.
    """

    DOWN = "down"
    LATE = "late"
    UNKNOWN = "unknown"
    UP = "up"
    NEW = "new"
    UNWATCHED = "unwatched"
    PAUSED = "paused"


# The former word for the verdict `unverified`. Rows of the program before have it, and a filter may name it.
FORMER_UNVERIFIED = "incomplete"


class Verdict(StrEnum):
    """The result of a run. `hung` and `unverified` are provisional: the run is open.

    `ignored`: a person closed the run, and it counts neither as a success nor as a failure.
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    HUNG = "hung"
    UNVERIFIED = "unverified"
    SUPERSEDED = "superseded"
    IGNORED = "ignored"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> "Verdict | None":
        return cls.UNVERIFIED if value == FORMER_UNVERIFIED else None


class StageStatus(StrEnum):
    """The status of a stage of a run. `unfinished` and `not started`: only in a run that has ended."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNFINISHED = "unfinished"
    NOT_STARTED = "not started"


class CauseKind(StrEnum):
    """The kind of one reason why a monitor is down."""

    MISSED = "missed"
    FAILED = "failed"
    HUNG = "hung"
    STAGE = "stage"
    TASKS = "tasks"
    MEMBERS = "members"
    TOO_EARLY = "too_early"
    TOO_OFTEN = "too_often"
    OVERLAP = "overlap"
    INCOMPLETE = "incomplete"


class Resolution(StrEnum):
    """How an incident ended. `by hand`: a person resolved it. `changed`, `paused`, `deleted`: its monitor was."""

    RECOVERED = "recovered"
    CHANGED = "changed"
    PAUSED = "paused"
    BY_HAND = "by hand"
    DELETED = "deleted"


class HoldKind(StrEnum):
    """Something that holds an alert back."""

    DEPENDENCY = "dependency"
    MAINTENANCE = "maintenance"
    SNOOZE = "snooze"
    PAUSE = "pause"


class AlertKind(StrEnum):
    """The kind of an alert, or of a message that is sent as one.

    `digest`: several alerts in one message. `over`: every incident of an earlier digest is resolved.
    """

    OPENED = "opened"
    WORSE = "worse"
    REMINDER = "reminder"
    RESOLVED = "resolved"
    OPERATOR = "operator"
    TEST = "test"
    DIGEST = "digest"
    OVER = "over"


class AlertState(StrEnum):
    """The state of an alert in the outbox. All but `pending` are final.

    `dead`: given up after failed attempts. `expired`: too old. `collapsed`: cancelled, because no separate message is
    needed. A filter may also name that state `cancelled`.
    """

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    EXPIRED = "expired"
    COLLAPSED = "collapsed"

    @classmethod
    def _missing_(cls, value: object) -> "AlertState | None":
        return cls.COLLAPSED if value == "cancelled" else None


def read_enum(kind: type[EnumMember], value: str) -> EnumMember:
    """The member with this value. Raises UnknownValueError."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(kind)
        raise UnknownValueError(
            f"{value!r} is no {kind.__name__} of this version ({known}); a newer version may have written it"
        ) from None


def member_or(kind: type[EnumMember], value: str, otherwise: EnumMember) -> EnumMember:
    """The member with this value; `otherwise` for a word of a newer version. For pages, which must show the rest."""
    try:
        return kind(value)
    except ValueError:
        return otherwise
