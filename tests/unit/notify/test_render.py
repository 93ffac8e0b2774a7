"""The texts of alerts, and texts that they never contain."""

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offbeat_server.db.repositories.outbox import Attached, DigestMember, Named
from offbeat_server.engine.model.enums import AlertKind
from offbeat_server.notify.channel import Message
from offbeat_server.notify.messages.message_builder import MessageBuilder
from offbeat_server.notify.messages.redact import HIDDEN, redact, redact_all
from offbeat_server.notify.messages.render import RenderedAlert, cut, cut_head, link_to, render_alert, render_digest
from offbeat_server.notify.messages.template import check_template, escape_for, fill
from tests.support.cost import loops

UID = UUID("01234567-89ab-cdef-0123-456789abcdef")
FACTS: Any = {
    "monitor": "nightly-etl",
    "name": "Nightly ETL",
    "project": "default",
    "incident": 12,
    "kind": "opened",
    "status": "down",
    "cause": "missed",
    "run_started_at": "2026-11-24T01:00:00Z",
    "reason": "load was expected to finish by 02:30:00; extract took 4 min (run 42)",
    "causes": [
        {"cause": "stage", "reason": "load was expected to finish by 02:30:00; extract took 4 min (run 42)"},
        {"cause": "missed", "reason": "no ping by 02:10:00"},
    ],
    "run": "42",
    "stage": "load",
    "timezone": "Europe/Berlin",
    "opened_at": "2026-11-24T01:30:00Z",
    "decided_at": "2026-11-24T01:30:00.120000Z",
    "due_at": "2026-11-24T01:00:00Z",
    "last_ping_at": "2026-11-24T01:04:00Z",
    "expected": "a ping at 0 2 * * * (Europe/Berlin), with a grace period of 10 min",
    "usual": "usually 12 min, this one has taken 30 min",
    "last_message": "Traceback\n  File x\nValueError: boom",
    "tags": ["etl", "prod"],
    "detail": {
        "stages": [{"name": "extract", "status": "done"}, {"name": "load", "status": "running"}],
        "tasks": {"expected": 4, "done": 2, "failed": 1, "failed_names": ["part-3"], "missing": ["part-4"]},
        "progress": {"done": 45, "total": 100},
    },
}
TEXT = """\
Load was expected to finish by 02:30:00; extract took 4 min (run 42).

Since: 2026-11-24 02:30:00 CET
Expected: a ping at 0 2 * * * (Europe/Berlin), with a grace period of 10 min
Was due: 2026-11-24 02:00:00 CET
Last ping: 2026-11-24 02:04:00 CET (26 min ago)
Run: 42
Run started: 2026-11-24 02:00:00 CET (30 min ago)
Stage: load
Stages: extract done, load running
Tasks: 2 of 4 done; failed: part-3; missing: part-4
Progress: 45 of 100
Duration: usually 12 min, this one has taken 30 min
Also: no ping by 02:10:00
Tags: etl, prod

Last message:
Traceback
  File x
ValueError: boom

https://beat.example.org/monitors/nightly-etl"""


def rendered(kind: str = "opened", **changes: Any) -> RenderedAlert:
    facts: Any = {name: value for name, value in {**FACTS, **changes}.items() if value is not None}
    return render_alert(AlertKind(kind), facts, link_to(facts, "https://beat.example.org"))


def test_an_open_says_what_since_when_what_was_expected_and_how_far_it_came() -> None:
    alert = rendered()
    assert alert.title == "DOWN: Nightly ETL"
    assert alert.text == TEXT


def test_unexpected_tasks_are_named() -> None:
    tasks = {**FACTS["detail"]["tasks"], "unexpected": 2, "unexpected_names": ["x", "y"]}
    alert = rendered(detail={"tasks": tasks})
    assert "Tasks: 2 of 4 done; failed: part-3; missing: part-4; unexpected: x, y" in alert.text


