"""Every error that Offbeat raises on purpose, in one tree, so that a caller can draw the line where it needs it.

OffbeatError
├── SettingsError        the command line or the environment is wrong; the message says what to do
├── DefinitionError      a monitor, channel or project as sent cannot be; one problem per field
├── Moved                what was to be changed has changed since the client read it, or is there already
├── SchemaError          the database is not ours, or newer than this program
├── Unavailable          we cannot do it now: answered 503 with a Retry-After
│   ├── BacklogFull      too many pings wait for their commit
│   └── DatabaseAway     Postgres cannot be reached or does not answer in time
│       └── DatabaseRefuses  Postgres or the settings of the connection refuse us, until an operator changes something
├── Fenced               this writer may not append any more; it registers anew
├── AlreadyInLog         the rows are in the log: an earlier COPY of them had committed
├── RowRefused           Postgres refuses at least one row of a batch for what is in it, and so the whole batch
└── LeaseLost            this process is no longer the keeper; what it was about to write is dropped
"""

from typing import NamedTuple

from offbeat.errors import OffbeatError, SettingsError

__all__ = [
    "AlreadyInLog",
    "BacklogFull",
    "DatabaseAway",
    "DatabaseRefuses",
    "DefinitionError",
    "Fenced",
    "LeaseLost",
    "Moved",
    "OffbeatError",
    "Problem",
    "RowRefused",
    "SchemaError",
    "SettingsError",
    "Unavailable",
]


class Problem(NamedTuple):
    """One thing wrong with one field. `field` is a path such as `stages.2.within`; "" means the whole."""

    field: str
    reason: str


class DefinitionError(OffbeatError):
    """A definition is refused whole; `problems` names every field and why."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{p.field}: {p.reason}" if p.field else p.reason for p in problems))
        self.problems = problems


class Moved(OffbeatError):
    """The condition under which a change was to be made (If-Match, If-None-Match) does not hold."""


class SchemaError(OffbeatError):
    """The database cannot be used as it is."""


class Unavailable(OffbeatError):
    """Not now. The ping may or may not be stored; the client should come again."""


class BacklogFull(Unavailable):
    """`pings_pending_max` or `bytes_pending_max` is reached."""


class DatabaseAway(Unavailable):
    """Postgres cannot be reached, or did not answer in time."""


class DatabaseRefuses(DatabaseAway):
    """Password, role, database, certificate, privileges or search path do not fit.

    A start with them ends with this message. A server that runs waits, because they fitted before.
    """


class Fenced(OffbeatError):
    """The keeper has declared this writer dead."""


class AlreadyInLog(OffbeatError):
    """A row with this writer and `seq` is in the log."""


class RowRefused(OffbeatError):
    """At least one row of the batch can never be stored; the others can."""


class LeaseLost(OffbeatError):
    """Another process is the keeper now, or may be."""
