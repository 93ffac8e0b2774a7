"""One received signal, and its place in the log.

The content (`Ping`) and the place in the log (`Entry`) are two things: the first is the same object for every plain
ping, so the hot path builds one small tuple per ping and nothing else.

Instants are microseconds of log time (`Micros`).
"""

from typing import Any, Literal, NamedTuple, get_args
from zlib import crc32

from offbeat_server.common.instants import SECOND, Micros

# Two processes that take pings have the same time, except for some milliseconds: of two pings that were sent one after
# the other through both, the second may stand first in the log. Further apart than this they never stand.
OVERTAKEN_MAX: Micros = SECOND

Signal = Literal["start", "success", "fail", "log", "progress", "skip", "leave"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)
ENDING: tuple[Signal, ...] = ("success", "skip", "fail")  # they end what they are about

# Limits of the fields, in characters; what is longer is refused with 400 (ids) or cut (message).
RUN_CHARS_MAX = 255
STAGE_CHARS_MAX = 100
TASK_CHARS_MAX = 255
BUSINESS_DATE_CHARS_MAX = 100
EXECUTION_CHARS_MAX = 255
ATTEMPT_MAX = 1_000_000
COUNT_MAX = 2**63 - 1
# Unix: 0 to 255, or minus the signal as Python says it. Windows: a status of 32 bits, with a sign or without.
EXIT_CODE_MIN, EXIT_CODE_MAX = -(2**31), 2**32 - 1
MESSAGE_HEAD_BYTES = 2_000
MESSAGE_TAIL_BYTES = 8_000


class PingOptions(NamedTuple):
    """Parameters that few pings have: the business date of the run, and the attempt at it."""

    business_date: str | None = None  # the parameter `for`: a date, a date and time, or any other label
    backfill: bool = False  # the run makes up for an earlier date: the schedule does not wait for it
    attempt: int | None = None  # from 1
    execution: str | None = None  # an id of the process, pod or job that sends the ping

    def dump(self) -> dict[str, Any]:
        """As JSON for the log, with the names of the parameters, without what was not sent."""
        values = {"for": self.business_date, "backfill": self.backfill or None, "attempt": self.attempt}
        return {name: value for name, value in {**values, "execution": self.execution}.items() if value is not None}

    @classmethod
    def load(cls, stored: dict[str, Any]) -> "PingOptions":
        """From `dump`; names of a newer version are ignored."""
        get = stored.get
        return cls(get("for"), get("backfill", False), get("attempt"), get("execution"))


class Ping(NamedTuple):
    """The content of a ping. `duration` is in seconds; `dialect` is None for the native protocol."""

    signal: Signal = "success"
    run: str | None = None
    stage: str | None = None
    task: str | None = None
    done: int | None = None
    total: int | None = None
    exit_code: int | None = None
    duration: float | None = None
    message: str | None = None
    dialect: str | None = None
    options: PingOptions | None = None


# Pings with the same common content are one object each that is never freed, so that its identity is enough to
# recognize them, without a look at their fields.
LASTING: dict[int, Ping] = {}


def lasting(ping: Ping) -> Ping:
    """The same ping, as one of LASTING: for constants, which hold nothing long."""
    LASTING[id(ping)] = ping
    return ping


PLAIN: dict[Signal, Ping] = {signal: lasting(Ping(signal)) for signal in SIGNALS}


def repeat_key(ping: Ping) -> str:
    """Return the content of a ping of a whole run as a text that is equal for a ping that is sent again.

    A plain ping is its signal alone, so that a million monitors hold one object.
    """
    if ping.run is None and ping.message is None and ping.exit_code is None and ping.options is None:
        return ping.signal
    message = "" if ping.message is None else crc32(ping.message.encode("utf-8", "replace"))
    options = "" if ping.options is None else f" {ping.options.dump()}"
    return f"{ping.signal} {ping.exit_code} {message} {ping.run or ''}{options}"


class Entry(NamedTuple):
    """A ping in the log. Sorting entries sorts them into the one order: (at, writer, seq) is unique.

    `source` is the packed network address of the client (4 or 16 bytes), or None where it is unknown.
    """

    at: Micros
    writer: int
    seq: int
    monitor_id: int
    project_id: int
    source: bytes | None
    ping: Ping


class Position(NamedTuple):
    """A place in the log: everything up to and including it."""

    at: Micros
    writer: int
    seq: int


START = Position(0, 0, 0)
AFTER_ALL = 2**31 - 1  # as writer and seq: after every ping of that instant