def test_a_resolution_says_how_long_it_lasted() -> None:
    alert = rendered("resolved", resolved_at="2026-11-24T03:05:00Z", resolution="finished late, after 2 h 5 min")
    assert alert.title == "RESOLVED: Nightly ETL" and alert.symbol == "🟢"
    assert alert.lead.startswith(
        "Back to normal after 1 h 35 min: finished late, after 2 h 5 min. It was: load was expected"
    )
    assert "Until: 2026-11-24 04:05:00 CET" in alert.text
    plain = rendered("resolved", resolved_at="2026-11-24T03:05:00Z", resolution="recovered")
    assert plain.lead.startswith("Back to normal after 1 h 35 min. It was: load was expected")
    assert "Last message" not in alert.text and "Was due" not in alert.text


def test_a_resolution_says_who_acknowledged_what_people_wrote_and_which_runs_it_was_about() -> None:
    alert = rendered(
        "resolved",
        acknowledged_at="2026-11-24T02:00:00Z",
        acknowledged_by="anna",
        comments=[{"by": "anna", "text": "disk is full"}, {"by": "admin", "text": "disk replaced"}],
        comments_count=3,
        runs=[{"run": "2026-11-22", "number": 40}, {"run": None, "number": 41}],
        runs_count=12,
    )
    facts = dict(alert.fields)
    assert facts["Acknowledged"] == "by anna at 2026-11-24 03:00:00 CET"
    assert facts["Comments"] == "(1 more before)\nanna: disk is full\nadmin: disk replaced"
    assert facts["Runs"] == "2026-11-22, number 41 and 10 more" and "Run" not in facts
    assert "admin: disk replaced" in alert.html and "admin: disk replaced" in alert.text
    one = dict(rendered("resolved", runs=[{"run": "42", "number": 40}], runs_count=1).fields)
    assert one["Run"] == "42" and "Runs" not in one and "Comments" not in one and "Acknowledged" not in one
    assert dict(rendered("resolved", runs=[], runs_count=100).fields)["Runs"].endswith("and at least 100 more")


def test_long_comments_are_cut_after_secrets_are_removed_and_the_names_of_runs_are_bounded() -> None:
    comments = [{"by": "n" * 500, "text": "x" * 289 + " KEY-OF-THE-MONITOR " + "y" * 2_000}] * 3
    runs = [{"run": "r" * 200, "number": n} for n in range(10)]
    facts: Any = {**FACTS, "comments": comments, "comments_count": 3, "runs": runs, "runs_count": 11}
    row = DigestMember(
        id=7, monitor_id=1, incident=12, kind="resolved", facts=facts, secrets=("KEY-OF-THE-MONITOR",), uid=UID
    )
    message = MessageBuilder("1", None).alert(row, "2026-11-24T03:05:00Z", "default")
    texts = [each["text"] for each in message.facts["comments"]]
    assert all(len(text) <= 300 and text.endswith(f"{HIDDEN} yyyyy…") for text in texts)
    shown = dict(message.rendered.fields)
    assert shown["Comments"].count(HIDDEN) == 3 and len(shown["Comments"]) <= 1_200
    assert shown["Runs"].endswith(" and 1 more") and len(shown["Runs"]) <= 500


@pytest.mark.parametrize(
    ("resolution", "how"),
    [
        ("changed", ": the definition of the monitor was changed."),
        ("paused", ": the monitor was paused."),
        ("by hand", ": resolved manually."),
        ("deleted", ": the monitor was deleted."),
        ("recovered", "."),
    ],
)
def test_a_resolution_says_how_the_incident_ended(resolution: str, how: str) -> None:
    alert = rendered("resolved", resolved_at="2026-11-24T03:05:00Z", resolution=resolution)
    end = "Resolved" if resolution == "paused" else "Back to normal"
    assert alert.lead.startswith(f"{end} after 1 h 35 min{how} It was: load was expected")


def test_a_reminder_says_since_when() -> None:
    alert = rendered("reminder", decided_at="2026-11-24T07:30:00Z")
    assert alert.title == "STILL DOWN: Nightly ETL" and "Since: 2026-11-24 02:30:00 CET (6 h ago)" in alert.text


