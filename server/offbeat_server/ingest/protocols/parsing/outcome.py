"""Spellings of the outcome of a job: names of parameters, words, booleans and exit codes, all in one table.

A ping with an outcome never counts as a success because of its spelling. So spellings that are not documented but leave
no doubt are understood here, and ingest/protocols/parsing/parameters.py refuses the others.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from offbeat_server.engine.model.ping import EXIT_CODE_MAX, EXIT_CODE_MIN, Signal

# Words for a signal. Only those that leave no doubt: a wrong guess would be a false alarm, or none.
_WORDS: Final[dict[Signal, str]] = {
    "start": "start started starting begin began run running in_progress inprogress",
    "success": "success succeeded successful ok okay up passed pass complete completed done finish finished end ended "
    "healthy green alive online reachable available",
    "fail": "fail failed failing failure error errored errors down crash crashed fatal critical unhealthy red ko nok "
    "not_ok notok unsuccessful aborted abort killed timeout timed_out timedout oom oom_kill oom_killed oomkilled "
    "upstream_failed internal_error faulted dead offline unreachable unavailable",
    "log": "log info",
    "progress": "progress step",
    "skip": "skip skipped",
    "leave": "leave leaving",
}
SIGNAL_WORDS: Final = {word: signal for signal, words in _WORDS.items() for word in words.split()}
ENDED_WORDS: Final = frozenset(["complete", "completed", "done", "finish", "finished", "end", "ended"])
# Words for the present state, not for a result.
HEALTH_WORDS: Final = frozenset(["up", "healthy", "green", "alive", "online", "reachable", "available"])
ALLOWED: Final = "use start, success, fail, log, progress, skip or leave"
SAID_CHARS_MAX = 40  # of a wrong value, in the sentence that names it

# Names of parameters, compared in lower case without `_`, `-`, `.` and spaces, so that `ExitCode` is `exit_code`.
_NAMES: Final[dict[str, str]] = {
    "status": "status signal state outcome result verdict conclusion health",
    "exit_code": "exitcode exitstatus exit rc returncode retcode returnstatus returnvalue retval ret errorlevel "
    "errorcode lastexitcode serviceresult exitvalue exitval rval",
    "passed": "success successful succeeded ok",  # true: success, false: failure
    # What is not empty, 0 or false is a failure.
    "failed": "fail failed failure error errors exception failures err errormessage errormsg errortext errortype "
    "errordescription errordetail errordetails exceptionmessage exceptiontype stacktrace traceback errorcount "
    "errorscount failurecount failurescount failedcount numerrors numfailures numfailed nberrors totalerrors "
    "totalfailures totalfailed",
    "code": "code statuscode resultcode errno",  # an exit code, or HTTP's: 0 is a success, others are unclear
    "http": "httpstatus httpstatuscode httpcode responsecode",  # below 400 is a success, others are unclear
    "run": "run rid runid",
    "stage": "stage",
    "task": "task",
    "done": "done",
    "total": "total",
    "duration": "duration",
    "message": "message msg",
    "for": "for businessdate",
    "backfill": "backfill",
    "attempt": "attempt",
    "execution": "execution executionid",
}
FIELDS: Final = {name: field for field, names in _NAMES.items() for name in names.split()}
OUTCOMES: Final = frozenset(("status", "exit_code", "passed", "failed", "code", "http"))
# Compounds such as jobStatus, build_result, job-exit-code, is_ok, hasFailed, backup_failed. A `last_error` may be old.
_is_compound = re.compile(
    r"(?:job|run|build|task|backup|script|process|step|stage|pipeline|workflow|final|overall|last|check|service|execution"
    r"|current|exec|cron|tests?|dag|flow|exit|sync|import|export|transfer|upload|download|deploy|deployment|command|cmd"
    r"|restore|container|lifecycle)"
    r"(?:(?P<status>status|state|result|outcome)|(?P<exit_code>exitcode|exitstatus|returncode|retcode|exitvalue|rc))"
    r"|(?:(?:is|has|was)|(?:job|run|build|task|backup|script|step|pipeline|workflow|test|sync|restore)s?)"
    r"(?:(?P<passed>success|successful|succeeded|ok)|(?P<failed>fail|failed|failures?|errors?))"
).fullmatch
# Words that say a failure under any name.
_PLAIN_FAILURES: Final = frozenset(
    (
        *("fail", "failed", "failing", "failure", "error", "errored", "crashed", "fatal", "critical", "unsuccessful"),
        *("aborted", "timed_out", "timedout", "not_ok", "nok", "oomkilled", "oom_killed", "upstream_failed"),
    )
)
# Quotes that a shell left in place, and marks that a file of Windows begins with.
_EDGES = "'\"`;,.!\ufeff\u200b"
_drop = str.maketrans("", "", "_-. []\t\xa0" + _EDGES)
# Words under which `1` means yes, not a count or a setting.
_HAPPENED: Final = frozenset(
    (
        *("crashed", "killed", "aborted", "timed_out", "timedout", "errored", "failing", "unhealthy", "unsuccessful"),
        *("oom_killed", "oomkilled"),
    )
)
_pair_in = re.compile(r"\W{0,3}([\w.-]{1,40})[\"']?\s?[=:]\s?[\"']?([\w.-]{1,40})").match
_is_prefixed = re.compile(r"(?:is|has|was)_?(\w+)").fullmatch

# systemd's words for the result of a service ($SERVICE_RESULT, $EXIT_CODE), in the place of an exit code.
_RESULTS: Final[dict[str, Signal]] = {
    "success": "success",
    "exec-condition": "log",  # a condition kept the job from running
    **dict.fromkeys(
        (
            *("exit-code", "signal", "core-dump", "watchdog", "timeout", "oom-kill", "start-limit-hit", "resources"),
            *("protocol", "killed", "dumped"),
        ),
        "fail",
    ),
}
# Signals of Linux on x86 and ARM by number (signal(7)); $EXIT_STATUS names them without SIG.
_SIGNAL_NAMES = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG "
    "XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
_KILLED_BY: Final = {name: number for number, name in enumerate(_SIGNAL_NAMES.split(), 1)}
_KILLED_BY.update(IOT=6, CLD=17, POLL=29)
_REAL_TIME: Final = {"MIN": 34, "MAX": 64}
_is_real_time = re.compile(r"RT(MIN|MAX)([+-]\d{1,2})?", re.ASCII).fullmatch
_KILLED = 128  # what a shell adds to a signal's number
_is_number = re.compile(r"([+-]?)(?:(\d+)|0x([0-9a-f]+))(?:\.0*)?", re.ASCII).fullmatch
_DIGITS_MAX = 20
_is_failed_exit = re.compile(r"exit(?:ed)?(?: with)?(?: (?:code|status))?[ :=]+[1-9]\d{0,9}", re.ASCII).fullmatch

_TRUE: Final = {"true", "1", "yes", "y", "on"}
_FALSE: Final = {"false", "0", "no", "n", "off"}
_NOTHING: Final = {
    *("", "0", "0.0", "false", "no", "none", "null", "nil", "n/a", "-", "off", "undefined", "[]", "{}"),
    *("<nil>", "<null>", "(null)", "(none)"),  # as Go, lodash and C print it
    *("the operation completed successfully", "error_success"),  # what Windows calls the error 0
}
NOTHING_CHARS_MAX = 200  # a longer text is an error, with any beginning
# `No errors`, `0 errors, 2 warnings`, but neither `No error handler` nor `0 errors, 3 failures`.
_is_none_of_them = re.compile(
    r"(?:no|0|zero)[ _-]?(?:errors?|failures?|exceptions?)"
    r"(?:\s*[.,;:!()/|].*|\s+(?:\d|and|or|found|occurred|detected|reported|encountered|were|was|in|during|at|so)\b.*)?",
    re.DOTALL,
).fullmatch
_names_a_failure = re.compile(r"(?<!\b0 )(?<!\bno )(?:fail|fatal|crash|abort|exception)|\b[1-9]\d* error").search


class Exit(NamedTuple):
    """The meaning of an exit code or of the word in its place. `code` None: none, or none that can be stored."""

    signal: Signal
    code: int | None = None
    message: str | None = None
    lost: bool = False  # the number is out of all bounds


def field_of(name: str) -> str | None:
    """Return the parameter that a name means: a native one, or one of OUTCOMES; None: it is unknown."""
    field = FIELDS.get(name)
    if field is None:
        if len(name) > SAID_CHARS_MAX:
            return None
        plain = name.lower().removeprefix("amp;").translate(_drop)
        field = FIELDS.get(plain)
        if field is None and (match := _is_compound(plain)) is not None:
            return match.lastgroup
    return field


def read_word(text: str) -> Signal | None:
    """The signal that a word means, in any case, with `-` or a space for `_`; None for an unknown word."""
    return SIGNAL_WORDS.get(text) or SIGNAL_WORDS.get(_plain(text))


def unknown_signal(status: object) -> str:
    """The sentence that refuses a word."""
    return f"unknown status {shown(status)}: {ALLOWED}"


def read_exit(value: object) -> Exit | None:
    """Read an exit code: a number, or systemd's word for a signal or a result; None: neither."""
    if isinstance(value, str):
        text = value.strip().lower()
        if (match := _is_number(text)) is not None:
            sign, decimal, hexadecimal = match.groups()
            digits = (decimal or hexadecimal).lstrip("0") or "0"
            if len(digits) > _DIGITS_MAX:
                return Exit("fail", lost=True)
            number = int(digits, 10 if decimal else 16)
            return _exit(-number if sign == "-" else number)
        result = _RESULTS.get(text)
        if result is not None:
            return Exit(result, message=None if result == "success" else text)
        name = text.upper().removeprefix("SIG")
        number = _KILLED_BY.get(name, 0)
        if (real_time := _is_real_time(name)) is not None:
            number = _REAL_TIME[real_time[1]] + int(real_time[2] or 0)
        if number > 0:
            return Exit("fail", _KILLED + number, f"killed by SIG{name}")
        return None
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return _exit(int(value)) if value.is_integer() else None
    return _exit(value) if isinstance(value, int) else None


