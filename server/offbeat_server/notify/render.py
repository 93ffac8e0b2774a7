"""What an alert says to people: a title for the lock screen, a sentence, a few facts, the end of the last message.

Made once, used by every kind of channel: each takes the parts its service can show (`fields`) or the whole as text or
HTML. Pure and without a clock, so that a retry says the same; "so long ago" is reckoned from the decision's time.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from html import escape
from typing import Any, NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo

from offbeat_server.common.clock import to_micros
from offbeat_server.common.instants import Micros
from offbeat_server.engine.schedule.durations import say_duration

Facts = Mapping[str, Any]

TITLE_CHARS_MAX = 200
LEAD_CHARS_MAX = 1_000
FIELD_CHARS_MAX = 500
MESSAGE_CHARS_MAX = 1_500
CAUSES_SHOWN_MAX = 10
# Of the monitors in a digest: Telegram and ntfy take 4 096 characters in all, Discord 1 024 in a field.
LISTED_CHARS_MAX = 2_800
LISTED_FIELD_CHARS_MAX = 700
LINE_CHARS_MIN = 120
NAME_CHARS_MAX = 60

_VERBS = {"opened": "DOWN", "worse": "WORSE", "resolved": "RESOLVED", "reminder": "STILL DOWN"}
_SYMBOLS = {"resolved": "🟢", "over": "🟢", "operator": "🟠", "test": "🔵"}
_COLORS = {"🔴": "#d32f2f", "🟠": "#ef6c00", "🟢": "#2e7d32", "🔵": "#1565c0"}


def cut(text: str, chars_max: int) -> str:
    """At most so many characters, with a mark where the end is missing."""
    return text if len(text) <= chars_max else text[: chars_max - 1].rstrip() + "…"


def cut_head(text: str, chars_max: int) -> str:
    """The same, keeping the end, where the errors of a job are; from the beginning of a line, or else of a word."""
    if len(text) <= chars_max:
        return text
    kept = text[len(text) - chars_max + 1 :]
    for between in ("\n", " "):
        rest = kept.partition(between)[2]
        if len(rest) > chars_max // 2:
            kept = rest
            break
    return "…" + kept.lstrip()


def without_markup(text: str, marks: str) -> str:
    """For services that read Markdown: a backslash before each of these marks, so that a job's words, and the names
    that came with pings, make no link and no emphasis. A backslash must be the first of them."""
    for mark in marks:
        text = text.replace(mark, "\\" + mark)
    return text


class RenderedAlert(NamedTuple):
    """An alert for people. Plain text in every part: whoever puts it into markup escapes it there."""

    symbol: str
    title: str
    lead: str
    fields: tuple[tuple[str, str], ...] = ()
    message: str | None = None
    link: str | None = None

    @property
    def color(self) -> str:
        """`#rrggbb`: red is trouble, green is over."""
        return _COLORS[self.symbol]

    @property
    def text(self) -> str:
        """Everything but the title, as plain text."""
        parts = [self.lead, "\n".join(f"{label}: {value}" for label, value in self.fields)]
        if self.message:
            parts.append(f"Last message:\n{self.message}")
        if self.link:
            parts.append(self.link)
        return "\n\n".join(part for part in parts if part)

    @property
    def html(self) -> str:
        """Everything as an HTML page for mail programs: tables and inline styles only."""
        rows = "".join(
            f'<tr><td style="padding:2px 12px 2px 0;color:#666;vertical-align:top">{escape(label)}</td>'
            f'<td style="padding:2px 0;white-space:pre-line">{escape(value)}</td></tr>'
            for label, value in self.fields
        )
        message = (
            '<p style="color:#666;margin-bottom:4px">Last message</p>'
            f'<pre style="background:#f5f5f5;padding:8px;white-space:pre-wrap">{escape(self.message)}</pre>'
            if self.message
            else ""
        )
        link = f'<p><a href="{escape(self.link)}">Open in Offbeat</a></p>' if self.link else ""
        return (
            '<!doctype html><html><body style="font-family:sans-serif;font-size:14px;color:#222">'
            f'<h2 style="color:{self.color};font-size:18px">{escape(self.title)}</h2>'
            f'<p>{escape(self.lead)}</p><table style="border-collapse:collapse">{rows}</table>{message}{link}'
            "</body></html>"
        )


def render_alert(kind: str, facts: Facts, link: str | None = None) -> RenderedAlert:
    """Render one alert. Any fact may be absent; no fact is trusted to be short or of the right type."""
    name = _text(facts, "name") or _text(facts, "monitor")
    reason = _text(facts, "reason", LEAD_CHARS_MAX)
    symbol = _SYMBOLS.get(kind, "🔴")
    if kind == "test":
        return RenderedAlert(
            symbol, "Test from Offbeat", reason or "If you can read this, alerts will arrive here.", link=link
        )
    if kind == "operator" or not name:
        title = cut(f"Offbeat: {reason}" if reason else "Offbeat", TITLE_CHARS_MAX)
        return RenderedAlert(symbol, title, _sentence(reason), _times(facts), None, link)
    title = cut(f"{_VERBS.get(kind, kind.upper())}: {name}", TITLE_CHARS_MAX)
    if kind == "resolved":
        return RenderedAlert(symbol, title, _resolution(facts, reason), _fields(kind, facts), None, link)
    lead = _sentence(reason) or "No reason was recorded."
    return RenderedAlert(
        symbol, title, lead, _fields(kind, facts), _text(facts, "last_message", MESSAGE_CHARS_MAX, True), link
    )


def render_digest(facts: Facts, link: str | None = None) -> RenderedAlert:
    """Render a digest: how many alerts of each kind, from when to when, and the monitors by name."""
    kinds = ("opened", "worse", "reminder", "resolved", "recovered")
    counts = {kind: int(facts.get(kind) or 0) for kind in kinds}
    recovered = counts["recovered"]
    down = counts["opened"] - recovered
    trouble = down + counts["worse"] + counts["reminder"]
    said = (
        (down, "down"),
        (counts["worse"], "worse"),
        (counts["reminder"], "still down"),
        (recovered, "down and recovered" if trouble else "were down and have recovered"),
        (counts["resolved"] - recovered, "resolved"),
    )
    parts = [f"{count:,} {what}".replace(",", " ") for count, what in said if count > 0]
    names = [each for each in facts.get("first") or () if isinstance(each, Mapping)]
    times = (("First", _time(facts, "since")), ("Last", _time(facts, "until")))
    return RenderedAlert(
        "🔴" if trouble > 0 else "🟠" if recovered else "🟢",
        f"{', '.join(parts)} within {_span(facts)}" if parts else "No alerts",
        "Several alerts were combined into this message.",
        (*((label, value) for label, value in times if value), *_listed(names, counts)),
        None,
        link,
    )


def _listed(names: list[Facts], counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """One line for each monitor, in fields that the services can show: none is longer than they take."""
    room = max(LINE_CHARS_MIN, LISTED_CHARS_MAX // max(1, len(names)))
    lines = [_named(each, room) for each in names]
    events = counts["opened"] + counts["worse"] + counts["reminder"] + counts["resolved"] - counts["recovered"]
    more = events - sum(int(each.get("incidents") or 1) for each in names)
    if names and more > 0:
        lines.append(f"and {more:,} more".replace(",", " "))
    fields: list[str] = []
    for line in lines:
        if fields and len(fields[-1]) + len(line) < LISTED_FIELD_CHARS_MAX:
            fields[-1] += f"\n{line}"
        else:
            fields.append(line)
    return [("Monitors" if n == 1 else f"Monitors ({n})", text) for n, text in enumerate(fields, 1)]


def render_recovered(facts: Facts, link: str | None = None) -> RenderedAlert:
    """All incidents of an earlier digest are resolved."""
    count = f"{int(facts.get('alerts') or 0):,}".replace(",", " ")
    return RenderedAlert(
        "🟢", f"RESOLVED: all {count} of the digest", "Every incident of that message is resolved.", link=link
    )


def link_to(facts: Facts, public_url: str | None) -> str | None:
    """The page of the monitor, or the overview; None where the server does not know its own address."""
    if not public_url:
        return None
    monitor = facts.get("monitor")
    if not isinstance(monitor, str) or not monitor:
        return f"{public_url}/"
    project = facts.get("project")
    page = f"{public_url}/monitors/{quote(monitor, safe='')}"
    return page if project in (None, "default") else f"{page}?project={quote(str(project), safe='')}"


def _fields(kind: str, facts: Facts) -> tuple[tuple[str, str], ...]:
    """What follows the sentence: since when, what was expected, where it stood, how long it usually takes."""
    decided = _instant(facts, "decided_at")
    found = [
        ("Since", _time(facts, "opened_at", decided)),
        ("Held back", _text(facts, "held_back")),
        ("Until", _time(facts, "resolved_at")),
        ("Expected", _text(facts, "expected")),
        ("Was due", _time(facts, "due_at") if kind != "resolved" and facts.get("cause") == "missed" else ""),
        ("Last ping", _time(facts, "last_ping_at", decided)),
        ("Run", _text(facts, "run")),
        ("Run started", _time(facts, "run_started_at", decided)),
        ("Stage", _text(facts, "stage")),
        ("Stages", _stages(facts)),
        ("Tasks", _tasks(facts)),
        ("Progress", _progress(facts)),
        ("Duration", _text(facts, "usual")),
        ("Also", _other_causes(facts) if kind != "resolved" else ""),
        ("Flapping", _flapping(facts)),
        ("Tags", ", ".join(str(tag) for tag in facts.get("tags") or ())),
        ("Project", _text(facts, "project") if facts.get("project") != "default" else ""),
    ]
    return tuple((label, cut(value, FIELD_CHARS_MAX)) for label, value in found if value)


def _resolution(facts: Facts, reason: str) -> str:
    opened, resolved = _instant(facts, "opened_at"), _instant(facts, "resolved_at")
    lasted = f" after {say_duration(resolved - opened)}" if opened and resolved and resolved >= opened else ""
    how = _text(facts, "resolution", LEAD_CHARS_MAX)
    return f"Back to normal{lasted}" + (f": {how}." if how else ".") + (f" It was: {reason}" if reason else "")


def _other_causes(facts: Facts) -> str:
    """The reasons of the other causes."""
    reasons = [
        str(cause["reason"])
        for cause in facts.get("causes") or ()
        if isinstance(cause, Mapping) and cause.get("reason") and cause["reason"] != facts.get("reason")
    ]
    more = len(reasons) - CAUSES_SHOWN_MAX
    return "; ".join(reasons[:CAUSES_SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")


def _detail(facts: Facts, name: str) -> Any:
    """A part of how far the run came."""
    detail = facts.get("detail")
    return detail.get(name) if isinstance(detail, Mapping) else None


def _stages(facts: Facts) -> str:
    stages = [each for each in _detail(facts, "stages") or () if isinstance(each, Mapping)]
    return ", ".join(f"{each.get('name')} {each.get('status')}" for each in stages)


def _tasks(facts: Facts) -> str:
    """How many are done, and the names of those that are not."""
    tasks = _detail(facts, "tasks")
    if not isinstance(tasks, Mapping):
        return ""
    of = f" of {tasks['expected']}" if tasks.get("expected") else ""
    parts = [f"{tasks.get('done') or 0}{of} done"]
    for label, names in (("failed", "failed_names"), ("missing", "missing")):
        if tasks.get(names):
            parts.append(f"{label}: {', '.join(map(str, tasks[names]))}")
    return "; ".join(parts)


def _progress(facts: Facts) -> str:
    progress = _detail(facts, "progress")
    if not isinstance(progress, Mapping) or progress.get("done") is None:
        return ""
    return f"{progress['done']}" + (f" of {progress['total']}" if progress.get("total") is not None else "")


def _flapping(facts: Facts) -> str:
    """How often the monitor flaps, and when the next alert is sent. The dispatcher writes this fact."""
    flapping = facts.get("flapping")
    if not isinstance(flapping, Mapping):
        return ""
    count, hold = flapping.get("incidents"), flapping.get("hold_s")
    wait = say_duration(int(hold * 1_000_000)) if isinstance(hold, int | float) else "a while"
    if flapping.get("held"):
        return f"{count} incidents within an hour; this one was held back for {wait} and is still open"
    return f"{count} incidents within an hour; the next ones are held back for {wait} and then reported together"


def _times(facts: Facts) -> tuple[tuple[str, str], ...]:
    value = _time(facts, "opened_at") or _time(facts, "decided_at")
    return (("At", value),) if value else ()


def _named(each: Facts, chars_max: int) -> str:
    """A monitor's line in a digest: what happened, how often, when, why, and the end of what its job said."""
    name = cut(_text(each, "name") or _text(each, "monitor"), NAME_CHARS_MAX)
    kind = str(each.get("kind"))
    verb = "FAILED, RECOVERED" if each.get("explicit") else "DOWN, RECOVERED"
    if not each.get("recovered"):
        verb = "FAILED" if each.get("explicit") else _VERBS.get(kind, "")
    head = f"{verb} {name}"
    incidents = each.get("incidents")
    if isinstance(incidents, int) and incidents > 1:
        head += f" ({incidents} times)"
    if each.get("recovered"):
        head += f" {_clock_times(each)}"
    left = max(20, chars_max - len(head) - 2)
    reason, said = _text(each, "reason").rstrip("."), _text(each, "said")
    if said and said not in reason:
        said = cut_head(said, left // 2)
        reason = f"{cut(reason, left - len(said) - 2)}; {said}"
    others = each.get("other_reasons")
    reason = "; ".join([reason, *(map(str, others) if isinstance(others, list) else ())])
    return f"{head}: {cut(reason, left)}" if reason else head


def _clock_times(each: Facts) -> str:
    """From when to when, in the monitor's own zone."""
    opened, resolved = _instant(each, "opened_at"), _instant(each, "resolved_at")
    if not opened or not resolved:
        return ""
    zone = _zone(each)
    begin, end = (datetime.fromisoformat(str(each[name])).astimezone(zone) for name in ("opened_at", "resolved_at"))
    form = "%H:%M:%S" if begin.date() == end.date() else "%Y-%m-%d %H:%M:%S"
    return f"{begin:{form}}–{end:{form}}" + (f" {end.tzname()}" if end.tzname() != "UTC" else "")


def _span(facts: Facts) -> str:
    since, until = _instant(facts, "since"), _instant(facts, "until")
    return say_duration(max(until - since, 1_000_000)) if since and until else "seconds"


def _instant(facts: Facts, name: str) -> Micros:
    """An RFC 3339 string as an instant; 0 where there is none or it cannot be read."""
    value = facts.get(name)
    if not isinstance(value, str):
        return 0
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return 0
    return to_micros(at) if at.tzinfo is not None else 0


def _time(facts: Facts, name: str, near: Micros = 0) -> str:
    """An instant for people, with how long before `near` it was."""
    at = _instant(facts, name)
    if not at:
        return ""
    value = datetime.fromisoformat(str(facts[name])).astimezone(_zone(facts))
    text = f"{value:%Y-%m-%d %H:%M:%S} {value.tzname()}"
    return f"{text} ({say_duration(near - at)} ago)" if near > at + 1_000_000 else text


def _zone(facts: Facts) -> tzinfo:
    """The monitor's own zone, in which its sentences are written too."""
    try:
        return ZoneInfo(str(facts.get("timezone") or "UTC"))
    except (KeyError, ValueError, OSError):
        return UTC


def _text(facts: Facts, name: str, chars_max: int = FIELD_CHARS_MAX, tail: bool = False) -> str:
    """A fact as text, bounded; the `tail` of a message is where errors are."""
    value = facts.get(name)
    if value is None or value == "":
        return ""
    text = (
        value if isinstance(value, str) else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    ).strip()
    return cut_head(text, chars_max) if tail else cut(text, chars_max)


def _sentence(text: str) -> str:
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?…" else ".")