def test_with_hardly_any_facts_it_still_says_something() -> None:
    for kind in ("opened", "worse", "resolved", "reminder", "operator", "test"):
        facts: Any
        for facts in ({}, {"monitor": "x"}, {"name": "X", "opened_at": "yesterday", "timezone": "Mars/Base"}):
            alert = render_alert(AlertKind(kind), facts)
            assert alert.title and alert.html and isinstance(alert.text, str)


def test_html_is_escaped() -> None:
    alert = rendered(name="<script>alert(1)</script>", reason="a < b & c", last_message="</pre><img src=x>")
    assert "<script>" not in alert.html and "<img" not in alert.html
    assert "&lt;script&gt;" in alert.html and "A &lt; b &amp; c." in alert.html


def test_everything_is_bounded_and_the_end_of_a_message_is_kept() -> None:
    alert = rendered(
        name="n" * 10_000,
        reason="r" * 10_000,
        last_message="m" * 9_000 + "ValueError: boom",
        causes=[{"reason": f"c{n}" * 100} for n in range(1_000)],
        tags=["t" * 50] * 50,
    )
    assert len(alert.title) <= 200 and len(alert.text) < 10_000
    assert alert.message is not None and alert.message.startswith("…m") and alert.message.endswith("ValueError: boom")


@given(
    st.dictionaries(
        st.sampled_from(sorted(FACTS)),
        st.one_of(st.none(), st.text(), st.integers(), st.lists(st.text()), st.just(FACTS["detail"])),
    ),
    st.sampled_from(["opened", "resolved", "operator"]),
)
def test_odd_facts_are_rendered_or_rejected_and_nothing_else(facts: Any, kind: str) -> None:
    """The dispatcher gives up an alert after an error; a text that cannot be sent must not occur."""
    try:
        alert = render_alert(AlertKind(kind), facts)
    except (TypeError, ValueError, AttributeError):
        return
    assert all(isinstance(part, str) for part in (alert.title, alert.lead, alert.text, alert.html))


def test_a_digest_counts_and_names_the_first() -> None:
    first: list[Any] = [{"name": f"Job {n}", "kind": "opened", "reason": "no ping"} for n in range(20)]
    alert = render_digest(
        {
            "opened": 12_340,
            "resolved": 3,
            "worse": 0,
            "first": first,
            "since": "2026-11-24T02:10:00Z",
            "until": "2026-11-24T02:10:42Z",
        }
    )
    assert alert.title == "12 340 down, 3 resolved within 42 s" and alert.symbol == "🔴"
    assert "DOWN Job 0: no ping\nDOWN Job 1" in alert.text and "and 12 323 more" in alert.text
    assert render_digest({"opened": 0, "resolved": 7}).symbol == "🟢"


def named(monitor: int, reason: str, *, explicit: bool = False, over: bool = False, **more: Any) -> Named:
    """An incident in a digest, opened at 23:30:18 and, where it is over, resolved at 23:30:48."""
    facts: Any = {"name": f"Job {monitor}", "monitor": f"job-{monitor}", "reason": reason, "timezone": "UTC"}
    facts |= {"opened_at": "2026-11-29T23:30:18Z", **more.pop("facts", {})}
    resolved_at = "2026-11-29T23:30:48Z" if over else None
    values = {"incident": 1, "kind": "opened", "incidents": 1, "opened": True, "secrets": (), **more}
    return Named(monitor_id=monitor, facts=facts, explicit=explicit, resolved_at=resolved_at, **values)


def digest(*each: Named, **counts: int) -> RenderedAlert:
    """The words of a digest that names these."""
    return digest_message(*each, **counts).rendered


def digest_message(*each: Named, **counts: int) -> Message:
    """A digest that names these."""
    kinds: Any = dict.fromkeys(("opened", "worse", "reminder", "resolved", "recovered"), 0) | counts
    span = {"since": "2026-11-29T23:30:18Z", "until": "2026-11-29T23:30:48Z", "decided_at": None}
    attached = Attached(
        7, datetime(2026, 11, 29, tzinfo=UTC), UID, sum(counts.values()), False, kinds | span, [*each], []
    )
    return MessageBuilder("abcd1234", None).digest(attached, "default")


