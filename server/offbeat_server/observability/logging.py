"""The server's log: one line per event on standard output, as JSON for programs or in colour for people.

All events go one way, also those of libraries that use the standard `logging`, so that all lines have one form. Keys of
pings and secrets never reach a line: a reader of the log must not be able to ping or manage.
"""

import logging
import sys
from typing import Any, Literal

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from offbeat.readable import one_line, readable, readable_json

SECRET_FIELDS = frozenset({"key", "ping_key", "admin_key", "authorization", "x-api-key", "token", "password", "secret"})


class _LineWriter:
    """Writes lines to standard output. A log that cannot be written must not stop a ping."""

    def __init__(self, name: str = "offbeat") -> None:
        self.name = name

    def msg(self, line: str | bytes) -> None:
        try:
            if isinstance(line, bytes):
                line = line.decode()
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except (OSError, ValueError):
            pass

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


class _Forward(logging.Handler):
    """Hands what libraries log over to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)


def _add_name(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event["logger"] = getattr(logger, "name", "offbeat")
    return event


def _hide_secrets(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    for field in SECRET_FIELDS & event.keys():
        event[field] = "***"
    return event


def _to_json(event: Any, **_: Any) -> str:
    return readable_json(orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode())


def _on_one_line(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Let no name and no header forge a line of the log or colour it. A traceback keeps its lines, each indented."""
    for field, value in event.items():
        if field == "exception":
            event[field] = "\n".join(f"    {line}" for line in readable(str(value)).split("\n"))
        elif not isinstance(value, int | float | None):
            event[field] = one_line(value if isinstance(value, str) else str(value))
    return event


def set_up(form: Literal["json", "console"], level: Literal["debug", "info", "warning", "error"]) -> None:
    """Begin to log. Call once, before anything is logged."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _add_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hide_secrets,
    ]
    if form == "json":
        last: list[Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    else:
        # Not rich's tracebacks, which are the default where rich is installed: they print the values of all local
        # variables, keys among them, and take 0.1 s each while nothing else happens.
        last = [
            structlog.processors.format_exc_info,
            _on_one_line,
            structlog.dev.ConsoleRenderer(
                colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_LineWriter,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Forward()], level=level.upper(), force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
