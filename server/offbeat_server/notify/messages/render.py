"""The text of an alert: a title for the lock screen, a sentence, a few facts, the end of the last message.

Made once, used by every kind of channel: each takes the parts its service can show (`fields`) or the whole as text or
HTML. Pure and without a clock, so that a retry has the same text; ages are computed from the decision's time.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from html import escape
from typing import NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo

from offbeat_server.common.instants import Micros, to_micros
from offbeat_server.engine.model.alert_payload import AlertPayload, DigestItem
from offbeat_server.engine.model.enums import AlertKind, CauseKind, Resolution
from offbeat_server.engine.model.monitor import RUNS_COUNTED_MAX
from offbeat_server.engine.model.run_detail import RunDetail
from offbeat_server.engine.schedule.durations import say_duration

AlertFacts = AlertPayload[str]

TITLE_CHARS_MAX = 200
LEAD_CHARS_MAX = 1_000
FIELD_CHARS_MAX = 500
MESSAGE_CHARS_MAX = 1_500
CAUSES_SHOWN_MAX = 10
COMMENTS_CHARS_MAX = 1_200
RUN_CHARS_MAX = 40  # of each run where several are named
# Of the monitors in a digest: Telegram and ntfy take 4 096 characters in all, Discord 1 024 in a field.
LISTED_CHARS_MAX = 2_800
LISTED_FIELD_CHARS_MAX = 700
LINE_CHARS_MIN = 120
NAME_CHARS_MAX = 60

_VERBS = {
    AlertKind.OPENED: "DOWN",
    AlertKind.WORSE: "WORSE",
    AlertKind.RESOLVED: "RESOLVED",
    AlertKind.REMINDER: "STILL DOWN",
}
_SYMBOLS = {AlertKind.RESOLVED: "🟢", AlertKind.OVER: "🟢", AlertKind.OPERATOR: "🟠", AlertKind.TEST: "🔵"}
_COLORS = {"🔴": "#d32f2f", "🟠": "#ef6c00", "🟢": "#2e7d32", "🔵": "#1565c0"}


def cut(text: str, chars_max: int) -> str:
    """Cut a text to a number of characters, with a mark in place of the end."""
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
    """An alert for people. Plain text in every part: code that puts it into markup escapes it there."""

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


def render_alert(kind: AlertKind, facts: AlertFacts, link: str | None = None) -> RenderedAlert:
    """Render one alert. Any fact may be absent; no fact is trusted to be short or of the right type."""
    name = _text(facts.get("name")) or _text(facts.get("monitor"))
    reason = _text(facts.get("reason"), LEAD_CHARS_MAX)
    symbol = _SYMBOLS.get(kind, "🔴")
    if kind == AlertKind.TEST:
        return RenderedAlert(
            symbol, "Test from Offbeat", reason or "If you can read this, alerts will arrive here.", link=link
        )
    if kind == AlertKind.OPERATOR or not name:
        title = cut(f"Offbeat: {reason}" if reason else "Offbeat", TITLE_CHARS_MAX)
        return RenderedAlert(symbol, title, _sentence(reason), _times(facts), None, link)
    title = cut(f"{_VERBS.get(kind, kind.upper())}: {name}", TITLE_CHARS_MAX)
    if kind == AlertKind.RESOLVED:
        return RenderedAlert(symbol, title, _resolution(facts, reason), _fields(kind, facts), None, link)
    lead = _sentence(reason) or "No reason was recorded."
    return RenderedAlert(
        symbol, title, lead, _fields(kind, facts), _text(facts.get("last_message"), MESSAGE_CHARS_MAX, True), link
    )


def render_digest(facts: AlertFacts, link: str | None = None) -> RenderedAlert:
    """Render a digest: how many alerts of each kind, from when to when, and the monitors by name."""
    counts = {
        "opened": int(facts.get("opened") or 0),
        "worse": int(facts.get("worse") or 0),
        "reminder": int(facts.get("reminder") or 0),
        "resolved": int(facts.get("resolved") or 0),
        "recovered": int(facts.get("recovered") or 0),
    }
    recovered = counts["recovered"]
    down = counts["opened"] - recovered
    trouble = down + counts["worse"] + counts["reminder"]
    labelled = (
        (down, "down"),
        (counts["worse"], "worse"),
        (counts["reminder"], "still down"),
        (recovered, "down and recovered" if trouble else "were down and have recovered"),
        (counts["resolved"] - recovered, "resolved"),
    )
    parts = [f"{count:,} {what}".replace(",", " ") for count, what in labelled if count > 0]
    names = [each for each in facts.get("first") or () if isinstance(each, Mapping)]
    times = (("First", _time(facts.get("since"), UTC)), ("Last", _time(facts.get("until"), UTC)))
    return RenderedAlert(
        "🔴" if trouble > 0 else "🟠" if recovered else "🟢",
        f"{', '.join(parts)} within {_span(facts)}" if parts else "No alerts",
        "Several alerts were combined into this message.",
        (*((label, value) for label, value in times if value), *_listed(names, counts)),
        None,
        link,
    )


def _listed(names: list[DigestItem[str]], counts: Mapping[str, int]) -> list[tuple[str, str]]:
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


def render_recovered(facts: AlertFacts, link: str | None = None) -> RenderedAlert:
    """All incidents of an earlier digest are resolved."""
    count = f"{int(facts.get('alerts') or 0):,}".replace(",", " ")
    return RenderedAlert(
        "🟢", f"RESOLVED: all {count} of the digest", "Every incident of that message is resolved.", link=link
    )


def link_to(facts: AlertFacts, public_url: str | None) -> str | None:
    """The page of the monitor, or the overview; None where the server does not know its own address."""
    if not public_url:
        return None
    monitor = facts.get("monitor")
    if not isinstance(monitor, str) or not monitor:
        return f"{public_url}/"
    project = facts.get("project")
    page = f"{public_url}/monitors/{quote(monitor, safe='')}"
    return page if project in (None, "default") else f"{page}?project={quote(str(project), safe='')}"


def _fields(kind: AlertKind, facts: AlertFacts) -> tuple[tuple[str, str], ...]:
    """The facts after the sentence: since when, the expectation, the position of the run, its typical duration."""
    is_open = kind != AlertKind.RESOLVED
    decided, zone, runs = _instant(facts.get("decided_at")), _zone(facts.get("timezone")), _runs(facts)
    found = [
        ("Since", _time(facts.get("opened_at"), zone, decided)),
        ("Held back", _text(facts.get("held_back"))),
        ("Until", _time(facts.get("resolved_at"), zone)),
        ("Recovered by", _text(facts.get("recovered_by"))),
        ("Acknowledged", _acknowledgement(facts, zone)),
        ("Comments", _comments(facts)),
        ("Runs", runs),
        ("Expected", _text(facts.get("expected"))),
        (
            "Was due",
            _time(facts.get("due_at"), zone) if is_open and facts.get("cause") == CauseKind.MISSED else "",
        ),
        ("Last ping", _time(facts.get("last_ping_at"), zone, decided)),
        ("Run", "" if runs else _text(facts.get("run"))),
        ("Business date", _text(facts.get("business_date"))),
        ("Run started", _time(facts.get("run_started_at"), zone, decided)),
        ("Stage", _text(facts.get("stage"))),
        ("Stages", _stages(facts)),
        ("Tasks", _tasks(facts)),
        ("Progress", _progress(facts)),
        ("Duration", _text(facts.get("usual"))),
        ("Also", _other_causes(facts) if is_open else ""),
        ("Flapping", _flapping(facts)),
        ("Tags", ", ".join(str(tag) for tag in facts.get("tags") or ())),
        ("Project", _text(facts.get("project")) if facts.get("project") != "default" else ""),
    ]
    longer = {"Comments": COMMENTS_CHARS_MAX}
    return tuple((label, cut(value, longer.get(label, FIELD_CHARS_MAX))) for label, value in found if value)


# How an incident ended, for people. "Back to normal" says already that it has recovered.
_RESOLUTIONS: dict[str, str] = {
    Resolution.RECOVERED: "",
    Resolution.CHANGED: "the definition of the monitor was changed",
    Resolution.PAUSED: "the monitor was paused",
    Resolution.BY_HAND: "resolved manually",
    Resolution.DELETED: "the monitor was deleted",
}


def _resolution(facts: AlertFacts, reason: str) -> str:
    opened, resolved = _instant(facts.get("opened_at")), _instant(facts.get("resolved_at"))
    lasted = ""
    if opened is not None and resolved is not None and resolved >= opened:
        lasted = f" after {say_duration(resolved - opened)}"
    how = _text(facts.get("resolution"), LEAD_CHARS_MAX)
    how = _RESOLUTIONS.get(how, how)
    more = f": {how}." if how else "."
    end = "Resolved" if facts.get("resolution") == Resolution.PAUSED else "Back to normal"
    return f"{end}{lasted}{more}" + (f" It was: {reason}" if reason else "")


def _acknowledgement(facts: AlertFacts, zone: tzinfo) -> str:
    """The person or key that acknowledged the incident, and the instant."""
    by, at = _text(facts.get("acknowledged_by")), _time(facts.get("acknowledged_at"), zone)
    return f"by {cut(by, NAME_CHARS_MAX)}" + (f" at {at}" if at else "") if by else ""


def _comments(facts: AlertFacts) -> str:
    """The last comments, a line for each, and how many there are before them."""
    comments = [each for each in facts.get("comments") or () if isinstance(each, Mapping)]
    lines = [f"{cut(str(each.get('by')), NAME_CHARS_MAX)}: {each.get('text')}" for each in comments]
    more = int(facts.get("comments_count") or 0) - len(lines)
    return "\n".join([*([f"({more} more before)"] if more > 0 else []), *lines])


def _runs(facts: AlertFacts) -> str:
    """The runs that were a cause, if there were several."""
    runs = [each for each in facts.get("runs") or () if isinstance(each, Mapping)]
    count = int(facts.get("runs_count") or 0)
    if count < 2:
        return ""
    names = [cut(str(each.get("run") or f"number {each.get('number')}"), RUN_CHARS_MAX) for each in runs]
    more = count - len(names)
    at_least = "at least " if count >= RUNS_COUNTED_MAX else ""
    return ", ".join(names) + (f" and {at_least}{more} more" if more > 0 else "")


def _other_causes(facts: AlertFacts) -> str:
    """The reasons of the other causes."""
    zone = _zone(facts.get("timezone"))
    reasons = [
        str(cause["reason"]) + (f" (over since {at})" if (at := _time(cause.get("closed_at"), zone)) else "")
        for cause in facts.get("causes") or ()
        if isinstance(cause, Mapping) and cause.get("reason") and cause["reason"] != facts.get("reason")
    ]
    more = len(reasons) - CAUSES_SHOWN_MAX
    return "; ".join(reasons[:CAUSES_SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")


def _detail(facts: AlertFacts) -> RunDetail[str]:
    """How far the run has come."""
    detail = facts.get("detail")
    return detail if isinstance(detail, Mapping) else {}


def _stages(facts: AlertFacts) -> str:
    stages = [each for each in _detail(facts).get("stages") or () if isinstance(each, Mapping)]
    return ", ".join(f"{each.get('name')} {each.get('status')}" for each in stages)


def _tasks(facts: AlertFacts) -> str:
    """How many are done, and the names of those that are not."""
    tasks = _detail(facts).get("tasks")
    if not isinstance(tasks, Mapping):
        return ""
    of = f" of {tasks['expected']}" if tasks.get("expected") is not None else ""
    parts = [f"{tasks.get('done') or 0}{of} done"]
    shown = (
        ("failed", tasks.get("failed_names")),
        ("missing", tasks.get("missing")),
        ("unexpected", tasks.get("unexpected_names")),
    )
    for label, names in shown:
        if names:
            parts.append(f"{label}: {', '.join(map(str, names))}")
    return "; ".join(parts)


def _progress(facts: AlertFacts) -> str:
    progress = _detail(facts).get("progress")
    if not isinstance(progress, Mapping) or progress.get("done") is None:
        return ""
    return f"{progress['done']}" + (f" of {progress['total']}" if progress.get("total") is not None else "")


def _flapping(facts: AlertFacts) -> str:
    """How often the monitor flaps, and when the next alert is sent. The dispatcher writes this fact."""
    flapping = facts.get("flapping")
    if not isinstance(flapping, Mapping):
        return ""
    count, hold = flapping.get("incidents"), flapping.get("hold_s")
    wait = say_duration(int(hold * 1_000_000)) if isinstance(hold, int | float) else "a while"
    if flapping.get("held"):
        return f"{count} incidents within an hour; this one was held back for {wait} and is still open"
    return f"{count} incidents within an hour; the next ones are held back for {wait} and then reported together"


def _times(facts: AlertFacts) -> tuple[tuple[str, str], ...]:
    zone = _zone(facts.get("timezone"))
    value = _time(facts.get("opened_at"), zone) or _time(facts.get("decided_at"), zone)
    return (("At", value),) if value else ()


def _named(each: DigestItem[str], chars_max: int) -> str:
    """A monitor's line in a digest: what happened, how often, when, why, and the end of what its job said."""
    name = cut(_text(each.get("name")) or _text(each.get("monitor")), NAME_CHARS_MAX)
    kind = each.get("kind")
    verb = "FAILED, RECOVERED" if each.get("explicit") else "DOWN, RECOVERED"
    if not each.get("recovered"):
        verb = "FAILED" if each.get("explicit") else (_VERBS.get(kind, "") if kind else "")
    head = f"{verb} {name}"
    incidents = each.get("incidents")
    if isinstance(incidents, int) and incidents > 1:
        head += f" ({incidents} times)"
    if each.get("recovered"):
        head += f" {_clock_times(each)}"
    left = max(20, chars_max - len(head) - 2)
    reason, output = _text(each.get("reason")).rstrip("."), _text(each.get("last_message") or each.get("said"))
    if output and output not in reason:
        output = cut_head(output, left // 2)
        reason = f"{cut(reason, left - len(output) - 2)}; {output}"
    others = each.get("other_reasons")
    reason = "; ".join([reason, *(map(str, others) if isinstance(others, list) else ())])
    return f"{head}: {cut(reason, left)}" if reason else head


def _clock_times(each: DigestItem[str]) -> str:
    """From when to when, in the monitor's own zone."""
    opened, resolved = _datetime(each.get("opened_at")), _datetime(each.get("resolved_at"))
    if opened is None or resolved is None:
        return ""
    zone = _zone(each.get("timezone"))
    begin, end = opened.astimezone(zone), resolved.astimezone(zone)
    form = "%H:%M:%S" if begin.date() == end.date() else "%Y-%m-%d %H:%M:%S"
    return f"{begin:{form}}–{end:{form}}" + (f" {end.tzname()}" if end.tzname() != "UTC" else "")


def _span(facts: AlertFacts) -> str:
    since, until = _instant(facts.get("since")), _instant(facts.get("until"))
    return say_duration(max(until - since, 1_000_000)) if since is not None and until is not None else "seconds"


def _datetime(value: str | None) -> datetime | None:
    """An RFC 3339 string as an instant; None if there is none or it cannot be read."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def _instant(value: str | None) -> Micros | None:
    """An RFC 3339 string as an instant; None if there is none or it cannot be read."""
    at = _datetime(value)
    return to_micros(at) if at is not None else None


def _time(value: str | None, zone: tzinfo, near: Micros | None = None) -> str:
    """An instant for people, with how long before `near` it was."""
    at = _datetime(value)
    if at is None:
        return ""
    local, instant = at.astimezone(zone), to_micros(at)
    text = f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}"
    if near is None or near <= instant + 1_000_000:
        return text
    return f"{text} ({say_duration(near - instant)} ago)"


def _zone(name: str | None) -> tzinfo:
    """The monitor's own zone, in which its sentences are written too."""
    try:
        return ZoneInfo(str(name or "UTC"))
    except (KeyError, ValueError, OSError):
        return UTC


def _text(value: str | None, chars_max: int = FIELD_CHARS_MAX, tail: bool = False) -> str:
    """A fact as text, bounded; the `tail` of a message is where errors are."""
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