def test_a_digest_says_what_was_down_and_has_recovered_and_why() -> None:
    alert = digest(
        named(1, "failed with exit code 1", explicit=True, over=True, facts={"last_message": "copying\ndisk full"}),
        named(2, "no ping by 23:30:00", over=True),
        opened=2,
        resolved=2,
        recovered=2,
    )
    assert alert.title == "2 were down and have recovered within 30 s" and alert.symbol == "🟠"
    assert (
        "FAILED, RECOVERED Job 1 23:30:18–23:30:48: failed with exit code 1; copying disk full\n"
        "DOWN, RECOVERED Job 2 23:30:18–23:30:48: no ping by 23:30:00" in alert.text
    )
    assert "more" not in alert.text
    mixed = digest(named(3, "no ping"), opened=13, resolved=14, recovered=12, worse=1)
    assert mixed.title == "1 down, 1 worse, 12 down and recovered, 2 resolved within 30 s" and mixed.symbol == "🔴"
    assert "and 15 more" in mixed.text


def test_a_digest_has_the_end_of_a_message_on_one_line_by_both_of_its_names() -> None:
    loud = named(1, "failed", explicit=True, facts={"last_message": "copying\n\x1b[1mdisk\u202efull"})
    message = digest_message(loud, named(2, "no ping"), opened=2)
    with_message, without = message.facts["first"]
    assert with_message["last_message"] == with_message["said"]
    assert not {"\n", "\x1b", "\u202e"} & set(with_message["last_message"]), with_message
    assert not {"last_message", "said"} & without.keys()


@pytest.mark.parametrize("name", ["last_message", "said"])
def test_a_digest_of_a_row_by_another_version_shows_the_message(name: str) -> None:
    facts: Any = digest_message(named(1, "failed", explicit=True), opened=1).facts
    facts["first"][0][name] = "disk full"
    assert "failed; disk full" in render_digest(facts, None).text


def test_a_monitor_has_one_line_in_a_digest_and_each_of_its_reasons() -> None:
    alert = digest(
        named(1, "failed with exit code 1", explicit=True, over=True, incidents=9, incident=9),
        named(1, "failed with exit code 2", explicit=True, over=True, incidents=9, incident=8),
        named(1, "failed with exit code 1", explicit=True, over=True, incidents=9, incident=7),
        opened=9,
        resolved=9,
        recovered=9,
    )
    line = "FAILED, RECOVERED Job 1 (9 times) 23:30:18–23:30:48: failed with exit code 1; failed with exit code 2"
    assert line in alert.text.split("\n") or f"Monitors: {line}" in alert.text
    assert "more" not in alert.text


@pytest.mark.parametrize("name", ["é" * 200, "x" * 200, "Job"])
def test_twenty_monitors_with_any_texts_are_named_and_every_service_can_show_them(name: str) -> None:
    long = {"name": f"{name}", "last_message": "m" * 5_000}
    each = [named(n, f"{n} " + "r" * 900, explicit=True, over=True, incidents=3, facts=long) for n in range(20)]
    alert = digest(*each, opened=60, resolved=60, recovered=60)
    lines = [line for label, text in alert.fields if label.startswith("Monitors") for line in text.split("\n")]
    assert len(lines) == 20 and all(f": {n} r" in line for n, line in enumerate(lines))
    assert all(len(text) <= 1_000 for _, text in alert.fields) and len({label for label, _ in alert.fields}) == len(
        alert.fields
    )
    assert len(alert.text) < 4_000


@pytest.mark.parametrize(
    ("facts", "link"),
    [
        ({"monitor": "etl"}, "https://b.example/monitors/etl"),
        ({"monitor": "etl", "project": "team a"}, "https://b.example/monitors/etl?project=team%20a"),
        ({}, "https://b.example/"),
    ],
)
def test_links(facts: Any, link: str) -> None:
    assert link_to(facts, "https://b.example") == link
    assert link_to(facts, None) is None


