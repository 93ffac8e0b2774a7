"""Reads a crontab: which line is a job, when it runs and where, and how the line looks when `offbeat exec` runs it.

Forms: crontab(5) of Debian's cron and of cronie: five fields or `@daily`; `NAME=value` lines, among them CRON_TZ
(cronie) for the time zone of what follows; in a system crontab (/etc/crontab, /etc/cron.d) a user before the command;
in the command an unescaped `%` ends it, and what follows is its input.
"""

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from offbeat_server.common.instants import SECOND, Micros, to_micros
from offbeat_server.engine.schedule.calendar import calendar, check_cron
from offbeat_server.engine.schedule.durations import write_duration

_FIELD = r"[0-9A-Za-z*/,\-~?#]+"
_FIVE = re.compile(rf"^\s*-?((?:{_FIELD}\s+){{4}}{_FIELD})\s+(\S.*)$")
_NICKNAME = re.compile(r"^\s*(@[a-z_]+)\s+(\S.*)$", re.IGNORECASE)
_VARIABLE = re.compile(r"""^\s*(["']?)([A-Za-z_][A-Za-z0-9_]*)\1\s*=\s*(.*?)\s*$""")
_USER = re.compile(r"^(\S+\s+)(\S.*)$")
_is_under_exec = re.compile(r"(?:[A-Za-z_]\w*=\S*\s+)*(?:\S*/)?offbeat\s+exec\s").match
_INPUT = re.compile(r"(?<!\\)%")
# Programs that only start another one: the job is named after what they start.
_WRAPPERS = frozenset(
    ("sudo", "nice", "ionice", "env", "time", "nohup", "chronic", "sh", "bash", "python", "python3", "perl", "php")
)
# Conditions in front of a job, such as "is tomorrow the first?": whether it runs, not how it ended.
_GUARDS = re.compile(r"\s*((?:(?:\[\s.+?\s\]|\[\[\s.+?\s\]\]|test\s[^|&;]+?)\s*&&\s*)+)(?=\S)")
_WRAPPERS_WITH_ARGUMENT = frozenset(("flock", "timeout"))
# The commands in front of the job itself, up to `&&` or `;`; a condition among them can be false.
_CONDITION = r"\[\[?|test|!|command\s+-v|which|expr|grep|pgrep|pidof|systemctl\s+is-active|mountpoint"
_IN_FRONT = re.compile(rf"\s*(?:{_CONDITION}|cd|sleep|export|source|\.|umask|ulimit)\s(?:[^;&|]|>&|&>)*(?:&&|;)\s*")
_GUARDED = re.compile(rf"\s*(?:{_CONDITION})\s(?:[^;&|]|>&|&>)*&&")
RUNTIME_LEAST: Micros = 3_600 * SECOND
RUNTIME_MOST: Micros = 24 * 3_600 * SECOND
_SLOTS_LOOKED_AT = 20
_SAMPLE = to_micros(datetime(2026, 1, 5, tzinfo=UTC))  # the same at every import, so that nothing changes by itself


class CrontabJob(NamedTuple):
    """One line that runs something. `number` counts from 1; `before` is what stands in front of the command."""

    number: int
    schedule: str
    timezone: str | None
    before: str
    command: str
    line: str


class Crontab(NamedTuple):
    """The jobs of a crontab, in order; the commands that run under `offbeat exec` already, by line; and the lines of
    which no job is made, with the reason.
    """

    jobs: list[CrontabJob]
    wrapped: dict[int, str]
    left: list[tuple[int, str]]


