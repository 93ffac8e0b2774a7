"""Texts of pages: instants, durations, counts and statuses, as filters and tests of the templates.

Instants are sent in UTC, machine-readable; the browser makes them local and updates ages.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup

from offbeat_server.common.instants import SECOND, Micros, to_datetime, to_micros
from offbeat_server.engine.schedule.durations import say_duration

Instant = Micros | datetime | str

# Which picture and colour stands for it.
LOOKS = {
    **dict.fromkeys(("up", "succeeded", "success", "done", "delivered", "resolved", "held"), "up"),
    **dict.fromkeys(("down", "failed", "fail", "dead", "open"), "down"),
    **dict.fromkeys(("late", "hung", "expired", "progress"), "late"),
    **dict.fromkeys(("new", "waiting", "not started", "pending", "log", "comment"), "new"),
    **dict.fromkeys(("running", "start"), "running"),
    "unwatched": "unwatched",
    **dict.fromkeys(("paused", "skip", "skipped", "superseded", "ignored", "leave", "collapsed"), "paused"),
    **dict.fromkeys(("acknowledge", "acknowledged"), "seen"),
}


def micros(at: Instant) -> Micros:
    """An instant in any of the forms in which it comes."""
    if isinstance(at, int):
        return at
    return to_micros(datetime.fromisoformat(at) if isinstance(at, str) else at)


def look_of(status: str | None) -> str:
    """The picture for a status, verdict, signal or state."""
    return LOOKS.get(status or "running", "unknown")


def iso(at: Instant) -> str:
    """For the attribute `datetime`: to the millisecond, as browsers read it."""
    text = to_datetime(micros(at)).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def plain_time(at: Instant) -> str:
    """For people whose browser runs no scripts."""
    return f"{to_datetime(micros(at)):%Y-%m-%d %H:%M:%S} UTC"


def moment(at: Instant | None, kind: str = "at", nothing: str = "never") -> Markup:
    """A `<time>`: `at` shows the instant, `ago` and `left` run."""
    if at is None:
        return Markup('<span class="nothing">{}</span>').format(nothing)
    return Markup('<time datetime="{}" data-{} title="{}">{}</time>').format(
        iso(at), kind, plain_time(at), plain_time(at)
    )


def seconds(value: float | None) -> str:
    """A length in seconds for people."""
    return "" if value is None else say_duration(round(value * SECOND))


def number(value: float | None) -> str:
    """With spaces between thousands."""
    if value is None:
        return ""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}".replace(",", " ")
    return f"{int(value):,}".replace(",", " ")


def size(value: int) -> str:
    """Bytes for people."""
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 run`, `2 runs`."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def spans(names: Sequence[str]) -> str:
    """Names in a line; numbers that follow each other as a span: `4, 6–9, 12`."""
    parts: list[list[str]] = []
    if all(name.isdecimal() and len(name) < 10 for name in names):
        names = sorted(names, key=int)
    for name in names:
        last = parts[-1][-1] if parts else ""
        if name.isdecimal() and last.isdecimal() and len(name) < 10 and int(name) == int(last) + 1:
            parts[-1][1:] = [name]
        else:
            parts.append([name])
    return ", ".join("–".join(part) for part in parts)


PREVIEW_CHARS = 90


def preview(message: str) -> str:
    """A message in one line: its last line, where the error is, from its beginning."""
    lines = [" ".join(line.split()) for line in message.splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return last if len(last) <= PREVIEW_CHARS else last[: PREVIEW_CHARS - 1].rstrip() + "…"


FILTERS: dict[str, Any] = {
    "preview": preview,
    "moment": moment,
    "iso": iso,
    "seconds": seconds,
    "number": number,
    "size": size,
    "look": look_of,
    "spans": spans,
}