def test_cut() -> None:
    assert cut("abcdef", 6) == "abcdef" and cut("abcdefg", 6) == "abcde…"
    assert cut_head("abcdef", 6) == "abcdef" and cut_head("abcdefg", 6) == "…cdefg"


# ------------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (
            "curl https://b.example/api/v1/heartbeat/6dbb8a64-8b5b-4a5c-9c0e-0f4dd5a0f0a1/fail",
            f"curl https://b.example/api/v1/heartbeat/{HIDDEN}/fail",
        ),
        ("https://hc-ping.com/ping/abcdef123456/job", f"https://hc-ping.com/ping/{HIDDEN}/job"),
        ("Authorization: Bearer abc.def", f"Authorization: Bearer {HIDDEN}"),
        ("X-Api-Key: hunter2", f"X-Api-Key: {HIDDEN}"),
        ("password=hunter2 user=bob", f"password={HIDDEN} user=bob"),
        ('{"token": "abcdef"}', f'{{"token": "{HIDDEN}"}}'),
        ("postgres://bob:hunter2@db/x", f"postgres://bob:{HIDDEN}@db/x"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", HIDDEN),
        ("offbeat --key oba_kJ3_5bVx-90aQwErTyUiOp", f"offbeat --key {HIDDEN}"),
        ("clone with ghp_abcdefghijklmnopqrstuvwxyz0123456789!", f"clone with {HIDDEN}!"),
        ("xoxb-123456789012-abcdefghijkl glpat-abcdefghij0123456789", f"{HIDDEN} {HIDDEN}"),
        ("AKIAIOSFODNN7EXAMPLE was denied", f"{HIDDEN} was denied"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", f"jwt {HIDDEN}"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAK\n-----END RSA PRIVATE KEY-----",
            f"-----BEGIN RSA PRIVATE KEY-----{HIDDEN}-----END RSA PRIVATE KEY-----",
        ),
        ("\x1b[31mred\x1b[0m\x00\x07 ok\r\nnext", "red ok\nnext"),
        ("the ping of run 6dbb8a64-8b5b-4a5c-9c0e-0f4dd5a0f0a1 is late", None),
        ("a secret is not shown", None),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, redacted: str | None) -> None:
    assert redact(text) == (text if redacted is None else redacted)


@pytest.mark.parametrize(
    "piece",
    [
        *("password", "x", "://", "\x1b[", "api_key=", "/ping/", "Authorization: ", "http://a:", "Bearer ", "\x1b]"),
        *("eyJ", "eyJabcdefgh.", "oba_", "ghp_", "xoxb-", "AKIA", "-----BEGIN PRIVATE KEY-----"),
    ],
)
def test_no_message_can_make_it_slow(piece: str) -> None:
    text = (piece * 10_000)[:10_000]
    assert loops(lambda: redact(text)) < 4


def test_the_monitors_own_keys_are_taken_out_wherever_they_stand() -> None:
    member = DigestMember(
        7,
        1,
        12,
        "opened",
        FACTS | {"last_message": "called mykey-1234 twice", "detail": {"a": ["x mykey-1234"]}},
        None,
        ("mykey-1234",),
    )
    message = MessageBuilder("abcd1234", None).alert(member, "2026-11-24T01:30:00Z", "default")
    assert "mykey" not in repr(message)
    detail: Any = message.facts["detail"]
    assert detail == {"a": [f"x {HIDDEN}"]}
    assert redact_all({"mykey": 1}, ("mykey",)) == {"mykey": 1}
    assert redact("failed: …key-1234/fail", ("mykey-1234",)) == f"failed: …{HIDDEN}/fail"