def lines_of(text: str) -> list[str]:
    """The lines as cron counts them: by newlines alone."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def read_crontab(text: str, system: bool = False) -> Crontab:
    """The jobs of a crontab. `@reboot` has no time at which it is due, so it is none of them."""
    jobs: list[CrontabJob] = []
    left: list[tuple[int, str]] = []
    wrapped: dict[int, str] = {}
    zone = None
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _FIVE.match(line) or _NICKNAME.match(line)
        variable = _VARIABLE.match(line)
        if variable is not None and (match is None or "=" in match[1]):
            if variable[2] == "CRON_TZ":
                zone = variable[3].strip("\"'")
            continue
        if match is None:
            left.append((number, "it is not a line of a crontab: no monitor is created for it"))
            continue
        if match[1].lower() == "@reboot":
            left.append((number, "@reboot has no time at which it is due: no monitor is created for it"))
            continue
        command_at = match.start(2)
        if system and (user := _USER.match(line[command_at:])):
            command_at += len(user[1])
        if _is_under_exec(line[command_at:]):
            left.append((number, "it already runs under `offbeat exec`: it is not changed"))
            wrapped[number] = _unwrapped(line[command_at:])
            continue
        jobs.append(CrontabJob(number, " ".join(match[1].split()), zone, line[:command_at], line[command_at:], line))
    return Crontab(jobs, wrapped, left)


def _unwrapped(command: str) -> str:
    """Return the command that `under_exec` was given."""
    try:
        arguments = shlex.split(command)
    except ValueError:
        arguments = command.split()
    arguments = arguments[arguments.index("--") + 1 :] if "--" in arguments else arguments
    return arguments[2] if arguments[:2] == ["$SHELL", "-c"] and len(arguments) > 2 else " ".join(arguments)


def program_of(command: str) -> str:
    """The name of the program that a command is about, past conditions, shells and wrappers."""
    command = _guarded(command)[1]
    while (match := _IN_FRONT.match(command)) is not None and command[match.end() :].strip():
        command = command[match.end() :]
    try:
        arguments = shlex.split(command)
    except ValueError:
        arguments = command.split()
    remaining = iter(arguments)
    for argument in remaining:
        name = Path(argument).name
        if name in _WRAPPERS_WITH_ARGUMENT:
            next((each for each in remaining if not each.startswith("-")), None)
        elif not (
            name in _WRAPPERS or argument.startswith("-") or re.match(r"^[A-Za-z_]\w*=", argument) or argument.isdigit()
        ):
            return re.sub(r"\.(sh|py|pl|rb|php)$", "", name)
    return arguments[0] if arguments else ""


def is_guarded(command: str) -> bool:
    """Whether the job runs only on a condition that `under_exec` does not rewrite: a false one is exit code 1."""
    guards, guarded = _guarded(command)
    rewritten = bool(guards) and _is_simple(guarded)
    return _GUARDED.match(command) is not None and not rewritten and "||" not in command


def proposed_runtime(schedule: str) -> str | None:
    """The default limit of a run: half the shortest gap of the schedule, from 1 h to 24 h.

    None for a schedule that cannot be read; `apply` says what is wrong with it.
    """
    try:
        slots, at, gap = calendar("cron", check_cron(schedule), "UTC"), _SAMPLE, 2 * RUNTIME_MOST
        for _ in range(_SLOTS_LOOKED_AT):
            after = slots.next_after(at)
            if after is None:
                break
            gap, at = min(gap, after - at) if at != _SAMPLE else gap, after
    except ValueError:
        return None
    return write_duration(max(RUNTIME_LEAST, min(RUNTIME_MOST, gap // 2)))


def under_exec(job: CrontabJob, key: str, program: str = "offbeat", url: str | None = None) -> str:
    """The line as it runs the same command under `offbeat exec`, in the shell that cron would have taken."""
    command, *given = _INPUT.split(job.command, maxsplit=1)
    where = f" --url {shlex.quote(url)}" if url else ""
    guards, guarded = _guarded(command)
    if guards and _is_simple(guarded):
        # A condition that does not hold is no failure of the job: it ends with 0, and the day counts as done.
        command = f"if {guards}; then {guarded.rstrip()}; fi"
    quoted = "'" + command.rstrip().replace("'", "'\"'\"'") + "'"
    # `\%` stays as it is: cron turns it into `%` before any shell sees the line.
    return f'{job.before}{program} exec{where} {key} -- "$SHELL" -c {quoted}' + (f"%{given[0]}" if given else "")


def _guarded(command: str) -> tuple[str, str]:
    """The conditions that a command begins with ("" for none), and the rest."""
    match = _GUARDS.match(command)
    return (re.sub(r"\s*&&\s*$", "", match[1]), command[match.end() :]) if match else ("", command)


def _is_simple(command: str) -> bool:
    """Whether a shell reads it as one command, a pipeline or a list joined by `&&`."""
    try:
        tokens = list(shlex.shlex(command, posix=True, punctuation_chars=True))
    except ValueError:
        return False
    return not any(set(token) <= set("|&;()") and token not in ("|", "&&") for token in tokens)
