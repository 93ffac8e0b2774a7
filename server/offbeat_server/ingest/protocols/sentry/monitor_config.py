"""The definition that a Sentry SDK sends along with a check-in (`monitor_config`), as a definition of Offbeat.

Source: getsentry/sentry 00ab02e3, src/sentry/monitors/validators.py `ConfigValidator`, and 0ebd7982,
src/sentry/monitors/constants.py for the defaults of one minute of margin and thirty of runtime.

| sent | becomes |
| --- | --- |
| `schedule` crontab | `cron` |
| `schedule` interval | `every`; a month is 31 days and a year 366, so that none is missed too early |
| `timezone` | `timezone`; names of Windows become those of the IANA list |
| `checkin_margin` (minutes, at least 1) | `grace` |
| `max_runtime` (minutes) | `max_runtime` |
| `failure_issue_threshold`, `recovery_threshold` | `fail_after`, `recover_after` |
| `owner` and others | nothing |

Names may be written as in JavaScript (`maxRuntime`), numbers as text ("10") or with a fraction of zero (10.0). A
`timezone` within `schedule` counts if there is none beside it. Sentry silently drops a config that it cannot use; here
the answer and the log name the field.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from offbeat_server.common.errors import DefinitionError
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.ingest.protocols.sentry.windows_zones import WINDOWS_ZONES

CONFIG_BYTES_MAX: Final = 10_000
DEFAULTS: Final[Mapping[str, Any]] = {"grace": "1m", "max_runtime": "30m"}

_upper = re.compile(r"(?<=[a-z])([A-Z])")
_UNIT_S = {"minute": 60, "hour": 3_600, "day": 86_400, "week": 604_800, "month": 31 * 86_400, "year": 366 * 86_400}
# A monitor has one kind of schedule, so the one that was sent replaces every other.
_NO_SCHEDULE: Final = {"every": None, "cron": None, "oncalendar": None, "after": None, "members": None}
_THEIR_NAMES: Final = {
    "cron": "schedule.value",
    "every": "schedule.value",
    "timezone": "timezone",
    "grace": "checkin_margin",
    "max_runtime": "max_runtime",
    "fail_after": "failure_issue_threshold",
    "recover_after": "recovery_threshold",
}


class Config(NamedTuple):
    """A config that was read: the fields of a definition, or the `problem`, which names the field that is wrong."""

    definition: Mapping[str, Any] | None
    problem: str = ""


NO_CONFIG: Final = Config(None)


class _Wrong(Exception):
    """A field of a config cannot be used."""


def snake_case(name: str) -> str:
    """A name as Sentry's protocol writes it, also where a program wrote `maxRuntime`."""
    return _upper.sub(r"_\1", name[:40]).lower()


def read_config(config: object) -> Config:
    """The fields of a definition that a config sets, checked. Total."""
    try:
        text = orjson.dumps(config, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return Config(None, "monitor_config: must be JSON")
    if len(text) > CONFIG_BYTES_MAX:
        return Config(None, f"monitor_config: must be at most {CONFIG_BYTES_MAX} bytes")
    return _read(text)


@lru_cache(maxsize=1_000)
def _read(text: bytes) -> Config:
    """By content, because an SDK sends the same config with every check-in."""
    config = orjson.loads(text)
    try:
        if not isinstance(config, dict):
            raise _Wrong("must be an object with a schedule")
        fields = _fields({snake_case(name): value for name, value in config.items()})
        read_definition({name: value for name, value in fields.items() if value is not None})
    except _Wrong as error:
        return Config(None, f"monitor_config.{error}" if str(error)[:5] != "must " else f"monitor_config: {error}")
    except DefinitionError as error:
        problem = error.problems[0]
        return Config(None, f"monitor_config.{_THEIR_NAMES.get(problem.field, problem.field)}: {problem.reason}")
    return Config(fields)


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    schedule = config.get("schedule")
    if not isinstance(schedule, dict):
        raise _Wrong(f"schedule: must be an object with type and value, not {_shown(schedule)}")
    zone = config.get("timezone") or schedule.get("timezone") or "UTC"
    if not isinstance(zone, str):
        raise _Wrong(f"timezone: must be a name such as Europe/Berlin, not {_shown(zone)}")
    zone = zone.strip()
    fields = {**_NO_SCHEDULE, **_schedule(schedule), "timezone": WINDOWS_ZONES.get(zone, zone)}
    for sentry_name, field, least in (("checkin_margin", "grace", 0), ("max_runtime", "max_runtime", 1)):
        if (sent := config.get(sentry_name)) is not None:
            minutes = _number(sentry_name, sent, least, " of minutes", integer=False)
            fields[field] = max(minutes, 1) * 60 if field == "grace" else minutes * 60
    for sentry_name, field in (("failure_issue_threshold", "fail_after"), ("recovery_threshold", "recover_after")):
        if (sent := config.get(sentry_name)) is not None:
            fields[field] = _number(sentry_name, sent, 1)
    return fields


def _schedule(schedule: dict[str, Any]) -> dict[str, Any]:
    kind, value, unit = schedule.get("type"), schedule.get("value"), schedule.get("unit")
    kind = kind.strip().lower() if isinstance(kind, str) else kind
    if kind == "crontab":
        if not isinstance(value, str):
            raise _Wrong(f"schedule.value: must be a cron expression of five fields, not {_shown(value)}")
        return {"cron": " ".join(value.split())}
    if kind != "interval":
        raise _Wrong(f"schedule.type: must be crontab or interval, not {_shown(kind)}")
    length = _UNIT_S.get(unit.strip().lower().removesuffix("s")) if isinstance(unit, str) else None
    if length is None:
        raise _Wrong(f"schedule.unit: must be {', '.join(_UNIT_S)}, not {_shown(unit)}")
    return {"every": _number("schedule.value", value, 1) * length}


def _number(field: str, sent: object, least: int, what: str = "", integer: bool = True) -> int | float:
    """A number, also as text. Raises _Wrong."""
    number: float | None = None
    if isinstance(sent, int | float) and not isinstance(sent, bool):
        number = sent
    elif isinstance(sent, str) and len(sent) <= 20:
        try:
            number = float(sent)
        except ValueError:
            number = None
    if number is None or not least <= number < 1e9 or (integer and number != int(number)):
        kind = "a whole number" if integer else "a number"
        raise _Wrong(f"{field}: must be {kind}{what} of at least {least}, not {_shown(sent)}")
    return int(number) if number == int(number) else number


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:100]