def test_identity_and_thread() -> None:
    message_builder = MessageBuilder("abcd1234", "https://beat.example.org")
    opened = message_builder.alert(DigestMember(7, 1, 12, "opened", FACTS, UID, ()), "2026-11-24T01:30:00Z", "default")
    resolved = message_builder.alert(
        DigestMember(9, 1, 12, "resolved", FACTS, None, ()), "2026-11-24T01:30:00Z", "default"
    )
    assert opened.id == "alert_0123456789abcdef0123456789abcdef", (
        "random, so it comes once, after any change of the data"
    )
    assert resolved.id == "alert_abcd1234_9", "as an older version has sent it"
    assert opened.thread == resolved.thread == "offbeat/abcd1234/default/nightly-etl/12"
    assert opened == message_builder.alert(
        DigestMember(7, 1, 12, "opened", FACTS, UID, ()), "2026-11-24T01:30:00Z", "default"
    )
    operator = message_builder.alert(
        DigestMember(8, None, None, "operator", {"reason": "an outage"}, UID, ()), "2026-11-24T01:30:00Z", "x"
    )
    assert operator.thread == operator.id and operator.at == "2026-11-24T01:30:00Z" and operator.facts["project"] == "x"
    assert datetime.fromisoformat(opened.at).tzinfo == UTC


# ----------------------------------------------------------------------------------------------------------- templates


def test_a_template_is_filled_and_escaped_for_what_it_is() -> None:
    values = {"title": 'a "b"\n', "tags": ["x", "y"], "causes": [{"reason": "late"}], "incident": 3, "link": "a b&c"}
    as_json, as_text = escape_for("application/vnd.x+json; charset=utf-8"), escape_for("text/plain")
    assert fill('{"t": "{{title}}", "n": {{incident|json}}}', values, as_json) == r'{"t": "a \"b\"\n", "n": 3}'
    assert fill("{{ title }}|{{tags}}|{{causes.0.reason}}|{{run}}", values, as_text) == 'a "b"\n|x, y|late|'
    assert fill("{{link|url}} {{title|raw}}", values, as_json) == 'a%20b%26c a "b"\n'
    assert fill("{{causes.9.reason}}{{title.x}}{{run|json}}", values, as_text) == "null"
    assert fill("{{ causes." + "9" * 5_000 + " }}", values, as_text) == "", "more digits than Python reads"


@pytest.mark.parametrize("piece", [" ", "{{ ", "{{\n", "{{title | ", "{{a.a.a"])
def test_no_template_can_make_it_slow(piece: str) -> None:
    text = ("{{" + piece * 20_000)[:20_000]
    assert check_template(text, escape_for("text/plain")) == text
    assert fill(text, {}, escape_for("text/plain")) == text
    assert loops(lambda: check_template(text, escape_for("text/plain"))) < 10
    assert loops(lambda: fill(text, {}, escape_for("text/plain"))) < 10


def test_a_jobs_text_is_never_markup_in_any_body() -> None:
    values = {"reason": """{{title}}</r><x a="'&b=c%0A""", "title": "never"}
    filled = {kind: fill("{{reason}}", values, escape_for(kind)) for kind in ("text/xml", "text/html; charset=utf-8")}
    assert set(filled.values()) == {"{{title}}&lt;/r&gt;&lt;x a=&quot;&#x27;&amp;b=c%0A"}
    form = fill("text={{reason}}&fixed=1", values, escape_for("application/x-www-form-urlencoded"))
    assert parse_qs(form) == {"text": [values["reason"]], "fixed": ["1"]}


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{tilte}}", "no such field"),
        ("{{text}}" * 201, "at most 200 placeholders"),
        ("{{title|upper}}", "no such filter"),
        ("{{title.Class}}", "write {{field}}"),
        ("{{7*7}}", "write {{field}}"),
        ('{"a": {{title}}}', "is not JSON once filled"),
        ('{"a": "{{title|json}}"}', "is not JSON once filled"),
    ],
)
def test_a_wrong_template_is_refused_with_the_place(template: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        check_template(template, escape_for("application/json"))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a" * 50 + "\nValueError: duplicate key\n  at line 7", "…ValueError: duplicate key\n  at line 7"),
        ("abcdef " * 20, "…" + ("abcdef " * 20)[-35:]),
        ("x" * 90, "…" + "x" * 39),
    ],
)
def test_a_message_that_is_cut_begins_with_a_whole_line_or_word(text: str, kept: str) -> None:
    assert cut_head(text, 40) == kept