def read_flag(value: object) -> bool | None:
    """A boolean, however it is written; None: something else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    text = value.strip().lower() if isinstance(value, str) else ""
    return True if text in _TRUE else False if text in _FALSE else None


def is_nothing(value: object) -> bool:
    """Whether a value under a name like `error` says that there is none, also an object or a list of such values."""
    waiting = [("", value)]
    while waiting:  # not recursive: it may be deep
        name, each = waiting.pop()
        if isinstance(each, dict):
            waiting += each.items()
        elif isinstance(each, list):
            waiting += (("", one) for one in each)
        elif not _says_none(each) or is_denied(name, each):  # as in `{"success": false}`
            return False
    return True


def _says_none(value: object) -> bool:
    if not isinstance(value, str):
        return not value
    text = value.strip().lower()
    if text.removesuffix(".") in _NOTHING or read_word(text) == "success":
        return True
    if len(text) > NOTHING_CHARS_MAX:
        return False
    return _is_none_of_them(text) is not None and _names_a_failure(text) is None


def shown(value: object) -> str:
    """A value in a sentence."""
    if isinstance(value, dict | list):  # repr of a deep one would not return
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value[: SAID_CHARS_MAX + 1] if isinstance(value, str) else value)
    return text if len(text) <= SAID_CHARS_MAX else text[:SAID_CHARS_MAX] + "…"


def says_failure(name: str, value: Any) -> bool:
    """Whether a pair that is no parameter of a ping says, or may say, that something failed."""
    field = field_of(name)
    if field is None:
        return is_denied(name, value) or _has_happened(name, value) or _is_pair_in(name, value) or _is_failure(value)
    if field == "status":
        return value is False or (isinstance(value, str) and value != "" and read_word(value) in (None, "fail"))
    if field in ("exit_code", "code", "http"):
        code = read_exit(value)
        return code is not None and code.signal == "fail" and not (field == "http" and is_well_http(value))
    if field == "passed":
        return read_flag(value) is False
    return field == "failed" and not is_nothing(value)


def says_failure_in_text(name: str, value: str) -> bool:
    """Whether a name and a value in the text of a log say a failure outright: a log has many words that we do not know,
    and an HTTP status below 400 is no exit code.
    """
    field = field_of(name)
    if field == "status":
        return read_word(value) == "fail"
    if field == "code" and is_well_http(value):
        return False
    return field in OUTCOMES and says_failure(name, value)


def is_ended(name: str) -> bool:
    """Whether a name only says that the job has ended; `false` under it says no outcome."""
    return bare_name(name) in ENDED_WORDS


def is_denied(name: str, value: Any) -> bool:
    """Whether a pair says no under a word for success, as in `completed: false`."""
    text = value.strip().lower() if isinstance(value, str) else value
    if text is False or text in ("false", "no", "off"):
        return read_word(bare_name(name)) == "success"
    return text in (0, "0") and bare_name(name) in HEALTH_WORDS  # under others it may be a count


def bare_name(name: str) -> str:
    """A name without `is`, `has` or `was`, as in `isHealthy`."""
    if len(name) > SAID_CHARS_MAX:
        return name
    plain = _plain(name)
    return plain if (match := _is_prefixed(plain)) is None else match[1]


def _has_happened(name: str, value: Any) -> bool:
    """Whether a pair says yes under a word for a failure, as in `crashed=true`."""
    yes = value is True or (isinstance(value, str) and value.strip().lower() in ("true", "yes"))
    if not yes and not (value in (1, "1") and not isinstance(value, bool)):
        return False
    cause = bare_name(name)
    return read_word(cause) == "fail" if yes else cause in _HAPPENED


def _is_pair_in(name: str, value: Any) -> bool:
    """Whether a name without a value is a pair that was encoded as a whole, as in `status%3Dfail`."""
    if value != "" or (match := _pair_in(name)) is None:
        return False
    return field_of(match[1]) in OUTCOMES or says_failure(match[1], match[2])


def _is_failure(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= SAID_CHARS_MAX and _plain(value) in _PLAIN_FAILURES


def is_well_http(value: Any) -> bool:
    """Whether this may be an HTTP status that is no error."""
    code = read_exit(value)
    return code is not None and code.code is not None and 100 <= code.code < 400


def is_failure_word(text: str) -> bool:
    """Whether a text is only a word for a failure."""
    if len(text) > SAID_CHARS_MAX:
        return False
    return _plain(text) in (*_PLAIN_FAILURES, "false") or _is_failed_exit(text.strip().lower()) is not None


def find_failure(fields: Mapping[str, Any], looks_max: int) -> str | None:
    """The name of a pair in an object, however deep, that says a failure. Raises ValueError: too much to look at."""
    waiting: list[Any] = [fields]
    looks = 0
    while waiting:
        value = waiting.pop()
        pairs = value.items() if isinstance(value, dict) else (("", each) for each in value)
        for name, each in pairs:
            looks += 1
            if looks > looks_max:
                raise ValueError(f"the body has more than {looks_max} values")
            if says_failure(name, each):
                return name or shown(each)
            if isinstance(each, dict | list):
                waiting.append(each)
    return None


def _plain(text: str) -> str:
    return text.strip().strip(_EDGES).strip().lower().replace("-", "_").replace(" ", "_")


def _exit(number: int) -> Exit:
    signal: Signal = "fail" if number else "success"
    if not EXIT_CODE_MIN <= number <= EXIT_CODE_MAX:
        return Exit(signal, lost=True)
    return Exit(signal, number)
