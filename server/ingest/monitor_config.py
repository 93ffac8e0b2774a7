"""The definition that a Sentry SDK sends along with a check-in (`monitor_config`), as a definition of ours.

Source: getsentry/sentry 00ab02e3, src/sentry/monitors/validators.py `ConfigValidator`, and 0ebd7982,
src/sentry/monitors/constants.py for the defaults of one minute of margin and thirty of runtime.

| sent | becomes |
| --- | --- |
| `schedule` crontab | `cron` |
| `schedule` interval | `every`; a month is 31 days and a year 366, so that none is missed too early |
| `timezone` | `timezone` |
| `checkin_margin` (minutes, at least 1) | `grace` |
| `max_runtime` (minutes) | `max_runtime` |
| `failure_issue_threshold`, `recovery_threshold` | `fail_after`, `recover_after` |
| `owner` and others | nothing |
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

from server.engine.monitor import read_definition
from server.errors import DefinitionError

CONFIG_BYTES_MAX: Final = 10_000
DEFAULTS: Final[Mapping[str, Any]] = {"grace": "1m", "max_runtime": "30m"}

_UNIT_S = {"minute": 60, "hour": 3_600, "day": 86_400, "week": 604_800, "month": 31 * 86_400, "year": 366 * 86_400}
# A monitor has one kind of schedule, so the one that was sent replaces every other.
_NO_SCHEDULE: Final = {"every": None, "cron": None, "oncalendar": None, "after": None, "members": None}


def definition_of(config: object) -> Mapping[str, Any] | None:
    """The fields of a definition that a config sets, checked; None where it cannot be used."""
    try:
        text = orjson.dumps(config, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return None
    return _definition(text) if len(text) <= CONFIG_BYTES_MAX else None


@lru_cache(maxsize=1_000)
def _definition(text: bytes) -> Mapping[str, Any] | None:
    """By content, because an SDK sends the same config with every check-in."""
    config = orjson.loads(text)
    if not isinstance(config, dict):
        return None
    schedule = _schedule(config.get("schedule"))
    if schedule is None:
        return None
    fields = {**_NO_SCHEDULE, **schedule, "timezone": config.get("timezone") or "UTC"}
    margin, runtime = config.get("checkin_margin"), config.get("max_runtime")
    if margin is not None:
        fields["grace"] = _minutes(margin, at_least=1)
    if runtime is not None:
        fields["max_runtime"] = _minutes(runtime)
    for theirs, ours in (("failure_issue_threshold", "fail_after"), ("recovery_threshold", "recover_after")):
        if config.get(theirs) is not None:
            fields[ours] = config[theirs]
    try:
        read_definition({name: value for name, value in fields.items() if value is not None})
    except DefinitionError:
        return None
    return fields


def _schedule(schedule: object) -> dict[str, Any] | None:
    if not isinstance(schedule, dict):
        return None
    kind, value = schedule.get("type"), schedule.get("value")
    if kind == "crontab" and isinstance(value, str):
        return {"cron": " ".join(value.split())}
    unit = _UNIT_S.get(schedule["unit"]) if isinstance(schedule.get("unit"), str) else None
    if kind != "interval" or unit is None or isinstance(value, bool) or not isinstance(value, int) or value < 1:
        return None
    return {"every": value * unit}


def _minutes(value: object, at_least: int = 0) -> object:
    """Seconds; what is no number is passed on, for the definition's own check to refuse."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return max(value, at_least) * 60
    return f"{value} minutes"
