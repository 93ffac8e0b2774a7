"""The parameters of a native ping, wherever they stand: a query, a form, a JSON object, one line of many.

One reader for all of them, so that `done=5`, `{"done": 5}` and `{"done": "5"}` mean the same everywhere. Names are
compared without regard to case, `_`, `-` and `.` (ingest/protocols/parsing/outcome.py has all names and words).

| parameter | may be |
| --- | --- |
| `status` (`signal`, `state`, `outcome`, `result`, …) | a signal, or a word for one |
| `exit_code` (`rc`, `return_code`, …) | a number, or systemd's word for a result or a signal; 0 is success |
| `success`, `ok` | a boolean: true is success; false is fail, or left out beside a `status` of start or progress |
| `error`, `failed`, … | fail, unless it says that there is none; a text is the message where there is no other |
| `completed`, `finished`, … | false: the job has not ended, which is no outcome |
| `run` (`rid`), `task` | text or a number, at most 255 characters |
| `stage` | text, at most 100 characters |
| `done`, `total` | whole numbers from 0; `done` may exceed `total`, since totals are estimates |
| `duration` | seconds, `1h30m`, `1,5`, `00:01:30` or `PT90S` |
| `message` (`msg`) | text; any other JSON value is kept as JSON |
| `for` | the business date of the run: a date, a date and time, or any label of at most 100 characters |
| `backfill` | 1 or 0: the run makes up for an earlier date, and the schedule does not wait for it |
| `attempt` | a whole number from 1 |
| `execution` | an id of the process, pod or job that sends the ping, at most 255 characters |

These decide the signal, in this order: a failure in `status`, `success` or the path (only `log` and `leave` in
the path outrank it); the path; `status`, `success`; `exit_code`; `error`. But `error` outranks every success that is
said beside it, and an exit code one that only says that the job has ended. Nothing of these is success. A failure that
is outranked is named in the answer.

An outcome that cannot be read is refused with 400 where nothing else says the signal: it would count as success. So is
a failure deep within an object, also under one of our names. Every other value that cannot be read is left out, and
named in the answer. An empty value says nothing, and so does null: a shell variable that was never set must not cost
the ping. Only an empty outcome is one that cannot be read. There is no error where its value is empty, 0, false,
`none`, `OK`, `no errors`, or an object or list of nothing else. In a query, a name without `=` may be the outcome:
`?start`, `?ok`, `?error`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from offbeat_server.engine.model.ping import EXIT_CODE_MAX, EXIT_CODE_MIN, PLAIN, SIGNALS, Ping, PingOptions, Signal
from offbeat_server.ingest.protocols.base import PingNote, Rejection
from offbeat_server.ingest.protocols.parsing.details import (
    read_attempt,
    read_count,
    read_message,
    read_seconds,
    read_yes,
)
from offbeat_server.ingest.protocols.parsing.ids import COMMON_IDS, read_id
from offbeat_server.ingest.protocols.parsing.message import stored_text
from offbeat_server.ingest.protocols.parsing.objects import NotJson, read_object
from offbeat_server.ingest.protocols.parsing.outcome import (
    ALLOWED,
    FIELDS,
    HEALTH_WORDS,
    OUTCOMES,
    SIGNAL_WORDS,
    Exit,
    bare_name,
    field_of,
    find_failure,
    is_denied,
    is_ended,
    is_nothing,
    is_well_http,
    read_exit,
    read_flag,
    read_word,
    says_failure,
    shown,
    unknown_signal,
)
from offbeat_server.ingest.protocols.parsing.urlencoded import NO_VALUE

VALUES_LOOKED_AT_MAX = 5_000  # of an object whose names we do not know
_UNDISPUTED: Final = ("log", "leave")  # in the path: no outcome of a job
_DETAILS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "done": read_count,
    "total": read_count,
    "duration": read_seconds,
    "message": read_message,
    "backfill": read_yes,
    "attempt": read_attempt,
}
_OPTIONS: Final = {"for": "business_date", "backfill": "backfill", "attempt": "attempt", "execution": "execution"}
_EXIT_RANGE = f"exit_code must be a number from {EXIT_CODE_MIN} to {EXIT_CODE_MAX}"


_FLAGS: Final[dict[str, Signal]] = {
    **{name: name for name in SIGNALS if name != "success"},  # `success=` is an outcome that is empty
    "failed": "fail",
    "failure": "fail",
}


_is_common_id = re.compile(r"[!-*,-~]{1,100}").fullmatch
# A suffix of an address that already had a query: `?run=7/fail`, `?run=7?status=fail`.
_appended = re.compile(r"(/(?:start|fail)/?)$|^1(/\d{1,3})$|(\?([\w.-]{1,40})(?:=[^?]*)?)$", re.IGNORECASE).search


_SIGNAL_NAMES: Final = frozenset(("status", "signal", "state", "outcome"))
_JSON_CHARS_MAX = 20_000


class ReadParameters(NamedTuple):
    """The ping that parameters describe. `named`: they say its signal themselves. `notes`: what was left out."""

    ping: Ping
    named: bool = False
    notes: tuple[PingNote, ...] = ()


def read_fields(
    pairs: Iterable[tuple[str, Any]],
    signal: Signal | None = None,
    exit_code: int | None = None,
    message: str | None = None,
) -> ReadParameters | Rejection:
    """The ping that these parameters describe; of a repeated name the last counts, except for outcomes that differ.

    `signal` and `exit_code`: what the path already said. `message`: the stored form of a raw body, kept if the
    parameters have no message. Total: a Rejection has status 400 and a sentence that says what is allowed.
    """
    pairs = list(pairs)
    if (common := _read_common(pairs, signal, exit_code, message)) is not None:
        return common
    reader = _Reader(signal, exit_code, message)
    for name, value in pairs:
        if value is not None:
            reader.take(name, value)
    return reader.combined()


def _read_common(
    pairs: list[tuple[str, Any]], signal: Signal | None, exit_code: int | None, message: str | None
) -> ReadParameters | None:
    """The same for what most pings say: ids as they are stored, and one word. It takes a third of the time."""
    ids: dict[str, Any] = {}
    status: Signal | None = None
    for name, value in pairs:
        if name in COMMON_IDS:
            if value.__class__ is not str or not _is_common_id(value):
                return None
            ids[name] = value
        elif name == "status" and status is None and value.__class__ is str:
            status = SIGNAL_WORDS.get(value)
            if status is None:
                return None
        else:
            return None
    if signal is None:
        signal = status or "success"
    elif status is not None and status != signal:
        return None
    if not ids and exit_code is None and message is None:
        return ReadParameters(PLAIN[signal], status is not None)
    return ReadParameters(Ping(signal, exit_code=exit_code, message=message, **ids), status is not None)


def read_outcome(pairs: Iterable[tuple[str, str]]) -> ReadParameters | Rejection | None:
    """Read the outcome in parameters that the protocol of another service does not have; None: there is none.

    That service ignores them, so a failure in native words, or misspelt, would count as a success.
    """
    outcomes = [(name, value) for name, value in pairs if _is_about_outcome(name, value)]
    if not outcomes:
        return None
    parameters = read_fields(outcomes)
    return parameters if isinstance(parameters, Rejection) or parameters.named else None


def read_beside(own: Sequence[tuple[str, Any]], pairs: Iterable[tuple[str, Any]]) -> ReadParameters | None:
    """Combine `own`, the outcome that a protocol defines, with other words for an outcome in the same query.

    None: there are no others, and `own` is one. As with native parameters, a failure outranks a success. Words that
    cannot be read beside `own`, the last of which counts, are noted.
    """
    others = [(name, value) for name, value in pairs if _is_about_outcome(name, value)]
    if not others and len(own) == 1:
        return None
    combined = read_fields([*own, *others])
    if isinstance(combined, ReadParameters):
        return combined
    last = read_fields([own[-1]])
    return last._replace(notes=(PingNote("status", combined.reason),)) if isinstance(last, ReadParameters) else None


def read_beside_path(ping: Ping, pairs: Iterable[tuple[str, Any]]) -> tuple[Ping, tuple[PingNote, ...]]:
    """The same where the path has said the outcome."""
    others = [(name, value) for name, value in pairs if _is_about_outcome(name, value)]
    if not others or isinstance(combined := read_fields(others, ping.signal, ping.exit_code), Rejection):
        return ping, ()
    return ping._replace(signal=combined.ping.signal, exit_code=combined.ping.exit_code), combined.notes


def _is_about_outcome(name: str, value: Any) -> bool:
    field = field_of(name)
    if field in OUTCOMES or _flag_of(field, name, value) is not None or says_failure(name, value):
        return True
    return isinstance(value, str) and value[:1] in ("{", "[")


def appended_outcome(query: str) -> Rejection | None:
    """Why a query is refused that ends with what was meant for the path, or for the query itself.

    To be asked only if the query itself says no outcome: a task or an error may well end with `/start`.
    """
    if "/" not in query and "?" not in query:
        return None
    last = query.rpartition("&")[2]
    first, again, _ = last.partition("?")
    if again and read_word(first) is not None:
        return Rejection(400, f"the query has two ?: write ?status={first.lower()}&... instead of ?{shown(first)}?...")
    name, _, value = last.partition("=")
    if field_of(name) == "message" or (match := _appended(value or name)) is None:
        return None
    signal, code, second, inner = match.groups()
    if (code and name.lower() != "create") or (inner and field_of(inner) not in OUTCOMES):
        return None
    shown_end = shown(signal or code or second)
    return Rejection(400, f"the query ends with {shown_end}: write the signal before the ?, or send status")


def as_json(value: Any) -> Any:
    """The object or list that a text is, as a form has it that wraps one; else the value itself."""
    if not isinstance(value, str) or value[:1] not in ("{", "[") or len(value) > _JSON_CHARS_MAX:
        return value
    try:
        return read_object(value.encode("utf-8", "replace"))
    except NotJson:
        return value


def _flag_of(field: str | None, name: str, value: Any) -> Signal | None:
    """The signal that a name says which has no value, as in `?fail`."""
    if value != "" or field not in (None, "passed", "failed"):
        return None
    signal = _FLAGS.get(name.lower())
    if signal is not None or value is not NO_VALUE:
        return signal
    if field is not None:
        return "success" if field == "passed" else "fail"
    signal = read_word(name)
    return signal if signal in ("success", "fail") else None


class _Reader:
    """The parameters that were read so far."""

    __slots__ = (
        "_denied",
        "_details",
        "_empty",
        "_error",
        "_exit",
        "_notes",
        "_only_ended",
        "_path",
        "_path_code",
        "_signals",
        "_unended",
        "_unknown",
        "_unread",
    )

    def __init__(self, signal: Signal | None, exit_code: int | None, message: str | None) -> None:
        self._path, self._path_code = signal, exit_code
        self._details: dict[str, Any] = {} if message is None else {"message": message}
        self._notes: list[PingNote] = []
        self._signals: list[tuple[str, Signal]] = []  # signals that parameters name
        self._exit: tuple[str, Exit] | None = None
        self._error: tuple[str, str] | None = None  # a name that only a failure has, and its text, maybe empty
        self._denied: list[str] = []  # names for a success that are false
        self._unended: list[PingNote] = []  # names that only say that the job has ended, and are false
        self._unread: list[PingNote] = []  # outcomes that cannot be read
        self._empty: str | None = None  # an outcome of which only the name was sent
        self._only_ended = True  # all words for a success only say that the job has ended
        self._unknown: dict[str, Any] = {}

    def take(self, name: str, value: Any) -> None:
        """One parameter."""
        field = FIELDS.get(name) or field_of(name)
        if field not in OUTCOMES and isinstance(value, dict | list):
            self._unknown[name] = value  # it may name a failure
        if (signal := _flag_of(field, name, value)) is not None:
            self._add_signal(name, signal, is_ended(name))
        elif field in (None, "done") and is_denied(name, value):
            self._deny(field, name)
        elif field is None:
            self._unknown[name] = as_json(value)
        elif field in OUTCOMES:
            self._take_outcome(field, name, value)
        elif field in _DETAILS:
            try:
                detail = _DETAILS[field](field, value)
            except ValueError as error:
                self._notes.append(PingNote(field, str(error)))
            else:
                if detail is not None:
                    self._details[field] = detail
        else:
            text, changed = read_id(field, value)
            if text is not None:
                self._details[field] = text
            if changed is not None:
                self._notes.append(PingNote(field, changed, changed=True))

    def _add_signal(self, name: str, signal: Signal, only_ended: bool = False) -> None:
        self._signals.append((name, signal))
        self._only_ended &= only_ended and signal == "success"

    def _deny(self, field: str | None, name: str) -> None:
        if is_ended(name):
            self._unended.append(PingNote(field or "status", f"{name} only says that the job has not ended yet"))
        elif bare_name(name) in HEALTH_WORDS:
            self._add_signal(name, "fail")
        else:
            self._denied.append(name)

    def _settle_denied(self) -> None:
        """A job that runs has not succeeded yet; said of any other, the same is a failure."""
        under_way = next(((name, signal) for name, signal in self._signals if signal in ("start", "progress")), None)
        for name in self._denied:
            if under_way is None:
                self._add_signal(name, "fail")
            else:
                self._notes.append(PingNote("success", f"{name} says no, but {under_way[0]} says {under_way[1]}"))

    def combined(self) -> ReadParameters | Rejection:
        """The ping that all parameters together describe."""
        path = self._path
        self._settle_denied()
        if path is None and not self._signals and self._exit is None and self._error is None:
            refusal = self._refusal()
            if refusal is not None:
                return refusal
        signal, source = self._decide()
        if signal is None:
            return Rejection(400, f"the parameters say {self._signals[0][1]} and {self._signals[-1][1]}: leave one out")
        for name, named_signal in self._signals:
            if named_signal != signal:
                self._notes.append(PingNote("status", f"{name} says {named_signal}, but {source} {signal}"))
        if path is not None and path != signal:
            self._notes.append(PingNote("path", f"the path says {path}, but {source} {signal}"))
        self._notes += self._unread
        self._notes += self._unended
        self._take_exit(signal, source)
        if self._error is not None:
            name, text = self._error
            if signal != "fail":
                self._notes.append(PingNote("error", f"{name} says fail, but {source} {signal}"))
            elif text:
                self._details.setdefault("message", text)
        options = {field: self._details.pop(name) for name, field in _OPTIONS.items() if name in self._details}
        ping = Ping(signal, **self._details) if self._details or options else PLAIN[signal]
        if options:
            ping = ping._replace(options=PingOptions(**options))
        named = bool(self._signals) or self._exit is not None or self._error is not None
        return ReadParameters(ping, named, tuple(self._notes))

    def _take_outcome(self, field: str, name: str, value: Any) -> None:
        if isinstance(value, str) and not value.strip():
            if field != "failed":  # an empty error is none
                self._empty = name
        elif field == "status":
            signal = read_word(value) if isinstance(value, str) else None
            if signal is None and isinstance(value, str) and (ended := read_exit(value)) is not None and ended.message:
                signal = ended.signal  # systemd's word
            if signal is not None:
                self._add_signal(name, signal, is_ended(value))
            elif isinstance(value, dict | list) and name.lower() not in _SIGNAL_NAMES:  # what a job returns, maybe
                self._unknown[name] = value
            else:
                self._unread.append(PingNote("status", unknown_signal(value)))
        elif field == "exit_code":
            result = read_exit(value)
            if result is None:
                self._unread.append(PingNote(field, f"{_EXIT_RANGE}, not {shown(value)}"))
            elif self._exit is None or (self._exit[1].signal == "success" and result.signal != "success"):
                self._exit = name, result
        elif field == "passed":
            flag = read_flag(value)
            if flag is None:
                self._unread.append(PingNote("success", f"{name} must be true or false, not {shown(value)}"))
            elif flag:
                self._add_signal(name, "success")
            else:
                self._denied.append(name)
        elif field == "failed":
            if not is_nothing(value):
                text = value if isinstance(value, str) and read_flag(value) is None else ""
                text = stored_text(text) or ""
                if self._error is None or (text and not self._error[1]):
                    self._error = name, text
        elif not is_nothing(value) and not (field == "http" and is_well_http(value)):
            self._unread.append(
                PingNote("code", f"{name} {shown(value)} may be an exit code or not: send exit_code or status")
            )

    def _refusal(self) -> Rejection | None:
        """Why this cannot be taken for a success, where nothing that was read says so."""
        if self._unread:
            return Rejection(400, self._unread[0].reason)
        if self._unended:
            return Rejection(400, f"{self._unended[0].reason}: {ALLOWED}, as status")
        if self._empty is not None:
            return Rejection(400, f"{self._empty} is empty: {ALLOWED}, or an exit code as exit_code")
        try:
            name = find_failure(self._unknown, VALUES_LOOKED_AT_MAX) if self._unknown else None
        except ValueError as error:
            return Rejection(400, f"{error}: send the outcome in the path or as status")
        if name is None:
            return None
        return Rejection(400, f"{name[:100]!r} looks like the outcome of a job: send it as status ({ALLOWED})")

    def _decide(self) -> tuple[Signal | None, str]:
        """The signal, and who says so; None: two that say it differ."""
        path, signals = self._path, self._signals
        failing = next((name for name, signal in signals if signal == "fail"), None)
        if failing is not None and path not in _UNDISPUTED:
            return "fail", f"{failing} says"
        code, error = self._exit, self._error
        if path is not None:
            if path == "success" and error is not None:
                return "fail", f"{error[0]} says"
            if self._path_code == 0 and code is not None and code[1].signal == "fail":
                return "fail", f"{code[0]} says"
            return path, "the path says"
        if signals and any(signal != signals[0][1] for _, signal in signals):
            return None, ""
        if error is not None and (not signals or signals[0][1] == "success"):
            return "fail", f"{error[0]} says"
        if code is not None and (not signals or (self._only_ended and code[1].signal == "fail")):
            return code[1].signal, f"{code[0]} says"
        return (signals[0][1], f"{signals[0][0]} says") if signals else ("success", "the address says")

    def _take_exit(self, signal: Signal, source: str) -> None:
        path_code = self._path_code
        if self._exit is not None:
            name, (exit_signal, code, message, lost) = self._exit
            if lost:
                self._notes.append(PingNote("exit_code", _EXIT_RANGE))
            elif exit_signal == "fail" and signal not in ("fail", *_UNDISPUTED):
                self._notes.append(PingNote("exit_code", f"{name} says fail, but {source} {signal}"))
            if path_code is not None and code != path_code and not (path_code == 0 and exit_signal == "fail"):
                self._notes.append(PingNote("exit_code", f"{name} says {code}, but the path says {path_code}"))
                code = path_code
            if code is not None:
                self._details["exit_code"] = code
            if message is not None and signal == "fail":
                self._details.setdefault("message", message)
        elif path_code is not None:
            self._details["exit_code"] = path_code
