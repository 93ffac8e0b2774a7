"""Every error that Offbeat raises on purpose, in one tree, so that a caller can draw the line where it needs it.

OffbeatError
├── SettingsError             the command line or the environment is wrong; the message says what to do
├── DefinitionError           a monitor, channel or project is not valid; one problem per field
├── PreconditionError         the object has changed since the client read it, or exists already
├── NotFoundError             the object of a command does not exist
├── ConflictError             other data stands against a command
├── CommandError              a command cannot be carried out as it was given, for any data
├── SchemaError               the database is not ours, or newer than this program
├── UnknownValueError         a stored word is none that this version knows
├── UnavailableError          not possible now: answered 503 with a Retry-After
│   ├── BacklogFullError      too many pings wait for their commit
│   └── DatabaseDownError     Postgres cannot be reached or does not answer in time
│       └── DatabaseRefusedError  Postgres or the settings refuse the connection until an operator changes something
├── FencedError               this writer may no longer append; it registers again
├── AlreadyInLogError         the rows are in the log: an earlier COPY of them had committed
├── RowRejectedError          Postgres rejects at least one row of a batch, and so the whole batch
└── LeaseLostError            this process is no longer the scheduler; what it was about to write is dropped
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from offbeat.errors import OffbeatError, SettingsError

__all__ = [
    "AlreadyInLogError",
    "BacklogFullError",
    "CommandError",
    "ConflictError",
    "DatabaseDownError",
    "DatabaseRefusedError",
    "DefinitionError",
    "FencedError",
    "LeaseLostError",
    "NotFoundError",
    "OffbeatError",
    "PreconditionError",
    "Problem",
    "RowRejectedError",
    "SchemaError",
    "SettingsError",
    "UnavailableError",
    "UnknownValueError",
    "without_secrets",
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


class PreconditionError(OffbeatError):
    """The condition under which a change was to be made (If-Match, If-None-Match) does not hold."""


class NotFoundError(OffbeatError):
    """The object of a command does not exist. `what` completes "There is no …"."""

    def __init__(self, what: str) -> None:
        super().__init__(f"There is no {what}.")


class ConflictError(OffbeatError):
    """Other data stands against the command; `problems` names it, if there is more than the message."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class CommandError(OffbeatError):
    """A part of the command is missing, or its idempotency key was used for another one."""


class SchemaError(OffbeatError):
    """The database cannot be used as it is."""


class UnknownValueError(OffbeatError):
    """A status or kind in the database is none that this version knows."""


class UnavailableError(OffbeatError):
    """Not now. The ping may or may not be stored; the client should come again."""


class BacklogFullError(UnavailableError):
    """`pings_pending_max` or `bytes_pending_max` is reached."""


class DatabaseDownError(UnavailableError):
    """Postgres cannot be reached, or did not answer in time."""


class DatabaseRefusedError(DatabaseDownError):
    """Password, role, database, certificate, privileges or search path do not fit.

    A start with them ends with this message. A server that runs waits, because they fitted before.
    """


class FencedError(OffbeatError):
    """The scheduler has declared this writer dead."""


class AlreadyInLogError(OffbeatError):
    """A row with this writer and `seq` is in the log."""


class RowRejectedError(OffbeatError):
    """At least one row of the batch can never be stored; the others can."""


class LeaseLostError(OffbeatError):
    """Another process is the scheduler now, or may be."""


def without_secrets(url: str) -> str:
    """The URL as it may stand in an error: a URL may hold a password or a token, and errors end up in logs.

    Scheme and host stay; `…` stands for user and password, and for all that follows the host. It takes any text,
    because a wrong setting may be no URL. An `@` after a `/`, `?` or `#` may end a password or belong to a token, so
    then the host is not shown either.
    """
    scheme, mark, rest = url.partition("://") if "://" in url else ("", "", url)
    authority, *behind = re.split(r"[/?#]", rest, maxsplit=1)
    if behind and "@" in behind[0]:
        return f"{scheme}{mark}…"
    user, _, host = authority.rpartition("@")
    return f"{scheme}{mark}{'…@' if user else ''}{host}{'/…' if behind and behind[0] else ''}"
